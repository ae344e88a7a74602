"""Parts: the codes of one source shard as Parquet, named by the SHA-256 of their content.

The columns are id, code and labels, and for quantizers their correctives.
"""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hashing import bits
from hashing.ahead import ahead
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Batch
from hashing.quantizers.contract import Quantizer
from hashing.quantizers.estimator import corrective_type, row_bytes, row_size

from .. import warehouse as places
from ..features import columns, keys
from ..features.shard import FeatureShard
from ..files import filesystem, parquet
from .source_digest import NEWEST, SOURCE_DIGESTS

BATCH_ROWS = 2**16
FIRST = 6  # number of the first column of correctives among the columns of a table

DroppedRow = tuple[str, int, int, str]  # file, row, id, reason


class Part(NamedTuple):
    """A file of codes, named by its content: encoding a shard twice gives one file."""

    url: str
    shard: str  # name of the source shard
    version: str  # of the source shard when it was encoded
    rows: int
    size: int  # bytes
    min_id: int  # 0 if there are no rows
    max_id: int  # -1 if there are no rows


@dataclass(frozen=True)
class CodeShard:
    """A part as a Shard: batches of ids (n,), packed codes (n, B) uint8 and multi-hot labels (n, c) uint8.

    A batch has at most `batch_rows` rows.

    With the names of its correctives, the bytes of a code are followed by theirs; see `row_bytes`.
    """

    part: Part
    n_bits: int
    classes: Sequence[int] = ()  # labels that y has columns for, as positions in the vocabulary; none: without y
    correctives: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return self.part.rows

    @property
    def row_bytes(self) -> int:
        """Return the number of bytes of a row of x."""
        return row_size(self.n_bits, self.correctives)

    @property
    def batch_rows(self) -> int:
        return min(BATCH_ROWS, columns.labelled_rows(len(self.classes)))

    def __iter__(self) -> Iterator[Batch]:
        table = read_part(self.part.url, self.n_bits, self.part.size)
        labelled = self.classes and "labels" in table.column_names
        for batch in table.to_batches(self.batch_rows):
            y = columns.multi_hot_labels(batch["labels"], self.classes) if labelled else None
            x = code_array(batch["code"], self.n_bits)
            if self.correctives:
                x = row_bytes(x, corrective_array(batch, self.correctives))
            yield Batch(batch["id"].to_numpy(), x, y)


@dataclass(frozen=True)
class CommonRows:
    """The rows of a part whose ids also occur in other parts, as a Shard."""

    shard: CodeShard
    others: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """The number of rows to read."""
        return self.shard.rows

    @property
    def batch_rows(self) -> int:
        return self.shard.batch_rows

    def __iter__(self) -> Iterator[Batch]:
        ids = np.concatenate([np.zeros(0, np.int64), *(read_ids(part.url) for part in self.others)])
        for batch in self.shard:
            yield batch.take(np.isin(batch.ids, ids))


def labels_of_rows(part: Part, n_bits: int, ids: Array) -> dict[int, list[int]]:
    """Return the labels of the rows of a part that have certain ids, as positions in the vocabulary, if it has any."""
    import pyarrow as pa

    table = read_part(part.url, n_bits, part.size)
    if "labels" not in table.column_names:
        return {}
    found = table.filter(pa.array(np.isin(table["id"].to_numpy(), ids)))
    return {i: labels or [] for i, labels in zip(found["id"].to_pylist(), found["labels"].to_pylist(), strict=True)}


def encode_shard(shard: FeatureShard, function: HashFunction, folder: str, format: str = NEWEST) -> Part:
    """Encode a source shard into a part below the folder of a table. `format` is a key of SOURCE_DIGESTS.

    Rows that the shard drops are written beside the part, see `quarantine_urls`.

    Raises
    ------
    ValueError
        If a row cannot be encoded, or an id occurs twice.
    SourceChanged
        If the source shard changes meanwhile.
    """
    source_digest, new_digest = SOURCE_DIGESTS[format]
    ids, codes, correctives, labels, content = [], [], [], [], new_digest()
    dropped: list[DroppedRow] = []
    moments = np.zeros((4, function.n_bits))
    try:
        blocks = shard.read_blocks()
        for block in ahead(blocks) if filesystem.is_remote(shard.url) else blocks:
            ids.append(block.batch.ids)
            x, row, added = block.batch.x, 0, np.zeros_like(moments)
            content.update(np.ascontiguousarray(block.batch.ids).data)
            try:
                for u, values in _projected(function, x):
                    codes.append(bits.pack_signs(u, added))
                    correctives.append(values)
                    content.update(np.ascontiguousarray(x[row : row + len(u)]).data, more=True)  # still in the cache
                    row += len(u)
            except ValueError as error:
                raise ValueError(f"{shard.url}, rows from id {block.batch.ids[0]} on: {error}") from None
            content.update(b"")  # the end of x
            moments += added
            labels.append(block.labels)
            dropped += block.dropped
    except (OSError, ValueError):
        shard.refuse_change()  # a mix of the old and the new file explains the error
        raise
    shard.refuse_change()
    all_ids = np.concatenate([np.zeros(0, np.int64), *ids])
    all_codes = np.concatenate([np.zeros((0, bits.n_bytes(function.n_bits)), np.uint8), *codes])
    if problem := repeated_ids(all_ids, shard.url, shard.keys):
        raise ValueError(problem)
    table = _table(all_ids, all_codes, labels if labels and labels[0] is not None else None, function.n_bits)
    if isinstance(function, Quantizer):
        empty = np.zeros((0, len(function.correctives)), corrective_type(function.correctives))
        table = _with_correctives(table, np.concatenate([empty, *correctives]), function.correctives)
    about = {
        source_digest: content.digest().hex(),
        "format": format,
        "shard": shard.name,  # so that two parts without rows are two files
        "moments": b64encode(moments.tobytes()).decode(),
    }
    if dropped:
        about["dropped_sha256"] = hashlib.sha256(repr(dropped).encode()).hexdigest()
    return _write_part(table, about, folder, shard.version, dropped, shard.keys)


