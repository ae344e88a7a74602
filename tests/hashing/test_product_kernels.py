"""Products in a fixed order of summation, beside an implementation in exact arithmetic and beside numpy."""

import mpmath
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from hashing.blas import one_blas_thread
from hashing.families import LinearHash

RNG = np.random.default_rng(0)
ORDER_OF_OPENBLAS = "SkylakeX" in {pool.get("architecture") for pool in threadpool_info()}


def data(n, d, n_bits):
    return (RNG.standard_normal(shape).astype(np.float32) for shape in ((n, d), (d, n_bits), n_bits))


def by_definition(x, weight, threshold):
    """One value: sums of panels of 448 products, of two equal panels if fewer than 896 are left."""
    total, begin = mpmath.mpf(0), 0
    with mpmath.workprec(24):
        while begin < len(x):
            left = len(x) - begin
            size = 448 if left >= 896 else -(-(left // 2) // 16) * 16 if left > 448 else left
            panel = mpmath.mpf(0)
            for a, b in zip(x[begin : begin + size], weight[begin : begin + size], strict=True):
                panel = mpmath.fadd(mpmath.fmul(float(a), float(b), exact=True), panel)
            total, begin = mpmath.fadd(total, panel), begin + size
        return float(mpmath.fsub(total, float(threshold)))


@pytest.mark.parametrize("d", [1, 5, 448, 449, 700, 895, 896, 1500])
def test_values_are_those_of_the_definition(d):
    x, weight, threshold = data(7, d, 81)
    u = LinearHash(weight, threshold).project(x)
    for row, bit in ((0, 0), (5, 64), (6, 63), (6, 80)):  # of a tile and of a single row; of wide and narrow tiles
        assert u[row, bit] == by_definition(x[row], weight[:, bit], threshold[bit])


@pytest.mark.parametrize("n_bits", [1, 12, 16, 64, 100, 256])
@pytest.mark.parametrize("d", [3, 96, 1000])
def test_a_value_depends_on_its_row_and_column_alone(d, n_bits):
    x, weight, threshold = data(1501, d, n_bits)
    u = LinearHash(weight, threshold).project(x)
    np.testing.assert_allclose(u, x.astype(float) @ weight - threshold, atol=1e-3)
    for n in (1, 7, 50, 1300):
        few = LinearHash(weight, threshold)
        parts = [few.project(x[i : i + n]) for i in range(0, len(x), n)]
        np.testing.assert_array_equal(np.concatenate(parts), u)
        np.testing.assert_array_equal(np.concatenate([block.copy() for block in few.blocks(x)]), u)
    for bits in (1, 11, 17, 70):
        narrow = LinearHash(weight[:, :bits], threshold[:bits])
        np.testing.assert_array_equal(narrow.project(x), u[:, :bits])


@pytest.mark.skipif(not ORDER_OF_OPENBLAS, reason="OpenBLAS adds in this order on CPUs with AVX-512 only")
@pytest.mark.parametrize(("d", "n_bits"), [(96, 40), (128, 64), (449, 64), (768, 256), (2000, 16)])
def test_values_are_those_of_openblas(d, n_bits):
    x, weight, threshold = data(4096, d, n_bits)
    with one_blas_thread():
        expected = x @ weight - threshold
    np.testing.assert_array_equal(LinearHash(weight, threshold).project(x), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_so(bad):
    x, weight, threshold = data(100, 128, 64)
    weight[5] = 0
    x[97, 5] = bad
    with pytest.raises(ValueError, match=r"^row 97: "):
        LinearHash(weight, threshold).project(x)
