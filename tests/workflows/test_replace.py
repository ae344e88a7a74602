"""Datasets that are ingested again with --replace: their shards, queries, fits and tables."""

import io
import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage import queries
from storage.features.contract import SourceRefused
from storage.features.dataset import load_dataset
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import hashkiln, rows_of
from workflows.context import open_table

settings = published_table.settings  # a fixture
RNG = np.random.default_rng(0)
RUN = "reindex", "--dataset", "mine", "--method", "lsh", "--bits", "16", "--queries", "20"
GIVEN = "--id-column", "i", "--vector-column", "x", "--label-column", "a"


@pytest.fixture
def file(tmp_path):
    """Write 1,200 rows with two columns each of ids, keys, vectors and labels."""
    n = range(1200)
    table = pa.table(
        {
            "i": list(n), "j": [10_000 + i for i in n], "k": [f"k{i}" for i in n], "l": [f"l{i}" for i in n],
            "x": RNG.normal(size=(1200, 4)).tolist(), "z": RNG.normal(size=(1200, 4)).tolist(),
            "a": [i % 3 for i in n], "b": [f"b{i % 2}" for i in n], "hot": [[i % 2, 1 - i % 2] for i in n],
            "empty": pa.array([None] * 1200, pa.int64()),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def ingest(source, *options):
    """Ingest a source as `mine`, after what it replaces; (exit code, what was printed)."""
    return hashkiln("ingest", str(source), "--name", "mine", *options, "--replace")


@pytest.mark.usefixtures("with_prefect_server")
@pytest.mark.parametrize(
    ("given", "others"),
    [
        (
            GIVEN,
            {
                ("--label-column", "b"): "expected --label-column a, found --label-column b",
                ("--vector-column", "z"): "expected --vector-column x, found --vector-column z",
                ("--id-column", "j"): "expected --id-column i, found --id-column j",
                ("--key-column", "k"): "expected --id-column i, found --key-column k",
            },
        ),
        (
            ("--vector-column", "x", "--key-column", "k", "--label-column", "hot", "--labels-as", "values"),
            {
                ("--labels-as", "multi-hot"): "expected labels as values, found labels as multi-hot",
                ("--key-column", "l"): "expected --key-column k, found --key-column l",
            },
        ),
    ],
)
def test_a_table_keeps_the_columns_that_its_rows_were_read_from(settings, file, given, others):
    assert ingest(file, *given)[0] == 0
    assert hashkiln(*RUN)[0] == 0
    before, rows = load_dataset(settings.warehouse_url, "mine"), rows_of(settings, name="mine__lsh16")
    for other, said in others.items():
        with pytest.raises(SourceRefused, match=f"{said}; what was read before remains in table mine__lsh16"):
            ingest(file, *given, *other)
    assert load_dataset(settings.warehouse_url, "mine") == before
    assert ingest(file, *given)[0] == 0
    assert "Nothing to do" in hashkiln(*RUN)[1]
    assert rows_of(settings, name="mine__lsh16") == rows


@pytest.mark.usefixtures("with_prefect_server")
def test_a_table_keeps_labels_from_folders(settings, file, tmp_path):
    for i in range(2):
        (tmp_path / "hive" / f"c={i}" / f"d={i}").mkdir(parents=True)
        part = pq.read_table(file).slice(600 * i, 600)
        pq.write_table(part, tmp_path / "hive" / f"c={i}" / f"d={i}" / "rows.parquet")
    assert ingest(tmp_path / "hive", *GIVEN[:4], "--label-column", "c")[0] == 0
    assert hashkiln(*RUN)[0] == 0
    with pytest.raises(SourceRefused, match="expected --label-column c, found --label-column d"):
        ingest(tmp_path / "hive", *GIVEN[:4], "--label-column", "d")
    with pytest.raises(SourceRefused, match="expected labels of folders as int64, found labels in files"):
        ingest(tmp_path / "hive", *GIVEN)


@pytest.mark.usefixtures("with_prefect_server")
def test_a_table_keeps_the_side_of_its_pictures(settings, tmp_path):
    pictures = []
    for pixels in RNG.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8):
        Image.fromarray(pixels).save(content := io.BytesIO(), "png")
        pictures.append(content.getvalue())
    pq.write_table(pa.table({"id": range(60), "image": pictures}), tmp_path / "pictures.parquet")
    assert ingest(tmp_path / "pictures.parquet", "--side", "16")[0] == 0
    assert hashkiln(*RUN, "--relevance", "neighbours", "--neighbours", "5")[0] == 0
    with pytest.raises(SourceRefused, match="expected image of --side 16, found image of --side 24"):
        ingest(tmp_path / "pictures.parquet", "--side", "24")


@pytest.mark.usefixtures("with_prefect_server")
def test_another_metric_publishes_another_version(settings, file):
    run = *RUN, "--relevance", "neighbours", "--neighbours", "5", "--max-loss", "map=1"
    assert ingest(file, *GIVEN)[0] == 0
    assert hashkiln(*run)[0] == 0
    codes = rows_of(settings, name="mine__lsh16")
    assert ingest(file, *GIVEN, "--metric", "cosine")[0] == 0
    assert "Published mine__lsh16 v2: 1,200 rows, 1,200 encoded" in hashkiln(*run)[1]
    assert "by cosine" in open_table(settings, "mine__lsh16").version().properties["protocol"]
    assert rows_of(settings, name="mine__lsh16") == codes
    assert ingest(file, *GIVEN, "--metric", "cosine")[0] == 0
    assert "Nothing to do" in hashkiln(*run)[1]


@pytest.mark.usefixtures("with_prefect_server")
def test_without_a_table_other_columns_replace_what_was_kept_of_the_first_ones(settings, file):
    itq = "--dataset", "mine", "--method", "itq", "--bits", "4"
    assert ingest(file, *GIVEN)[0] == 0
    assert hashkiln("fit", *itq)[0] == 0
    first = queries.load_queries(settings.warehouse_url, "mine")
    assert ingest(file, "--id-column", "j", "--vector-column", "z", "--label-column", "b")[0] == 0
    assert "Published" in hashkiln("reindex", *itq)[1]
    second = queries.load_queries(settings.warehouse_url, "mine")
    rows = pq.read_table(file).to_pydict()
    assert {tuple(x) for x in second.x.tolist()} <= {tuple(np.float32(z).tolist()) for z in rows["z"]}
    assert set(map(tuple, second.labels)) == {("b0",), ("b1",)}
    assert first.ids.max() < 10_000 <= second.ids.min()
    assert open_table(settings, "mine__itq4").vocabulary == ("b0", "b1")


def test_a_model_fitted_on_other_columns_is_not_reused(settings, file):
    itq = "--dataset", "mine", "--method", "itq", "--bits", "4", "--json"
    models = []
    for vectors in ("x", "z", "x"):
        assert ingest(file, *GIVEN, "--vector-column", vectors)[0] == 0
        models.append(json.loads(hashkiln("fit", *itq)[1])["model"])
    assert models[0] == models[2] != models[1]


@pytest.mark.usefixtures("with_prefect_server")
def test_more_classes_are_the_same_reading(settings, file, tmp_path):
    write = partial(write_multi_hot, tmp_path / "hot.parquet")
    write(3)
    assert ingest(tmp_path / "hot.parquet", "--label-column", "labels", "--labels-as", "multi-hot")[0] == 0
    assert hashkiln(*RUN)[0] == 0
    write(4)
    assert ingest(tmp_path / "hot.parquet", "--label-column", "labels", "--labels-as", "multi-hot")[0] == 0
    assert load_dataset(settings.warehouse_url, "mine").columns.multi_hot == 4


def write_multi_hot(path, width):
    hot = np.eye(width, dtype=int)[np.arange(60) % width].tolist()
    pq.write_table(pa.table({"id": range(60), "vector": RNG.normal(size=(60, 4)).tolist(), "labels": hot}), path)


def test_labels_that_are_all_null_are_refused(settings, file):
    with pytest.raises(SourceRefused, match=r"expected labels in empty, found only null, .*leave out --label-column"):
        ingest(file, *GIVEN[:4], "--label-column", "empty")


def test_one_label_after_many_nulls_is_enough(settings, tmp_path):
    labels = pa.array([None] * 4999 + [7], pa.int64())
    table = pa.table({"id": range(5000), "vector": RNG.normal(size=(5000, 2)).tolist(), "labels": labels})
    pq.write_table(table, tmp_path / "x.parquet")
    assert ingest(tmp_path / "x.parquet", "--label-column", "labels")[0] == 0


def test_a_dataset_that_exists_exits_with_2(settings, file):
    assert ingest(file, *GIVEN)[0] == 0
    assert hashkiln("ingest", str(file), "--name", "mine", *GIVEN)[0] == 2
