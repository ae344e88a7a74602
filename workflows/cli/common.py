"""What commands share: options, the specification they make, progress and output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial, wraps
from inspect import Signature, signature
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..evaluation.registry import GATED

if TYPE_CHECKING:
    from infra.executors import Progress

    from ..spec import Spec

console, errors = Console(), Console(stderr=True)
FAILED, USAGE, REJECTED = 1, 2, 3


class Refit(StrEnum):
    never = "never"
    always = "always"
    drift = "drift"


class Bad(StrEnum):
    refuse = "refuse"
    drop = "drop"


class Relevance(StrEnum):
    auto = "auto"
    labels = "labels"
    neighbours = "neighbours"
    graded = "graded"


class Ties(StrEnum):
    expectation = "expectation"
    by_id = "by-id"


Specify = Callable[..., "Spec"]  # `specification` with the options that were given
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DatasetName = Annotated[str, typer.Option("--dataset", help="A named dataset, or one that was ingested.")]
From = Annotated[str | None, typer.Option("--from", help="Folder or URL of the raw files of a named dataset.")]
MethodName = Annotated[str, typer.Option("--method", help="A name of `hashkiln methods`.")]
Bits = Annotated[int, typer.Option("--bits", help="Length of the codes, 1 to 4096.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all that is random.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A hyper-parameter. Repeatable.")]
Pretrained = Annotated[
    str | None,
    typer.Option("--pretrained", metavar="FILE", help="Parameters a network starts from: safetensors, .pth; or a URL."),
]
Code = Annotated[str | None, typer.Option("--code", help="Name of the codes.  [default: method and bits]")]
RefitPolicy = Annotated[
    Refit,
    typer.Option("--refit", help="Keep the model, fit anew, or fit anew if rows drift."),
]
BadRows = Annotated[Bad, typer.Option("--bad-rows", help="Rows that are no vectors: refuse, or drop and count them.")]
By = Annotated[Relevance, typer.Option("--relevance", help="What is relevant to a query.")]
K = Annotated[int, typer.Option("--neighbours", help="Exact neighbours a query, where they are what is relevant.")]
Floors = Annotated[
    list[str] | None,
    typer.Option(
        "--floor", metavar="METRIC=VALUE", help=f"Least value of a metric. Repeatable. Metrics: {', '.join(GATED)}."
    ),
]
Ceilings = Annotated[
    list[str] | None,
    typer.Option(
        "--ceiling", metavar="METRIC=VALUE", help="Greatest value of a metric: health.constant_bits=0. Repeatable."
    ),
]
Losses = Annotated[
    list[str] | None,
    typer.Option(
        "--max-loss",
        metavar="METRIC=VALUE",
        help="Largest allowed drop in a metric, beyond its confidence interval. Repeatable.",
    ),
]
MaxDrift = Annotated[float, typer.Option("--max-drift", help="Deviations a bit may move before it is drift.")]
Queries = Annotated[int, typer.Option("--queries", help="Queries to draw where the dataset has none of its own.")]


def specification(
    dataset: DatasetName,
    source: From = None,
    method: MethodName = "itq",
    bits: Bits = 32,
    seed: Seed = 0,
    parameters: Set = None,
    pretrained: Pretrained = None,
    code: Code = None,
    refit: RefitPolicy = Refit.never,
    bad_rows: BadRows = Bad.refuse,
    **others: Any,
) -> Spec:
    """Return the Spec of the options that fit, encode and reindex share, and of other fields.

    Wrong values end the command with exit 2 and one line each, and nothing is made. A file of pretrained parameters is
    brought into the warehouse.
    """
    from infra.settings import Settings
    from storage.models import save_pretrained

    from .. import checks
    from .. import pretrained as files
    from ..spec import Spec

    def made(digest: str) -> Spec:
        given = {"method": method, "bits": bits, "seed": seed, "parameters": assigned(parameters), "pretrained": digest}
        about = {"dataset": dataset, "source": source, "code": code, "refit": refit, "bad_rows": bad_rows}
        return Spec(**about, method=given, **others)

    settings = Settings()
    with checked():
        spec = made("0" * 64 if pretrained else "")  # a file is not read where the rest is refused
    checks.check_run(spec, settings)
    if pretrained:
        found = files.read(pretrained)
        checks.check_pretrained(spec.method, checks.schema_of(spec.dataset, settings), found.parameters)
        spec = made(save_pretrained(settings.warehouse_url, found.content))
    return spec


def takes_specification(command: Callable[..., None]) -> Callable[..., None]:
    """Put the options of `specification` before those of a command, whose first parameter is that function with them.

    typer reads options from a signature: this makes the one of both.
    """
    unneeded = {"Spec": Any}  # what is returned, and only imported for type checkers
    options = signature(specification, eval_str=True, locals=unneeded).parameters.values()
    shared = [option for option in options if option.kind != option.VAR_KEYWORD]
    own = list(signature(command, eval_str=True).parameters.values())[1:]

    @wraps(command)
    def run(**given: Any) -> None:
        command(partial(specification, **{option.name: given.pop(option.name) for option in shared}), **given)

    run.__signature__ = Signature([*shared, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in (*shared, *own)}
    return run


def assigned(texts: list[str] | None) -> dict[str, Any]:
    return dict(assignment(text) for text in texts or ())


@contextmanager
def checked() -> Iterator[None]:
    """What pydantic refuses inside ends the command with exit 2 and one line for each wrong value."""
    from pydantic import ValidationError

    from ..spec import problems

    try:
        yield
    except ValidationError as error:
        for problem in problems(error):
            errors.print(f"[red]{escape(problem)}", soft_wrap=True)
        raise typer.Exit(USAGE) from None


def assignment(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"expected NAME=VALUE, found {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from infra.observability import Observer

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        line = bar.add_task("", visible=False)

        def shown(label: str, done: int, total: int) -> None:
            bar.update(line, description=label, completed=done, total=total or None, visible=True)

        yield Observer(shown)


def show(value: Any, as_json: bool, title: str = "") -> None:
    """Rows (dicts) as a table, one dict as two columns, or either as JSON."""
    if as_json:
        print(json.dumps(value, indent=2, default=str))
        return
    rows = value if isinstance(value, list) else [{"": key, title: item} for key, item in value.items()]
    table = Table(title=title if isinstance(value, list) else None, show_header=isinstance(value, list))
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(item)) for item in row.values()))
    console.print(table)
