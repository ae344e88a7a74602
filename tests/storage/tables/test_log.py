"""Rollbacks and table formats: one commit each; of two concurrent moves of main, exactly one succeeds."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyiceberg.table.update import RemovePropertiesUpdate, SetPropertiesUpdate

from storage.tables import commits, log
from storage.tables.commits import PublishConflict
from storage.tables.parts import Part
from storage.tables.table import create_table, load_table


@pytest.fixture
def table(catalog):
    """v1, v2 and v3 of a table, of one part each."""
    table = create_table(catalog, "t", 16)
    for i in range(3):
        stage(table, f"staged-{i}", i)
        table.publish(table.version(f"staged-{i}"), table.version().snapshot_id)
    return table


def stage(table, branch, i):
    table.stage(branch, table.version().snapshot_id)
    table.replace(branch, [Part(f"{table.folder}/data/{i}.parquet", "a", str(i), 1, 1, i, i)], set(), {"model": "m"})


def seen(table, name="main"):
    return [part.version for part in table.parts(table.version(name).snapshot_id).values()]


def test_a_rollback_is_one_logged_commit_and_version_numbers_continue(catalog, table):
    commits_before = len(table.iceberg.metadata.metadata_log)
    assert log.roll_back(table, "v1", table.version().snapshot_id, "me").name == "v1"
    assert len(table.iceberg.metadata.metadata_log) == commits_before + 1
    reader = load_table(catalog, "t")
    assert (reader.version().name, seen(reader)) == ("v1", ["0"])
    (logged,) = log.rollbacks(reader)
    assert (logged["from"], logged["to"], logged["by"], len(logged["at"])) == ("v3", "v1", "me", 25)
    stage(table, "staged-new", 7)
    assert table.publish(table.version("staged-new"), table.version().snapshot_id).name == "v4"
    log.roll_back(table, "V3", table.version().snapshot_id, "you")  # case does not matter in names
    assert [(entry["from"], entry["to"]) for entry in log.rollbacks(table)] == [("v3", "v1"), ("v4", "v3")]
    assert [version.name for version in table.versions()] == ["v1", "v2", "v3", "v4"]


@pytest.mark.parametrize("catalog", ["local"], indirect=True)
def test_a_rollback_is_refused_if_main_has_moved_or_the_target_was_never_published(table):
    before, main = table.version("v2").snapshot_id, table.version().snapshot_id
    with pytest.raises(
        PublishConflict, match=rf"at snapshot {before}, found {main} \(v3\): another run published or rolled back"
    ):
        log.roll_back(table, "v1", before, "me")
    stage(table, "staged-new", 7)
    for name in ("v3", "staged-new"):
        with pytest.raises(ValueError, match=f"cannot roll back from v3 to {name}: choose another published version"):
            log.roll_back(table, name, main, "me")
    with pytest.raises(LookupError, match=r"unknown version 'v9' of table t; existing versions: main, v1"):
        log.roll_back(table, "v9", main, "me")
    assert (seen(table), log.rollbacks(table)) == (["2"], [])


@pytest.mark.parametrize("attempt", range(2))
def test_of_concurrent_publishes_and_rollbacks_exactly_one_wins(catalog, table, attempt):
    base = table.version().snapshot_id
    stage(table, "staged-new", 7)
    barrier = threading.Barrier(3)

    def move(how):
        mine = load_table(catalog, "t")
        barrier.wait()
        try:
            return how(mine).name
        except PublishConflict:
            return None

    moves = [
        lambda mine: mine.publish(mine.version("staged-new"), base),
        lambda mine: log.roll_back(mine, "v1", base, "me"),
        lambda mine: log.roll_back(mine, "v2", base, "me"),
    ]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(move, moves))
    (winner,) = filter(None, results)
    table.refresh()
    assert winner == ["v4", "v1", "v2"][[bool(result) for result in results].index(True)]
    assert table.version().name == winner
    assert len(log.rollbacks(table)) == (winner != "v4")
    assert table.has_ref("staged-new") == (winner != "v4")


@pytest.mark.parametrize("catalog", ["local"], indirect=True)
def test_a_table_of_a_newer_format_is_refused(catalog, table):
    newer = SetPropertiesUpdate(updates={"hashkiln.format": "5"})
    commits.commit(table.iceberg, (), (newer,))
    with pytest.raises(ValueError, match=r"table t has format 5, newer than 4: upgrade hashkiln"):
        load_table(catalog, "t")


def test_an_older_format_is_read_unchanged_and_upgraded_in_one_commit_on_write(catalog, table):
    old = RemovePropertiesUpdate(removals=["hashkiln.format", "hashkiln.columns"])
    commits.commit(table.iceberg, (), (old,))
    reader = load_table(catalog, "t")
    assert (reader.format, seen(reader)) == (0, ["2"])
    commits_before = len(reader.iceberg.metadata.metadata_log)
    with ThreadPoolExecutor(3) as pool:
        written = list(pool.map(lambda _: create_table(catalog, "t", 16), range(3)))
    upgraded = written[0].refresh()
    assert (upgraded.format, seen(upgraded)) == (2, ["2"])
    assert upgraded.iceberg.properties["hashkiln.columns"].startswith("id: row of the dataset")
    assert len(upgraded.iceberg.metadata.metadata_log) == commits_before + 1
    assert json.loads(upgraded.iceberg.properties.get("hashkiln.vocabulary", "[]")) == []


@pytest.mark.parametrize("catalog", ["local"], indirect=True)
def test_the_empty_version_is_v0_even_if_a_branch_starts_at_it(catalog):
    empty = create_table(catalog, "empty", 16)
    empty.stage("staged-x", empty.version().snapshot_id)
    assert empty.version().name == "v0"
