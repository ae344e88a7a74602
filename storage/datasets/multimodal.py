"""Vectors computed from images and texts at ingest: pixels, TF-IDF, or both concatenated."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hashing.mapreduce import Array
from hashing.statistics import inverse_frequency, tf_idf

from ..features import media
from ..formats import FeatureRows

PIXELS, FOLDED = 3 * 32**2, 1024  # dimensions of a 32 x 32 image, and of a TF-IDF vector of hashed words
COLUMNS = dict.fromkeys(("both", "text", "picture"), ("title", "keywords"))  # columns to read in addition


def idf_weights(texts: Iterable[str]) -> Array:
    """Return the inverse document frequency (FOLDED,) of hashed words."""
    containing, n = np.zeros(FOLDED), 0
    for text in texts:
        containing += _word_counts([text])[0] > 0
        n += 1
    return inverse_frequency(n, containing)


def texts(batch: Any) -> list[str]:
    """Return the text of each row of a record batch: title and keywords, or the column `text`."""
    if "title" not in batch.schema.names:
        return [str(text) for text in batch["text"].to_pylist()]
    titles, keywords = batch["title"].to_pylist(), batch["keywords"].to_pylist()
    return [" ".join([title or "", *(words or ())]) for title, words in zip(titles, keywords, strict=True)]


def modality_rows(batch: Any, modality: str, idf: Array, labels: list[Any]) -> FeatureRows:
    """Return the rows of a record batch as float32 vectors.

    Parameters
    ----------
    batch
        A record batch with the columns id; image, title and keywords, or text.
    modality
        "tfidf": TF-IDF, (n, FOLDED). "both": pixels from 0 to 255, then TF-IDF of norm 1, (n, PIXELS + FOLDED): the two
        parts have different scales. "picture", "text": the same, with zeros in place of the other modality.
    idf
        (FOLDED,), the result of `idf_weights`.
    labels
        Labels of each row.
    """
    tfidf = tf_idf(_word_counts(texts(batch)), idf).astype(np.float32)
    if modality == "tfidf":
        return FeatureRows(batch["id"].to_numpy(), tfidf, labels)
    pixels = np.array([media.pixels(data, PIXELS) for data in batch["image"].to_pylist()], np.float32)
    x = np.hstack([pixels.reshape(len(batch), PIXELS) * (modality != "text"), tfidf * (modality != "picture")])
    return FeatureRows(batch["id"].to_numpy(), x, labels)


def _word_counts(texts: Sequence[str]) -> Array:
    """Return the counts (n, FOLDED) of hashed words in each text."""
    counts = np.zeros((len(texts), FOLDED))
    for row, text in zip(counts, texts, strict=True):
        np.add.at(row, media.word_numbers(text) % FOLDED, 1)
    return counts
