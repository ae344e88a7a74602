"""Export of a version of a code table to the formats of other tools."""

from __future__ import annotations

from typing import Any, Literal

from infra.settings import Settings
from storage.export import faiss, npy

from .context import open_version


def export_version(
    table: str, folder: str, form: Literal["npy", "faiss"] = "npy", version: str = "main"
) -> dict[str, Any]:
    """Write a version to a folder in a format of storage.export, and return the content of export.json and the folder.

    Raises LookupError as `open_version` does.
    """
    code_table, chosen = open_version(Settings(), table, version)
    shards = code_table.shards(chosen.snapshot_id)
    description = {
        "table": code_table.name,
        "version": chosen.name,
        "snapshot": chosen.snapshot_id,
        "model": chosen.properties["model"],
        "rows": sum(shard.part.rows for shard in shards),
        "n_bits": code_table.n_bits,
        "bit_order": "bit j is byte j div 8, position j mod 8 (little); padding is zero",
        "vocabulary": code_table.vocabulary,  # label of each column of labels.npy
    }
    (faiss.to_faiss if form == "faiss" else npy.to_npy)(shards, folder, description)
    return {**description, "folder": folder}
