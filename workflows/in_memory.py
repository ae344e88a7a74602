"""Fit, encode and search arrays in memory, without a cluster or a warehouse."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hashing.bits import n_bytes, pack
from hashing.functions import HashFunction
from hashing.hamming.scan import topk
from hashing.mapreduce import Array, Data, Metric
from hashing.methods import check_against, learn, reads_labels
from hashing.names import check_choice
from hashing.neighbours.exact import METRICS
from infra.executors import InProcess, connect
from infra.settings import Settings
from storage import models

from .arrays import as_codes, as_count, as_labels, as_vectors, float32, packed_codes, shards_of
from .reindex import fitting, pipeline
from .spec import MethodSpec, Number, Spec, valid

ROWS = 2**16  # rows encoded at a time, because projections take 32 times the memory of codes


@dataclass(frozen=True)
class Hasher:
    """A fitted hash function for arrays in memory.

    Codes are comparable only if the same hash function made them, so `encode` is a method of it.

    Parameters
    ----------
    function : HashFunction
        A fitted function, such as `hashkiln.open(table).function`.

    Examples
    --------
    >>> import numpy as np
    >>> import hashkiln
    >>> x = np.random.default_rng(0).normal(size=(200, 16))
    >>> f = hashkiln.fit(x, method="pcah", bits=12)
    >>> f.dim, f.n_bits, f.encode(x).shape
    (16, 12, (200, 2))
    >>> f.save("pcah12.safetensors")
    >>> hashkiln.Hasher.load("pcah12.safetensors").encode(x).tolist() == f.encode(x).tolist()
    True
    """

    function: HashFunction

    def __repr__(self) -> str:
        return f"Hasher(dim={self.dim}, n_bits={self.n_bits})"  # without the numbers of its matrices

    @property
    def n_bits(self) -> int:
        """Code length in bits."""
        return self.function.n_bits

    @property
    def dim(self) -> int:
        """Dimension d of the vectors."""
        return self.function.dim

    def encode(self, x: Any) -> Array:
        """Return the codes (n, ceil(n_bits / 8)) uint8 of vectors x (n, d).

        Bit j of a row is byte j div 8, position j mod 8, as in Faiss; the padding is zero. A row's code depends on that
        row alone. Raises ValueError unless x is an (n, d) array of finite numbers, and for a row of zeros if rows
        are compared by cosine.
        """
        x = as_vectors("x", x, self.dim, self.function.metric)
        blocks = [pack(self.function.encode(x[i : i + ROWS])) for i in range(0, len(x), ROWS)]
        return np.concatenate([np.zeros((0, n_bytes(self.n_bits)), np.uint8), *blocks])

    def project(self, x: Any) -> Array:
        """Return the real values (n, n_bits) float32 whose signs are the bits: a bit is 1 where its value is >= 0.

        Raises ValueError as `encode` does.
        """
        return self.function.project(as_vectors("x", x, self.dim, self.function.metric))

    def save(self, path: str | Path) -> None:
        """Write the function to a file, or to an s3:// URL, as safetensors with a header in JSON."""
        models.save_file(os.fspath(path), self.function)

    @classmethod
    def load(cls, path: str | Path) -> Hasher:
        """Read a function that `save` wrote. Raises ValueError for any other file."""
        return cls(models.load_file(os.fspath(path)))


