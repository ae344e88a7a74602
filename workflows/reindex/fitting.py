"""Fit the model of a specification, or reuse an earlier fit."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hashing.mapreduce import Array, Data, Resources
from hashing.methods import METHODS, learn, method, scales_rows
from hashing.neighbours.exact import MEASURED
from hashing.source import source
from storage import models, queries
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard
from storage.tables.table import CodeTable

from .. import pretrained
from ..checks import UsageError, check_method, check_training, schema_of
from ..context import Context
from ..evaluation import judge
from ..ingested import labels_of, training_shards
from ..records import Model, Staged
from ..spec import Spec, digest
from .source import environment, fingerprint, vocabulary_of

logger = logging.getLogger(__name__)


def fit(context: Context, because: str = "") -> Model:
    """Return the model of the specification: the published one, that of an earlier fit, or a new one.

    `because` is a reason, such as drift, to replace the published model.
    """
    spec, dataset, warehouse = context.spec, context.dataset, context.warehouse
    model, _ = reusable_model(context)
    if model is None or because or spec.refit == "drift":  # may train
        check_training(spec.method, context.executor)
    published, reason = _published_model(context, because)
    if published:
        return published
    excluded = np.zeros(0, np.int64)
    base = dataset.shards("base")
    if dataset.columns.keyed:
        vocabulary_of(dataset, context.known_table(), context.executor, base)  # assigns ids to keys
    if _draws(dataset):
        excluded = judge.draw_queries(context, base).ids
    listed = base if _split(dataset) == "base" else dataset.shards("learn")
    identity, key = _identity(spec), _key(spec, dataset, listed, excluded)
    if known := models.recorded_fit(warehouse, key):
        logger.info("reusing model %.12s, fitted earlier on the same rows", known)
        models.record_fit(warehouse, key, known)  # renews its age, so that gc keeps it
        return Model(digest=known, fit=identity, seconds=0, reason=reason)
    vocabulary = labels_of(dataset, context.executor) if spec.method.reads_labels else ()
    check_method(spec.method, schema_of(dataset.name, context.settings), len(vocabulary))
    start = time.monotonic()
    shards = training_shards(dataset, excluded, vocabulary, listed)
    start_from = pretrained.stored_parameters(spec.method.pretrained, context.settings)
    task = replace(context.settings.fit or Resources(), gpus=0)  # only training takes GPUs
    executor = context.executor.with_resources(task)
    function = learn(spec.method.build(), Data(shards, executor, start_from, dataset.distance))
    name = models.save_model(warehouse, function)
    if _key(spec, dataset, dataset.shards(_split(dataset)), excluded) == key:  # no file changed while it was read
        models.record_fit(warehouse, key, name)
    rows = sum(shard.rows for shard in listed) - len(excluded)
    return Model(digest=name, fit=identity, seconds=time.monotonic() - start, rows=rows, reason=reason)


def refit_reason(spec: Spec, staged: Staged) -> str:
    """Return why the model should be fitted again, or an empty string."""
    return f"drift: {staged.drift}" if spec.refit == "drift" and staged.drift and staged.drift.shows else ""


def reusable_model(context: Context) -> tuple[Model | None, str]:
    """Return the model that `fit` would reuse, or None, and the reason. Writes nothing."""
    spec, dataset, warehouse = context.spec, context.dataset, context.warehouse
    check_method(spec.method, schema_of(dataset.name, context.settings))
    published, reason = _published_model(context)
    if published:
        return published, reason
    excluded = np.zeros(0, np.int64)
    if _draws(dataset):
        frozen = queries.load_queries(warehouse, dataset.name)
        if frozen is None or spec.protocol.new_queries:
            return None, reason
        excluded = frozen.ids
    if known := models.recorded_fit(warehouse, _key(spec, dataset, dataset.shards(_split(dataset)), excluded)):
        return Model(digest=known, fit=_identity(spec), seconds=0), f"{reason}; fitted earlier on the same rows"
    return None, reason


def _published_model(context: Context, because: str = "") -> tuple[Model | None, str]:
    """Return the published model, or None if a new one is needed, and the reason.

    Raises UsageError if the published model has another specification or metric and the policy is not to refit.
    """
    spec, table = context.spec, context.known_table()
    published = table.version() if table else None
    if not table or not published or "fit" not in published.properties:
        _check_correctives(spec, table)
        return None, "nothing is published yet"
    if because or spec.refit != "never":  # may need a new model
        _check_correctives(spec, table)
    if because or spec.refit == "always":
        return None, because or "--refit always"
    properties, identity = published.properties, _identity(spec)
    stored, fitted_by = Spec.stored(properties["spec"]), int(properties.get("defaults_version", 1))
    if _identity(stored, fitted_by) != identity:
        found = "another method or other hyper-parameters"
        if _identity(stored, spec.method.defaults_version) == identity:
            found = f"new defaults of {spec.method.method} in this release of hashkiln"
        raise UsageError(
            f"table {table.name} has a model fitted as {json.dumps(stored.method.identity(fitted_by))} on "
            f"{stored.dataset}, but this run has {found}: pass --refit always to fit a new model, or --code NAME to "
            "use another table"
        )
    remark = _other_metric(context, properties["model"])
    reason = f"reuses the model of {published.name}" + (f", {remark}" if remark else "")
    return Model(digest=properties["model"], fit=identity, seconds=0, reason=reason, remark=remark), reason


def _other_metric(context: Context, model: str) -> str:
    """Return a remark on a published model that hashes rows as they are, although they are compared by cosine.

    Raises UsageError for a model of another metric: the dataset was ingested again with another --metric.
    """
    method, distance = context.spec.method, context.dataset.distance
    metric = models.metric_of(context.warehouse, model)
    if metric and metric != distance:
        raise UsageError(
            f"the model is for the {MEASURED[metric]} distance, but rows are now compared by the {MEASURED[distance]} "
            "distance: fit a model by `reindex --refit always`"
        )
    if metric or method.correctives or not scales_rows(method.build(), distance):
        return ""
    return "which does not scale rows to length one, as a model for cosine now does: --refit always fits a new one"


def _check_correctives(spec: Spec, table: CodeTable | None) -> None:
    """Raise UsageError if the codes of a new model do not fit into the table."""
    if table and table.correctives != spec.method.correctives:
        raise UsageError(
            f"table {table.name} has correctives in float32, as of hashkiln 0.2, and a new model makes float16: choose "
            "another --code" + (", or --refit never" if spec.refit != "never" else "")
        )


def _identity(spec: Spec, defaults_version: int | None = None) -> str:
    return digest(spec.method.identity(defaults_version), spec.dataset)


def _split(dataset: Dataset) -> str:
    """Return the name of the training split."""
    return "learn" if "learn" in dataset.splits else "base"


def _draws(dataset: Dataset) -> bool:
    """Return whether queries are sampled from the training rows, and so excluded from training."""
    return _split(dataset) == "base" and "query" not in dataset.splits


def _key(spec: Spec, dataset: Dataset, shards: Sequence[FeatureShard], excluded: Array) -> str:
    """Return the digest of everything that a fit on the shards of the training split depends on."""
    split, name = _split(dataset), spec.method.method
    code = [] if name in METHODS else [source(method(name))]  # built-in methods are covered by the version of hashkiln
    if spec.method.correctives or scales_rows(spec.method.build(), dataset.distance):
        code.append(dataset.distance)
    return digest(_identity(spec), split, excluded.tolist(), fingerprint(shards), environment(), *code)
