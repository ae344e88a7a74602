"""The command `embed`, which turns texts and pictures into vectors."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import known_dataset, progress, show
from .options import AsJson, BadRows, DatasetName, MetricName

app = typer.Typer()


@app.command()
def embed(
    dataset: DatasetName,
    encoder: Annotated[
        str,
        typer.Option(
            help="A folder with a model of sentence-transformers, timm or open_clip; a .onnx or .pt2 file "
            "(torch.export); or the name of a model on the Hugging Face hub, optionally with @REVISION. With "
            "@sha256:DIGEST, the digest that an earlier run printed is required.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name for the dataset of vectors.")],
    metric: Annotated[
        MetricName | None,
        typer.Option(help="How the vectors are compared.  [default: cosine]", show_default=False),
    ] = None,
    bad_rows: BadRows = "refuse",
    as_json: AsJson = False,
) -> None:
    """Turn texts or pictures into vectors with a frozen encoder: a new dataset with the same ids, labels and splits.

    Repeat the command after a change or an interruption: only what is missing is encoded. `reindex` does this itself.
    Another encoder replaces all vectors of a dataset that has no code tables yet.

    In the folder of a .onnx or .pt2 file, preprocessor_config.json describes pictures (size, image_mean, image_std),
    and tokenizer.json describes texts, as in Hugging Face models.

    Examples: `hashkiln embed --dataset reviews --encoder all-MiniLM-L6-v2 --name reviews-minilm`,
    `hashkiln embed --dataset products --encoder timm/resnet50.a1_in1k --name products-resnet`
    """
    from ..embed import embed as run

    with progress() as report:
        found = run(known_dataset(dataset), encoder, name, metric, bad_rows, report)
    show(found.model_dump(mode="json"), as_json, name)
