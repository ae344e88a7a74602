"""Drift: how far the projections of new rows have moved from those of the rows that the model encoded first."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hashing.mapreduce import Array
from storage import warehouse as places
from storage.files import npz
from storage.tables.parts import Part, read_moments

from ..records import Drift

CHANCE = 4  # standard errors that sampling noise may explain
READERS = 16  # threads that read footers; latency dominates


def between(first: Array, new: Array, limit: float) -> Drift:
    """Return the drift between two arrays of moments. Constant bits are skipped, because their deviation is 0."""
    (mean, deviation), (new_mean, new_deviation) = (_normal(state) for state in (first, new))
    distance = np.hypot(new_mean - mean, new_deviation - deviation)
    moved = np.divide(distance, deviation, out=np.zeros_like(distance), where=deviation > 0)
    bit, rows = int(moved.argmax()), int(new[0, 0])
    chance = CHANCE * (1.5 / rows) ** 0.5  # variance of a mean: 1/n; of a deviation: 1/(2n)
    return Drift(
        rows=rows,
        bit=bit,
        moved=float(moved[bit]),
        chance=chance,
        balance=float(new[1, bit] / rows),
        own_balance=float(first[1, bit] / first[0, bit]),
        shows=bool(moved[bit] > limit + chance),
    )


def moments_of_parts(parts: Iterable[Part]) -> Array | None:
    """Return the sum of the moments stored in parts; None if any part has none."""
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(read_moments, [part.url for part in parts if part.rows]))
    states = [state for state in found if state is not None]
    return np.sum(states, axis=0) if states and len(states) == len(found) else None


def first_moments(warehouse: str, model: str) -> Array | None:
    """Return the stored moments of the rows that a model encoded first, or None."""
    found = npz.read_arrays(_url(warehouse, model))
    return None if found is None else found["moments"]


def store_first_moments(warehouse: str, model: str, state: Array) -> None:
    """Store the moments of the rows that a model encoded first."""
    npz.write_arrays(_url(warehouse, model), moments=state)


def _url(warehouse: str, model: str) -> str:
    return places.MODEL_MOMENTS.url(warehouse, digest=model)


def _normal(state: Array) -> tuple[Array, Array]:
    rows, _, total, squares = state
    mean = total / rows
    return mean, np.sqrt(np.maximum(squares / rows - mean**2, 0))
