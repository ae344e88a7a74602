"""The rights of docs/how-to/secure.md: runs and readers work with them, and use every one of them."""

import json
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from infra.settings import Settings
from storage.features.rows import Columns
from storage.files import s3 as s3_clients
from storage.tables import iceberg
from tests.conftest import blobs
from tests.faulty_proxy import FaultyProxy
from tests.workflows.conftest import D, reindex, spec, write_shard
from workflows import datasets, opening
from workflows.tables.gc import gc
from workflows.tables.verify import verify

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "secure.md").read_text()
RUNS, READERS = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
(GRANTS,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)

LISTING = ("s3:ListBucket", "arn:aws:s3:::hashkiln")  # without it, AWS answers 403 instead of 404 for a missing object


def granted(policy):
    """Return the pairs (action, resource) of a policy."""
    pairs = set()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        pairs |= {(action, statement["Resource"]) for action in ([actions] if isinstance(actions, str) else actions)}
    return pairs


def used(requests):
    """Return the pairs (action, resource) that requests need, as "METHOD path"."""
    pairs = set()
    for request in requests:
        method, target = request.split(" ")[:2]
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query, keep_blank_values=True)
        bucket, _, key = path.strip("/").partition("/")
        if key:
            action = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "POST": "PutObject"}.get(method, "")
            action = action or ("AbortMultipartUpload" if "uploadId" in query else "DeleteObject")
        elif method == "POST" and "delete" in query:
            action, key = "DeleteObject", "warehouse/"
        elif method in ("GET", "HEAD") and bucket:
            action = "ListBucketMultipartUploads" if "uploads" in query else "ListBucket"
        else:
            action = f"{method} {target}"  # nothing that a policy of ours allows
        within = key.startswith("warehouse/")
        pairs.add((f"s3:{action}", f"arn:aws:s3:::{bucket}{'/warehouse/*' if within else f'/{key}' if key else ''}"))
    return pairs


@pytest.fixture
def database(postgresql):
    """The URL of a database whose owner has followed the page, with another user: a function of the user's name."""
    url = make_url(postgresql())
    iceberg.open_catalog(url.render_as_string(), "/nowhere")  # the owner: creates the tables
    connection = psycopg2.connect(host=url.query["host"], user="tests", dbname=url.database)
    connection.autocommit = True
    roles = re.findall(r"ROLE (\w+)", GRANTS)
    connection.cursor().execute(GRANTS)
    yield lambda user: str(url.update_query_dict({"user": user}))
    connection.cursor().execute("".join(f"DROP OWNED BY {role}; DROP ROLE {role};" for role in roles))
    connection.close()


@pytest.mark.slow
def test_runs_and_readers_need_exactly_the_rights_of_the_page(database, s3, source, tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    monkeypatch.setenv("HASHKILN_WAREHOUSE", f"{s3}/warehouse")
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path))
    monkeypatch.setenv("HASHKILN_CATALOG", database("hashkiln_run"))
    columns, of = Columns(id="key", x="embedding", labels="tags"), spec(gate={"max_loss": 1.0})
    with FaultyProxy(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc, failing=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        datasets.ingest_source("mine", str(source), Settings(), columns)
        reindex(Settings(), of)
        write_shard(source, "part4.parquet", blobs(200, D, seed=9, first_id=4000))
        reindex(Settings(), of)
        fs = s3_clients.fsspec_filesystem(s3)
        fs.call_s3("create_multipart_upload", Bucket="hashkiln", Key="warehouse/models/unfinished")
        gc(keep=1, grace=0, force=True)
        assert verify("mine__itq16").problems == ()
        assert used(proxy.tries) == granted(RUNS)

        proxy.tries.clear()
        monkeypatch.setenv("HASHKILN_CATALOG", database("hashkiln_read"))
        opening.open("mine__itq16").search(blobs(2, D).x, k=3)
        assert used(proxy.tries) | {LISTING} == granted(READERS)
        with pytest.raises(Exception, match="permission denied"):
            reindex(Settings(), of.model_copy(update={"refit": "always"}))
