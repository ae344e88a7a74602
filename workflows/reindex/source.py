"""The source of a run: keys and labels of its shards, and fingerprints of what the codes depend on."""

import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version as installed
from pathlib import Path

from hashing.mapreduce import Executor
from storage.features import keys
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard
from storage.tables.table import CodeTable

from ..ingested import labels_of
from ..spec import digest

LIBRARIES = ("hashkiln", "numpy", "scipy", "torch", "pyarrow", "pyiceberg", "ray", "prefect")


def vocabulary_of(
    dataset: Dataset, table: CodeTable | None, executor: Executor, shards: Sequence[FeatureShard]
) -> tuple[str | int, ...]:
    """Return the labels of the table, if it exists, followed by new labels of the source; assign ids to new keys.

    Of `shards`, those of the base split, the ones whose part is published are skipped, because their keys and labels
    are known. The table does not change.
    """
    known = table.vocabulary if table else ()
    if not (dataset.columns.keyed or dataset.columns.labels):
        return known
    base = table.version() if table else None
    parts = table.parts(base.snapshot_id) if table and base else {}
    new = [s for s in shards if s.name not in parts or parts[s.name].version != s.version]
    if not base or base.properties.get("splits") != splits(dataset):
        new += [shard for split in dataset.splits.keys() - {"base"} for shard in dataset.shards(split)]
    if dataset.columns.keyed:
        for found in executor.map(FeatureShard.distinct_keys, new, "keys"):
            keys.assign_ids(dataset.keys, found)
    return tuple(dict.fromkeys((*known, *labels_of(dataset, executor, new))))


def fingerprint(shards: Iterable[FeatureShard]) -> str:
    """Return the digest of the names and versions of shards."""
    return digest(sorted((shard.name, shard.version) for shard in shards))


def splits(dataset: Dataset) -> str:
    """Return the fingerprint of all splits except the database."""
    others = sorted(dataset.splits.keys() - {"base"})
    return digest([(split, fingerprint(dataset.shards(split))) for split in others])


def environment(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Return the CPU architecture and the library versions, on which codes may depend."""
    return {"machine": platform.machine(), **{library: installed(library) for library in libraries}}


def hardware() -> str:
    """Return the processor of this machine, its number of CPUs, and its GPUs if this process uses torch."""
    info = Path("/proc/cpuinfo")
    model = re.search("model name\\s*: (.*)", info.read_text()) if info.exists() else None
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return ", ".join([model[1] if model else platform.machine(), f"{os.cpu_count()} CPUs", *gpus])
