"""Pictures and texts from their files to a published version: ingest, fit, encode, evaluate, publish."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.executors import InProcess
from infra.settings import Settings
from storage.features.contract import SourceRefused
from storage.features.dataset import dataset_names
from storage.features.rows import Columns
from tests.drawn_pictures import encoded, write_lists
from tests.workflows import conftest
from tests.workflows.conftest import encoded_from_source, published_codes
from workflows import datasets
from workflows.checks import UsageError
from workflows.context import Context
from workflows.reindex import fitting, planning
from workflows.spec import Spec

HASHKILN = str(Path(sys.executable).with_name("hashkiln"))
DEEP = {"epochs": 8, "batch_size": 32, "validation": 0.0, "optimizer": "adam", "lr": 0.001}
WORDS = [["cat", "purrs", "whiskers"], ["car", "wheel", "engine"], ["tree", "leaf", "root"]]


def spec(dataset, method="dpsh", bad_rows="refuse", **parameters):
    method = {"method": method, "bits": 8, "parameters": parameters}
    protocol, gate = {"queries": 20}, {"max_loss": {"map": 1}}
    return Spec(dataset=dataset, method=method, code="c", bad_rows=bad_rows, protocol=protocol, gate=gate)


def pictures(folder, n=150, broken=()):
    """Ingest two shards of encoded pictures of three classes, with column names of the user."""
    folder.mkdir()
    for part, rows in enumerate(np.array_split(np.arange(n), 2)):
        data = [b"not a picture" if i in broken else encoded(i % 3, i, 24, "JPEG" if i % 2 else "PNG") for i in rows]
        table = pa.table({"key": rows, "photo": pa.array(data, pa.binary()), "tags": [[f"t{i % 3}"] for i in rows]})
        pq.write_table(table, folder / f"{part}.parquet")
    columns = Columns(id="key", x="photo", labels="tags")
    return datasets.ingest_source("photos", str(folder), Settings(), columns, side=24)


def texts(folder, n=240):
    rng = np.random.default_rng(0)
    said = [" ".join([*rng.choice(WORDS[i % 3], 4), *rng.choice(["the", "of", "a"], 3)]) for i in range(n)]
    folder.mkdir()
    table = pa.table({"id": range(n), "text": said, "labels": [[i % 3] for i in range(n)]})
    pq.write_table(table, folder / "a.parquet")
    return datasets.ingest_source("notes", str(folder), Settings(), Columns(x="text", labels="labels"))


def test_files_beside_pictures_are_left_out_aloud(tmp_path, settings):
    for name in ("cat/0.png", "dog/0.png"):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).write_bytes(encoded(0, 0, 8))
    for name in ("README.md", "cat/Thumbs.db", ".DS_Store"):
        (tmp_path / "d" / name).write_bytes(b"no picture")
    dataset = datasets.ingest_source("d", str(tmp_path / "d"), settings, Columns())
    assert dataset.source.endswith("/d; without 2 files that are no pictures of a class, such as README.md")
    assert dataset.understood["base"].rows == 2
    (tmp_path / "d" / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(SourceRefused, match=r"d/dog/1\.png: expected a picture, found 0 bytes of no known format"):
        datasets.ingest_source("e", str(tmp_path / "d"), settings, Columns())
    assert dataset_names(settings.warehouse_url) == ["d"]


def test_encoded_pictures_are_hashed_by_a_network_and_published(settings, tmp_path):
    dataset = pictures(tmp_path / "photos")
    assert (dataset.kind, dataset.dim) == ("image", 3 * 24**2)
    _, report, version = conftest.reindex(settings, spec("photos", network="cnn", **DEEP))
    assert version == "v1"
    assert report.measured.rows == 149  # a query's own row is not ranked
    assert report.measured.metrics["map"].value > 0.8  # 1/3 by chance
    assert published_codes(settings, "photos__c") == encoded_from_source(settings, dataset, "photos__c")


def test_texts_are_hashed_by_a_text_network_and_by_no_other_method(settings, tmp_path):
    dataset = texts(tmp_path / "notes")
    assert (dataset.kind, dataset.dim) == ("text", 32)
    for wrong, found in ((spec("notes", "itq"), "ITQ, which reads vectors"), (spec("notes"), "DPSH, with network=mlp")):
        with pytest.raises(UsageError, match=f"with network=text for texts, found {found}, in dataset notes"):
            fitting.fit(Context.of(wrong, settings, InProcess()))
        with pytest.raises(ValueError, match="expected a deep method with network=text"):
            planning.forecast(Context.of(wrong, settings, InProcess()))
    _, report, version = conftest.reindex(settings, spec("notes", network="text", **{**DEEP, "lr": 0.01}))
    assert version == "v1"
    assert report.measured.metrics["map"].value > 0.9
    assert len(published_codes(settings, "notes__c")) == 240


def test_a_text_network_is_refused_for_other_kinds_of_rows(settings, tmp_path):
    pictures(tmp_path / "photos", n=30)
    with pytest.raises(
        ValueError, match="expected texts for network=text, found rows of kind image, in dataset photos"
    ):
        fitting.fit(Context.of(spec("photos", network="text"), settings, InProcess()))
    pixels = Context.of(spec("photos", "lsh"), settings, InProcess())  # pixels are coordinates: any method hashes them
    fitting.fit(pixels)
    with pytest.raises(ValueError, match="--side applies only to pictures, found rows of kind text"):
        datasets.ingest_source("t", str(texts_folder(tmp_path)), settings, Columns(x="text"), side=24)


def texts_folder(tmp_path):
    texts(tmp_path / "notes", 10)
    return tmp_path / "notes"


def test_unreadable_pictures_are_refused_or_dropped_and_quarantined(settings, tmp_path):
    pictures(tmp_path / "photos", n=100, broken=(7, 60))
    with pytest.raises(ValueError, match=r"expected a picture, found .*, in row (7 of .*0|10 of .*1)\.parquet"):
        conftest.reindex(settings, spec("photos", "lsh"))
    staged, _, version = conftest.reindex(settings, spec("photos", "lsh", bad_rows="drop"))
    assert (version, staged.rows, staged.dropped) == ("v1", 98, 2)
    assert set(range(100)) - published_codes(settings, "photos__c").keys() == {7, 60}


def test_a_changed_picture_is_encoded_again(settings, tmp_path):
    dataset = pictures(tmp_path / "photos", n=100)
    conftest.reindex(settings, spec("photos", "lsh"))
    before = published_codes(settings, "photos__c")
    path = tmp_path / "photos" / "1.parquet"
    table = pq.read_table(path)
    data = [encoded(1, 999, 24), *table["photo"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, "photo", pa.array(data, pa.binary())), path)
    staged, _, version = conftest.reindex(settings, spec("photos", "lsh"))
    assert (version, staged.encoded) == ("v2", 50)
    after = published_codes(settings, "photos__c")
    assert after == encoded_from_source(settings, dataset, "photos__c")
    assert {i for i in after if after[i] != before[i]} == {50}


@pytest.mark.slow  # a Prefect server starts
def test_lists_of_pictures_through_the_command_line(tmp_path):
    write_lists(tmp_path / "lists", base=60, learn=90, query=9)
    environment = {**os.environ, "HASHKILN_HOME": str(tmp_path / "home"), "HASHKILN_EXECUTOR": "inprocess"}

    def run(*args):
        done = subprocess.run([HASHKILN, *args], env=environment, capture_output=True, text=True, timeout=600)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    assert run("ingest", str(tmp_path / "lists"), "--name", "shapes", "--side", "32").returncode == 0
    sets = [part for name, value in {**DEEP, "network": "cnn"}.items() for part in ("--set", f"{name}={value}")]
    done = run("reindex", "--dataset", "shapes", "--method", "dpsh", "--bits", "8", *sets, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 60
    found = json.loads(run("evaluate", "shapes__dpsh8", "--json").stdout)
    assert found["measured"]["rows"] == 59  # queries are rows of the database
    assert "database: 9 rows by id, 9 by content" in found["overlap"]
    (tmp_path / "lists" / "images" / "3.png").unlink()
    done = run("ingest", str(tmp_path / "lists"), "--name", "again")
    assert done.returncode == 2  # refused before anything is written
    assert "expected images/3.png below" in " ".join(done.stderr.split())
