"""The keys, labels and shards of a run's source, its staged version, and what bits depend on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version as installed

from hashing.mapreduce import Executor
from storage.features import keys
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard
from storage.tables.table import CodeTable, PublishConflict, Version

from ..datasets import labels_of
from ..records import Staged
from ..spec import digest

LIBRARIES = ("hashkiln", "numpy", "scipy", "torch", "pyarrow", "pyiceberg", "ray", "prefect")


def staged_version(table: CodeTable, staged: Staged) -> Version:
    """The version on its branch. Raises PublishConflict where a run of the same plan ended the branch."""
    if not table.has_ref(staged.branch):
        raise PublishConflict(
            f"expected branch {staged.branch} of table {table.name}, found that another run of the same plan ended it: "
            "run again to see what it came to"
        )
    return table.version(staged.branch)


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
        for found in executor.map(FeatureShard.row_keys, new, "keys"):
            keys.assign(dataset.keys, found)
    return tuple(dict.fromkeys((*known, *labels_of(dataset, executor, new))))


def fingerprint(shards: Iterable[FeatureShard]) -> str:
    return digest(sorted((shard.name, shard.version) for shard in shards))


def splits(dataset: Dataset) -> str:
    """The fingerprint of all splits but the database."""
    others = sorted(dataset.splits.keys() - {"base"})
    return digest([(split, fingerprint(dataset.shards(split))) for split in others])


def environment() -> dict[str, str]:
    """What bits may depend on beside the specification: the CPU's kind and the versions of the libraries."""
    return {"machine": platform.machine(), **{library: installed(library) for library in LIBRARIES}}
