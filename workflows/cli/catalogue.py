"""Commands about what there is: methods, datasets, and the machine."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import FAILED, AsJson, From, progress, show

app = typer.Typer()


@app.command()
def methods(as_json: AsJson = False) -> None:
    """The methods of the catalogue.

    Example: `hashkiln methods`
    """
    from dataclasses import fields

    from hashing.methods import catalogue

    found = [
        {
            "method": name,
            "learns from": "labels" if cls.supervised else "vectors",
            "what it does": (cls.__doc__ or "").split("\n")[0],
            "hyper-parameters": ", ".join(f"{f.name}={f.default}" for f in fields(cls)[1:]),  # type: ignore[arg-type]
            "reference": " ".join((cls.__doc__ or "").partition("Reference:")[2].split()),
        }
        for name, cls in sorted(catalogue().items())
    ]
    show(found, as_json)


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """The named datasets, and where each comes from.

    Example: `hashkiln datasets --json`
    """
    from storage.datasets import DATASETS

    found = [
        {
            "dataset": name,
            "about": about.about,
            "splits": ", ".join(f"{split} {part.n:,}" if part.n else split for split, part in about.splits.items()),
            "from": ", ".join(
                f.urls[0] if f.urls else f"$HASHKILN_DATA/{about.folder or name}/{f.name}" for f in about.files
            )
            or "shipped",
        }
        for name, about in sorted(DATASETS.items())
    ]
    show(found, as_json)


@app.command()
def fetch(name: str, source: From = None, as_json: AsJson = False) -> None:
    """Find a named dataset's files, or download them, and say whether their checksums hold.

    Examples: `hashkiln fetch siftsmall`, `hashkiln fetch mnist --from ~/mnist`
    """
    from infra.settings import Settings

    from .. import datasets as stage

    with progress() as report:
        files = stage.fetch(name, Settings(), source, report)
    show({file: str(path) for file, path in files.items()}, as_json)


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(
            help="A named dataset; or Parquet (used in place), .fvecs, .bvecs, .hdf5, or a folder of HashNet's lists."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the dataset.  [default: that of the named one]")] = None,
    where: From = None,
    query: Annotated[str | None, typer.Option(help="Where its own queries are, if it has any.")] = None,
    id_column: Annotated[str, typer.Option(help="Column of the int64 ids.")] = "id",
    key_column: Annotated[
        str | None, typer.Option(help="Column of strings that name the rows, where there are no int64 ids.")
    ] = None,
    vector_column: Annotated[str, typer.Option(help="Column of vectors, encoded pictures, or texts.")] = "vector",
    label_column: Annotated[str | None, typer.Option(help="Column of lists of labels.")] = None,
    side: Annotated[
        int | None, typer.Option(min=8, max=1024, help="Read pictures at so many pixels a side.  [default: 64]")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Read it again although it was ingested.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a dataset in.

    Examples: `hashkiln ingest mnist --from ~/mnist`,
    `hashkiln ingest s3://bucket/vectors --name products --key-column sku --vector-column embedding`,
    `hashkiln ingest ~/nuswide --name nus-wide-224 --side 224` (train.txt, test.txt, database.txt, pictures below)
    """
    from infra.settings import Settings
    from storage.datasets import DATASETS
    from storage.features.shard import Columns

    from .. import datasets as stage

    settings, columns = (
        Settings(),
        Columns(id=key_column or id_column, keyed=key_column is not None, x=vector_column, labels=label_column),
    )
    if name is None and source not in DATASETS:
        raise typer.BadParameter(f"expected --name NAME for {source}, which is no named dataset")
    with progress() as report:
        if not replace and stage.known(name or source, settings):
            raise ValueError(f"expected a new dataset, found {name or source} ingested already: use --replace")
        if source in DATASETS and name in (None, source):
            dataset = stage.ingest_named(source, settings, where, report, side)
        else:
            dataset = stage.ingest_source(str(name), source, settings, columns, query, report, side)
    show(dataset.model_dump(mode="json"), as_json, dataset.name)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that everything a run needs is there. Exit 1 if something is not.

    Example: `RAY_ADDRESS=10.0.0.1:6379 hashkiln doctor`
    """
    from ..doctor import examine

    found = examine()
    show(found, as_json)
    if any(row["state"] == "failed" for row in found):
        raise typer.Exit(FAILED)
