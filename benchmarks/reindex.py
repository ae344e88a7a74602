"""The cost of a nightly run: the first run, nothing to do, 1 % of the shards changed, and a new model for all rows.

    python benchmarks/reindex.py --shards 10 1000 10000

Wall and CPU seconds per stage, in one process, without Prefect, on small shards of random labelled rows. Each shard
becomes one part; --bundled bundles tiny files, as a real run does. "commit" is the share of staging that writes the
table; "stage" is the rest of it: encoding, listing and planning. --profile N prints the N most expensive functions of
the run with 1 % changed.
"""

import argparse
import cProfile
import os
import pstats
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

D, CLASSES = 32, 10
STAGES = ("plan", "fit", "stage", "commit", "evaluate", "gate", "publish")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--rows", type=int, default=100, help="rows per shard")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--queries", type=int, default=1000, help="at most; a quarter of the rows if that is less")
    parser.add_argument("--bundled", action="store_true")
    parser.add_argument("--profile", type=int, default=0)
    parser.add_argument("--folder", help="working folder; temporary by default")
    options = parser.parse_args()
    print(f"{options.rows} rows per shard, {D} dimensions, {options.bits} bits; wall s / CPU s")
    print("| shards | run | encoded | " + " | ".join(STAGES) + " | all |")
    print("|---" * (len(STAGES) + 4) + "|")
    for n in options.shards:
        folder = tempfile.mkdtemp(dir=options.folder)
        try:
            measure(n, options, Path(folder))
        finally:
            shutil.rmtree(folder)


def measure(n, options, folder):
    os.environ |= {"HASHKILN_HOME": str(folder / "home"), "HASHKILN_EXECUTOR": "inprocess"}
    from infra.settings import Settings
    from storage.features import bundles
    from storage.features.shard import Columns
    from workflows.datasets import ingest_source
    from workflows.spec import Spec

    if not options.bundled:
        bundles.TINY = 0
    (folder / "source").mkdir()
    for i in range(n):
        write(folder / "source", i, options.rows, seed=i)
    settings = Settings()
    ingest_source("many", str(folder / "source"), settings, Columns(labels="labels"))
    queries = min(options.queries, n * options.rows // 4)
    spec = Spec(dataset="many", method={"method": "itq", "bits": options.bits, "seed": 0},
                protocol={"queries": queries}, gate={"force": "a benchmark"})  # fmt: skip
    changed = max(1, n // 100)
    show(n, "first", *run(spec, settings))
    show(n, "nothing to do", *run(spec, settings))
    for i in range(changed):
        write(folder / "source", i * (n // changed), options.rows, seed=n + i)
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    cost = run(spec, settings)
    profile.disable()
    show(n, f"{changed} changed", *cost)
    refitted = spec.model_copy(update={"refit": "always", "method": spec.method.model_copy(update={"seed": 1})})
    show(n, "new model", *run(refitted, settings))
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(options.profile)


def run(spec, settings):
    """Return (rows encoded, {stage: (wall, CPU) seconds}) of one run."""
    from infra.executors import InProcess
    from storage.tables.table import CodeTable
    from workflows.reindex import fitting, gate, planning, publishing, staging

    clock = Clock()
    executor, replace = InProcess(), CodeTable.replace
    CodeTable.replace = lambda *args: clock("commit", replace, *args)
    try:
        clock("plan", planning.standing, spec, settings)
        model = clock("fit", fitting.fit, spec, settings, executor)
        staged = clock("stage", staging.stage, spec, settings, executor, model)
        if not staged.unchanged:
            report = clock("evaluate", gate.evaluate_staged, spec, settings, executor, staged)
            verdict = clock("gate", gate.gate, spec, settings, staged, report)
            clock("publish", publishing.publish, spec, settings, staged, report, verdict, "page")
    finally:
        CodeTable.replace = replace
    return staged.encoded, clock.spent


class Clock:
    """Wall and CPU seconds by name. Time in a nested call counts for the nested name only."""

    def __init__(self):
        self.spent, self.inner = {}, [np.zeros(2)]

    def __call__(self, name, fn, *args):
        start = np.array([time.perf_counter(), time.process_time()])
        self.inner.append(np.zeros(2))
        try:
            return fn(*args)
        finally:
            took = np.array([time.perf_counter(), time.process_time()]) - start
            self.spent[name] = self.spent.get(name, np.zeros(2)) + took - self.inner.pop()
            self.inner[-1] += took


def show(n, name, encoded, spent):
    cells = [spent.get(stage, np.zeros(2)) for stage in STAGES]
    words = [f"{wall:.2f} / {cpu:.2f}" for wall, cpu in [*cells, sum(cells)]]
    print(f"| {n:,} | {name} | {encoded:,} | " + " | ".join(words) + " |", flush=True)


def write(folder, i, n, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=n)
    x = 2 * np.random.default_rng(99).standard_normal((CLASSES, D))[label] + rng.standard_normal((n, D))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float32).ravel()), D)
    table = pa.table({"id": np.arange(n) + i * n, "vector": vectors, "labels": [[int(c)] for c in label]})
    pq.write_table(table, folder / f"{i:06}.parquet")


if __name__ == "__main__":
    main()
