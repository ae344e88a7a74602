"""Encode the shards that the table lacks, on a branch."""

import logging
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from hashing.mapreduce import Array, Executor
from hashing.names import counted
from infra import telemetry
from storage.features import deletions
from storage.features.shard import FeatureShard, SourceChanged
from storage.tables import iceberg, integrity
from storage.tables.parts import Part, dropped_rows, read_ids
from storage.tables.shared_ids import check_shared_ids
from storage.tables.table import CodeTable, create_table, future_folder

from ..context import Context
from ..encoding import encode_part, encoding_function
from ..records import Drift, Model, Staged
from ..tables import drift
from .planning import branch_of, head_of, plan_parts, reusable_parts, same_encoding
from .source import fingerprint, splits, vocabulary_of

logger = logging.getLogger(__name__)


def stage(context: Context, model: Model, after: str = "") -> Staged:
    """Encode the shards that the table lacks, and commit them to a branch while encoding goes on.

    The plan is the set of source shards (name, version) that the branch lacks under this model. A rerun with the same
    plan continues on the same branch. Undamaged parts of the same model in other versions are reused. If the source
    changes during encoding, staging plans once more; this second attempt starts from the branch `after`.
    """
    start = time.monotonic()
    spec, dataset, executor = context.spec, context.dataset, context.executor
    try:
        table, shards, first, devices, first_seconds = _opened(context, model)
    except SourceChanged as error:
        if after:
            raise
        logger.warning("the source changed during the run; planning once more: %s", error)
        return stage(context, model, "main")
    base = table.version()
    source = fingerprint(shards.values())
    branch = branch_of(table, base, model.digest, spec.precision, source, dataset.deleted)
    known = {
        "table": table.name, "branch": branch, "base": base.name, "base_snapshot": base.snapshot_id, "model": model,
        "source": source,
    }  # fmt: skip
    published = table.parts(base.snapshot_id)
    same = same_encoding(base, model.digest, spec.precision)
    behind = plan_parts(published, shards, same)
    telemetry.record("behind_shards", len(behind.missing), table=table.name)
    if same and behind.empty:
        rows = sum(part.rows for part in published.values())
        return Staged(**known, unchanged=True, rows=rows, encoded=0, removed=0, seconds=time.monotonic() - start)
    table.stage(branch, table.version(after or head_of(table, branch)).snapshot_id)
    head = table.version(branch)
    present = table.parts(head.snapshot_id)
    todo = plan_parts(present, shards, same_encoding(head, model.digest, spec.precision))
    found = reusable_parts(table, head, model.digest, spec.precision, [shards[name] for name in todo.missing])
    found = _usable(found, executor, table.n_bits, deletions.deleted_ids(dataset.deleted)) | first
    missing = [shards[name] for name in todo.missing if name not in found]
    removed = present.keys() - set(todo.kept)
    if todo.kept or found.keys() - first.keys():  # parts of earlier runs
        versions = [head, *table.versions()]
        devices |= {
            v.properties.get("device", "cpu") for v in versions if same_encoding(v, model.digest, spec.precision)
        }
    properties = {
        "model": model.digest, "fit": model.fit, "source": source, "splits": splits(dataset),
        "spec": spec.model_dump_json(), "defaults_version": str(spec.method.defaults_version),
        "precision": spec.precision, "device": _names(devices),
    }  # fmt: skip
    table.replace(branch, list(found.values()), removed, properties)
    logger.info(
        "%s: %s, %d to encode, %d to remove",
        branch,
        counted(len(shards), "shard"),
        len(missing) + len(first),
        len(removed),
    )
    encoding = time.monotonic()
    try:
        encoded = _encode(context, table, branch, missing, model, properties)
    except SourceChanged as error:
        if after:
            raise
        logger.warning("the source changed during the run; planning once more: %s", error)
        return stage(context, model, branch)
    encoded += sum(part.rows for part in first.values())
    encode_seconds = time.monotonic() - encoding + first_seconds
    parts = table.parts(table.version(branch).snapshot_id)
    fresh = [part for name, part in parts.items() if published.get(name) != part]
    if problems := check_shared_ids(parts.values(), fresh, executor, keys_folder=dataset.keys):
        raise ValueError(problems[0])
    return Staged(
        **known,
        rows=sum(part.rows for part in parts.values()),
        encoded=encoded,
        removed=len(removed),
        dropped=sum(dropped_rows(parts.values()).values()),
        seconds=time.monotonic() - start,
        encode_seconds=encode_seconds,
        drift=_drift(context, model, fresh if same else list(parts.values()), same),
    )


