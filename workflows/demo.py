"""The first run: index the sample that ships with hashkiln, and compare its codes with those of random hyperplanes."""

import json

from infra.executors import Progress, silent
from infra.settings import Settings

from .context import open_table
from .records import RunOutcome
from .reindex.run import run
from .spec import Spec, Value

BASELINE = "lsh"


class Demo(Value):
    """The outcome of the run, and metrics of the same queries with its method and with the baseline."""

    outcome: RunOutcome
    method: str
    metrics: dict[str, float]
    baseline: dict[str, float]


def demo(progress: Progress = silent) -> Demo:
    """Publish the codes of the sample if they are not up to date, and measure the baseline once."""
    spec = Spec(dataset="sample")
    outcome = run(spec, progress)
    from .benchmark.flow import benchmark  # imports Prefect, whose home `run` has made
    from .benchmark.grid import Grid

    relevance = {"protocol": "neighbours", "bits": (spec.method.bits,)}
    measured = benchmark(Grid(datasets=("sample",), methods=(BASELINE,), **relevance), progress)
    if measured.failed:
        raise RuntimeError("; ".join(measured.failed.values()))
    version = open_table(Settings(), outcome.table).version(outcome.version)
    return Demo(
        outcome=outcome,
        method=spec.method.method,
        metrics=json.loads(version.properties["metrics"]),
        baseline=measured.rows[0].metrics,
    )
