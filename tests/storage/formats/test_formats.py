"""Each file format, compared with an independent writer, and files damaged at every position."""

import gzip
import io
import re
import tarfile
import tracemalloc

import h5py
import numpy as np
import pytest
from faiss.contrib import vecs_io

from storage import datasets
from storage.formats import bins, hdf5, idx, npy, vecs

KINDS = {".fvecs": np.float32, ".bvecs": np.uint8, ".ivecs": np.int32}
rng = np.random.default_rng(0)


def vecs_bytes(x, order="<"):
    heads = np.full((len(x), 1), x.shape[1], f"{order}i4")
    return np.hstack([heads.view(np.uint8), x.view(np.uint8)]).tobytes()


def values(shape, dtype):
    return rng.integers(0, 256, shape).astype(dtype)


def tar_gz(path, members):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content or b"")
            entry.type = tarfile.REGTYPE if content is not None else tarfile.DIRTYPE
            archive.addfile(entry, io.BytesIO(content or b""))


def whole(blocks):
    return np.concatenate(list(blocks))


def error(blocks):
    with pytest.raises(ValueError, match=r"expected .* found") as raised:
        list(blocks)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("suffix", KINDS)
def test_vecs_plain_gz_and_inside_a_tar_gz(tmp_path, suffix):
    x = values((3200, 1500), KINDS[suffix])  # more than one block
    content = vecs_bytes(x)
    plain, packed, archive = (tmp_path / name for name in (f"x{suffix}", f"x{suffix}.gz", "set.tar.gz"))
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content, 1))
    tar_gz(
        archive,
        {"set": None, "set/other.fvecs": b"no vectors", f"set/max{suffix}": b"others", f"set/x{suffix}": content},
    )
    before = sorted(tmp_path.iterdir())
    for blocks in (
        vecs.read_vecs(plain),
        vecs.read_vecs(packed),
        vecs.read_vecs(archive, f"set/x{suffix}"),
        vecs.read_vecs(str(archive), f"x{suffix}"),
    ):
        blocks = list(blocks)
        assert len(blocks) > 1
        assert max(block.nbytes for block in blocks) <= 4 << 20
        assert {block.dtype for block in blocks} == {np.dtype(KINDS[suffix])}
        assert whole(blocks).tobytes() == x.tobytes()
    assert sorted(tmp_path.iterdir()) == before


def test_vecs_of_another_writer(tmp_path):
    x, ids = rng.normal(size=(100, 17)).astype(np.float32), values((100, 9), np.int32)
    vecs_io.fvecs_write(str(tmp_path / "x.fvecs"), x)
    vecs_io.ivecs_write(str(tmp_path / "x.ivecs"), ids)
    np.testing.assert_array_equal(whole(vecs.read_vecs(tmp_path / "x.fvecs")), x)
    np.testing.assert_array_equal(whole(vecs.read_vecs(tmp_path / "x.ivecs")), ids)


def test_vecs_concatenated_with_cat(tmp_path):
    a, b = values((5, 8), np.uint8), values((7, 8), np.uint8)
    (tmp_path / "x.bvecs").write_bytes(vecs_bytes(a) + vecs_bytes(b))
    (tmp_path / "x.bvecs.gz").write_bytes(gzip.compress(vecs_bytes(a)) + gzip.compress(vecs_bytes(b)))
    for name in ("x.bvecs", "x.bvecs.gz"):
        np.testing.assert_array_equal(whole(vecs.read_vecs(tmp_path / name)), np.vstack([a, b]))


def test_vecs_cut_at_every_byte(tmp_path):
    content, path = vecs_bytes(values((3, 2), np.float32)), tmp_path / "x.fvecs"
    assert len(content) == 36
    for length in range(36):
        path.write_bytes(content[:length])
        if length in (12, 24):
            assert len(whole(vecs.read_vecs(path))) == length // 12
        elif length < 4:
            assert f"at least one row, found a file of {length} bytes" in error(vecs.read_vecs(path))
        else:
            row = length // 12
            message = error(vecs.read_vecs(path))
            assert f"{path}: expected 12 bytes a row, found {length % 12} in" in message
            assert f"row {row} at byte {12 * row}" in message


