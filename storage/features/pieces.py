"""Pieces of an embedded dataset: the vectors of some rows of a source shard, each in one Parquet file.

The name of the file is a digest of everything that its content depends on: the encoder, the shard and its version, and
the rows; followed by a suffix if rows of the piece were deleted from the embedded dataset. A file that exists is
therefore never computed again, and never changes.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from hashing.mapreduce import Array

from .. import warehouse as places
from ..files import filesystem, parquet
from . import columns, deletions, keys, media, rows, splits
from .shard import FeatureShard

PIECE_ROWS = 2**14  # what a killed run repeats for each task: 16 MB to 256 MB of vectors
READ_ROWS = 512  # rows to read and encode at a time
TOUCHED = 16  # files at a time; latency dominates
KEY, VECTOR, LABELS = "key", "vector", "labels"  # names of columns

Encode = Callable[[Sequence[Any]], Array]  # RGB pictures or texts -> vectors (n, d) float32


class Piece(NamedTuple):
    """Rows `start` to `stop` of a source shard, deleted rows included."""

    shard: FeatureShard
    start: int
    stop: int
    digest: str  # of everything that its vectors depend on, and the suffix of the deletions
    deleted: tuple[str, ...] = ()  # deletion files of the embedded dataset, whose rows are left out

    @property
    def name(self) -> str:
        """Name of the piece as a shard of the embedded dataset."""
        return f"{self.shard.name}:{self.start:010}"


def pieces_of_shard(
    shard: FeatureShard, split: str, dataset: str, encoder: str, deleted: tuple[str, ...] = ()
) -> list[Piece]:
    """Return the pieces of a shard of a dataset, to be embedded by an encoder of that identity. Counts the rows.

    `deleted` are the deletion files of the embedded dataset.
    """
    n, suffixes = sum(rows.count_rows(url) for url in shard.urls), deletions.version_suffixes(deleted, split)
    pieces = []
    for start in range(0, n, PIECE_ROWS):
        stop = min(start + PIECE_ROWS, n)
        asked = [encoder, dataset, shard.kind, shard.name, shard.version, start, stop]
        piece = Piece(shard, start, stop, hashlib.sha256(json.dumps(asked).encode()).hexdigest(), deleted)
        pieces.append(piece._replace(digest=piece.digest + suffixes.get(piece.name, "")))
    return pieces


def stored_pieces(warehouse: str, dataset: str) -> dict[str, str]:
    """Return the stored pieces of a dataset: digest -> name of the file without its suffix."""
    files = filesystem.inventory(folder_of(warehouse, dataset), 1)
    stems = [file.url.rpartition("/")[2].removesuffix(".parquet") for file in files]
    return {digest_of(stem): stem for stem in stems if not stem.startswith(".")}


def touch_pieces(warehouse: str, dataset: str, used: Sequence[Piece], stems: Mapping[str, str]) -> dict[str, str]:
    """Return the stored pieces among those used, as `stored_pieces` does, after an update of their modification times.

    No dataset lists them yet, so a garbage collection that is running would delete old ones.
    """
    listed = {piece.digest: stems[piece.digest] for piece in used if piece.digest in stems}
    urls = [places.PIECE.url(warehouse, dataset=dataset, piece=stem) for stem in listed.values()]
    with ThreadPoolExecutor(TOUCHED) as pool:
        found = pool.map(filesystem.touch, urls)
        return {digest: stem for (digest, stem), exists in zip(listed.items(), found, strict=True) if exists}


def folder_of(warehouse: str, dataset: str) -> str:
    """Return the URL of the folder of the pieces of a dataset."""
    return places.PIECE.url(warehouse, dataset=dataset, piece="").rpartition("/")[0]


def dim_of(warehouse: str, dataset: str, stems: Iterable[str]) -> int:
    """Return the dimension of the vectors in some pieces. Raises ValueError if none has rows."""
    import pyarrow as pa

    for stem in stems:
        found = parquet.schema(places.PIECE.url(warehouse, dataset=dataset, piece=stem)).field(VECTOR).type
        if pa.types.is_fixed_size_list(found):
            return int(found.list_size)
    raise ValueError(f"expected at least one row to embed for {dataset}, found none")


def digest_of(stem: str) -> str:
    """Return the digest of a piece, with the suffix of the deletions, from the name of its file.

    >>> digest_of("0123-3~4567")
    '0123~4567'
    """
    content, tilde, suffix = stem.partition("~")
    return content.partition("-")[0] + tilde + suffix


def dropped_from(stem: str) -> int:
    """Return the number of rows that were dropped from a stored piece because they could not be read.

    >>> dropped_from("0123"), dropped_from("0123-3~4567")
    (0, 3)
    """
    return int(stem.partition("~")[0].partition("-")[2] or 0)


def write_piece(piece: Piece, warehouse: str, dataset: str, encode: Encode) -> str:
    """Encode the rows of a piece, write them atomically, and return the name of the file without its suffix.

    Ids or keys, and labels, are those of the source. Deleted rows are left out.

    Raises
    ------
    ValueError
        For a row that cannot be read, unless the shard drops bad rows, and for vectors that are not finite.
    SourceChanged
        If a file of the shard changed since it was listed.
    """
    import pyarrow as pa

    shard = piece.shard
    deleted = (*shard.deleted, *piece.deleted)
    blocks = [_encoded(part, url, row, shard, deleted, encode) for part, url, row in _read(piece)]
    filled = [block for block in blocks if len(block.x)] or blocks[:1]
    x = np.concatenate([block.x for block in filled])
    vectors = (
        pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
        if len(x)
        else pa.array([], pa.list_(pa.float32()))
    )
    arrays, name = [pa.concat_arrays([block.ids for block in filled]), vectors], id_column(shard.columns.keyed)
    fields = [pa.field(name, arrays[0].type, nullable=False), pa.field(VECTOR, vectors.type, nullable=False)]
    if shard.columns.labels:
        arrays.append(pa.concat_arrays([block.labels for block in filled]))
        fields.append(pa.field(LABELS, arrays[-1].type))
    shard.refuse_change()
    dropped = sum(block.dropped for block in blocks)
    content, tilde, suffix = piece.digest.partition("~")
    stem = content + (f"-{dropped}" if dropped else "") + tilde + suffix
    table = pa.table(arrays, schema=pa.schema(fields))
    splits.write_table(places.PIECE.url(warehouse, dataset=dataset, piece=stem), table)
    return stem


def without_deleted(stem: str, suffix: str) -> str:
    """Return the name of the file of a piece without deleted rows, from its present one and the suffix of deletions."""
    return stem.partition("~")[0] + suffix


def erase_rows(renamed: tuple[str, str], shard: FeatureShard, warehouse: str, dataset: str) -> None:
    """Write a piece under another name, without deleted rows. Names are (present, new), without their suffix.

    `shard` is any shard of the embedded dataset.
    """
    present, new = (places.PIECE.url(warehouse, dataset=dataset, piece=stem) for stem in renamed)
    deleted = np.isin(replace(shard, allow_unknown=True).ids(present), deletions.deleted_ids(shard.deleted))
    splits.write_table(new, parquet.read_table(present).filter(~deleted))


def id_column(keyed: bool) -> str:
    """Return the name of the column of ids or keys."""
    return KEY if keyed else "id"


def _read(piece: Piece) -> Iterator[tuple[Any, str, int]]:
    """Yield the rows of a piece as record batches, with their file and the number of the first row in it."""
    shard, names = piece.shard, piece.shard.columns
    read = [] if names.numbered else [names.id]
    read += [names.x, *([names.labels] if names.labels else [])]
    before = 0  # rows in earlier files
    for url in shard.urls:
        n, row = rows.count_rows(url), 0
        start, stop = piece.start - before, piece.stop - before
        before += n
        if start >= n:
            continue
        for part in rows.read_batches(url, read, names, READ_ROWS):
            low, high = max(start - row, 0), min(stop - row, len(part))
            if low < high:
                yield part.slice(low, high - low), url, row + low
            row += len(part)
            if row >= stop:
                return


class _Encoded(NamedTuple):
    """Some rows of a piece."""

    ids: Any  # Arrow array of ids or keys
    x: Array  # (n, d) float32
    labels: Any  # Arrow lists; None without labels
    dropped: int


def _encoded(part: Any, url: str, row: int, shard: FeatureShard, deleted: tuple[str, ...], encode: Encode) -> _Encoded:
    import pyarrow as pa

    names, errors, items = shard.columns, dict[int, str](), []
    if names.keyed:
        keys.check_nulls(part[names.id], url, row)
        ids = keys.plain_keys(part[names.id], url)
    else:
        ids = pa.array(shard.ids_in(part, url, row))
    keep = np.ones(len(part), bool)
    if deleted:
        found = replace(shard, allow_unknown=True).ids_in(part, url, row)
        keep = ~np.isin(found, deletions.deleted_ids(deleted))
    values = media.values(part[names.x])
    for i in np.flatnonzero(keep).tolist():
        try:
            items.append(_item(values[i], shard.kind))
        except ValueError as error:
            errors[i] = str(error)
            keep[i] = False
    x = encode(items) if items else np.zeros((0, 0), np.float32)
    if len(unusable := np.flatnonzero(~np.isfinite(x).all(axis=1))):
        positions = np.flatnonzero(keep)[unusable]
        errors |= dict.fromkeys(positions.tolist(), "expected finite numbers from the encoder, found NaN or infinity")
        x, keep[positions] = np.delete(x, unusable, axis=0), False
    if errors and not shard.drop_bad_rows:
        columns.refuse_row(errors, url, row, columns.DROP)
    chosen = pa.array(np.flatnonzero(keep))
    labels = None
    if names.labels:
        offsets, found = columns.labels_by_row(part[names.labels], url, names.multi_hot)
        labels = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), found).take(chosen)
    return _Encoded(ids.take(chosen), x, labels, len(errors))


def _item(value: Any, kind: str) -> Any:
    """Return a text, or a picture in RGB. Raises ValueError if there is none, or it cannot be decoded."""
    expected = "a text" if kind == "text" else "a picture"
    if value is None:
        raise ValueError(f"expected {expected}, found null")
    if isinstance(value, str) != (kind == "text"):
        raise ValueError(f"expected {expected}, found {type(value).__name__}")
    return value if kind == "text" else media.picture(value)
