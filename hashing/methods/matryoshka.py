"""Signs of the first coordinates."""

from dataclasses import dataclass

from ..families import ThresholdHash
from ..mapreduce import Data
from ..solvers import bits_within_dim
from ..statistics import mean_of
from . import register


@register
@dataclass(frozen=True)
class Matryoshka:
    """Binary quantization of the first n_bits coordinates: their signs, centred, as in sign.

    Only for embeddings that were trained to be cut (Matryoshka representation learning), such as OpenAI's
    text-embedding-3, nomic-embed-text-v1.5 and mxbai-embed-large-v1. With others, recall falls quickly: compare itq or
    super_bit at the same length. Cut vectors are not normalised again before their mean is subtracted.

    Summed over all rows: the mean.

    Reference: Kusupati et al., Matryoshka representation learning, NeurIPS 2022, with the signs of sign.
    """

    n_bits: int

    check_dim = bits_within_dim

    def fit(self, data: Data) -> ThresholdHash:
        mean = mean_of(data)
        self.check_dim(len(mean))
        return ThresholdHash(mean[None, : self.n_bits], len(mean))
