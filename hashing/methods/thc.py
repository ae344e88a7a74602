"""THC: convolutional neural networks for text hashing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..deep import Deep, Outputs, Tensor
from ..functions import AnchorGraphHash
from ..kernels import anchor_eigenvectors
from ..losses import binary_cross_entropy
from ..mapreduce import Array, Batch, Data, Sum
from ..statistics import Sample, anchor_graph, word_counts
from . import register


@register
@dataclass(frozen=True)
class THC(Deep):
    """Stage 1: codes of the rows' neighbourhood graph, each bit split at its median.
    Stage 2: the binary cross-entropy of each of these bits given u.

    The graph is that of TF-IDF vectors where rows are texts (network=text), of the rows themselves elsewhere. The paper
    solves the Laplacian of all rows' nearest neighbours; here an anchor graph stands for it, as in AGH, which adds over
    shards. No labels are used: the paper's variants with tags are not here. The network is `text`'s, which puts the
    words themselves beside what its convolutions find.
    Reference: Xu, Wang, Tian, Xu, Zhao, Wang & Hao, Convolutional neural networks for text hashing, IJCAI 2015.
    """

    n_anchors: int = 300
    n_nearest: int = 5

    supervised = False

    def prepare(self, data: Data) -> tuple[AnchorGraphHash, Array, Array]:
        rarity = np.ones(0)
        if self.network == "text":
            n, used = data.reduce(Sum(_used_words), "words")
            rarity = np.log((1 + n) / (1 + used)) + 1
        rows = data.map_rows(partial(_weighed, rarity=rarity), "features")
        graph = anchor_graph(rows, self.n_anchors, self.n_nearest, 5, self.seed)
        weight = anchor_eigenvectors(graph.mass, graph.gram, self.n_bits)
        smooth = AnchorGraphHash(graph.anchors, graph.sigma, self.n_nearest, weight, np.zeros((2, 0)))
        median = np.median(smooth.project(rows.reduce(Sample(10_000, self.seed)).x), axis=0)
        return smooth, rarity, median

    def loss(self, out: Outputs) -> Tensor:
        smooth, rarity, median = out.prepared
        x = _weighed(Batch(out.ids, out.x.cpu().numpy()), rarity).x
        return binary_cross_entropy(out.u, out.u.new_tensor(smooth.values(x) >= median)).mean()


def _used_words(batch: Batch) -> tuple[int, Array]:
    return len(batch.x), (word_counts(batch.x) > 0).sum(axis=0)


def _weighed(batch: Batch, rarity: Array) -> Batch:
    """TF-IDF of texts, of length 1."""
    if not len(rarity):
        return batch
    x = np.log1p(word_counts(batch.x)) * rarity
    return batch._replace(x=x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
