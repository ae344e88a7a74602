"""Base class of deep methods: hyper-parameters of training, and the functions that a method overrides."""

import hashlib
import pickle
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..families import DeepHash
from ..functions import HashFunction
from ..mapreduce import Array, Batch, Data, Sum
from ..names import check_choice
from ..source import source
from ..statistics import Sample, keyed_hash
from . import architectures
from .contract import APART, Facts, Outputs, Tensor
from .regularizers import penalty, weights_of

HELD_OUT = 2000  # maximum number of rows that score the epochs
JUDGES = 10  # minimum number of held-out rows with a similar one: the score of fewer is mostly noise


@dataclass(frozen=True)
class Deep:
    """A method that learns a network by SGD on batches.

    A subclass defines `loss` and, if needed, `head`, `prepare` and `targets`. A supervised method holds out a share of
    the training rows and selects the epoch with the best score on them. Other methods train on all rows and use the
    last epoch.

    Examples
    --------
    >>> from hashing.deep import losses
    >>> @dataclass(frozen=True)
    ... class Contrastive(Deep):
    ...     margin: float = 2.0
    ...
    ...     def loss(self, out):
    ...         distances = losses.squared_output_distances(out.u.tanh())
    ...         return losses.over_pairs(losses.contrastive(distances, losses.similarity(out.y), self.margin))
    >>> Contrastive(n_bits=32, margin=1.0).epochs
    20
    """

    n_bits: int
    network: str = "mlp"  # of architectures.NETWORKS; A+B for two views
    epochs: int = 20  # maximum
    patience: int = 5  # training ends after this number of epochs without a better score
    batch_size: int = 128  # rows, over all workers
    optimizer: str = "adam"  # adam, or sgd with momentum 0.9
    lr: float = field(default=1e-3, metadata={"above": 0})  # decays to 0 by a cosine schedule
    hash_rate: float = 1.0  # factor on lr in the hash layer, such as 10 if the rest is pretrained (DHN, section 4)
    weight_decay: float = 0.0
    validation: float = field(default=0.05, metadata={"below": 1})  # held-out share of the training rows
    augment: bool = False  # mirror and shift images at random
    regularizers: str = ""  # added to the loss, such as decov:0.1+so:0.01; see hashing.deep.regularizers
    precision: str = "float32"  # or bf16: the network in bfloat16 where possible, the loss in float32
    chunk: int = 0  # rows that pass through the network at a time, to save memory; 0 for all rows of a worker
    recompute: bool = False  # activation checkpointing: less memory for more computation
    seed: int = 0

    supervised: ClassVar[bool] = True
    views: ClassVar[int] = 1
    copies: ClassVar[int] = 1  # of each row of a batch; of several, each is changed at random: see Outputs
    hash_layer: ClassVar[str] = "linear"
    class_codes: ClassVar[bool] = False  # whether each class has a code of its own: deep.centres

    def __post_init__(self) -> None:
        """Raise ValueError for hyper-parameters that cannot be trained."""
        names = architectures.network_names(self.network, self.views)
        if self.augment and not set(names) & set(architectures.PICTURES):
            raise ValueError(
                f"augment needs a network among {', '.join(architectures.PICTURES)}, found network={self.network}"
            )
        check_choice("optimizer", self.optimizer, architectures.OPTIMIZERS)
        check_choice("precision", self.precision, architectures.PRECISIONS)
        if self.hash_layer.partition(":")[0] not in architectures.HASH_LAYERS:
            known = ", ".join(architectures.HASH_LAYERS)
            raise ValueError(f"expected a hash layer among {known}, found {self.hash_layer!r}")
        if self.hash_layer == "normed" and self.views > 1:
            raise ValueError(
                "expected one view for the hash layer normed, as a missing view has no outputs to normalize"
            )
        if self.hash_layer == "normed" and self.batch_size * self.copies < 2:
            raise ValueError(
                f"expected batch_size of at least 2 for the hash layer normed, found batch_size={self.batch_size}"
            )
        weights_of(self.regularizers)

    def loss(self, out: Outputs) -> Tensor:
        """Return the objective of one batch, a scalar, without regularizers."""
        raise NotImplementedError

    def objective(self, out: Outputs) -> Tensor:
        """Return the loss of one batch plus the regularizers."""
        if not self.regularizers:
            return self.loss(out)
        return self.loss(out) + penalty(weights_of(self.regularizers), out.u.chunk(self.views, dim=1), out.network)

    def head(self, dim: int, n_classes: int) -> Any:
        """Return an nn.Module to train together with the network, or None."""
        return None

    def prepare(self, data: Data) -> Any:
        """Return any value computed from all rows before training; `targets` receives it."""
        return None

    def targets(self, batch: Batch, prepared: Any) -> Array | None:
        """Return further targets of the loss (m, t), one row for each row of the batch, or None.

        They are computed on the CPU, ahead of the steps, and available in `Outputs.targets`. The x of the batch are
        uint8 or float32, its y are float32.
        """
        return None

    def fit(self, data: Data) -> HashFunction:
        """Train on the executor's workers. An interrupted run resumes from its last checkpoint."""
        from . import sgd

        training_rows = facts(data, self)
        loop = partial(sgd.train, method=self, shards=data.shards, facts=training_rows, prepared=self.prepare(data),
                       held_out=held_out(data, self), pretrained=data.pretrained)  # fmt: skip
        arrays, epochs = sgd.outcome(data.executor.train(loop, self.name_of_run(data)))
        shape = len(training_rows.mean), self.n_bits, self.views, self.split
        layer = "linear" if self.hash_layer == "normed" else self.hash_layer  # folded at the end of training
        return DeepHash(arrays, self.network, *shape, layer, epochs=epochs)

    @property
    def split(self) -> int:
        """Return the dimension of the first of two views; 0 for half of the row."""
        return int(getattr(self, "first_view", 0))

    def check_dim(self, dim: int) -> None:
        """Raise ValueError if the network cannot take rows of dim dimensions."""
        names = architectures.network_names(self.network, self.views)
        for name, width in zip(names, architectures.view_dims(dim, self.views, self.split), strict=True):
            architectures.check_dim(name, width)

    def held_out(self, ids: Array) -> Array:
        """Return a mask (n,) of the held-out rows; an unsupervised method holds out none."""
        share: Array = keyed_hash(ids, APART + self.seed) < np.uint64(int(self.validation * (2**64 - 1)))
        return share & self.supervised

    def name_of_run(self, data: Data) -> str:
        """Return a digest of everything that training depends on: a run resumes an earlier one of the same name."""
        digest = hashlib.sha256(pickle.dumps((type(self).__name__, asdict(self), data.shards)))
        digest.update(source(type(self)).encode())  # type: ignore[arg-type]  # reads Deep.__hash__ as that of its type
        for name, array in data.pretrained.items():
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def facts(data: Data, method: Deep) -> Facts:
    """Return the statistics of the training rows. Raises ValueError without rows or, if supervised, without labels."""
    n, total, squares, labels, wider = data.reduce(Sum(partial(_sums, method=method)), "training rows")
    if not n:
        raise ValueError("expected at least one training row, found none in all shards")
    if method.supervised and not np.any(labels):
        raise ValueError(f"expected labels for {type(method).__name__}, found rows without labels")
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0)
    return Facts(int(n), mean, variance, len(np.atleast_1d(labels)), "float32" if wider else "uint8")


