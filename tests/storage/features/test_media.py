"""Pictures and texts as rows of numbers, read from Parquet; and values that cannot be read."""

import io
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hashing.statistics import WORDS
from storage.features import media
from storage.features.contract import understand
from storage.features.dataset import Dataset, write_split
from storage.features.rows import Columns
from storage.formats import FeatureRows
from tests.drawn_pictures import encoded, pixels


def test_pixels_of_pictures_of_any_mode_and_size():
    drawn = pixels(2, 0, side=16)
    np.testing.assert_array_equal(media.pixels(encoded(2, 0, 16), 3 * 16**2), drawn.ravel())
    assert media.pixels(encoded(2, 0, 40, "JPEG"), 3 * 16**2).shape == (768,)
    grey, file = Image.fromarray(drawn[:, :, 0]), io.BytesIO()
    grey.save(file, "PNG")
    found = media.pixels(file.getvalue(), 3 * 16**2).reshape(16, 16, 3)
    np.testing.assert_array_equal(found, np.repeat(drawn[:, :, :1], 3, axis=2))
    plain = io.BytesIO()
    Image.new("RGB", (33, 17), (10, 200, 30)).save(plain, "PNG")
    np.testing.assert_array_equal(
        np.unique(media.pixels(plain.getvalue(), 192).reshape(-1, 3), axis=0), [[10, 200, 30]]
    )


BROKEN = (b"", b"no picture", encoded(1, 1)[:60], encoded(1, 1, 64, "JPEG")[:500])


@pytest.mark.parametrize("data", [*BROKEN, encoded(1, 1, 64, "EPS")])  # EPS is a program, which Ghostscript would run
def test_data_that_is_not_a_picture_is_refused_in_one_line(data):
    with pytest.raises(ValueError, match="expected a picture, found") as refused:
        media.pixels(data, 3 * 32**2)
    assert "\n" not in str(refused.value)


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the real limit would need a file of 180 million pixels
    with pytest.raises(ValueError, match=r"expected a picture, found .* exceeds limit"):
        media.pixels(encoded(1, 1, 64), 3 * 32**2)


def test_words_have_the_same_numbers_in_every_run():
    assert media.text_row("The cat, the CAT and 7 mice", 8).tolist()[:4] == [
        media.word_number(word) for word in ("the", "cat", "the", "cat")
    ]
    assert media.text_row("", 4).tolist() == [0, 0, 0, 0]
    assert media.text_row("a b c d e", 3).shape == (3,)
    assert (media.word_number("cat"), media.word_number("dog")) == (29602, 1)  # as in earlier releases
    numbers = {media.word_number(f"w{i}") for i in range(2000)}
    assert min(numbers) >= 1
    assert max(numbers) < WORDS
    assert len(numbers) > 1900


def written(folder, column, values):
    folder.mkdir()
    ids = pa.array(range(10, 10 + len(values)), pa.int64())
    pq.write_table(pa.table({"id": ids, column: values}), folder / "a.parquet")
    url = str(folder / "a.parquet")
    return url, understand({"base": url}, Columns(x=column), None, "euclidean")[:2]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_column_of_pictures_is_read_as_rows_of_pixels(tmp_path, kind):
    values = pa.array([encoded(label, label, 64) for label in range(3)], kind)
    _, (found, dim) = written(tmp_path / "d", "photo", values)
    assert (found, dim) == ("image", 3 * 64**2)
    dataset = Dataset(
        name="d", kind=found, dim=dim, splits={"base": str(tmp_path / "d")}, columns=Columns(x="photo"), source=""
    )
    (batch,) = dataset.shards("base")[0]
    np.testing.assert_array_equal(batch.x, [pixels(label, label, 64).ravel() for label in range(3)])
    assert batch.x.dtype == np.float32


def test_bad_pictures_and_texts_are_refused_with_file_and_row_or_dropped_and_reported(tmp_path):
    good = encoded(1, 1, 64)
    for column, values, what in (
        ("image", [good, b"broken", None, good], "expected a picture, found 6 bytes of no known format"),
        ("text", ["a cat", None, None, "a dog"], "expected a picture or a text, found null"),
    ):
        url, (kind, dim) = written(tmp_path / column, column, pa.array(values))
        dataset = Dataset(
            name="d", kind=kind, dim=dim, splits={"base": str(tmp_path / column)}, columns=Columns(x=column), source=""
        )
        with pytest.raises(ValueError, match=f"{what}.*, in row 1 of .*a.parquet"):
            list(dataset.shards("base")[0])
        (block,) = dataset.model_copy(update={"bad_rows": "drop"}).shards("base")[0].read_blocks()
        assert block.batch.ids.tolist() == [10, 13]
        assert block.batch.x.shape == (2, dim)
        assert [(file, row, id) for file, row, id, _ in block.dropped] == [(url, 1, 11), (url, 2, 12)]


def test_threads_that_decode_pictures_do_not_change_the_filters_of_warnings():
    before, interval, picture = list(warnings.filters), sys.getswitchinterval(), encoded(1, 1, 16)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert len({row.tobytes() for row in pool.map(media.pixels, [picture] * 400, [192] * 400)}) == 1
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before


def test_shards_of_pictures_are_cut_by_their_bytes(tmp_path, monkeypatch):
    from storage.features import splits

    picture = encoded(1, 1, 64)
    monkeypatch.setattr(splits, "SHARD_BYTES", 3 * len(picture) + 1)
    rows = FeatureRows(np.arange(10), [picture] * 10, [[]] * 9 + [[2]])
    found = write_split(str(tmp_path), [rows])
    sizes = [len(pq.read_table(path)) for path in sorted(tmp_path.glob("*.parquet"))]
    assert sizes == [3, 3, 3, 1]
    assert (found.kind, found.labelled, found.rows) == ("image", True, 10)
    assert pq.read_table(tmp_path)["labels"].to_pylist() == [[]] * 9 + [[2]]
