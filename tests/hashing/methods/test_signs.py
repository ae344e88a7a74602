"""Methods whose bits are thresholds of single coordinates: sign, matryoshka and qdrant."""

import re

import numpy as np
import pytest

from hashing.bits import pack
from hashing.hamming.scan import topk
from hashing.mapreduce import Batch, Data
from hashing.methods import METHODS, check_against
from hashing.methods.matryoshka import Matryoshka
from hashing.methods.qdrant import Qdrant
from hashing.methods.sign import Sign
from tests.conftest import blobs, cut

X = blobs().x + 1


def data(x, executor):
    return Data(cut(Batch(np.arange(len(x)), np.asarray(x, np.float32)), 3), executor)


def test_sign_compares_each_coordinate_with_its_mean_or_with_zero(in_process):
    mean = X.mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(Sign(32).fit(data(X, in_process)).encode(X), mean <= X)
    np.testing.assert_array_equal(Sign(32, centred=False).fit(data(X, in_process)).encode(X), X >= 0)


def test_matryoshka_is_the_sign_of_the_first_coordinates(in_process):
    whole, first = (method.fit(data(X, in_process)).encode(X) for method in (Sign(32), Matryoshka(12)))
    np.testing.assert_array_equal(first, whole[:, :12])


def test_sign_without_centring_refuses_features_that_are_never_negative(in_process):
    with pytest.raises(ValueError, match="both signs for centred=False, found none below zero: pass centred=True"):
        Sign(32, centred=False).fit(data(np.abs(X), in_process))


def test_the_two_bits_of_qdrant_are_a_thermometer_whose_distance_is_the_difference_of_levels(in_process):
    x = np.array([[-1.0], [0.0], [1.0]])  # of mean 0 and variance 2/3: z = -1.22, 0, 1.22
    codes = pack(Qdrant(2).fit(data(x, in_process)).encode(x))
    distances, rows = topk(codes, codes, 3)
    for query in range(3):  # all nine pairs of levels
        assert distances[query].tolist() == [abs(query - row) for row in rows[query]]


@pytest.mark.parametrize("d", [4, 5])
def test_one_and_a_half_bits_of_qdrant_join_the_second_bits_of_two_coordinates(d, in_process):
    x = X[:, :d]
    two = Qdrant(2 * d).fit(data(x, in_process)).encode(x)
    joined = [two[:, d + j : min(d + j + 2, 2 * d)].any(axis=1) for j in range(0, d, 2)]
    found = Qdrant(d + (d + 1) // 2).fit(data(x, in_process)).encode(x)
    np.testing.assert_array_equal(found, np.column_stack([two[:, :d], *joined]))


def test_a_constant_coordinate_has_constant_bits(in_process):
    bits = (
        Qdrant(4)
        .fit(data(np.column_stack([X[:, 0], np.full(len(X), 0.3)]), in_process))
        .encode(np.array([[0, 0.3], [1, 0.3]], np.float32))
    )
    assert (bits[0, [1, 3]] == bits[1, [1, 3]]).all()


@pytest.mark.parametrize(
    ("name", "n_bits", "message"),
    [
        (
            "sign",
            16,
            "expected n_bits = d = 33, one bit a coordinate, found n_bits = 16: ask for 33 bits, or use",
        ),
        ("sign", 64, "found n_bits = 64: ask for 33 bits"),
        ("matryoshka", 64, "expected n_bits <= d, the vectors' dimension, found n_bits = 64, d = 33"),
        ("qdrant", 33, "expected n_bits = 2 d or 1.5 d, for d = 33, found n_bits = 33: ask for 66 or 50 bits"),
    ],
)
def test_a_code_length_that_does_not_suit_the_dimension_is_refused_before_any_row_is_read(name, n_bits, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_against(METHODS[name](n_bits=n_bits), "vector", 33, False)
