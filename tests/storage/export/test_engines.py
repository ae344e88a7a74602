"""Exported codes searched in the engine that reads them, or compared with the form that its documents show."""

import csv
import dataclasses
import json
from pathlib import Path

import duckdb
import faiss
import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy.engine import make_url

from hashing.bits import n_bytes, pack
from hashing.hamming.scan import topk
from hashing.mapreduce import Batch
from storage.export import duckdb as duckdb_export
from storage.export import faiss as faiss_export
from storage.export import lance, milvus, npy, opensearch, pgvector, qdrant
from storage.export.rows import VersionRows
from storage.features import keys
from storage.tables import parts
from tests.conftest import blobs
from tests.storage.tables.test_parts import function, shard

D, K = 16, 20
LABELS = ("a b", 'c"d\\', "it's", "", "ü,;", "{f}")  # what needs quotes in some form
WIDTHS = pytest.mark.parametrize("n_bits", [12, 64])


@pytest.fixture
def version(tmp_path):
    """A function that encodes rows into two parts, and a third without rows: VersionRows."""

    def encode(n_bits, first_id=0, labels=LABELS):
        found = []
        for i, part in enumerate(np.array_split(np.arange(1000), 2)):
            folder = str(tmp_path / f"source{i}")
            source = shard(folder, batch(first_id).take(part), labels=bool(labels))
            found.append(parts.encode_shard(source, function(n_bits), str(tmp_path / "data")))
        found.append(found[0]._replace(url=without_rows(found[0], tmp_path, n_bits), rows=0, min_id=0, max_id=-1))
        shards = [parts.CodeShard(part._replace(size=None), n_bits, range(len(labels))) for part in found]
        return VersionRows("2d__code", shards, labels)  # a name that SQL needs in quotes

    return encode


def without_rows(part, tmp_path, n_bits):
    ids = parts.read_ids(part.url)
    return parts.without_rows(part, ids, str(tmp_path / "data"), part.version, n_bits).url


def batch(first_id=0):
    drawn = blobs(1000, D, seed=3)
    return Batch(np.random.default_rng(0).permutation(1000) + first_id, drawn.x, drawn.y)


def expected(n_bits, first_id=0):
    """Bits of 5 queries (5, n_bits), and the distances and ids (5, K) of their nearest rows: our search."""
    rows, x = batch(first_id), blobs(5, D, seed=4).x
    order = np.argsort(rows.ids)
    codes, asked = (pack(function(n_bits).encode(of)) for of in (rows.x[order], x))
    distances, found = topk(asked, codes, K)
    return function(n_bits).encode(x), distances, rows.ids[order][found]


def text(bits):
    return "".join("01"[bit] for bit in bits.astype(int))


@WIDTHS
def test_duckdb_finds_what_we_find(version, tmp_path, n_bits, monkeypatch):
    duckdb_export.write(version(n_bits, first_id=-5000), tmp_path)
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as database:
        database.execute(Path("load.sql").read_text())
        queries, distances, ids = expected(n_bits, first_id=-5000)
        for i, query in enumerate(queries):
            found = database.execute("FROM nearest($1, $2)", [text(query), K]).fetchall()
            assert found == list(zip(ids[i].tolist(), distances[i].tolist(), strict=True))
        stored = database.execute('SELECT code::VARCHAR, labels FROM "2d__code" ORDER BY id').fetchall()
    assert stored == rows_as_text(n_bits)


def rows_as_text(n_bits):
    rows = batch()
    order = np.argsort(rows.ids)
    bits = function(n_bits).encode(rows.x[order])
    return [(text(row), [LABELS[c]]) for row, c in zip(bits, rows.y[order].argmax(1), strict=True)]


@WIDTHS
def test_postgresql_finds_what_we_find(version, tmp_path, n_bits, postgresql):
    pgvector.write(version(n_bits, first_id=-5000), tmp_path)
    place = make_url(postgresql())
    connection = psycopg2.connect(host=place.query["host"], user="tests", dbname=place.database)
    try:
        cursor = connection.cursor()
        cursor.execute((tmp_path / "schema.sql").read_text())
        with (tmp_path / "codes.csv").open() as file:
            cursor.copy_expert('COPY "2d__code" FROM STDIN WITH (FORMAT csv, HEADER)', file)
        queries, distances, ids = expected(n_bits, first_id=-5000)
        search = 'SELECT id, bit_count(code # %s::bit({})) AS distance FROM "2d__code" ORDER BY 2, 1 LIMIT %s'
        for i, query in enumerate(queries):
            cursor.execute(search.format(n_bits), (text(query), K))
            assert cursor.fetchall() == list(zip(ids[i].tolist(), distances[i].tolist(), strict=True))
        cursor.execute('SELECT code::text, labels FROM "2d__code" ORDER BY id')
        assert cursor.fetchall() == rows_as_text(n_bits)
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
        if cursor.fetchone():
            cursor.execute((tmp_path / "index.sql").read_text())
            cursor.execute("SET LOCAL enable_seqscan = off")
            search = 'SELECT code <~> %s AS d FROM "2d__code" ORDER BY d LIMIT %s'
            for i, query in enumerate(queries):
                cursor.execute(f"EXPLAIN {search}", (text(query), K))
                assert "Index Scan" in str(cursor.fetchall())
                cursor.execute(search, (text(query), K))
                assert np.mean([row[0] for row in cursor] == distances[i]) > 0.9
    finally:
        connection.close()


