"""The bit column: parts of (id, code, labels) in Parquet, one for each source shard, named by their own SHA-256."""

from __future__ import annotations

import hashlib
import io
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hashing import bits
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Batch

from .. import warehouse as places
from ..features import columns
from ..features.shard import FeatureShard
from ..files import filesystem, parquet

BATCH_ROWS = 2**16


class Part(NamedTuple):
    """A file of codes. Its name is the SHA-256 of its content, so two attempts at a shard give one file."""

    url: str
    shard: str  # the source shard's name
    version: str  # the source shard's version when it was encoded
    rows: int
    size: int  # bytes
    min_id: int
    max_id: int


@dataclass(frozen=True)
class CodeShard:
    """A part as a Shard: batches of (ids, packed codes, multi-hot labels)."""

    part: Part
    n_bits: int
    n_classes: int = 0

    def __iter__(self) -> Iterator[Batch]:
        table = read_part(self.part.url, self.n_bits, self.part.size)
        labelled = self.n_classes and "labels" in table.column_names
        for part in table.to_batches(BATCH_ROWS):
            y = columns.multi_hot(part["labels"], self.n_classes) if labelled else None
            yield Batch(part["id"].to_numpy(), code_array(part["code"], self.n_bits), y)


@dataclass(frozen=True)
class Common:
    """The rows of a part whose ids are also in one of some other parts."""

    shard: CodeShard
    others: tuple[Part, ...]

    def __iter__(self) -> Iterator[Batch]:
        ids = [read_ids(part.url) for part in self.others]
        shared = np.concatenate(ids) if ids else np.zeros(0, np.int64)
        for batch in self.shard:
            yield batch.take(np.isin(batch.ids, shared))


def encode_shard(shard: FeatureShard, function: HashFunction, folder: str) -> Part:
    """Encode a source shard into a part below the folder. A shard without rows gives a part without rows.

    Raises ValueError where a row cannot be encoded or an id comes twice, SourceChanged where the shard has changed
    meanwhile. Rows that the shard drops are told of beside the part, see `quarantine`.
    """
    ids, codes, labels, content = [], [], [], hashlib.sha256()
    dropped: list[tuple[str, int, int, str]] = []
    moments = np.zeros((4, function.n_bits))
    try:
        for block in shard.read():
            ids.append(block.batch.ids)
            u = function.project(block.batch.x)
            codes.append(bits.pack(u >= 0))
            moments += projection_moments(u)
            labels.append(block.labels)
            dropped += block.dropped
            digest_rows(content, block.batch)
    except (OSError, ValueError):
        shard.refuse_change()  # what was read may be neither the old file nor the new one
        raise
    shard.refuse_change()
    all_ids = np.concatenate([np.zeros(0, np.int64), *ids])
    all_codes = np.concatenate([np.zeros((0, bits.n_bytes(function.n_bits)), np.uint8), *codes])
    _refuse_duplicates(all_ids, shard.url)
    table = _table(all_ids, all_codes, labels if labels and labels[0] is not None else None, function.n_bits)
    about = {
        "source_sha256": content.hexdigest(),
        "format": "1",
        "shard": shard.name,
        "moments": b64encode(moments.tobytes()).decode(),
    }  # two empty shards have two parts
    if dropped:
        about["dropped_sha256"] = hashlib.sha256(repr(dropped).encode()).hexdigest()
    table = table.replace_schema_metadata({f"hashkiln.{key}": value for key, value in about.items()})
    data = _parquet_bytes(table)
    url = places.PART.url(folder, digest=hashlib.sha256(data).hexdigest())
    if dropped:
        filesystem.write_bytes(quarantine(url), _quarantined(dropped))
    filesystem.write_bytes(url, data)
    low, high = (int(all_ids.min()), int(all_ids.max())) if len(all_ids) else (0, -1)
    return Part(url, shard.name, shard.version, len(all_ids), len(data), low, high)


def digest_rows(content: Any, batch: Batch) -> None:
    """Take rows into the digest of a source shard's content, as it was read."""
    content.update(np.ascontiguousarray(batch.ids).data)
    content.update(np.ascontiguousarray(batch.x).data)


def quarantine(url: str) -> str:
    """Where the rows that a part had to leave out are told of: (file, row, id, reason), beside the folder of parts."""
    folder, _, name = url.rsplit("/", 2)
    return places.QUARANTINE.url(folder, digest=name.removesuffix(".parquet"))


def dropped_rows(parts: Iterable[Part]) -> dict[str, int]:
    """How many rows the parts had to leave out, by shard; those that left out none are not in it."""
    import pyarrow.parquet as pq

    wanted = {quarantine(part.url): part.shard for part in parts}
    if not wanted:
        return {}
    try:
        there = {file.url for file in filesystem.listing(next(iter(wanted)).rsplit("/", 1)[0])}
    except FileNotFoundError:
        return {}
    found = {}
    for url in sorted(there & wanted.keys()):
        fs, path = filesystem.arrow(url)
        found[wanted[url]] = pq.read_metadata(path, filesystem=fs).num_rows
    return found


def projection_moments(u: Array) -> Array:
    """u (n, n_bits) -> (4, n_bits) float64: n, ones, sum and sum of squares. They add up over batches and parts."""
    n = np.full(u.shape[1], float(len(u)))
    squares = np.einsum("ij,ij->j", u, u, dtype=np.float64)
    return np.stack([n, np.count_nonzero(u >= 0, axis=0), u.sum(axis=0, dtype=np.float64), squares])


