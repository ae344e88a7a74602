"""From users' files to published versions: what is refused, what is printed, and which metric ranks the rows."""

import gzip
import json
from contextlib import nullcontext

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infra.executors import InProcess
from storage.features.contract import SourceRefused
from storage.features.dataset import dataset_names
from storage.features.rows import Columns
from tests.hub import serving_hub
from tests.workflows.conftest import reindex
from workflows import datasets
from workflows.checks import UsageError, check_run
from workflows.cli import app
from workflows.context import Context
from workflows.evaluation.judge import judge_of
from workflows.opening import open
from workflows.reader import Search
from workflows.search import read_queries
from workflows.spec import Spec

RNG = np.random.default_rng(0)


def spec(name, queries=20, **protocol):
    return Spec.model_validate(
        {"dataset": name, "method": {"method": "lsh", "bits": 16}, "protocol": {"queries": queries, **protocol}}
    )


def angular(path, word="angular", n=600, d=12, named=True):
    """Write an HDF5 file as ann-benchmarks does, whose neighbours by Euclidean distance are others."""
    x = (RNG.normal(size=(n, d)) * RNG.lognormal(size=(n, 1))).astype(np.float32)
    queries = RNG.normal(size=(30, d)).astype(np.float32)
    score = queries @ x.T.astype(np.float64)
    order = np.argsort(-score / np.linalg.norm(x, axis=1) if word == "angular" else -score, axis=1)[:, :50]
    with h5py.File(path, "w") as file:
        file["train"], file["test"], file["neighbors"] = x, queries, order.astype(np.int32)
        file.attrs.update({"distance": word} if named else {})
    return order


@pytest.mark.parametrize("named", [True, False])  # else its neighbours show it
@pytest.mark.parametrize(("word", "metric", "said"), [("angular", "cosine", "cosine"), ("ip", "ip", "inner product")])
def test_a_file_is_judged_by_its_own_metric(tmp_path, settings, word, metric, said, named):
    expected = angular(tmp_path / "x.hdf5", word, named=named)
    dataset = datasets.ingest_source("x", str(tmp_path / "x.hdf5"), settings, Columns())
    assert dataset.metric == metric
    assert ("its neighbors" in dataset.source) == (not named)
    judge = judge_of(Context.of(spec("x", relevance="neighbours"), settings, InProcess()), ())
    assert f"nearest rows by {said}" in judge.protocol
    np.testing.assert_array_equal(judge.neighbours[:, :50], expected)
    refused = pytest.raises(SourceRefused, match=f"says {metric}, found euclidean: leave it out")
    with refused if named else nullcontext():
        other = datasets.ingest_source("y", str(tmp_path / "x.hdf5"), settings, Columns(), metric="euclidean")
        assert (other.metric, "its neighbors" in other.source) == ("euclidean", False)


def test_bits_in_a_file_are_judged_by_hamming_distance(tmp_path, settings):
    x = RNG.random((200, 24)) < 0.5
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["train"], file["test"] = x, x[:5] ^ (RNG.random((5, 24)) < 0.1)
        file.attrs["distance"] = "hamming"
        distances = (x ^ file["test"][:][:, None]).sum(axis=2)
    dataset = datasets.ingest_source("x", str(tmp_path / "x.hdf5"), settings, Columns())
    assert dataset.metric == "hamming"
    judge = judge_of(Context.of(spec("x", relevance="neighbours", neighbours=9), settings, InProcess()), ())
    assert "the 9 nearest rows by Hamming distance" in judge.protocol
    np.testing.assert_array_equal(judge.neighbours, np.argsort(distances, axis=1, kind="stable")[:, :9])


def test_reranking_uses_the_metric_of_the_dataset(tmp_path, settings):
    expected = angular(tmp_path / "x.hdf5")
    datasets.ingest_source("x", str(tmp_path / "x.hdf5"), settings, Columns())
    reindex(settings, spec("x"))
    with h5py.File(tmp_path / "x.hdf5") as file:
        queries = file["test"][:]
    for resident in (True, False):
        table = open("x__lsh16", settings=settings, resident=resident)
        distances, ids = table.search(queries, k=50, rerank=600)
        np.testing.assert_array_equal(ids, expected)
        assert ((distances >= 0) & (distances <= 2)).all()
        with pytest.raises(ValueError, match=r"expected vectors other than zero, which has no cosine, .* in row 1"):
            table.search(np.vstack([queries[:1], 0 * queries[:1]]), k=5, rerank=60)
    np.save(tmp_path / "zero.npy", 0 * queries[:1])
    with pytest.raises(ValueError, match=r"expected a vector other than zero, .* in row 0 of .*zero\.npy$"):
        read_queries(table.dataset, str(tmp_path / "zero.npy"))
    assert Search(k=5, rerank=10).distance(table.dataset.distance, table.function) == "cosine"


