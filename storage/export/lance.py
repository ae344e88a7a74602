"""Export codes as a Lance dataset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .optional import optional_package
from .rows import VersionRows, code_bytes


def write(rows: VersionRows, place: Path) -> None:
    """Write the dataset codes.lance. Codes are fixed-size lists of uint8, in the bit order of hashing.bits.

    Raises ExportRefused if the package pylance is not installed.
    """
    import pyarrow as pa

    lance = optional_package("lance", "pylance")
    schema = rows.schema.set(1, pa.field("code", pa.list_(pa.uint8(), rows.schema.field("code").type.byte_width)))

    def batches() -> Iterator[Any]:
        for batch in rows:
            codes = code_bytes(batch, rows.n_bits)
            code = pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), codes.shape[1])
            yield pa.record_batch([batch["id"], code, *batch.columns[2:]], schema=schema)

    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(place / "codes.lance"))
