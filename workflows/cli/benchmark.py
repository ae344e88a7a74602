"""The command `benchmark`: a grid of datasets, methods and code lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import complete
from .common import assigned, assignment, checked, console, known_dataset, progress
from .options import From, Pretrained

if TYPE_CHECKING:
    from ..benchmark.grid import Grid, GridOutcome

app = typer.Typer()


@app.command()
def benchmark(
    dataset: Annotated[str, typer.Option(help="Datasets, separated by commas.", autocompletion=complete.datasets)],
    methods: Annotated[
        str,
        typer.Option(
            help="Methods listed by `hashkiln methods`, separated by commas, or all.", autocompletion=complete.methods
        ),
    ],
    bits: Annotated[str, typer.Option(help="Code lengths in bits, separated by commas.")] = "8,16,24,32",
    seeds: Annotated[int, typer.Option(min=1, help="Number of random seeds: 0, 1, …")] = 1,
    protocol: Annotated[
        Literal["bdnn", "labels", "graded", "neighbours", "dhn"],
        typer.Option(help="Evaluation protocol, described above."),
    ] = "bdnn",
    queries: Annotated[
        int | None, typer.Option(help="Use only the first N queries.  [default: all]", metavar="N")
    ] = None,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Also rank the codes by real-valued queries: map_asymmetric.")
    ] = False,
    source: From = None,
    parameters: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.NAME=VALUE", help="Set a hyper-parameter. Repeatable.")
    ] = None,
    pretrained: Pretrained = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD.NAME=V,V,…",
            help="dhn: values of a hyper-parameter that cross-validation chooses from. Repeatable; none: off.  "
            "[default: the loss weight and lr of each method that has them]",
        ),
    ] = None,
    class_queries: Annotated[int, typer.Option(help="dhn: query rows per class.")] = 100,
    class_training: Annotated[int, typer.Option(help="dhn: training rows per class.")] = 500,
    without_training: Annotated[
        bool, typer.Option("--without-training", help="dhn: leave the training rows out of the database.")
    ] = False,
    cutoff: Annotated[
        int | None,
        typer.Option(help="dhn: number of ranks in MAP.  [default: 5,000 for nus-wide and coco, else all ranks]"),
    ] = None,
    folds: Annotated[int, typer.Option(help="dhn: number of cross-validation folds.")] = 3,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the results to a JSON file.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Write rows.json, rows.parquet, tables.md and plots.html to a folder."),
    ] = None,
    figures: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write each figure as SVG, PDF and CSV to a folder.")
    ] = None,
) -> None:
    """Measure methods and compare them with their published figures. Earlier results are reused.

    The protocol defines which rows are relevant to a query. bdnn: the 50 nearest neighbours (10,000 for sift1m and
    photosift), or rows that share a label for supervised methods, as in Do et al., ECCV 2016. labels: rows that share a
    label. graded: the same, with NDCG by the number of shared labels. neighbours: the 100 nearest rows. dhn: MAP as in
    Zhu et al., AAAI 2016, with a fixed number of query and training rows per class, and loss weights chosen by
    cross-validation.

    Examples: `hashkiln benchmark --dataset mnist --methods itq,sh --bits 8,16,24,32 --seeds 3 --json rows.json`,
    `hashkiln benchmark --dataset cifar-10 --methods dhn,ksh --bits 12,24,32,48 --protocol dhn
    --set dhn.network=alexnet --set dhn.hash_rate=10 --pretrained alexnet.pth --tune dhn.quantization=0.01,0.1,1`
    """
    from hashing.names import plain_name
    from storage.files.filesystem import join

    from ..benchmark.grid import Grid
    from ..checks import check_outputs
    from ..embedded import prefect_home

    own: dict[str, dict[str, object]] = {}
    for name, value in assigned(parameters).items():
        method, _, parameter = name.partition(".")
        own.setdefault(plain_name(method), {})[parameter] = value
    draw = {
        "class_queries": class_queries, "class_training": class_training, "cutoff": cutoff, "folds": folds,
        "training_in_database": not without_training,
    }  # fmt: skip
    with checked():
        grid = Grid.model_validate(
            {
                "datasets": list(map(known_dataset, _names(dataset))), "methods": _names(methods), "bits": _names(bits),
                "seeds": range(seeds), "protocol": protocol, "queries": queries, "source": source, "parameters": own,
                "draw": draw, "tune": _tuning(tune), "asymmetric": asymmetric,
            }
        )  # fmt: skip
    check_outputs(json_file, *(join(folder, "rows.json") for folder in (out, figures) if folder))
    prefect_home()
    from ..benchmark.flow import benchmark as run

    if pretrained:
        grid = _with_pretrained(grid, pretrained)
    with progress() as report:
        outcome = run(grid, report)
    _write(outcome, json_file, out, figures)
    if outcome.failed:
        raise RuntimeError("\n".join(f"{cell}: {error}" for cell, error in outcome.failed.items()))


def _with_pretrained(grid: Grid, file: str) -> Grid:
    """Return the grid with pretrained parameters, after copying them to the warehouse if they fit every cell."""
    from infra.settings import Settings
    from storage.models import save_pretrained

    from ..benchmark.flow import check_cells
    from ..pretrained import read_pretrained

    settings = Settings()
    check_cells(grid, settings)
    found = read_pretrained(file)
    grid = grid.model_copy(update={"pretrained": found.digest})
    check_cells(grid, settings, found.parameters)
    save_pretrained(settings.warehouse_url, found.content)
    return grid


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _tuning(texts: list[str] | None) -> dict[str, dict[str, list[object]]] | None:
    """Return the values of --tune, by method and hyper-parameter; None without --tune."""
    from hashing.names import plain_name

    if not texts:
        return None
    found: dict[str, dict[str, list[object]]] = {}
    for text in texts if texts != ["none"] else ():
        place, _, values = text.partition("=")
        method, dot, name = place.partition(".")
        if not (dot and name and values):
            raise typer.BadParameter(f"expected --tune METHOD.NAME=VALUE,VALUE,… or --tune none, found {text!r}")
        method, name = plain_name(method), name.replace("-", "_")
        if name in found.setdefault(method, {}):
            raise typer.BadParameter(f"--tune {place} is given twice: pass all of its values at once")
        found[method][name] = [assignment(f"{name}={value}")[1] for value in values.split(",")]
    return found


def _write(outcome: GridOutcome, json_file: str | None, out: str | None, figures: str | None) -> None:
    """Write the results to files, or print tables if no folder is given for them."""
    import json

    from storage import results
    from storage.files import filesystem

    from ..reports.benchmark import grid_markdown
    from ..reports.benchmark_page import figure_files, grid_page

    rows = [row.model_dump(mode="json") for row in outcome.rows]
    content = ("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n").encode()  # one row per line
    if json_file:
        filesystem.write_bytes(json_file, content)
    if not outcome.rows:
        return
    if figures:
        for name, file in figure_files(outcome.rows):
            filesystem.write_bytes(filesystem.join(figures, name), file)
        console.print(f"Wrote figures as SVG, PDF and CSV to {figures}", soft_wrap=True)
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
