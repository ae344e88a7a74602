"""Named datasets: the catalogue, the search for files, and their rows."""

import functools
import gzip
import hashlib
import http.server
import io
import itertools
import pickle
import re
import tarfile
from contextlib import contextmanager
from dataclasses import replace

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashing.statistics import keyed_hash
from storage import datasets
from storage.datasets import DATASETS, LEARN, QUERY, PublishedFile, Split
from tests.loopback import in_thread

rng = np.random.default_rng(0)


def vecs_bytes(x):
    return np.hstack([np.full((len(x), 1), x.shape[1], "<i4").view(np.uint8), x.view(np.uint8)]).tobytes()


def read(dataset, split, files):
    blocks = list(datasets.read_split(dataset, split, files))
    assert all(isinstance(block.ids, np.ndarray) and block.ids.dtype == np.int64 for block in blocks)
    x = [block.x for block in blocks]
    labels = [label for block in blocks for label in block.labels or ()]
    joined = np.concatenate(x) if isinstance(x[0], np.ndarray) else list(itertools.chain(*x))
    return np.concatenate([block.ids for block in blocks]), joined, labels or None


TINY = {"base": (40, 6), "learn": (30, 6), "query": (5, 6)}


def tiny_texmex(folder, name="siftsmall"):
    """Write the archive of a siftsmall with few rows; return the dataset and the arrays in it."""
    arrays = {f"siftsmall_{split}.fvecs": rng.random(shape, np.float32) for split, shape in TINY.items()}
    arrays["siftsmall_groundtruth.ivecs"] = rng.integers(0, 40, (5, 3), np.int32)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "siftsmall.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for file, x in arrays.items():
            entry = tarfile.TarInfo(f"siftsmall/{file}")
            entry.size = len(vecs_bytes(x))
            tar.addfile(entry, io.BytesIO(vecs_bytes(x)))
    first = {"base": 0, "learn": LEARN, "query": QUERY}
    splits = {s: Split(f"siftsmall_{s}.fvecs", *shape, first[s]) for s, shape in TINY.items()}
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    files = (PublishedFile(archive.name, (), archive.stat().st_size, f"md5:{md5}"),)
    return replace(DATASETS["siftsmall"], name=name, splits=splits, files=files), arrays


