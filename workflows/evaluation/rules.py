"""Rules of the gate: bounds on metrics, validated on construction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .registry import METRICS, Metric, find

RuleKind = Literal["floor", "ceiling", "loss"]


@dataclass(frozen=True)
class Rule:
    """A bound on one metric: minimum, maximum, or largest loss against the published version.

    Raises ValueError for an unknown metric and for a bound outside the range of the metric.

    >>> Rule("floor", "map", 0.25).judge({"map": 0.2})
    (False, 'map 0.2000 is below its floor of 0.2500')
    """

    kind: RuleKind
    name: str
    bound: float

    def __post_init__(self) -> None:
        metric = find(self.name)
        if self.kind == "loss":
            if metric.needs in ("codes", "quantizer"):
                raise ValueError(
                    f"{self.name} is not compared with the published version: set a floor or a ceiling instead"
                )
            metric = metric._replace(low=0.0, high=metric.high - metric.low)
        if not metric.low <= self.bound <= metric.high:  # nan is refused too
            raise ValueError(f"a {self.kind} of {self.name} must be {metric.range}, found {self.bound:g}")

    @property
    def metric(self) -> Metric:
        return METRICS[self.name]

    def judge(self, values: Mapping[str, float]) -> tuple[bool, str]:
        """Return whether a floor or ceiling holds for measured values, and the reason."""
        if self.name not in values:
            return False, f"{self.name} was not measured: its {self.kind} of {self.bound:.4f} cannot be checked"
        value = values[self.name]
        holds = value >= self.bound if self.kind == "floor" else value <= self.bound
        relation = "within" if holds else "below" if self.kind == "floor" else "above"
        return holds, f"{self.name} {value:.4f} is {relation} its {self.kind} of {self.bound:.4f}"
