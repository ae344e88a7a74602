"""The benchmark of embeddings measures each method at each size of a row, and only what is not known yet."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import embeddings
from storage.features.rows import Columns
from workflows import datasets


def test_every_method_is_measured_within_the_size_and_once(settings, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name, first, n in (("base", 0, 600), ("query", 1000, 40)):
        x = (rng.normal(size=(n, 32)) * np.linspace(3, 0.5, 32)).astype(np.float32)
        labels = [np.flatnonzero(row[:6] > 0).tolist() for row in x]
        rows = {"id": np.arange(first, first + n), "vector": list(x), "labels": labels}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    paths = (str(tmp_path / f"{name}.parquet") for name in ("base", "query"))
    columns = Columns(labels="labels")
    dataset = datasets.ingest_source("small", next(paths), settings, columns, next(paths), metric="cosine")
    rows = list(embeddings.measured(dataset, (4, 16), (0,), set()))
    hashed = {(name, bits) for name in ("itq", "pca_rr", "matryoshka") for bits in (32,)}
    found = {size: {(row["method"], row["bits"]) for row in rows if row["size"] == size} for size in (4, 16)}
    assert found[4] == hashed | {("lsh", 32), ("Faiss PQ", 32)}
    quantized = {("rabitq", 96), ("pca_rabitq", 96), ("osq", 64), ("Faiss PQ", 128), ("Faiss RaBitQ", 32)}
    assert found[16] == hashed | quantized | {("lsh", 128)}
    assert all(row["bytes"] <= row["size"] for row in rows)
    assert all(row["recall_at_100"]["10"] == 1 for row in rows)  # there are fewer rows than candidates
    first = {row["method"]: row["recall_at_10"]["1"] for row in rows if row["size"] == 16}
    assert 0.2 < first["pca_rr"] < first["Faiss RaBitQ"] < first["osq"] < first["rabitq"] < 1
    (vectors,) = {row["ndcg_at_10"]["vectors"] for row in rows}
    for row in rows:  # labels are the signs of coordinates, so near rows share them
        codes, reranked = (row["ndcg_at_10"][ranking] for ranking in ("codes", "reranked"))
        assert 0.3 < vectors - 0.1 < codes < vectors + 0.01
        assert reranked == pytest.approx(vectors, abs=1e-9 if row["recall_at_10"]["4"] == 1 else 0.03)
    known = {("small", row["size"], row["method"], row["seed"]) for row in rows[1:]}
    (again,) = embeddings.measured(dataset, (4, 16), (0,), known)
    assert again["recall_at_10"] == rows[0]["recall_at_10"]
    result = tmp_path / "table.json"
    earlier = [row | {"commit": "earlier"} for row in rows if row["size"] == 16 and row["method"] != "itq"]
    result.write_text(json.dumps({"rows": earlier}))
    monkeypatch.syspath_prepend(str(Path(embeddings.__file__).parent))
    monkeypatch.setattr("sys.argv", ["embeddings.py", "--datasets", "small", "--quick", "--json", str(result)])
    embeddings.main()
    new = json.loads(result.read_text())["rows"]
    assert new[: len(earlier)] == earlier
    assert {(row["size"], row["method"]) for row in new[len(earlier) :] if row["size"] == 16} == {(16, "itq")}
    assert all(row["commit"] != "earlier" for row in new[len(earlier) :])


def test_ndcg_is_the_expectation_over_the_order_of_tied_rows_and_of_rows_that_are_missing():
    rng = np.random.default_rng(1)
    grades, distances = rng.integers(0, 4, (20, 50)).astype(np.uint8), rng.integers(0, 8, (20, 50))
    order = distances.argsort(axis=1, kind="stable")
    near, discounts = np.take_along_axis(distances, order, axis=1), 1 / np.log2(np.arange(2, 12))
    gains = 2.0**grades - 1
    expected = [
        [own[far == d].mean() for d in nearest[:10]] @ discounts / (np.sort(own)[:-11:-1] @ discounts)
        for own, far, nearest in zip(gains, distances, near, strict=True)
    ]
    assert embeddings.ndcg_at_10(near, order, grades) == pytest.approx(np.mean(expected))
    near, order = (np.pad(part, ((0, 0), (0, 9)), constant_values=c) for part, c in ((near, 99), (order, -1)))
    assert embeddings.ndcg_at_10(near, order, grades) == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="the tenth row is tied with the last of 10"):
        embeddings.ndcg_at_10(near[:, :10], order[:, :10], grades)