def read_moments(url: str) -> Array | None:
    """The `projection_moments` of all rows of a part, from its footer; None of a part that was written without."""
    told = parquet.open_parquet(url).metadata.metadata.get(b"hashkiln.moments")
    try:
        return None if told is None else np.frombuffer(b64decode(told, validate=True)).reshape(4, -1)
    except ValueError as error:  # no checksum covers a footer
        raise ValueError(f"expected the moments of projections in the footer, found: {error}, in {url}") from error


def without_rows(part: Part, ids: Array, folder: str, version: str, n_bits: int) -> Part | None:
    """A part less the rows of some ids, as another part below the folder, of that version; None where it has none.

    Codes stay as they are. What was told of the rows that were read, their digest and their moments, is not told of it.
    """
    import pyarrow as pa

    table = read_part(part.url, n_bits, part.size)
    kept = ~np.isin(table["id"].to_numpy(), ids)
    if kept.all():
        return None
    rest = table.filter(pa.array(kept)).combine_chunks()
    about = {"hashkiln.format": "1", "hashkiln.shard": part.shard}  # so that two parts without rows are two files
    data = _parquet_bytes(rest.replace_schema_metadata(about))
    url = places.PART.url(folder, digest=hashlib.sha256(data).hexdigest())
    filesystem.write_bytes(url, data)
    left = rest["id"].to_numpy()
    low, high = (int(left.min()), int(left.max())) if len(left) else (0, -1)
    return Part(url, part.shard, version, len(left), len(data), low, high)


_sound: set[str] = set()  # parts that this process found to be what their name says


def read_part(url: str, n_bits: int, size: int | None = None, anew: bool = False) -> Any:
    """A part as an Arrow table. Raises ValueError where its codes are of another width, or it is not as it was written.

    Its size is looked at each time, where it is given; its SHA-256, which is its name, where this process reads it
    first, or anew: 1.2 s a GB, where reading takes 1 s from memory, and counting the distances to 100 queries 4 s.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    local = isinstance(fs, pa.fs.LocalFileSystem)
    with pa.memory_map(path) if local else fs.open_input_file(path) as file:
        content = file.read_buffer()
    if size not in (None, len(content)):
        raise ValueError(f"expected a part of {size} bytes, found {len(content)}, in {url}")
    if anew or url not in _sound:
        if (found := hashlib.sha256(content).hexdigest()) != (name := url.rpartition("/")[2].partition(".")[0]):
            raise ValueError(f"expected a part of SHA-256 {name}, found {found}, in {url}: it was changed")
        _sound.add(url)
    table = pq.read_table(pa.BufferReader(content), pre_buffer=False)
    if table.schema.field("code").type != pa.binary(bits.n_bytes(n_bits)):
        found = table.schema.field("code").type
        raise ValueError(f"expected codes of {bits.n_bytes(n_bits)} bytes ({n_bits} bits), found {found}, in {url}")
    return table


def read_ids(url: str) -> Array:
    """The ids of a part, (n,) int64, without reading the rest. Raises ValueError where a page's checksum is wrong."""
    ids: Array = np.concatenate(
        [np.zeros(0, np.int64), *(b["id"].to_numpy() for b in parquet.read_batches(url, ["id"]))]
    )
    return ids


def code_array(column: Any, n_bits: int) -> Array:
    """fixed_size_binary(B) without nulls -> (n, B) uint8, without a copy."""
    width = bits.n_bytes(n_bits)
    start = column.offset * width
    return np.frombuffer(column.buffers()[1], np.uint8)[start : start + len(column) * width].reshape(-1, width)


def _table(ids: Array, codes: Array, labels: list[Any] | None, n_bits: int) -> Any:
    import pyarrow as pa

    width = bits.n_bytes(n_bits)
    code = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(codes), [None, pa.py_buffer(codes)])
    arrays = [pa.array(ids), code]
    if labels is not None:
        arrays.append(pa.concat_arrays(labels))
    names = ["id", "code", "labels"]
    fields = [
        pa.field(names[i], a.type, nullable=i == 2, metadata={"PARQUET:field_id": str(i + 1)})
        for i, a in enumerate(arrays)
    ]
    return pa.table(arrays, schema=pa.schema(fields))


def _quarantined(rows: list[tuple[str, int, int, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    columns = zip(*rows, strict=True)
    pq.write_table(pa.table(dict(zip(("file", "row", "id", "reason"), map(list, columns), strict=True))), file)
    return file.getvalue()


def _parquet_bytes(table: Any) -> bytes:
    """Codes as they are: compression, dictionaries and statistics buy nothing on balanced bits and cost the reader."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(
        table,
        file,
        row_group_size=2**20,
        use_dictionary=False,
        write_statistics=["id"],
        write_page_checksum=True,
        compression={"id": "zstd", "code": "none", "labels.list.element": "zstd"},
        column_encoding={"id": "DELTA_BINARY_PACKED", "code": "PLAIN", "labels.list.element": "PLAIN"},
    )
    return file.getvalue()


def _refuse_duplicates(ids: Array, url: str) -> None:
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        twice = unique[counts > 1]
        examples = ", ".join(map(str, twice[:3]))
        raise ValueError(f"expected unique ids, found {len(twice)} of them more than once ({examples}), in {url}")