@pytest.mark.parametrize("first_id", [0, -5000])
@pytest.mark.parametrize("write", [faiss_export.write_flat, faiss_export.write_hnsw, faiss_export.write_ivf])
@WIDTHS
def test_faiss_finds_what_we_find(version, tmp_path, n_bits, write, first_id):
    write(version(n_bits, first_id), tmp_path)
    index = faiss.read_index_binary(str(tmp_path / "index.faiss"))
    assert (index.ntotal, index.d) == (1000, 8 * n_bytes(n_bits))
    queries, distances, ids = expected(n_bits, first_id)
    found, found_ids = index.search(pack(queries), K)
    rows = batch(first_id)
    bits = function(n_bits).encode(rows.x[np.argsort(rows.ids)])
    np.testing.assert_array_equal(found, (bits[found_ids - first_id] != queries[:, None]).sum(axis=2))
    if write == faiss_export.write_hnsw:
        assert (found == distances).mean() > 0.9
    else:  # at the last distance Faiss keeps whichever it met
        np.testing.assert_array_equal(found, distances)
        sure = distances < distances[:, -1:]
        assert all(set(row[s]) <= set(got) for row, s, got in zip(ids, sure, found_ids, strict=True))


@WIDTHS
def test_lance_finds_what_we_find(version, tmp_path, n_bits):
    engine = pytest.importorskip("lance", reason="SKIPPED FOR WANT OF LANCE: pip install pylance")
    lance.write(version(n_bits, first_id=-5000), tmp_path)
    dataset = engine.dataset(str(tmp_path / "codes.lance"))
    queries, distances, _ = expected(n_bits, first_id=-5000)
    for i, query in enumerate(pack(queries)):
        nearest = {"column": "code", "q": query, "k": K, "metric": "hamming"}
        found = dataset.to_table(nearest=nearest, columns=["id", "_distance"])
        np.testing.assert_array_equal(found["_distance"].to_numpy(), distances[i])
    stored = dataset.to_table(columns=["id", "labels"]).to_pylist()
    assert [row["labels"] for row in sorted(stored, key=lambda row: row["id"])] == [r[1] for r in rows_as_text(n_bits)]


