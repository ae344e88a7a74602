"""The protocol of DHN (Zhu, Long, Wang & Cao, AAAI 2016): rows sampled by class, weights chosen by cross-validation."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from pydantic import Field

from hashing.evaluation import metrics
from hashing.mapreduce import Array, Batch, Executor, Shard, concatenated
from hashing.statistics import keyed_hash
from infra.settings import Settings
from storage.features import subsets
from storage.features.dataset import Dataset
from storage.features.shard import WithoutRows

from ..spec import MethodSpec, Number, Value, digest

logger = logging.getLogger(__name__)
CUTOFFS = {"nus-wide": 5_000, "coco": 5_000}  # ranks of MAP in the published tables; all ranks for other datasets
FOLD_QUERIES = 1_000  # largest number of queries in a fold
# Hyper-parameter that weighs the terms of each method's loss; empty: none, so only the learning rate is tuned.
WEIGHTS = {
    "dhn": "quantization", "dpsh": "eta", "dsdh": "eta", "dch": "quantization", "dsh": "alpha", "hashnet": "",
    "csq": "quantization", "dpn": "", "greedyhash": "alpha", "orthohash": "", "hyp2": "beta", "mds": "beta",
    "dfh": "eta", "crovca": "mcr",
}  # fmt: skip


class Draw(Value):
    """Sampling by class, ranking, and cross-validation in the protocol of DHN."""

    class_queries: int = Field(100, ge=1, description="queries sampled from each class")
    class_training: int = Field(500, ge=1, description="training rows sampled from each class")
    training_in_database: bool = Field(True, description="whether training rows are ranked too, as in the paper")
    cutoff: int | None = Field(None, ge=1, description="number of ranks in MAP; None: the default of the dataset")
    folds: int = Field(3, ge=2, description="folds of cross-validation on the training rows")

    def ranks(self, dataset: str) -> int | None:
        """Return the number of ranks in MAP; None: all."""
        return self.cutoff or CUTOFFS.get(dataset)


def drawn_dataset(
    dataset: Dataset, options: Draw, vocabulary: tuple[str | int, ...], settings: Settings, executor: Executor
) -> Dataset:
    """Return the dataset with the queries, training rows and database of the protocol.

    A dataset with its own splits for training and queries, such as HashNet's lists, is returned unchanged. Otherwise
    rows of each class are sampled by keyed hash of the ids, and saved as a dataset `<name>-dhn-<digest>`. Raises
    ValueError if there are no labels, if ids are repeated, or if a class has too few rows.
    """
    if not vocabulary:
        raise ValueError(f"protocol dhn needs labels: dataset {dataset.name} has none")
    if "learn" in dataset.splits and "query" in dataset.splits:
        return dataset
    shards = [shard for split in sorted(dataset.splits) for shard in dataset.shards(split, vocabulary)]
    drawn = [options.class_queries, options.class_training]
    versions = [(shard.name, shard.version) for shard in shards]
    key = digest(versions, sorted(dataset.splits), dataset.dim, dataset.metric, drawn)
    name = f"{dataset.name}-dhn-{key[:8]}"
    if known := subsets.known_subset(settings.warehouse_url, name):
        return known
    found = list(executor.map(subsets.ids_and_labels, shards, "labels"))
    ids, y = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    if len(ids) > len(np.unique(ids)):
        repeated = len(ids) - len(np.unique(ids))
        raise ValueError(f"expected distinct ids in all splits of {dataset.name}, found {repeated} repeated")
    try:
        queries, training = draw_by_class(ids, y, vocabulary, *drawn)
    except ValueError as error:
        raise ValueError(f"{error}, in dataset {dataset.name}: lower --class-queries or --class-training") from None
    splits = {"learn": training, "query": queries, "base": np.setdiff1d(ids, queries)}
    drawn_rows = {split: (shards, rows) for split, rows in splits.items()}
    return subsets.write_subset(settings.warehouse_url, name, dataset, drawn_rows)


def draw_by_class(
    ids: Array, y: Array, classes: Sequence[object], n_queries: int, n_training: int, seed: int = 0
) -> tuple[Array, Array]:
    """Return sorted ids of `n_queries` queries and of `n_training` other training rows per class.

    y is (n, classes) multi-hot. A row of several classes is sampled for one of them only; rare classes choose first.
    Raises ValueError if a class has too few rows.
    """
    order = np.argsort(keyed_hash(ids, seed), kind="stable")
    free = np.ones(len(ids), bool)
    drawn: list[list[Array]] = [[], []]
    for rows, n in zip(drawn, (n_queries, n_training), strict=True):
        for label in np.argsort(y.sum(axis=0), kind="stable"):
            mine = order[(y[order, label] > 0) & free[order]][:n]
            if len(mine) < n:
                has = f"{int((y[:, label] > 0).sum())} of class {classes[label]!r}, {len(mine)} left for {n}"
                raise ValueError(f"expected {n_queries} + {n_training} rows of each class, found {has}")
            free[mine] = False
            rows.append(mine)
    queries, training = (np.sort(ids[np.concatenate(rows)]) for rows in drawn)
    return queries, training


def without_training(dataset: Dataset, base: Sequence[Shard]) -> list[Shard]:
    """Return the database without the training rows."""
    learned = [shard.ids(file.url) for shard in dataset.shards("learn") for file in shard.files]
    return [WithoutRows(shard, np.concatenate(learned)) for shard in base]


def dhn_average_precision(histogram: Array, ranks: int | None) -> dict[str, float]:
    """Return MAP as in the published tables (queries without a hit excluded), their share, and MAP at the cutoff."""
    rows = int(histogram[0].sum(axis=-1).max())
    values = metrics.average_precision_at_hits(histogram, ranks or rows, empty=np.nan)
    hit = ~np.isnan(values)
    found = {"map_dhn": float(values[hit].mean()) if hit.any() else 0.0, "queries_without_hit": float((~hit).mean())}
    if ranks:
        found[f"map_at_{ranks}"] = float(metrics.average_precision_at(histogram, ranks).mean())
    return found


@dataclass(frozen=True)
class Fold:
    """The rows of a shard inside or outside a fold. A keyed hash of the ids assigns rows to folds."""

    shard: Shard
    place: int
    folds: int
    inside: bool

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.shard:
            mine = keyed_hash(batch.ids, self.folds) % np.uint64(self.folds) == self.place
            yield batch.take(mine == self.inside)


def tuned(spec: MethodSpec) -> dict[str, tuple[Number, ...]]:
    """Return the default values for cross-validation: the weight of the method, and the learning rate.

    The paper tries weights from 1e-5 to 1e2 and learning rates from 1e-5 to 1e-2; these are values around the defaults.
    """
    if spec.method not in WEIGHTS:
        return {}
    own: Any = spec.build()
    weight = WEIGHTS[spec.method]
    around = {weight: tuple(round(getattr(own, weight) * by, 10) for by in (0.1, 1, 10))} if weight else {}
    return {**around, "lr": (round(own.lr / 10, 10), own.lr)}


def combinations(spec: MethodSpec, grid: Mapping[str, Sequence[Number]]) -> list[MethodSpec]:
    """Return the specification with every combination of values. Raises ValueError for invalid values."""
    tried = product(*grid.values())
    updates = [{**spec.parameters, **dict(zip(grid, values, strict=True))} for values in tried]
    return [MethodSpec.model_validate({**spec.model_dump(), "parameters": update}) for update in updates]


def choose(specs: Sequence[MethodSpec], score: Callable[[MethodSpec], float]) -> MethodSpec:
    """Return the specification with the highest score, the first among equals.

    Candidates that raise ValueError are skipped. Raises ValueError if all of them do.
    """
    best, most, failures = None, -np.inf, []
    for spec in specs:
        try:
            found = score(spec)
        except ValueError as error:  # for example, the learning rate is too large
            logger.warning("cross-validation of %s: %s", spec.parameters, error)
            failures.append(str(error))
            continue
        logger.info("cross-validation of %s %s: map %.4f", spec.method, spec.parameters, found)
        if found > most:
            best, most = spec, found
    if best is None:
        raise ValueError(f"none of {len(specs)} candidates could be fitted; the first failed with: {failures[0]}")
    return best


def fold_queries(shards: Sequence[Shard]) -> Batch:
    """Return the queries of a fold: its FOLD_QUERIES rows with the smallest hashes, or all if there are fewer."""
    parts = [batch for shard in shards for batch in shard if len(batch.ids)]
    if not parts:
        raise ValueError("expected training rows in every fold, found a fold without any: lower folds")
    rows = concatenated(parts)
    return rows.take(np.argsort(keyed_hash(rows.ids, 0), kind="stable")[:FOLD_QUERIES])
