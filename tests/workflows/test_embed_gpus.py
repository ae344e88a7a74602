"""Embedding on actors that take GPUs, which Ray claims to have; the networks run on the CPU."""

import os
from pathlib import Path

import pytest

from hashing.mapreduce import Resources
from infra.executors import InProcess, Ray
from infra.settings import Settings
from storage.features import pieces
from storage.features.rows import Columns
from tests import tiny_encoders
from tests.workflows.test_embed import write_texts
from workflows import datasets
from workflows.embed import _with_gpus, embed


def main(executor, folder):
    """Embed the same texts in this process and on GPUs; the stored pieces of each, and the resources of the tasks."""
    folder = Path(folder)
    os.environ.update(HASHKILN_HOME=str(folder / "home"), HASHKILN_DEVICE="cpu", HASHKILN_EXECUTOR="inprocess")
    for part in range(3):
        write_texts(folder / "notes", part)
    columns = Columns(id="key", keyed=True, x="said", labels="topic")
    datasets.ingest_source("notes", str(folder / "notes"), Settings(), columns)
    encoder = str(tiny_encoders.text_onnx(folder / "encoder"))
    embed("notes", encoder, "here")
    os.environ["HASHKILN_EXECUTOR"] = "ray"
    embed("notes", encoder, "there")
    root = Settings().warehouse_url
    stored = [sorted(pieces.stored_pieces(root, name)) for name in ("here", "there")]
    folders = [Path(pieces.folder_of(root, name)) for name in ("here", "there")]
    content = [[(one / f"{piece}.parquet").read_bytes() for piece in stored[0]] for one in folders]
    return {
        "pieces": len(stored[0]),
        "alike": stored[0] == stored[1] and content[0] == content[1],
        "gpus": _with_gpus(executor, Settings())[0].resources.gpus,
        "half": _with_gpus(executor, Settings(embed=Resources(gpus=0.5)))[0].resources.gpus,
    }


@pytest.mark.slow
def test_pieces_are_encoded_on_gpus_if_there_are_any(fake_gpus, tmp_path):
    found = fake_gpus.run("tests.workflows.test_embed_gpus", tmp_path)
    assert found == {"pieces": 3, "alike": True, "gpus": 1, "half": 0.5}


def test_without_gpus_tasks_take_a_cpu():
    assert _with_gpus(InProcess(), Settings(executor="inprocess"))[1] == "cpu"
    assert _with_gpus(Ray(), Settings(executor="ray", embed=Resources(cpus=1)))[1] == "cpu"
