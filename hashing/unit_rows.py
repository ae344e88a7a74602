"""Vectors as the metric cosine compares them: scaled to length one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .mapreduce import Array, Batch, Data, Shard


def unit_vectors(x: Array, first_row: int = 0) -> Array:
    """Return x (n, d) float32 divided by its norms, each value rounded once. Raises ValueError for a row of zeros.

    The squares of float32 values are exact in float64 and always added in the same order, so a row is scaled alike in
    any batch. A row and its multiple by a power of two give the same vector.
    """
    x = np.ascontiguousarray(x)  # the order of the sums depends on it
    norms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    if not norms.all():
        row = first_row + np.flatnonzero(norms == 0)[0]
        raise ValueError(f"expected vectors other than zero, which has no cosine, found zero in row {row}")
    units = np.empty(x.shape, np.float32)
    np.divide(x, norms[:, None], out=units, dtype=np.float64, casting="same_kind")
    return units


@dataclass(frozen=True)
class UnitRows:
    """The rows of a shard, scaled to length one."""

    shard: Shard

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.shard:
            yield batch._replace(x=unit_vectors(batch.x.astype(np.float32, copy=False)))


def with_unit_rows(data: Data) -> Data:
    """Return the data with all rows scaled to length one."""
    return replace(data, shards=list(map(UnitRows, data.shards)))
