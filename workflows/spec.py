"""Specifications of runs: frozen models that validate each value."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hashing.functions import Precision
from hashing.methods import Method, catalogue, check_hyperparameters, method, reads_labels
from hashing.names import hint, near_quoted, plain_name
from hashing.quantizers.estimator import row_size
from storage.files import filesystem

from .evaluation.registry import ESTIMATOR, METRICS, find
from .evaluation.rules import Rule, RuleKind

Number = bool | int | float | str


class Value(BaseModel):
    """A frozen value object that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


V = TypeVar("V", bound=Value)


def valid(kind: type[V], **values: Any) -> V:
    """Return a value object. Raises ValueError with one line that lists every invalid value."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError("; ".join(problems(error))) from None


def problems(error: ValidationError, named: Callable[[list[str]], str] = ": ".join) -> list[str]:
    """Return one line per invalid value: its field, what is expected, and what was found.

    `named` returns the name of a field from its path.
    """
    lines = []
    for problem in error.errors():
        place = [part for part in problem["loc"] if isinstance(part, str)]
        if place[1:] and place[0] == "method":  # its fields are arguments of their own
            del place[0]
        found = "" if problem["type"] in ("value_error", "missing") else f", found {problem['input']!r}"
        message = problem["msg"].removeprefix("Value error, ") + found
        meant = near_quoted(str(problem["input"]), problem["msg"]) if problem["type"] == "literal_error" else ""
        lines.append(": ".join(filter(None, (named(place), message, meant))))
    return lines


def _stored(info: ValidationInfo) -> bool:
    """Return whether a stored specification is being read, which skips the checks of a new run."""
    return bool(info.context and info.context.get("stored"))


class MethodSpec(Value):
    """A method of the catalogue and its hyper-parameters."""

    method: str = Field("itq", description="a method listed by `hashkiln methods`")
    bits: int = Field(32, ge=1, le=4096, description="code length in bits")
    seed: int = Field(0, ge=0, description="random seed")
    parameters: dict[str, Number] = Field({}, description="hyper-parameters that differ from the defaults")
    pretrained: str = Field("", pattern="^([0-9a-f]{64})?$", description="SHA-256 of the network's initial parameters")

    @field_validator("method", mode="before")
    @classmethod
    def _named(cls, name: Any) -> Any:
        return plain_name(name) if isinstance(name, str) else name

    @field_validator("parameters", mode="before")
    @classmethod
    def _numbers(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        numbers = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        values = {str(name).replace("-", "_"): value for name, value in numbers.items()}
        if len(values) < len(numbers):
            raise ValueError(f"expected each hyper-parameter once, found {', '.join(map(str, numbers))}")
        for name, value in values.items():
            if not isinstance(value, Number):
                raise ValueError(f"expected a number or a string for {name}, found {value!r}")
        return values

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> MethodSpec:
        if _stored(info):
            return self
        self.build()
        if self.pretrained and not self.takes_pretrained:
            raise ValueError(
                f"expected no pretrained parameters for {self.method}: only methods that learn one network with hidden "
                "layers take them"
            )
        return self

    def build(self) -> Method:
        """Return the method. Raises ValueError for an unknown name or an invalid hyper-parameter."""
        cls = method(self.method)
        known = {field.name: field.default for field in fields(cls)}
        own = {name for name in known if name not in ("n_bits", "seed")}
        if unknown := sorted(self.parameters.keys() - own):
            meant = hint(unknown[0], sorted(own), "they are") if own else "it has none"
            raise ValueError(f"expected parameters of {self.method}, found {', '.join(unknown)}: {meant}")
        for name, value in self.parameters.items():
            kind = type(known[name])
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise ValueError(f"expected {name} of {self.method} as {kind.__name__}, found {value!r}")
        seed = {"seed": self.seed} if "seed" in known else {}
        built = cls(n_bits=self.bits, **seed, **self.parameters)  # type: ignore[call-arg]  # fields of the method, which spec checked
        check_hyperparameters(built)
        return built

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All hyper-parameters of the method with their values, except the number of bits and the seed."""
        built = self.build()
        names = (field.name for field in fields(built))
        return {name: getattr(built, name) for name in names if name not in ("n_bits", "seed")}

    @property
    def defaults_version(self) -> int:
        """The version of the method's defaults in this release."""
        return method(self.method).defaults_version

    def identity(self, defaults_version: int | None = None) -> dict[str, Any]:
        """Return the method's name, the values that differ from its defaults, and the version of these defaults.

        The identity does not change if a release adds a hyper-parameter. A stored specification passes the defaults
        version of its fit; the default is that of this release.

        >>> MethodSpec(method="ITQ", bits=64, parameters={"n_iter": 100}).identity()
        {'method': 'itq', 'n_bits': 64, 'defaults_version': 1, 'n_iter': 100}
        """
        cls = catalogue().get(self.method)  # a stored method may have been removed
        defaults = {field.name: field.default for field in fields(cls)} if cls else {}
        given: dict[str, Any] = dict(self.parameters)
        if "seed" in defaults:
            given["seed"] = self.seed
        differing = {
            name: float(value) if isinstance(defaults.get(name), float) else value  # 1 is 1.0
            for name, value in given.items()
            if name not in defaults or value != defaults[name]
        }
        if self.pretrained:
            differing["pretrained"] = self.pretrained
        version = self.defaults_version if defaults_version is None else defaults_version
        return {"method": self.method, "n_bits": self.bits, "defaults_version": version, **differing}

    @property
    def correctives(self) -> tuple[str, ...]:
        """The names of the columns beside the code, if the method is a quantizer."""
        return getattr(method(self.method), "columns", ())

    @property
    def row_bytes(self) -> int:
        """The bytes that a row takes: its code and its correctives."""
        return row_size(self.bits, self.correctives)

    @property
    def reads_labels(self) -> bool:
        """Whether fitting needs labels."""
        return reads_labels(self.build())

    @property
    def network(self) -> str:
        """The name of the network that the method trains; empty if it trains none."""
        return getattr(self.build(), "network", "")

    @property
    def takes_pretrained(self) -> bool:
        """Whether the method trains exactly one network, with layers before the hash layer."""
        return getattr(method(self.method), "views", 0) == 1 and self.network != "linear"


