"""Texts and pictures to vectors: what is missing is encoded, and nothing half-done is visible."""

import json
import os
import subprocess
import sys
import time
from io import BytesIO
from itertools import combinations_with_replacement

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.executors import InProcess
from storage import encoders
from storage.features import pieces
from storage.features.contract import SourceRefused
from storage.features.dataset import dataset_exists, load_dataset
from storage.features.rows import Columns
from storage.files import filesystem
from storage.tables import garbage
from tests import tiny_encoders
from tests.workflows import conftest
from workflows import datasets
from workflows.checks import UsageError
from workflows.embed import embed, is_current
from workflows.encoders import models
from workflows.encoders.contract import EncoderRefused
from workflows.ingested import dataset_of
from workflows.reindex.source import vocabulary_of
from workflows.spec import Spec
from workflows.tables import deletion
from workflows.tables.gc import gc

WORDS = [["cat", "purrs", "whiskers"], ["car", "wheel", "engine"], ["tree", "leaf", "root"]]


def write_texts(folder, part, n=60, first=0):
    """Write a shard of texts with keys and one label each, as a user would."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(part)
    said = [" ".join(rng.choice(WORDS[i % 3], 3)) for i in range(n)]
    keys = [f"note-{part}-{i}" for i in range(first, first + n)]
    table = pa.table({"key": keys, "said": said, "topic": [["cats", "cars", "trees"][i % 3] for i in range(n)]})
    pq.write_table(table, folder / f"{part}.parquet")
    return said


@pytest.fixture
def notes(settings, tmp_path):
    """A dataset of three shards of texts with keys."""
    for part in range(3):
        write_texts(tmp_path / "notes", part)
    columns = Columns(id="key", keyed=True, x="said", labels="topic")
    return datasets.ingest_source("notes", str(tmp_path / "notes"), settings, columns)


@pytest.fixture
def encoder(tmp_path):
    return str(tiny_encoders.text_onnx(tmp_path / "encoder"))


def vectors_of(settings, name, split="base"):
    """Return id or key -> vector of a split, read as `reindex` reads it."""
    dataset = dataset_of(Spec(dataset=name), settings)
    vocabulary_of(dataset, None, InProcess(), dataset.shards("base"))  # assigns ids to keys
    batches = [batch for shard in dataset.shards(split) for batch in shard]
    return {i: x for batch in batches for i, x in zip(batch.ids.tolist(), batch.x, strict=True)}


def versions_of(settings, name):
    dataset = dataset_of(Spec(dataset=name), settings)
    return {shard.name: shard.version for shard in dataset.shards("base")}


def picture(colour):
    file = BytesIO()
    Image.new("RGB", (20, 12), tuple(colour)).save(file, "PNG")
    return file.getvalue()


def test_pictures_become_vectors_with_the_ids_labels_and_splits_of_their_source(settings, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (50, 3))
    for name, rows in (("base", slice(40)), ("query", slice(40, 50))):
        (tmp_path / name).mkdir()
        data = pa.array([picture(colour) for colour in colours[rows]], pa.binary())
        hot = np.eye(3, dtype=int)[np.arange(len(data)) % 3].tolist()
        table = pa.table({"id": 7 * np.arange(50)[rows], "image": data, "tags": hot})
        pq.write_table(table, tmp_path / name / "a.parquet")
    datasets.ingest_source(
        "colours", str(tmp_path / "base"), settings, Columns(x="", labels="tags"), str(tmp_path / "query"),
        labels_as="multi-hot",
    )  # fmt: skip
    found = embed("colours", str(tiny_encoders.picture_onnx(tmp_path / "encoder")), "colours-tiny")
    assert (found.rows, found.shards, found.encoded, found.dim, found.dropped) == (50, 2, 2, 5, 0)
    flat = np.broadcast_to(colours[:, None, None].astype(np.uint8), (50, 2, 2, 3))
    expected = tiny_encoders.of_pictures(flat)
    for split, rows in (("base", range(40)), ("query", range(40, 50))):
        held = vectors_of(settings, "colours-tiny", split)
        assert list(held) == [7 * row for row in rows]
        np.testing.assert_allclose(list(held.values()), expected[list(rows)], rtol=1e-4, atol=1e-5)
    new = load_dataset(settings.warehouse_url, "colours-tiny")
    assert (new.kind, new.metric, new.dim, new.columns.labels) == ("vector", "cosine", 5, "labels")
    (shard,) = new.shards("query", vocabulary=(0, 1, 2))
    assert [batch.y.argmax(1).tolist() for batch in shard] == [[i % 3 for i in range(10)]]


def test_only_shards_that_changed_are_encoded_again(settings, notes, encoder, tmp_path):
    assert embed("notes", encoder, "vectors").encoded == 3
    before = versions_of(settings, "vectors")
    assert embed("notes", encoder, "vectors").encoded == 0
    write_texts(tmp_path / "notes", 1, n=70)
    write_texts(tmp_path / "notes", 3)
    found = embed("notes", encoder, "vectors")
    assert (found.encoded, found.shards, found.rows) == (2, 4, 250)
    after = versions_of(settings, "vectors")
    assert [name for name in before if after[name] != before[name]] == ["1.parquet:0000000000"]


def test_rows_have_the_ids_of_their_source_and_the_text_of_their_key(settings, notes, encoder):
    embed("notes", encoder, "vectors")
    own = vectors_of(settings, "vectors")
    dataset = dataset_of(Spec(dataset="notes"), settings)
    assert set(own) == {i for shard in dataset.shards("base") for batch in shard for i in batch.ids.tolist()}
    said = pq.read_table(filesystem.listing(notes.splits["base"])[0].url)["said"].to_pylist()
    ids = dataset.shards("base")[0].ids(dataset.shards("base")[0].url)
    table = tiny_encoders.weights(0, len(tiny_encoders.WORDS))
    words = [[tiny_encoders.WORDS.index(word) for word in text.split()] for text in said]
    np.testing.assert_allclose([own[i] for i in ids], [table[row].mean(axis=0) for row in words], rtol=1e-4, atol=1e-5)


def test_a_large_shard_is_cut_into_pieces(settings, notes, encoder, monkeypatch):
    embed("notes", encoder, "whole")
    monkeypatch.setattr(pieces, "PIECE_ROWS", 25)
    monkeypatch.setattr(pieces, "READ_ROWS", 10)
    assert embed("notes", encoder, "cut").shards == 9
    whole, cut = vectors_of(settings, "whole"), vectors_of(settings, "cut")
    assert whole.keys() == cut.keys()
    assert all((whole[i] == cut[i]).all() for i in whole)


KILLED = """
import os, signal, sys
from workflows import embed
from workflows.encoders.models import StoredEncoder
encode, done = StoredEncoder.__call__, []
def dies_in_the_third(self, batch):
    done.append(len(batch))
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(self, batch)
StoredEncoder.__call__ = dies_in_the_third
embed.embed("notes", sys.argv[1], "vectors")
"""


def test_after_a_kill_nothing_is_visible_and_a_rerun_does_only_the_rest(settings, notes, encoder):
    killed = subprocess.run([sys.executable, "-c", KILLED, encoder], capture_output=True, text=True, timeout=600)
    assert killed.returncode == -9, killed.stderr
    assert not dataset_exists(settings.warehouse_url, "vectors")
    assert len(pieces.stored_pieces(settings.warehouse_url, "vectors")) == 2
    assert embed("notes", encoder, "vectors").encoded == 1
    assert len(vectors_of(settings, "vectors")) == 180


@pytest.mark.slow
def test_a_kill_in_an_update_leaves_the_dataset_as_it_was(settings, notes, encoder, tmp_path):
    embed("notes", encoder, "vectors")
    before = vectors_of(settings, "vectors"), versions_of(settings, "vectors")
    for part in range(3):
        write_texts(tmp_path / "notes", part, n=61)
    killed = subprocess.run([sys.executable, "-c", KILLED, encoder], capture_output=True, text=True, timeout=600)
    assert killed.returncode == -9, killed.stderr
    now = vectors_of(settings, "vectors"), versions_of(settings, "vectors")
    assert now[1] == before[1]
    assert now[0].keys() == before[0].keys()
    assert embed("notes", encoder, "vectors").encoded == 1
    assert len(vectors_of(settings, "vectors")) == 183


def test_another_encoder_makes_every_shard_stale(settings, notes, encoder, tmp_path):
    first = embed("notes", encoder, "vectors")
    before = versions_of(settings, "vectors"), vectors_of(settings, "vectors")
    other = embed("notes", str(tiny_encoders.text_onnx(tmp_path / "other", seed=1)), "vectors")
    assert other.encoder != first.encoder
    assert other.encoded == 3
    after = versions_of(settings, "vectors"), vectors_of(settings, "vectors")
    assert before[0].keys() == after[0].keys()
    assert not set(before[0].values()) & set(after[0].values())
    assert not any((before[1][i] == after[1][i]).any() for i in before[1])


def test_a_change_of_the_preprocessing_is_another_encoder(settings, notes, encoder, tmp_path):
    first = embed("notes", encoder, "vectors")
    file = tmp_path / "encoder" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 2}))
    assert embed("notes", encoder, "vectors").encoder != first.encoder


def test_reindex_embeds_what_changed_first_and_another_encoder_is_refused(settings, notes, encoder, tmp_path):
    embed("notes", encoder, "vectors")
    spec = Spec(dataset="vectors", method={"method": "lsh", "bits": 16}, protocol={"queries": 10})
    staged, _, version = conftest.reindex(settings, spec)
    assert (staged.rows, version) == (180, "v1")
    write_texts(tmp_path / "notes", 3)
    assert not is_current(load_dataset(settings.warehouse_url, "vectors"), settings)
    staged, _, version = conftest.reindex(settings, spec)
    assert (staged.rows, staged.encoded, version) == (240, 60, "v2")
    other = str(tiny_encoders.text_onnx(tmp_path / "other", seed=1))
    with pytest.raises(SourceRefused, match=r"remains in table vectors__lsh16: choose another name"):
        embed("notes", other, "vectors")
    assert embed("notes", encoder, "vectors").encoded == 0


def test_rows_that_cannot_be_read_are_refused_by_their_key_or_dropped(settings, tmp_path, encoder):
    said = ["cat purrs", None, "car wheel"]
    (tmp_path / "bad").mkdir()
    for part in range(2):
        table = pa.table({"id": [10 * part, 10 * part + 1, 10 * part + 2], "text": said if part else ["cat"] * 3})
        pq.write_table(table, tmp_path / "bad" / f"{part}.parquet")
    datasets.ingest_source("bad", str(tmp_path / "bad"), settings, Columns(x="text"))
    with pytest.raises(ValueError, match=r"expected a text, found null, in row 1 of .*1.parquet"):
        embed("bad", encoder, "vectors")
    assert not dataset_exists(settings.warehouse_url, "vectors")
    found = embed("bad", encoder, "vectors", bad_rows="drop")
    assert (found.encoded, found.rows, found.dropped) == (1, 5, 1)  # the other shard was stored before the refusal
    assert list(vectors_of(settings, "vectors")) == [0, 1, 2, 10, 12]
    assert is_current(load_dataset(settings.warehouse_url, "vectors"), settings)
    with pytest.raises(ValueError, match="expected a text, found null"):
        embed("bad", encoder, "vectors")


def test_deleted_rows_of_the_source_leave_the_vectors(settings, notes, encoder):
    embed("notes", encoder, "vectors")
    assert len(vectors_of(settings, "vectors")) == 180
    assert deletion.delete("vectors", ["note-0-5"]).rows == 1
    assert len(vectors_of(settings, "vectors")) == 179
    deletion.delete("notes", ["note-1-7", "note-1-8"])
    assert len(vectors_of(settings, "vectors")) == 177
    assert embed("notes", encoder, "vectors").encoded == 1
    assert len(vectors_of(settings, "vectors")) == 177


def files_with(folder, content):
    """Return the files below a folder that contain the bytes."""
    return [path for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()]


@pytest.mark.parametrize("dataset", ["notes", "vectors"])
def test_nothing_of_the_vector_of_a_deleted_row_stays_on_disk(settings, tmp_path, run_command, encoder, dataset):
    texts = [" ".join(words) for words in combinations_with_replacement(tiny_encoders.WORDS[2:11], 3)][:40]
    (tmp_path / "notes").mkdir()
    for part in range(2):
        table = pa.table({"key": [f"note-{part}-{i}" for i in range(20)], "said": texts[20 * part :][:20]})
        pq.write_table(table, tmp_path / "notes" / f"{part}.parquet")
    datasets.ingest_source("notes", str(tmp_path / "notes"), settings, Columns(id="key", keyed=True, x="said"))
    embed("notes", encoder, "vectors")
    conftest.reindex(settings, Spec(dataset="vectors", method={"method": "lsh", "bits": 16}, protocol={"queries": 2}))
    before = vectors_of(settings, "vectors")

    def check_gone(n):
        gc(grace=0, force=True, clock=lambda: time.time() + 60)
        now = vectors_of(settings, "vectors")
        assert len(now) == 40 - n
        assert all((now[i] == before[i]).all() for i in now)
        assert [i for i, x in before.items() if files_with(settings.home, x.tobytes())] == list(now)

    check_gone(0)
    _, out, _ = run_command("delete", dataset, "--keys", "note-1-3", "--yes")
    assert "Wrote the vectors of vectors without these rows; `hashkiln gc` deletes the earlier files" in out
    check_gone(1)
    assert deletion.delete(dataset, ["note-1-3"]).embedded == ()
    assert deletion.delete("vectors", ["note-1-4"]).embedded == ("vectors",)
    check_gone(2)
    assert embed("notes", encoder, "vectors").encoded == (1 if dataset == "notes" else 0)
    assert is_current(load_dataset(settings.warehouse_url, "vectors"), settings)
    check_gone(2)


@pytest.mark.parametrize("first", [True, False])
def test_rows_that_are_deleted_while_embed_encodes_leave_the_vectors(settings, notes, encoder, tmp_path, first):
    if not first:
        embed("notes", encoder, "vectors")
        write_texts(tmp_path / "notes", 3)
    names = ["note-1-7"]

    def meanwhile(label, done, total):
        if label == "embed vectors" and names:
            deletion.delete("notes", [names.pop()])

    embed("notes", encoder, "vectors", progress=meanwhile)
    dataset = load_dataset(settings.warehouse_url, "vectors")
    held = {key for file in dataset.files("base").values() for key in pq.read_table(file.url)["key"].to_pylist()}
    assert not names
    assert (len(held), "note-1-7" in held) == (179 if first else 239, False)
    assert is_current(dataset, settings)


def test_rows_that_are_embedded_while_a_deletion_writes_pieces_stay(settings, notes, encoder, tmp_path):
    embed("notes", encoder, "vectors")
    parts = [3]

    def meanwhile(label, done, total):
        if label == "erase from vectors" and parts:
            write_texts(tmp_path / "notes", parts.pop())
            embed("notes", encoder, "vectors")

    deletion.delete("vectors", ["note-1-7"], progress=meanwhile)
    dataset = load_dataset(settings.warehouse_url, "vectors")
    held = {key for file in dataset.files("base").values() for key in pq.read_table(file.url)["key"].to_pylist()}
    assert not parts
    assert (len(held), "note-1-7" in held) == (239, False)


def test_a_list_of_vectors_that_a_deletion_overwrites_comes_back_without_encoding(
    settings, notes, encoder, tmp_path, monkeypatch
):
    embed("notes", encoder, "vectors")
    save, parts = deletion.save_dataset, [3]

    def between_read_and_write(*arguments):
        write_texts(tmp_path / "notes", parts.pop())
        embed("notes", encoder, "vectors")
        save(*arguments)

    def held():
        files = load_dataset(settings.warehouse_url, "vectors").files("base").values()
        return {key for file in files for key in pq.read_table(file.url)["key"].to_pylist()}

    monkeypatch.setattr(deletion, "save_dataset", between_read_and_write)
    deletion.delete("vectors", ["note-1-7"])
    assert not parts
    assert (len(held()), "note-1-7" in held()) == (179, False)
    assert embed("notes", encoder, "vectors").encoded == 0
    assert (len(held()), "note-1-7" in held()) == (239, False)


def test_keys_without_ids_are_deleted_and_others_refused(settings, notes):
    with pytest.raises(ValueError, match="unknown key 'note-9-9', in the rows of notes to delete"):
        deletion.delete("notes", ["note-9-9"])
    assert deletion.delete("notes", ["note-1-7", "note-2-8"]).rows == 2


def test_a_deletion_publishes_tables_of_the_vectors_without_the_rows(settings, notes, encoder):
    embed("notes", encoder, "vectors")
    spec = Spec(dataset="vectors", method={"method": "lsh", "bits": 16}, protocol={"queries": 10})
    conftest.reindex(settings, spec)
    assert deletion.delete("notes", ["note-2-9"]).published == {"vectors__lsh16": "v2"}
    assert len(conftest.published_rows(settings, "vectors__lsh16").ids) == 179


def test_gc_deletes_vectors_and_encoders_that_no_dataset_uses(settings, notes, encoder, tmp_path):
    embed("notes", encoder, "vectors")
    old = embed("notes", encoder, "vectors").encoder
    embed("notes", str(tiny_encoders.text_onnx(tmp_path / "other", seed=1)), "vectors")
    gone = [item.kind for item in gc(grace=0, force=True, clock=lambda: time.time() + 60).items]
    assert (gone.count("vectors"), "encoder" in gone) == (3, True)
    assert not encoders.encoder_exists(settings.warehouse_url, old)
    assert len(vectors_of(settings, "vectors")) == 180
    assert embed("notes", str(tmp_path / "other" / "model.onnx"), "vectors").encoded == 0


def test_gc_keeps_old_pieces_that_embed_uses_again(settings, notes, encoder, tmp_path, monkeypatch):
    embed("notes", encoder, "vectors")
    embed("notes", str(tiny_encoders.text_onnx(tmp_path / "other", seed=1)), "vectors")
    for file in filesystem.inventory(pieces.folder_of(settings.warehouse_url, "vectors")):
        os.utime(file.url, (time.time() - 8 * 86_400,) * 2)
    remove, found = garbage.remove_if_older, []

    def then_embed(file, limit):
        removed = remove(file, limit)
        if not found:
            found.append(None)
            found.append(embed("notes", encoder, "vectors"))
        return removed

    monkeypatch.setattr(garbage, "remove_if_older", then_embed)
    gone = [item for item in gc(grace=7).items if item.kind == "vectors"]
    assert (len(gone), found[1].encoded) == (1, 1)
    assert len(vectors_of(settings, "vectors")) == 180


def test_pieces_that_are_deleted_while_embed_encodes_are_encoded_again(settings, notes, encoder, tmp_path):
    embed("notes", encoder, "vectors")
    held = filesystem.inventory(pieces.folder_of(settings.warehouse_url, "vectors"))
    write_texts(tmp_path / "notes", 3)

    def meanwhile(label, done, total):
        if label == "embed vectors":
            for file in held:
                if filesystem.exists(file.url):
                    filesystem.remove(file.url)
            held.clear()

    found = embed("notes", encoder, "vectors", progress=meanwhile)
    assert (found.encoded, found.rows) == (4, 240)
    assert len(vectors_of(settings, "vectors")) == 240


def test_embed_does_not_disturb_a_run_that_reads_its_pieces(settings, notes, encoder):
    embed("notes", encoder, "vectors")
    shards = dataset_of(Spec(dataset="vectors"), settings).shards("base")
    assert embed("notes", encoder, "vectors").encoded == 0
    for shard in shards:
        shard.refuse_change()


def test_ray_stores_the_same_vectors(settings, notes, encoder, ray_executor, monkeypatch):
    embed("notes", encoder, "here")
    monkeypatch.setenv("HASHKILN_EXECUTOR", "ray")
    assert embed("notes", encoder, "there").encoded == 3
    here, there = vectors_of(settings, "here"), vectors_of(settings, "there")
    assert here.keys() == there.keys()
    assert all((here[i] == there[i]).all() for i in here)


def test_names_that_are_taken_and_datasets_of_vectors_are_refused(settings, notes, encoder):
    with pytest.raises(UsageError, match="dataset notes was not embedded: choose another --name"):
        embed("notes", encoder, "notes")
    with pytest.raises(UsageError, match="dataset sample holds vectors"):
        embed("sample", encoder, "vectors")


def test_an_encoder_is_refused_before_the_dataset_is_ingested(settings, tmp_path):
    (tmp_path / "weights.bin").touch()
    with pytest.raises(EncoderRefused, match=r"expected a folder, or a file .onnx or .pt2"):
        embed("wordnet", str(tmp_path / "weights.bin"), "vectors")
    assert not dataset_exists(settings.warehouse_url, "wordnet")


@pytest.mark.parametrize("wrong", ["1x5", "2x2x5"])
def test_an_encoder_without_a_vector_for_each_row_is_refused_before_it_is_stored(
    settings, notes, encoder, run_command, wrong
):
    model = onnx.load(encoder)
    if wrong == "1x5":
        model.graph.node.append(onnx.helper.make_node("ReduceMean", ["y"], ["z"], axes=[0], keepdims=1))
        model.graph.output[0].name = "z"
    else:  # without pooling: a vector for each of two tokens
        model.graph.output[0].name = "words"
    onnx.save(model, encoder)
    ask = ["embed", "--dataset", "notes", "--encoder", encoder, "--name", "vectors", "--json"]
    code, out, _ = run_command(*ask)
    assert code == 2
    assert f"expected one vector for each of 2 rows, found an output of {wrong}: export" in out
    assert not pieces.stored_pieces(settings.warehouse_url, "vectors")
    assert not filesystem.inventory(filesystem.join(settings.warehouse_url, "encoders"))


def test_the_command_prints_the_digest_that_it_can_require_later(settings, notes, encoder, run_command):
    ask = ["embed", "--dataset", "notes", "--name", "vectors", "--json", "--encoder"]
    exit_code, out, _ = run_command(*ask, encoder)
    assert exit_code == 0
    digest = json.loads(out)["encoder"]
    assert run_command(*ask, f"{encoder}@sha256:{digest}")[0] == 0
    exit_code, out, _ = run_command(*ask, f"{encoder}@sha256:{'0' * 64}")
    assert exit_code == 2
    assert f"found {digest}" in out


def test_an_encoder_in_the_warehouse_that_was_modified_is_refused(settings, notes, encoder, tmp_path):
    found = embed("notes", encoder, "vectors")
    file = os.path.join(settings.warehouse_url, "encoders", found.encoder, "model.onnx")
    with open(file, "ab") as model:
        model.write(b"more")
    write_texts(tmp_path / "notes", 3)
    models._loaded.cache_clear()
    with pytest.raises(ValueError, match=r"model.onnx was modified"):
        embed("notes", encoder, "vectors")
