"""Ingested datasets as runs read them: their rows, training rows, labels and keys."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hashing.mapreduce import Array, Executor, Shard
from infra.settings import Settings
from storage import datasets, warehouse
from storage.features import deletions, keys
from storage.features.dataset import Dataset, dataset_exists, load_dataset
from storage.features.shard import FeatureShard, WithoutRows
from storage.files import filesystem

from .spec import Spec


def dataset_of(spec: Spec, settings: Settings) -> Dataset:
    """Return the dataset of a specification. Raises LookupError if it was not ingested."""
    dataset = ingested(spec.dataset, settings)
    deleted = deletions.deletion_files(warehouse.DELETIONS.url(settings.warehouse_url, dataset=dataset.name))
    return dataset.model_copy(update={"bad_rows": spec.bad_rows, "deleted": deleted})


def ingested(name: str, settings: Settings) -> Dataset:
    """Return a dataset as it was ingested. Raises LookupError if it was not."""
    return sample_dataset() if name == "sample" else load_dataset(settings.warehouse_url, name)


def training_shards(
    dataset: Dataset, excluded: Array, vocabulary: tuple[str | int, ...] = (), listed: Sequence[FeatureShard] = ()
) -> list[Shard]:
    """Return the shards to learn from: the learn split or, without one, the base split without the excluded ids.

    The excluded ids (m,) int64 are those of the queries. With a vocabulary, shards yield labels as positions in it.
    `listed` are the shards of that split if they were listed before.
    """
    split = "learn" if "learn" in dataset.splits else "base"
    shards = [replace(shard, vocabulary=vocabulary) for shard in listed or dataset.shards(split)]
    return [WithoutRows(shard, excluded) for shard in shards] if len(excluded) and split == "base" else list(shards)


def keys_of_version(properties: Mapping[str, str], settings: Settings) -> str:
    """Return the URL of the keys of a version's rows, from its properties; empty if there are none."""
    spec = Spec.stored(properties["spec"]) if "spec" in properties else None
    return dataset_of(spec, settings).keys if spec and is_available(spec.dataset, settings) else ""


def number_new(dataset: Dataset, ids: Array) -> Array:
    """Return the ids (n,) of queries, with new ids from 2^41 on for those whose key no row of the dataset has."""
    if not dataset.columns.keyed:
        return ids
    return np.where(ids == keys.NONE, datasets.QUERY + np.arange(len(ids)), ids)


def labels_of(dataset: Dataset, executor: Executor, shards: list[FeatureShard] | None = None) -> tuple[str | int, ...]:
    """Return the distinct labels of the given shards, or of all splits: integers, then strings, each sorted."""
    if not dataset.columns.labels:
        return ()
    if shards is None:
        shards = [shard for split in dataset.splits for shard in dataset.shards(split)]
    labels: set[str | int] = set().union(*executor.map(FeatureShard.distinct_labels, shards, "labels"))
    return tuple(sorted(labels, key=lambda label: (isinstance(label, str), label)))


def is_available(name: str, settings: Settings) -> bool:
    """Return whether a dataset can be read: it was ingested, or is the sample, which needs no ingest."""
    return name == "sample" or dataset_exists(settings.warehouse_url, name)


def sample_dataset() -> Dataset:
    """Return the shipped sample, which is used in place."""
    root = filesystem.absolute(str(datasets.SAMPLE))
    named = datasets.get("sample")
    splits = {split: filesystem.join(root, split) for split in named.splits}
    return Dataset(name="sample", dim=named.splits["base"].d, splits=splits, source=named.about)
