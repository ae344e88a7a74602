"""The grid of a benchmark, and its result rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hashing.methods import catalogue, method
from hashing.names import hint, plain_name

from ..evaluation.registry import ESTIMATOR
from ..records import Curves
from ..spec import MethodSpec, Number, Value
from . import protocols


class Grid(Value):
    """The combinations to measure: datasets x methods x bits x seeds."""

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    bits: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    protocol: Literal["bdnn", "labels", "graded", "neighbours", "dhn"] = "bdnn"
    neighbours: int = Field(100, ge=1, description="relevant neighbours in protocol neighbours")
    draw: protocols.Draw = protocols.Draw()  # only for protocol dhn
    tune: dict[str, dict[str, tuple[Number, ...]]] | None = Field(
        None, description="values that cross-validation tries, by method (protocol dhn); None: the defaults"
    )
    pretrained: str = Field("", description="digest of the pretrained parameters of networks")
    queries: int | None = Field(None, ge=1, description="number of queries to use, the first of the dataset; None: all")
    asymmetric: bool = Field(False, description="also rank by real-valued queries: map_asymmetric")
    source: str | None = None  # folder or URL with the raw files of named datasets
    parameters: dict[str, dict[str, Number]] = Field(
        {}, description="hyper-parameters that differ from the defaults, by method"
    )

    @field_validator("methods", mode="before")
    @classmethod
    def _catalogue(cls, names: Any) -> Any:
        names = tuple(sorted(catalogue())) if tuple(names) == ("all",) else names
        return tuple(map(plain_name, names))

    @field_validator("datasets", "methods", "bits", "seeds")
    @classmethod
    def _distinct(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        if not given:
            raise ValueError("expected at least one value, found none")
        if again := sorted({str(value) for value in given if given.count(value) > 1}):
            raise ValueError(f"expected distinct values, found repeated {', '.join(again)}")
        return given

    @model_validator(mode="after")
    def _known(self) -> Grid:
        for spec in self.specs():
            spec.build()
        if unknown := (self.parameters.keys() | (self.tune or {}).keys()) - set(self.methods):
            found = sorted(unknown)
            meant = hint(found[0], self.methods, "they are")
            raise ValueError(f"expected parameters for methods of the grid only, found {', '.join(found)}: {meant}")
        if self.tune and self.protocol != "dhn":
            raise ValueError(f"tune needs protocol dhn, found protocol {self.protocol}")
        for spec in self.specs():
            protocols.combinations(spec, (self.tune or {}).get(spec.method, {}))
        return self

    def tuned(self, spec: MethodSpec) -> dict[str, tuple[Number, ...]]:
        """Return the values that cross-validation tries for a method, without parameters that are set explicitly."""
        if self.protocol != "dhn":
            return {}
        grid = protocols.tuned(spec) if self.tune is None else self.tune.get(spec.method, {})
        return {name: values for name, values in grid.items() if name not in spec.parameters}

    def by_labels(self, spec: MethodSpec) -> bool:
        """Return whether relevance is by labels and not by neighbours."""
        return self.protocol in ("labels", "graded", "dhn") or (
            self.protocol == "bdnn" and method(spec.method).supervised
        )

    def specs(self) -> Iterator[MethodSpec]:
        """Yield methods with their bits and seeds; deterministic methods get one seed."""
        for name in self.methods:
            random = any(field.name == "seed" for field in fields(method(name)))
            for bits in self.bits:
                for seed in self.seeds if random else self.seeds[:1]:
                    spec = MethodSpec(method=name, bits=bits, seed=seed, parameters=self.parameters.get(name, {}))
                    yield spec.model_copy(update={"pretrained": self.pretrained * spec.takes_pretrained})


class Row(Value):
    """The result of one cell."""

    dataset: str
    method: str
    bits: int
    row_bytes: int = Field(0, description="bytes of a row: code and correctives")
    protocol: str  # Grid.protocol
    seed: int
    relevance: str  # relevance, number of queries, order of ties
    parameters: dict[str, Number]
    tuned: dict[str, tuple[Number, ...]] = Field({})  # parameter chosen by cross-validation -> values tried
    pretrained: str = ""  # digest of the pretrained parameters
    rows: int  # of the database
    training_rows: int
    metrics: dict[str, float]  # means over queries
    intervals: dict[str, tuple[float, float]] = Field({})  # 95 % bootstrap intervals of `reranked` metrics
    curves: Curves
    health: dict[str, float]
    fit_seconds: float
    fit_cpu_seconds: float | None = Field(
        None, description="processor time of all threads; None on Ray, which fits in many processes, and in older rows"
    )
    encode_rows_per_second: float
    evaluate_seconds: float = 0.0  # 0 in rows of older releases, which also lack the next two
    effective: dict[str, Number] = Field({}, description="all hyper-parameters of the method, defaults included")
    hardware: str = ""  # of the machine that ran the benchmark
    versions: dict[str, str]
    when: str

    def reranked(self, factor: int) -> str:
        """Return the name of the recall after reranking what a search finds first: by the estimates of a quantizer."""
        name = f"recall_reranked_x{factor}"
        return ESTIMATOR + name if ESTIMATOR + name in self.metrics else name


class GridOutcome(Value):
    """The results of a grid, and the cells that failed."""

    rows: tuple[Row, ...]
    failed: dict[str, str]  # cell -> error
