"""What was injected in this session, and what was found after it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass
class Tally:
    lost: int = 0  # rows
    half_visible: int = 0  # contents that a reader saw and no version ever had
    duplicated: int = 0  # rows
    encoded_again: int = 0  # rows that were committed already
    unreachable: int = 0  # files that gc left
    reads: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    failed: Counter[str] = field(default_factory=Counter)

    def injected(self, kind: str, stage: str) -> None:
        self.kinds[kind] += 1
        self.stages[stage] += 1

    def lines(self) -> list[str]:
        first = (
            f"{self.kinds.total()} faults: {self.lost} rows lost, {self.half_visible} half-visible versions, "
            f"{self.duplicated} duplicated rows, {self.encoded_again} rows encoded twice, "
            f"{self.unreachable} unreachable files, {self.failed.total()} failed; {self.reads} reads beside them"
        )
        by_kind = [
            f"  {kind}: {n}, {self.seconds[kind] / n:.1f} s each"
            + f", {self.failed[kind]} FAILED" * bool(self.failed[kind])
            for kind, n in sorted(self.kinds.items())
        ]
        return [first, *by_kind, "  in the stage: " + ", ".join(f"{s} {n}" for s, n in self.stages.most_common())]


TALLY = Tally()
