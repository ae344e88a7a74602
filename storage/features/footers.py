"""What the footers of the Parquet files of a split say about rows that were not read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ..files import parquet
from . import columns, rows
from .rows import Columns

EXACT = 64  # length of strings and bytes from which writers may shorten the statistics


class Footer(NamedTuple):
    """The footer of a file."""

    rows: int
    schema: Any
    numbers: int | None  # in all vectors, where an empty or missing one counts as one; None: the footer does not say
    least: Any = None  # the smallest id or key, or the first one of another form; None: the footer does not say
    greatest: Any = None
    missing: int = 0  # ids or keys that are null


def read_footer(url: str, names: Columns) -> Footer:
    """Return the footer of a file. Raises ValueError if its metadata have other rows."""
    if names.metadata:
        rows.check_metadata_rows(url, names)
    if rows.form(url) != ".parquet":
        count, schema = rows.count_rows(url), rows.schema(url, names)
        has_ids = not names.numbered and count and parquet.field_of(schema, names.id)
        parts = rows.read_batches(url, [names.id], names, 1) if has_ids else iter(())
        return Footer(count, schema, None, next((part[0][0].as_py() for part in parts if len(part)), None))
    file = parquet.open_parquet(url)
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    lists = [
        i for i, leaf in enumerate(leaves) if leaf.path.startswith(f"{names.x}.") and leaf.max_repetition_level == 1
    ]
    numbers = sum(group.column(lists[0]).num_values for group in groups) if len(lists) == 1 else None
    ids = [i for i, leaf in enumerate(leaves) if leaf.path == names.id]
    least, greatest, missing = None, None, 0
    if len(ids) == 1:
        found = [group.column(ids[0]).statistics for group in groups if group.num_rows]
        missing = sum(statistics.null_count or 0 for statistics in found if statistics)
        if all(statistics and statistics.has_min_max for statistics in found):
            with suppress(UnicodeDecodeError):  # of keys that are refused when they are read
                least = min((statistics.min for statistics in found), default=None)
                greatest = max((statistics.max for statistics in found), default=None)
    return Footer(file.metadata.num_rows, file.schema_arrow, numbers, least, greatest, missing)


def check_ids(footers: Mapping[str, Footer], names: Columns) -> None:
    """Raise ValueError for a file, by URL, with null or integers beyond int64 as ids or keys.

    Also if two files have the same smallest id or key: it occurs in both.
    """
    first: dict[Any, str] = {}
    what = "key" if names.keyed else "id"
    for url, footer in footers.items():
        if footer.missing:
            raise ValueError(f"expected {'a key' if names.keyed else 'an id'} in every row, found null, in {url}")
        if not names.keyed and isinstance(footer.greatest, int) and footer.greatest >= 2**63:
            raise ValueError(f"expected ids of int64, found {footer.greatest}, in {url}{columns.KEYS}")
        if footer.least is None or (isinstance(footer.least, str | bytes) and len(footer.least) >= EXACT):
            continue
        if (other := first.setdefault(footer.least, url)) != url:
            raise ValueError(f"expected distinct {what}s, found {footer.least!r} in {other} and in {url}")