def test_vecs_gzip_cut_at_every_byte(tmp_path):
    content, path = gzip.compress(vecs_bytes(values((3, 2), np.float32))), tmp_path / "x.fvecs.gz"
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        assert str(path) in error(vecs.read_vecs(path))
    path.write_bytes(content[:-8] + b"0000" + content[-4:])
    assert "CRC" in error(vecs.read_vecs(path))
    path.write_bytes(vecs_bytes(values((3, 2), np.float32)))
    assert "Not a gzipped file" in error(vecs.read_vecs(path))


def test_vecs_archive_cut_or_without_the_member(tmp_path):
    path = tmp_path / "x.tar.gz"
    tar_gz(path, {"s": None, "s/x.bvecs": vecs_bytes(values((9, 700), np.uint8)), "s/x.fvecs": b""})
    assert (
        error(vecs.read_vecs(path, "s/y.bvecs"))
        == f"{path}: expected a member s/y.bvecs, found s, s/x.bvecs, s/x.fvecs"
    )
    assert "at least one row" in error(vecs.read_vecs(path, "x.fvecs"))
    content = path.read_bytes()
    for length in range(1, len(content) // 2, 97):
        path.write_bytes(content[:length])
        assert str(path) in error(vecs.read_vecs(path, "x.bvecs"))
    path.write_bytes(gzip.compress(gzip.decompress(content)[:3000]))  # a valid gzip of half an archive
    assert "unexpected end of data" in error(vecs.read_vecs(path, "x.bvecs"))


def test_vecs_of_impossible_dimensions(tmp_path):
    path = tmp_path / "x.bvecs"
    for head, found in ((0, "0"), (-1, "-1"), (2**20 + 1, "1048577"), (2**31 - 1, "2147483647")):
        path.write_bytes(head.to_bytes(4, "little", signed=True) + bytes(100))
        assert re.search(rf"1\.\.1048576 in row 0 at byte 0, found {found}$", error(vecs.read_vecs(path)))
    path.write_bytes(vecs_bytes(values((4, 128), np.uint8), ">"))
    assert "found -2147483648: big-endian would be 128" in error(vecs.read_vecs(path))
    path.write_bytes((1 << 20).to_bytes(4, "little") + bytes(1 << 20))
    assert whole(vecs.read_vecs(path)).shape == (1, 1 << 20)


def test_vecs_of_mixed_dimensions_name_the_row(tmp_path):
    path = tmp_path / "x.bvecs"
    a, b = values((2_000_000, 4), np.uint8), values((3, 6), np.uint8)  # the change is in the third block
    path.write_bytes(vecs_bytes(a) + vecs_bytes(b))
    assert "dimension 4 as in row 0, found 6 in row 2000000 at byte 16000000" in error(vecs.read_vecs(path))
    path.write_bytes(vecs_bytes(b) + vecs_bytes(a[:1]))  # and in bytes that are less than a row
    assert "dimension 6 as in row 0, found 4 in row 3 at byte 30" in error(vecs.read_vecs(path))


def test_vecs_of_another_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"expected a name that ends in \.fvecs, \.bvecs, \.ivecs .* found x\.npy"):
        vecs.read_vecs(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"found set\.tar"):
        vecs.read_vecs(tmp_path / "set.tar.gz")
    with pytest.raises(FileNotFoundError, match=r"x\.fvecs"):
        list(vecs.read_vecs(tmp_path / "x.fvecs"))


def test_vecs_are_read_in_bounded_memory(tmp_path):
    path = tmp_path / "x.bvecs.gz"
    path.write_bytes(gzip.compress(vecs_bytes(np.zeros((500_000, 128), np.uint8)), 1))  # 66 MB
    tracemalloc.start()
    assert sum(len(block) for block in vecs.read_vecs(path)) == 500_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24e6


