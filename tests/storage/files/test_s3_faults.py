"""S3 that fails: a real server behind a proxy that throttles, resets, truncates and stalls; denied requests."""

import os
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from hashing.bits import pack
from hashing.families import LinearHash
from storage.features.dataset import Dataset, write_split
from storage.features.rows import Columns
from storage.files import filesystem
from storage.files import s3 as s3_clients
from storage.files.filesystem import join
from storage.formats import FeatureRows
from storage.tables import iceberg, parts
from storage.tables.table import create_table
from tests.conftest import blobs
from tests.faulty_proxy import KINDS, FaultyProxy


@pytest.fixture
def through(s3, monkeypatch):
    """Start a proxy in front of the S3 server and redirect every client to it."""
    server, proxies = urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc, []

    def start(**schedule):
        proxies.append(FaultyProxy(server, **schedule).__enter__())
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxies[-1].url)
        return proxies[-1]

    monkeypatch.setattr(s3_clients, "TIMEOUT", 1)
    yield start
    for proxy in proxies:
        proxy.__exit__()


@pytest.fixture
def key(s3, monkeypatch):
    """Switch to other credentials."""

    def become(name, secret):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", name)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        s3fs.S3FileSystem.clear_instance_cache()  # it holds connections with the previous key

    yield become
    s3fs.S3FileSystem.clear_instance_cache()


def use(folder):
    """Use every operation of a filesystem, through each of its clients."""
    content = os.urandom(100_000)
    filesystem.write_bytes(join(folder, "a"), b"old")
    filesystem.write_bytes(join(folder, "a"), content)
    assert filesystem.read_bytes(join(folder, "a")) == content
    assert filesystem.stat(join(folder, "a")).size == len(content)
    assert not filesystem.exists(join(folder, "b"))
    assert filesystem.create_exclusive(join(folder, "b"), b"mine")
    assert not filesystem.create_exclusive(join(folder, "b"), b"other")
    assert filesystem.read_bytes(join(folder, "b")) == b"mine"
    table = pa.table({"x": np.random.default_rng(0).random(50_000)})
    with filesystem.create(join(folder, "t.parquet")) as file:
        pq.write_table(table, file)
    fs, path = filesystem.arrow(join(folder, "t.parquet"))
    assert pq.read_table(path, filesystem=fs) == table
    paths = [filesystem.relative_path(folder, file.url) for file in filesystem.listing(folder)]
    assert paths == ["a", "b", "t.parquet"]
    filesystem.remove(join(folder, "b"))
    assert not filesystem.exists(join(folder, "b"))


def test_temporary_failures_are_retried(s3, through):
    proxy = through(failing=0.8, attempts=1, stall=1.5, seed=1)
    use(f"{s3}/for-a-while")  # the name is part of the schedule's key
    assert proxy.faults.keys() == set(KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_request_can_fail_twice(s3, through, tmp_path, kind):
    proxy = through(failing=1, attempts=2, kinds=(kind,), stall=1.5)
    use(f"{s3}/{tmp_path.name}")
    assert proxy.faults[kind] > 20


@pytest.mark.parametrize("kind", ["slow down", "internal error", "reset"])
def test_permanent_failures_end_with_one_line(s3, through, monkeypatch, kind):
    monkeypatch.setattr(s3_clients, "ATTEMPTS", 2)
    filesystem.write_bytes(f"{s3}/there", b"x")
    proxy = through(failing=1, attempts=10**6, kinds=(kind,))
    fs, path = filesystem.arrow(f"{s3}/there")
    actions = {
        "read": lambda: filesystem.read_bytes(f"{s3}/there"),
        "write": lambda: filesystem.write_bytes(f"{s3}/there", b"y"),
        "list": lambda: filesystem.listing(s3),
        "": lambda: fs.open_input_file(path),
    }
    for action, do in actions.items():
        before = sum(proxy.tries.values())
        line = f"^cannot {action} s3://.*: S3 at {proxy.url} failed 2 times: |AWS Error"
        with pytest.raises(OSError, match=line) as given_up:
            do()
        assert "\n" not in str(given_up.value)
        assert 2 <= sum(proxy.tries.values()) - before <= 2 * s3_clients.BODY_ATTEMPTS


@pytest.mark.slow
def test_a_table_is_written_and_read_through_faults(s3, through, tmp_path):
    """Source shards, parts and Iceberg commits: every S3 operation of a run, once each."""
    folder, batch = f"{s3}/{tmp_path.name}", blobs(300, 8)
    write_split(join(folder, "base"), [FeatureRows(batch.ids, batch.x, None)], 100)
    proxy = through(failing=0.4, attempts=2, stall=1.5, seed=2)
    function = LinearHash(np.random.default_rng(0).standard_normal((8, 16)), np.zeros(16))
    dataset = Dataset(name="d", dim=8, splits={"base": join(folder, "base")}, columns=Columns(), source="")
    table = create_table(iceberg.open_catalog(f"sqlite:///{tmp_path / 'c.db'}", join(folder, "w")), "t", 16)
    base = table.version()
    table.stage("staged-x", base.snapshot_id)
    for shard in dataset.shards("base"):
        table.replace("staged-x", [parts.encode_shard(shard, function, table.folder)], set(), {"model": "m"})
    version = table.publish(table.version("staged-x"), base.snapshot_id)
    assert version.name == "v1"
    read = [batch for shard in table.shards(version.snapshot_id) for batch in shard]
    np.testing.assert_array_equal(np.concatenate([b.ids for b in read]), batch.ids)
    np.testing.assert_array_equal(np.concatenate([b.x for b in read]), pack(function.encode(batch.x)))
    assert sum(proxy.faults.values()) > 30


@pytest.mark.parametrize(
    ("name", "secret", "reason"),
    [
        ("hashkiln", "wrong", "The request signature we calculated does not match the signature you provided"),
        ("nobody", "at all", "The access key ID you provided does not exist in our records"),
        ("reader", "reader-secret", "Access Denied"),
    ],
)
def test_a_denied_request_names_the_operation_and_the_key(s3, key, name, secret, reason):
    filesystem.write_bytes(f"{s3}/there", b"x")
    key(name, secret)
    line = rf"^permission denied: cannot write {s3}/mine: {reason}.* \(AWS_ACCESS_KEY_ID is {name}\)$"
    with pytest.raises(PermissionError, match=line):
        filesystem.write_bytes(f"{s3}/mine", b"x")
    with pytest.raises(PermissionError, match=line):
        filesystem.create_exclusive(f"{s3}/mine", b"x")
    with pytest.raises(PermissionError, match=line):
        filesystem.check_writable(f"{s3}/mine")
    if name == "reader":
        assert filesystem.read_bytes(f"{s3}/there") == b"x"
    else:
        for action in (filesystem.exists, filesystem.read_bytes, filesystem.stat):
            with pytest.raises(PermissionError, match=rf"^permission denied: cannot read {s3}/there: Forbidden \(AWS"):
                action(f"{s3}/there")
