"""Export codes for OpenSearch and Elasticsearch: files for the bulk API, and the index of each."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .rows import VersionRows, code_bytes, requests


def write(rows: VersionRows, place: Path) -> None:
    """Write bulk-00000.ndjson, …, and the bodies that create the index: opensearch.json and elasticsearch.json.

    Codes are lists of signed bytes. Bit j of a row is in byte j div 8 at position 7 - j mod 8, the order of
    `numpy.packbits`, which both engines document:
    https://docs.opensearch.org/latest/mappings/supported-field-types/knn-memory-optimized/ and
    https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector. The id is the _id of a document.
    """
    fields = {"labels": {"type": "long" if rows.has_integer_labels else "keyword"}} if rows.vocabulary else {}
    if rows.keys:
        fields["key"] = {"type": "keyword"}
    opensearch = {
        "type": "knn_vector",
        "dimension": rows.padded_bits,
        "data_type": "binary",
        "space_type": "hamming",
        "method": {"name": "hnsw", "engine": "faiss"},
    }
    elasticsearch = {"type": "dense_vector", "dims": rows.padded_bits, "element_type": "bit"}
    _write_json(place / "opensearch.json", opensearch, fields, {"settings": {"index": {"knn": True}}})
    _write_json(place / "elasticsearch.json", elasticsearch, fields, {})
    for i, batch in enumerate(requests(rows)):
        vectors = code_bytes(batch, rows.n_bits, big_endian=True).view(np.int8).tolist()
        others = batch.drop_columns(["id", "code"]).to_pylist()
        with (place / f"bulk-{i:05}.ndjson").open("w") as file:
            for row, id_ in enumerate(batch["id"].to_pylist()):
                document = {"code": vectors[row], **others[row]}
                file.write(json.dumps({"index": {"_id": str(id_)}}) + "\n" + json.dumps(document) + "\n")


def _write_json(path: Path, code: dict[str, Any], fields: dict[str, Any], settings: dict[str, Any]) -> None:
    path.write_text(json.dumps({**settings, "mappings": {"properties": {"code": code, **fields}}}, indent=2))
