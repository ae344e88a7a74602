"""The examples of a report: queries and the rows near them, as pictures or texts where the data are, else by name."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hashing.mapreduce import Array
from storage import datasets
from storage.features import keys, previews
from storage.tables.parts import Part

from ..context import Context
from ..records import Example


class Seen(NamedTuple):
    """What people see of rows, by id."""

    names: Mapping[int, str]  # keys
    previews: Mapping[int, str]  # pictures as data URLs, or texts


def seen(context: Context, examples: Sequence[Example], parts: Iterable[Part]) -> Seen:
    """Return the keys and the previews of the rows in examples. Rows that can no longer be read have none."""
    dataset = context.dataset
    asked, near = _ids(example.id for example in examples), _ids(n.id for e in examples for n in e.neighbours)
    names: dict[int, str] = {}
    known = np.union1d(asked[asked < datasets.QUERY], near)
    if dataset.keys and len(known):
        names = dict(zip(known.tolist(), map(str, keys.keys_of(dataset.keys, known).to_pylist()), strict=True))
    shape = datasets.get(dataset.name).picture if dataset.name in datasets.names() else ()
    if dataset.kind == "vector" and not shape:
        return Seen(names, {})
    held = {part.shard for part in parts if ((part.min_id <= known) & (known <= part.max_id)).any()}
    found: dict[int, str] = {}
    with suppress(OSError, ValueError):  # the source may have changed since
        shards = [shard for shard in context.base if shard.name in held]
        shards += dataset.shards("query", allow_unknown=True) if "query" in dataset.splits else []
        read = partial(previews.previews, wanted=np.union1d(asked, near), shape=shape)
        for some in context.executor.map(read, shards, "examples"):
            found |= some
    return Seen(names, found)


def by_kind(examples: Iterable[Example], seen: Seen) -> dict[str, list[dict[str, Any]]]:
    """Return the examples for the template, by their kind."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        rows = [_row(n.id, n.labels, seen) | n.model_dump(include={"distance", "relevant"}) for n in example.neighbours]
        one = _row(example.id, example.labels, seen) | {"precision": example.precision, "rows": rows}
        groups.setdefault(example.kind.capitalize(), []).append(one)
    return groups


def _row(i: int, labels: Sequence[str], seen: Seen) -> dict[str, Any]:
    from markupsafe import Markup

    name, preview = seen.names.get(i, f"{i}"), seen.previews.get(i, "")
    if preview.startswith(previews.DATA_URL):
        shown = Markup('<img src="{}" alt="{}">').format(preview, f"row {name}")
    else:
        shown = Markup('<p class="text">{}</p>').format(preview) if preview else Markup()
    return {"name": name, "labels": ", ".join(labels), "shown": shown}


def _ids(ids: Iterable[int]) -> Array:
    return np.unique(np.fromiter(ids, np.int64))
