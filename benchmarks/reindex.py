"""What does a nightly run cost: the first run, nothing to do, and 1 % of the shards changed?

    python benchmarks/reindex.py [--shards 10 1000] [--profile 40]

Seconds of CPU time, by stage of the pipeline, in one process, without Prefect, on small shards of random labelled rows.
Each shard becomes one part; --bundled bundles tiny files, as a real run does. `commit` is the share of staging that
writes the table; `stage` is the rest of it: encoding, listing and planning. --profile N prints the N most expensive
functions of the run with 1 % changed.
"""

import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.executors import InProcess
from infra.settings import Settings
from storage.features import bundles
from storage.features.rows import Columns
from storage.tables.table import CodeTable
from workflows.context import Context
from workflows.datasets import ingest_source
from workflows.reindex import pipeline, unchanged
from workflows.spec import Spec

D, CLASSES = 32, 10
REMARKS = """
Shards: a first run costs the same for each shard, some milliseconds for opening its file in each stage; with few
shards, starting and the bootstrap of the metrics dominate. With 1 % changed, the cost of a changed shard grows with all
of them: the source is listed, the manifests of the table are read once, and Iceberg rewrites those that list a replaced
part.
"""


class Clock:
    """Run stages, and keep the CPU seconds of each. Time in a nested call counts for the nested name only."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.inner = [0.0]

    def __call__(self, stage: Callable[..., Any], /, *args: object, name: str = "") -> Any:
        start = time.process_time()
        self.inner.append(0)
        try:
            return stage(*args)
        finally:
            took, name = time.process_time() - start, name or stage.__name__
            self.spent[name] = self.spent.get(name, 0) + took - self.inner.pop()
            self.inner[-1] += took


def reindexed(spec: Spec, settings: Settings) -> tuple[int, dict[str, float]]:
    """Return the rows encoded by a run, and its seconds by stage."""
    clock, replace = Clock(), CodeTable.replace
    CodeTable.replace = lambda *args: clock(replace, *args, name="commit")  # type: ignore[method-assign]  # timed
    try:
        context = Context.of(spec, settings, InProcess())
        outcome = clock(unchanged.outcome_if_unchanged, context) or pipeline.run_stages(context, clock)
    finally:
        CodeTable.replace = replace  # type: ignore[method-assign]  # as before
    return outcome.encoded, clock.spent


def nightly(n: int, options: Any, folder: Path) -> Iterator[measure.Row | measure.Point]:
    source, settings = folder / "source", Settings(home=folder / "home")
    source.mkdir()
    for i in range(n):
        write(source, i, options.rows, seed=i)
    ingest_source("many", str(source), settings, Columns(labels="labels"))
    queries = min(options.queries, n * options.rows // 4)
    spec = Spec(dataset="many", method={"method": "itq", "bits": options.bits, "seed": 0},
                protocol={"queries": queries}, gate={"force": "a benchmark"})  # fmt: skip
    changed = max(1, n // 100)
    yield from reported(n, "first run", n, *reindexed(spec, settings))
    yield from reported(n, "nothing to do", n, *reindexed(spec, settings))
    for i in range(changed):
        write(source, i * (n // changed), options.rows, seed=n + i)
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    cost = reindexed(spec, settings)
    profile.disable()
    yield from reported(n, "1 % changed", changed, *cost)
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(options.profile)


def reported(
    n: int, run: str, shards: int, encoded: int, spent: dict[str, float]
) -> Iterator[measure.Row | measure.Point]:
    """Yield the row of a run, and its cost for each of the shards that it is about."""
    total = sum(spent.values())
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in spent.items() if seconds >= 0.01)
    goal = "goal: under 2 s; " if run == "nothing to do" else ""
    note = f"{goal}{encoded:,} rows encoded; {stages}"
    yield measure.row(f"{n:,} shards, {run}", {"ours": [total]}, "s", note=note)
    yield measure.Point("shards", "ms per shard", run, n, 1000 * total / shards)


def write(folder: Path, i: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=n)
    x = 2 * np.random.default_rng(99).standard_normal((CLASSES, D))[label] + rng.standard_normal((n, D))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float32).ravel()), D)
    table = pa.table({"id": np.arange(n) + i * n, "vector": vectors, "labels": [[int(c)] for c in label]})
    pq.write_table(table, folder / f"{i:06}.parquet")


def measured(options: Any) -> Iterator[measure.Row | measure.Point]:
    if not options.bundled:
        bundles.TINY = 0
    for n in options.shards:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            yield from nightly(n, options, Path(folder))


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--rows", type=int, default=100, help="rows per shard")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--queries", type=int, default=1000, help="at most; a quarter of the rows if that is less")
    parser.add_argument("--bundled", action="store_true")
    parser.add_argument("--profile", type=int, default=0)
    parser.add_argument("--folder", help="working folder; temporary by default")
    options = parser.parse_args()
    os.environ["HASHKILN_EXECUTOR"] = "inprocess"
    measure.run(__doc__, options, measured(options), packages=("pyiceberg", "pyarrow"), remarks=REMARKS)


if __name__ == "__main__":
    main()
