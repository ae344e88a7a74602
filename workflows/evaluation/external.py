"""Codes made elsewhere, in .npy files: scored as a version of a table is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hashing.bits import n_bytes, pack
from hashing.evaluation.by_id import RankingById
from hashing.evaluation.histograms import HammingHistogram
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Array, Batch, Data
from hashing.statistics import Sample
from infra.executors import Progress, connect, silent
from infra.settings import Settings
from storage import datasets
from storage.formats import npy

from ..records import Report
from . import health, judge, metrics
from .by_id import measured_by_id
from .ground_truth import blocks

ROWS_PER_SHARD = 2**20
BATCH_BYTES = 2**24
SEED = 0


@dataclass(frozen=True)
class ArrayShard:
    """A shard of consecutive rows, whose ids count from `first`. Iterating packs the codes and spreads the labels."""

    codes: Array  # (n, B) uint8, packed | (n, n_bits) of bool, or of -1 and +1
    labels: Array  # (n,) classes | (n, c) multi-hot
    classes: Array | None  # (c,) distinct, of labels (n,)
    first: int

    def __iter__(self) -> Iterator[Batch]:
        width = self.codes.shape[1] + (self.labels.shape[1] if self.classes is None else len(self.classes))
        step = max(1, BATCH_BYTES // width)
        for start in range(0, len(self.codes), step):
            codes, labels = self.codes[start : start + step], self.labels[start : start + step]
            y = labels if self.classes is None else labels[:, None] == self.classes
            yield Batch(self.first + start + np.arange(len(codes)), _packed(codes), y.astype(np.uint8))


def evaluate_external(
    codes: str,
    labels: str,
    query_codes: str | None = None,
    query_labels: str | None = None,
    bits: int | None = None,
    queries: int = 1000,
    by_id: bool = False,
    progress: Progress = silent,
) -> Report:
    """Score the codes of .npy files, where rows that share a label are relevant to each other.

    Codes: (n, B) uint8 is packed as in hashing.bits and in Faiss, 8 B bits unless `bits` says fewer; (n, n_bits) of
    bool, or of -1 and +1 in any other dtype, is not. Labels: (n,) integer classes, or (n, c) multi-hot. Without queries
    of their own so many rows are drawn, by keyed hash of the position, and each query's own row is not ranked.
    Rows at one distance count as in random order, or are ranked by id, which is their position.
    Raises ValueError where types, shapes or values do not fit.
    """
    if bool(query_codes) != bool(query_labels):
        raise ValueError("expected both codes and labels of the queries, or neither, found one of them")
    x, y, n_bits = _read(codes, labels, bits)
    query_x, query_y = x, y
    if query_codes and query_labels:
        query_x, query_y, query_bits = _read(query_codes, query_labels, bits)
        if query_bits != n_bits or query_y.shape[1:] != y.shape[1:]:
            found = f"{query_bits} and labels {query_y.shape}, in {query_codes}"
            raise ValueError(f"expected queries of {n_bits} bits with labels like {y.shape}, found {found}")
    classes = np.union1d(y, query_y) if y.ndim == 1 else None
    starts = range(0, len(x), ROWS_PER_SHARD)
    shards = [ArrayShard(x[i : i + ROWS_PER_SHARD], y[i : i + ROWS_PER_SHARD], classes, i) for i in starts]
    data = Data(shards, connect(Settings(), progress))
    if query_codes:
        batches = list(ArrayShard(query_x, query_y, classes, datasets.QUERY))  # ids that no row has
        drawn, origin = Batch(*map(np.concatenate, zip(*batches, strict=True))), "of their own"
    else:
        drawn, origin = data.reduce(Sample(queries, SEED), "draw queries"), "drawn, own rows not ranked"
    ids, words = drawn.ids, pack_labels(np.asarray(drawn.y))
    histograms = [
        data.reduce(HammingHistogram(drawn.x[i], n_bits, words[i], ids[i]), "evaluate")
        for i in blocks(len(ids), 16 * (n_bits + 1))
    ]
    histogram = np.concatenate(histograms, axis=1)
    ties = judge.TIES["by-id" if by_id else "expectation"]
    if by_id:
        measured, curves = measured_by_id(RankingById(drawn.x, ids, words), shards, histogram, SEED)
    else:
        measured, curves = metrics.measured(histogram, SEED), metrics.retrieval_curves(histogram)
    return Report(
        protocol=f"relevant: rows that share a label; {len(ids)} queries, {origin}; ties: {ties}",
        measured=measured,
        curves=curves,
        comparison=None,
        health=health.code_health(data, n_bits),
        overlap="not looked for: the codes have no ids" if query_codes else "the queries are rows of the database",
    )


def _read(codes: str, labels: str, bits: int | None) -> tuple[Array, Array, int]:
    """Codes, labels and n_bits, with the shapes and dtypes that `evaluate` names."""
    x, y = npy.read_npy(codes), npy.read_npy(labels)
    if x.ndim != 2 or not x.size or x.dtype.kind not in "biuf":
        found = f"{x.shape} {x.dtype}, in {codes}"
        raise ValueError(f"expected codes (n, B) uint8, or (n, n_bits) of bool, or of -1 and +1, found {found}")
    packed = x.dtype == np.uint8
    n_bits = bits or x.shape[1] * (8 if packed else 1)
    if x.shape[1] != (n_bytes(n_bits) if packed else n_bits):
        kind = "bytes of packed codes" if packed else "bits, unpacked"
        raise ValueError(f"expected codes of {n_bits} bits, found {x.shape[1]} {kind} a row, in {codes}")
    if y.shape == (len(y), 1):
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.dtype.kind not in "biu" or len(y) != len(x):
        found = f"{y.shape} {y.dtype}"
        raise ValueError(f"expected integer labels ({len(x)},) or multi-hot ({len(x)}, c), found {found}, in {labels}")
    if not y.size or int(y.max()) > np.iinfo(np.int64).max:  # as int64 they are compared with those of the queries
        found = f"up to {y.max()}" if y.size else f"none, of shape {y.shape}"
        raise ValueError(f"expected labels of int64, found {found}, in {labels}")
    y = y.astype(np.int64) if y.ndim == 1 else y
    if y.ndim == 2 and (y.min() < 0 or y.max() > 1):
        raise ValueError(f"expected multi-hot labels of 0 and 1, found {y.min()} to {y.max()}, in {labels}")
    return x, y, n_bits


def _packed(codes: Array) -> Array:
    if codes.dtype == np.uint8:
        return codes
    if codes.dtype != bool and (wrong := codes[(codes != 1) & (codes != -1)]).size:
        raise ValueError(f"expected codes of -1 and +1, or bool, or packed uint8, found {wrong[0]} in {codes.dtype}")
    return pack(codes > 0)
