"""What can be made of a row of a picture or text dataset at ingest: pixels, TF-IDF, and the two side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hashing.mapreduce import Array
from hashing.statistics import inverse_frequency, tf_idf

from ..features import media
from ..formats import FeatureRows

PIXELS, FOLDED = 3 * 32**2, 1024
COLUMNS = dict.fromkeys(("both", "text", "picture"), ("title", "keywords"))  # beside the split's own


def rarities(texts: Iterable[str]) -> Array:
    """Return the inverse frequency of each folded word number, (FOLDED,)."""
    containing, n = np.zeros(FOLDED), 0
    for text in texts:
        containing += _word_counts([text])[0] > 0
        n += 1
    return inverse_frequency(n, containing)


def texts(batch: Any) -> list[str]:
    """What is said of each row: its title and keywords, or its text."""
    if "title" not in batch.schema.names:
        return [str(text) for text in batch["text"].to_pylist()]
    titles, keywords = batch["title"].to_pylist(), batch["keywords"].to_pylist()
    return [" ".join([title or "", *(words or ())]) for title, words in zip(titles, keywords, strict=True)]


def viewed(batch: Any, view: str, rarity: Array, labels: list[Any]) -> FeatureRows:
    """Rows of a view: tfidf (FOLDED,); both, picture or text (PIXELS + FOLDED,), with zeros for what is left out.

    Pixels are 0 to 255, TF-IDF vectors of length 1: what reads both together gives each view a scale of its own.
    """
    said = tf_idf(_word_counts(texts(batch)), rarity).astype(np.float32)
    if view == "tfidf":
        return FeatureRows(batch["id"].to_numpy(), said, labels)
    seen = np.array([media.pixels(data, PIXELS) for data in batch["image"].to_pylist()], np.float32)
    x = np.hstack([seen.reshape(len(batch), PIXELS) * (view != "text"), said * (view != "picture")])
    return FeatureRows(batch["id"].to_numpy(), x, labels)


def _word_counts(texts: Sequence[str]) -> Array:
    """Return how often each folded word number occurs in each text, (n, FOLDED)."""
    counts = np.zeros((len(texts), FOLDED))
    for row, text in zip(counts, texts, strict=True):
        np.add.at(row, media.word_numbers(text) % FOLDED, 1)
    return counts