def _projected(function: HashFunction, x: Array) -> Iterator[tuple[Array, Any]]:
    """Yield the projections of successive blocks of rows, and their correctives, None for functions without any."""
    if isinstance(function, Quantizer):
        return function.quantized(x)
    return ((u, None) for u in function.blocks(x))


def without_rows(part: Part, ids: Array, folder: str, version: str, n_bits: int) -> Part | None:
    """Write a copy of a part without the rows that have certain ids, and return it; None if it has no such rows.

    The new part carries no source digest and no moments.
    """
    import pyarrow as pa

    table = read_part(part.url, n_bits, part.size)
    removed = np.isin(table["id"].to_numpy(), ids)
    if not removed.any():
        return None
    rest = table.filter(pa.array(~removed)).combine_chunks()
    return _write_part(rest, {"format": "1", "shard": part.shard}, folder, version)


def _write_part(
    table: Any,
    about: dict[str, str],
    folder: str,
    version: str,
    dropped: Sequence[DroppedRow] = (),
    keys_folder: str = "",
) -> Part:
    data = _parquet_bytes(table.replace_schema_metadata({f"hashkiln.{key}": value for key, value in about.items()}))
    url = places.PART.url(folder, digest=hashlib.sha256(data).hexdigest())
    if dropped:
        content, (usual, in_data) = _quarantine_bytes(dropped, keys_folder), quarantine_urls(url)
        try:
            filesystem.write_bytes(usual, content)
        except PermissionError:
            filesystem.write_bytes(in_data, content)
    filesystem.write_bytes(url, data)
    ids = table["id"].to_numpy()
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
    return Part(url, about["shard"], version, len(ids), len(data), low, high)


def repeated_ids(ids: Array, url: str, keys_folder: str = "") -> str:
    """Return a message with examples if ids (n,) occur more than once; empty otherwise. It names their keys, if any."""
    if (ids[1:] > ids[:-1]).all():  # most files: then there is nothing to sort
        return ""
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) == len(ids):
        return ""
    repeated = unique[counts > 1]
    examples = ", ".join(keys.names_of(keys_folder, repeated[:3])) + (", …" if len(repeated) > 3 else "")
    what = "keys" if keys_folder else "ids"
    return f"expected unique {what}, found {len(repeated)} more than once ({examples}), in {url}"


def quarantine_urls(url: str) -> tuple[str, str]:
    """Return where the rows are that a part's shard dropped: file, row, id, reason, and key if rows have keys.

    The second URL is that in a table bucket, which takes data and metadata only.
    """
    folder, _, name = url.rsplit("/", 2)
    digest = name.removesuffix(".parquet")
    return places.QUARANTINE.url(folder, digest=digest), places.QUARANTINE_IN_DATA.url(folder, digest=digest)


def dropped_rows(parts: Iterable[Part]) -> dict[str, int]:
    """Return the number of rows dropped by shard, without the shards that dropped none."""
    import pyarrow.parquet as pq

    shards = {url: part.shard for part in parts for url in quarantine_urls(part.url)}
    existing = _existing(dict.fromkeys(url.rsplit("/", 1)[0] for url in shards))
    counts = {}
    for url in sorted(existing & shards.keys()):
        fs, path = filesystem.arrow(url)
        counts[shards[url]] = pq.read_metadata(path, filesystem=fs).num_rows
    return counts


def _existing(folders: Iterable[str]) -> set[str]:
    """Return the files of the first folder that may be listed; in a table bucket, that is not the usual one."""
    for folder in folders:
        try:
            return {file.url for file in filesystem.listing(folder)}
        except FileNotFoundError:
            return set()
        except PermissionError:
            continue
    return set()