@WIDTHS
def test_the_import_of_milvus_is_as_documented(version, tmp_path, n_bits):
    milvus.write(version(n_bits), tmp_path)
    table = pq.read_table(tmp_path / "codes.parquet").sort_by("id")
    assert [str(kind) for kind in table.schema.types] == ["int64", "list<element: uint8>", "string"]
    fields = json.loads((tmp_path / "collection.json").read_text())["schema"]["fields"]
    assert [field["fieldName"] for field in fields] == table.column_names
    dimension = int(fields[1]["elementTypeParams"]["dim"])
    assert dimension == 8 * n_bytes(n_bits)
    for row, (bits, value) in zip(table.to_pylist(), rows_as_text(n_bits), strict=True):
        packed = bytearray(dimension // 8)  # as convert_bool_list_to_bytes in milvus.io/docs/binary-vector.md
        for i, bit in enumerate(bits):
            packed[i // 8] |= int(bit) << i % 8
        assert (bytes(row["code"]), json.loads(row["labels"])) == (bytes(packed), value)


@WIDTHS
def test_the_bulk_files_of_opensearch_are_as_documented(version, tmp_path, n_bits, monkeypatch):
    monkeypatch.setattr("storage.export.rows.REQUEST_BITS", 300 * n_bits)
    opensearch.write(version(n_bits), tmp_path)
    assert len(list(tmp_path.glob("bulk-*.ndjson"))) == 4
    found = {}
    for file in tmp_path.glob("bulk-*.ndjson"):
        lines = list(map(json.loads, file.read_text().splitlines()))
        found |= {int(action["index"]["_id"]): body for action, body in zip(lines[::2], lines[1::2], strict=True)}
    assert len(found) == 1000
    for i, (bits, labels) in enumerate(rows_as_text(n_bits)):
        packed = np.packbits(np.array(list(bits), np.uint8)).astype(np.int8).tolist()  # as OpenSearch documents it
        assert found[i] == {"code": packed, "labels": labels}
    mapping = json.loads((tmp_path / "opensearch.json").read_text())["mappings"]["properties"]
    assert (mapping["code"]["dimension"], mapping["code"]["data_type"]) == (8 * n_bytes(n_bits), "binary")
    mapping = json.loads((tmp_path / "elasticsearch.json").read_text())["mappings"]["properties"]
    assert mapping["code"] == {"type": "dense_vector", "dims": 8 * n_bytes(n_bits), "element_type": "bit"}
    assert mapping["labels"] == {"type": "keyword"}


@WIDTHS
def test_qdrant_gets_vectors_whose_manhattan_distance_is_the_hamming_distance(version, tmp_path, n_bits):
    qdrant.write(version(n_bits), tmp_path)
    points = [p for file in tmp_path.glob("points-*.json") for p in json.loads(file.read_text())["points"]]
    points.sort(key=lambda point: point["id"])
    assert [(text(np.array(p["vector"])), p["payload"]["labels"]) for p in points] == rows_as_text(n_bits)
    vectors = json.loads((tmp_path / "collection.json").read_text())["vectors"]
    assert vectors == {"size": n_bits, "distance": "Manhattan", "datatype": "uint8"}
    with pytest.raises(ValueError, match="Qdrant needs ids from 0, found -5000"):
        qdrant.write(version(n_bits, first_id=-5000), tmp_path)


@WIDTHS
def test_qdrant_finds_what_we_find(version, tmp_path, n_bits):
    engine = pytest.importorskip("qdrant_client", reason="SKIPPED FOR WANT OF QDRANT: pip install qdrant-client")
    qdrant.write(version(n_bits), tmp_path)
    client = engine.QdrantClient(":memory:")
    try:
        about = json.loads((tmp_path / "collection.json").read_text())["vectors"]
        client.create_collection("codes", engine.models.VectorParams(**about))
        for file in tmp_path.glob("points-*.json"):
            points = json.loads(file.read_text())["points"]
            client.upsert("codes", [engine.models.PointStruct(**point) for point in points])
        queries, distances, ids = expected(n_bits)
        for i, query in enumerate(queries):
            found = client.query_points("codes", query.astype(float).tolist(), limit=K).points
            assert [point.score for point in found] == distances[i].tolist()
            sure = distances[i] < distances[i, -1]  # at the last distance Qdrant keeps whichever it met
            assert set(ids[i][sure]) <= {point.id for point in found}
    finally:
        client.close()


WRITERS = [
    duckdb_export.write,
    pgvector.write,
    milvus.write,
    opensearch.write,
    qdrant.write,
    faiss_export.write_flat,
    faiss_export.write_ivf,
    faiss_export.write_hnsw,
    lance.write,
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: f"{write.__module__}.{write.__name__}")
def test_versions_without_rows_and_without_labels(version, tmp_path, write):
    rows = version(8, labels=())
    write(VersionRows(rows.table, rows.shards[-1:]), tmp_path)
    files = {path.name: path for path in tmp_path.iterdir() if path.is_file()}
    if "codes.parquet" in files:
        table = pq.read_table(files["codes.parquet"])
        assert (table.num_rows, table.column_names) == (0, ["id", "code"])
    if "codes.csv" in files:
        assert files["codes.csv"].read_text() == '"id","code"\n'
    if "index.faiss" in files:
        assert faiss.read_index_binary(str(files["index.faiss"])).ntotal == 0
    assert not [name for name in files if name.startswith(("bulk", "points"))]


def read_keys(place):
    """Return the key of each id, as each target writes it."""
    if (place / "keys.parquet").exists():
        found = pq.read_table(place / "keys.parquet").to_pylist()
    elif (place / "codes.parquet").exists():
        found = pq.read_table(place / "codes.parquet").to_pylist()
    elif (place / "codes.csv").exists():
        with (place / "codes.csv").open() as file:
            found = [{**row, "id": int(row["id"])} for row in csv.DictReader(file)]
    elif (place / "collection.json").exists():
        points = [p for file in place.glob("points-*.json") for p in json.loads(file.read_text())["points"]]
        found = [{"id": p["id"], "key": p["payload"]["key"]} for p in points]
    elif (place / "codes.lance").exists():
        found = pytest.importorskip("lance").dataset(str(place / "codes.lance")).to_table().to_pylist()
    else:
        lines = [json.loads(line) for file in place.glob("bulk-*.ndjson") for line in file.read_text().splitlines()]
        found = [{"id": int(a["index"]["_id"]), **b} for a, b in zip(lines[::2], lines[1::2], strict=True)]
    return {row["id"]: row["key"] for row in found}


@pytest.mark.parametrize("kind", [str, bytes])
@pytest.mark.parametrize("write", [*WRITERS, npy.write], ids=lambda write: f"{write.__module__}.{write.__name__}")
def test_rows_come_with_their_keys(version, tmp_path, write, kind):
    words = [f"key {i:04}, ü" for i in range(1000)]  # in the order of their ids
    keys.assign_ids(folder := str(tmp_path / "keys"), pa.array([kind_of(word, kind) for word in words]))
    (tmp_path / "out").mkdir()
    write(dataclasses.replace(version(8), keys=folder), tmp_path / "out")
    found = read_keys(tmp_path / "out")
    if kind is bytes and not isinstance(found[0], bytes):
        found = {id_: bytes.fromhex(key) for id_, key in found.items()}
    assert found == {i: kind_of(word, kind) for i, word in enumerate(words)}


def kind_of(word, kind):
    return word.encode() if kind is bytes else word
