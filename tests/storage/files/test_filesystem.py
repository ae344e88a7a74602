"""One conformance suite for every filesystem: local disk, a real S3 server, emulators of Google and Azure."""

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.files import filesystem, uploads
from storage.files.filesystem import join


def test_what_is_written_is_read_listed_and_replaced(folder):
    url = join(folder, "a", "b.bin")
    assert not filesystem.exists(url)
    assert not filesystem.exists(join(folder, "no bucket"))
    filesystem.write_bytes(url, b"one")
    assert filesystem.exists(url)
    assert filesystem.read_bytes(url) == b"one"
    filesystem.write_bytes(join(folder, "a", "c.txt"), b"12345")
    first, second = filesystem.listing(folder)
    assert (first.url, first.size) == (url, 3)
    assert second.size == 5
    assert filesystem.relative_path(folder, first.url) == "a/b.bin"
    assert [entry.url for entry in filesystem.listing(folder, ".bin")] == [url]
    assert filesystem.listing(url) == [first]
    deep = join(folder, "a", "d", "e.bin")
    filesystem.write_bytes(deep, b"")
    assert [entry.url for entry in filesystem.inventory(folder, 2)] == [first.url, second.url]
    assert [entry.url for entry in filesystem.inventory(folder)] == [first.url, second.url, deep]
    assert filesystem.inventory(join(folder, "nothing"), 2) == []
    assert filesystem.relative_path(url, url) == "b.bin"
    assert filesystem.stat(url) == first
    filesystem.write_bytes(url, b"two!")
    assert filesystem.read_bytes(url) == b"two!"
    assert filesystem.stat(url).version != first.version


def test_a_file_that_can_be_written_is_asked_for_without_a_trace(folder):
    filesystem.check_writable(join(folder, "new", "file"))
    assert filesystem.inventory(folder) == []
    assert uploads.incomplete_uploads(folder, float("inf")) == []
    filesystem.write_bytes(url := join(folder, "file"), b"whole")
    filesystem.check_writable(url)
    assert filesystem.read_bytes(url) == b"whole"
    filesystem.write_bytes(url, b"another")
    assert filesystem.read_bytes(url) == b"another"


def test_a_file_that_may_only_be_read_is_no_output_on_azure(azure, monkeypatch, request):
    from azure.storage.blob import generate_container_sas

    from storage.files.azure import FileSystem

    filesystem.write_bytes(f"{azure}/there", b"x")
    known = dict(pair.split("=", 1) for pair in os.environ["AZURE_STORAGE_CONNECTION_STRING"].split(";") if pair)
    account, later = known["AccountName"], datetime.now(UTC) + timedelta(hours=1)
    token = generate_container_sas(account, "hashkiln", account_key=known["AccountKey"], permission="rl", expiry=later)
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", f"BlobEndpoint={known['BlobEndpoint']};SharedAccessSignature={token};"
    )
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", account)
    FileSystem.clear_instance_cache()  # whose clients have other credentials
    request.addfinalizer(FileSystem.clear_instance_cache)
    assert filesystem.read_bytes(f"{azure}/there") == b"x"
    with pytest.raises(PermissionError, match=f"permission denied: cannot write {azure}/there: "):
        filesystem.check_writable(f"{azure}/there")


def test_a_missing_file_is_an_error(folder):
    with pytest.raises(FileNotFoundError):
        filesystem.read_bytes(join(folder, "nothing"))
    with pytest.raises(FileNotFoundError):
        filesystem.stat(join(folder, "nothing"))
    with pytest.raises(FileNotFoundError, match=r"no \.parquet files in .*nothing$"):
        filesystem.listing(join(folder, "nothing"), ".parquet")


@pytest.mark.parametrize("size", [10, 12 * 2**20])
def test_a_failed_write_leaves_the_existing_file(folder, size):
    url = join(folder, "file")

    def fail():
        with filesystem.create(url) as file:
            file.write(b"x" * size)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert not filesystem.exists(url)
    filesystem.write_bytes(url, b"whole")
    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert filesystem.read_bytes(url) == b"whole"
    assert [entry.url for entry in filesystem.listing(folder)] == [url]


