"""THC: convolutional neural networks for text hashing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..anchors import anchor_eigenvectors, anchor_graph, check_anchors
from ..deep.contract import Outputs, Tensor
from ..deep.losses import binary_cross_entropy
from ..deep.method import Deep
from ..functions import AnchorGraphHash
from ..mapreduce import Array, Batch, Data, Sum
from ..solvers import top_eigenvectors
from ..statistics import FOLDED, Sample, inverse_frequency, tf_idf, unit_rows, word_counts
from . import register


@register
@dataclass(frozen=True)
class THC(Deep):
    """Stage 1: codes of the rows' neighbourhood graph, each bit split at its median.
    Stage 2: the binary cross-entropy of each of these bits given u.

    The graph is that of TF-IDF vectors where rows are texts (network=text), of the rows themselves elsewhere. Short
    texts share hardly a word, so that anchors are all as far from them: neighbours are sought among the n_topics
    singular directions of the TF-IDF vectors (latent semantic analysis), in length 1. The paper solves the Laplacian of
    all rows' nearest neighbours; here an anchor graph stands for it, as in AGH, which adds over shards. Labels are used
    where `tags` is not 0: as so much longer coordinates of the graph's rows, where the paper's variants multiply its
    weights. The network is `text`'s, which puts the words themselves beside what its convolutions find.
    Reference: Xu, Wang, Tian, Xu, Zhao, Wang & Hao, Convolutional neural networks for text hashing, IJCAI 2015.
    """

    n_topics: int = 100
    n_anchors: int = 300
    n_nearest: int = 5
    tags: float = 0.0

    supervised = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_anchors(self.n_anchors, self.n_nearest, self.n_bits)
        if self.network == "text" and self.n_topics > FOLDED:
            raise ValueError(f"expected n_topics of at most {FOLDED}, found {self.n_topics}")

    @property
    def reads_labels(self) -> bool:
        return self.tags != 0

    def prepare(self, data: Data) -> tuple[AnchorGraphHash, tuple[Array, ...], Array]:
        weights: tuple[Array, ...] = ()
        if self.network == "text":
            n, used = data.reduce(Sum(_used_words), "words")
            rarity = inverse_frequency(n, used)
            (gram,) = data.reduce(Sum(partial(_gram, rarity=rarity)), "topics")
            weights = rarity, top_eigenvectors(gram, self.n_topics)
        rows = data.map_rows(partial(_features, weights=weights, tags=self.tags), "features")
        graph = anchor_graph(rows, self.n_anchors, self.n_nearest, 5, self.seed)
        weight = anchor_eigenvectors(graph.mass, graph.gram, self.n_bits)
        smooth = AnchorGraphHash(graph.anchors, graph.sigma, self.n_nearest, weight, np.zeros((2, 0)))
        median = np.median(smooth.project(rows.reduce(Sample(10_000, self.seed)).x), axis=0)
        return smooth, weights, median

    def loss(self, out: Outputs) -> Tensor:
        smooth, weights, median = out.prepared
        y = None if out.y is None else out.y.cpu().numpy()
        x = _features(Batch(out.ids, out.x.cpu().numpy(), y), weights, self.tags).x
        return binary_cross_entropy(out.u, out.u.new_tensor(smooth.values(x) >= median)).mean()


def _used_words(batch: Batch) -> tuple[int, Array]:
    return len(batch.x), (word_counts(batch.x) > 0).sum(axis=0)


def _gram(batch: Batch, rarity: Array) -> tuple[Array]:
    x = tf_idf(word_counts(batch.x), rarity)
    return (x.T @ x,)


def _features(batch: Batch, weights: tuple[Array, ...], tags: float) -> Batch:
    """Texts in the space of topics, other rows as they are; their labels beside them."""
    x = unit_rows(tf_idf(word_counts(batch.x), weights[0]) @ weights[1]) if weights else batch.x
    if tags and batch.y is None:
        raise ValueError("expected rows with labels for tags > 0, found rows without")
    return batch._replace(x=np.hstack([x, tags * batch.y]) if tags else x)
