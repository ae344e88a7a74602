"""Binary files of CIFAR and lists of pictures of HashNet: rows as written, and refused content."""

import io
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage import datasets
from storage.datasets import DATASETS, LEARN, QUERY, reading
from storage.features.dataset import write_split
from storage.formats import cifar, lists
from tests.drawn_pictures import cifar_bytes, encoded, pixels, write_lists


def test_cifar_rows_are_pictures_of_height_width_channel(tmp_path):
    labels = [3, 0, 9, 7]
    (tmp_path / "a.bin").write_bytes(cifar_bytes(labels))
    (block,) = cifar.read_cifar(tmp_path / "a.bin")
    assert block.labels == [[3], [0], [9], [7]]
    assert block.x.dtype == np.uint8
    np.testing.assert_array_equal(block.x.reshape(-1, 32, 32, 3), [pixels(label, i) for i, label in enumerate(labels)])
    (tmp_path / "b.bin").write_bytes(cifar_bytes(labels, coarse=True))
    (block,) = cifar.read_cifar(tmp_path / "b.bin", classes=(20, 100))
    assert block.labels == [[3], [0], [9], [7]]  # the fine labels
    np.testing.assert_array_equal(block.x[2], pixels(9, 2).ravel())


def test_ids_of_cifar_continue_from_block_to_block(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(cifar_bytes(range(10)))
    whole = next(cifar.read_cifar(tmp_path / "a.bin"))
    monkeypatch.setattr(cifar, "BLOCK_BYTES", 3 * 3073 + 5)
    blocks = list(cifar.read_cifar(tmp_path / "a.bin"))
    assert [len(block.ids) for block in blocks] == [3, 3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([block.ids for block in blocks]), np.arange(10))
    np.testing.assert_array_equal(np.concatenate([block.x for block in blocks]), whole.x)


@pytest.mark.parametrize(
    ("content", "classes", "message"),
    [
        (b"", (10,), "expected rows of 3073 bytes, found an empty file"),
        (cifar_bytes([1, 2])[:-1], (10,), "expected rows of 3073 bytes, found the end of the file in row 1"),
        (cifar_bytes([1, 2]) + b"x", (10,), "found the end of the file in row 2"),
        (cifar_bytes([1, 2, 10]), (10,), r"expected labels below \(10,\), found \[10\] in row 2"),
        (cifar_bytes([1] * 3074), (20, 100), r"expected labels below \(20, 100\), found"),  # CIFAR-10 read as 100
    ],
)
def test_content_that_is_not_cifar_is_refused(tmp_path, content, classes, message):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.bin: .*" + message):
        list(cifar.read_cifar(tmp_path / "a.bin", classes=classes))


def tiny_cifar(name="cifar-10", batches=(12, 7)):
    """Return cifar-10 with few rows in two batches."""
    dataset = DATASETS[name]
    base = replace(dataset.splits["base"], n=sum(batches), more_files=("data_batch_2.bin",))
    return replace(dataset, splits={"base": base, "query": replace(dataset.splits["query"], n=5)})


def test_cifar_10_from_its_archive_and_unpacked(tmp_path):
    dataset, folder = tiny_cifar(), tmp_path / "flat" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    content = {"data_batch_1.bin": [i % 10 for i in range(12)], "data_batch_2.bin": [5] * 7, "test_batch.bin": [8] * 5}
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for file, labels in content.items():
            data = cifar_bytes(labels)
            (folder / file).write_bytes(data)
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    for source in ("packed", "flat"):
        files = datasets.locate_or_fetch(dataset, tmp_path / "nowhere", tmp_path / source)
        base = list(datasets.read_split(dataset, "base", files))
        np.testing.assert_array_equal(np.concatenate([block.ids for block in base]), np.arange(19))
        assert [label for block in base for label in block.labels] == [[i % 10] for i in range(12)] + [[5]] * 7
        (query,) = datasets.read_split(dataset, "query", files)
        np.testing.assert_array_equal(query.ids, QUERY + np.arange(5))
        np.testing.assert_array_equal(query.x[1], pixels(8, 1).ravel())
    whole = replace(dataset, splits={**dataset.splits, "base": replace(dataset.splits["base"], n=50_000)})
    with pytest.raises(ValueError, match="expected 50000 rows, found 19"):
        list(datasets.read_split(whole, "base", files))


@pytest.mark.parametrize("prefix", ["", "/home/somebody/nuswide/", "../../data/", "D:\\nuswide\\"])
def test_a_picture_in_several_lists_has_one_id(tmp_path, prefix):
    write_lists(tmp_path, prefix=prefix)
    found = {split: next(rows) for split, rows in reading.read_picture_lists(reading.find_lists(str(tmp_path))).items()}
    np.testing.assert_array_equal(found["base"].ids, np.arange(6))
    np.testing.assert_array_equal(found["learn"].ids, LEARN + np.arange(2))
    np.testing.assert_array_equal(found["query"].ids, [4, 5])
    assert found["base"].labels == [[i % 3, 3] for i in range(6)]
    assert found["query"].x == [encoded(i % 3, i) for i in (4, 5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images/0.png 0 1 0\nimages/1.png 0 1\n", "expected a path and 3 labels of 0 or 1, found .* in line 2"),
        ("images/0.png 0 2\n", "expected a path and 2 labels of 0 or 1, found .* in line 1"),
        ("images/0.png\n", "expected a path and some labels of 0 or 1"),
        ("\n", "expected lines of a path and labels, found none"),
        ("images/9.png 1 0 0 0\n", r"expected images/9\.png below .*, found none, in line 1"),
        (
            "images/0.png 1 0 0 0\n\nimages/0.png 1 0 0 0\n",
            r"expected each picture once, found images/0\.png again in line 3",
        ),
        ("../../../../../../etc/hostname 1 0 0 0\n", "expected .*hostname below"),
    ],
)
def test_a_wrong_list_is_refused_with_its_line(tmp_path, text, message):
    write_lists(tmp_path)
    (tmp_path / "database.txt").write_text(text)
    with pytest.raises(ValueError, match=r"database\.txt: " + message):
        list(reading.read_picture_lists(reading.find_lists(str(tmp_path)))["base"])


def test_lists_may_have_a_byte_order_mark_and_names_in_any_encoding(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(0, 0, 8))
    (tmp_path / "database.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9.png 3\r\n")
    (block,) = datasets.open_source(str(tmp_path), None, None).splits["base"]
    assert (block.labels, len(block.x)) == ([[3]], 1)
    (tmp_path / "database.txt").write_bytes(b"caf\xe8.png 3\n")
    with pytest.raises(ValueError, match=r"database\.txt: expected .* below .*, found none, in line 1"):
        list(datasets.open_source(str(tmp_path), None, None).splits["base"])


@pytest.mark.parametrize(
    ("lines", "labels_as", "expected"),
    [
        (["3", "0", "12"], None, [[3], [0], [12]]),
        (["1", "0", "1"], "values", [[1], [0], [1]]),
        (["1", "0", "1"], "multi-hot", [[0], [], [0]]),
        (["1 1", "0 0", "0 1"], None, [[0, 1], [], [1]]),
        (["1", "0", "1"], None, "can be a class, or a label that a picture has or lacks: pass --labels-as"),
        (["3", "0", "1"], "multi-hot", "expected labels of 0 and 1 by --labels-as multi-hot"),
        (["1 1", "0 0", "0 1"], "values", "expected one class in each line by --labels-as values"),
    ],
)
def test_numbers_in_lists_are_classes_or_flags(tmp_path, lines, labels_as, expected):
    write_lists(tmp_path)
    for name in ("train.txt", "test.txt"):
        (tmp_path / name).unlink()
    (tmp_path / "database.txt").write_text("".join(f"images/{i}.png {line}\n" for i, line in enumerate(lines)))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            datasets.open_source(str(tmp_path), None, labels_as)
        return
    (block,) = datasets.open_source(str(tmp_path), None, labels_as).splits["base"]
    assert block.labels == expected


def test_folders_of_classes_are_read_with_their_names(tmp_path):
    for split in ("train", "test"):
        for i, name in enumerate(["dog", "cat", "dog"]):
            folder = tmp_path / split / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.PNG").write_bytes(encoded(i % 2, i, 8))
        (tmp_path / split / "cat" / "notes.txt").write_text("no picture")
    source = datasets.open_source(str(tmp_path / "train"), str(tmp_path / "test"), None)
    (base,), (query,) = source.splits["base"], source.splits["query"]
    assert (base.labels, base.ids.tolist()) == ([["cat"], ["dog"], ["dog"]], [0, 1, 2])
    assert base.names == [str(tmp_path / "train" / name) for name in ("cat/1.PNG", "dog/0.PNG", "dog/2.PNG")]
    np.testing.assert_array_equal(query.ids, QUERY + np.arange(3))
    (tmp_path / "train" / "cat" / "1.PNG").write_bytes(b"broken")
    rows = datasets.open_source(str(tmp_path / "train"), None, None).splits["base"]
    with pytest.raises(ValueError, match=r"train/cat/1.PNG: expected a picture"):
        write_split(str(tmp_path / "out"), rows)
    with pytest.raises(ValueError, match="expected a folder of pictures for each class, like"):
        datasets.open_source(str(tmp_path / "train"), str(tmp_path), None)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("cat/1.heic", r"1\.heic: \.heic is not read: convert it to JPEG or PNG"),
        ("cat/more/1.png", "more/1.png: expected each picture in the folder of its class"),
        ("1.png", r"1.png: expected each picture in the folder of its class, .*: move it there, or out of "),
        ("rows/a.parquet", "has a folder of pictures for each class, and .*a.parquet: ingest one of them"),
        ("cat/.1.heic", None),
        ("cat/._0.avif", None),
        ("__MACOSX/cat/1.png", None),
    ],
)
def test_no_picture_beside_folders_of_classes_is_left_out_silently(tmp_path, extra, message):
    for name in ("cat/0.avif", "dog/0.jfif", extra):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(0, 0, 8))
    if message:
        with pytest.raises(ValueError, match=message):
            datasets.open_source(str(tmp_path), None, None)
    else:
        source = datasets.open_source(str(tmp_path), None, None)
        (block,) = source.splits["base"]
        assert block.labels == [["cat"], ["dog"]]
        assert ("such as __MACOSX/cat/1.png" in source.note) == ("MACOSX" in extra)


def test_datasets_of_lists_are_read_from_a_folder_of_the_user(tmp_path):
    with pytest.raises(ValueError, match=r"nus-wide: no database\.txt .*, and no URL .*: pass --from FOLDER"):
        datasets.locate_or_fetch(DATASETS["nus-wide"], tmp_path)
    write_lists(tmp_path / "nus-wide")
    files = datasets.locate_or_fetch(DATASETS["nus-wide"], tmp_path)
    (block,) = datasets.read_split(DATASETS["nus-wide"], "query", files)
    np.testing.assert_array_equal(block.ids, [4, 5])
    assert reading.find_lists(str(tmp_path)) == {}
    assert set(lists.FILES) == set(DATASETS["coco"].splits)
    assert re.search("local only", DATASETS["coco"].about)
    assert isinstance(files["test.txt"], Path)
