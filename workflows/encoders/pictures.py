"""Models of timm: pictures to the features before the classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hashing.mapreduce import Array

from .contract import check_output

BATCH = 64


class TimmEncoder:
    """A folder as timm writes it to a hub: config.json with architecture and preprocessing, and model.safetensors."""

    def __init__(self, folder: Path, kind: str, device: str) -> None:
        import timm
        from timm.data import create_transform, resolve_model_data_config

        self.device = device
        self.model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval().to(device)
        self.transform = create_transform(**resolve_model_data_config(self.model), is_training=False)

    @torch.inference_mode()
    def encode(self, batch: Sequence[Any]) -> Array:
        return in_batches(lambda part: self.model(torch.stack(list(map(self.transform, part))).to(self.device)), batch)


def in_batches(run: Any, batch: Sequence[Any], size: int = BATCH) -> Array:
    """Return the outputs (n, d) float32 of a torch function that is run on a few items at a time.

    Raises EncoderRefused for outputs of another shape.
    """
    parts = []
    for i in range(0, len(batch), size):
        part = batch[i : i + size]
        output = run(part)
        check_output(output.shape, len(part))
        parts.append(output.float().cpu())
    vectors: Array = torch.cat(parts).numpy()
    return vectors
