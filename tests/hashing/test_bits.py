import numpy as np
import pytest

from hashing.bits import n_bytes, pack, pack_signs, sgn, unpack


def test_zero_is_positive():
    np.testing.assert_array_equal(sgn(np.array([-2.0, -0.0, 0.0, 1e-30])), [-1, 1, 1, 1])


@pytest.mark.parametrize("n_bits", [1, 7, 8, 9, 63, 64, 65, 255, 4096])
def test_packing_round_trip_and_layout(n_bits):
    bits = np.random.default_rng(n_bits).random((5, n_bits)) < 0.5
    codes = pack(bits)
    assert codes.shape == (5, n_bytes(n_bits))
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(unpack(codes, n_bits), bits)
    for j in range(n_bits):
        np.testing.assert_array_equal(codes[:, j // 8] >> (j % 8) & 1, bits[:, j])
    if n_bits % 8:
        assert not (codes[:, -1] >> (n_bits % 8)).any()  # padding


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected bits of shape \(n, n_bits\), found \(3,\)"):
        pack(np.ones(3, bool))
    with pytest.raises(ValueError, match=r"expected codes \(n, 2\) uint8 for 9 bits, found \(4, 1\) uint8"):
        unpack(np.zeros((4, 1), np.uint8), 9)
    with pytest.raises(ValueError, match=r"expected codes \(n, 1\) uint8 for 8 bits, found \(4, 1\) int64"):
        unpack(np.zeros((4, 1), np.int64), 8)


@pytest.mark.parametrize("n_bits", [1, 8, 12, 33, 64, 70, 256])
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_signs_are_packed_with_their_moments_in_one_pass(n, n_bits):
    u = np.random.default_rng(n_bits).standard_normal((n, n_bits)).astype(np.float32)
    u[::7, ::3] = 0
    u[::11] *= -0.0
    moments = np.zeros((4, n_bits))
    codes = [pack_signs(part, moments) for part in (u[: n // 3], u[n // 3 :])]
    np.testing.assert_array_equal(np.concatenate(codes), pack(u >= 0))
    expected, wide = np.zeros((4, n_bits)), u.astype(np.float64)
    for row in wide:  # in this order: parts have equal bytes if encoded again
        expected += [np.ones(n_bits), row >= 0, row, row * row]
    np.testing.assert_array_equal(moments, expected)