def read_moments(url: str) -> Array | None:
    """Return the moments of a part's projections (see `bits.pack_signs`), (4, n_bits); None if its footer has none.

    Raises
    ------
    ValueError
        If the footer is damaged.
    """
    encoded = parquet.open_parquet(url).metadata.metadata.get(b"hashkiln.moments")
    try:
        return None if encoded is None else np.frombuffer(b64decode(encoded, validate=True)).reshape(4, -1)
    except ValueError as error:  # no checksum covers a footer
        raise ValueError(f"damaged footer, moments of projections, in {url}: {error}") from error


_verified: set[str] = set()  # URLs of parts whose SHA-256 this process has checked


def read_part(url: str, n_bits: int, size: int | None = None, verify: bool = False) -> Any:
    """Return a part as an Arrow table.

    Per GB, the SHA-256 takes 1.2 s, reading from memory 1 s, and counting the distances to 100 queries 4 s.

    Parameters
    ----------
    size
        Expected size in bytes, which is checked on each read.
    verify
        Whether to check the SHA-256 even if this process has done so before.

    Raises
    ------
    ValueError
        If the codes have another width, or the file was modified.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    local = isinstance(fs, pa.fs.LocalFileSystem)
    with pa.memory_map(path) if local else fs.open_input_file(path) as file:
        content = file.read_buffer()
    if size not in (None, len(content)):
        raise ValueError(f"expected a part of {size} bytes, found {len(content)}, in {url}")
    if verify or url not in _verified:
        if (actual := hashlib.sha256(content).hexdigest()) != (name := url.rpartition("/")[2].partition(".")[0]):
            raise ValueError(f"expected a part of SHA-256 {name}, found {actual}, in {url}: the file was modified")
        _verified.add(url)
    table = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False).read()  # pq.read_table takes twice as long
    width, found = bits.n_bytes(n_bits), table.schema.field("code").type
    if found != pa.binary(width):
        raise ValueError(f"expected codes of {width} bytes ({n_bits} bits), found {found}, in {url}")
    return table


def read_ids(url: str) -> Array:
    """Return the ids of a part, (n,) int64, without reading the rest. Raises ValueError if a page is damaged."""
    batches = parquet.read_batches(url, ["id"])
    ids: Array = np.concatenate([np.zeros(0, np.int64), *(batch["id"].to_numpy() for batch in batches)])
    return ids


def code_array(column: Any, n_bits: int) -> Array:
    """Return a column of fixed_size_binary(B) without nulls as (n, B) uint8, without a copy."""
    return _bytes_of(column, bits.n_bytes(n_bits))


def _bytes_of(column: Any, width: int) -> Array:
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


def corrective_array(batch: Any, names: Sequence[str]) -> Array:
    """Return the columns of correctives of a record batch as (n, len(names)) float16 or float32."""
    if (dtype := corrective_type(names)).itemsize == 4:
        return np.stack([batch[name].to_numpy() for name in names], axis=1)
    return np.concatenate([_bytes_of(batch[name], 2).view(dtype) for name in names], axis=1)


def _with_correctives(table: Any, correctives: Array, names: Sequence[str]) -> Any:
    """Return a table with columns of float32, or of the 2 bytes of each float16, a type that Iceberg lacks."""
    import pyarrow as pa

    for i, name in enumerate(names):
        column: Any = pa.array(values := np.ascontiguousarray(correctives[:, i]))
        if correctives.itemsize == 2:
            column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(2), len(values), [None, pa.py_buffer(values)])
        field = pa.field(name, column.type, nullable=False, metadata={"PARQUET:field_id": str(FIRST + i)})
        table = table.append_column(field, column)
    return table


def _quarantine_bytes(rows: Sequence[DroppedRow], keys_folder: str) -> bytes:
    import pyarrow as pa

    columns = zip(*rows, strict=True)
    table = pa.table(dict(zip(("file", "row", "id", "reason"), map(list, columns), strict=True)))
    if keys_folder:
        table = table.append_column("key", keys.keys_of(keys_folder, table["id"].to_numpy()))
    return parquet.to_bytes(table, compression="snappy")


def _parquet_bytes(table: Any) -> bytes:
    """Return a part as Parquet. On balanced bits, compression, dictionaries and statistics would only slow readers."""
    return parquet.to_bytes(
        table,
        row_group_size=2**20,
        use_dictionary=False,
        write_statistics=["id"],
        write_page_checksum=True,
        compression={"id": "zstd", "code": "none", "labels.list.element": "zstd"},
        column_encoding={"id": "DELTA_BINARY_PACKED", "code": "PLAIN", "labels.list.element": "PLAIN"},
    )
