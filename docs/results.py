"""Prints docs/results.md: the tables of all rows in benchmarks/results, as `hashkiln benchmark` measured them.

python docs/results.py > docs/results.md
"""

import json
from pathlib import Path

from workflows.benchmark.grid import Row
from workflows.reports.benchmark import grid_markdown

FILES = sorted((Path(__file__).parent.parent / "benchmarks" / "results").glob("*.json"))
HEAD = """# Results

Every method of the catalogue beside its published figures. Made by `make docs` from the rows in `benchmarks/results/`,
each of which `hashkiln benchmark` wrote (`--json`); edit nothing here. `benchmarks/results/README.md` has the commands.
Fits ran on two shared cores, some beside other work: their seconds say little more than their order of magnitude.
The ablation of DHN has [its own page](../benchmarks/results/dhn-ablation.md).
"""


def rows() -> list[Row]:
    return [Row(**row) for path in FILES for row in json.loads(path.read_text())]


if __name__ == "__main__":
    ordered = sorted(rows(), key=lambda row: (row.dataset, row.relevance, row.method, row.bits, row.seed))
    print(f"{HEAD}\n{grid_markdown(ordered)}", end="")
