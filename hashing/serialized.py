"""Hash functions as arrays and numbers, from which they are restored: storage needs no more of a family."""

from dataclasses import fields
from typing import Any

import numpy as np

from .families import (
    AnchorGraphHash,
    CosineHash,
    DeepHash,
    KernelHash,
    LinearHash,
    NetworkHash,
    ProductHash,
    SphericalHash,
    ThresholdHash,
)
from .functions import HashFunction, part_names
from .mapreduce import Array
from .quantizers.osq import OSQHash
from .quantizers.rabitq import RaBitQHash
from .quantizers.turboquant import TurboQuantHash

FAMILIES: dict[str, type] = {
    family.__name__: family
    for family in (
        LinearHash, ThresholdHash, CosineHash, SphericalHash, KernelHash, AnchorGraphHash, ProductHash, NetworkHash,
        DeepHash, OSQHash, RaBitQHash, TurboQuantHash,
    )
}  # fmt: skip


def to_arrays(function: HashFunction) -> tuple[str, dict[str, Array], dict[str, Any]]:
    """Return (family, arrays, numbers), from which `from_arrays` restores the function.

    The parts of a tuple of arrays are named "field.0", "field.1" and so on. `numbers` holds the other fields, including
    strings; the metric only if the function depends on it, so that all other models keep their digest.

    Raises
    ------
    ValueError
        If the function belongs to no family of FAMILIES, and so could not be loaded.

    Examples
    --------
    >>> family, arrays, numbers = to_arrays(LinearHash(np.eye(2), np.zeros(2)))
    >>> family, sorted(arrays), numbers
    ('LinearHash', ['threshold', 'weight'], {})
    >>> from_arrays(family, arrays, numbers).n_bits
    2
    """
    family = type(function).__name__
    if FAMILIES.get(family) is not type(function):
        raise ValueError(f"unknown family of hash functions {family!r}: expected one of {sorted(FAMILIES)}")
    arrays: dict[str, Array] = {}
    numbers: dict[str, Any] = {}
    for name in part_names(function):
        value = getattr(function, name)
        if name == "metric" and not value:
            continue
        if isinstance(value, tuple):
            arrays |= {f"{name}.{place}": part for place, part in enumerate(value)}
        else:
            (arrays if isinstance(value, np.ndarray) else numbers)[name] = value
    return family, arrays, numbers


def from_arrays(family: str, arrays: dict[str, Array], numbers: dict[str, Any]) -> HashFunction:
    """Return the function that `to_arrays` converted.

    Raises ValueError if the family is unknown, or the names differ from those of its fields. Fields with keywords only
    may be missing: models of earlier releases lack them.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family of hash functions {family!r}: expected one of {sorted(FAMILIES)}")
    values: dict[str, Any] = {**numbers, **{name: array for name, array in arrays.items() if "." not in name}}
    for name, place in sorted((name.split(".")[0], int(name.split(".")[1])) for name in arrays if "." in name):
        values[name] = (*values.get(name, ()), arrays[f"{name}.{place}"])
    expected = set(part_names(FAMILIES[family]))
    added = {field.name for field in fields(FAMILIES[family]) if field.kw_only}  # since an earlier release
    if not expected - added <= values.keys() <= expected:
        raise ValueError(f"expected the fields {sorted(expected)} of {family}, found {sorted(values)}")
    function: HashFunction = FAMILIES[family](**values)
    return function