def fit(
    x: Any,
    y: Any = None,
    *,
    method: str = "itq",
    bits: int = 32,
    seed: int = 0,
    metric: Metric = "euclidean",
    **parameters: Number,
) -> Hasher:
    """Learn a hash function from vectors, or from a dataset.

    Parameters
    ----------
    x : array-like or str
        Vectors, (n, d) numbers, used as float32. Or the name of a dataset, named or ingested; then this does what
        `hashkiln fit` does, and stores the model in the warehouse.
    y : array-like, optional
        Labels of the vectors, for methods that learn from them: (n,) integer classes, or (n, c) multi-hot of 0 and 1.
        Other methods ignore them.
    method : str, default "itq"
        A method listed by `hashkiln methods`.
    bits : int, default 32
        Code length in bits.
    seed : int, default 0
        Random seed.
    metric : {"euclidean", "cosine", "ip"}, default "euclidean"
        How the vectors are compared. By cosine, they are scaled to length one first. Datasets have their own metric.
    **parameters
        Hyper-parameters of the method, such as `n_iter=100`.

    Returns
    -------
    Hasher

    Raises
    ------
    ValueError
        If the method or a hyper-parameter is unknown or out of range, if labels are missing, or if x or y has the wrong
        shape, type or values.
    LookupError
        If there is no dataset of that name.

    Examples
    --------
    >>> import numpy as np
    >>> import hashkiln
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(300, 16)), rng.integers(3, size=300)
    >>> hashkiln.fit(x, method="itq", bits=8, n_iter=20).encode(x[:2]).dtype
    dtype('uint8')
    >>> hashkiln.fit(x, y, method="sdh", bits=8, n_anchors=50).n_bits
    8
    """
    spec = valid(MethodSpec, method=method, bits=bits, seed=seed, parameters=parameters)
    if isinstance(x, str):
        if y is not None:
            raise ValueError(f"y: pass no labels, because dataset {x} has its own")
        return Hasher(_fit_dataset(x, spec))
    check_choice("metric", metric, METRICS)
    x = as_vectors("x", x, metric=metric)
    if not len(x):
        raise ValueError(f"x: expected at least one row, found {x.shape}")
    labels = None if y is None else as_labels("y", y, len(x))
    built = spec.build()
    if reads_labels(built) and labels is None:
        raise ValueError(f"y: {spec.method} learns from labels: pass y")
    classes = np.unique(labels) if labels is not None and labels.ndim == 1 else None
    n_classes = 0 if labels is None else labels.shape[1] if classes is None else len(classes)
    check_against(built, "vector", x.shape[1], labels is not None, n_classes)
    return Hasher(learn(built, Data(shards_of(x, labels, classes, float32), InProcess(), metric=metric)))


def _fit_dataset(name: str, method: MethodSpec) -> HashFunction:
    spec, settings = valid(Spec, dataset=name, method=method, refit="always"), Settings()
    model = fitting.fit(pipeline.open_run(spec, settings, connect(settings)))
    return models.load_model(settings.warehouse_url, model.digest)


def search(codes: Any, queries: Any, k: int = 10) -> tuple[Array, Array]:
    """Find the rows whose codes are nearest to each query, exactly.

    Parameters
    ----------
    codes : array-like
        Codes of the database: (n, B) uint8, packed as `Hasher.encode` and Faiss pack them; or (n, n_bits) of bool, or
        of -1 and +1 in any other dtype.
    queries : array-like
        Codes of the queries, in the same form.
    k : int, default 10
        Number of rows to find for each query.

    Returns
    -------
    distances : ndarray of int32, shape (q, min(k, n))
        Hamming distances, in increasing order.
    rows : ndarray of int64, shape (q, min(k, n))
        Positions in `codes`; rows at equal distance are sorted by position.

    Raises
    ------
    ValueError
        If k is not an integer of at least 1, or the codes have another form or different lengths.

    Examples
    --------
    >>> import numpy as np
    >>> import hashkiln
    >>> codes = np.array([[0b0000], [0b0001], [0b0111], [0b1000]], np.uint8)
    >>> distances, rows = hashkiln.search(codes, codes[:1], k=3)
    >>> distances, rows
    (array([[0, 1, 1]], dtype=int32), array([[0, 1, 3]]))
    """
    x, n_bits = as_codes("codes", codes)
    query_codes, query_bits = as_codes("queries", queries)
    if query_bits != n_bits:
        raise ValueError(f"queries: expected codes of {n_bits} bits, as in the database, found {query_bits}")
    found: tuple[Array, Array] = topk(packed_codes(query_codes), packed_codes(x), as_count("k", k))
    return found
