"""Four processes commit to one table for a minute: what each was told is done is there at the end."""

import json
import subprocess
import sys
import textwrap

import pytest

from storage.files import filesystem
from storage.tables import iceberg, log
from storage.tables.table import create_table

SECONDS, PROCESSES, KEEP = 60, 4, 5
WRITER = """
    import hashlib, itertools, json, sys, time
    from storage.files import filesystem
    from storage.tables import garbage, iceberg, log
    from storage.tables.commits import PublishConflict
    from storage.tables.parts import Part
    from storage.tables.table import load_table

    me, url, warehouse, seconds, keep = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
    table = load_table(iceberg.open_catalog(url, warehouse), "t")
    done = {"labels": [], "vocabulary": [], "published": {}, "rolled back": 0, "collected": 0, "lost races": []}

    def tried(commit, *args):
        try:
            return commit(*args)
        except PublishConflict as error:
            done["lost races"].append(str(error))

    def part(shard, version):
        content = f"{me} {shard} {version}".encode() * 9
        name = f"{table.folder}/data/{hashlib.sha256(content).hexdigest()}.parquet"
        filesystem.write_bytes(name, content)
        return Part(name, shard, version, 9, len(content), 0, 8)

    def publish(number):
        base = table.refresh().version()
        before = table.parts(base.snapshot_id)
        branch, new = f"staged-{me}-{number}", [part("shared", f"{me}{number}"), part(f"own-{me}", f"{me}{number}")]
        table.stage(branch, base.snapshot_id)
        for one in new:
            table.replace(branch, [one], set(), {"model": "m"})
        staged = table.version(branch)
        assert table.parts(staged.snapshot_id) == before | {one.shard: one for one in new}
        version = tried(table.publish, staged, base.snapshot_id)
        if version:
            done["published"][version.name] = staged.snapshot_id
        else:
            table.reject(staged)

    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + seconds
    for number in itertools.count():
        if time.monotonic() > end:
            break
        if vocabulary := tried(table.add_labels, [f"{me}{number}", "common"]):
            done["labels"].append(f"{me}{number}")
            done["vocabulary"] = vocabulary
        tried(publish, number)
        if number % 3 == 1:
            now = table.refresh().version()
            past = [v.name for v in table.versions() if v.number > 0 and v.snapshot_id != now.snapshot_id]
            try:
                done["rolled back"] += bool(past and tried(log.roll_back, table, past[-1], now.snapshot_id, me))
            except LookupError:
                pass  # a collector has dropped the version
        if me == "a" and number % 3 == 2:
            found = tried(garbage.collect, table, 3600, keep)
            done["collected"] += len(found.snapshots) if found else 0
    print(json.dumps(done))
"""


@pytest.mark.slow
@pytest.mark.parametrize("catalog_url", ["sqlite", "postgresql", "rest", "glue"], indirect=True)
def test_what_a_process_was_told_is_done_is_done(catalog_url, tmp_path):
    catalog = iceberg.open_catalog(catalog_url, str(tmp_path))
    table = create_table(catalog, "t", 16)
    arguments = [catalog_url, str(tmp_path), str(SECONDS), str(KEEP)]
    command, pipes = (
        [sys.executable, "-c", textwrap.dedent(WRITER)],
        {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
    )
    writers = [subprocess.Popen([*command, "abcd"[i], *arguments], **pipes, text=True) for i in range(PROCESSES)]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * PROCESSES
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    done = [json.loads(writer.communicate()[0]) for writer in writers]
    table.refresh()
    added = [label for one in done for label in one["labels"]]
    given_up = [error for one in done for error in one["lost races"] if "other writers came first" in error]
    print(
        len(added), "labels,", [len(one["published"]) for one in done], "versions,", len(given_up), "commits given up"
    )
    assert set(added) | {"common"} <= set(table.vocabulary)
    assert len(set(table.vocabulary)) == len(table.vocabulary)
    assert all(list(table.vocabulary[: len(one["vocabulary"])]) == one["vocabulary"] for one in done)
    published = [item for one in done for item in one["published"].items()]
    assert len(dict(published)) == len(published) >= PROCESSES
    kept = {version.name: version.snapshot_id for version in table.versions() if version.number > 0}
    assert len(kept) >= KEEP
    assert kept.items() <= dict(published).items()

    assert len(log.rollbacks(table)) == sum(one["rolled back"] for one in done)
    assert sum(one["collected"] for one in done) > 0
    for snapshot in kept.values():
        assert all(filesystem.exists(part.url) for part in table.parts(snapshot).values())
