"""Unreferenced files outside the tables, on every filesystem: unused groups of files are found as a whole."""

import hashlib
import math
import time

import numpy as np
import pytest

from hashing.families import LinearHash
from storage import models, queries, unreferenced
from storage.files import filesystem, npz
from storage.files.filesystem import join
from storage.files.uploads import abort_upload

HEX = hashlib.sha256(b"x").hexdigest()
PATIENCE = 300  # seconds


def found(warehouse, named=frozenset(), tables=(), limit=None):
    """The paths of unreferenced files by kind, in the order of deletion."""
    gone = {}
    for kind, files in unreferenced.find_unreferenced(
        warehouse, named, tables, time.time() + 60 if limit is None else limit
    ):
        gone.setdefault(kind, []).extend(filesystem.relative_path(warehouse, file.url) for file in files)
    return gone


def put(warehouse, *paths):
    for path in paths:
        filesystem.write_bytes(join(warehouse, *path.split("/")), b"content")
    return [*paths]


def written(warehouse, path):
    return filesystem.modification_time(join(warehouse, *path.split("/")))


def later(warehouse, path, do):
    """Repeat an action until a file is younger; the clock of a store can have a resolution of seconds."""
    before, deadline = written(warehouse, path), time.monotonic() + PATIENCE
    while written(warehouse, path) <= before:
        assert time.monotonic() < deadline, f"{path} has not become younger"
        do()
    return before


def test_a_folder_is_of_an_unknown_table_if_it_has_metadata(folder):
    put(folder, f"codes/begun/data/{HEX}.parquet", f"codes/other/data/{HEX}.parquet", "codes/other/metadata/1.json")
    put(folder, "codes/known/metadata/1.json")
    assert unreferenced.unknown_tables(folder, ["known"]) == ["other"]


def test_caches_are_unreferenced_and_files_of_others_stay(folder):
    gone = {
        "cache": put(folder, f"kept/{HEX}.npz"),
        "ground truth": put(folder, f"truth/{HEX}.parquet"),
        "training": put(folder, f"training/{HEX[:16]}/checkpoint_1/state.pt", f"training/{HEX[:16]}/state.pt"),
        "dataset": put(
            folder, *(f"datasets/d-dhn-{HEX[:8]}/{name}" for name in ("dataset.json", "drawn/base/00000.parquet"))
        ),
        "file": put(folder, f"truth/.{HEX}.parquet.{HEX[:32]}", f"reports/t/.x.html.{HEX[:32]}"),
    }
    put(folder, "kept/notes.txt", f"truth/{HEX}.csv", "training/mine/state.pt", "reports/t/x.html")
    put(folder, f"datasets/d-dhn-{HEX[:8]}/mine.parquet", "datasets/d/dataset.json", "datasets/d/base/00000.parquet")
    assert found(folder) == gone
    assert found(folder, limit=time.time() - 60) == {}
    assert "dataset" not in found(folder, tables=[f"d_dhn_{HEX[:8]}__itq32"])
    assert found(folder, named=None) == {kind: gone[kind] for kind in ("cache", "ground truth", "training", "file")}


def test_using_a_file_renews_its_time_and_keeps_its_group(folder):
    url = join(folder, "kept", f"{HEX}.npz")
    npz.write_arrays(url, counts=np.arange(3))
    before = later(folder, f"kept/{HEX}.npz", lambda: npz.read_arrays(url))
    assert found(folder, limit=math.nextafter(before, math.inf)) == {}
    np.testing.assert_array_equal(npz.read_arrays(url)["counts"], np.arange(3))
    queries.cache_neighbours(folder, HEX, np.zeros((2, 3), int), np.zeros((2, 3)))
    later(folder, f"truth/{HEX}.parquet", lambda: queries.cached_neighbours(folder, HEX))
    run = put(folder, f"training/{HEX[:16]}/checkpoint_1/state.pt", f"training/{HEX[:16]}/manager.json")
    before = later(folder, run[0], lambda: put(folder, run[0]))
    assert "training" not in found(folder, limit=math.nextafter(before, math.inf))  # even though manager.json is older
    assert not filesystem.touch(join(folder, "nothing"))


def test_models_and_pretrained_parameters_stay_while_they_are_referenced(folder):
    function = LinearHash(np.eye(8), np.zeros(8))
    model, start = models.save_model(folder, function), models.save_pretrained(folder, b"parameters")
    models.record_fit(folder, HEX, model)
    npz.write_arrays(join(folder, "models", model, "moments.npz"), moments=np.zeros((4, 8)))
    files = [f"models/{model}/{name}" for name in ("function.json", "function.safetensors", "moments.npz")]
    both = {"model": [f"models/fits/{HEX}", *files], "pretrained": [f"pretrained/{start}"]}
    assert found(folder) == both
    assert found(folder, named={model}) == {"pretrained": both["pretrained"]}
    assert found(folder, named={start}) == {"model": both["model"]}
    assert found(folder, named=None) == {}
    before = later(folder, f"models/fits/{HEX}", lambda: models.record_fit(folder, HEX, model))
    assert "model" not in found(folder, limit=math.nextafter(before, math.inf))


def test_incomplete_uploads_are_found_outside_the_tables(s3, tmp_path):
    root = f"{s3}/{tmp_path.name}"
    fs, path = filesystem._open(join(root, "truth", f"{HEX}.parquet"))
    bucket, _, key = path.partition("/")
    token = fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]
    assert unreferenced.unreferenced_uploads(root, time.time() - 60) == []
    (upload,) = unreferenced.unreferenced_uploads(root, time.time() + 60)
    assert (upload.url, upload.upload_id) == (f"s3://{path}", token)
    abort_upload(upload)
    assert unreferenced.unreferenced_uploads(root, time.time() + 60) == []


@pytest.mark.parametrize("name", ["d", "d-dhn-cafe"])
def test_a_dataset_of_the_user_is_never_unreferenced(tmp_path, name):
    put(str(tmp_path), f"datasets/{name}/dataset.json", f"datasets/{name}/drawn/base/00000.parquet")
    assert found(str(tmp_path)) == {}
