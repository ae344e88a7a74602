"""The protocol of encoders, and the check of the packages that they need."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from hashing.mapreduce import Array


class EncoderRefused(ValueError):
    """There is no such encoder, or it cannot be used. The command line exits with 2."""


class Encoder(Protocol):
    """A frozen network that turns texts or pictures into vectors.

    An implementation must be deterministic: the same batch gives the same vectors. It may run a batch in smaller ones.
    It is called from one thread at a time.

    Examples
    --------
    The shortest encoder of texts:

    >>> import numpy as np
    >>> class Lengths:
    ...     def encode(self, batch):
    ...         return np.array([[len(text), text.count(" ")] for text in batch], np.float32)
    >>> Lengths().encode(["a text"]).tolist()
    [[6.0, 1.0]]
    """

    def encode(self, batch: Sequence[Any]) -> Array:
        """Return the vectors (n, d) float32 of n texts (strings) or pictures (PIL images in RGB)."""


def check_output(shape: Sequence[int], n: int) -> None:
    """Raise EncoderRefused unless the output of a network for n rows has the shape (n, d)."""
    if len(shape) != 2 or shape[0] != n:
        found = "x".join(map(str, shape)) or "one number"
        raise EncoderRefused(
            f"expected one vector for each of {n} rows, found an output of {found}: export the network with its "
            "pooling and a dynamic first dimension"
        )


def need(module: str, extra: str) -> None:
    """Raise EncoderRefused, with the extra to install, if a package is missing. Imports nothing."""
    if not find_spec(module):
        raise EncoderRefused(f"this encoder needs the package {module}: pip install 'hashkiln[{extra}]'")
