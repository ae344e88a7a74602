"""Verify versions: check every part against the table, and optionally against the source and the model."""

import hashlib
from collections.abc import Iterable
from functools import partial

from prefect import flow

from hashing.functions import HashFunction, Precision
from hashing.mapreduce import Executor
from infra.executors import Progress, connect, silent
from infra.settings import Settings
from storage.features.shard import FeatureShard
from storage.tables import iceberg, integrity
from storage.tables.parts import Part
from storage.tables.shared_ids import check_shared_ids
from storage.tables.table import CodeTable, Version, table_names

from ..checks import check_resources
from ..context import open_table
from ..encoding import encoding_function
from ..ingested import dataset_of, keys_of_version
from ..scheduled import log_of_run, run_name
from ..spec import Spec, Value


class Unsound(RuntimeError):
    """A part does not match the table."""


class Verified(Value):
    """The result of a verification."""

    table: str
    version: str
    parts: int
    rows: int
    rechecked: int  # parts that were encoded again
    bits: int  # compared bits of these parts
    near: int  # differing bits whose value lies within rounding of their threshold: machines may differ there
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def verify(
    table: str,
    version: str = "main",
    deep: bool = False,
    sample: int | None = None,
    repair: bool = False,
    progress: Progress = silent,
) -> Verified:
    """Check every part of a version, and that no id occurs twice.

    With `deep`, also encode source shards again, all or a random sample of `sample` shards, and compare bits and
    content. With `repair`, replace damaged parts whose source shard still encodes to the same file.
    """
    settings = Settings()
    if deep or repair:
        check_resources(settings, "encode")
    executor = connect(settings, progress)
    opened = open_table(settings, table)
    found = opened.version(version)
    known = {"table": opened.name, "version": found.name, "rechecked": 0, "bits": 0, "near": 0}
    try:
        parts = sorted(opened.parts(found.snapshot_id).values(), key=lambda part: part.shard)
    except (OSError, ValueError) as error:
        problem = f"cannot read the manifests of {found.name}: {error}"
        return Verified(**known, parts=0, rows=0, problems=(problem,), notes=())
    known |= {"parts": len(parts), "rows": sum(part.rows for part in parts)}
    check = partial(integrity.check_part, n_bits=opened.n_bits)
    checks = list(executor.map(check, parts, "verify"))
    if repair and (damaged := [part for part, problems in zip(parts, checks, strict=True) if problems]):
        pairs, _ = _pairs(settings, opened, found, damaged, None)
        encoder, function, _ = _encoder(settings, executor, found)
        restore = partial(integrity.restore_part, function=function, folder=opened.folder)
        list(encoder.map(restore, pairs, "repair"))
        checks = list(executor.map(check, parts, "verify"))
    problems = _flat(checks)
    folder = keys_of_version(found.properties, settings)
    problems += check_shared_ids(parts, parts, executor, skip_damaged=True, keys_folder=folder)
    if not deep or not parts:
        return Verified(**known, problems=tuple(problems), notes=())
    pairs, notes = _pairs(settings, opened, found, parts, sample)
    encoder, function, precision = _encoder(settings, executor, found)
    compare = partial(integrity.compare_with_source, function=function, precision=precision)
    again = list(encoder.map(compare, pairs, "encode again"))
    known |= {"rechecked": len(pairs), "bits": sum(c.bits for c in again), "near": sum(c.near for c in again)}
    return Verified(**known, problems=(*problems, *_flat(c.problems for c in again)), notes=tuple(notes))


def _flat(found: Iterable[list[str]]) -> list[str]:
    return [problem for problems in found for problem in problems]


def _encoder(settings: Settings, executor: Executor, version: Version) -> tuple[Executor, HashFunction, Precision]:
    """Return the executor, the function and the precision that encode the rows of a version again."""
    precision: Precision = "bf16" if version.properties.get("precision") == "bf16" else "float32"
    function = encoding_function(settings, version.properties["model"], precision)
    return executor.with_resources(settings.encode), function, precision


def _pairs(
    settings: Settings, table: CodeTable, version: Version, parts: list[Part], sample: int | None
) -> tuple[list[tuple[Part, FeatureShard]], list[str]]:
    """Return parts, all or a sample, with their source shards; and a note if shards have changed."""
    dataset = dataset_of(Spec.stored(version.properties["spec"]), settings)
    shards = {(shard.name, shard.version): shard for shard in dataset.shards("base", table.vocabulary)}

    def order(part: Part) -> str:
        return hashlib.sha256(f"{version.snapshot_id} {part.shard}".encode()).hexdigest()

    chosen = sorted(parts, key=order)[:sample]
    pairs = [(part, shards[part.shard, part.version]) for part in chosen if (part.shard, part.version) in shards]
    changed = len(chosen) - len(pairs)
    note = f"{changed} of {len(chosen)} source shards have changed or were removed, and were not compared"
    return pairs, [note] if changed else []


@flow(name="verify", flow_run_name=run_name, on_running=[log_of_run])
def verify_flow(table: str | None = None, deep: bool = False, sample: int | None = None) -> list[Verified]:
    """Check every published part of one table or all, on a schedule. Raises Unsound if any is damaged."""
    settings = Settings()
    names = [table] if table else table_names(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url))
    found = [verify(name, deep=deep, sample=sample) for name in names]
    if problems := [problem for one in found for problem in one.problems]:
        raise Unsound(f"found {len(problems)} problems: {'; '.join(problems[:10])}")
    return found
