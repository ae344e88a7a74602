"""The command `demo`, the first run."""

import os
import shutil
import sys

import typer

from .common import console, progress, show
from .options import AsJson

app = typer.Typer()


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Index the sample that ships with hashkiln, and compare its codes with random hyperplanes (LSH).

    Example: `hashkiln demo`
    """
    from ..demo import demo as run
    from ..embedded import prefect_home

    prefect_home()
    with progress() as report:
        found = run(report)
    if as_json:
        return show(found.model_dump(mode="json"), True)
    outcome = found.outcome
    done = f"{outcome.table} {outcome.version}"
    activate = "" if shutil.which("hashkiln") else f"source {os.path.relpath(sys.prefix)}/bin/activate; "
    own, other = ((m["map"], m["recall_reranked_x10"]) for m in (found.metrics, found.baseline))
    for line in (
        f"Nothing to do: {done} is up to date." if outcome.unchanged else f"Published {done}: {outcome.rows:,} rows",
        f"{found.method} at 32 bits: map {own[0]:.2f}, LSH {other[0]:.2f}; {own[1]:.0%} of the 100 nearest rows are "
        f"among the first 1,000 by Hamming distance, LSH {other[1]:.0%}",
        f"Report: {outcome.report}",
        f"Next: {activate}hashkiln methods; your own vectors: hashkiln ingest FOLDER --name mine, hashkiln reindex "
        "--dataset mine",
    ):
        console.print(line, soft_wrap=True, highlight=False)