def test_too_few_rows_for_the_queries_are_refused_before_work(tmp_path, settings):
    pq.write_table(pa.table({"id": range(60), "vector": RNG.normal(size=(60, 4)).tolist()}), tmp_path / "a.parquet")
    datasets.ingest_source("few", str(tmp_path / "a.parquet"), settings, Columns())
    with pytest.raises(UsageError, match="60 rows are too few to draw 1,000 queries from: pass fewer by --queries"):
        check_run(spec("few", 1000), settings)
    check_run(spec("few", 59), settings)
    pq.write_table(pa.table({"id": [1], "vector": [[1.0, 2.0]]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="dataset few has 1 row: expected at least 2"):
        check_run(spec("few", 1000), settings)


def test_ids_cannot_become_keys_under_the_same_name(tmp_path, settings):
    table = pa.table(
        {"id": range(60), "key": [f"k{i}" for i in range(60)], "vector": [[float(i)] * 4 for i in range(60)]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    datasets.ingest_source("mine", str(tmp_path / "a.parquet"), settings, Columns())
    with pytest.raises(SourceRefused, match=r"expected --id-column id, found --key-column key; .* another name"):
        datasets.ingest_source("mine", str(tmp_path / "a.parquet"), settings, Columns(id="key", keyed=True))


def test_unknown_forms_are_refused_with_the_supported_ones(tmp_path, settings):
    for name in ("x.csv", "x.fbin.gz", "x.npy.gz"):  # of the compressed forms, only .fvecs and .bvecs
        (tmp_path / name).write_text("1,2,3\n")
        with pytest.raises(SourceRefused, match=rf"{name}: expected one of: Parquet files, .*\.npy.*; found {name}"):
            datasets.ingest_source("x", str(tmp_path / name), settings, Columns())


def test_contradictions_to_options_or_queries_are_refused_before_anything_is_written(tmp_path, settings):
    def ingest(source, query=None, **options):
        query = query and str(tmp_path / query)
        datasets.ingest_source("x", str(tmp_path / source), settings, Columns(x=""), query, **options)

    np.save(tmp_path / "x.npy", RNG.normal(size=(40, 4)))
    np.save(tmp_path / "narrow.npy", RNG.normal(size=(5, 3)))
    np.save(tmp_path / "zeros.npy", np.zeros((5, 4)))
    for source, query, options, message in (
        ("x.npy", "narrow.npy", {}, "vectors of one dimension, found 4 in the base rows and 3 in the query rows"),
        ("x.npy", None, {"metric": "hamming"}, "expected a vector of 0 and 1, compared by hamming"),
        ("zeros.npy", None, {"metric": "cosine"}, "expected vectors other than zero, which has no cosine"),
        ("x.npy", None, {"labels_as": "values"}, "--labels-as: .* leave it out"),
        ("x.npy", None, {"side": 24}, "--side applies only to pictures"),
        ("x.npy", None, {"metric": "l2"}, "metric: expected one of None, euclidean, cosine, ip, hamming, found 'l2'"),
        ("x.npy", None, {"labels_as": "hot"}, "labels_as: expected one of None, values, multi-hot, found 'hot'"),
    ):
        with pytest.raises(SourceRefused, match=message):
            ingest(source, query, **options)
    assert not (tmp_path / "home" / "warehouse" / "datasets").exists()


def test_later_rows_that_are_no_bits_are_refused_and_nothing_is_ingested(tmp_path, settings, monkeypatch):
    monkeypatch.setattr("storage.formats.npy.BLOCK_BYTES", 160)
    x = (RNG.random((40, 4)) < 0.5).astype(np.float32)
    x[33, 1] = 2
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(SourceRefused, match=r"a vector of 0 and 1, compared by hamming, .* in row 33 of the base rows"):
        datasets.ingest_source("x", str(tmp_path / "x.npy"), settings, Columns(), metric="hamming")
    assert dataset_names(settings.warehouse_url) == []
    assert [path for path in settings.home.rglob("*") if path.is_file()] == []


def test_suffixes_in_capitals_are_accepted(tmp_path, settings):
    np.save(tmp_path / "x.npy", RNG.normal(size=(40, 4)))
    (tmp_path / "x.npy").rename(tmp_path / "X.NPY")
    assert datasets.ingest_source("x", str(tmp_path / "X.NPY"), settings, Columns()).understood["base"].rows == 40
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    rows = np.hstack([np.full((3, 1), 4, "<i4").view(np.float32), x])
    (tmp_path / "X.FVECS").write_bytes(rows.tobytes())
    (tmp_path / "X.FVECS.GZ").write_bytes(gzip.compress(rows.tobytes()))
    for i, name in enumerate(("X.FVECS", "X.FVECS.GZ")):
        assert datasets.ingest_source(f"v{i}", str(tmp_path / name), settings, Columns()).understood["base"].rows == 3
    table = pa.table({"id": range(60), "vector": [[float(i)] * 4 for i in range(60)]})
    pq.write_table(table, tmp_path / "A.PARQUET")
    assert datasets.ingest_source("y", str(tmp_path / "A.PARQUET"), settings, Columns()).dim == 4
    feather.write_feather(table, tmp_path / "A.Feather")
    (shard,) = datasets.ingest_source("z", str(tmp_path / "A.Feather"), settings, Columns()).shards("base")
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in shard])[:, 3], np.arange(60))


def test_ingest_prints_what_it_understood_and_exits_with_2_if_it_refuses(tmp_path, settings, monkeypatch):
    hot = np.eye(3, dtype=int)[RNG.integers(0, 3, 60)]
    table = pa.table({"id": range(60), "vector": [[float(i)] * 4 for i in range(60)], "labels": hot.tolist()})
    pq.write_table(table, tmp_path / "a.parquet")
    told = ["ingest", str(tmp_path / "a.parquet"), "--name", "mine", "--label-column", "labels"]
    with pytest.raises(SourceRefused, match="--labels-as multi-hot"):
        CliRunner().invoke(app, told, catch_exceptions=False)
    said = CliRunner().invoke(app, [*told, "--labels-as", "multi-hot"], catch_exceptions=False)
    assert said.exit_code == 0
    for words in ("60 rows, 1 file", "ids (int64) in column id", "multi-hot of width 3", "euclidean"):
        assert words in said.stdout
    found = CliRunner().invoke(app, [*told, "--labels-as", "values", "--replace", "--json"], catch_exceptions=False)
    assert json.loads(found.stdout)["understood"]["base"]["labels"].startswith("values (lists of int64)")


@pytest.mark.parametrize("suffix", ["npy", "fvecs", "hdf5"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_by_the_row_of_the_users_file(tmp_path, settings, suffix, value):
    x = RNG.normal(size=(40, 4)).astype(np.float32)
    x[7, 1] = value
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, x)
    elif suffix == "fvecs":
        path.write_bytes(np.hstack([np.full((40, 1), 4, "<i4").view(np.float32), x]).tobytes())
    else:
        with h5py.File(path, "w") as file:
            file["train"], file["test"] = x, x[:3]
    with pytest.raises(
        SourceRefused, match=rf"expected 4 finite numbers, found NaN or infinity, in row 7 of the base rows of {path}"
    ):
        datasets.ingest_source("x", str(path), settings, Columns())


def test_numbers_of_any_width_and_byte_order_are_read_from_npy(tmp_path, settings):
    x = RNG.normal(size=(40, 4)).astype(np.float32)
    for i, dtype in enumerate((">f4", ">f8", np.longdouble, "<f2", ">i2")):
        np.save(tmp_path / f"{i}.npy", x.astype(dtype))
        dataset = datasets.ingest_source(f"d{i}", str(tmp_path / f"{i}.npy"), settings, Columns())
        read = np.concatenate([batch.x for batch in dataset.shards("base")[0]])
        np.testing.assert_array_equal(read, x.astype(dtype).astype(np.float32))
    np.save(tmp_path / "big.npy", np.full((40, 4), 1e300))
    with pytest.raises(SourceRefused, match=r"in row 0 of the base rows of .*big\.npy"):
        datasets.ingest_source("x", str(tmp_path / "big.npy"), settings, Columns())


def test_what_is_missing_or_hidden_is_refused_in_words(tmp_path, settings):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".a.parquet").write_bytes(b"")
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "a.parquet").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.npy").mkdir()
    for name, message in (
        ("nothing", "no such file or folder: .*nothing$"),
        ("x.npy", "no such file: .*x.npy$"),
        ("x.hdf5", "no such file: .*x.hdf5$"),
        ("hidden", "no data files in .*: names that begin with . or _ are not data"),
        ("dangling", "no such file: .*a.parquet"),
        ("folder.npy", "no data files in .*folder.npy$"),
    ):
        with pytest.raises(SourceRefused, match=message):
            datasets.ingest_source("x", str(tmp_path / name), settings, Columns())