class Opened(NamedTuple):
    """The code table and the source shards of a run."""

    table: CodeTable
    shards: dict[str, FeatureShard]  # by name
    first: dict[str, Part]  # encoded before the table was created
    devices: set[str]  # devices that encoded it
    seconds: float  # time to encode it


def _opened(context: Context, model: Model) -> Opened:
    """Open the code table, or create it once its first shard is encoded: a run that fails leaves no empty table."""
    catalog = iceberg.open_catalog(context.settings.catalog_url, context.warehouse)
    name, n_bits, correctives = context.table_name, context.spec.method.bits, context.spec.method.correctives
    known = context.known_table()
    shards = context.list_base()
    vocabulary = vocabulary_of(context.dataset, known, context.executor, shards)
    encoding = time.monotonic()
    folder = None if known else future_folder(catalog, name, n_bits, correctives)
    encoded = list(_encoded(context, model, [replace(shards[0], vocabulary=vocabulary)], folder)) if folder else []
    first = {part.shard: part for part, _ in encoded}
    seconds = time.monotonic() - encoding
    table = create_table(catalog, name, n_bits, folder, correctives)
    if vocabulary and table.add_labels(vocabulary)[: len(vocabulary)] != vocabulary:
        first = {}  # another run has created the table meanwhile, with its labels in another order
    shards = [replace(shard, vocabulary=table.vocabulary) for shard in shards]
    return Opened(table, {shard.name: shard for shard in shards}, first, {device for _, device in encoded}, seconds)


def _usable(found: dict[str, Part], executor: Executor, n_bits: int, deleted: Array) -> dict[str, Part]:
    """Return the parts that are undamaged and hold no deleted row."""
    if not found:
        return {}
    checked = executor.map(partial(_is_usable, n_bits=n_bits, deleted=deleted), list(found.values()), "take over")
    return {name: part for (name, part), usable in zip(found.items(), checked, strict=True) if usable}


def _is_usable(part: Part, n_bits: int, deleted: Array) -> bool:
    return not integrity.check_part(part, n_bits) and not np.isin(read_ids(part.url), deleted).any()


def _drift(context: Context, model: Model, fresh: list[Part], used_before: bool) -> Drift | None:
    """Return the drift of new rows from those that the model encoded first; None if either has no moments."""
    new = drift.moments_of_parts(fresh)
    first = drift.first_moments(context.warehouse, model.digest)
    if new is None:
        return None
    if first is None and not used_before:
        drift.store_first_moments(context.warehouse, model.digest, new)
    return drift.between(first, new, context.spec.max_drift) if first is not None and used_before else None


def _encode(
    context: Context,
    table: CodeTable,
    branch: str,
    missing: list[FeatureShard],
    model: Model,
    properties: dict[str, str],
) -> int:
    """Encode shards, commit them in groups, and return the number of encoded rows."""
    pending: list[Part] = []
    devices = {properties["device"]}
    rows, committed = 0, time.monotonic()
    try:
        for part, device in _encoded(context, model, missing, table.folder):
            pending.append(part)
            devices.add(device)
            rows += part.rows
            waited = time.monotonic() - committed
            if len(pending) >= context.settings.commit_shards or waited >= context.settings.commit_seconds:
                table.replace(branch, pending, set(), properties | {"device": _names(devices)})
                pending, committed = [], time.monotonic()
    finally:  # commit finished parts even if a later shard fails
        if pending:
            table.replace(branch, pending, set(), properties | {"device": _names(devices)})
    return rows


def _encoded(context: Context, model: Model, shards: list[FeatureShard], folder: str) -> Generator[tuple[Part, str]]:
    """Yield the part of each shard, and the device that encoded it."""
    settings, noted = context.settings, ""
    function = encoding_function(settings, model.digest, context.spec.precision)
    executor = context.executor.with_resources(settings.encode)
    for part, device, note in executor.map(partial(encode_part, function=function, folder=folder), shards, "encode"):
        if note and not noted:
            logger.warning("%s", note)
            noted = note
        yield part, device


def _names(devices: set[str]) -> str:
    """Return the distinct names of devices as one text. A value of `devices` may hold several names."""
    return ", ".join(sorted({name for names in devices for name in names.split(", ") if name}))