def idx_bytes(x, code):
    return bytes([0, 0, code, x.ndim]) + np.array(x.shape, ">u4").tobytes() + x.tobytes()


@pytest.mark.parametrize(("code", "dtype"), idx.DTYPES.items())
def test_idx_of_every_type(tmp_path, code, dtype):
    x = values((1200, 70, 60), dtype)
    (tmp_path / "x").write_bytes(idx_bytes(x, code))
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx_bytes(x, code), 1))
    for name in ("x", "x.gz"):
        blocks = list(idx.read_idx(tmp_path / name))
        assert len(blocks) > 1
        np.testing.assert_array_equal(whole(blocks), x)
        assert blocks[0].dtype == x.dtype.newbyteorder("=")


def test_idx_labels(tmp_path):
    (tmp_path / "y").write_bytes(idx_bytes(np.arange(10, dtype=np.uint8), 8))
    np.testing.assert_array_equal(whole(idx.read_idx(tmp_path / "y")), np.arange(10))


def test_idx_cut_at_every_byte_or_too_long(tmp_path):
    content, path = idx_bytes(values((3, 2, 2), np.uint8), 8), tmp_path / "x"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        message = error(idx.read_idx(path))
        assert (
            length < 16
            or f"expected 3 items of 4 bytes, found the end of the file in item {length // 4 - 4}" in message
        )
    path.write_bytes(content + b"\0")
    assert "expected the end of the file after 3 items" in error(idx.read_idx(path))
    packed = gzip.compress(content)
    for length in range(1, len(packed)):
        (tmp_path / "x.gz").write_bytes(packed[:length])
        error(idx.read_idx(tmp_path / "x.gz"))


def test_idx_of_other_magic_or_sizes(tmp_path):
    path = tmp_path / "x"
    for head in (b"\0\1\x08\1", b"\0\0\x0a\1", b"\0\0\x08\0", b"GIF8"):
        path.write_bytes(head + bytes(64))
        assert f"at byte 0, found {head.hex(' ')}" in error(idx.read_idx(path))
    for sizes in ((0, 2), (2, 0), (2, 1 << 30)):
        path.write_bytes(b"\0\0\x08\2" + np.array(sizes, ">u4").tobytes() + bytes(64))
        assert f"found sizes {sizes}" in error(idx.read_idx(path))


ARRAYS = {"train": (9000, 300), "test": (5, 300), "neighbors": (5, 4), "distances": (5, 4)}


def write_hdf5(path, leave_out=(), **other):
    arrays = {name: values(shape, "int32" if name == "neighbors" else "float32") for name, shape in ARRAYS.items()}
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "euclidean"
        for name, x in (arrays | other).items():
            if name not in leave_out:
                file[name] = x
    return arrays


def test_hdf5(tmp_path):
    path = tmp_path / "x.hdf5"
    for name, x in write_hdf5(path).items():
        blocks = list(hdf5.read_hdf5(path, name))
        assert (len(blocks) > 1) == (name == "train")
        assert blocks[0].dtype == x.dtype
        np.testing.assert_array_equal(whole(blocks), x)
    assert hdf5.stored_metric(path) == "euclidean"
    write_hdf5(path, train=np.ones((3, 2)))
    assert next(hdf5.read_hdf5(path, "train")).dtype == np.float32