def test_queries_of_a_form_without_ids_are_refused_in_words(tmp_path, settings):
    pq.write_table(pa.table({"id": range(60), "vector": [[float(i)] * 4 for i in range(60)]}), tmp_path / "a.parquet")
    np.save(tmp_path / "q.npy", np.ones((5, 4)))
    base, query = str(tmp_path / "a.parquet"), str(tmp_path / "q.npy")
    with pytest.raises(SourceRefused, match=r"q\.npy: a \.npy file holds vectors only, so store them with their id"):
        datasets.ingest_source("x", base, settings, Columns(), query)


def test_splits_whose_labels_have_other_types_are_refused(tmp_path, settings):
    for name, labels, first in (("base", [1] * 60, 0), ("query", ["1"] * 60, 100)):
        table = {"id": np.arange(first, first + 60), "vector": [[float(i)] * 4 for i in range(60)], "labels": labels}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    with pytest.raises(SourceRefused, match=r"column labels: expected int64 as in .*base\.parquet, found string, in"):
        datasets.ingest_source(
            "x", str(tmp_path / "base.parquet"), settings, Columns(labels="labels"), str(tmp_path / "query.parquet")
        )


def test_keys_that_are_no_names_are_refused(tmp_path, settings):
    for values, message in (
        (pa.array([[i] for i in range(60)]), "expected keys of strings, bytes, UUIDs or integers, found list"),
        (pa.array([i / 2 for i in range(60)]), "expected keys of .* found double"),
        (pa.array([*map(str, range(59)), None]), "expected a key in every row, found null in row 59"),
    ):
        pq.write_table(pa.table({"key": values, "vector": [[float(i)] * 4 for i in range(60)]}), tmp_path / "a.parquet")
        with pytest.raises(SourceRefused, match=message):
            datasets.ingest_source("x", str(tmp_path / "a.parquet"), settings, Columns(id="key", keyed=True))


