"""The flow `benchmark`: datasets x methods x bits x seeds under one protocol, each cell measured once and kept."""

from __future__ import annotations

import inspect
import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal

import numpy as np
from prefect import flow
from pydantic import Field, field_validator, model_validator

from hashing import evaluation
from hashing.bits import pack
from hashing.functions import HashFunction
from hashing.mapreduce import Batch, Data, Executor, Shard, Sum
from hashing.methods import METHODS, method
from infra.executors import Progress, connect, silent
from infra.settings import Settings
from storage import filesystem
from storage.features import Dataset

from . import dhn, measure, pretrained
from .ingest import check_kind, ingest, labels_of, training_shards
from .measure import Curves, Judge
from .spec import MethodSpec, Number, Protocol, Spec, Value, digest, method_name

logger = logging.getLogger(__name__)
NEIGHBOURS = {"sift1m": 10_000, "photosift": 10_000}  # of the bdnn protocol (Do et al., ECCV 2016); 50 elsewhere
LIBRARIES = ("hashkiln", "numpy", "scipy", "torch")
NO_IDS = np.zeros(0, np.int64)


class Grid(Value):
    """What to measure: every combination."""

    datasets: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    bits: tuple[int, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    protocol: Literal["bdnn", "labels", "graded", "neighbours", "dhn"] = "bdnn"
    draw: dhn.Draw = dhn.Draw()  # of protocol dhn
    tune: dict[str, dict[str, tuple[Number, ...]]] | None = Field(
        None, description="of protocol dhn, what cross-validation chooses among, by method; None: what dhn.tuned says"
    )
    pretrained: str = Field("", description="digest of parameters that networks start from")
    queries: int | None = Field(None, ge=1, description="of the dataset's own the first so many; all, if None")
    source: str | None = None  # where named datasets' raw files are
    parameters: dict[str, dict[str, Number]] = Field({}, description="of a method: what differs from its defaults")

    @field_validator("methods", mode="before")
    @classmethod
    def _catalogue(cls, names: Any) -> Any:
        names = tuple(sorted(METHODS)) if tuple(names) == ("all",) else names
        return tuple(map(method_name, names))

    @field_validator("datasets", "methods", "bits", "seeds")
    @classmethod
    def _once(cls, given: tuple[Any, ...]) -> tuple[Any, ...]:
        if again := sorted({str(value) for value in given if given.count(value) > 1}):
            raise ValueError(f"expected each once, found again {', '.join(again)}")
        return given

    @model_validator(mode="after")
    def _known(self) -> Grid:
        for spec in self.specs():
            spec.build()
        if strangers := (self.parameters.keys() | (self.tune or {}).keys()) - set(self.methods):
            raise ValueError(f"expected parameters of methods of the grid, found {', '.join(sorted(strangers))}")
        if self.tune and self.protocol != "dhn":
            raise ValueError(f"expected protocol dhn, which alone chooses parameters, found {self.protocol}")
        for spec in self.specs():
            dhn.candidates(spec, (self.tune or {}).get(spec.method, {}))
        return self

    def specs(self) -> Iterator[MethodSpec]:
        """Methods with their bits and seeds; one seed where nothing is random."""
        for name in self.methods:
            random = any(field.name == "seed" for field in fields(method(name)))  # type: ignore[arg-type]
            for bits in self.bits:
                for seed in self.seeds if random else self.seeds[:1]:
                    spec = MethodSpec(method=name, bits=bits, seed=seed, parameters=self.parameters.get(name, {}))
                    yield spec.model_copy(update={"pretrained": self.pretrained * spec.of_one_network})


class Row(Value):
    """One cell, measured."""

    dataset: str
    method: str
    bits: int
    protocol: str  # of Grid
    seed: int
    relevance: str  # what was relevant, how many queries, how ties were ranked
    parameters: dict[str, Number]
    tuned: dict[str, tuple[Number, ...]] = Field({})  # those that cross-validation chose, and among what
    pretrained: str = ""  # digest of the parameters that the network started from
    rows: int  # of the database
    training_rows: int
    metrics: dict[str, float]  # means over queries
    curves: Curves
    health: dict[str, float]
    fit_seconds: float
    encode_rows_per_second: float
    versions: dict[str, str]
    when: str


class Outcome(Value):
    """A grid, measured as far as it could be."""

    rows: tuple[Row, ...]
    failed: dict[str, str]  # cell -> why


@dataclass
class Bench:
    """One dataset with what its cells share."""

    name: str  # of the dataset that was asked for
    dataset: Dataset  # of protocol dhn, what was drawn from it
    vocabulary: tuple[str | int, ...]
    grid: Grid
    settings: Settings
    executor: Executor
    judges: dict[bool, Judge]  # by whether relevance is by labels

    def row(self, spec: MethodSpec) -> Row:
        """The cell of a method: as it was kept, or measured now. Raises ValueError where it cannot be."""
        by_labels = self.grid.protocol in ("labels", "graded", "dhn") or (
            self.grid.protocol == "bdnn" and METHODS[spec.method].supervised
        )
        if (by_labels or METHODS[spec.method].supervised) and not self.vocabulary:
            raise ValueError(f"expected labels, found none in dataset {self.dataset.name}")
        check_kind(self.dataset, spec)
        k = NEIGHBOURS.get(self.dataset.name, 50) if self.grid.protocol == "bdnn" else 100
        labels: Literal["labels", "graded"] = "graded" if self.grid.protocol == "graded" else "labels"
        protocol = Protocol(relevance=labels if by_labels else "neighbours", neighbours=k)
        shards = [(split, s.name, s.version) for split in self.dataset.splits for s in self.dataset.shards(split)]
        options = {"draw": self.grid.draw.model_dump()} if self.grid.protocol == "dhn" else {}
        tuned = self._tuned(spec)
        if tuned:
            first = spec.model_copy(update={"seed": self.grid.seeds[0]})
            chosen = dhn.choose(dhn.candidates(first, tuned), self._cross_validated)
            spec = chosen.model_copy(update={"seed": spec.seed})
        key = self._key(spec, protocol.model_dump(), self.grid.queries, shards, **options)
        url = filesystem.join(self.settings.warehouse_url, "benchmark", f"{key}.json")
        if filesystem.exists(url):
            row = Row.model_validate_json(filesystem.read(url))
        else:
            if by_labels not in self.judges:
                self.judges[by_labels] = self._judge(protocol)
            row = self._measure(spec, self.judges[by_labels])
            filesystem.write(url, row.model_dump_json().encode())
        return row.model_copy(update={"protocol": self.grid.protocol, "tuned": tuned})

    def _key(self, spec: MethodSpec, *depends_on: object, **options: object) -> str:
        return digest(spec.identity, _source(spec.method), *depends_on, _versions(), *filter(None, [options]))

    def _judge(self, protocol: Protocol) -> Judge:
        spec = Spec(dataset=self.dataset.name, protocol=protocol)
        return measure.judge(
            spec, self.dataset, self.vocabulary, self.settings.warehouse_url, self.executor, self.grid.queries
        )

    def _tuned(self, spec: MethodSpec) -> Mapping[str, tuple[Number, ...]]:
        """What cross-validation is to choose for a method: what was not said by hand."""
        if self.grid.protocol != "dhn":
            return {}
        grid = dhn.tuned(spec) if self.grid.tune is None else self.grid.tune.get(spec.method, {})
        return {name: values for name, values in grid.items() if name not in spec.parameters}

    def _cross_validated(self, spec: MethodSpec) -> float:
        """Mean over folds of the training rows: the map of a fold's rows among those that were learned from."""
        shards = training_shards(self.dataset, NO_IDS, self.vocabulary)
        names = [(shard.name, shard.version) for shard in self.dataset.shards("learn")]
        folds, scores = self.grid.draw.folds, []
        for place in range(folds):
            key = self._key(spec, "cross-validation", names, place, folds)
            url = filesystem.join(self.settings.warehouse_url, "benchmark", "folds", f"{key}.json")
            if not filesystem.exists(url):
                known, held = ([dhn.Fold(shard, place, folds, inside) for shard in shards] for inside in (False, True))
                function = self._fit(spec, known)
                codes = Data(known, self.executor).map_rows(partial(_encode, function=function), "cross-validation")
                judge = Judge(dhn.asking(held), False, None, "")
                histogram = judge.histogram(function, list(codes.shards), self.executor)
                score = float(evaluation.average_precision(histogram).mean())
                filesystem.write(url, json.dumps({"map": score}).encode())
            scores.append(float(json.loads(filesystem.read(url))["map"]))
        return sum(scores) / folds

    def _fit(self, spec: MethodSpec, shards: Sequence[Shard]) -> HashFunction:
        start_from = pretrained.load(spec.pretrained, self.settings)
        return spec.build().fit(Data(shards, self.executor, start_from))

    def _measure(self, spec: MethodSpec, judge: Judge) -> Row:
        excluded = judge.queries.ids if judge.drawn else NO_IDS
        training = training_shards(self.dataset, excluded, self.vocabulary)
        start = time.monotonic()
        function = self._fit(spec, training)
        fitted = time.monotonic()
        by_dhn = self.grid.protocol == "dhn"
        base: list[Shard] = list(self.dataset.shards("base", self.vocabulary))
        if by_dhn and not self.grid.draw.training_in_database:
            base = dhn.without_training(self.dataset, base)
        codes = Data(base, self.executor).map_rows(partial(_encode, function=function), "encode")
        health = measure.health(codes, spec.bits)  # asks for all codes: they are made now
        encoded = time.monotonic()
        rows = int(codes.reduce(Sum(_size))[0])
        histogram = judge.histogram(function, list(codes.shards), self.executor)
        metrics = {name: float(values.mean()) for name, values in measure.metrics(histogram).items()}
        ranks = self.grid.draw.ranks(self.name)
        return Row(
            dataset=self.name,
            method=spec.method,
            bits=spec.bits,
            protocol=self.grid.protocol,
            seed=spec.seed,
            relevance=judge.protocol + (self._said(ranks) if by_dhn else ""),
            parameters=spec.parameters,
            pretrained=spec.pretrained,
            rows=rows,
            training_rows=sum(shard.rows for shard in self.dataset.shards("learn"))
            if "learn" in self.dataset.splits
            else rows - len(excluded),
            metrics=metrics | (dhn.average_precision(histogram, ranks) if by_dhn else {}),
            curves=measure.curves(histogram),
            health=health,
            fit_seconds=fitted - start,
            encode_rows_per_second=rows / (encoded - fitted),
            versions=_versions(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _said(self, ranks: int | None) -> str:
        training = "ranked" if self.grid.draw.training_in_database else "not ranked"
        return f"; map_dhn: of {f'the first {ranks:,}' if ranks else 'all'} ranks; rows learned from are {training}"


def benchmark(grid: Grid, progress: Progress = silent) -> Outcome:
    """Measure all cells.

    What was measured before, by the same code and versions from the same rows, is not measured again. A cell that
    cannot be is noted, and does not end the others.
    """
    settings = Settings()
    executor = connect(settings, progress)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    specs = list(grid.specs())
    datasets = [ingest(Spec(dataset=name, source=grid.source), settings, progress) for name in grid.datasets]
    for name, dataset in zip(grid.datasets, datasets, strict=True):
        vocabulary = labels_of(dataset, executor)
        if grid.protocol == "dhn":
            dataset = dhn.dataset_of(dataset, grid.draw, vocabulary, settings, executor)
        bench = Bench(name, dataset, vocabulary, grid, settings, executor, {})
        for done, spec in enumerate(specs):
            cell = f"{name}, {spec.method}, {spec.bits} bits, seed {spec.seed}"
            progress(cell, done, len(specs))
            try:
                rows.append(bench.row(spec))
            except Exception as error:  # of this cell alone, whatever it is
                expected = isinstance(error, ValueError)
                failed[cell] = str(error) if expected else f"{type(error).__name__}: {error}"
                logger.warning("%s: %s", cell, failed[cell], exc_info=not expected)
    return Outcome(rows=tuple(rows), failed=failed)


@flow(name="benchmark")
def benchmark_flow(grid: Grid) -> Outcome:
    """Measure a grid, on a schedule or a cluster. A run that was cut off goes on where it stood."""
    return benchmark(grid)


def _encode(batch: Batch, function: HashFunction) -> Batch:
    return batch._replace(x=pack(function.encode(batch.x)))


def _size(batch: Batch) -> tuple[int]:
    return (len(batch.ids),)


@cache
def _source(name: str) -> str:
    """Digest of what a cell is computed by: the method's own file, and what all methods share."""
    own = Path(inspect.getfile(METHODS[name]))
    return digest(*(path.read_text() for path in (own, *sorted(own.parent.parent.glob("*.py")))))


def _versions() -> dict[str, str]:
    return {"machine": platform.machine(), **{library: installed(library) for library in LIBRARIES}}