def test_damaged_or_incomplete_hdf5_is_refused(tmp_path):
    path = tmp_path / "x.hdf5"
    for name in ARRAYS:
        write_hdf5(path, leave_out=[name])
        assert f"{path}: expected an array {name}, found " in error(hdf5.read_hdf5(path, name))
    for x in (np.zeros(3), np.zeros((2, 2, 2)), np.zeros((0, 3)), np.array([[b"a"]])):
        write_hdf5(path, train=x)
        assert "expected train to be a matrix of numbers" in error(hdf5.read_hdf5(path, "train"))
    assert "found labels" in error(hdf5.read_hdf5(path, "labels"))
    write_hdf5(path)
    content = path.read_bytes()
    for length in (10, 1000, len(content) // 2):
        path.write_bytes(content[:length])
        assert str(path) in error(hdf5.read_hdf5(path, "train"))
    with pytest.raises(FileNotFoundError):
        list(hdf5.read_hdf5(tmp_path / "y.hdf5", "train"))


@pytest.mark.parametrize("suffix", [".fbin", ".u8bin", ".i8bin", ".FBIN"])
def test_bin_files_are_read_in_blocks(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(bins, "BLOCK_BYTES", 64)
    x = np.random.default_rng(0).integers(0, 100, (50, 6)).astype(bins.DTYPES[suffix.lower()])
    path = tmp_path / f"x{suffix}"
    path.write_bytes(np.array(x.shape, "<u4").tobytes() + x.tobytes())
    blocks = list(datasets.read_vector_file(str(path)))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), x)
    for content in (path.read_bytes()[:-1], path.read_bytes() + b"x", b"", bytes(8)):
        path.write_bytes(content)
        assert f"found {len(content)} bytes" in error(datasets.read_vector_file(str(path)))


def test_npy_files_are_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "BLOCK_BYTES", 64)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    blocks = list(datasets.read_vector_file(str(tmp_path / "x.npy")))
    assert len(blocks) == 2
    np.testing.assert_array_equal(np.concatenate(blocks), x)
    np.save(tmp_path / "x.npy", x[0])
    assert "expected vectors (n, d) of numbers, found (3,) float16" in error(
        datasets.read_vector_file(str(tmp_path / "x.npy"))
    )


def test_neighbours_of_hdf5_show_a_metric_only_if_they_contradict_euclidean_distance(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "x.hdf5"
    x, queries = rng.normal(size=(400, 8)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    similar = x / np.linalg.norm(x, axis=1, keepdims=True) * rng.normal(1, 0.01, (400, 1))  # of almost equal lengths
    by_distance = np.square(queries[:, None] - x).sum(axis=2).argsort(axis=1)[:, :30]
    by_product = (-queries @ x.T).argsort(axis=1)[:, :30]
    for rows, neighbours, metric in (
        (x, by_distance, None),
        (x, by_product, "ip"),
        (similar, (-queries @ similar.T).argsort(axis=1)[:, :10], "ip"),
        (np.full_like(x, np.inf), by_product, None),
        (x, rng.integers(0, 400, (20, 30)), None),  # of no metric
        (x, np.full((20, 30), 400), None),
        (x, by_product[:, :1], None),
        (x, by_product.astype(float), None),
    ):
        with h5py.File(path, "w") as file:
            file["train"], file["test"], file["neighbors"] = rows, queries, neighbours
        assert hdf5.metric_of_neighbours(path) == metric
    with h5py.File(path, "w") as file:
        file["train"], file["test"], file["neighbors/of"] = x, queries, by_distance
    assert hdf5.metric_of_neighbours(path) is None


def test_hdf5_says_how_vectors_are_compared(tmp_path):
    words = {
        "euclidean": "euclidean",
        "l2": "euclidean",
        "Angular": "cosine",
        "cosine": "cosine",
        "ip": "ip",
        "dot": "ip",
    }
    for word, metric in {**words, "hamming": "hamming"}.items():
        with h5py.File(tmp_path / f"{word}.HDF5", "w") as file:
            file["train"], file["test"] = np.eye(4) > 0, np.eye(4)[:2] > 0
            file.attrs["distance"] = np.array([word.encode()]) if word == "cosine" else word
        source = datasets.open_source(str(tmp_path / f"{word}.HDF5"), None, None)
        assert source.metric == metric
        np.testing.assert_array_equal(next(iter(list(source.splits["query"]))).x, np.eye(4)[:2])
        with h5py.File(tmp_path / f"{word}.HDF5", "a") as file:
            file.attrs["distance"] = "jaccard"
        with pytest.raises(ValueError, match=r"expected a distance of euclidean, .*, hamming, found jaccard"):
            datasets.open_source(str(tmp_path / f"{word}.HDF5"), None, None)
