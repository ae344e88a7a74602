"""fvecs, bvecs and ivecs: each row is its dimension as a little-endian int32, then its values.

Source: http://corpus-texmex.irisa.fr (TEXMEX, INRIA). Files concatenated with cat are a valid file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from . import BLOCK_BYTES, open_stream, read_exactly

DTYPES: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4")}
MAX_DIMENSION = 1 << 20


def read_vecs(path: str | Path, member: str | None = None) -> Iterator[Array]:
    """Return an iterator over blocks (n, d) of rows: float32 for .fvecs, uint8 for .bvecs, int32 for .ivecs.

    The file is plain, .gz, or, with a member, a .tar.gz. Raises ValueError for another suffix. During iteration, raises
    ValueError, with row and byte offset, if a dimension is big-endian, outside 1..2^20 or not that of row 0, or if the
    file ends inside a row.
    """
    path = Path(path)
    name = (member or path.name).lower().removesuffix(".gz")
    dtype = DTYPES.get(Path(name).suffix)
    if dtype is None:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(DTYPES)} (or .gz of these), found {name}")
    return _blocks(path, member, dtype)


def _blocks(path: Path, member: str | None, dtype: np.dtype[Any]) -> Iterator[Array]:
    where = f"{path}({member})" if member else str(path)
    with open_stream(path, member) as stream:
        head = read_exactly(stream, 4)
        d = _dimension(head, where)
        width = 4 + d * dtype.itemsize
        block, row = max(1, BLOCK_BYTES // width), 0
        while data := head + read_exactly(stream, block * width - len(head)):
            n = len(data) // width
            records = np.frombuffer(data, np.uint8, n * width).reshape(n, width)
            _check_block(records[:, :4], data[n * width :], d, width, row, where)
            yield np.ascontiguousarray(records[:, 4:]).view(dtype).astype(dtype.newbyteorder("="), copy=False)
            head, row = b"", row + n


def _dimension(head: bytes, where: str) -> int:
    if len(head) < 4:
        raise ValueError(f"{where}: expected at least one row, found a file of {len(head)} bytes")
    d, swapped = (int.from_bytes(head, order, signed=True) for order in ("little", "big"))
    if 1 <= d <= MAX_DIMENSION:
        return d
    other = f": big-endian would be {swapped}, convert the file" if 1 <= swapped <= MAX_DIMENSION else ""
    raise ValueError(
        f"{where}: expected a little-endian dimension of 1..{MAX_DIMENSION} in row 0 at byte 0, found {d}{other}"
    )


def _check_block(heads: Array, rest: bytes, d: int, width: int, first: int, where: str) -> None:
    """Check heads (n, 4) uint8, the dimensions of whole rows, and rest, the bytes after them, less than a row."""
    raw = heads.tobytes() + (rest[:4] if len(rest) >= 4 else b"")
    wrong = np.flatnonzero(np.frombuffer(raw, "<i4") != d)
    if len(wrong):
        i, row = int(wrong[0]), first + int(wrong[0])
        found = int.from_bytes(raw[4 * i : 4 * i + 4], "little", signed=True)
        raise ValueError(
            f"{where}: expected dimension {d} as in row 0, found {found} in row {row} at byte {row * width}"
        )
    if rest:
        row = first + len(heads)
        raise ValueError(
            f"{where}: expected {width} bytes a row, found {len(rest)} in the last one, row {row} at byte {row * width}"
        )
