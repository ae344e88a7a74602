"""A version of a code table in the forms of other tools."""

from __future__ import annotations

from typing import Any, Literal

from infra.settings import Settings
from storage.export import faiss, npy

from .context import open_table


def export(table: str, folder: str, form: Literal["npy", "faiss"] = "npy", version: str = "main") -> dict[str, Any]:
    """Write a version to a folder as storage.export says. What it is, as in export.json there.

    Raises LookupError where there is no such table or version, or it is empty.
    """
    opened = open_table(Settings(), table)
    found = opened.version(version)
    shards = opened.shards(found.snapshot_id)
    if not shards:
        raise LookupError(f"expected a version with rows, found {found.name} of {table}, which is empty")
    about = {
        "table": opened.name,
        "version": found.name,
        "snapshot": found.snapshot_id,
        "model": found.properties["model"],
        "rows": sum(shard.part.rows for shard in shards),
        "n_bits": opened.n_bits,
        "bit_order": "bit j is byte j div 8, position j mod 8 (little); padding is zero",
        "vocabulary": opened.vocabulary,  # of which the columns of labels.npy are the places
    }
    (faiss.to_faiss if form == "faiss" else npy.to_npy)(shards, folder, about)
    return {**about, "folder": folder}
