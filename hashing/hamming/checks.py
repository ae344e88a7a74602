"""Argument checks shared by the Hamming functions on numpy arrays and on torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bits import n_bytes
from ..mapreduce import Array

if TYPE_CHECKING:
    from torch import Tensor

MAX_BITS = 4096


def check_codes(queries: Array | Tensor, database: Array | Tensor) -> None:
    """Raise ValueError unless both are packed codes (n, B) uint8 of the same width, with at most MAX_BITS bits."""
    for codes in (queries, database):
        if codes.ndim != 2 or dtype_name(codes) != "uint8" or not 1 <= codes.shape[1] <= MAX_BITS // 8:
            found = f"{tuple(codes.shape)} {dtype_name(codes)}"
            raise ValueError(f"expected codes (n, B) uint8 with B from 1 to {MAX_BITS // 8}, found {found}")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(f"expected codes of the same width, found {queries.shape[1]} and {database.shape[1]} bytes")


def check_histogram(
    queries: Array | Tensor,
    database: Array | Tensor,
    n_bits: int,
    query_labels: Array | Tensor,
    labels: Array | Tensor,
    n_grades: int,
) -> None:
    """Raise ValueError unless the codes have n_bits bits and zero padding, and and labels and n_grades match them."""
    check_codes(queries, database)
    if n_bytes(n_bits) != queries.shape[1]:
        raise ValueError(f"expected codes of {n_bytes(n_bits)} bytes for {n_bits} bits, found {queries.shape[1]}")
    check_labels(query_labels, labels, len(queries), len(database))
    for codes in (queries, database):
        if n_bits % 8 and (codes[:, -1] >> n_bits % 8).any():
            raise ValueError(
                f"expected zero padding after {n_bits} bits, found ones: pass the actual number of bits of the codes"
            )
    if not 1 <= n_grades <= 65536 // (n_bits + 1):
        raise ValueError(f"expected 1 to {65536 // (n_bits + 1)} grades for {n_bits} bits, found {n_grades}")


def check_no_labels(query_labels: Array | Tensor | None, labels: Array | Tensor | None) -> None:
    """Raise ValueError unless both the labels of the queries and those of the rows are None."""
    if query_labels is not None or labels is not None:
        raise ValueError("expected labels of both the queries and the rows, or of neither, found one of them")


def check_labels(query_labels: Array | Tensor, labels: Array | Tensor, n_queries: int, n_rows: int) -> None:
    """Raise ValueError unless both are packed labels uint64, (n_queries, w) and (n_rows, w)."""
    if dtype_name(query_labels) != "uint64" or dtype_name(labels) != "uint64":
        raise ValueError(f"expected labels as uint64 words, found {dtype_name(query_labels)} and {dtype_name(labels)}")
    n_words = query_labels.shape[-1]
    found = tuple(query_labels.shape), tuple(labels.shape)
    if found != ((n_queries, n_words), (n_rows, n_words)):
        raise ValueError(f"expected labels ({n_queries}, w) and ({n_rows}, w), found {found[0]} and {found[1]}")


def check_k(k: int) -> None:
    """Raise ValueError unless k, a number of neighbours or a rank, is at least 1."""
    if k < 1:
        raise ValueError(f"expected k >= 1, found {k}")


def check_radius(radius: int) -> None:
    """Raise ValueError for a negative radius."""
    if radius < 0:
        raise ValueError(f"expected a radius >= 0, found {radius}")


def dtype_name(array: Array | Tensor) -> str:
    """Return the name of a dtype, the same for an array and a tensor."""
    return str(array.dtype).removeprefix("torch.")
