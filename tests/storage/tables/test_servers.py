"""Catalogs on servers, shared by several machines. `catalog_url` runs the tests of tables on them too."""

import json
import os
import subprocess
import sys
import textwrap
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from infra.settings import Settings
from storage.tables import iceberg
from storage.tables.table import create_table, load_table, table_names
from tests.faulty_proxy import FaultyProxy

WRITER = """
    import json, sys
    from storage.tables import iceberg
    from storage.tables.table import create_table
    name, url, warehouse = sys.argv[1:]
    table = create_table(iceberg.open_catalog(url, warehouse), "t", 16)
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(5):
        table.add_labels([f"{name}{i}", "common"])
    print(json.dumps(table.vocabulary))
"""


@pytest.mark.parametrize("catalog_url", ["postgresql", "rest", "glue"], indirect=True)
def test_writers_of_several_processes_lose_nothing(catalog_url, tmp_path):
    url, command = catalog_url, [sys.executable, "-c", textwrap.dedent(WRITER)]
    arguments = {name: [*command, name, url, str(tmp_path)] for name in "ab"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen(arguments[name], **pipes) for name in arguments]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2  # a new catalog, created by both at once
    seen = [json.loads(writer.communicate("go\n")[0]) for writer in writers]
    final = load_table(iceberg.open_catalog(url, str(tmp_path)), "t").vocabulary
    assert sorted(final) == sorted(["common", *(f"{name}{i}" for name in "ab" for i in range(5))])
    assert all(final[: len(vocabulary)] == tuple(vocabulary) for vocabulary in seen)


def test_the_server_can_close_connections_between_two_commits(postgresql, tmp_path):
    url = postgresql()
    table = create_table(iceberg.open_catalog(url, str(tmp_path)), "t", 16)
    close_connections(url)
    assert table.add_labels(["a"]) == ("a",)


def close_connections(url):
    """Close all connections to a database of the PostgreSQL of the tests."""
    place = make_url(url)
    with closing(psycopg2.connect(host=place.query["host"], user="tests", dbname="postgres")) as admin:
        cursor = admin.cursor()
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s", [place.database]
        )
        assert cursor.fetchone()[0] > 0


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql+psycopg2:///nothing?host={host}&user=tests", 'database "nothing" does not exist'),
        ("postgresql+psycopg2://tests:secret@127.0.0.1:1/x", "Connection refused"),
        ("postgres://tests:secret@127.0.0.1:1/x", "Can't load plugin: sqlalchemy.dialects:postgres"),
        ("http://tests:secret@127.0.0.1:1/x", "Connection refused"),
        ("thrift://127.0.0.1:1", r"pip install 'pyiceberg\[hive\]'"),
    ],
)
def test_an_unreachable_catalog_is_reported_in_one_line(postgresql, tmp_path, url, reason):
    host = make_url(postgresql()).query["host"]
    with pytest.raises(
        ConnectionError, match=f"^cannot connect to the Iceberg catalog at {url[:4]}.*: .*{reason}"
    ) as line:
        iceberg.open_catalog(url.format(host=host), str(tmp_path))
    assert "\n" not in str(line.value)
    assert "secret" not in str(line.value)


def test_the_environment_chooses_the_catalog(postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_CATALOG", postgresql())
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path))
    settings = Settings()
    create_table(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url), "t", 16)
    assert table_names(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url)) == ["t"]
    assert not (tmp_path / "catalog.db").exists()


def test_a_rest_catalog_that_refuses_the_credential_is_reported_in_one_line(rest, tmp_path, monkeypatch):
    monkeypatch.setenv("PYICEBERG_CATALOG__HASHKILN__CREDENTIAL", "hashkiln:secret")
    with pytest.raises(
        ConnectionError, match=f"^cannot connect to the Iceberg catalog at {rest}: .*[Ii]nvalid"
    ) as line:
        iceberg.open_catalog(rest, str(tmp_path))
    assert "\n" not in str(line.value)
    assert "secret" not in str(line.value)


@pytest.mark.parametrize("kind", ["sqlite", "rest"])
def test_a_catalog_is_found_by_its_name_in_the_configuration_of_pyiceberg(kind, request, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/new/lake.db" if kind == "sqlite" else request.getfixturevalue(kind)
    monkeypatch.setenv("PYICEBERG_HOME", str(tmp_path))
    (tmp_path / ".pyiceberg.yaml").write_text(f"catalog:\n  my-lake:\n    uri: {url}\n")
    for name in ("WAREHOUSE", "CREDENTIAL", "OAUTH2_SERVER_URI") if kind == "rest" else ():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__MY_LAKE__{name}", os.environ[f"PYICEBERG_CATALOG__HASHKILN__{name}"])
    monkeypatch.setenv("HASHKILN_CATALOG", "my-lake")
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path))
    settings = Settings()
    assert iceberg.catalog_exists(settings.catalog_url) == (kind == "rest")
    table = create_table(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url), "t", 16)
    assert table_names(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url)) == ["t"]
    assert table.folder.startswith(f"{tmp_path}/warehouse" if kind == "sqlite" else "s3://tables-")
    with pytest.raises(LookupError, match=r"HASHKILN_CATALOG: .* has no catalog 'lake'; it has: my-lake"):
        iceberg.catalog_exists("lake")


@pytest.mark.parametrize(
    ("catalog", "reason"),
    [
        ("sqlite://", "a catalog in memory loses its tables when the command ends"),
        ("sqlite:///:memory:", "a catalog in memory loses its tables when the command ends"),
        ("in-memory", "a catalog in memory loses its tables when the command ends"),
        ("dynamodb", "pyiceberg cannot commit to tables in a catalog of type dynamodb"),
        ("bigquery", "pyiceberg cannot commit to tables in a catalog of type bigquery"),
    ],
)
def test_catalogs_that_lose_tables_or_take_no_commits_are_refused(catalog, reason, monkeypatch):
    if "://" not in catalog:
        monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__TYPE", catalog)
        catalog = "lake"
    with pytest.raises(LookupError, match=f"^HASHKILN_CATALOG: {reason}: use a database, a REST catalog, Glue or "):
        iceberg.catalog_exists(catalog)


@pytest.mark.parametrize("kind", ["internal error", "lost"])
def test_a_commit_that_may_have_happened_is_reported_and_can_be_repeated(rest, tmp_path, kind):
    create_table(iceberg.open_catalog(rest, str(tmp_path)), "t", 16)
    fault = {"failing": 1, "kinds": (kind,), "attempts": 1, "only": "POST"}
    with FaultyProxy(rest.removeprefix("http://"), **fault) as proxy:
        table = load_table(iceberg.open_catalog(proxy.url, str(tmp_path)), "t")
        with pytest.raises(ConnectionError, match="commit to table t that may have happened: see `hashkiln history t`"):
            table.add_labels(["a"])
        assert table.refresh().vocabulary == (("a",) if kind == "lost" else ())
        assert table.add_labels(["a", "b"]) == ("a", "b")


def test_a_connection_that_is_lost_in_a_commit_is_reported_and_the_commit_can_be_repeated(postgresql, tmp_path):
    url = postgresql()
    table = create_table(iceberg.open_catalog(url, str(tmp_path)), "t", 16)
    event.listen(table.iceberg.catalog.engine, "commit", lambda _: close_connections(url), once=True)
    with pytest.raises(ConnectionError, match="commit to table t that may have happened: see `hashkiln history t`"):
        table.add_labels(["a"])
    assert table.add_labels(["a", "b"]) == ("a", "b")
