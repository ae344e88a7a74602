"""Write warehouse_0_1.tar.gz: a warehouse as hashkiln 0.1.0 of commit f4bf178 left it, for tests that open it today.

    git worktree add ../hashkiln-0.1 f4bf178
    PYTHONPATH=../hashkiln-0.1 python tests/workflows/make_warehouse_0_1.py

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

ROOT = Path("/tmp/hashkiln-warehouse-0.1")  # noqa: S108
ARCHIVE = Path(__file__).with_name("warehouse_0_1.tar.gz")
NAMES = ["ant", "bee", "cat", "dog"]
ENVIRONMENT = {
    "HASHKILN_HOME": str(ROOT / "home"), "HASHKILN_EXECUTOR": "inprocess", "USER": "hashkiln",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
}  # fmt: skip


def hashkiln(*args: str, code: int = 0) -> str:
    """Standard output of a command that ends with an exit code."""
    command = [sys.executable, "-m", "workflows.cli", *args]
    environment = os.environ | ENVIRONMENT
    run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != code:
        raise RuntimeError(f"expected exit code {code} of {args}, found {run.returncode}")
    return run.stdout


def write(name: str, first: int, rows: int, seed: int, second: int) -> None:
    """A shard of keys, vectors around four centres, and labels; last written at a whole second, which tar keeps."""
    rng = np.random.default_rng(seed)
    centre = 2 * np.random.default_rng(99).standard_normal((len(NAMES), 8))
    label = rng.integers(len(NAMES), size=rows)
    x = (centre[label] + rng.standard_normal((rows, 8))).astype(np.float32)
    table = pa.table({
        "sku": [f"p{i:03}" for i in range(first, first + rows)],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 8),
        "tags": [[NAMES[i]] for i in label],
    })  # fmt: skip
    path = ROOT / "source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    os.utime(path, (second, second))


def search(table: str, *options: str) -> dict[str, list[float]]:
    out = ROOT / "found.parquet"
    hashkiln("search", table, "--queries", str(ROOT / "queries.npy"), "--k", "5", "--out", str(out), *options)
    return pq.read_table(out).to_pydict()


def make() -> dict[str, object]:
    """Run the history of two tables of one dataset, and record what version 0.1.0 reports about them."""
    itq = ["reindex", "--dataset", "mine", "--method", "itq", "--bits", "8", "--set", "n_iter=20", "--queries", "10"]
    lsh = ["reindex", "--dataset", "mine", "--method", "lsh", "--bits", "16", "--relevance", "neighbours",
           "--neighbours", "5", "--queries", "10"]  # fmt: skip
    write("a.parquet", 0, 30, 1, 1_700_000_000)
    write("b.parquet", 100, 30, 2, 1_700_000_000)
    np.save(ROOT / "queries.npy", np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32))
    columns = ["--key-column", "sku", "--vector-column", "embedding", "--label-column", "tags"]
    hashkiln("ingest", str(ROOT / "source"), "--name", "mine", *columns)
    hashkiln(*itq)  # v1
    hashkiln(*lsh)
    write("b.parquet", 100, 32, 3, 1_700_000_100)
    hashkiln(*itq, "--max-loss", "map=1")  # v2
    hashkiln(*lsh, "--max-loss", "map=1")
    write("a.parquet", 0, 30, 4, 1_700_000_200)
    hashkiln(*itq, "--floor", "map=1", code=3)  # rejected
    write("a.parquet", 0, 30, 1, 1_700_000_000)
    hashkiln("delete", "mine", "--ids", "p007,p103")  # v3
    neighbours = ["--relevance", "neighbours", "--neighbours", "5"]
    return {
        "history": {name: json.loads(hashkiln("history", name, "--json")) for name in ("mine__itq8", "mine__lsh16")},
        "evaluate": {
            "mine__itq8": json.loads(hashkiln("evaluate", "mine__itq8", "--json")),
            "mine__lsh16": json.loads(hashkiln("evaluate", "mine__lsh16", *neighbours, "--json")),
        },
        "search": {
            "mine__itq8": search("mine__itq8"),
            "mine__itq8 v1": search("mine__itq8", "--version", "v1"),
            "mine__lsh16": search("mine__lsh16", "--rerank", "20"),
        },
        "verify": json.loads(hashkiln("verify", "mine__itq8", "--deep", "--json")),
    }


def main() -> None:
    shutil.rmtree(ROOT, ignore_errors=True)
    (ROOT / "source").mkdir(parents=True)
    expected = make()
    (ROOT / "found.parquet").unlink()
    (ROOT / "expected.json").write_text(json.dumps(expected, indent=1))
    for page in (ROOT / "home" / "warehouse" / "reports").rglob("*.html"):
        page.write_text("<!-- 1 MB of a drawing library and a page, which nothing reads -->\n")
    with tarfile.open(ARCHIVE, "w:gz", compresslevel=9) as archive:
        for path in sorted(ROOT.rglob("*")):
            if path.is_file() and "prefect" not in path.relative_to(ROOT).parts:
                archive.add(path, path.relative_to(ROOT))
    shutil.rmtree(ROOT)


if __name__ == "__main__":
    main()