@pytest.mark.parametrize("name", ["null", "pipe", "link"])
def test_devices_pipes_and_links_are_written_to_and_not_replaced(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    (tmp_path / "link").symlink_to("file")
    kinds = path.is_symlink(), path.is_fifo()
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_bytes) if name == "pipe" else None
        filesystem.check_writable(str(path))
        filesystem.write_bytes(str(path), b"written")
        assert read is None or read.result(60) == b"written"
    assert (path.is_symlink(), path.is_fifo()) == kinds
    assert name != "link" or (tmp_path / "file").read_bytes() == b"written"


def test_an_open_pipe_is_written_to():
    """/dev/stdout leads to one, and then to no path."""
    read, write = os.pipe()
    filesystem.check_writable(f"/dev/fd/{write}")
    filesystem.write_bytes(f"/dev/fd/{write}", b"written")
    os.close(write)
    assert os.read(read, 100) == b"written"
    os.close(read)


def test_a_link_is_writable_if_its_target_is(tmp_path):
    (tmp_path / "link").symlink_to("/proc/file")
    with pytest.raises(PermissionError, match=r"^cannot write to /proc: "):
        filesystem.check_writable(str(tmp_path / "link"))


def test_large_files_are_written_completely(folder):
    content = os.urandom(20 * 2**20)
    with filesystem.create(join(folder, "large")) as file:
        for start in range(0, len(content), 2**20):
            file.write(content[start : start + 2**20])
    assert filesystem.read_bytes(join(folder, "large")) == content


def test_one_of_many_exclusive_writers_wins(folder):
    for race in range(10):
        url = join(folder, f"race{race}")
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda i, url=url: filesystem.create_exclusive(url, b"%d" % i), range(8)))
        assert sum(won) == 1
        assert filesystem.read_bytes(url) == b"%d" % won.index(True)


def test_arrow_reads_what_was_written(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with filesystem.create(join(folder, "t.parquet")) as file:
        pq.write_table(pa.table({"id": [1, 2, 3]}), file)
    fs, path = filesystem.arrow(join(folder, "t.parquet"))
    assert pq.read_table(path, filesystem=fs)["id"].to_pylist() == [1, 2, 3]


def test_hidden_and_underscored_files_are_not_data(folder):
    for name in (".tmp.parquet", "_SUCCESS", "_delta/x.parquet", "good.parquet"):
        filesystem.write_bytes(join(folder, *name.split("/")), b"x")
    assert [filesystem.relative_path(folder, entry.url) for entry in filesystem.listing(folder)] == ["good.parquet"]


def test_links_to_folders_are_followed(tmp_path):
    for name in ("real/a", "data/b"):
        filesystem.write_bytes(f"{tmp_path}/{name}", b"x")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "real")
    names = [filesystem.relative_path(f"{tmp_path}/data", file.url) for file in filesystem.listing(f"{tmp_path}/data")]
    assert names == ["b", "linked/a"]
    (tmp_path / "real" / "up").symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match="linked/up is a link to a folder above it: remove the link"):
        filesystem.listing(f"{tmp_path}/data")


def test_other_schemes_are_refused():
    with pytest.raises(
        ValueError, match="expected a path, file://, s3://, gs://, abfs://, abfss:// or az:// URL, found http://x/y"
    ):
        filesystem.read_bytes("http://x/y")


@pytest.mark.parametrize("store", ["s3", "gcs", "azure"])
def test_a_missing_bucket_is_named(store, request):
    root = request.getfixturevalue(store).replace("hashkiln", "missing")
    line = rf"^bucket missing does not exist at http://.*: create it, or correct {root}/x$"
    for action in (filesystem.exists, filesystem.read_bytes, filesystem.stat, filesystem.listing):
        with pytest.raises(FileNotFoundError, match=line):
            action(f"{root}/x")
    if store != "s3":  # that of the tests creates a bucket when it is written to
        with pytest.raises(FileNotFoundError, match=line):
            filesystem.write_bytes(f"{root}/x", b"x")
        with pytest.raises(FileNotFoundError, match=line):
            filesystem.check_writable(f"{root}/x")


