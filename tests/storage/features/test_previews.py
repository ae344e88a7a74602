"""Rows as people see them."""

import base64
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from storage.features.previews import DATA_URL, previews
from storage.features.rows import Columns
from storage.features.shard import FeatureShard
from tests.drawn_pictures import encoded


def shard(tmp_path, values, **about):
    pq.write_table(
        pa.table({"id": np.arange(10, 10 + len(values)), "x": values}), tmp_path / "a.parquet", row_group_size=2
    )
    return FeatureShard(str(tmp_path / "a.parquet"), "a.parquet", "v1", columns=Columns(x="x"), **about)


def picture(url):
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix(DATA_URL))))


def test_pictures_and_texts_of_the_wanted_rows(tmp_path):
    data = [encoded(seed, 100, 50) for seed in range(5)]
    found = previews(shard(tmp_path, data, dim=3 * 8**2, kind="image"), np.array([11, 14, 99]))
    assert set(found) == {11, 14}
    assert picture(found[11]).size == (64, 64)
    texts = ["a", "<b>", "c" * 200]
    found = previews(shard(tmp_path, texts, dim=32, kind="text"), np.array([11, 12]))
    assert found == {11: "<b>", 12: "c" * 160 + " …"}


def test_vectors_of_pixels_are_pictures_if_their_shape_is_known(tmp_path):
    x = np.arange(3 * 12, dtype=np.float32).reshape(3, 12) * 7
    vectors = shard(tmp_path, list(x), dim=12)
    assert previews(vectors, np.array([10])) == {}
    found = previews(vectors, np.array([12]), (2, 2, 3))
    np.testing.assert_array_equal(np.asarray(picture(found[12])), x[2].reshape(2, 2, 3))
