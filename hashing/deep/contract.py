"""The contract between deep methods and training: the types that both use. Importing it needs no torch."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from ..mapreduce import Array, Batch

Tensor = Any  # torch.Tensor
APART = 2**32  # added to the seed, because the seed itself samples other rows, such as queries, independently


class Outputs(NamedTuple):
    """The input of a loss: one batch of all workers together. Gradients flow through u and head.

    If the method trains on several copies of each row (`Deep.copies`), n counts all of them: first one copy of each
    row, then, in the same order, the next.
    """

    u: Tensor  # (n, n_bits); (n, 2 n_bits) for two views
    y: Tensor  # (n, c) multi-hot labels
    x: Tensor  # (n, d) rows before augmentation
    ids: Array  # (n,) int64
    progress: float  # finished share of the training, 0 to 1
    network: Any  # nn.Module that computed u
    head: Any  # nn.Module returned by the method's `head`, or None
    targets: Tensor  # (n, t) float32, the result of the method's `targets`, or None
    labels: Array  # (n, c) float32, y in host memory: reading y itself would wait for the device


class Facts(NamedTuple):
    """Statistics of the training rows, without the held-out ones."""

    rows: int
    mean: Array  # (d,)
    variance: Array  # (d,)
    n_classes: int
    dtype: str = "float32"  # holds every value of the rows: uint8 if all are integers from 0 to 255, such as pixels


@dataclass(frozen=True, match_args=False)  # frozen: the protocol requires readable fields only
class Trainable(Protocol):
    """The part of a deep method that SGD uses. The fields are documented in `hashing.deep.method.Deep`."""

    n_bits: int
    network: str
    epochs: int
    patience: int
    batch_size: int
    optimizer: str
    lr: float
    hash_rate: float
    weight_decay: float
    augment: bool
    precision: str
    chunk: int
    recompute: bool
    seed: int
    views: ClassVar[int]
    copies: ClassVar[int]
    hash_layer: ClassVar[str]

    @property
    def split(self) -> int: ...
    def head(self, dim: int, n_classes: int) -> Any: ...
    def targets(self, batch: Batch, prepared: Any) -> Array | None: ...
    def objective(self, out: Outputs) -> Tensor: ...
    def held_out(self, ids: Array) -> Array: ...