class Protocol(Value):
    """The evaluation protocol."""

    relevance: Literal["auto", "labels", "graded", "neighbours"] = Field(
        "auto",
        description="relevant rows: those that share a label, or exact nearest neighbours; auto: labels if any; "
        "graded: labels, with NDCG by the number of shared labels",
    )
    neighbours: int = Field(
        100, ge=1, le=10_000, description="nearest neighbours per query, for relevance by neighbours"
    )
    queries: int = Field(1000, ge=1, description="number of queries to sample if the dataset has no query split")
    new_queries: bool = Field(False, description="sample a new query set")
    ties: Literal["expectation", "by-id"] = Field(
        "expectation",
        description="order of rows at equal distance: the expectation over random orders, or by id, which only "
        "`evaluate` supports, for versions of at most 10^6 rows",
    )
    asymmetric: bool = Field(
        False, description="also rank by real-valued queries: map_asymmetric, map_asymmetric_sigmoid; only `evaluate`"
    )

    def relevant(self, labelled: bool) -> tuple[str, int]:
        """Return the kind of relevance for a dataset, and the number of neighbours (0 for labels)."""
        relevance = self.relevance if self.relevance != "auto" else "labels" if labelled else "neighbours"
        return relevance, self.neighbours if relevance == "neighbours" else 0


KINDS: dict[str, RuleKind] = {"floors": "floor", "ceilings": "ceiling", "max_loss": "loss"}


def _rules(kind: RuleKind, bounds: dict[str, float]) -> list[Rule]:
    return [Rule(kind, name, bound) for name, bound in bounds.items()]


