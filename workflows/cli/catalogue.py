"""Commands that list methods and datasets, bring datasets in, and check the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hashing.names import counted

from . import complete
from .common import FAILED, console, known_dataset, progress, show
from .options import AsJson, From, MetricName

if TYPE_CHECKING:
    from storage.features.summary import SplitSummary

app = typer.Typer()
# As storage and workflows.datasets define them, which import numpy: too slow for --help.
VectorDtype = Literal["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "uint8"]
LabelsAs = Literal["values", "multi-hot"]


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Show all about one method.", autocompletion=complete.methods)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the hashing methods, or show one with its hyper-parameters and its paper.

    Examples: `hashkiln methods`, `hashkiln methods itq`
    """
    from ..listings import method_details, methods_listed

    if name:
        return show(method_details(name), as_json, name)
    found = methods_listed()
    rows = [{key: row[key] for key in ("method", "kind", "year", "what it does")} for row in found]
    show(found if as_json else rows, as_json, one_line=True)


@app.command()
def datasets(
    name: Annotated[
        str | None, typer.Argument(help="Show all about one dataset.", autocompletion=complete.datasets)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the ingested datasets, then the named ones that can be fetched; or show one.

    Examples: `hashkiln datasets`, `hashkiln datasets mnist`, `hashkiln datasets --json`
    """
    from infra.settings import Settings

    from ..listings import dataset_details, datasets_listed

    if name:
        return show(dataset_details(name, Settings()), as_json, name)
    found = datasets_listed(Settings())
    if as_json:
        return show(found, as_json)
    for state, title in (("ingested", "Ingested"), ("named", "In the catalogue")):
        rows = [
            {"dataset": row["dataset"], "rows": f"{row['rows']:,}" if row["rows"] else "", "about": row["about"]}
            for row in found
            if row["state"] == state
        ]
        if rows:
            show(rows, as_json, title, one_line=True)


@app.command()
def tables(as_json: AsJson = False) -> None:
    """List the code tables and their published versions.

    Example: `hashkiln tables`
    """
    from infra.settings import Settings

    from ..listings import tables_listed

    settings = Settings()
    found = tables_listed(settings)
    if as_json:
        return show(found, True)
    if found:
        for row in found:
            row |= {"published": row["published"][:16].replace("T", " "), "rows": f"{row['rows']:,}"}
        return show(found, False, one_line=True)
    console.print(f"No tables in {settings.home}: make one with `hashkiln reindex --dataset sample`", soft_wrap=True)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A named dataset.", autocompletion=complete.datasets)],
    source: From = None,
    as_json: AsJson = False,
) -> None:
    """Find or download the files of a named dataset, and verify their checksums.

    Examples: `hashkiln fetch siftsmall`, `hashkiln fetch mnist --from ~/mnist`
    """
    from infra.settings import Settings

    from .. import datasets as stage

    with progress() as report:
        files = stage.fetch_files(known_dataset(name), Settings(), source, report)
    show({file: str(path) for file, path in files.items()}, as_json)


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(
            help="A named dataset; Parquet, Arrow or Feather files, a Hugging Face dataset on disk, WebDataset .tar "
            "files or a folder of .npy files, all used in place; a file .fvecs, .bvecs, .npy, .fbin, .u8bin, .i8bin or "
            ".hdf5; a folder with a folder of pictures for each class, with HashNet lists, or with texts, queries and "
            "judgements as in BEIR; or hf://datasets/OWNER/NAME, with such files on the Hugging Face hub."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name for the dataset.  [default: SOURCE, if it is a named dataset]")
    ] = None,
    where: From = None,
    query: Annotated[str | None, typer.Option(help="File or folder of a separate query set, if there is one.")] = None,
    id_column: Annotated[str, typer.Option(help="Column of integer row ids.")] = "id",
    key_column: Annotated[
        str | None, typer.Option(help="Column of keys, such as strings or UUIDs, for rows without integer ids.")
    ] = None,
    vector_column: Annotated[
        str,
        typer.Option(
            help="Column of vectors, encoded pictures, or texts; a dotted path names a field of a struct. Of several "
            "folders of .npy files: one of them.  "
            "[default: the column vector, image or text]"
        ),
    ] = "",
    vector_dtype: Annotated[
        VectorDtype | None, typer.Option(help="Type of the numbers, for vectors stored as bytes.", show_default=False)
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="Column of labels, one for each row or in lists; also COLUMN of folders COLUMN=VALUE."),
    ] = None,
    labels_as: Annotated[
        LabelsAs | None,
        typer.Option(help="Read lists of 0 and 1 as multi-hot labels, or as the values 0 and 1.", show_default=False),
    ] = None,
    metric: Annotated[
        MetricName | None,
        typer.Option(help="How vectors are compared.  [default: as the source says, or euclidean]", show_default=False),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(min=8, max=1024, help="Side length, in pixels, to which images are resized.  [default: 64]"),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Read a dataset again. If it has tables, its columns must be the same.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register vectors, pictures or texts as a dataset.

    Examples: `hashkiln ingest mnist --from ~/mnist`,
    `hashkiln ingest s3://bucket/vectors --name products --key-column sku --vector-column embedding`,
    `hashkiln ingest hf://datasets/mteb/scifact --name scifact`,
    `hashkiln ingest ~/nuswide --name nus-wide-224 --side 224` (train.txt, test.txt, database.txt and
    the images below that folder)
    """
    from hashing.names import near
    from infra.settings import Settings
    from storage.datasets import DATASETS
    from storage.features.dataset import dataset_exists
    from storage.features.rows import Columns

    from .. import datasets as stage

    settings = Settings()
    columns = Columns(
        id=key_column or id_column,
        keyed=key_column is not None,
        x=vector_column,
        labels=label_column,
        dtype=vector_dtype,
    )
    if name is None and source not in DATASETS:
        meant = "" if "/" in source or Path(source).exists() else near(source, DATASETS)
        raise typer.BadParameter(f"{source} is not a named dataset: {meant or 'pass --name NAME to name it'}")
    with progress() as report:
        if not replace and dataset_exists(settings.warehouse_url, name or source):
            raise typer.BadParameter(f"dataset {name or source} already exists: pass --replace to read it again")
        if source in DATASETS and name in (None, source):
            if labels_as or metric or query:
                raise typer.BadParameter(f"{source} is a named dataset, which has its own queries, labels and metric")
            dataset = stage.ingest_named(source, settings, where, report, side)
        else:
            dataset = stage.ingest_source(
                str(name), source, settings, columns, query, report, side, labels_as,
                metric,
            )  # fmt: skip
    if as_json:
        show(dataset.model_dump(mode="json"), as_json)
        return
    about = {"source": dataset.source, "metric": dataset.metric}
    show(about | {split: _described(held) for split, held in dataset.understood.items()}, as_json, dataset.name)


def _described(split: SplitSummary) -> str:
    """Return what was understood of a split, one line for each property."""
    size = ", ".join(counted(n, one) for n, one in ((split.rows, "row"), (split.files, "file"), (split.bytes, "byte")))
    return "\n".join([size, split.ids, split.x, f"labels: {split.labels}"])


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that this machine, and every node of Ray, has everything a run needs.

    Exits with 1 if a check fails, and says what to do.

    Example: `RAY_ADDRESS=10.0.0.1:6379 hashkiln doctor`
    """
    from ..doctor import examine

    found = examine()
    show(found, as_json)
    if any(row["state"] == "failed" for row in found):
        raise typer.Exit(FAILED)
