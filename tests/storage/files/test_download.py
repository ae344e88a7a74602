"""Downloads from real servers on loopback, some of which misbehave."""

import fcntl
import hashlib
import http.server
import logging
import os
import socketserver
from contextlib import contextmanager

import pytest

from storage.files.download import download, file_digest, recorded_checksum
from tests.loopback import in_thread

CONTENT = os.urandom(3_500_000)
MD5 = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
FAST = (0.0, 0.0)


class Files(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, with Range and If-Range. Attributes of the server choose its faults."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requested.append(self.headers.get("Range"))
        if server.failures and (status := server.failures.pop(0)):
            return self.send_error(status)
        start, content = 0, server.content
        if server.ranges and self.headers.get("Range") and self.headers.get("If-Range") in (None, server.tag):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if server.cuts:
            body = body[: server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(handler, **behaviour):
    """A server in a thread; `requested` holds the ranges of its requests."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.requested = True, []
    server.content, server.tag, server.ranges, server.shift = CONTENT, '"v1"', True, 0
    server.cuts, server.failures = [], []
    vars(server).update(behaviour)
    with in_thread(server) as url:
        scheme = "ftp" if handler is Ftp else "http"
        server.url = f"{scheme}{url.removeprefix('http')}/data/x.bin"
        yield server


class Ftp(socketserver.StreamRequestHandler):
    """The part of FTP that a download needs (RFC 959, RFC 3659)."""

    def handle(self):
        self.say("220 ready")
        start = 0
        for line in self.rfile:
            verb, _, argument = line.decode().strip().partition(" ")
            if verb in ("MDTM", "SIZE", "RETR") and argument != "/data/x.bin":
                self.say("550 no such file")
            elif verb == "PASV":
                with socketserver.TCPServer(("127.0.0.1", 0), None) as data:
                    port = data.server_address[1]
                    self.say(f"227 ok (127,0,0,1,{port // 256},{port % 256})")
                    connection = data.socket.accept()[0]
            elif verb == "REST":
                start = int(argument)
                self.say("350 ok")
            elif verb == "RETR":
                self.server.requested.append(start)
                self.say("150 here it comes")
                content = self.server.content[start:]
                with connection:
                    connection.sendall(content[: self.server.cuts.pop(0)] if self.server.cuts else content)
                self.say("226 done")
            else:
                reply = {"MDTM": self.server.tag, "SIZE": f"213 {len(self.server.content)}", "QUIT": "221 bye"}
                self.say(reply.get(verb, "230 ok"))

    def say(self, line):
        self.wfile.write(f"{line}\r\n".encode())


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "x.bin"


def names(target):
    return sorted(path.name for path in target.parent.iterdir())


def test_whole_with_progress_and_checksum(target):
    seen = []

    def progress(done, total):
        assert not target.exists()
        seen.append((done, total))

    with serving(Files) as server:
        download(server.url, target, len(CONTENT), MD5, progress)
    assert target.read_bytes() == CONTENT
    assert names(target) == ["x.bin"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert len(seen) > 3
    assert file_digest(target, "sha256") == SHA256.removeprefix("sha256:")


def test_without_a_published_checksum_the_first_one_is_recorded_and_enforced(target, caplog):
    caplog.set_level(logging.INFO)
    with serving(Files) as server:
        download(server.url, target)
        assert "unverified" in caplog.text
        assert recorded_checksum(target) == SHA256
        assert names(target) == ["x.bin", "x.bin.sha256"]
        download(server.url, target)
        server.content = CONTENT[:-1] + b"!"
        with pytest.raises(ValueError, match=f"expected .* with {SHA256}, found .* sha256"):
            download(server.url, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("handler", [Files, Ftp])
def test_a_broken_connection_is_resumed_where_it_broke(target, handler):
    cuts = [1_500_000, 700_000, 0, 0, 300_000, 0, 1]  # more failures than retries, but fewer in a row without progress
    tag = '"v1"' if handler is Files else "213 20100101"
    done = []
    with serving(handler, cuts=list(cuts), tag=tag) as server:
        download(server.url, target, len(CONTENT), SHA256, lambda n, _: done.append(n), FAST)
        starts = [int((str(r) if r else "0").removeprefix("bytes=").removesuffix("-")) for r in server.requested]
    assert starts == [sum(cuts[:i]) for i in range(len(cuts) + 1)]
    assert target.read_bytes() == CONTENT
    assert done == sorted(done)
    assert names(target) == ["x.bin"]


@pytest.mark.parametrize("handler", [Files, Ftp])
def test_a_later_call_resumes_an_earlier_download(target, handler):
    tag = '"v1"' if handler is Files else "213 20100101"
    with serving(handler, cuts=[2_000_000, 0], tag=tag) as server:
        with pytest.raises(OSError, match=r"cannot download .*: the connection closed after 2000000 of 3500000"):
            download(server.url, target, waits=())
        assert names(target) == ["x.bin.part", "x.bin.part.version"]
        download(server.url, target)
        assert len(server.requested) == 3
        assert str(server.requested[2]).strip("bytes=-") == "2000000"
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "behaviour",
    [
        {"ranges": False},
        {"tag": ""},
        {"tag": 'W/"v1"'},
        {"handler": Ftp, "tag": "502 MDTM is not known here"},
    ],
)
def test_a_server_that_cannot_resume_sends_the_whole_file(target, behaviour):
    with serving(**({"handler": Files, "cuts": [2_000_000]} | behaviour)) as server:
        download(server.url, target, checksum=MD5, waits=FAST)
        assert len(server.requested) == 2
        assert not server.requested[1] or not server.ranges
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("handler", [Files, Ftp])
def test_a_file_that_changed_meanwhile_is_downloaded_from_the_start(target, handler):
    old, new = ('"v1"', '"v2"') if handler is Files else ("213 20100101", "213 20200101")
    with serving(handler, cuts=[2_000_000, 0], tag=old) as server:
        with pytest.raises(OSError, match="closed after 2000000"):
            download(server.url, target, waits=())
        server.content, server.tag = CONTENT[::-1][:3_000_000], new
        download(server.url, target)
    assert target.read_bytes() == CONTENT[::-1][:3_000_000]


def test_a_server_that_sends_another_range_is_refused(target):
    with serving(Files, cuts=[2_000_000, 0], shift=7) as server, pytest.raises(OSError, match="bytes from 2000000 on"):
        download(server.url, target, waits=FAST)
    assert not target.exists()


def test_a_complete_part_file_is_not_downloaded_again(target):
    with serving(Files) as server:
        target.parent.mkdir()
        (target.parent / "x.bin.part").write_bytes(CONTENT)
        (target.parent / "x.bin.part.version").write_text('"v1"')
        download(server.url, target, len(CONTENT), MD5)
        assert server.requested == [f"bytes={len(CONTENT)}-"]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("handler", [Files, Ftp])
def test_wrong_content_is_deleted_and_never_named(target, handler):
    wrong = CONTENT[:1000] + b"\0" + CONTENT[1001:]
    with serving(handler, content=wrong, tag="213 1") as server:
        with pytest.raises(ValueError, match=f"expected {len(wrong)} bytes with {MD5}, found {len(wrong)} with md5:"):
            download(server.url, target, checksum=MD5)
        assert names(target) == []
        server.content = CONTENT
        download(server.url, target, checksum=MD5)
    assert target.read_bytes() == CONTENT


def test_a_wrong_size_is_refused_before_the_download(target):
    with serving(Files) as server, pytest.raises(ValueError, match=r"expected 99 bytes, but the server has 3500000"):
        download(server.url, target, size=99)
    assert names(target) == []


def test_temporary_errors_are_retried_and_others_are_not(target):
    with serving(Files, failures=[503, 429]) as server:
        download(server.url, target, checksum=MD5, waits=FAST)
    assert target.read_bytes() == CONTENT
    target.unlink()
    for failures, tries, message in (
        ([404], 1, "HTTP 404 Not Found"),
        ([403], 1, "HTTP 403"),
        ([500] * 9, 3, "HTTP 500"),
    ):
        with serving(Files, failures=failures) as server:
            with pytest.raises(OSError, match=f"^cannot download {server.url}: {message}"):
                download(server.url, target, waits=FAST)
            assert len(server.requested) == tries
        assert names(target) == []


def test_a_host_that_cannot_be_reached(target):
    with serving(Files) as server:
        url = server.url
    with pytest.raises(OSError, match=r"127\.0\.0\.1 cannot be reached: .*refused"):
        download(url, target, waits=FAST)
    with pytest.raises(OSError, match=r"no-such-host\.invalid cannot be reached"):
        download("http://no-such-host.invalid/x", target, waits=())
    with pytest.raises(OSError, match="refused"):
        download(url.replace("http:", "ftp:"), target, waits=())


def test_a_missing_ftp_file(target):
    with serving(Ftp) as server, pytest.raises(OSError, match=r"^cannot download ftp://.*: 550 no such file"):
        download(server.url + "x", target, waits=FAST)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "/etc/hostname", "s3://bucket/x", "data:,x"])
def test_other_schemes_are_refused(target, url):
    with pytest.raises(ValueError, match=f"expected a URL with one of https, http, ftp, found {url}"):
        download(url, target)
    assert not target.parent.exists()


def test_two_downloads_of_one_file_do_not_mix(target):
    target.parent.mkdir()
    with serving(Files) as server, open(target.parent / "x.bin.part", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process is downloading"):
            download(server.url, target)
        assert server.requested == []
        fcntl.flock(other, fcntl.LOCK_UN)
        download(server.url, target)
    assert target.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with serving(Files) as server, pytest.raises(OSError, match=str(tmp_path / "file")):
        download(server.url, tmp_path / "file" / "x.bin")
