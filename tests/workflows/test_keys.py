"""Datasets whose rows have keys: every result names rows by their keys."""

import json
import uuid

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hashkiln
from infra.executors import InProcess
from storage.features import keys
from storage.features.rows import Columns
from tests.conftest import blobs
from tests.workflows.conftest import reindex
from workflows import datasets, export, opening, search
from workflows.context import Context
from workflows.evaluation.judge import judge_of
from workflows.reader import Search
from workflows.spec import Spec
from workflows.tables import deletion, verify

D, N = 16, 400
SPEC = Spec(dataset="mine", method={"method": "lsh", "bits": 16}, protocol={"queries": 20})
TABLE = "mine__lsh16"


def write(folder, name, keys, x):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"sku": keys, "vector": list(x.astype(np.float32))}), folder / name)


@pytest.fixture
def base(tmp_path):
    """Return the keys and vectors of two files; neither order nor type of the keys follows the ids."""
    x = blobs(N, D, seed=3).x
    names = [f"sku-{i:03}-é" for i in np.random.default_rng(1).permutation(N)]
    write(tmp_path / "base", "a.parquet", names[:250], x[:250])
    write(tmp_path / "base", "b.parquet", names[250:], x[250:])
    return names, x


@pytest.fixture
def published(base, tmp_path, settings, run_command):
    given = [str(tmp_path / "base"), "--name", "mine", "--key-column", "sku"]
    assert run_command("ingest", *given)[0] == 0
    assert reindex(settings, SPEC)[2] == "v1"
    return base


def test_search_returns_keys_of_rows_and_of_queries(published, tmp_path, run_command):
    names, x = published
    own = ["who", names[7], "knows", names[300]]
    write(tmp_path, "q.parquet", own, x[[5, 7, 9, 300]])
    out = tmp_path / "found.parquet"
    assert run_command("search", TABLE, "--queries", str(tmp_path / "q.parquet"), "--out", str(out), "--k", "1")[0] == 0
    found = pq.read_table(out)
    assert found.column_names == ["query", "rank", "id", "distance", "key", "query_key"]
    assert found["query_key"].to_pylist() == own
    query, row = found["query"].to_pylist(), found["id"].to_pylist()
    assert (query[0], query[2]) == (2**41, 2**41 + 2)
    assert found["distance"].to_pylist() == [0] * 4
    reader = hashkiln.open(TABLE)
    position = {name: i for i, name in enumerate(names)}
    codes = reader.function.encode(x)
    for i, key in zip([5, 7, 9, 300], found["key"].to_pylist(), strict=True):
        assert (codes[position[key]] == codes[i]).all()
    assert keys.find_ids(reader.dataset.keys, found["key"].to_pylist(), "here").tolist() == row
    assert query[1] == keys.find_ids(reader.dataset.keys, [names[7]], "here")


def test_queries_without_keys_and_queries_by_radius_are_answered(published, tmp_path):
    names, x = published
    np.save(tmp_path / "q.npy", x[:3])
    found = search.search(TABLE, str(tmp_path / "q.npy"), str(tmp_path / "found.parquet"), Search(radius=0))
    rows = pq.read_table(found.out)
    assert rows.column_names == ["query", "rank", "id", "distance", "key"]
    assert set(names[:3]) <= set(rows["key"].to_pylist())


def test_repeated_keys_of_queries_are_refused(published, tmp_path):
    write(tmp_path, "q.parquet", ["one", "two", "one"], published[1][:3])
    with pytest.raises(ValueError, match="expected distinct keys of queries, found 1 repeated"):
        search.search(TABLE, str(tmp_path / "q.parquet"), str(tmp_path / "found.parquet"))


def test_readers_return_keys(published):
    names, x = published
    with opening.open(TABLE, follow=True) as follower, follower.pinned() as reader:
        _, ids = reader.search(x[:4], k=3, rerank=20)
        found = reader.keys(ids)
        assert (found.shape, list(found[:, 0])) == ((4, 3), names[:4])
        assert (follower.keys(ids) == found).all()
        with pytest.raises(ValueError, match=rf"expected ids of the {N} keys in .*, found {N}"):
            reader.keys(np.array([N]))


