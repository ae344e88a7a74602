"""Prepare the inputs of networks as files in the same folder describe.

Pictures follow preprocessor_config.json and texts tokenizer.json and tokenizer_config.json, as in Hugging Face models.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from .contract import EncoderRefused

PICTURES, TOKENIZER, TOKENIZER_SETTINGS = "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"
LONGEST = 2**16  # tokens; tokenizers without a limit give a huge one
BILINEAR = 2  # as PIL numbers its filters


class Pictures:
    """Resize, crop, scale to 0..1 and normalize RGB pictures. Returns (n, 3, height, width) float32.

    Steps are left out as do_resize, do_center_crop, do_rescale and do_normalize say. A size that is one number is the
    shorter edge before a crop, as in CLIP; otherwise it is both.
    """

    def __init__(self, folder: Path) -> None:
        given = json.loads((folder / PICTURES).read_text())
        if missing := [name for name in ("size", "image_mean", "image_std") if name not in given]:
            raise EncoderRefused(
                f"expected size, image_mean and image_std in {PICTURES}, found no {', '.join(missing)}"
            )
        size, self.filter = given["size"], given.get("resample", BILINEAR)
        self.crop = _sides(given["crop_size"]) if given.get("do_center_crop", True) and "crop_size" in given else None
        self.size = {"shortest_edge": size} if self.crop and isinstance(size, int) else size
        self.resized = given.get("do_resize", True)
        self.factor = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1
        self.mean, self.deviation = (np.array(given[name], np.float32) for name in ("image_mean", "image_std"))
        if not given.get("do_normalize", True):
            self.mean, self.deviation = np.zeros(3, np.float32), np.ones(3, np.float32)

    def __call__(self, pictures: Sequence[Any]) -> Array:
        return np.stack([self._one(picture) for picture in pictures])

    def _one(self, picture: Any) -> Array:
        if self.resized:
            picture = picture.resize(self._sides_of(picture), self.filter)
        if self.crop:
            height, width = self.crop
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        x = np.asarray(picture, np.float32) * np.float32(self.factor)
        return np.ascontiguousarray(((x - self.mean) / self.deviation).transpose(2, 0, 1))

    def _sides_of(self, picture: Any) -> tuple[int, int]:
        """Return (width, height) after resizing."""
        if isinstance(self.size, Mapping) and "shortest_edge" in self.size:
            scale = self.size["shortest_edge"] / min(picture.size)
            return round(picture.width * scale), round(picture.height * scale)
        height, width = _sides(self.size)
        return width, height


class Texts:
    """Cut texts into tokens. Returns arrays (n, tokens) int64 by name: input_ids, attention_mask and token_type_ids."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        settings = folder / TOKENIZER_SETTINGS
        given = json.loads(settings.read_text()) if settings.exists() else {}
        if (limit := given.get("model_max_length") or LONGEST) < LONGEST:
            self.tokenizer.enable_truncation(int(limit), direction=given.get("truncation_side", "right"))
        padding = given.get("pad_token") or "[PAD]"
        padding = padding["content"] if isinstance(padding, dict) else padding
        number, side = self.tokenizer.token_to_id(padding) or 0, given.get("padding_side", "right")
        self.tokenizer.enable_padding(direction=side, pad_id=number, pad_token=padding)

    def __call__(self, texts: Sequence[str]) -> dict[str, Array]:
        found = self.tokenizer.encode_batch(list(texts))
        return {
            "input_ids": np.array([text.ids for text in found], np.int64),
            "attention_mask": np.array([text.attention_mask for text in found], np.int64),
            "token_type_ids": np.array([text.type_ids for text in found], np.int64),
        }


def _sides(size: Any) -> tuple[int, int]:
    """Return (height, width)."""
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])