@pytest.mark.parametrize(
    ("url", "extra"), [("gs://bucket/x", r"gcsfs: .*hashkiln\[gcs\]"), ("az://c/x", r"adlfs: .*hashkiln\[azure\]")]
)
def test_a_missing_package_is_named_with_its_extra(url, extra, monkeypatch):
    for module in ("gcsfs", "gcsfs.core", "adlfs", "storage.files.gcs", "storage.files.azure"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeError, match=f"URLs need the package {extra}"):
        filesystem.read_bytes(url)


def test_a_denied_request_to_azure_names_the_operation_and_the_account(azure, monkeypatch):
    connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection.replace("AccountKey=E", "AccountKey=F"))
    clear_instances()
    for action, do in (("read", filesystem.read_bytes), ("write", lambda url: filesystem.write_bytes(url, b"x"))):
        line = f"^permission denied: cannot {action} {azure}/x: .*the account is devstoreaccount1"
        with pytest.raises(PermissionError, match=line):
            do(f"{azure}/x")
    clear_instances()


@pytest.mark.parametrize(
    ("connection", "line"),
    [
        ("AccountName=a;AccountKey=eA==", "names account b, and AZURE_STORAGE_CONNECTION_STRING account a"),
        ("BlobEndpoint=https://a.blob.core.windows.net;SharedAccessSignature=s", "STRING account a: correct one"),
        ("UseDevelopmentStorage=true", "UseDevelopmentStorage is not supported: write AccountName"),
    ],
)
def test_a_connection_string_of_another_account_of_azure_is_refused(connection, line, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    for do in (filesystem.arrow, filesystem.exists, filesystem.read_bytes):
        with pytest.raises(ValueError, match=line):
            do("abfss://container@b.dfs.core.windows.net/x")


def test_the_account_of_azure_is_that_of_the_url_or_of_the_connection_string(monkeypatch):
    from storage.files import azure

    for connection in ("AccountName=a;AccountKey=eA==", "BlobEndpoint=https://a.blob.core.windows.net", ""):
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        assert azure.identity("abfss://container@a.dfs.core.windows.net/x") == "the account is a"
        if connection:
            assert azure.identity("az://container/x") == "the account is a"


def clear_instances():
    from storage.files.azure import FileSystem

    FileSystem.clear_instance_cache()  # it holds the credentials


def test_files_of_a_url_that_names_the_account_have_such_urls(azure):
    folder = "abfss://hashkiln@devstoreaccount1.dfs.core.windows.net/of-an-account"
    filesystem.write_bytes(f"{folder}/a/b", b"x")
    assert [file.url for file in filesystem.listing(folder)] == [f"{folder}/a/b"]
    assert filesystem.read_bytes(f"{azure}/of-an-account/a/b") == b"x"
    fs, path = filesystem.arrow(f"{folder}/a/b")
    assert fs.open_input_file(path).read() == b"x"


def test_an_account_comes_from_the_url_or_the_environment(monkeypatch):
    from storage.files import azure

    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    with pytest.raises(ValueError, match="abfs://c/x names no account: set AZURE_STORAGE_ACCOUNT_NAME"):
        filesystem.read_bytes("abfs://c/x")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "mine")
    assert azure.server("abfs://c/x") == "https://mine.blob.core.windows.net"
    assert azure.server("abfss://c@other.dfs.core.windows.net/x") == "https://other.blob.core.windows.net"


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path):
    code = """
        import sys
        from storage.files import filesystem, uploads
        with filesystem.create(sys.argv[1]) as file:
            file.write(b"half")
            file.flush()
            print("written", flush=True)
            sys.stdin.read()
    """
    url = str(tmp_path / "file")
    command = [sys.executable, "-c", textwrap.dedent(code), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    assert not Path(url).exists()
    with pytest.raises(FileNotFoundError):
        filesystem.listing(str(tmp_path))
