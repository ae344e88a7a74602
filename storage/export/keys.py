"""Export the keys of rows beside their codes."""

from collections.abc import Sequence
from pathlib import Path

from ..features import keys
from ..files import filesystem
from ..tables.parts import CodeShard, read_ids


def write_keys(shards: Sequence[CodeShard], place: Path, folder: str) -> None:
    """Write keys.parquet, with the columns id and key in the order of the rows.

    `folder` is the URL of the dataset's keys; if it is empty, nothing is written. The keys of one shard are in memory
    at a time.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not folder:
        return
    writer = None
    with filesystem.create(str(place / "keys.parquet")) as file:
        for shard in [shard for shard in shards if shard.part.rows] or shards[:1]:  # without rows: for the type of keys
            ids = read_ids(shard.part.url)
            table = pa.table({"id": ids, "key": keys.keys_of(folder, ids)})
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer:
            writer.close()
