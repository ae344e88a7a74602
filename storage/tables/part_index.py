"""Write and read the index file of a part: arrays computed from its codes.

`index/<digest>-<format>.mih` has the digest of the part and the number of the format, so a file of a changed part or of
another format is not found, and `gc` deletes it. It holds the arrays one after another and a digest of them.
"""

import logging
from collections.abc import Sequence
from math import prod

import mmh3
import numpy as np

from hashing.mapreduce import Array

from .. import warehouse as places
from ..files import filesystem

FORMAT = "1"  # of hashing.neighbours.multi_index.IndexedCodes; changes when the same part has another index
DIGEST_BYTES = 16

logger = logging.getLogger(__name__)

_verified: set[str] = set()  # URLs of index files whose digest this process has checked


def index_url(part_url: str) -> str:
    """Return the URL of the index file of a part."""
    folder, _, name = part_url.rsplit("/", 2)
    return places.PART_INDEX.url(folder, digest=name.removesuffix(".parquet"), format=FORMAT)


def write_part_index(part_url: str, arrays: Sequence[Array]) -> None:
    """Write the index file of a part."""
    digest = mmh3.mmh3_x64_128()
    with filesystem.create(index_url(part_url)) as file:
        for array in arrays:
            content = np.ascontiguousarray(array).view(np.uint8).data.cast("B")
            digest.update(content)
            file.write(content)
        file.write(digest.digest())


def read_index(part_url: str, layout: Sequence[tuple[tuple[int, ...], str]]) -> list[Array] | None:
    """Return the arrays of an index file, mapped into memory, or None if it is missing or damaged.

    `layout` has the shape and the dtype of each array. This process compares the digest once.
    """
    url = index_url(part_url)
    try:
        content = filesystem.map_file(url)
    except (FileNotFoundError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    sizes = [prod(shape) * np.dtype(dtype).itemsize for shape, dtype in layout]
    if len(content) != sum(sizes) + DIGEST_BYTES or not _is_intact(url, content):
        logger.warning("index file %s is damaged and will be built again", url)
        return None
    parts = np.split(content, np.cumsum(sizes))
    return [part.view(dtype).reshape(shape) for part, (shape, dtype) in zip(parts, layout, strict=False)]


def _is_intact(url: str, content: Array) -> bool:
    if url not in _verified:
        digest = mmh3.mmh3_x64_128(content[:-DIGEST_BYTES].data).digest()
        if digest != content[-DIGEST_BYTES:].tobytes():
            return False
        _verified.add(url)
    return True


def indexed_parts(folder: str) -> set[str]:
    """Return the URLs of the index files in the folder of a table."""
    return {file.url for file in filesystem.inventory(places.PART_INDEXES.url(folder))}
