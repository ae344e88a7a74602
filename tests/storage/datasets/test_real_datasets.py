"""Named datasets in HASHKILN_DATA, compared with published facts."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from storage import datasets
from storage.datasets import QUERY

HERE = os.environ.get("HASHKILN_DATA", "")


def needs(name):
    missing = not HERE or not (Path(HERE) / name).is_dir()
    return pytest.mark.skipif(missing, reason=f"SKIPPED FOR WANT OF REAL DATA: no {name} in HASHKILN_DATA={HERE!r}")


def read(dataset, split, files):
    blocks = list(datasets.read_split(dataset, split, files))
    x = [block.x for block in blocks]
    labels = [label for block in blocks for label in block.labels or ()]
    joined = np.concatenate(x) if isinstance(x[0], np.ndarray) else list(itertools.chain(*x))
    return np.concatenate([block.ids for block in blocks]), joined, labels


@needs("mnist")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_mnist(name):
    dataset = datasets.get(name)
    files = datasets.locate_or_fetch(dataset, Path(HERE))
    for split, n, of_a_class in (("base", 60_000, 6_742), ("query", 10_000, 1_135)):
        ids, x, labels = read(dataset, split, files)
        assert (x.shape, x.dtype) == ((n, 784), np.uint8)
        assert ids[0] == (QUERY if split == "query" else 0)
        assert len(np.unique(ids)) == n
        counts = np.bincount([label for (label,) in labels])
        assert len(counts) == dataset.classes
        assert counts.sum() == n
        assert counts[1] == (of_a_class if name == "mnist" else n // 10)  # the published number of ones


@needs("photosift")
def test_real_photosift_and_its_groundtruth():
    dataset = datasets.get("photosift")
    files = datasets.locate_or_fetch(dataset, Path(HERE))
    assert all(state.startswith("verified, sha256:") for state in datasets.provenance(dataset, files).values())
    _, base, _ = read(dataset, "base", files)
    ids, queries, _ = read(dataset, "query", files)
    truth = datasets.read_groundtruth(dataset, files)
    assert (base.shape, base.dtype, truth.shape) == ((1_000_000, 128), np.uint8, (10_000, 100))
    assert ids[0] == QUERY
    for i in (0, 4321, 9999):
        squared = ((base - queries[i].astype(np.float32)) ** 2).sum(1)  # integers below 2^24: exact
        np.testing.assert_array_equal(np.argsort(squared, kind="stable")[:100], truth[i])


@needs("openclipart")
def test_real_openclipart_and_wordnet():
    for name, kind, n in (("openclipart", bytes, 4_740), ("wordnet", str, 117_033)):
        dataset = datasets.get(name)
        files = datasets.locate_or_fetch(dataset, Path(HERE))
        base, query = (read(dataset, split, files) for split in ("base", "query"))
        np.testing.assert_array_equal(np.sort(np.concatenate([base[0], query[0]])), np.arange(n))
        assert all(type(x) is kind and x for x in base[1] + query[1])
        assert all(labels and all(type(label) is str for label in labels) for labels in base[2] + query[2])
        assert len({label for labels in base[2] for label in labels}) == dataset.classes
