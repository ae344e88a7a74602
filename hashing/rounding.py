"""Bounds on the rounding errors of float32 in the formulas of hash functions.

They hold for every order of summation, and so for every BLAS, batch size and device. Arguments and bounds are float64;
`error` bounds the errors of an argument. Source: Higham, Accuracy and Stability of Numerical Algorithms, SIAM 2002,
section 3.1: n successive roundings have a relative error of at most gamma(n).
"""

import numpy as np

from .mapreduce import Array

UNIT = 2.0**-24  # unit roundoff of float32
TINY = 2.0**-126  # smallest normal float32; a device may round smaller numbers to 0
FUNCTION = 4 * UNIT  # relative error of exp, and absolute error of cos and tanh, in numpy, torch and CUDA


def gamma(n: int) -> float:
    """Return the largest relative error of n successive roundings."""
    return n * UNIT / (1 - n * UNIT)


def product_error(x: Array, weight: Array, bias: Array, error: Array | float = 0.0) -> Array:
    """Return a bound (n, k) on the error of x @ weight + bias, for x (n, d) with errors of at most `error`."""
    error = np.broadcast_to(error, x.shape)
    size = (np.abs(x) + error) @ np.abs(weight) + np.abs(bias)
    bound: Array = error @ np.abs(weight) + gamma(x.shape[1] + 2) * size
    return bound


def distance_error(x: Array, centres: Array, distances: Array, error: Array | float = 0.0) -> Array:
    """Return a bound (n, m) on the error of `squared_centre_distances`, for x (n, d) with errors of at most `error`.

    The formula is |a|^2 + |c|^2 - 2ac, after the mean of the centres was subtracted from rows a and centres c. The mean
    cancels, and its own rounding error only changes the norms.
    """
    centres = centres.astype(np.float64)
    moved = float(np.linalg.norm(gamma(len(centres)) * np.abs(centres).mean(axis=0)))
    origin = centres.mean(axis=0)
    own = np.linalg.norm(np.broadcast_to(error, x.shape), axis=1)[:, None]
    rows = np.linalg.norm(x - origin, axis=1)[:, None] + own + moved
    norms = rows + np.linalg.norm(centres - origin, axis=1) + moved
    bound: Array = gamma(x.shape[1] + 6) * norms**2 + 2 * own * np.sqrt(distances) + own**2
    return bound


def exp_error(exponent: Array, error: Array | float) -> Array:
    """Return a bound on the error of exp(-exponent), for exponents with errors of at most `error`."""
    shift = error + gamma(4) * np.abs(exponent)
    bound: Array = np.exp(-exponent) * (np.expm1(shift) + FUNCTION * np.exp(shift)) + TINY
    return bound


def min_error(values: Array, error: Array) -> Array:
    """Return a bound (n,) on the error of the smallest of each row of values (n, k)."""
    least = values.min(axis=1)
    bound: Array = np.maximum((values + error).min(axis=1) - least, least - (values - error).min(axis=1))
    return bound


def anchor_weight_error(z: Array, distances: Array, error: Array, sigma: float, n_nearest: int) -> Array:
    """Return a bound (n, m) on the error of `anchor_weights` z, for distances with errors of at most `error`.

    It is infinite for rows whose set of nearest anchors is not certain.
    """
    ordered, most = np.sort(distances, axis=1), error.max(axis=1)
    if distances.shape[1] > n_nearest:
        undetermined = ordered[:, n_nearest] - ordered[:, n_nearest - 1] <= 2 * most
    else:
        undetermined = np.zeros(len(z), bool)
    exponent = (ordered[:, n_nearest - 1] - ordered[:, 0]) / sigma**2
    relative = np.expm1(2 * most / sigma**2 + gamma(6) * exponent) + FUNCTION + gamma(n_nearest + 2)
    bound: Array = np.where(undetermined[:, None], np.inf, z * 2.1 * relative[:, None] + TINY)
    return bound
