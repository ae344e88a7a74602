"""THC: convolutional neural networks for text hashing."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..anchors import anchor_eigenvectors, anchor_graph, check_anchors
from ..deep.contract import Outputs, Tensor
from ..deep.losses import binary_cross_entropy
from ..deep.method import Deep
from ..families import AnchorGraphHash
from ..mapreduce import Array, Batch, Data, Sum
from ..solvers import top_eigenvectors
from ..statistics import FOLDED, Sample, inverse_frequency, tf_idf, unit_rows, word_counts
from . import register


@register
@dataclass(frozen=True)
class THC(Deep):
    """Text hashing by a convolutional network: codes of a neighbourhood graph, learned by the network.

    Stage 1 maps the rows to the smoothest eigenvectors of their neighbourhood graph, and splits each at its median into
    a bit. Stage 2 minimises the mean binary cross-entropy of these bits given u.

    For texts (network=text) the graph is that of TF-IDF vectors, otherwise that of the rows. Short texts share few
    words, so all anchors are at about the same distance. TF-IDF vectors are therefore projected on their n_topics
    singular directions (latent semantic analysis) and scaled to length 1. The paper solves the Laplacian of the nearest
    neighbours of all rows; here an anchor graph approximates it, as in AGH, because it can be summed over shards.

    With tags > 0 the labels, times `tags`, become further coordinates of the rows of the graph; the paper's variants
    multiply the weights of the graph instead. The network `text` passes the words to the hash layer together with the
    features of its convolutions.

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
            n_rows, n_containing = data.reduce(Sum(_used_words), "words")
            rarity = inverse_frequency(int(n_rows), n_containing)
            (gram,) = data.reduce(Sum(partial(_gram, rarity=rarity)), "topics")
            weights = rarity, top_eigenvectors(gram, self.n_topics)
        rows = data.map_rows(partial(_features, weights=weights, tags=self.tags), "features")
        graph = anchor_graph(rows, self.n_anchors, self.n_nearest, 5, self.seed)
        weight = anchor_eigenvectors(graph.mass, graph.gram, self.n_bits)
        smooth = AnchorGraphHash(graph.anchors, graph.sigma, self.n_nearest, weight, np.zeros((2, 0)))
        median = np.median(smooth.project(rows.reduce(Sample(10_000, self.seed)).x), axis=0)
        return smooth, weights, median

    def targets(self, batch: Batch, prepared: tuple[AnchorGraphHash, tuple[Array, ...], Array]) -> Array:
        smooth, weights, median = prepared
        rows = _features(batch._replace(x=np.asarray(batch.x, np.float32)), weights, self.tags)
        bits: Array = smooth.values(rows.x) >= median
        return bits

    def loss(self, out: Outputs) -> Tensor:
        return binary_cross_entropy(out.u, out.targets).mean()


def _used_words(batch: Batch) -> tuple[int, Array]:
    return len(batch.x), (word_counts(batch.x) > 0).sum(axis=0)


def _gram(batch: Batch, rarity: Array) -> tuple[Array]:
    x = tf_idf(word_counts(batch.x), rarity)
    return (x.T @ x,)


def _features(batch: Batch, weights: tuple[Array, ...], tags: float) -> Batch:
    """Return texts as topic vectors and other rows unchanged, with `tags` times their labels as further columns."""
    x = unit_rows(tf_idf(word_counts(batch.x), weights[0]) @ weights[1]) if weights else batch.x
    if not tags:
        return batch._replace(x=x)
    if batch.y is None:
        raise ValueError("expected rows with labels for tags > 0, found rows without")
    return batch._replace(x=np.hstack([x, tags * batch.y]))
