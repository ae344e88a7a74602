"""The command `benchmark`: a grid of datasets, methods and code lengths."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .common import FAILED, From, Pretrained, assignment, checked, console, errors, progress

if TYPE_CHECKING:
    from ..benchmark.grid import Grid, GridOutcome

app = typer.Typer()


class ProtocolName(StrEnum):
    bdnn = "bdnn"
    labels = "labels"
    graded = "graded"
    neighbours = "neighbours"
    dhn = "dhn"


@app.command()
def benchmark(
    dataset: Annotated[str, typer.Option(help="Datasets, between commas.")],
    methods: Annotated[str, typer.Option(help="Names of `hashkiln methods`, between commas, or all.")],
    bits: Annotated[str, typer.Option(help="Lengths of codes, between commas.")] = "8,16,24,32",
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.")] = 1,
    protocol: Annotated[ProtocolName, typer.Option(help="What is relevant to a query.")] = ProtocolName.bdnn,
    queries: Annotated[int | None, typer.Option(help="Only the first so many queries.")] = None,
    source: From = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.NAME=VALUE", help="A hyper-parameter. Repeatable.")
    ] = None,
    pretrained: Pretrained = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD.NAME=V,V,…",
            help="dhn: choose a hyper-parameter by cross-validation. Repeatable; none: choose nothing.  [default: the "
            "weight and lr of the methods that have one]",
        ),
    ] = None,
    class_queries: Annotated[int, typer.Option(help="dhn: rows of each class that ask.")] = 100,
    class_training: Annotated[int, typer.Option(help="dhn: rows of each class to learn from.")] = 500,
    without_training: Annotated[
        bool, typer.Option("--without-training", help="dhn: do not rank the rows that are learned from.")
    ] = False,
    cutoff: Annotated[
        int | None, typer.Option(help="dhn: ranks that MAP counts.  [default: 5,000 of nus-wide and coco, else all]")
    ] = None,
    folds: Annotated[int, typer.Option(help="dhn: of cross-validation.")] = 3,
    json_file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the rows as JSON.")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write rows.json, rows.parquet, tables.md and plots.html.")
    ] = None,
) -> None:
    """Measure methods beside their published figures. What was measured before is not measured again.

    bdnn: precision at radius 2 as in Do et al., ECCV 2016: 50 nearest neighbours (10,000 of SIFT1M's size), labels
    for supervised methods. labels: rows that share a label. neighbours: the 100 nearest. dhn: MAP as in Zhu et al.,
    AAAI 2016: so many queries and training rows are drawn of each class, and weights chosen by cross-validation.

    Examples: `hashkiln benchmark --dataset mnist --methods itq,sh --bits 8,16,24,32 --seeds 3 --json rows.json`,
    `hashkiln benchmark --dataset cifar-10 --methods dhn,ksh --bits 12,24,32,48 --protocol dhn
    --set dhn.network=alexnet --set dhn.hash_rate=10 --pretrained alexnet.pth --tune dhn.quantization=0.01,0.1,1`
    """
    from ..embedded import prefect_home

    prefect_home()
    from ..benchmark.flow import benchmark as run
    from ..benchmark.grid import Grid

    own: dict[str, dict[str, object]] = {}
    for text in parameters or ():
        name, value = assignment(text)
        method, _, parameter = name.partition(".")
        own.setdefault(method, {})[parameter] = value
    draw = {
        "class_queries": class_queries, "class_training": class_training, "cutoff": cutoff, "folds": folds,
        "training_in_database": not without_training,
    }  # fmt: skip
    with checked():
        grid = Grid.model_validate(
            {
                "datasets": _names(dataset), "methods": _names(methods), "bits": _names(bits),
                "seeds": range(seeds), "protocol": protocol, "queries": queries, "source": source, "parameters": own,
                "draw": draw, "tune": _tuning(tune),
            }
        )  # fmt: skip
    if pretrained:
        grid = _with_pretrained(grid, pretrained)
    with progress() as report:
        outcome = run(grid, report)
    _write(outcome, json_file, out)
    for cell, why in outcome.failed.items():
        errors.print(f"[red]{escape(f'{cell}: {why}')}")
    if outcome.failed:
        raise typer.Exit(FAILED)


def _with_pretrained(grid: Grid, file: str) -> Grid:
    """The grid with the parameters of a file, which are brought into the warehouse if all cells can take them."""
    from infra.settings import Settings
    from storage.models import save_pretrained

    from ..benchmark.flow import check_cells
    from ..pretrained import read

    settings = Settings()
    check_cells(grid, settings)
    found = read(file)
    grid = grid.model_copy(update={"pretrained": found.digest})
    check_cells(grid, settings, found.parameters)
    save_pretrained(settings.warehouse_url, found.content)
    return grid


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _tuning(texts: list[str] | None) -> dict[str, dict[str, list[object]]] | None:
    """method -> hyper-parameter -> values; nothing where none was asked for."""
    if not texts:
        return None
    found: dict[str, dict[str, list[object]]] = {}
    for text in texts if texts != ["none"] else ():
        place, _, values = text.partition("=")
        method, dot, name = place.partition(".")
        if not (dot and name and values):
            raise typer.BadParameter(f"expected METHOD.NAME=VALUE,VALUE,… or none, found {text!r}")
        found.setdefault(method, {})[name] = [assignment(f"{name}={value}")[1] for value in values.split(",")]
    return found


def _write(outcome: GridOutcome, json_file: str | None, out: str | None) -> None:
    """To files, or the tables to the terminal."""
    import json

    from storage import results
    from storage.files import filesystem

    from ..reports.benchmark import grid_markdown, grid_page

    rows = [row.model_dump(mode="json") for row in outcome.rows]
    content = ("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n").encode()  # a row a line
    if json_file:
        filesystem.write_bytes(json_file, content)
    if not outcome.rows:
        return
    if not out:
        return console.print(grid_markdown(outcome.rows), markup=False, soft_wrap=True)
    files: dict[str, Callable[[], bytes]] = {
        "rows.json": lambda: content,
        "rows.parquet": lambda: results.to_parquet(rows),
        "tables.md": lambda: grid_markdown(outcome.rows).encode(),
        "plots.html": lambda: grid_page(outcome.rows).encode(),
    }
    for name, make in files.items():
        filesystem.write_bytes(filesystem.join(out, name), make())
    console.print(f"Wrote {', '.join(files)} to {out}", soft_wrap=True)
