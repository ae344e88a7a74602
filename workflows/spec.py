"""What to run: frozen models, each value checked where the user gives it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from hashing.methods import Method, catalogue, check_hyperparameters, method, reads_labels
from storage.files import filesystem

from .evaluation.rules import Kind, Rule

Number = bool | int | float | str


class Value(BaseModel):
    """A frozen value object in which no unknown field passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


V = TypeVar("V", bound=Value)


def valid(kind: type[V], **values: Any) -> V:
    """Return a value object of some values. Raises ValueError, in one line, for those that it refuses."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError("; ".join(problems(error))) from None


def problems(error: ValidationError) -> list[str]:
    """Return a line for each wrong value: where it stands, and what is wrong with it."""
    return [
        "".join(f"{part}: " for part in problem["loc"] if isinstance(part, str))
        + problem["msg"].removeprefix("Value error, ")
        for problem in error.errors()
    ]


def _stored(info: ValidationInfo) -> bool:
    """Return whether a version's specification is read: it is history, and not checked as a new run is."""
    return bool(info.context and info.context.get("stored"))


class MethodSpec(Value):
    """A method of the catalogue and its hyper-parameters."""

    method: str = Field("itq", description="a name of `hashkiln methods`")
    bits: int = Field(32, ge=1, le=4096, description="length of the codes")
    seed: int = Field(0, ge=0, description="of all that is random")
    parameters: dict[str, Number] = Field({}, description="hyper-parameters that differ from the paper's")
    pretrained: str = Field(
        "", pattern="^([0-9a-f]{64})?$", description="digest of parameters that its network starts from"
    )

    @field_validator("method", mode="before")
    @classmethod
    def _named(cls, name: Any) -> Any:
        return method_name(name) if isinstance(name, str) else name

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> MethodSpec:
        if _stored(info):
            return self
        self.build()
        if self.pretrained and not self.takes_pretrained:
            raise ValueError(
                f"expected no pretrained parameters for {self.method}, which learns no network of one view with layers "
                "of its own"
            )
        return self

    def build(self) -> Method:
        """The method. Raises ValueError for an unknown name or hyper-parameter."""
        cls = method(self.method)
        known = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
        own = {name for name in known if name not in ("n_bits", "seed")}
        if unknown := sorted(self.parameters.keys() - own):
            raise ValueError(f"expected parameters of {self.method} among {sorted(own)}, found {', '.join(unknown)}")
        for name, value in self.parameters.items():
            kind = type(known[name])
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise ValueError(f"expected a {kind.__name__} for {self.method}'s {name}, found {value!r}")
        seed = {"seed": self.seed} if "seed" in known else {}
        built = cls(n_bits=self.bits, **seed, **self.parameters)  # type: ignore[call-arg]
        check_hyperparameters(built)
        return built

    @property
    def defaults_version(self) -> int:
        """The version of the method's defaults in this release."""
        return method(self.method).defaults_version

    def identity(self, defaults_version: int | None = None) -> dict[str, Any]:
        """Return what the method is: its name, the values that differ from its defaults, and their version.

        So it stays the same where a release adds a hyper-parameter. A stored specification has the version that it was
        fitted with; by default it is this release's.
        """
        cls = catalogue().get(self.method)  # a stored one may be gone
        defaults = {field.name: field.default for field in fields(cls)} if cls else {}  # type: ignore[arg-type]
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
    def reads_labels(self) -> bool:
        """Whether its fit asks for labels."""
        return reads_labels(self.build())

    @property
    def network(self) -> str:
        """The network that it learns; empty where it learns none."""
        return getattr(self.build(), "network", "")

    @property
    def takes_pretrained(self) -> bool:
        """Whether it learns one network, not one for each of two views, that has layers before the hash layer."""
        return getattr(method(self.method), "views", 0) == 1 and self.network != "linear"


class Protocol(Value):
    """How codes are measured."""

    relevance: Literal["auto", "labels", "graded", "neighbours"] = Field(
        "auto",
        description="rows that share a label, or exact Euclidean neighbours; auto: labels where there are any; "
        "graded: labels, and NDCG by how many are shared",
    )
    neighbours: int = Field(100, ge=1, le=10_000, description="neighbours a query, where relevance is neighbours")
    queries: int = Field(1000, ge=1, description="queries to draw where the dataset has no query set of its own")
    new_queries: bool = Field(False, description="draw the query set anew")
    ties: Literal["expectation", "by-id"] = Field(
        "expectation",
        description="rows at one distance: in random order, metrics being expectations; or in that of their ids, which "
        "`evaluate` alone does, of a version of at most 10^6 rows",
    )

    def relevant(self, labelled: bool) -> tuple[str, int]:
        """Return what is relevant in a dataset with or without labels, and the number of neighbours if these are."""
        relevance = self.relevance if self.relevance != "auto" else "labels" if labelled else "neighbours"
        return relevance, self.neighbours if relevance == "neighbours" else 0


