"""Deep hashing for compact codes (unsupervised)."""

from dataclasses import dataclass
from functools import partial

from ..families import NetworkHash
from ..mapreduce import Data
from ..perceptrons import (
    deep_hashing_widths,
    orthogonality,
    principal_network,
    principal_rows,
    spread_loss,
    train_network,
)
from ..solvers import bits_within_dim
from . import register


@register
@dataclass(frozen=True)
class DH:
    """Deep hashing: a tanh network with outputs near their signs and of large variance, and orthogonal weights.

    Minimises |sgn(H) - H|^2 / 2n - variance / 2n |H - mean|^2 + orthogonal / 2 sum |W'W - I|^2 + decay / 2 sum (|W|^2 +
    |c|^2) over the weights W and biases c of all layers; H are the outputs. The network starts from principal
    directions and is trained by L-BFGS.

    In the paper the first term is a sum and the second, of weight 100, a mean, so their balance depends on n; here both
    are means. The paper's variance is not centred, so constant bits would maximise it; here it is centred. The layers
    are 60-30-16, 80-50-32 and 100-80-64 for 16, 32 and 64 bits, reportedly those of the paper, and interpolated for
    other lengths.

    Summed over all rows: H'H, H'1 and the sum of |H|, then the gradient, in each evaluation.

    Reference: Liong, Lu, Wang, Moulin & Zhou, Deep hashing for compact binary codes learning, CVPR 2015, section 3.2.
    """

    n_bits: int
    variance: float = 10.0
    orthogonal: float = 1e-3
    decay: float = 1e-3
    share: float = 0.95
    n_iter: int = 60

    check_dim = bits_within_dim

    def fit(self, data: Data) -> NetworkHash:
        rows, inputs = principal_rows(data, self.n_bits, self.share, varying=True)
        network = principal_network(rows, deep_hashing_widths(self.n_bits), "tanh")
        penalty = partial(orthogonality, orthogonal=self.orthogonal, decay=self.decay)
        network = train_network(rows, network, partial(spread_loss, variance=self.variance), penalty, self.n_iter)
        return inputs.fold(network)
