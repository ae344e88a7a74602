"""Options and arguments that commands share, and the specification built from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from ..evaluation.registry import GATED
from . import complete
from .common import assigned, checked, known_dataset

if TYPE_CHECKING:
    from ..spec import Spec

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DatasetName = Annotated[
    str,
    typer.Option(
        "--dataset", help="A named dataset, or the name of an ingested one.", autocompletion=complete.datasets
    ),
]
From = Annotated[str | None, typer.Option("--from", help="Folder or URL with the raw files of a named dataset.")]
MethodName = Annotated[
    str, typer.Option("--method", help="A method listed by `hashkiln methods`.", autocompletion=complete.methods)
]
TableName = Annotated[str, typer.Argument(help="A code table, such as mnist__itq32.", autocompletion=complete.tables)]
VersionName = Annotated[
    str,
    typer.Option(
        "--version",
        help="A version: main (the published one), v3, staged-… or rejected-…",
        autocompletion=complete.versions,
    ),
]
Bits = Annotated[int, typer.Option("--bits", help="Code length in bits, 1 to 4096.")]
Seed = Annotated[int, typer.Option("--seed", help="Random seed.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a hyper-parameter. Repeatable.")
]
Pretrained = Annotated[
    str | None,
    typer.Option(
        "--pretrained", metavar="FILE", help="Initial parameters of a network: a safetensors or .pth file, or a URL."
    ),
]
Code = Annotated[
    str | None,
    typer.Option(
        "--code", help="Name of the codes; the table is DATASET__CODE.  [default: method and bits, such as itq32]"
    ),
]
Refit = Annotated[
    Literal["never", "always", "drift"],
    typer.Option("--refit", help="When to fit a new model: never, always, or if new rows have drifted."),
]
BadRows = Annotated[
    Literal["refuse", "drop"],
    typer.Option(
        "--bad-rows", help="For invalid rows, such as NaN or a wrong length: refuse the shard, or drop and count them."
    ),
]
Precision = Annotated[
    Literal["float32", "bf16"],
    typer.Option(
        "--precision", help="Precision of a network that encodes on GPUs; bf16 is faster. Needs HASHKILN_ENCODE_GPUS."
    ),
]
Index = Annotated[
    bool, typer.Option("--index", help="Store a multi-index for each part: 4 bytes for each row and piece of its code.")
]
Relevance = Annotated[
    Literal["auto", "labels", "neighbours", "graded"],
    typer.Option(
        "--relevance", help="Rows that count as relevant to a query; auto: labels if there are any, else neighbours."
    ),
]
MetricName = Literal["euclidean", "cosine", "ip", "hamming"]  # storage.formats.Metric, without importing numpy
K = Annotated[int, typer.Option("--neighbours", help="Nearest neighbours per query, for relevance by neighbours.")]
Floors = Annotated[
    list[str] | None,
    typer.Option(
        "--floor",
        metavar="METRIC=VALUE",
        help=f"Smallest allowed value of a metric. Repeatable. Metrics: {', '.join(GATED)}.",
    ),
]
Ceilings = Annotated[
    list[str] | None,
    typer.Option(
        "--ceiling",
        metavar="METRIC=VALUE",
        help="Largest allowed value of a metric, such as health.constant_bits=0. Repeatable.",
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
MaxDrift = Annotated[float, typer.Option("--max-drift", help="Drift threshold, in standard deviations.")]
Exports = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        metavar="TARGET[=FOLDER]",
        help="Export the published version, as `hashkiln export --to TARGET` does, in place of an earlier one. "
        "Repeatable.  [default FOLDER: exports/TABLE/TARGET in HASHKILN_HOME]",
    ),
]
Queries = Annotated[
    int, typer.Option("--queries", help="Number of queries to sample if the dataset has no query split.")
]
Specify = Callable[..., "Spec"]  # `specification` with the shared options filled in


def specification(
    dataset: DatasetName,
    source: From = None,
    method: MethodName = "itq",
    bits: Bits = 32,
    seed: Seed = 0,
    parameters: Set = None,
    pretrained: Pretrained = None,
    code: Code = None,
    refit: Refit = "never",
    bad_rows: BadRows = "refuse",
    **others: Any,
) -> Spec:
    """Return the Spec built from the options that fit, encode and reindex share, and from other fields.

    Invalid values end the command with exit code 2 and one line each, before anything is written. Pretrained parameters
    are copied to the warehouse.
    """
    from infra.settings import Settings
    from storage.models import save_pretrained

    from .. import checks
    from .. import pretrained as files
    from ..spec import Spec

    def build(digest: str) -> Spec:
        given = {"method": method, "bits": bits, "seed": seed, "parameters": assigned(parameters), "pretrained": digest}
        about = {
            "dataset": known_dataset(dataset),
            "source": source,
            "code": code,
            "refit": refit,
            "bad_rows": bad_rows,
        }
        return Spec(**about, method=given, **others)

    settings = Settings()
    with checked():
        spec = build("0" * 64 if pretrained else "")  # read the file only if all other options are valid
    checks.check_run(spec, settings)
    if pretrained:
        found = files.read_pretrained(pretrained)
        checks.check_pretrained(spec.method, checks.schema_of(spec.dataset, settings), found.parameters)
        spec = build(save_pretrained(settings.warehouse_url, found.content))
    return spec


def takes(specification: Callable[..., Spec]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Return a decorator that prepends the options of `specification` to those of a command.

    The first parameter of the command receives `specification` with these options filled in. Typer reads options from
    the signature, so the returned function has all options in its signature.
    """

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        own = _options(command)[1:]
        shared = _options(specification)

        @wraps(command)
        def run(**given: Any) -> T:
            return command(
                partial(specification, **{option.name: given.pop(option.name) for option in shared}), **given
            )

        run.__signature__ = Signature([*shared, *own])  # type: ignore[attr-defined]  # functions have it, their type does not
        run.__annotations__ = {option.name: option.annotation for option in (*shared, *own)}
        return run

    return decorate


def _options(function: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters of a function, without **others."""
    unneeded = {"Spec": Any}  # the return type, imported for type checkers only
    parameters = signature(function, eval_str=True, locals=unneeded).parameters.values()
    return [parameter for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]


@takes(specification)
def run_specification(
    specify: Specify,
    relevance: Relevance = "auto",
    neighbours: K = 100,
    queries: Queries = 1000,
    floor: Floors = None,
    ceiling: Ceilings = None,
    max_loss: Losses = None,
    max_drift: MaxDrift = 0.5,
    precision: Precision = "float32",
    export: Exports = None,
    index: Index = False,
    **gate: Any,
) -> Spec:
    """Return the Spec of a whole run, as `specification`, from the options of the protocol and the gate too."""
    rules = {"floors": assigned(floor), "ceilings": assigned(ceiling), "max_loss": assigned(max_loss)}
    return specify(
        protocol={"relevance": relevance, "neighbours": neighbours, "queries": queries},
        gate=rules | gate,
        max_drift=max_drift,
        precision=precision,
        exports=_exports(export or ()),
        index=index,
    )


def _exports(texts: Iterable[str]) -> dict[str, str]:
    """Return the folder of each target; empty for the default one."""
    exports: dict[str, str] = {}
    for to, _, folder in (text.partition("=") for text in texts):
        if to in exports:
            raise typer.BadParameter(f"{to} is exported twice: to {exports[to]} and to {folder}")
        exports[to] = folder
    return exports