@contextmanager
def serving(folder):
    handler = functools.partial(Quiet, directory=str(folder))
    with in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        yield url


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_names():
    assert datasets.names() == sorted(DATASETS)
    wanted = "sample sift1m siftsmall gist1m mnist fashion-mnist photosift openclipart wordnet sift-128-euclidean"
    assert set(wanted.split()) <= set(datasets.names())
    assert datasets.get("mnist").name == "mnist"
    with pytest.raises(LookupError, match=r"found 'sift': did you mean .*sift1m"):
        datasets.get("sift")
    with pytest.raises(LookupError, match=r"found 'qqq': the named datasets are cifar-10, "):
        datasets.get("qqq")


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=str)
def test_the_catalogue_is_consistent(dataset):
    assert {"base", "query"} <= set(dataset.splits) <= {"base", "learn", "query"}
    assert dataset.about
    assert dataset.licence
    for split in dataset.splits.values():
        assert split.n > 0 or dataset.format == "lists"
        assert (split.d is None) == (dataset.kind != "vector")
    for file in dataset.files:
        assert all(re.match(r"(https?|ftp)://", url) and url.endswith("/" + file.name) for url in file.urls)
        assert file.checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.checksum)
        assert file.size is None or file.size > 0
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_files_are_found_in_a_folder_or_its_subfolder_compressed_or_not(tmp_path, monkeypatch):
    dataset, arrays = tiny_texmex(tmp_path / "archive")
    places = {"flat": "", "named": "siftsmall", "unpacked": "siftsmall/siftsmall"}
    for suffix in ("", ".gz"):
        for place, folder in places.items():
            home = tmp_path / f"{place}{suffix}" / folder
            home.mkdir(parents=True)
            for file, x in arrays.items():
                content = vecs_bytes(x)
                (home / (file + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    for source in ("archive", "flat", "named", "unpacked", "flat.gz", "named.gz", "unpacked.gz"):
        files = datasets.locate_or_fetch(dataset, tmp_path / "nowhere", tmp_path / source)
        assert files.keys() == arrays.keys()
        for split, first in (("base", 0), ("learn", LEARN), ("query", QUERY)):
            ids, x, labels = read(dataset, split, files)
            np.testing.assert_array_equal(x, arrays[f"siftsmall_{split}.fvecs"])
            np.testing.assert_array_equal(ids, first + np.arange(len(x)))
            assert labels is None
        truth = datasets.read_groundtruth(dataset, files)
        assert truth.dtype == np.int64
        np.testing.assert_array_equal(truth, arrays["siftsmall_groundtruth.ivecs"])
    assert not (tmp_path / "nowhere").exists()
    named = datasets.locate_or_fetch(dataset, tmp_path / "named")
    assert named == datasets.locate_or_fetch(dataset, tmp_path / "nowhere", tmp_path / "named")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for source in ("named", "~/named"):
        assert named == datasets.locate_or_fetch(dataset, tmp_path / "nowhere", source)


def test_rows_can_be_read_without_the_groundtruth(tmp_path):
    dataset, arrays = tiny_texmex(tmp_path)
    (tmp_path / "siftsmall.tar.gz").unlink()
    for file, x in arrays.items():
        (tmp_path / file).write_bytes(vecs_bytes(x))
    (tmp_path / dataset.groundtruth).unlink()
    files = datasets.locate_or_fetch(dataset, tmp_path / "data", tmp_path)
    assert datasets.read_groundtruth(dataset, files) is None
    assert len(read(dataset, "base", files)[0]) == 40


def test_the_error_names_the_missing_files_and_the_folders_searched(tmp_path):
    dataset, _ = tiny_texmex(tmp_path / "data" / "siftsmall")
    where = f"{tmp_path / 'siftsmall'} or {tmp_path}"
    expected = "siftsmall: no siftsmall_base.fvecs or siftsmall_base.fvecs.gz or siftsmall.tar.gz in " + where
    with pytest.raises(ValueError, match=re.escape(expected) + ", and no URL to download it: pass --from FOLDER"):
        datasets.locate_or_fetch(dataset, tmp_path / "data", tmp_path)
    with pytest.raises(
        ValueError, match=r"photosift: no base\.bvecs or base\.bvecs\.gz in .*, and no URL to download it"
    ):
        datasets.locate_or_fetch(DATASETS["photosift"], tmp_path)


def test_a_file_is_downloaded_from_the_first_server_that_has_it(tmp_path):
    dataset, arrays = tiny_texmex(tmp_path / "server")
    seen = []
    with serving(tmp_path / "server") as url:
        urls = (f"{url}/old/siftsmall.tar.gz", f"{url}/siftsmall.tar.gz")
        dataset = replace(dataset, files=(replace(dataset.files[0], urls=urls),))
        files = datasets.locate_or_fetch(
            dataset, tmp_path / "data", progress=lambda done, total: seen.append((done, total))
        )
    assert seen[-1] == (dataset.files[0].size,) * 2
    home = tmp_path / "data" / "siftsmall"
    assert files == dict.fromkeys(arrays, home / "siftsmall.tar.gz")
    assert list(home.iterdir()) == [home / "siftsmall.tar.gz"]
    assert datasets.locate_or_fetch(dataset, tmp_path / "data") == files  # the server is down
    np.testing.assert_array_equal(read(dataset, "query", files)[1], arrays["siftsmall_query.fvecs"])
    assert set(datasets.provenance(dataset, files).values()) == {f"verified, {dataset.files[0].checksum}"}
    (home / "siftsmall.tar.gz").write_bytes(b"other")
    assert "unverified, expected md5:" in datasets.provenance(dataset, files)[home / "siftsmall.tar.gz"]


def test_a_file_is_downloaded_from_the_mirror_of_the_user(tmp_path):
    dataset, arrays = tiny_texmex(tmp_path / "server")
    with serving(tmp_path) as url:
        files = datasets.locate_or_fetch(dataset, tmp_path / "data", f"{url}/server/")
        np.testing.assert_array_equal(read(dataset, "base", files)[1], arrays["siftsmall_base.fvecs"])
        with pytest.raises(OSError, match=r"^cannot download .*/elsewhere/siftsmall\.tar\.gz: HTTP 404"):
            datasets.locate_or_fetch(replace(dataset, name="other"), tmp_path / "data", f"{url}/elsewhere")
        (tmp_path / "server" / "siftsmall.tar.gz").write_bytes(b"other")
        with pytest.raises(ValueError, match=r"expected .* bytes, but the server has 5"):
            datasets.locate_or_fetch(replace(dataset, name="other"), tmp_path / "data", f"{url}/server")
    with pytest.raises(ValueError, match="expected a URL with one of"):
        datasets.locate_or_fetch(replace(dataset, name="other"), tmp_path / "data", "file:///etc")


def test_each_of_several_files_is_downloaded(tmp_path):
    (tmp_path / "server").mkdir()
    facts = {"train-images-idx3": (6, 28, 28), "train-labels-idx1": (6,), "t10k-images-idx3": (2, 28, 28)}
    arrays = {
        k: rng.integers(0, 10, shape).astype(np.uint8) for k, shape in (facts | {"t10k-labels-idx1": (2,)}).items()
    }
    for stem, x in arrays.items():
        content = bytes([0, 0, 8, x.ndim]) + np.array(x.shape, ">u4").tobytes() + x.tobytes()
        (tmp_path / "server" / f"{stem}-ubyte.gz").write_bytes(gzip.compress(content))
    mnist = DATASETS["mnist"]
    splits = {name: replace(split, n=n) for (name, split), n in zip(mnist.splits.items(), (6, 2), strict=True)}
    with serving(tmp_path / "server") as url:
        files = tuple(PublishedFile(f.name, (f"{url}/{f.name}",)) for f in mnist.files)
        dataset = replace(mnist, splits=splits, files=files)
        found = datasets.locate_or_fetch(dataset, tmp_path)
    for split, stem, first in (("base", "train", 0), ("query", "t10k", QUERY)):
        ids, x, labels = read(dataset, split, found)
        np.testing.assert_array_equal(ids, first + np.arange(len(x)))
        np.testing.assert_array_equal(x, arrays[f"{stem}-images-idx3"].reshape(-1, 784))
        assert labels == [[int(label)] for label in arrays[f"{stem}-labels-idx1"]]
        assert type(labels[0][0]) is int
    assert datasets.read_groundtruth(dataset, found) is None
    assert all("as first downloaded" in state for state in datasets.provenance(dataset, found).values())
    with pytest.raises(ValueError, match="expected 60000 labels, found sizes"):
        read(mnist, "base", found)


def test_hdf5_of_ann_benchmarks(tmp_path):
    dataset = DATASETS["glove-25-angular"]
    dataset = replace(
        dataset, splits={k: replace(s, n=n) for (k, s), n in zip(dataset.splits.items(), (50, 7), strict=True)}
    )
    train, test, neighbors = (
        rng.random((50, 25), np.float32),
        rng.random((7, 25), np.float32),
        rng.integers(0, 50, (7, 9)),
    )
    for metric in ("angular", "euclidean"):
        with h5py.File(tmp_path / "glove-25-angular.hdf5", "w") as file:
            file.attrs["distance"] = metric
            for name, x in {"train": train, "test": test, "neighbors": neighbors, "distances": neighbors}.items():
                file[name] = x
        files = datasets.locate_or_fetch(dataset, tmp_path / "data", tmp_path)
        np.testing.assert_array_equal(read(dataset, "base", files)[1], train)
        ids, x, _ = read(dataset, "query", files)
        np.testing.assert_array_equal(ids, QUERY + np.arange(7))
        np.testing.assert_array_equal(x, test)
        if metric == "angular":
            np.testing.assert_array_equal(datasets.read_groundtruth(dataset, files), neighbors)
    with pytest.raises(ValueError, match="expected neighbours by cosine distance, found euclidean"):
        datasets.read_groundtruth(dataset, files)


def test_parquet_split_by_a_keyed_hash(tmp_path):
    ids = rng.permutation(10_000)
    table = pa.table({"id": ids, "text": [f"t{i}" for i in ids], "label": [f"l{i % 7}" for i in ids]})
    pq.write_table(table, tmp_path / "glosses.parquet", row_group_size=999)
    wordnet = DATASETS["wordnet"]
    is_query = keyed_hash(ids, 0) < np.uint64((1 << 64) // 10)
    assert 900 < is_query.sum() < 1100
    sizes = {"base": int((~is_query).sum()), "query": int(is_query.sum())}
    dataset = replace(wordnet, splits={k: replace(s, n=sizes[k]) for k, s in wordnet.splits.items()})
    files = datasets.locate_or_fetch(dataset, tmp_path / "data", tmp_path)
    for split, rows in (("base", ~is_query), ("query", is_query)):
        found, text, labels = read(dataset, split, files)
        np.testing.assert_array_equal(found, ids[rows])
        assert text == [f"t{i}" for i in found]
        assert labels == [[f"l{i % 7}"] for i in found]
    with pytest.raises(ValueError, match="expected 105238 rows, found 9"):
        read(wordnet, "base", files)
    pq.write_table(table.drop_columns(["label"]), tmp_path / "glosses.parquet")
    with pytest.raises(ValueError, match=r"expected the columns label, found id, text"):
        read(dataset, "base", files)
    (tmp_path / "glosses.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"glosses\.parquet is not a Parquet file"):
        read(dataset, "base", files)


def test_rows_that_differ_from_the_catalogue_are_refused(tmp_path):
    dataset, _ = tiny_texmex(tmp_path)
    files = datasets.locate_or_fetch(dataset, tmp_path / "data", tmp_path)
    base = dataset.splits["base"]
    for change, message in (
        ({"n": 41}, r"siftsmall, split base \(siftsmall_base.fvecs\): expected 41 rows, found 40"),
        ({"n": 39}, "expected 39 rows, found more"),
        ({"d": 7}, r"expected vectors of dimension 7, found \(6,\) in row 0"),
    ):
        other = replace(dataset, splits=dict(dataset.splits) | {"base": replace(base, **change)})
        with pytest.raises(ValueError, match=message):
            read(other, "base", files)
    with pytest.raises(ValueError, match="siftsmall: expected a split of base, learn, query, found 'test'"):
        datasets.read_split(dataset, "test", files)
    for change in ({"n": 6}, {"n": 4}):
        other = replace(dataset, splits=dict(dataset.splits) | {"query": replace(dataset.splits["query"], **change)})
        with pytest.raises(ValueError, match=r"neighbours of . queries among ids 0\.\.39, found 5 rows of ids"):
            datasets.read_groundtruth(other, files)
    largest = int(datasets.read_groundtruth(dataset, files).max())
    other = replace(dataset, splits=dict(dataset.splits) | {"base": replace(base, n=largest)})
    with pytest.raises(ValueError, match=rf"among ids 0\.\.{largest - 1}, found 5 rows of ids .*\.\.{largest}"):
        datasets.read_groundtruth(other, files)


def test_sets_of_vectordbbench(tmp_path):
    """Queries get ids of their own, and neighbours are in the order of the queries whatever that of the file."""
    dataset = DATASETS["cohere-large-10m"]
    base, more = replace(dataset.splits["base"], n=30, d=4), dataset.splits["base"].more_files[:1]
    splits = {"base": replace(base, more_files=more), "query": replace(dataset.splits["query"], n=5, d=4)}
    dataset = replace(dataset, splits=splits)
    x, queries, neighbours = rng.random((30, 4)), rng.random((5, 4)), rng.integers(0, 30, (5, 3))
    order = rng.permutation(30)
    for file, rows in zip((base.file, *more), np.split(order, 2), strict=True):
        pq.write_table(pa.table({"id": rows, "emb": list(x[rows])}), tmp_path / file)
    pq.write_table(pa.table({"id": range(5), "emb": list(queries)}), tmp_path / "test.parquet")
    table = pa.table({"id": [4, 3, 2, 1, 0], "neighbors_id": list(neighbours[::-1])})
    pq.write_table(table, tmp_path / "neighbors.parquet")
    files = datasets.locate_or_fetch(dataset, tmp_path / "data", tmp_path)
    ids, found, _ = read(dataset, "base", files)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(found, x[order].astype(np.float32))
    ids, found, _ = read(dataset, "query", files)
    np.testing.assert_array_equal(ids, QUERY + np.arange(5))
    np.testing.assert_array_equal(datasets.read_groundtruth(dataset, files), neighbours)
