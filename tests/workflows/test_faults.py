"""kill -9 at random moments of encoding: the next run adopts what was committed, and encodes only the rest."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import blobs

from hashing.bits import pack
from infra.executors import InProcess
from infra.settings import Settings
from storage import filesystem, models
from storage.features import Columns
from workflows import ingest, stages
from workflows.spec import Spec

SHARDS, ROWS, D = 120, 300, 64
SPEC = Spec.model_validate({"dataset": "many", "method": {"method": "lsh", "bits": 64}, "protocol": {"queries": 10}})
DRIVER = """
    from infra.executors import connect
    from infra.settings import Settings
    from workflows import stages
    from workflows.spec import Spec
    settings, spec = Settings(), Spec.model_validate_json(SPEC)
    executor = connect(settings)
    model = stages.fit(spec, settings, executor)
    print("encoding", flush=True)
    print(stages.stage(spec, settings, executor, model).encoded, flush=True)
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A dataset of many small shards, committed four at a time."""
    batch = blobs(SHARDS * ROWS, D)
    (tmp_path / "source").mkdir()
    for i in range(SHARDS):
        part = batch.take(slice(i * ROWS, (i + 1) * ROWS))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.x.ravel()), D)
        pq.write_table(pa.table({"id": part.ids, "vector": vectors}), tmp_path / "source" / f"{i:03}.parquet")
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HASHKILN_COMMIT_SHARDS", "4")
    settings = Settings()
    ingest.ingest_source("many", str(tmp_path / "source"), settings, Columns())
    return settings


def driver(executor):
    code = textwrap.dedent(DRIVER).replace("SPEC", repr(SPEC.model_dump_json()))
    environment = {**os.environ, "HASHKILN_EXECUTOR": executor, "HASHKILN_CPUS": "2"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout.readline() == "encoding\n"
    return process


def committed(settings):
    """The shards on the staged branch."""
    table = stages.open_table(settings, "many__lsh64")
    branches = [version for version in table.versions() if version.name.startswith("staged-")]
    return table.parts(branches[0].snapshot_id) if branches else {}


def wait_for(condition, process, what):
    deadline = time.monotonic() + 60
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{what}: the driver ended with {process.poll()}, or a minute passed")
        time.sleep(0.002)


def finish_and_check(settings, before):
    """Run the rest in this process. Only what was not committed is encoded, and readers get every row once."""
    table = stages.open_table(settings, "many__lsh64")
    assert table.version().name == "v0"
    assert table.parts(table.version().snapshot_id) == {}
    for part in before.values():
        assert filesystem.stat(part.url).size == part.size
    model = stages.fit(SPEC, settings, InProcess())
    staged = stages.stage(SPEC, settings, InProcess(), model)
    assert staged.encoded == (SHARDS - len(before)) * ROWS
    report = stages.evaluate(SPEC, settings, InProcess(), staged)
    stages.publish(SPEC, settings, staged, report, stages.gate(SPEC, settings, staged, report), "")
    table.refresh()
    assert table.version().name == "v1"
    parts = table.parts(table.version().snapshot_id)
    assert len(parts) == SHARDS
    assert all(parts[name] == part for name, part in before.items())
    batches = [batch for shard in table.shards(table.version().snapshot_id) for batch in shard]
    ids = np.concatenate([batch.ids for batch in batches])
    np.testing.assert_array_equal(np.sort(ids), np.arange(SHARDS * ROWS))
    expected = pack(models.load(settings.warehouse_url, model.digest).encode(blobs(SHARDS * ROWS, D).x))
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), expected[ids])


@pytest.mark.parametrize(("executor", "attempt"), [("inprocess", 0), ("inprocess", 1), ("ray", 0)])
def test_kill_9_of_the_driver(settings, executor, attempt):
    after = random.uniform(0, 0.8)
    process = driver(executor)
    try:
        wait_for(lambda: len(committed(settings)) >= after * SHARDS, process, "before the kill")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
        _, alive = psutil.wait_procs(children, timeout=5)
        for child in alive:  # agents of Ray, which take their time
            child.kill()
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    before = committed(settings)
    assert after * SHARDS <= len(before) < SHARDS, f"killed after {after:.2f}"
    finish_and_check(settings, before)


def test_kill_9_of_a_worker(settings):
    process = driver("ray")

    def workers():
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "ray::encode" in "".join(child.cmdline())]

    def kill_one():
        try:
            found = workers()
            if not found:
                return False
            random.choice(found).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:  # it ended between two looks
            return False
        return True

    try:
        wait_for(kill_one, process, "no worker was seen encoding")
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert output.split()[-1] == str(SHARDS * ROWS)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    finish_and_check(settings, committed(settings))


def test_a_torn_file_in_the_way_of_a_part_is_replaced(settings, monkeypatch):
    """A part left half-written under its own name by other means: encoding its shard again writes it whole."""
    process = driver("inprocess")
    wait_for(lambda: len(committed(settings)) >= 8, process, "before the kill")
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait(timeout=10)
    before = committed(settings)
    folder = Path(stages.open_table(settings, "many__lsh64").data_folder)
    orphans = {str(path) for path in folder.iterdir()} - {part.url for part in before.values()}
    for path in orphans:
        Path(path).write_bytes(b"torn")
    finish_and_check(settings, before)
