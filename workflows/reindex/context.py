"""The code table of a run, the source as it is now, and what bits depend on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version as installed

from hashing.mapreduce import Executor
from infra.settings import Settings
from storage.features import keys
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard
from storage.tables import iceberg
from storage.tables.table import CodeTable, PublishConflict, Version, create_table, table_name

from ..datasets import labels_of
from ..records import Staged
from ..spec import Spec, digest

LIBRARIES = ("hashkiln", "numpy", "scipy", "torch", "pyarrow", "pyiceberg", "ray", "prefect")


def staged_version(table: CodeTable, staged: Staged) -> Version:
    """The version on its branch. Raises PublishConflict where a run of the same plan ended the branch."""
    if not table.has_ref(staged.branch):
        raise PublishConflict(
            f"expected branch {staged.branch} of table {table.name}, found that another run of the same plan ended it: "
            "run again to see what it came to"
        )
    return table.version(staged.branch)


def table_of(
    spec: Spec, settings: Settings, executor: Executor, dataset: Dataset
) -> tuple[CodeTable, dict[str, FeatureShard]]:
    """The code table of the specification, made if need be, and the shards of the database by name.

    Keys and labels of all splits have their places then. Shards whose part is published had theirs before.
    """
    catalog = iceberg.connect(settings.catalog_url, settings.warehouse_url)
    table = create_table(catalog, table_name(dataset.name, spec.code_name), spec.method.bits)
    base, shards = table.version(), dataset.shards("base")
    if dataset.columns.keyed or dataset.columns.labels:
        parts = table.parts(base.snapshot_id)
        new = [s for s in shards if s.name not in parts or parts[s.name].version != s.version]
        if base.properties.get("splits") != splits(dataset):
            new += [shard for split in dataset.splits.keys() - {"base"} for shard in dataset.shards(split)]
        if dataset.columns.keyed:
            for found in executor.map(FeatureShard.row_keys, new, "keys"):
                keys.assign(dataset.keys, found)
        if dataset.columns.labels:
            table.add_labels(labels_of(dataset, executor, new))
    return table, {shard.name: replace(shard, vocabulary=table.vocabulary) for shard in shards}


def fingerprint(shards: Iterable[FeatureShard]) -> str:
    return digest(sorted((shard.name, shard.version) for shard in shards))


def splits(dataset: Dataset) -> str:
    """The fingerprint of all splits but the database."""
    others = sorted(dataset.splits.keys() - {"base"})
    return digest([(split, fingerprint(dataset.shards(split))) for split in others])


def environment() -> dict[str, str]:
    """What bits may depend on beside the specification: the CPU's kind and the versions of the libraries."""
    return {"machine": platform.machine(), **{library: installed(library) for library in LIBRARIES}}
