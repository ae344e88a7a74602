"""Parts that commands share: values of options, progress and output."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .display import Display

if TYPE_CHECKING:
    from infra.executors import Progress


console, errors = Console(), Console(stderr=True)
CUT = 20  # characters of the last column of a listing that are shown if there is room
NARROW = 8  # characters of a line of the first column
FAILED, USAGE, REJECTED, INTERRUPTED = 1, 2, 3, 130
GROUPS = ("method", "protocol", "gate", "draw")  # fields whose own fields are options
OPTIONS = {
    "ceilings": "ceiling", "datasets": "dataset", "exports": "export", "floors": "floor", "parameters": "set",
    "source": "from",
}  # fmt: skip  # of fields with another name than their option


class LogLines(logging.Handler):
    """Print log records on stderr, above the display if there is one, except those that it shows."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown", False):
            return
        errors.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def assigned(texts: list[str] | None) -> dict[str, Any]:
    """Return the values of repeated NAME=VALUE options by name."""
    values: dict[str, Any] = {}
    for name, value in map(assignment, texts or ()):
        if name in values:
            raise typer.BadParameter(f"{name} is set twice: to {values[name]} and to {value}")
        values[name] = value
    return values


@contextmanager
def checked() -> Iterator[None]:
    """Raise UsageError for validation errors of the block, with one line per invalid value."""
    from pydantic import ValidationError

    from ..checks import UsageError
    from ..spec import problems

    try:
        yield
    except ValidationError as error:
        raise UsageError("\n".join(problems(error, _option))) from None


def _option(place: list[str]) -> str:
    """Return the option that sets a field, from its path; empty for a group of fields, which are several options."""
    if not (names := place[place[0] in GROUPS :] if place else []):
        return ""
    return " ".join(["--" + OPTIONS.get(names[0], names[0]).replace("_", "-"), *names[1:]])


def known_dataset(name: str) -> str:
    """Return the name of the dataset that is meant: case, hyphens and underscores do not matter."""
    from infra.settings import Settings

    from ..checks import dataset_name

    return dataset_name(name, Settings())


def assignment(text: str) -> tuple[str, Any]:
    """Return name and value of NAME=VALUE; the value is parsed as JSON if it is JSON, else it is a string."""
    name, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"expected NAME=VALUE, found {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield an observer of progress, and show it if the output is a terminal."""
    from infra.observability import Observer, silent

    if not errors.is_terminal:
        yield Observer(silent)
        return
    with Display(errors) as display:
        yield Observer(display.progress)


def show(value: Any, as_json: bool, title: str = "", one_line: bool = False) -> None:
    """Print rows (dicts) as a table, or one dict as two columns, or any value as JSON.

    With `one_line`, each row takes one line: its last column is cut where the terminal ends. If there is no room for
    the other columns, the first one goes on below, then all of them; nothing else is cut.
    """
    if as_json:
        print(json.dumps(value, indent=2, default=str))
        return
    rows = value if isinstance(value, list) else [{"name": key, "value": item} for key, item in value.items()]
    listed = isinstance(value, list)
    box, padding = (None, (0, 2, 0, 0)) if one_line else (HEAVY_HEAD, (0, 1))
    table = Table(title=title if listed else None, show_header=listed, expand=one_line, box=box, padding=padding)
    names = list(rows[0]) if rows else []
    widths = [max(len(name), *(len(str(row[name])) for row in rows)) for name in names]
    least = min(widths[-1], CUT) if names else 0
    unbroken = sum(widths[1:-1]) + least + 2 * len(names) + NARROW <= console.width  # beside the first column
    for place, name in enumerate(names):
        if one_line and place == len(names) - 1:
            table.add_column(name, no_wrap=True, ratio=1, width=least)
        else:
            whole = (place > 0 and unbroken) if one_line else (place == 0 and listed)
            table.add_column(name, overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(escape(str(item)) for item in row.values()))
    console.print(table)
