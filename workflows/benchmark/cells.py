"""Measurement of the cells of a grid on one dataset; each result is cached."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import numpy as np

from hashing.bits import pack
from hashing.evaluation.intervals import bootstrap_interval
from hashing.evaluation.metrics import average_precision
from hashing.functions import HashFunction
from hashing.mapreduce import Batch, Data, Executor, Shard
from hashing.methods import learn, method, scales_rows
from hashing.quantizers.contract import Quantizer
from hashing.source import source
from hashing.statistics import n_rows
from infra.settings import Settings
from storage import warehouse
from storage.features.dataset import Dataset
from storage.files import filesystem

from .. import pretrained
from ..context import Context
from ..evaluation import asymmetric
from ..evaluation.estimates import estimated_values
from ..evaluation.health import code_health
from ..evaluation.judge import Judge, judge_of
from ..evaluation.metrics import metric_values, retrieval_curves
from ..ingested import training_shards
from ..reindex.source import environment, hardware
from ..spec import MethodSpec, Protocol, Spec, digest
from . import protocols
from .grid import Grid, Row

# Relevant neighbours in the bdnn protocol (Do et al., ECCV 2016); 50 for other datasets.
NEIGHBOURS = {"sift1m": 10_000, "photosift": 10_000}
LIBRARIES = ("hashkiln", "numpy", "scipy", "torch")
NO_IDS = np.zeros(0, np.int64)


@dataclass
class Bench:
    """A dataset with the judges and settings that its cells share."""

    name: str  # of the dataset that the user named
    dataset: Dataset  # that dataset, or in protocol dhn a subset sampled from it
    vocabulary: tuple[str | int, ...]
    grid: Grid
    settings: Settings
    executor: Executor
    judges: dict[bool, Judge]  # by whether relevance is by labels

    def row(self, spec: MethodSpec) -> Row:
        """Return the result of a cell, from the cache or measured now. Raises ValueError if it cannot be measured."""
        by_labels = self.grid.by_labels(spec)
        k = NEIGHBOURS.get(self.dataset.name, 50) if self.grid.protocol == "bdnn" else self.grid.neighbours
        labels: Literal["labels", "graded"] = "graded" if self.grid.protocol == "graded" else "labels"
        protocol = Protocol(relevance=labels if by_labels else "neighbours", neighbours=k)
        shards = [(split, s.name, s.version) for split in self.dataset.splits for s in self.dataset.shards(split)]
        options: dict[str, object] = {"asymmetric": True} if self.grid.asymmetric else {}
        options |= {"draw": self.grid.draw.model_dump()} if self.grid.protocol == "dhn" else {}
        tuned = self.grid.tuned(spec)
        if tuned:
            first = spec.model_copy(update={"seed": self.grid.seeds[0]})
            chosen = protocols.choose(protocols.combinations(first, tuned), self._cross_validated)
            spec = chosen.model_copy(update={"seed": spec.seed})
        key = self._key(spec, protocol.model_dump(), self.grid.queries, shards, **options)
        url = warehouse.CELL.url(self.settings.warehouse_url, digest=key)
        if filesystem.exists(url):
            row = Row.model_validate_json(filesystem.read_bytes(url))
        else:
            if by_labels not in self.judges:
                self.judges[by_labels] = self._judge(protocol)
            row = self._measure(spec, self.judges[by_labels])
            filesystem.write_bytes(url, row.model_dump_json().encode())
        here = {"dataset": self.name, "protocol": self.grid.protocol}  # a dataset of the same files shares the cell
        return row.model_copy(update={**here, "tuned": tuned, "row_bytes": spec.row_bytes})

    def _key(self, spec: MethodSpec, *depends_on: object, **options: object) -> str:
        if self.dataset.distance != "euclidean":
            options["metric"] = self.dataset.distance
        if not spec.correctives and scales_rows(spec.build(), self.dataset.distance):
            options["unit_rows"] = True  # other methods than quantizers did not scale rows before
        return digest(
            spec.identity(), source(method(spec.method)), *depends_on, environment(LIBRARIES), *filter(None, [options])
        )

    def _judge(self, protocol: Protocol) -> Judge:
        spec = Spec(dataset=self.dataset.name, protocol=protocol)
        context = Context(spec, self.settings, self.executor, self.dataset)
        return judge_of(context, self.vocabulary, self.grid.queries)

    def _cross_validated(self, spec: MethodSpec) -> float:
        """Return the mean over folds of the map of held-out rows, as queries, in the other training rows."""
        shards = training_shards(self.dataset, NO_IDS, self.vocabulary)
        names = [(shard.name, shard.version) for shard in self.dataset.shards("learn")]
        folds, scores = self.grid.draw.folds, []
        for place in range(folds):
            key = self._key(spec, "cross-validation", names, place, folds)
            url = warehouse.FOLD.url(self.settings.warehouse_url, digest=key)
            if not filesystem.exists(url):
                training, held_out = (
                    [protocols.Fold(shard, place, folds, inside) for shard in shards] for inside in (False, True)
                )
                function = self._fit(spec, training)
                codes = Data(training, self.executor).map_rows(partial(_encode, function=function), "cross-validation")
                judge = Judge(protocols.fold_queries(held_out), False, None, "")
                histogram = judge.histogram(function, list(codes.shards), self.executor)
                score = float(average_precision(histogram).mean())
                filesystem.write_bytes(url, json.dumps({"map": score}).encode())
            scores.append(float(json.loads(filesystem.read_bytes(url))["map"]))
        return sum(scores) / folds

    def _fit(self, spec: MethodSpec, shards: Sequence[Shard]) -> HashFunction:
        start_from = pretrained.stored_parameters(spec.pretrained, self.settings)
        return learn(spec.build(), Data(shards, self.executor, start_from, self.dataset.distance))

    def _measure(self, spec: MethodSpec, judge: Judge) -> Row:
        excluded = judge.queries.ids if judge.drawn else NO_IDS
        training = training_shards(self.dataset, excluded, self.vocabulary if spec.reads_labels else ())
        start, cpu_start = time.monotonic(), time.process_time()
        function = self._fit(spec, training)
        fitted, cpu_seconds = time.monotonic(), time.process_time() - cpu_start
        by_dhn = self.grid.protocol == "dhn"
        shards = self.dataset.shards("base", self.vocabulary if judge.read_classes else ())
        base: list[Shard] = [replace(shard, classes=judge.read_classes) for shard in shards]
        if by_dhn and not self.grid.draw.training_in_database:
            base = protocols.without_training(self.dataset, base)
        codes = Data(base, self.executor).map_rows(partial(_encode, function=function), "encode")
        health = code_health(codes, spec.bits)  # map_rows is lazy: this encodes all rows
        encoded = time.monotonic()
        rows = n_rows(codes)
        histogram = judge.histogram(function, list(codes.shards), self.executor)
        found = metric_values(histogram, judge.k)
        relevant, real = histogram[1].sum(axis=-1), self.grid.asymmetric
        if isinstance(function, Quantizer):
            quantized = Data(base, self.executor).map_rows(partial(_quantize, function=function), "encode")
            metric = self.dataset.distance
            found |= estimated_values(judge, function, metric, relevant, quantized.shards, self.executor, real)
        elif real:
            found |= asymmetric.asymmetric_values(judge, function, relevant, codes.shards, self.executor)
        metrics = {name: float(values.mean()) for name, values in found.items()}
        evaluated = time.monotonic()
        ranks = self.grid.draw.ranks(self.name)
        return Row(
            dataset=self.name,
            method=spec.method,
            bits=spec.bits,
            protocol=self.grid.protocol,
            seed=spec.seed,
            relevance=judge.protocol + (self._ranking(ranks) if by_dhn else ""),
            parameters=spec.parameters,
            pretrained=spec.pretrained,
            rows=rows,
            training_rows=sum(shard.rows for shard in self.dataset.shards("learn"))
            if "learn" in self.dataset.splits
            else rows - len(excluded),
            metrics=metrics | (protocols.dhn_average_precision(histogram, ranks) if by_dhn else {}),
            intervals={name: bootstrap_interval(found[name], 0) for name in found if "recall_reranked" in name},
            curves=retrieval_curves(histogram),
            health=health,
            fit_seconds=fitted - start,
            fit_cpu_seconds=cpu_seconds if self.settings.executor == "inprocess" else None,
            encode_rows_per_second=rows / (encoded - fitted),
            evaluate_seconds=evaluated - encoded,
            effective=spec.hyperparameters,
            hardware=hardware(),
            versions=environment(LIBRARIES),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _ranking(self, ranks: int | None) -> str:
        """Return how map_dhn ranks rows, as text."""
        training = "ranked" if self.grid.draw.training_in_database else "not ranked"
        return f"; map_dhn: of {f'the first {ranks:,}' if ranks else 'all'} ranks; rows learned from are {training}"


def _encode(batch: Batch, function: HashFunction) -> Batch:
    return batch._replace(x=pack(function.encode(batch.x)))


def _quantize(batch: Batch, function: Quantizer) -> Batch:
    return batch._replace(x=function.encode_rows(batch.x))
