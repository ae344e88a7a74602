"""Export codes for Milvus: a Parquet file for its bulk import, and the collection."""

import json
from pathlib import Path

import numpy as np

from .rows import VersionRows, code_bytes


def write(rows: VersionRows, place: Path) -> None:
    """Write codes.parquet and collection.json, the body of a request to /v2/vectordb/collections/create.

    Codes are lists of uint8 in the bit order of hashing.bits, see https://milvus.io/docs/binary-vector.md. Labels are
    JSON.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields: list[dict[str, object]] = [
        {"fieldName": "id", "dataType": "Int64", "isPrimary": True},
        {"fieldName": "code", "dataType": "BinaryVector", "elementTypeParams": {"dim": str(rows.padded_bits)}},
    ]
    columns = {"id": pa.int64(), "code": pa.list_(pa.uint8())}
    if rows.vocabulary:
        fields.append({"fieldName": "labels", "dataType": "JSON"})
        columns["labels"] = pa.string()
    if rows.keys:
        fields.append({"fieldName": "key", "dataType": "VarChar", "elementTypeParams": {"max_length": "65535"}})
        columns["key"] = pa.string()
    collection = {
        "collectionName": rows.table,
        "schema": {"autoId": False, "enableDynamicField": False, "fields": fields},
        "indexParams": [
            {"fieldName": "code", "indexName": "code", "metricType": "HAMMING", "params": {"index_type": "BIN_FLAT"}}
        ],
    }
    (place / "collection.json").write_text(json.dumps(collection, indent=2))
    schema = pa.schema(columns)
    with pq.ParquetWriter(str(place / "codes.parquet"), schema, compression="zstd") as file:
        for batch in rows:
            codes = code_bytes(batch, rows.n_bits)
            offsets = np.arange(0, codes.size + 1, rows.padded_bits // 8, dtype=np.int32)
            arrays = [batch["id"], pa.ListArray.from_arrays(offsets, pa.array(codes.ravel()))]
            if rows.vocabulary:
                arrays.append(pa.array([json.dumps(labels) for labels in batch["labels"].to_pylist()], pa.string()))
            if rows.keys:
                arrays.append(batch["key"])
            file.write_batch(pa.record_batch(arrays, schema=schema))
