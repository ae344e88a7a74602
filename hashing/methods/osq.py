"""OSQ, the quantizer of Lucene and of Elastic's BBQ."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..mapreduce import Data
from ..quantizers.contract import planes_within
from ..quantizers.osq import OSQHash
from ..quantizers.units import symmetric_levels, units
from ..statistics import moments
from . import register

MOST = 4


@register
@dataclass(frozen=True)
class OSQ:
    """Optimized scalar quantization: 1 to 4 bits for each coordinate of the centred rows, so n_bits = d, 2 d, 3 d, 4 d.

    Each row has an interval of its own, optimized for the error along the row. Rows store three float16 correctives, 6
    bytes, and queries are rounded to 4 bits in the same way; search ranks by the estimated distances, as for rabitq.
    Without a rotation, features of uneven variance lose: compare rabitq. There are no shorter codes, as in Lucene: one
    interval for coordinates of very different variances, such as principal ones, would lose more. Hamming distances of
    the bits mean little, because each row has its own threshold.

    Summed over all rows: the mean.

    Reference: Apache Lucene, OptimizedScalarQuantizer, 2025 (Elasticsearch's better binary quantization, BBQ).
    """

    n_bits: int
    columns: ClassVar[tuple[str, ...]] = OSQHash.columns

    def check_dim(self, dim: int) -> None:
        planes_within(self, dim, MOST)

    def fit(self, data: Data) -> OSQHash:
        _, mean, variance = moments(data, cov_above=np.inf)
        self.check_dim(len(mean))
        bits = self.n_bits // len(mean)
        return OSQHash(mean, bits, **units(data.metric, symmetric_levels(bits), mean, float(variance)))
