"""The bit column: parts of (id, code, labels) in Parquet, one for each source shard, named by their own SHA-256."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hashing import bits
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Batch

from . import columns, filesystem
from .features import FeatureShard

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
        table = read_part(self.part.url, self.n_bits)
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
    """Encode a source shard into a part below the folder.

    Raises ValueError where a row cannot be encoded, an id comes twice, the shard is empty, or it changed meanwhile.
    """
    ids, codes, labels, content = [], [], [], hashlib.sha256()
    for batch, places in shard.read():
        ids.append(batch.ids)
        codes.append(bits.pack(function.encode(batch.x)))
        labels.append(places)
        content.update(np.ascontiguousarray(batch.ids).data)
        content.update(np.ascontiguousarray(batch.x).data)
    if not sum(map(len, ids)):
        raise ValueError(f"expected rows, found none, in {shard.url}")
    if (found := filesystem.stat(shard.url).version) != shard.version:
        raise ValueError(f"expected {shard.url} as it was listed ({shard.version}), found it changed ({found})")
    all_ids = np.concatenate(ids)
    _refuse_duplicates(all_ids, shard.url)
    table = _table(all_ids, np.concatenate(codes), None if labels[0] is None else labels, function.n_bits)
    table = table.replace_schema_metadata({"hashkiln.source_sha256": content.hexdigest(), "hashkiln.format": "1"})
    data = _parquet_bytes(table)
    url = filesystem.join(folder, f"{hashlib.sha256(data).hexdigest()}.parquet")
    filesystem.write(url, data)
    return Part(url, shard.name, shard.version, len(all_ids), len(data), int(all_ids.min()), int(all_ids.max()))


def read_part(url: str, n_bits: int) -> Any:
    """A part as an Arrow table. Raises ValueError where its codes are of another width."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    table = pq.read_table(path, filesystem=fs, memory_map=True, pre_buffer=False, partitioning=None)
    if table.schema.field("code").type != pa.binary(bits.n_bytes(n_bits)):
        found = table.schema.field("code").type
        raise ValueError(f"expected codes of {bits.n_bytes(n_bits)} bytes ({n_bits} bits), found {found}, in {url}")
    return table


def read_ids(url: str) -> Array:
    """The ids of a part, (n,) int64."""
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    ids: Array = pq.read_table(path, filesystem=fs, columns=["id"], partitioning=None)["id"].to_numpy()
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
