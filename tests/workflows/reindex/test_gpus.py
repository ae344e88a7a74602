"""Encoding in tasks that take GPUs, which Ray claims to have; torch computes on the CPU."""

import os
from pathlib import Path

import pytest

from infra.executors import InProcess
from infra.settings import Settings
from storage.features.rows import Columns
from storage.tables.table import Version
from tests.conftest import blobs
from tests.workflows.conftest import reindex, spec, table_of, write_shard
from workflows import datasets
from workflows.checks import UsageError, check_run
from workflows.evaluation import flow
from workflows.reindex import planning
from workflows.spec import Protocol
from workflows.tables import verify

DEEP = {"method": "dpsh", "bits": 16, "parameters": {"network": "mlp", "epochs": 1}}
TABLE = "mine__dpsh16"
SSD = '{"ssd": 1}'  # there is one: so one actor, as each takes seconds to start


def properties(settings):
    version = table_of(settings, TABLE).version()
    return [version.name, *(version.properties[name] for name in ("device", "precision", "encoded"))]


def main(executor, folder):
    """Reindex on the CPU, on GPUs, with bfloat16 and on the CPU again; the properties of each version."""
    folder = Path(folder)
    os.environ.update(HASHKILN_HOME=str(folder / "home"), HASHKILN_DEVICE="cpu")
    for i in range(2):
        write_shard(folder / "source", f"{i}.parquet", blobs(200, seed=i, first_id=1000 * i))
    here = Settings(executor="inprocess")
    datasets.ingest_source("mine", str(folder / "source"), here, Columns(id="key", x="embedding", labels="tags"))
    found = {}

    def run(name, settings, executor, **changes):
        reindex(settings, spec(method=DEEP, gate={"max_loss": {"map": 1}}, **changes), executor)
        found[name] = properties(settings)

    run("cpu", here, InProcess())
    os.environ.update(HASHKILN_ENCODE_GPUS="1", HASHKILN_EVALUATE_GPUS="1")
    os.environ.update(HASHKILN_ENCODE_CUSTOM=SSD, HASHKILN_EVALUATE_CUSTOM=SSD)
    there = Settings()
    write_shard(folder / "source", "2.parquet", blobs(200, seed=2, first_id=2000))
    run("gpu", there, executor)
    run("unchanged", there, executor)
    del os.environ["HASHKILN_EVALUATE_GPUS"], os.environ["HASHKILN_EVALUATE_CUSTOM"]  # no floats: once is enough
    run("bf16", Settings(), executor, precision="bf16")
    del os.environ["HASHKILN_ENCODE_GPUS"], os.environ["HASHKILN_ENCODE_CUSTOM"]
    os.environ["HASHKILN_EXECUTOR"] = "inprocess"
    checked = verify.verify(TABLE, deep=True)
    found["verified"] = [checked.problems, checked.bits, checked.near]
    run("again", here, InProcess())
    return found


@pytest.fixture(scope="module")
def found(fake_gpus, tmp_path_factory):
    return fake_gpus.run("tests.workflows.reindex.test_gpus", tmp_path_factory.mktemp("gpus"))


def test_a_version_records_the_devices_and_the_precision_that_encoded_it(found):
    assert found["cpu"] == ["v1", "cpu", "float32", "400"]
    assert found["gpu"] == ["v2", "cpu, torch on cpu", "float32", "200"]
    assert found["unchanged"] == found["gpu"]


def test_another_precision_encodes_every_row_again(found):
    assert found["bf16"] == ["v3", "torch on cpu", "bf16", "600"]
    name, device, precision, encoded = found["again"]
    assert (name, precision, encoded) == ("v4", "float32", "0")  # the parts of v1 and v2 are as they were
    assert device == "cpu, torch on cpu"


def test_bits_that_differ_by_the_precision_are_counted_apart(found):
    problems, compared, near = found["verified"]
    assert (problems, compared) == ([], 600 * 16)
    assert 0 < near < 100


def version(**properties):
    return Version("v1", 1, 0, properties)


def test_versions_before_there_were_precisions_are_of_float32():
    assert planning.same_encoding(version(model="a"), "a", "float32")
    assert not planning.same_encoding(version(model="a"), "a", "bf16")
    assert planning.same_encoding(version(model="a", precision="bf16"), "a", "bf16")
    assert not planning.same_encoding(version(model="a", precision="bf16"), "b", "bf16")


def test_precisions_that_gain_nothing_or_lack_a_gpu_are_refused(settings, mine, monkeypatch):
    with pytest.raises(ValueError, match="precision: expected float32 for itq, found bf16: only networks run in it"):
        spec(precision="bf16")
    deep = spec(method=DEEP, precision="bf16")
    with pytest.raises(UsageError, match=r"^--precision bf16 needs GPUs: set HASHKILN_ENCODE_GPUS=1$"):
        check_run(deep, settings)
    monkeypatch.setenv("HASHKILN_ENCODE_GPUS", "1")
    message = r"^expected a machine with 1 CPUs, 1 GPUs for a task, found .*, for HASHKILN_ENCODE_"
    with pytest.raises(UsageError, match=message):
        check_run(deep, Settings())


@pytest.mark.parametrize(
    ("stage", "run"),
    [
        ("EVALUATE", lambda table: flow.evaluate_version(table, "main", None, Protocol(queries=20, new_queries=True))),
        ("ENCODE", lambda table: verify.verify(table, deep=True)),
    ],
    ids=["evaluate", "verify"],
)
def test_resources_that_no_machine_has_are_refused_before_anything_is_made(stage, run, settings, mine, monkeypatch):
    reindex(settings, spec())
    before = sorted(settings.home.rglob("*"))
    monkeypatch.setenv(f"HASHKILN_{stage}_GPUS", "1")
    message = rf"^expected a machine with 1 CPUs, 1 GPUs for a task, found .*, for HASHKILN_{stage}_"
    with pytest.raises(UsageError, match=message):
        run("mine__itq16")
    assert sorted(settings.home.rglob("*")) == before
