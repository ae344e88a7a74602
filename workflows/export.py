"""Export of a version of a code table to the formats of other tools."""

from __future__ import annotations

from typing import Any

from infra.settings import Settings
from storage.export import duckdb, faiss, lance, milvus, npy, opensearch, pgvector, qdrant
from storage.export.folder import atomic_folder
from storage.export.rows import VersionRows

from .context import open_version
from .datasets import keys_of_version

LITTLE = "bit j is byte j div 8, position j mod 8 (little); padding is zero"
BIG = "bit j is byte j div 8, position 7 - j mod 8 (big); padding is zero"
TEXT = "bit j is character j"
TARGETS = {  # what writes the files, and the order of bits in them
    "npy": (npy.write, LITTLE),
    "faiss-flat": (faiss.write_flat, LITTLE),
    "faiss-ivf": (faiss.write_ivf, LITTLE),
    "faiss-hnsw": (faiss.write_hnsw, LITTLE),
    "pgvector": (pgvector.write, TEXT),
    "duckdb": (duckdb.write, BIG),
    "milvus": (milvus.write, LITTLE),
    "lance": (lance.write, LITTLE),
    "opensearch": (opensearch.write, BIG),
    "qdrant": (qdrant.write, "bit j is element j"),
}


def export_version(table: str, to: str, folder: str, version: str = "main") -> dict[str, Any]:
    """Write a version to a folder for one of TARGETS, and return the content of export.json and the folder.

    Raises LookupError for an unknown target, and as `open_version` does.
    """
    if to not in TARGETS:
        raise LookupError(f"unknown target {to!r}; expected one of {', '.join(TARGETS)}")
    write, bit_order = TARGETS[to]
    settings = Settings()
    code_table, chosen = open_version(settings, table, version)
    shards, keys = code_table.shards(chosen.snapshot_id), keys_of_version(chosen.properties, settings)
    rows = VersionRows(code_table.name, shards, code_table.vocabulary, keys)
    description = {
        "table": code_table.name,
        "version": chosen.name,
        "snapshot": chosen.snapshot_id,
        "model": chosen.properties["model"],
        "target": to,
        "rows": len(rows),
        "n_bits": code_table.n_bits,
        "bit_order": bit_order,
        "vocabulary": code_table.vocabulary,  # label of each column of labels.npy
    }
    with atomic_folder(folder, description) as place:
        write(rows, place)
    return {**description, "folder": folder}
