"""What can be made of a row of a picture or text dataset at ingest: pixels, TF-IDF, and the two side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from ..features import media
from ..formats import FeatureRows

PIXELS, FOLDED = 3 * 32**2, 1024
COLUMNS = dict.fromkeys(("both", "text", "picture"), ("title", "keywords"))  # beside the split's own


def rarities(texts: Iterable[str]) -> Array:
    """log((1 + n) / (1 + rows with the word)) + 1 of each folded word number, (FOLDED,)."""
    counts, n = np.zeros(FOLDED), 0
    for text in texts:
        counts[list(_folded(text))] += 1
        n += 1
    return np.log((1 + n) / (1 + counts)) + 1


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
    said = np.array([_tfidf(text, rarity) for text in texts(batch)], np.float32).reshape(len(batch), FOLDED)
    if view == "tfidf":
        return FeatureRows(batch["id"].to_numpy(), said, labels)
    seen = np.array([media.pixels(data, PIXELS) for data in batch["image"].to_pylist()], np.float32)
    x = np.hstack([seen.reshape(len(batch), PIXELS) * (view != "text"), said * (view != "picture")])
    return FeatureRows(batch["id"].to_numpy(), x, labels)


def _tfidf(text: str, rarity: Array) -> Array:
    x = np.zeros(FOLDED)
    for place, count in _folded(text).items():
        x[place] = np.log1p(count) * rarity[place]
    return x / max(float(np.linalg.norm(x)), 1e-12)


def _folded(text: str) -> Counter[int]:
    return Counter(media.word_number(word) % FOLDED for word in re.findall(r"\w+", text.lower()))
