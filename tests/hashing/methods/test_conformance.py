"""One conformance suite over the catalogue: a method is tested by existing.

Methods of other packages are tested by name: HASHKILN_METHODS=a,b pytest tests/hashing/methods/test_conformance.py
"""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from hashing import methods
from hashing.deep.method import Deep
from hashing.functions import SignFunction
from hashing.mapreduce import Data
from hashing.methods import METHODS, check_hyperparameters, learn, method
from hashing.serialized import from_arrays, to_arrays
from hashing.unit_rows import unit_vectors
from infra.executors import InProcess
from storage import models
from tests.conftest import blobs, cut, mean_average_precision

if named := os.environ.get("HASHKILN_METHODS"):
    METHODS = {name: method(name) for name in named.split(",")}
EVERY = pytest.mark.parametrize("name", sorted(METHODS))
DEEP = {name for name, method in METHODS.items() if issubclass(method, Deep)}
SLOW_IF_DEEP = pytest.mark.parametrize(
    "name", [*sorted(METHODS.keys() - DEEP), *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(DEEP))]
)
TWO_VIEWS = {name for name in DEEP if METHODS[name].views == 2}
BITS = 16
OF_THE_DIMENSION = {"osq": 32, "qdrant": 64, "rabitq": 32, "sign": 32, "turboquant": 64}  # bits for rows of `blobs`


def bits(name, n_bits=BITS):
    """Return the code length to test a method with: n_bits, unless the dimension fixes it."""
    return OF_THE_DIMENSION.get(name, n_bits)


STEPS = ("n_iter", "n_outer", "n_inner", "n_rotate", "n_steps", "n_kmeans", "epochs")


def short(name):
    """Return the method with 8 bits, unless the dimension fixes them, and at most two steps of each iteration."""
    steps = {f.name: min(f.default, 2) for f in fields(METHODS[name]) if f.name in STEPS}
    return METHODS[name](n_bits=bits(name, 8), **steps)


def defaults(name, n_bits=BITS):
    """Return the method with its defaults, but only a few epochs for a deep one."""
    return METHODS[name](n_bits=bits(name, n_bits), **({"epochs": 2} if name in DEEP else {}))


@pytest.fixture(scope="module")
def fitted():
    """Each method is fitted once, in process, on 4 shards, on first use."""
    return Fitted()


class Fitted(dict):
    def __missing__(self, name):
        return self.setdefault(name, defaults(name).fit(Data(cut(blobs(), 4), InProcess(cpus=1))))


@EVERY
def test_is_a_frozen_dataclass_with_defaults_and_a_reference(name):
    cls = METHODS[name]
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert fields(cls)[0].name == "n_bits"
    check_hyperparameters(cls(n_bits=8))  # all else has a default, and means something
    assert "Reference:" in cls.__doc__


def test_a_changed_default_has_another_version():
    """Tables know a model by what differs from the defaults. Record new ones; where one changed, raise the version."""
    recorded = json.loads(Path(__file__).with_name("defaults.json").read_text())
    current = {
        name: {"version": cls.defaults_version, "defaults": {field.name: field.default for field in fields(cls)[1:]}}
        for name, cls in methods.METHODS.items()
    }
    assert current == recorded


@EVERY
def test_encodes_rows_to_bits(name, fitted):
    function, x = fitted[name], blobs(seed=1).x
    codes = function.encode(x)
    assert codes.shape == (len(x), bits(name))
    assert codes.dtype == bool
    assert function.n_bits == bits(name)
    assert function.dim == x.shape[1]
    np.testing.assert_array_equal(codes, function.project(x) >= 0)
    assert function.encode(x[:0]).shape == (0, bits(name))


@EVERY
def test_refuses_vectors_of_another_width(name, fitted):
    with pytest.raises(ValueError, match=r"expected vectors of shape \(n, 32\), found \(5, 31\)"):
        fitted[name].encode(np.zeros((5, 31), np.float32))


@EVERY
def test_saves_and_loads(name, fitted, tmp_path):
    function, x = fitted[name], blobs(seed=1).x
    digest = models.save_model(str(tmp_path), function)
    loaded = models.load_model(str(tmp_path), digest)
    np.testing.assert_array_equal(loaded.project(x), function.project(x))
    assert models.save_model(str(tmp_path), loaded) == digest
    np.testing.assert_array_equal(from_arrays(*to_arrays(function)).project(x), function.project(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(function)).project(x), function.project(x))


