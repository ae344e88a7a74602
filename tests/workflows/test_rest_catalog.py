"""The life of a table on a REST catalog, which keeps its tables in a bucket of its own."""

import json

import pytest

from storage.files import filesystem
from storage.tables import iceberg
from storage.tables.table import load_table

LSH, PCAH = (["--dataset", "sample", "--method", name, "--bits", "16", "--code", "c"] for name in ("lsh", "pcah"))
TABLE = "sample__c"


@pytest.fixture
def hashkiln(rest, run_command, tmp_path):
    """Run a command with its files in a local folder, and its codes where the catalog says; return its JSON."""
    environment = {"HASHKILN_HOME": str(tmp_path / "home"), "HASHKILN_EXECUTOR": "inprocess", "HASHKILN_CATALOG": rest}

    def run(*args, code=0):
        ended, output, error = run_command(*args, "--json", **environment)
        assert ended == code, error
        return json.loads(output) if output else error

    return run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_command_on_a_table_works(hashkiln, rest, tmp_path):
    assert hashkiln("reindex", *LSH)["version"] == "v1"
    assert hashkiln("reindex", *LSH)["unchanged"]
    assert hashkiln("evaluate", TABLE)
    hashkiln("reindex", *PCAH, "--refit", "always", "--max-loss", "map=1")
    assert hashkiln("rollback", TABLE)["version"] == "v1"
    table = load_table(iceberg.connect(rest, str(tmp_path)), TABLE)
    assert table.folder.startswith("s3://tables-")
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