KINDS: dict[str, Kind] = {"floors": "floor", "ceilings": "ceiling", "max_loss": "loss"}


def _rules(kind: Kind, bounds: dict[str, float]) -> list[Rule]:
    return [Rule(kind, name, bound) for name, bound in bounds.items()]


class Gate(Value):
    """What a version must show before readers get it. Coverage and finite metrics are always asked for.

    Metrics by their names in workflows.evaluation.registry.
    """

    floors: dict[str, float] = Field({}, description="metric -> the least value")
    ceilings: dict[str, float] = Field({}, description="metric -> the greatest value")
    max_loss: dict[str, float] = Field(
        {}, description="metric -> the loss against the published version, beyond noise, that is let pass; of map 0"
    )
    force: str = Field("", description="publish whatever the gate says, for this reason")

    @field_validator("max_loss", mode="before")
    @classmethod
    def _of_map(cls, value: Any) -> Any:
        return {"map": value} if isinstance(value, (int, float)) else value  # as versions of format 1 have it

    @field_validator("floors", "ceilings", "max_loss")
    @classmethod
    def _checked(cls, bounds: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if not _stored(info):
            _rules(KINDS[info.field_name or ""], bounds)
        return bounds

    @property
    def bounds(self) -> list[Rule]:
        """The floors and ceilings."""
        return _rules("floor", self.floors) + _rules("ceiling", self.ceilings)

    @property
    def losses(self) -> list[Rule]:
        """The largest allowed losses against the published version: of map none, unless a rule says otherwise."""
        return _rules("loss", {"map": 0.0} | self.max_loss)


class Spec(Value):
    """A run of `reindex`."""

    dataset: str = Field(description="a named dataset, or one that was ingested")
    source: str | None = Field(None, description="where a named dataset's raw files are: a folder or a URL")
    method: MethodSpec = MethodSpec()
    code: str | None = Field(None, description="name of the codes; the method's and the bits' by default")
    refit: Literal["never", "always", "drift"] = Field(
        "never",
        description="never: keep the published model whatever rows came since; always: fit the rows of today; "
        "drift: when new rows lie elsewhere than those the model was made for",
    )
    max_drift: float = Field(
        0.5, gt=0, description="how far a bit's projections may move, in their own deviations, before it is drift"
    )
    bad_rows: Literal["refuse", "drop"] = Field(
        "refuse", description="rows that are no vectors: refuse their shard, or drop, count and quarantine them"
    )
    protocol: Protocol = Protocol()
    gate: Gate = Gate()

    @field_validator("dataset", "code", mode="before")
    @classmethod
    def _named(cls, name: Any) -> Any:
        return check_name(name) if isinstance(name, str) else name

    @field_validator("source")
    @classmethod
    def _absolute(cls, source: str | None) -> str | None:
        return filesystem.absolute(source) if source else source

    @field_validator("protocol")
    @classmethod
    def _comparable(cls, protocol: Protocol) -> Protocol:
        if protocol.ties != "expectation":
            raise ValueError("expected ties as expectations, by which versions are compared, found ties by-id")
        return protocol

    @model_validator(mode="after")
    def _measurable(self, info: ValidationInfo) -> Spec:
        if not _stored(info) and self.protocol.relevance != "graded":
            for rule in self.gate.bounds + self.gate.losses:
                if rule.metric.needs == "graded relevance":
                    raise ValueError(
                        f"gate: {rule.name} needs --relevance graded, found --relevance {self.protocol.relevance}"
                    )
        return self

    @classmethod
    def stored(cls, text: str) -> Spec:
        """Read the specification of a version. Names in it were checked when it ran, and may be unknown today."""
        return cls.model_validate_json(text, context={"stored": True})

    @property
    def code_name(self) -> str:
        return self.code or f"{self.method.method}{self.method.bits}"


def method_name(name: str) -> str:
    """The catalogue's name of a method that may be written as in its paper: UH-BDNN is uh_bdnn."""
    return name.lower().replace("-", "_")


def check_name(name: str) -> str:
    """The name of a dataset or of codes. Raises ValueError for characters that tables and folders cannot have."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(f"expected a name of a-z, 0-9, _ and -, found {name!r}")
    return name


def digest(*values: Any) -> str:
    """SHA-256 of values as canonical JSON: the identity of a plan, a fit, a truth."""
    content = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(content.encode()).hexdigest()