@EVERY
def test_codes_do_not_depend_on_the_batch(name, fitted):
    function, x = fitted[name], blobs(2 * SignFunction.rows + 700, seed=1).x
    whole = function.project(x)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(function.project(x[order]), whole[order])
    for size in (1, 7, 1000, SignFunction.rows):
        rows = slice(300, 300 + size)
        np.testing.assert_array_equal(function.project(x[rows]), whole[rows])


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"pca_rabitq"}))  # by cosine, it rounds other projections
def test_by_cosine_the_length_of_a_row_does_not_matter(name, fitted):
    function, x, rng = replace(fitted[name], metric="cosine"), blobs(300, seed=1).x, np.random.default_rng(0)
    u = function.project(x)
    np.testing.assert_array_equal(u, fitted[name].project(unit_vectors(x)))
    np.testing.assert_array_equal(function.undetermined(x), fitted[name].undetermined(unit_vectors(x)))
    powers = np.ldexp(1, rng.integers(-9, 9, (300, 1))).astype(np.float32)  # which lose nothing
    np.testing.assert_array_equal(function.project(x * powers), u)
    clear = np.abs(u) > 1e-3 * np.abs(u).max()
    scaled = function.encode(x * rng.uniform(0.01, 100, (300, 1)).astype(np.float32))
    np.testing.assert_array_equal(scaled[clear], u[clear] >= 0)
    with pytest.raises(ValueError, match="other than zero, which has no cosine, found zero in row 299"):
        function.encode(np.where(np.arange(300)[:, None] == 299, 0, x))


@SLOW_IF_DEEP
def test_by_cosine_it_learns_from_rows_of_length_one(name, in_process):
    """But from rows of two views as they are. Powers of two lose nothing."""
    method, batch = short(name), blobs(300)
    powers = np.ldexp(1, np.random.default_rng(0).integers(-9, 9, (300, 1))).astype(np.float32)
    uneven = batch._replace(x=batch.x * powers)
    learned = uneven if name in TWO_VIEWS else batch._replace(x=unit_vectors(batch.x))
    expected = method.fit(Data(cut(learned, 2), in_process, metric="cosine"))
    function = learn(method, Data(cut(uneven, 2), in_process, metric="cosine"))
    assert function.metric == ("" if name in TWO_VIEWS else "cosine")
    _, arrays, _ = to_arrays(expected)
    _, found, _ = to_arrays(function)
    for field in arrays:
        np.testing.assert_array_equal(found[field], arrays[field])


@SLOW_IF_DEEP
def test_fits_the_same_in_process_and_on_ray(name, ray_executor):
    """In few steps: each asks the cluster for the same."""
    method, shards = short(name), cut(blobs(), 4)
    other = method.fit(Data(shards, ray_executor))
    own = method.fit(Data(shards, InProcess(cpus=ray_executor.cpus)))
    _, ours, numbers = to_arrays(own)
    _, theirs, other_numbers = to_arrays(other)
    assert numbers == other_numbers
    for field in ours:
        np.testing.assert_array_equal(ours[field], theirs[field])  # bit for bit


@EVERY
def test_the_cut_into_shards_hardly_matters(name, fitted, in_process):
    """Nor do empty shards and shards of one row.

    Float sums differ in their last digits from cut to cut: an iterated fit is promised to 0.3 points of map.
    """
    queries, database = blobs(100, seed=1, first_id=10**6), blobs()
    expected = mean_average_precision(fitted[name], database, queries)
    uneven = [[], *([database.take(rows)] for rows in (slice(0, 1), slice(0, 0), slice(1, None)))]
    for shards in (cut(database, 7, batch_rows=170), uneven):
        function = defaults(name).fit(Data(shards, in_process))
        assert (function.encode(database.x) == fitted[name].encode(database.x)).mean() > 0.999
        assert mean_average_precision(function, database, queries) == pytest.approx(expected, abs=0.003)


@EVERY
def test_beats_chance(name, fitted):
    queries, database = blobs(100, seed=1, first_id=10**6), blobs()
    assert mean_average_precision(fitted[name], database, queries) > 1.5 / 6  # random codes give 1/6


@EVERY
def test_only_the_seed_is_random(name, in_process):
    data = Data(cut(blobs(300), 2), in_process)
    once, again = (defaults(name, 8).fit(data) for _ in range(2))
    np.testing.assert_array_equal(once.project(blobs(50).x), again.project(blobs(50).x))


@EVERY
def test_needs_rows(name, in_process):
    with pytest.raises(ValueError, match="expected at least one row"):
        METHODS[name](n_bits=8).fit(Data([[]], in_process))
    with pytest.raises(ValueError, match="expected at least one shard"):
        METHODS[name](n_bits=8).fit(Data([], in_process))


def test_unknown_names_are_refused_with_similar_ones():
    with pytest.raises(ValueError, match="found 'itk'; did you mean itq"):
        method("itk")
    with pytest.raises(ValueError, match="found 'qqq'; the methods are adsh, agh, ba, "):
        method("qqq")


def test_importing_the_catalogue_needs_no_heavy_library():
    code = "import sys, hashing.methods; print([m for m in ('torch', 'ray', 'prefect', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
