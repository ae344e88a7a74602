"""Write warehouse_0_2.tar.gz: tables compared by cosine as hashkiln 0.2.0 of commit 6db48f7 left them.

    git worktree add ../hashkiln-0.2 6db48f7
    PYTHONPATH=../hashkiln-0.2 python tests/workflows/make_warehouse_0_2.py

It runs the command line of that commit alone. Tables and catalog hold absolute paths, so the folder is always ROOT.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path("/tmp/hashkiln-warehouse-0.2")  # noqa: S108
ARCHIVE = Path(__file__).with_name("warehouse_0_2.tar.gz")
ENVIRONMENT = {
    "HASHKILN_HOME": str(ROOT / "home"), "HASHKILN_EXECUTOR": "inprocess", "USER": "hashkiln",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
}  # fmt: skip
PROTOCOL = "--queries", "10", "--relevance", "neighbours", "--neighbours", "5"
QUANTIZED = {"mine__rabitq16": ("rabitq", "16"), "mine__osq8": ("osq", "8")}
TABLES = {**QUANTIZED, "mine__itq8": ("itq", "8")}


def hashkiln(*args: str) -> str:
    """Standard output of a command."""
    command = [sys.executable, "-m", "workflows.cli", *args]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def write(name: str, first: int, seed: int, second: int) -> None:
    """Write a shard of 30 rows of uneven length, last written at a whole second, which tar keeps."""
    rng = np.random.default_rng(seed)
    x = ((rng.standard_normal((30, 8)) + 0.5) * np.exp(rng.standard_normal((30, 1)))).astype(np.float32)
    path = ROOT / "source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8)
    pq.write_table(pa.table({"id": np.arange(first, first + 30), "vector": vectors}), path)
    os.utime(path, (second, second))


def main() -> None:
    shutil.rmtree(ROOT, ignore_errors=True)
    write("a.parquet", 0, 1, 1_700_000_000)
    write("b.parquet", 100, 2, 1_700_000_000)
    np.save(ROOT / "queries.npy", np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32) + 0.5)
    hashkiln("ingest", str(ROOT / "source"), "--name", "mine", "--metric", "cosine")
    expected: dict[str, object] = {}
    for table, (method, bits) in TABLES.items():
        hashkiln("reindex", "--dataset", "mine", "--method", method, "--bits", bits, *PROTOCOL)
        out = ROOT / "found.parquet"
        hashkiln("search", table, "--queries", str(ROOT / "queries.npy"), "--k", "5", "--out", str(out))
        report = json.loads(hashkiln("evaluate", table, *PROTOCOL[2:], "--json"))
        expected[table] = {"search": pq.read_table(out).to_pydict(), "metrics": report["measured"]["metrics"]}
        out.unlink()
    (ROOT / "expected.json").write_text(json.dumps(expected, indent=1))
    for page in (ROOT / "home" / "warehouse" / "reports").rglob("*.html"):
        page.write_text("<!-- a page, which nothing reads -->\n")
    with tarfile.open(ARCHIVE, "w:gz", compresslevel=9) as archive:
        for path in sorted(ROOT.rglob("*")):
            if path.is_file() and "prefect" not in path.relative_to(ROOT).parts:
                archive.add(path, path.relative_to(ROOT))
    shutil.rmtree(ROOT)


if __name__ == "__main__":
    main()
