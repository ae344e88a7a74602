"""The life of a table on a REST catalog, which keeps its tables in a bucket of its own, and on Glue."""

import json
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.settings import Settings
from storage.features.rows import Columns
from storage.files import filesystem
from storage.tables import iceberg
from storage.tables.parts import dropped_rows, quarantine_urls
from storage.tables.table import load_table
from tests.conftest import blobs
from tests.workflows.conftest import D, reindex, spec, table_of, write_shard
from workflows import datasets
from workflows.tables.gc import gc

LSH, PCAH = (["--dataset", "sample", "--method", name, "--bits", "16", "--code", "c"] for name in ("lsh", "pcah"))
TABLE = "sample__c"


@pytest.fixture
def hashkiln(catalog_url, run_command, tmp_path):
    """Run a command with its files in a local folder, and its codes where the catalog says; return its JSON."""
    environment = {
        "HASHKILN_HOME": str(tmp_path / "home"), "HASHKILN_EXECUTOR": "inprocess", "HASHKILN_CATALOG": catalog_url
    }  # fmt: skip

    def run(*args, code=0):
        ended, output, error = run_command(*args, "--json", **environment)
        assert ended == code, error
        return json.loads(output) if output else error

    return run


@pytest.mark.slow
@pytest.mark.parametrize("catalog_url", ["rest", "glue"], indirect=True)
def test_every_command_on_a_table_works(hashkiln, catalog_url, tmp_path):
    assert hashkiln("reindex", *LSH)["version"] == "v1"
    assert hashkiln("reindex", *LSH)["unchanged"]
    assert hashkiln("evaluate", TABLE)
    hashkiln("reindex", *PCAH, "--refit", "always", "--max-loss", "map=1")
    assert hashkiln("rollback", TABLE)["version"] == "v1"
    table = load_table(iceberg.open_catalog(catalog_url, str(tmp_path)), TABLE)
    assert table.folder.startswith("s3://tables-") == (catalog_url != "glue://")
    damaged = next(iter(table.parts(table.version().snapshot_id).values()))
    filesystem.write_bytes(damaged.url, b"torn")
    assert len(hashkiln("verify", TABLE, code=1)["problems"]) == 1
    assert hashkiln("verify", TABLE, "--repair")["problems"] == []
    hashkiln("delete", "sample", "--ids", "3", "--yes")
    assert table.refresh().version().name == "v3"
    hashkiln("gc", TABLE, "--grace", "1m", "--keep", "1", "--force")
    assert [version.name for version in table.refresh().versions()] == ["v3"]
    assert hashkiln("verify", TABLE, "--deep")["problems"] == []
    assert hashkiln("history", TABLE)


def test_dropped_rows_are_in_the_data_of_a_table_bucket(settings, source, rest, tmp_path, monkeypatch):
    """It denies the usual folder."""
    monkeypatch.setenv("HASHKILN_CATALOG", rest)
    batch = blobs(50, D, first_id=9000)
    batch.x[7, 3] = np.nan
    write_shard(source, "bad.parquet", batch)
    datasets.ingest_source("mine", str(source), Settings(), Columns(id="key", x="embedding", labels="tags"))
    staged, _, version = reindex(Settings(), spec(bad_rows="drop"))
    assert (version, staged.dropped) == ("v1", 1)
    part = table_of(Settings()).parts(table_of(Settings()).version().snapshot_id)["bad.parquet"]
    fs, path = filesystem.arrow(quarantine_urls(part.url)[1])
    assert pq.read_table(path, filesystem=fs)["row"].to_pylist() == [7]
    gc(grace=0, force=True, clock=lambda: time.time() + 5)
    assert dropped_rows([part]) == {"bad.parquet": 1}
    assert reindex(Settings(), spec(bad_rows="drop"))[0].unchanged
