"""Compare the ratios to peers in one folder of results with those in another, such as the committed ones.

    python benchmarks/check.py COMMITTED NEW

Exits with 1 and names the cases whose ratio has fallen by a quarter or more, or which are missing. Of a benchmark that
was committed with --full, some may be missing. Ratios compare two programs in one run, so they hold on other machines
and under load more than times do; still, run it on a quiet machine.
"""

import json
import sys
from pathlib import Path
from typing import Any

FALL = 0.75


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def ratios(name: str, result: dict[str, Any]) -> dict[str, float]:
    """Return the ratios of the cases of a benchmark."""
    return {f"{name}: {row['case']}": row["ratio"] for row in result["rows"] if "ratio" in row}


def fallen(committed: dict[str, float], new: dict[str, float]) -> list[str]:
    """Return a sentence for each case whose ratio has fallen by a quarter, or that is missing."""
    return [
        f"{case}: {f'{new[case]:.2f}' if case in new else 'not measured'}, before {ratio:.2f}"
        for case, ratio in committed.items()
        if new.get(case, 0) <= FALL * ratio
    ]


def main() -> None:
    before, after = (results(Path(folder)) for folder in sys.argv[1:])
    new = {case: ratio for name in after for case, ratio in ratios(name, after[name]).items()}
    committed = {
        case: ratio
        for name in before
        for case, ratio in ratios(name, before[name]).items()
        if case in new or not before[name]["full"]
    }
    if problems := fallen(committed, new):
        sys.exit("\n".join(["slower than before, relative to the peer:", *problems]))
    print(f"{len(committed)} ratios are above {FALL:.0%} of the committed ones")


if __name__ == "__main__":
    main()
