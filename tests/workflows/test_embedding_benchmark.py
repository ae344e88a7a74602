"""The benchmark of embeddings measures each method at each size of a row, and only what is not known yet."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import embeddings
from storage.features.rows import Columns
from workflows import datasets


def test_every_method_is_measured_within_the_size_and_once(settings, tmp_path):
    rng = np.random.default_rng(0)
    for name, first, n in (("base", 0, 600), ("query", 1000, 40)):
        x = (rng.normal(size=(n, 32)) * np.linspace(3, 0.5, 32)).astype(np.float32)
        pq.write_table(pa.table({"id": np.arange(first, first + n), "vector": list(x)}), tmp_path / f"{name}.parquet")
    paths = (str(tmp_path / f"{name}.parquet") for name in ("base", "query"))
    dataset = datasets.ingest_source("small", next(paths), settings, Columns(), next(paths), metric="cosine")
    rows = list(embeddings.measured(dataset, (4, 16), (0,), set()))
    hashed = {(name, bits) for name in ("itq", "pca_rr", "matryoshka") for bits in (32,)}
    found = {size: {(row["method"], row["bits"]) for row in rows if row["size"] == size} for size in (4, 16)}
    assert found[4] == hashed | {("lsh", 32), ("Faiss PQ", 32)}
    assert found[16] == hashed | {("lsh", 128), ("rabitq", 96), ("osq", 64), ("Faiss PQ", 128), ("Faiss RaBitQ", 32)}
    assert all(row["bytes"] <= row["size"] for row in rows)
    assert all(row["recall_at_100"]["10"] == 1 for row in rows)  # there are fewer rows than candidates
    first = {row["method"]: row["recall_at_10"]["1"] for row in rows if row["size"] == 16}
    assert 0.2 < first["pca_rr"] < first["Faiss RaBitQ"] < first["osq"] < first["rabitq"] < 1
    known = {("small", row["size"], row["method"], row["seed"]) for row in rows[1:]}
    (again,) = embeddings.measured(dataset, (4, 16), (0,), known)
    assert again["recall_at_10"] == rows[0]["recall_at_10"]