def _sums(batch: Batch, method: Deep) -> tuple[Any, ...]:
    if method.supervised and batch.y is None and len(batch.ids):
        raise ValueError(f"expected labels for {type(method).__name__}, found rows without labels")
    x = batch.x[~method.held_out(batch.ids)]
    wider = not (_are_bytes(x[:1]) and _are_bytes(x))  # for most vectors, the first row decides
    x = x.astype(np.float64)
    labels = np.zeros(1) if batch.y is None else batch.y.sum(axis=0, dtype=np.float64)
    return len(x), x.sum(axis=0), (x * x).sum(axis=0), labels, wider


def _are_bytes(x: Array) -> bool:
    return bool(((x >= 0) & (x <= 255) & (x == np.rint(x))).all())


def held_out(data: Data, method: Deep) -> Batch | None:
    """Return up to HELD_OUT held-out rows, the same for any sharding; None if fewer than JUDGES have a similar one."""
    if not method.supervised:
        return None
    rows = data.reduce(Sample(HELD_OUT, APART + method.seed), "rows held out")
    rows = rows.take(method.held_out(rows.ids))
    labels = np.asarray(rows.y, np.float32)  # `facts` has checked that rows have labels
    paired = ((labels @ labels.sum(axis=0)) > labels.sum(axis=1)).sum()  # rows that share a label with another row
    return rows if paired >= JUDGES else None


def linear_layer(n_in: int, n_out: int, bias: bool = True) -> Any:
    """Return a linear layer, the head of most methods."""
    from torch import nn

    return nn.Linear(n_in, n_out, bias)
