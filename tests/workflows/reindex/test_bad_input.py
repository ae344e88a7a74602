"""Bad input gives one line that names file and row, and publishes nothing."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.executors import InProcess
from infra.settings import Settings
from storage.features import columns as feature_columns
from storage.features import shard
from storage.features.shard import Columns, SourceChanged
from storage.files import filesystem
from storage.tables.parts import CodeShard, dropped_rows, quarantine_urls
from tests.conftest import blobs
from workflows import datasets
from workflows.context import Context, open_table
from workflows.reindex import fitting, gate, publishing, staging
from workflows.spec import Spec

D, N = 4, 5000  # two batches of 4096 rows
GOOD = blobs(N, D, first_id=10_000)


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Rows are read 4096 at a time, so a fault in the second batch shows whether row numbers continue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "batch_rows", lambda dim: 4096)
        yield


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    monkeypatch.setenv("HASHKILN_COMMIT_SHARDS", "1")
    return Settings()


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    for i in range(2):
        write(tmp_path / "source" / f"good{i}.parquet", blobs(100, D, seed=i, first_id=1000 * i))
    return tmp_path / "source"


@pytest.fixture
def model(settings, source):
    """The model of the good shards, and a dataset that has them."""
    datasets.ingest_source("mine", str(source), settings, Columns(labels="labels"))
    return fitting.fit(Context.of(spec(), settings, InProcess()))


def spec(**changes):
    method = {"method": "lsh", "bits": 8}
    return Spec.model_validate({"dataset": "mine", "method": method, "protocol": {"queries": 10}, **changes})


def write(path, batch=GOOD, **columns):
    """Write a valid shard with some columns replaced, or left out if None."""
    labels = pa.array([[int(c)] for c in batch.y.argmax(1)])
    table = {"id": pa.array(batch.ids), "vector": pa.array(list(batch.x)), "labels": labels} | columns
    pq.write_table(pa.table({name: column for name, column in table.items() if column is not None}), path)


def ids(values, kind=None):
    """Return ids of all rows, some of them replaced."""
    found = GOOD.ids.tolist()
    for row, value in values.items():
        found[row] = value
    return pa.array(found, kind)


def vectors(values):
    found = list(GOOD.x)
    for row, value in values.items():
        found[row] = value
    return pa.array(found, pa.list_(pa.float32()))


def element(row, place, value):
    x = GOOD.x.astype(np.float64)
    x[row, place] = value
    return pa.array(list(x))


def torn(path):
    write(path)
    path.write_bytes(path.read_bytes()[:-1000])


def rotten(path):
    """Overwrite a page in the middle and keep the footer intact."""
    write(path)
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 200)


def both(first, second):
    """Two shards at once."""

    def make(path):
        write(path, first)
        write(path.with_name("bad2.parquet"), second)

    return make


def columns(**given):
    return lambda path: write(path, **given)


CASES = {
    "nan": (columns(vector=vectors({4500: [0, np.nan, 0, 0]})),
            "expected 4 finite numbers, found NaN or infinity, in row 4500 of {}" + feature_columns.DROP),
    "infinity": (columns(vector=vectors({0: [0, 0, 0, -np.inf]})),
                 "expected 4 finite numbers, found NaN or infinity, in row 0 of {}" + feature_columns.DROP),
    "beyond float32": (columns(vector=element(3, 1, 1e300)),
                       "expected 4 finite numbers, found NaN or infinity, in row 3 of {}" + feature_columns.DROP),
    "null number": (columns(vector=vectors({4097: [0, None, 0, 0]})),
                    "expected 4 finite numbers, found null among them, in row 4097 of {}" + feature_columns.DROP),
    "null vector": (columns(vector=vectors({4098: None})),
                    "expected 4 finite numbers, found null, in row 4098 of {}" + feature_columns.DROP),
    "dimension": (columns(vector=vectors({4999: [1.0, 2.0]})),
                  "expected vectors of dimension 4, found 2, in row 4999 of {}" + feature_columns.DROP),
    "empty vector": (columns(vector=vectors({7: []})),
                     "expected vectors of dimension 4, found 0, in row 7 of {}" + feature_columns.DROP),
    "fixed dimension": (columns(vector=pa.array([[1.0] * 3] * N, pa.list_(pa.float32(), 3))),
                        "expected vectors of dimension 4, found 3, in every row of {}"),
    "no numbers": (columns(vector=pa.array([["x"] * D] * N)),
                   "expected vectors, lists of numbers, found list<element: string>, in {}"),
    "texts": (columns(vector=pa.array(["x"] * N)),
              "expected vectors, lists of numbers, found string, in {}"),
    "null id": (columns(id=ids({4600: None})), "expected an id in every row, found null in row 4600 of {}"),
    "beyond int64": (columns(id=ids({4700: 2**63 + 5}, pa.uint64())),
                     "expected ids of int64, found 9223372036854775813, in row 4700 of {}; ingest --key-column *"),
    "no id": (columns(id=ids({4800: -1})),
              "expected ids other than -1, which marks missing neighbours, found it in row 4800 of {}"),
    "float ids": (columns(id=pa.array(GOOD.ids.astype(float))), "expected integer ids, found double, in {}"),
    "string ids": (columns(id=pa.array(GOOD.ids.astype(str))),
                   "expected integer ids, found string, in {}; ingest --key-column reads them as keys"),
    "duplicate": (columns(id=ids({4999: 10_000, 4998: 10_001})),
                  "expected unique ids, found 2 more than once (10000, 10001), in {}"),
    "duplicate across": (both(GOOD.take(slice(0, 100)), GOOD.take(slice(97, 200))),
                         "expected unique ids, found 3 in two shards: 10097 in bad.parquet and bad2.parquet, 1*"),
    "no id column": (columns(id=None), "expected the columns id, found vector, labels, in {}"),
    "no vector column": (columns(vector=None), "expected the columns vector, found id, labels, in {}"),
    "no label column": (columns(labels=None), "expected the columns labels, found id, vector, in {}"),
    "float labels": (columns(labels=pa.array(np.zeros(N))),
                     "expected labels of integers, strings or bools, or lists of these, found double, in {}"),
    "no parquet": (lambda path: path.write_bytes(b"nothing of the kind"),
                   "{} is not a Parquet file: "
                   "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet "
                   "file."),
    "nothing": (lambda path: path.write_bytes(b""),
                "{} is not a Parquet file: Parquet file size is 0 bytes"),
    "torn": (torn, "{} is not a Parquet file: "
             "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."),
    "rotten": (rotten, "{} is damaged after row 0: *"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_line(settings, source, model, case):
    make, expected = CASES[case]
    make(source / "bad.parquet")
    with pytest.raises(ValueError, match=r"bad\.parquet") as refused:
        staging.stage(Context.of(spec(), settings, InProcess()), model)
    line, expected = str(refused.value), expected.format(source / "bad.parquet")
    assert line == expected if not expected.endswith("*") else line.startswith(expected[:-1])
    assert "\n" not in line
    table = Context.of(spec(), settings, InProcess()).known_table()  # ids are compared between shards that are encoded
    assert (table.version().name if table else None) == ("v0" if case == "duplicate across" else None)


def test_invalid_rows_can_be_dropped_and_are_reported(settings, source, model):
    values = {3: None, 4500: [np.nan] * D, 4501: [1.0], 4999: [None] * D}
    write(source / "bad.parquet", vector=vectors(values))
    dropping = spec(bad_rows="drop")
    staged = staging.stage(Context.of(dropping, settings, InProcess()), model)
    assert staged.rows == 200 + N - 4
    table = table_of(settings)
    parts = table.parts(table.version(staged.branch).snapshot_id)
    assert dropped_rows(parts.values()) == {"bad.parquet": 4}
    told = pq.read_table(quarantine_urls(parts["bad.parquet"].url)[0]).to_pylist()
    assert [(row["row"], row["id"], row["reason"]) for row in told] == [
        (3, 10_003, "expected 4 finite numbers, found null"),
        (4500, 14_500, "expected 4 finite numbers, found NaN or infinity"),
        (4501, 14_501, "expected vectors of dimension 4, found 1"),
        (4999, 14_999, "expected 4 finite numbers, found null among them"),
    ]
    assert {row["file"] for row in told} == {str(source / "bad.parquet")}
    (batch,) = CodeShard(parts["bad.parquet"], 8, range(6))
    good = np.setdiff1d(np.arange(N), list(values))
    np.testing.assert_array_equal(batch.ids, GOOD.ids[good])
    np.testing.assert_array_equal(batch.y, GOOD.y[good])
    report = gate.evaluate_staged(Context.of(dropping, settings, InProcess()), staged)
    verdict = gate.gate(Context.of(dropping, settings, InProcess()), staged, report)
    assert verdict.passed, verdict.reasons
    assert publishing.publish(Context.of(dropping, settings, InProcess()), staged, report, verdict, "page") == "v1"
    assert staging.stage(Context.of(dropping, settings, InProcess()), model).unchanged


def table_of(settings):
    return open_table(settings, "mine__lsh8")


def test_empty_shards_are_processed_once(settings, source, model):
    empty = blobs(0, D)
    for name in ("a_empty.parquet", "z_empty.parquet"):
        write(source / name, empty, vector=vectors({}).slice(0, 0), labels=pa.array([], pa.list_(pa.int64())))
    staged = staging.stage(Context.of(spec(), settings, InProcess()), model)
    assert (staged.rows, staged.encoded) == (200, 200)
    parts = table_of(settings).parts(table_of(settings).version(staged.branch).snapshot_id)
    assert {name: part.rows for name, part in parts.items() if "empty" in name} == {
        "a_empty.parquet": 0,
        "z_empty.parquet": 0,
    }
    report = gate.evaluate_staged(Context.of(spec(), settings, InProcess()), staged)
    verdict = gate.gate(Context.of(spec(), settings, InProcess()), staged, report)
    assert publishing.publish(Context.of(spec(), settings, InProcess()), staged, report, verdict, "page") == "v1"
    assert staging.stage(Context.of(spec(), settings, InProcess()), model).unchanged
    (source / "z_empty.parquet").unlink()  # one of them leaves, the other stays
    staged = staging.stage(Context.of(spec(), settings, InProcess()), model)
    assert (staged.rows, staged.encoded, staged.removed) == (200, 0, 1)
    left = table_of(settings).parts(table_of(settings).version(staged.branch).snapshot_id)
    assert left.keys() == parts.keys() - {"z_empty.parquet"}


def meddle(monkeypatch, deed, times=1):
    """Do something to the source after the first batch of a shard was read."""
    usable, done = feature_columns.usable_rows, []

    def read(column, dim, where, *more):
        if len(done) < times and where.endswith("mine.parquet"):
            done.append(where)
            deed()
        return usable(column, dim, where, *more)

    monkeypatch.setattr(feature_columns, "usable_rows", read)
    return done


def test_a_shard_that_changes_during_reading_is_read_again(settings, source, model, monkeypatch):
    write(source / "mine.parquet")
    done = meddle(monkeypatch, lambda: write(source / "mine.parquet", blobs(N, D, seed=5, first_id=10_000)))
    staged = staging.stage(Context.of(spec(), settings, InProcess()), model)
    assert done
    assert staged.rows == 200 + N
    parts = table_of(settings).parts(table_of(settings).version(staged.branch).snapshot_id)
    assert staged.encoded == N  # what the first attempt encoded is kept
    again = staging.stage(Context.of(spec(code="again"), settings, InProcess()), model)
    table = open_table(settings, "mine__again")
    assert table.parts(table.version(again.branch).snapshot_id).keys() == parts.keys()
    assert {p.url.rsplit("/")[-1] for p in table.parts(table.version(again.branch).snapshot_id).values()} == {
        p.url.rsplit("/")[-1] for p in parts.values()
    }


def test_a_shard_deleted_during_reading_is_removed(settings, source, model, monkeypatch):
    write(source / "mine.parquet")
    meddle(monkeypatch, (source / "mine.parquet").unlink)
    assert staging.stage(Context.of(spec(), settings, InProcess()), model).rows == 200


def test_a_shard_that_keeps_changing_is_refused(settings, source, model, monkeypatch):
    path = source / "mine.parquet"
    write(path)
    meddle(monkeypatch, lambda: os.utime(path, ns=(1, path.stat().st_mtime_ns + 1)), times=99)
    with pytest.raises(SourceChanged, match=r"mine\.parquet changed after it was listed: from .* to "):
        staging.stage(Context.of(spec(), settings, InProcess()), model)
    assert table_of(settings).version().name == "v0"


def test_a_dataset_without_rows_is_refused(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty" / "a.parquet", blobs(0, D), vector=vectors({}).slice(0, 0), labels=None)
    with pytest.raises(ValueError, match=r"expected at least one row, found none in .*empty"):
        datasets.ingest_source("none", str(tmp_path / "empty"), settings, Columns())


def test_the_warehouse_is_refused_as_a_source(settings, source, model, folder, monkeypatch):
    root = folder if "://" in folder else str(source.parent / "own")
    filesystem.write_bytes(f"{root}/good.parquet", (source / "good0.parquet").read_bytes())
    for warehouse, inside in ((f"{root}/w", True), (root, True), (f"{root}/.w/x", False), (f"{root}-other", False)):
        monkeypatch.setenv("HASHKILN_WAREHOUSE", warehouse)
        own = Settings()
        if inside:
            line = f"the source {root} contains the warehouse {warehouse}: move one of them$"
            with pytest.raises(ValueError, match=line):
                datasets.ingest_source("mine", root, own, Columns())
        else:
            filesystem.write_bytes(f"{warehouse}/codes/data/own.parquet", b"one of ours")
            dataset = datasets.ingest_source("mine", root, own, Columns())
            assert [shard.name for shard in dataset.shards("base")] == ["good.parquet"]


def test_int32_ids_and_empty_first_shards_are_accepted(settings, source, model):
    write(source / "a.parquet", blobs(0, D), vector=vectors({}).slice(0, 0), labels=pa.array([], pa.list_(pa.int64())))
    write(source / "int32.parquet", id=pa.array(GOOD.ids, pa.int32()))
    assert datasets.ingest_source("mine2", str(source), settings, Columns()).dim == D
    assert staging.stage(Context.of(spec(), settings, InProcess()), model).rows == 200 + N
