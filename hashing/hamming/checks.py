"""Checks of the arguments of the Hamming functions, for numpy arrays and torch tensors alike."""

from typing import Any

from ..bits import n_bytes
from ..mapreduce import Array

MAX_BITS = 4096


def check_codes(queries: Array, database: Array, radius: int = 0) -> None:
    for codes in (queries, database):
        if codes.ndim != 2 or kind(codes) != "uint8" or not 1 <= codes.shape[1] <= MAX_BITS // 8:
            found = f"{tuple(codes.shape)} {kind(codes)}"
            raise ValueError(f"expected codes (n, B) uint8 with B from 1 to {MAX_BITS // 8}, found {found}")
    if queries.shape[1] != database.shape[1]:
        raise ValueError(f"expected codes of one width, found {queries.shape[1]} and {database.shape[1]} bytes")
    if radius < 0:
        raise ValueError(f"expected a radius >= 0, found {radius}")


def check_histogram(
    queries: Array, database: Array, n_bits: int, query_labels: Array | None, labels: Array | None, n_grades: int
) -> None:
    check_codes(queries, database)
    if n_bytes(n_bits) != queries.shape[1]:
        raise ValueError(f"expected codes of {n_bytes(n_bits)} bytes for {n_bits} bits, found {queries.shape[1]}")
    check_labels(query_labels, labels, len(queries), len(database))
    for codes in (queries, database):
        if n_bits % 8 and (codes[:, -1] >> n_bits % 8).any():
            raise ValueError(f"expected zero padding after {n_bits} bits, found ones")
    if not 1 <= n_grades <= 65536 // (n_bits + 1):
        raise ValueError(f"expected 1 to {65536 // (n_bits + 1)} grades for {n_bits} bits, found {n_grades}")


def check_labels(query_labels: Array | None, labels: Array | None, n_queries: int, n_rows: int) -> None:
    if query_labels is None or labels is None:
        raise ValueError("expected labels of both queries and rows, found one of them")
    if kind(query_labels) != "uint64" or kind(labels) != "uint64":
        raise ValueError(f"expected labels as uint64 words, found {kind(query_labels)} and {kind(labels)}")
    n_words = query_labels.shape[-1]
    found = tuple(query_labels.shape), tuple(labels.shape)
    if found != ((n_queries, n_words), (n_rows, n_words)):
        raise ValueError(f"expected labels ({n_queries}, w) and ({n_rows}, w), found {found[0]} and {found[1]}")


def kind(array: Any) -> str:
    """The dtype of an array or a tensor."""
    return str(array.dtype).removeprefix("torch.")