def test_keys_that_became_floats_later_are_refused(tmp_path, settings):
    (tmp_path / "d").mkdir()
    for name, first, kind in (("a", 0, pa.int64()), ("b", 60, pa.float64())):  # as pandas stores integers beside NaN
        table = {"key": pa.array(range(first, first + 60)).cast(kind), "vector": [[float(i)] * 4 for i in range(60)]}
        pq.write_table(pa.table(table), tmp_path / "d" / f"{name}.parquet")
        if name == "a":
            datasets.ingest_source("x", str(tmp_path / "d"), settings, Columns(id="key", keyed=True))
    with pytest.raises(ValueError, match=r"expected keys of strings, .* found double, in .*b\.parquet"):
        reindex(settings, spec("x"))


def test_a_dataset_of_a_hub_is_read_as_a_local_one(tmp_path, settings, run_command, monkeypatch):
    folder = tmp_path / "published"
    x = RNG.normal(size=(80, 8)).astype(np.float32)
    for name, rows in (("base", slice(60)), ("asked", slice(60, 80))):
        (folder / name).mkdir(parents=True)
        keys = [f"row-{i}" for i in range(80)[rows]]
        pq.write_table(pa.table({"_id": keys, "emb": list(x[rows])}), folder / name / "0.parquet")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source = "hf://datasets/some/vectors"
    with serving_hub(folder, "some/vectors") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        code, out, _ = run_command(
            "ingest", f"{source}/base", "--query", f"{source}/asked", "--name", "vectors", "--key-column", "_id",
            "--vector-column", "emb", "--metric", "cosine",
        )  # fmt: skip
        assert code == 0, out
        code, _, error = run_command("ingest", f"{source}@none", "--name", "other")
        assert (code, "no such dataset or revision" in " ".join(error.split())) == (2, True)
        code, _, error = run_command("ingest", "hf://some/vectors", "--name", "other")
        assert (code, "expected hf://datasets/OWNER/NAME" in " ".join(error.split())) == (2, True)
    staged, _, version = reindex(settings, spec("vectors", relevance="neighbours"))  # the hub is not asked again
    assert (staged.rows, version) == (60, "v1")
