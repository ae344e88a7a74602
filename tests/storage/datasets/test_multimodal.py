"""Rows of two modalities, and TF-IDF compared with scikit-learn."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.feature_extraction.text import TfidfTransformer

from hashing.statistics import keyed_hash
from storage import datasets
from storage.datasets import DATASETS, LEARN, multimodal
from storage.features import media
from tests.drawn_pictures import encoded, pixels

TEXTS = ["red square", "green square square", "a long blue bar", "red red bar of red", "square"]


def counts(texts):
    x = np.zeros((len(texts), multimodal.FOLDED))
    for row, text in zip(x, texts, strict=True):
        for word in text.split():
            row[media.word_number(word) % multimodal.FOLDED] += 1
    return x


def test_tfidf_equals_scikit_learn_on_log_1_plus_count():
    rarity = multimodal.idf_weights(TEXTS)
    batch = pa.record_batch({"id": pa.array(range(5)), "text": TEXTS})
    found = multimodal.modality_rows(batch, "tfidf", rarity, [["a"]] * 5)
    reference = TfidfTransformer().fit(counts(TEXTS))  # smooth, log((1 + n) / (1 + df)) + 1
    expected = np.log1p(counts(TEXTS)) * reference.idf_
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.x, expected, atol=1e-6)
    assert found.x.dtype == np.float32
    empty = multimodal.modality_rows(pa.record_batch({"id": [1], "text": ["!"]}), "tfidf", rarity, [["a"]])
    assert not empty.x.any()


@pytest.fixture
def drawings(tmp_path):
    """Write 60 drawings in the form of openclipart; return ids, queries and a reader of a dataset of that size."""
    ids = np.arange(60)
    table = pa.table({
        "id": ids, "image": [encoded(i % 5, i, 40) for i in ids], "labels": [[f"l{i % 5}", "all"] for i in ids],
        "title": [f"title {i % 5}" if i % 7 else None for i in ids], "keywords": [["drawing", f"k{i}"] for i in ids],
    })  # fmt: skip
    (tmp_path / "openclipart").mkdir()
    pq.write_table(table, tmp_path / "openclipart" / "openclipart.parquet")
    is_query = keyed_hash(ids, 0) < (1 << 64) // 10

    def read_small(name):
        dataset = DATASETS[name]
        sizes = {"learn": int((~is_query).sum()), "base": int((~is_query).sum()), "query": int(is_query.sum())}
        splits = {part: replace(split, n=sizes[part]) for part, split in dataset.splits.items()}
        dataset = replace(dataset, splits=splits)
        files = datasets.locate_or_fetch(dataset, tmp_path)
        return {part: next(datasets.read_split(dataset, part, files)) for part in splits}

    return ids, is_query, read_small


def test_queries_have_one_modality_and_base_rows_the_other(drawings):
    ids, is_query, read_small = drawings
    assert 0 < is_query.sum() < 20
    for name, base_is_text in (("openclipart-i2t", True), ("openclipart-t2i", False)):
        rows = read_small(name)
        assert all(block.x.shape[1] == multimodal.PIXELS + multimodal.FOLDED for block in rows.values())
        np.testing.assert_array_equal(rows["base"].ids, ids[~is_query])
        np.testing.assert_array_equal(rows["learn"].ids, LEARN + ids[~is_query])  # the same drawings, both modalities
        np.testing.assert_array_equal(rows["query"].ids, ids[is_query])
        image, text = np.split(rows["learn"].x, [multimodal.PIXELS], axis=1)
        np.testing.assert_array_equal(
            image[3], media.pixels(encoded(ids[~is_query][3] % 5, ids[~is_query][3], 40), 3072)
        )
        np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, rtol=1e-5)
        for part, is_text in (("base", base_is_text), ("query", not base_is_text)):
            left, right = np.split(rows[part].x, [multimodal.PIXELS], axis=1)
            assert left.any(axis=1).all() != is_text
            assert not (left if is_text else right).any()
            assert (right if is_text else left).any(axis=1).all()
        assert rows["base"].labels[0] == [f"l{ids[~is_query][0] % 5}", "all"]


def test_queries_do_not_count_towards_document_frequencies(drawings, tmp_path):
    _, is_query, read_small = drawings
    before = read_small("openclipart-i2t")["base"].x
    path = tmp_path / "openclipart" / "openclipart.parquet"
    table = pq.read_table(path)
    titles = [
        "drawing drawing other words" if q else t for q, t in zip(is_query, table["title"].to_pylist(), strict=True)
    ]
    pq.write_table(table.set_column(3, "title", pa.array(titles)), path)
    np.testing.assert_array_equal(read_small("openclipart-i2t")["base"].x, before)


def test_drawn_classes_differ():
    assert len({pixels(label, 0).tobytes() for label in range(10)}) == 10
