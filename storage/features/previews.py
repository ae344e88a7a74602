"""Rows as people see them: small pictures, and the beginnings of texts."""

import base64
import io
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from . import media, rows
from .shard import FeatureShard

SIDE, TEXT = 64, 160  # pixels; characters
DATA_URL = "data:image/webp;base64,"


def previews(shard: FeatureShard, wanted: Array, shape: tuple[int, ...] = ()) -> dict[int, str]:
    """Return the pictures, as data URLs, or the beginnings of the texts of the wanted rows of a shard, by id.

    Parameters
    ----------
    wanted
        Ids (m,) int64.
    shape
        Height, width and, if there is colour, channels of pictures that are stored as vectors of pixels.
    """
    if shard.kind == "vector" and not shape:
        return {}
    found: dict[int, str] = {}
    for url in shard.urls:
        ids, row = shard.ids(url), 0
        places = np.flatnonzero(np.isin(ids, wanted))
        for part in rows.read_batches(url, [shard.columns.x], shard.columns) if len(places) else ():
            mine = places[(row <= places) & (places < row + len(part))]
            values = media.values(part[shard.columns.x].take(mine - row))
            found |= zip(ids[mine].tolist(), (_shown(value, shape) for value in values), strict=True)
            row += len(part)
    return found


def _shown(value: Any, shape: tuple[int, ...]) -> str:
    from PIL import Image

    if isinstance(value, str):
        return value if len(value) <= TEXT else value[:TEXT] + " …"
    if isinstance(value, bytes):
        picture = Image.fromarray(media.pixels(value, media.dim("image", SIDE)).reshape(SIDE, SIDE, -1))
    else:
        picture = Image.fromarray(np.array(value, np.float32).clip(0, 255).astype(np.uint8).reshape(shape))
    content = io.BytesIO()
    picture.save(content, "webp", quality=80, lossless=bool(shape))
    return DATA_URL + base64.b64encode(content.getvalue()).decode()