class Gate(Value):
    """Rules that a version must satisfy to be published. Coverage and finite metrics are always required.

    Metrics have their names in workflows.evaluation.registry.
    """

    floors: dict[str, StrictFloat] = Field({}, description="metric -> smallest allowed value")
    ceilings: dict[str, StrictFloat] = Field({}, description="metric -> largest allowed value")
    max_loss: dict[str, StrictFloat] = Field(
        {}, description="metric -> largest allowed drop, beyond its confidence interval; map defaults to 0"
    )
    force: str = Field("", description="publish even if the gate refuses, for this reason")

    @field_validator("max_loss", mode="before")
    @classmethod
    def _of_map(cls, value: Any) -> Any:
        return {"map": value} if isinstance(value, (int, float)) else value  # as in versions of format 1

    @field_validator("floors", "ceilings", "max_loss")
    @classmethod
    def _checked(cls, bounds: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if _stored(info):
            return bounds
        _rules(KINDS[info.field_name or ""], bounds)
        return {find(name).name: bound for name, bound in bounds.items()}

    @property
    def bounds(self) -> list[Rule]:
        """The floors and ceilings."""
        return _rules("floor", self.floors) + _rules("ceiling", self.ceilings)

    @property
    def losses(self) -> list[Rule]:
        """The largest allowed losses against the published version. map defaults to 0."""
        return _rules("loss", {"map": 0.0} | self.max_loss)


class Spec(Value):
    """A run of `reindex`."""

    dataset: str = Field(description="a named dataset, or the name of an ingested one")
    source: str | None = Field(None, description="folder or URL with the raw files of a named dataset")
    method: MethodSpec = MethodSpec()
    code: str | None = Field(None, description="name of the codes; by default the method and bits, such as itq32")
    refit: Literal["never", "always", "drift"] = Field(
        "never",
        description="never: keep the published model; always: fit a model on the current rows; drift: fit a model if "
        "new rows have drifted from those that the model was fitted on",
    )
    max_drift: float = Field(
        0.5, gt=0, description="drift threshold: how far a bit's projections may move, in standard deviations"
    )
    bad_rows: Literal["refuse", "drop"] = Field(
        "refuse", description="invalid rows: refuse their shard, or drop, count and quarantine them"
    )
    precision: Precision = Field(
        "float32",
        description="precision of encoding; bf16: bfloat16, faster, for networks on GPUs (HASHKILN_ENCODE_GPUS)",
    )
    index: bool = Field(False, description="store the multi-index of each part, for `hashkiln.open(index='stored')`")
    protocol: Protocol = Protocol()
    gate: Gate = Gate()
    exports: dict[str, str] = Field(
        {}, description="target of `hashkiln export` -> folder: export the published version, replacing an earlier one"
    )

    @field_validator("dataset", "code", mode="before")
    @classmethod
    def _named(cls, name: Any) -> Any:
        return check_name(name) if isinstance(name, str) else name

    @field_validator("source")
    @classmethod
    def _absolute(cls, source: str | None) -> str | None:
        return filesystem.absolute(source) if source else source

    @field_validator("exports")
    @classmethod
    def _elsewhere(cls, exports: dict[str, str]) -> dict[str, str]:
        named = {plain_name(to).replace("_", "-"): folder for to, folder in exports.items()}
        return {to: filesystem.absolute(folder) if folder else "" for to, folder in named.items()}

    @field_validator("protocol")
    @classmethod
    def _comparable(cls, protocol: Protocol) -> Protocol:
        if protocol.ties != "expectation":
            raise ValueError("ties: by-id is only for evaluate; published versions are compared by expectation")
        if protocol.asymmetric:
            raise ValueError("asymmetric: real-valued queries are only for evaluate; pass --asymmetric there")
        return protocol

    @model_validator(mode="after")
    def _possible(self, info: ValidationInfo) -> Spec:
        if _stored(info):
            return self
        relevance = self.protocol.relevance
        for rule in self.gate.bounds + self.gate.losses:
            needs = METRICS[rule.name.removeprefix(ESTIMATOR)].needs
            if needs == "graded relevance" and relevance != "graded":
                raise ValueError(f"gate: {rule.name} needs --relevance graded, found --relevance {relevance}")
            if rule.metric.needs == "quantizer" and not self.method.correctives:
                raise ValueError(f"gate: {rule.name} needs a quantizer, found the method {self.method.method}")
            if needs == "neighbours" and relevance in ("graded", "labels"):
                raise ValueError(f"gate: {rule.name} needs --relevance neighbours, found --relevance {relevance}")
        if self.precision != "float32" and not self.method.network:
            raise ValueError(
                f"precision: expected float32 for {self.method.method}, found {self.precision}: only networks run in it"
            )
        if self.index and self.method.correctives:
            raise ValueError(f"index: the rows of {self.method.method} are ranked by estimates, which have no index")
        return self

    @classmethod
    def stored(cls, text: str) -> Spec:
        """Return the stored specification of a version. Its method and options may be unknown to this release."""
        return cls.model_validate_json(text, context={"stored": True})

    @property
    def code_name(self) -> str:
        return self.code or f"{self.method.method}{self.method.bits}"


def check_name(name: str) -> str:
    """Return a name of a dataset or of codes.

    Raises ValueError unless it consists of a-z, 0-9, _ and -, and starts with a letter or a digit.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(f"expected a name of a-z, 0-9, _ and - that starts with a letter or a digit, found {name!r}")
    return name


def digest(*values: Any) -> str:
    """Return the SHA-256 of values as canonical JSON, which identifies a plan, a fit or a ground truth."""
    content = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(content.encode()).hexdigest()
