"""Models of sentence-transformers: texts to vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hashing.mapreduce import Array

BATCH = 64


class SentenceEncoder:
    """A folder in the layout of sentence-transformers, with modules.json. Its own code is never run."""

    def __init__(self, folder: Path, kind: str, device: str) -> None:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        safe = {"use_safetensors": True}
        self.model = SentenceTransformer(str(folder), device=device, local_files_only=True, model_kwargs=safe)

    def encode(self, batch: Sequence[str]) -> Array:
        vectors = self.model.encode(list(batch), batch_size=BATCH, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(vectors, np.float32)
