"""Datasets from a hub on loopback: downloaded once per commit, verified, and then read as local ones."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.datasets import fetch_from_hub
from tests.hub import COMMIT, serving_hub

NAME = "some-owner/some.texts"
SOURCE = f"hf://datasets/{NAME}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A dataset of judged texts, and of vectors in a folder."""
    folder = tmp_path / "published"
    for name in ("qrels", "vectors", ".hidden"):
        (folder / name).mkdir(parents=True)
    texts = [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(30)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "text"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td3\t1\n")
    (folder / "README.md").write_text("about")
    (folder / ".hidden" / "x.parquet").write_text("no rows")
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    pq.write_table(pa.table({"_id": [f"d{i}" for i in range(20)], "emb": list(x)}), folder / "vectors" / "a.parquet")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving_hub(folder, NAME) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        yield server


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_files_of_a_commit_are_downloaded_once_and_verified(hub, tmp_path):
    seen = []
    found = fetch_from_hub(SOURCE, tmp_path / "data", lambda *progress: seen.append(progress))
    assert found == tmp_path / "data" / "hub" / NAME / COMMIT
    published = ["corpus.jsonl", "qrels/test.tsv", "queries.jsonl", "vectors/a.parquet"]
    assert files_below(found) == published
    for name in published:
        assert (found / name).read_bytes() == (hub.folder / name).read_bytes()
    total = sum((found / name).stat().st_size for name in published)
    assert seen[-1] == (total, total)
    (found / "qrels" / "test.tsv").unlink()  # as if interrupted
    hub.requested.clear()
    assert fetch_from_hub(f"{SOURCE}@a%2Fbranch", tmp_path / "data") == found
    resolved = [path for path in hub.requested if "/resolve/" in path]
    assert resolved == [f"/datasets/{NAME}/resolve/{COMMIT}/qrels/test.tsv"]
    assert files_below(found) == published


@pytest.mark.parametrize("path", ["vectors", "vectors/a.parquet"])
def test_a_path_is_all_that_is_downloaded(hub, tmp_path, path):
    found = fetch_from_hub(f"{SOURCE}@{COMMIT}/{path}", tmp_path)
    assert files_below(tmp_path / "hub" / NAME / COMMIT) == ["vectors/a.parquet"]
    assert found == tmp_path / "hub" / NAME / COMMIT / path


@pytest.mark.parametrize("name", ["corpus.jsonl", "vectors/a.parquet"])
def test_a_file_with_another_checksum_is_refused_and_removed(hub, tmp_path, name):
    content = bytearray((hub.folder / name).read_bytes())
    content[10] ^= 1
    hub.damaged[name.rpartition("/")[2]] = bytes(content)
    with pytest.raises(ValueError, match=r"with (git|sha256):[0-9a-f]+, found .*; the download was deleted"):
        fetch_from_hub(SOURCE, tmp_path)
    assert name not in files_below(tmp_path / "hub" / NAME / COMMIT)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"{SOURCE}@v2", f"{SOURCE}@v2: no such dataset or revision, or none for everybody (HTTP 401): download a"),
        ("hf://datasets/other/one", "hf://datasets/other/one: no such dataset or revision"),
        (f"{SOURCE}/nothing", f"{SOURCE}/nothing: no files with rows in the commit {COMMIT}"),
        ("hf://datasets/only-a-name", "expected hf://datasets/OWNER/NAME, optionally with @REVISION and a path, found"),
        (f"https://huggingface.co/datasets/{NAME}", "expected hf://datasets/OWNER/NAME, optionally with @REVISION"),
        ("hf://datasets/öwner/name", "expected hf://datasets/OWNER/NAME, optionally with @REVISION and a path, found"),
    ],
)
def test_what_the_hub_does_not_have_is_refused(hub, tmp_path, source, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fetch_from_hub(source, tmp_path)
    assert not (tmp_path / "hub").exists()


def test_a_hub_that_cannot_be_reached_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"cannot read http://127.0.0.1:9/api/datasets/.*: .*refused: .*, pass a folder"):
        fetch_from_hub(SOURCE, tmp_path)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>log in</html>", "expected JSON, as of a hub: check HF_ENDPOINT"),
        (b'{"sha": "../../elsewhere"}', "expected a commit from http://127.0.0.1:"),
    ],
)
def test_what_answers_as_no_hub_does_is_refused(hub, tmp_path, answer, message):
    hub.damaged[f"/api/datasets/{NAME}/revision/main"] = answer
    with pytest.raises((OSError, ValueError), match=message):
        fetch_from_hub(SOURCE, tmp_path / "data" / "below")
    assert not (tmp_path / "data").exists()


def test_an_empty_endpoint_is_none_and_one_without_a_scheme_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "")
    with pytest.raises(OSError, match=r"cannot read https://huggingface.co/api/datasets/"):
        fetch_from_hub(SOURCE, tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "hub.example.com")
    with pytest.raises(ValueError, match=r"HF_ENDPOINT: expected an address such as https://huggingface.co, found hub"):
        fetch_from_hub(SOURCE, tmp_path)
