"""The rows of a version as Arrow record batches, which most targets write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashing import bits
from hashing.mapreduce import Array

from ..features.keys import keys_of
from ..tables.parts import BATCH_ROWS, CodeShard, code_array, read_part

REQUEST_BITS = 2**22  # bits in a request: about 10 MB of JSON; by default Qdrant accepts 32 MB, OpenSearch 100 MB


@dataclass(frozen=True)
class VersionRows:
    """The rows of a version in the order of its shards, one part in memory at a time.

    Iterating yields record batches with the columns id (int64) and code (fixed_size_binary). If the table has labels,
    the column labels has lists of strings, or of integers if all labels of the table are integers. If rows have keys,
    the column key has them as strings; bytes are converted to hexadecimal digits.
    """

    table: str  # name of the code table
    shards: Sequence[CodeShard]
    vocabulary: Sequence[str | int] = ()  # label of each class; empty: without labels
    keys: str = ""  # URL of the dataset's keys; empty: without keys

    @property
    def n_bits(self) -> int:
        """Return the length of a code."""
        return self.shards[0].n_bits

    @property
    def padded_bits(self) -> int:
        """Return the length of a code in whole bytes. The padding is zero in all codes, so distances are the same."""
        return 8 * bits.n_bytes(self.n_bits)

    @property
    def schema(self) -> Any:
        """Return the Arrow schema of the record batches."""
        import pyarrow as pa

        columns = {"id": pa.int64(), "code": pa.binary(self.padded_bits // 8)}
        if self.vocabulary:
            columns["labels"] = pa.list_(pa.int64() if self.has_integer_labels else pa.string())
        if self.keys:
            columns["key"] = pa.string()
        return pa.schema(columns)

    @property
    def has_integer_labels(self) -> bool:
        """Return whether all labels of the table are integers."""
        return all(isinstance(label, int) for label in self.vocabulary)

    def __len__(self) -> int:
        return sum(shard.part.rows for shard in self.shards)

    def __iter__(self) -> Iterator[Any]:
        import pyarrow as pa

        for shard in self.shards:
            part = read_part(shard.part.url, shard.n_bits, shard.part.size)
            for batch in part.to_batches(BATCH_ROWS):
                arrays = [batch["id"], batch["code"]]
                if self.vocabulary:
                    arrays.append(self._labels(batch))
                if self.keys:
                    arrays.append(self._keys(batch))
                yield pa.record_batch(arrays, schema=self.schema)

    def _labels(self, batch: Any) -> Any:
        """Return the labels of a batch of a part as lists of values. The part has their positions in the vocabulary."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if "labels" not in batch.schema.names:
            return pa.array([[]] * len(batch), self.schema.field("labels").type)
        lengths = pc.fill_null(pc.list_value_length(batch["labels"]), 0).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        values = pa.array(self.vocabulary if self.has_integer_labels else list(map(str, self.vocabulary)))
        return pa.ListArray.from_arrays(offsets, values.take(batch["labels"].flatten()))

    def _keys(self, batch: Any) -> Any:
        import pyarrow as pa

        found = keys_of(self.keys, batch["id"].to_numpy()).combine_chunks()
        return found if found.type == pa.string() else pa.array([key.hex() for key in found.to_pylist()], pa.string())


def code_bytes(batch: Any, n_bits: int, big_endian: bool = False) -> Array:
    """Return the codes of a record batch as (n, B) uint8; big_endian: bit j of a row at position 7 - j mod 8."""
    codes = code_array(batch["code"], n_bits)
    return np.packbits(np.unpackbits(codes, axis=1, bitorder="little"), axis=1) if big_endian else codes


def bit_array(batch: Any, n_bits: int) -> Array:
    """Return the codes of a record batch as (n, n_bits) uint8 of 0 and 1."""
    return np.unpackbits(code_array(batch["code"], n_bits), axis=1, count=n_bits, bitorder="little")


def requests(rows: VersionRows) -> Iterator[Any]:
    """Yield the rows as record batches of the size of one request to a server."""
    size = REQUEST_BITS // rows.n_bits
    for batch in rows:
        for start in range(0, len(batch), size):
            yield batch.slice(start, size)
