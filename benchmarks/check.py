"""Compare the ratios to peers in one folder of results with those in another, such as the committed ones.

    python benchmarks/check.py COMMITTED NEW

Exits with 1 and names the cases whose ratio has fallen by a quarter or more, or which are missing. Ratios compare two
programs in one run, so they hold on other machines and under load more than times do; still, run it on a quiet machine.
"""

import json
import sys
from pathlib import Path
from typing import Any

FALL = 0.75


def ratios(folder: Path) -> dict[str, float]:
    """Return the ratios of all cases in a folder of results, by benchmark and case."""
    results: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return {
        f"{name}: {row['case']}": row["ratio"]
        for name, result in sorted(results.items())
        for row in result["rows"]
        if "ratio" in row
    }


def fallen(committed: dict[str, float], new: dict[str, float]) -> list[str]:
    """Return a sentence for each case whose ratio has fallen by a quarter, or that is missing."""
    return [
        f"{case}: {f'{new[case]:.2f}' if case in new else 'not measured'}, before {ratio:.2f}"
        for case, ratio in committed.items()
        if new.get(case, 0) <= FALL * ratio
    ]


def main() -> None:
    committed, new = (ratios(Path(folder)) for folder in sys.argv[1:])
    if problems := fallen(committed, new):
        sys.exit("\n".join(["slower than before, relative to the peer:", *problems]))
    print(f"{len(committed)} ratios are above {FALL:.0%} of the committed ones")


if __name__ == "__main__":
    main()
