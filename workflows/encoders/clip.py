"""Models of open_clip: pictures and texts to vectors of one space, of length 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hashing.mapreduce import Array

from .pictures import in_batches


class ClipEncoder:
    """A folder as open_clip writes it to a hub: open_clip_config.json, open_clip_model.safetensors and a tokenizer."""

    def __init__(self, folder: Path, kind: str, device: str) -> None:
        import open_clip

        name = f"local-dir:{folder}"
        self.kind, self.device = kind, device
        self.model, self.transform = open_clip.create_model_from_pretrained(name, device=device)
        self.tokenize = open_clip.get_tokenizer(name) if kind == "text" else None

    @torch.inference_mode()
    def encode(self, batch: Sequence[Any]) -> Array:
        return in_batches(self._run, batch)

    def _run(self, part: Sequence[Any]) -> Any:
        if self.tokenize:
            return self.model.encode_text(self.tokenize(list(part)).to(self.device), normalize=True)
        pictures = torch.stack(list(map(self.transform, part)))
        return self.model.encode_image(pictures.to(self.device), normalize=True)
