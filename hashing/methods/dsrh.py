"""DSRH: deep semantic ranking hashing, for rows with several labels."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import balance, ranking_hinge, shared_labels, shared_with_others
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DSRH(Deep):
    """Deep semantic ranking hashing: ranking hinge loss over triplets, weighted by multi-label relevance.

    The loss is the mean of omega max(0, d_qi - d_qj + margin n_bits) over the triplets of a batch in which row i shares
    more labels with row q than row j does, plus `alpha` times a penalty on unbalanced bits. Here d = (n_bits - z'z) / 2
    is a relaxed Hamming distance, z = 2 sigmoid(u) - 1, and omega = (2^r_i - 2^r_j) / Z, where r counts the shared
    labels and Z is the DCG of the ideal order of the batch. So errors among the most relevant rows weigh most, as in
    NDCG.

    The paper's weight alpha = 1 applies to a sum over all triplets. Here the loss is their mean, and alpha = 1 would
    hold all outputs at 0, where the gradient of the triplets vanishes. Networks named *_skip connect the hash layer to
    both fully connected layers, as in the paper.

    Reference: Zhao, Huang, Wang & Tan, Deep semantic ranking based hashing for multi-label image retrieval, CVPR 2015.
    """

    margin: float = 0.08  # fraction of n_bits: 5 of 64 in the authors' code
    alpha: float = 0.01

    def loss(self, out: Outputs) -> Tensor:
        z, r = (out.u / 2).tanh(), shared_labels(out.y)
        distances = (self.n_bits - z @ z.T) / 2
        highest = int(shared_with_others(out.labels).max())  # of r the host would wait for the device
        hinge, triplets = ranking_hinge(distances, r, self.margin * self.n_bits, highest)
        places = (r.new_ones(len(r)).cumsum(0) + 1).log2()
        r = r - r.diagonal().diag_embed()  # a row is not a result of its own query
        ideal = ((2**r - 1).sort(dim=1, descending=True).values / places).sum(1).clamp(min=1)
        return (hinge / ideal).sum() / triplets.clamp(min=1) + self.alpha * balance(z)
