"""What does a nightly run cost: the first run, nothing to do, and 1 % of the shards changed?

    python benchmarks/reindex.py [--shards 10 1000] [--versions 1 10] [--tables 1 10] [--profile 40]

Seconds of CPU time, by stage of the pipeline, in one process, without Prefect, on small shards of random labelled rows.
Each shard becomes one part; --bundled bundles tiny files, as a real run does. `commit` is the share of staging that
writes the table; `stage` is the rest of it: encoding, listing and planning. Then come nights in which one of 100 shards
changes, by the number of versions that the table has, and runs beside other tables, by the number of tables: with
`write_index`, the index pages of the table and of the warehouse. --profile N prints the N most expensive functions of
the run with 1 % changed.
"""

import cProfile
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
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
of them: the run lists the source three times (to find what changed, to stage it, and before the gate), reads the
manifests of the table once, and writes again those that list a replaced part.

Versions: every commit reads, copies and writes the metadata of the table, which describes all snapshots. `hashkiln gc
--keep 30` bounds them. Tables: the index of the warehouse reads the metadata of each table.
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
    clock, replace, write_index = Clock(), CodeTable.replace, pipeline.write_index
    CodeTable.replace = lambda *args: clock(replace, *args, name="commit")  # type: ignore[method-assign]  # timed
    pipeline.write_index = partial(clock, write_index)
    try:
        context = Context.of(spec, settings, InProcess())
        outcome = clock(unchanged.outcome_if_unchanged, context) or pipeline.run_stages(context, clock)
    finally:
        CodeTable.replace, pipeline.write_index = replace, write_index  # type: ignore[method-assign]  # as before
    return outcome.encoded, clock.spent


def nightly(n: int, options: Any, folder: Path) -> Iterator[measure.Row | measure.Point]:
    source, settings, spec = ingested(n, options, folder)
    changed = max(1, n // 100)
    yield from per_shard(n, "first run", n, *reindexed(spec, settings))
    yield from per_shard(n, "nothing to do", n, *reindexed(spec, settings))
    for i in range(changed):
        write(source, i * (n // changed), options.rows, seed=n + i)
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    cost = reindexed(spec, settings)
    profile.disable()
    yield from per_shard(n, "1 % changed", changed, *cost)
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(options.profile)


def ingested(n: int, options: Any, folder: Path) -> tuple[Path, Settings, Spec]:
    """Return the source of n shards, the settings and the specification of a run, after ingest."""
    source, settings = folder / "source", Settings(home=folder / "home")
    source.mkdir()
    for i in range(n):
        write(source, i, options.rows, seed=i)
    ingest_source("many", str(source), settings, Columns(labels="labels"))
    queries = min(options.queries, n * options.rows // 4)
    spec = Spec(dataset="many", method={"method": "itq", "bits": options.bits, "seed": 0},
                protocol={"queries": queries}, gate={"force": "a benchmark"})  # fmt: skip
    return source, settings, spec


def many_versions(options: Any, folder: Path) -> Iterator[measure.Row | measure.Point]:
    """Yield the cost of nights in which one of 100 shards changes."""
    source, settings, spec = ingested(100, options, folder)
    reindexed(spec, settings)
    for version in range(2, max(options.versions) + 1):
        write(source, version % 100, options.rows, seed=1000 + version)
        cost = reindexed(spec, settings)
        if version in options.versions:
            yield from per_run("versions", version, "one of 100 shards changed", *cost)
            yield from per_run("versions", version, "nothing to do", *reindexed(spec, settings))


def many_tables(options: Any, folder: Path) -> Iterator[measure.Row | measure.Point]:
    """Yield the cost of the first run of a table, beside others."""
    _, settings, spec = ingested(1, options, folder)
    for table in range(1, max(options.tables) + 1):
        cost = reindexed(spec.model_copy(update={"code": f"code{table}"}), settings)
        if table in options.tables:
            yield from per_run("tables", table, "first run of one", *cost)


def per_run(
    axis: str, n: int, run: str, encoded: int, spent: dict[str, float]
) -> Iterator[measure.Row | measure.Point]:
    """Yield the row of a run, and its cost and that of the index pages, by the number of versions or tables."""
    yield row(f"{n:,} {axis}, {run}", encoded, spent)
    yield measure.Point(axis, "s per run", run, n, sum(spent.values()))
    if "write_index" in spent:
        yield measure.Point(axis, "s per run", f"{run}: index pages", n, spent["write_index"])


def per_shard(
    n: int, run: str, shards: int, encoded: int, spent: dict[str, float]
) -> Iterator[measure.Row | measure.Point]:
    """Yield the row of a run, and its cost for each of the shards that it is about."""
    yield row(f"{n:,} shards, {run}", encoded, spent)
    yield measure.Point("shards", "ms per shard", run, n, 1000 * sum(spent.values()) / shards)


def row(case: str, encoded: int, spent: dict[str, float]) -> measure.Row:
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in spent.items() if seconds >= 0.01)
    goal = "goal: under 2 s; " if case.endswith("nothing to do") else ""
    return measure.row(case, {"ours": [sum(spent.values())]}, "s", note=f"{goal}{encoded:,} rows encoded; {stages}")


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
    for part in (*(partial(nightly, n) for n in options.shards), many_versions, many_tables):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            yield from part(options, Path(folder))


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--versions", type=int, nargs="+", default=[2, 10, 30])
    parser.add_argument("--tables", type=int, nargs="+", default=[1, 10, 30])
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