@pytest.mark.parametrize("form", ["npy", "faiss-flat"])
def test_exports_have_the_keys_in_the_order_of_their_rows(published, tmp_path, form):
    names, _ = published
    export.export_version(TABLE, form, str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / "keys.parquet")
    assert sorted(table["key"].to_pylist()) == sorted(names)
    if form == "npy":
        assert np.load(tmp_path / "out" / "ids.npy").tolist() == table["id"].to_pylist()
        assert table["key"].to_pylist() == names
    else:
        index = faiss.read_index_binary(str(tmp_path / "out" / "index.faiss"))
        stored = [index.id_map.at(i) for i in range(N)]
        assert stored == table["id"].to_pylist()


def test_rows_are_deleted_by_their_keys(published, run_command, tmp_path):
    names, _ = published
    (tmp_path / "gone,1.txt").write_text(f"{names[0]}\n{names[399]}\n")
    code, out, _ = run_command("delete", "mine", "--keys", str(tmp_path / "gone,1.txt"), "--yes", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 2)
    found = hashkiln.open(TABLE)
    assert found.version.name == "v2"
    assert set(found.keys(found.ids)) == set(names[1:399])
    preview = deletion.preview("mine", [names[1]])
    assert (preview.examples, preview.named_by) == ((names[1],), "keys")
    with pytest.raises(ValueError, match="unknown key 'nobody', in the rows of mine to delete"):
        deletion.delete("mine", ["nobody"])


def test_errors_name_keys(published, settings, tmp_path):
    names, x = published
    write(tmp_path / "base", "c.parquet", ["again", names[3]], x[:2])
    with pytest.raises(
        ValueError, match=rf"unique keys, found 1 in two shards: '{names[3]}' in a.parquet and c.parquet"
    ):
        reindex(settings, SPEC)
    write(tmp_path / "base", "c.parquet", ["twice", "twice"], x[:2])
    with pytest.raises(ValueError, match=r"expected unique keys, found 1 more than once \('twice'\), in .*c\.parquet"):
        reindex(settings, SPEC)
    bad = x[:3].copy()
    bad[1, 2] = np.nan
    write(tmp_path / "base", "c.parquet", ["fine", "bad", "good"], bad)
    with pytest.raises(ValueError, match=r"found NaN or infinity, for key 'bad', in row 1 of .*c\.parquet"):
        reindex(settings, SPEC)
    staged, _, version = reindex(settings, SPEC.model_copy(update={"bad_rows": "drop"}))
    assert (staged.dropped, version) == (1, "v2")
    (quarantine,) = (settings.home / "warehouse").rglob("quarantine/*.parquet")
    assert pq.read_table(quarantine)["key"].to_pylist() == ["bad"]
    assert verify.verify(TABLE, deep=True).problems == ()
    reader = hashkiln.open(TABLE)
    (tmp_path / "base" / "b.parquet").unlink()
    first = min(keys.find_ids(reader.dataset.keys, names[250:], "here"))
    lost = reader.keys(np.array([first]))[0]
    with pytest.raises(ValueError, match=rf"the source of 150 rows has changed or was removed \(row '{lost}', …\)"):
        reader.search(x[:1], k=1, rerank=N + 2)


def test_a_query_split_has_its_own_keys(base, tmp_path, settings):
    names, x = base
    write(tmp_path / "query", "q.parquet", [names[1], "new 1"], x[:2])
    datasets.ingest_source(
        "mine", str(tmp_path / "base"), settings, Columns(id="sku", keyed=True), str(tmp_path / "query")
    )
    assert reindex(settings, SPEC)[2] == "v1"
    write(tmp_path / "query", "q.parquet", [names[1], "new 2"], x[:2])
    found = search.search(TABLE, "query", str(tmp_path / "found.parquet"), Search(k=1))
    assert pq.read_table(found.out)["query_key"].to_pylist() == [names[1], "new 2"]
    queries = judge_of(Context.of(SPEC, settings, InProcess()), ()).queries
    assert queries.ids[1] == 2**41 + 1


@pytest.mark.parametrize("kind", ["bytes", "uuid"])
def test_keys_of_other_types_come_back(tmp_path, settings, kind):
    ids = [uuid.UUID(int=i) for i in range(N)]
    column = pa.array([i.bytes for i in ids], pa.binary(16) if kind == "bytes" else pa.uuid())
    write(tmp_path / "base", "a.parquet", column, blobs(N, D, seed=3).x)
    datasets.ingest_source("mine", str(tmp_path / "base"), settings, Columns(id="sku", keyed=True))
    assert reindex(settings, SPEC)[2] == "v1"
    reader = hashkiln.open(TABLE)
    names = [i.bytes if kind == "bytes" else str(i) for i in ids]
    assert set(reader.keys(reader.ids)) == set(names)
    assert deletion.delete("mine", names[:2]).rows == 2
