"""The source of a run: its shards with their keys and labels, and fingerprints of all that bits depend on."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version as installed

from hashing.mapreduce import Executor
from storage.features import keys
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard
from storage.tables.table import CodeTable

from ..datasets import labels_of
from ..spec import digest

LIBRARIES = ("hashkiln", "numpy", "scipy", "torch", "pyarrow", "pyiceberg", "ray", "prefect")


def places_of(dataset: Dataset, table: CodeTable | None, executor: Executor) -> tuple[str | int, ...]:
    """Give new keys their ids, and return the vocabulary: the labels of the table, if it exists, and then new ones.

    Shards whose part is published had their keys and labels before. The table itself is left as it is.
    """
    known = table.vocabulary if table else ()
    if not (dataset.columns.keyed or dataset.columns.labels):
        return known
    base = table.version() if table else None
    parts = table.parts(base.snapshot_id) if table and base else {}
    new = [s for s in dataset.shards("base") if s.name not in parts or parts[s.name].version != s.version]
    if not base or base.properties.get("splits") != splits(dataset):
        new += [shard for split in dataset.splits.keys() - {"base"} for shard in dataset.shards(split)]
    if dataset.columns.keyed:
        for found in executor.map(FeatureShard.distinct_keys, new, "keys"):
            keys.assign_ids(dataset.keys, found)
    return tuple(dict.fromkeys((*known, *labels_of(dataset, executor, new))))


def fingerprint(shards: Iterable[FeatureShard]) -> str:
    return digest(sorted((shard.name, shard.version) for shard in shards))


def splits(dataset: Dataset) -> str:
    """The fingerprint of all splits but the database."""
    others = sorted(dataset.splits.keys() - {"base"})
    return digest([(split, fingerprint(dataset.shards(split))) for split in others])


def environment(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Return what bits may depend on besides the specification: the kind of CPU, and versions of libraries."""
    return {"machine": platform.machine(), **{library: installed(library) for library in libraries}}
