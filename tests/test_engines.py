"""What docs/engines.py says of engines holds: they read the published version of a table, and no other rows."""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hashing.bits import pack
from storage.features import dataset
from storage.features.shard import Columns, FeatureShard
from storage.files import filesystem
from storage.formats import FeatureRows
from storage.tables import iceberg
from storage.tables.parts import encode_shard
from tests.conftest import blobs
from tests.storage.tables.test_table import FUNCTION, D, published

ROOT = Path(__file__).parent.parent
OF_DEV = ["pyarrow, Parquet", "pyiceberg", "Polars, Parquet", "Polars, Iceberg", "DuckDB, Parquet"]


@pytest.fixture(scope="module")
def engines():
    spec = importlib.util.spec_from_file_location("engines", ROOT / "docs" / "engines.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_engines_of_the_group_dev_read_the_published_version(engines, tmp_path):
    batch = blobs(300, D)
    dataset.write_split(str(tmp_path / "base"), [FeatureRows(batch.ids, batch.x, None)], 100)
    entries = filesystem.listing(str(tmp_path / "base"), ".parquet")
    shards = [FeatureShard(e.url, e.url.rsplit("/", 1)[-1], e.version, D, Columns()) for e in entries]
    parts = [encode_shard(shard, FUNCTION, str(tmp_path / "data")) for shard in shards]
    catalog = iceberg.open_catalog(f"sqlite:///{tmp_path}/catalog.db", str(tmp_path))
    table = published(catalog, parts)
    base = table.version().snapshot_id
    table.stage("staged-x", base)
    table.replace("staged-x", [], {parts[0].shard}, {"model": "m1"})
    table.publish(table.version("staged-x"), base)

    opened = catalog.load_table("codes.t")
    names = {
        "metadata": opened.metadata_location,
        "files": [task.file.file_path for task in opened.scan().plan_files()],
        "queries": [],
    }
    tries = [each for each in engines.READERS if each.name in OF_DEV]
    read = engines.tried(tries, names, [sys.executable])
    rows = zip(batch.ids[100:].tolist(), pack(FUNCTION.encode(batch.x[100:])), strict=True)
    data = b"".join(id_.to_bytes(8, "little") + code.tobytes() for id_, code in rows)
    expected = [200, hashlib.sha256(data).hexdigest()]
    assert {name: list(results.values()) for name, results in read.items()} == {name: [expected] for name in OF_DEV}


@pytest.mark.slow
def test_every_engine_reads_and_finds_what_the_page_says():
    """HASHKILN_ENGINES names the Pythons of environments with more engines."""
    pythons = filter(None, os.environ.get("HASHKILN_ENGINES", "").split(":"))
    command = [sys.executable, "docs/engines.py", *(word for path in pythons for word in ("--python", path))]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "engines.md").read_text()
    tables = re.compile(r"^\|.*\n", re.MULTILINE)
    assert tables.sub("", made) == tables.sub("", page), "run docs/engines.py as its docstring says"
    assert all(f"| {name} | " in made for name in OF_DEV)
    assert re.findall(r".*(?:\| no \||failed:).*", made) == []
    assert set(re.findall(r"^\| `(.*)` \|.* of 500 \|$", made, re.MULTILINE)) <= {"faiss-ivf", "faiss-hnsw", "pgvector"}
