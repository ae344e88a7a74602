"""The command `plan`, which recommends a method and a code length."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hashing.names import counted

from .common import FAILED, checked, console, known_dataset, progress, show
from .options import AsJson, DatasetName

if TYPE_CHECKING:
    from ..plan import Option, Proposal

app = typer.Typer()


@app.command()
def plan(
    dataset: DatasetName,
    budget: Annotated[str, typer.Option(help="Largest size of a row, with correctives, in bytes, such as 16B.")],
    recall: Annotated[
        float, typer.Option(min=0, max=1, help="Recall of the nearest neighbours to reach after reranking.")
    ],
    neighbours: Annotated[int, typer.Option(min=1, help="Number of nearest neighbours to find.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Recommend a method and a code length for vectors: measure a few on a sample, and print the command to run.

    A code qualifies if its rows fit the budget and the lower end of the 95 % interval of its recall reaches the target.
    The command recommends the one that reranks the fewest vectors for each query. If none qualifies, it shows the best
    one and exits with 1.

    Example: `hashkiln plan --dataset mine --budget 16B --recall 0.9`
    """
    from ..plan import plan as run

    if not (match := re.fullmatch(r"([1-9][0-9]{0,2})\s*(B|bytes?)?", budget)) or int(match[1]) > 512:
        raise typer.BadParameter(f"expected a budget of 1 to 512 bytes, such as 16B, found {budget!r}")
    with checked(), progress() as report:
        found = run(known_dataset(dataset), int(match[1]), recall, neighbours, report)
    if as_json:
        show(found.model_dump(mode="json"), True)
    else:
        _print(found)
    if not found.reached:
        raise typer.Exit(FAILED)


def _print(found: Proposal) -> None:
    best = {(one.method, one.bits): one for one in reversed(found.measured) if one.low >= found.target}
    most = {(one.method, one.bits): one for one in found.measured}  # the last has most candidates
    show([_row(best.get(code, one)) for code, one in most.items()], False, f"{found.dataset}: {found.protocol}")
    for code, error in found.failed.items():
        console.print(escape(f"{code} could not be measured: {error}"), soft_wrap=True)
    if found.sample < found.rows:
        console.print(
            f"Measured on {found.sample:,} of {found.rows:,} rows. Among all rows, more are as near as the neighbours: "
            "expect a lower recall from as many candidates. The floor in the command below is checked on all rows.",
            soft_wrap=True,
        )
    chosen = found.choice
    size = chosen.bytes * found.rows
    what = f"{chosen.method}, {chosen.bits} bits: recall {_interval(chosen)} after reranking {chosen.rerank} vectors"
    if found.reached:
        console.print(f"{what}; {counted(chosen.bytes, 'byte')} a row, {size:,} in all", soft_wrap=True)
    else:
        console.print(f"No code reaches {found.target:g}. The best: {what}", soft_wrap=True)
    console.print(f"  {found.reindex}\n  {found.search}", soft_wrap=True, highlight=False)


def _row(option: Option) -> dict[str, str]:
    return {
        "method": option.method,
        "bits": str(option.bits),
        "bytes a row": str(option.bytes),
        "rerank": str(option.rerank),
        "recall": _interval(option),
        "encode rows/s": f"{option.encode_rows_per_second:,.0f}",
        "fit s": f"{option.fit_seconds:.1f}",
    }


def _interval(option: Option) -> str:
    return f"{option.recall:.3f} ({option.low:.3f} to {option.high:.3f})"
