"""Export codes for Qdrant: bodies of requests to its REST API."""

import json
from pathlib import Path

from .optional import ExportRefused
from .rows import VersionRows, bit_array, requests


def write(rows: VersionRows, place: Path) -> None:
    """Write collection.json, and points-00000.json, … for PUT /collections/<name>/points.

    Qdrant has no Hamming distance. Codes are vectors with a uint8, 0 or 1, for each bit; their Manhattan distance is
    the Hamming distance: https://qdrant.tech/documentation/concepts/vectors/#datatypes. A code takes 8 times its size.
    Raises ExportRefused if an id is negative.
    """
    if negative := [shard.part.min_id for shard in rows.shards if shard.part.min_id < 0]:
        raise ExportRefused(f"Qdrant needs ids from 0, found {min(negative)}: export to another engine")
    vectors = {"size": rows.n_bits, "distance": "Manhattan", "datatype": "uint8"}
    (place / "collection.json").write_text(json.dumps({"vectors": vectors}, indent=2))
    for i, batch in enumerate(requests(rows)):
        bits = bit_array(batch, rows.n_bits).tolist()
        ids, payloads = batch["id"].to_pylist(), batch.drop_columns(["id", "code"]).to_pylist()
        points = [
            {"id": id_, "vector": vector, "payload": payload}
            for id_, vector, payload in zip(ids, bits, payloads, strict=True)
        ]
        (place / f"points-{i:05}.json").write_text(json.dumps({"points": points}, separators=(",", ":")))
