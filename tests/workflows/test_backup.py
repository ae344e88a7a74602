"""The commands of docs/how-to/backup.md: a warehouse is backed up during a run, lost, and restored."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.executors import InProcess
from infra.settings import Settings
from storage.features.rows import Columns
from storage.tables.parts import _verified
from tests.conftest import blobs
from tests.workflows.conftest import D, encoded_from_source, published_codes, reindex, spec, write_shard
from workflows import datasets
from workflows.context import Context
from workflows.reindex.planning import forecast
from workflows.tables.verify import verify

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "backup.md").read_text()
BLOCKS = dict(
    zip(("folder", "from folder", "s3", "from s3"), re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL), strict=True)
)

OF = spec(gate={"max_loss": 1.0})


def bash(lines, **variables):
    run = subprocess.run(
        [shutil.which("bash"), "-euc", "\n".join(lines)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def in_two(block):
    """Return the commands up to that of the catalog, and those of the files."""
    lines = block.splitlines()
    assert len(lines) == 4
    return lines[:2], lines[2:]


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, tmp_path, monkeypatch):
    """Where the warehouse is; how to lose it; the variables of the commands, before and after."""
    home = tmp_path / "home"
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    monkeypatch.setenv("HASHKILN_HOME", str(home))
    monkeypatch.setenv("HASHKILN_COMMIT_SHARDS", "1")
    backup = {"BACKUP": str(tmp_path / "backup")}
    if request.param == "folder":
        if not shutil.which("sqlite3"):
            pytest.skip("SKIPPED FOR WANT OF sqlite3: Debian has a package of this name")
        return "folder", lambda: home.rename(tmp_path / "lost"), backup
    if not (shutil.which("aws") and shutil.which("pg_dump")):
        pytest.skip("SKIPPED FOR WANT OF aws or pg_dump: PyPI's awscli, Debian's postgresql-client")
    database, warehouse = request.getfixturevalue("postgresql"), f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    monkeypatch.setenv("HASHKILN_CATALOG", database())
    monkeypatch.setenv("HASHKILN_WAREHOUSE", warehouse)

    def lose():
        monkeypatch.setenv("HASHKILN_CATALOG", database())
        bash([f"aws s3 rm --recursive --only-show-errors {warehouse}"])

    return "s3", lose, backup


def test_a_warehouse_backed_up_during_a_run_is_restored(place, source):
    kind, lose, backup = place
    catalog, files = in_two(BLOCKS[kind])
    columns = Columns(id="key", x="embedding", labels="tags")
    mine = datasets.ingest_source("mine", str(source), Settings(), columns)
    reindex(Settings(), OF)
    for i in (2, 3, 4, 5):  # two shards change, two are new
        write_shard(source, f"part{i}.parquet", blobs(200, D, seed=9 + i, first_id=1000 * i))

    def back_up(label, done, total):
        if label == "encode" and done == 2:  # two of four shards are encoded, and one or two are committed
            bash(catalog, **backup)

    _, _, later = reindex(Settings(), OF, InProcess(back_up))
    bash(files, **backup)
    assert later == "v2"

    lose()
    bash(BLOCKS[f"from {kind}"].splitlines(), **backup)
    _verified.clear()  # as in a new process
    found = verify("mine__itq16")
    assert (found.version, found.parts, found.problems) == ("v1", 4, ())
    planned = forecast(Context.of(OF, Settings(), InProcess()))
    assert not planned.fit
    assert len(planned.plan.missing) in (2, 3)
    staged, _, again = reindex(Settings(), OF)
    assert (staged.encoded, again) == (200 * len(planned.plan.missing), "v2")
    assert published_codes(Settings()) == encoded_from_source(Settings(), mine)
    assert len(published_codes(Settings())) == 1200


def test_files_before_the_catalog_lose_the_table(tmp_path, monkeypatch, source):
    """The order that the page warns of: the catalog names metadata that the copy of the files lacks."""
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    monkeypatch.setenv("HASHKILN_HOME", str(home := tmp_path / "home"))
    if not shutil.which("sqlite3"):
        pytest.skip("SKIPPED FOR WANT OF sqlite3: Debian has a package of this name")
    catalog, files = in_two(BLOCKS["folder"])
    datasets.ingest_source("mine", str(source), Settings(), Columns(id="key", x="embedding", labels="tags"))
    reindex(Settings(), OF)
    backup = {"BACKUP": str(tmp_path / "backup")}
    bash([catalog[0], *files], **backup)
    write_shard(source, "part4.parquet", blobs(200, D, seed=9, first_id=4000))
    reindex(Settings(), OF)
    bash(catalog[1:], **backup)
    home.rename(tmp_path / "lost")
    bash(BLOCKS["from folder"].splitlines(), **backup)
    with pytest.raises(FileNotFoundError):
        verify("mine__itq16")
