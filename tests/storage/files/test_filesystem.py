"""One conformance suite for every filesystem: local disk and a real S3 server."""

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.files import filesystem
from storage.files.filesystem import join


def test_what_is_written_is_read_listed_and_replaced(folder):
    url = join(folder, "a", "b.bin")
    assert not filesystem.exists(url)
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


def test_other_schemes_are_refused():
    with pytest.raises(
        ValueError, match="expected a path, file://, s3://, gs://, abfs://, abfss:// or az:// URL, found http://x/y"
    ):
        filesystem.read_bytes("http://x/y")


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path):
    code = """
        import sys
        from storage.files import filesystem
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
