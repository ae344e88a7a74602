"""TF-IDF and two views of a row, beside scikit-learn's TF-IDF of the same numbered words."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_pictures import encoded, pixels
from sklearn.feature_extraction.text import TfidfTransformer

from hashing.statistics import keyed_hash
from storage import datasets
from storage.datasets import DATASETS, LEARN, multimodal
from storage.features import media

SAID = ["red square", "green square square", "a long blue bar", "red red bar of red", "square"]


def counts(texts):
    x = np.zeros((len(texts), multimodal.FOLDED))
    for row, text in zip(x, texts, strict=True):
        for word in text.split():
            row[media.word_number(word) % multimodal.FOLDED] += 1
    return x


def test_tfidf_is_scikit_learns_with_the_logarithm_of_1_plus_count():
    rarity = multimodal.idf_weights(SAID)
    batch = pa.record_batch({"id": pa.array(range(5)), "text": SAID})
    found = multimodal.modality_rows(batch, "tfidf", rarity, [["a"]] * 5)
    reference = TfidfTransformer().fit(counts(SAID))  # smooth, log((1 + n) / (1 + df)) + 1
    expected = np.log1p(counts(SAID)) * reference.idf_
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.x, expected, atol=1e-6)
    assert found.x.dtype == np.float32
    empty = multimodal.modality_rows(pa.record_batch({"id": [1], "text": ["!"]}), "tfidf", rarity, [["a"]])
    assert not empty.x.any()


@pytest.fixture
def drawings(tmp_path):
    """openclipart's form: 60 drawings, and openclipart-i2t and -t2i of so few rows."""
    ids = np.arange(60)
    table = pa.table({
        "id": ids, "image": [encoded(i % 5, i, 40) for i in ids], "labels": [[f"l{i % 5}", "all"] for i in ids],
        "title": [f"title {i % 5}" if i % 7 else None for i in ids], "keywords": [["drawing", f"k{i}"] for i in ids],
    })  # fmt: skip
    (tmp_path / "openclipart").mkdir()
    pq.write_table(table, tmp_path / "openclipart" / "openclipart.parquet")
    asked = keyed_hash(ids, 0) < (1 << 64) // 10

    def few(name):
        dataset = DATASETS[name]
        sizes = {"learn": int((~asked).sum()), "base": int((~asked).sum()), "query": int(asked.sum())}
        splits = {part: replace(split, n=sizes[part]) for part, split in dataset.splits.items()}
        dataset = replace(dataset, splits=splits)
        files = datasets.locate_or_fetch(dataset, tmp_path)
        return {part: next(datasets.read_split(dataset, part, files)) for part in splits}

    return ids, asked, few


def test_what_is_asked_has_one_view_and_what_is_found_the_other(drawings):
    ids, asked, few = drawings
    assert 0 < asked.sum() < 20
    for name, base_is_text in (("openclipart-i2t", True), ("openclipart-t2i", False)):
        rows = few(name)
        assert all(block.x.shape[1] == multimodal.PIXELS + multimodal.FOLDED for block in rows.values())
        np.testing.assert_array_equal(rows["base"].ids, ids[~asked])
        np.testing.assert_array_equal(rows["learn"].ids, LEARN + ids[~asked])  # the same drawings, both views
        np.testing.assert_array_equal(rows["query"].ids, ids[asked])
        seen, said = np.split(rows["learn"].x, [multimodal.PIXELS], axis=1)
        np.testing.assert_array_equal(seen[3], media.pixels(encoded(ids[~asked][3] % 5, ids[~asked][3], 40), 3072))
        np.testing.assert_allclose(np.linalg.norm(said, axis=1), 1, rtol=1e-5)
        for part, is_text in (("base", base_is_text), ("query", not base_is_text)):
            left, right = np.split(rows[part].x, [multimodal.PIXELS], axis=1)
            assert left.any(axis=1).all() != is_text
            assert not (left if is_text else right).any()
            assert (right if is_text else left).any(axis=1).all()
        assert rows["base"].labels[0] == [f"l{ids[~asked][0] % 5}", "all"]


def test_queries_do_not_tell_which_words_are_rare(drawings, tmp_path):
    _, asked, few = drawings
    before = few("openclipart-i2t")["base"].x
    path = tmp_path / "openclipart" / "openclipart.parquet"
    table = pq.read_table(path)
    titles = ["drawing drawing other words" if q else t for q, t in zip(asked, table["title"].to_pylist(), strict=True)]
    pq.write_table(table.set_column(3, "title", pa.array(titles)), path)
    np.testing.assert_array_equal(few("openclipart-i2t")["base"].x, before)


def test_drawn_classes_differ():
    assert len({pixels(label, 0).tobytes() for label in range(10)}) == 10
