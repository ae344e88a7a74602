"""A proxy before a real S3 server that fails as networks do, by a schedule keyed on the request and the attempt."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
KINDS = (
    "slow down",  # 503: throttled, nothing was done
    "internal error",  # 500
    "reset",  # the connection is reset before the request is passed on
    "lost",  # … and after it was done: the answer never comes
    "torn",  # … and in the middle of the answer's body
    "stall",  # nothing is answered for `stall` seconds
)


class FaultyProxy(ThreadingHTTPServer):
    """Fails a share of all requests, at the first `attempts` at each, by one of some kinds; then lets them through."""

    daemon_threads = True

    def __init__(self, upstream, failing=0.5, kinds=KINDS, attempts=2, stall=3.0, seed=0, only=""):
        super().__init__(("127.0.0.1", 0), Relay)
        self.upstream, self.failing, self.kinds, self.attempts = upstream, failing, kinds, attempts
        self.stall, self.seed, self.only = stall, seed, only
        self.tries, self.faults, self.lock = Counter(), Counter(), threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def fault(self, request):
        """The kind of fault that befalls a request, or none."""
        with self.lock:
            self.tries[request] += 1
            attempt = self.tries[request]
            key = hashlib.sha256(repr((self.seed, request, attempt)).encode()).digest()
            if attempt > self.attempts or self.only not in request or key[0] >= 256 * self.failing:
                return None
            kind = self.kinds[key[1] % len(self.kinds)]
            self.faults[kind] += 1
            return kind

    def handle_error(self, request, client_address):
        """A client that gave up is what this server is for."""


class Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def relay(self):
        body = self.body()
        kind = self.server.fault(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        if kind in ("slow down", "internal error"):
            return self.answer(*((503, SLOW_DOWN) if kind == "slow down" else (500, INTERNAL)))
        if kind == "stall":
            time.sleep(self.server.stall)
        if kind in ("stall", "reset"):
            return self.reset()
        status, headers, content = self.passed_on(body)
        if kind == "lost":
            return self.reset()
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if kind == "torn":
            self.wfile.write(content[: len(content) // 2])
            return self.reset()
        return self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def passed_on(self, body):
        """The server's answer. The Host header stays the client's: it is signed."""
        upstream = HTTPConnection(self.server.upstream, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("transfer-encoding", "expect", "connection", "content-length"):
                upstream.putheader(name, value)
        if body or self.command in ("PUT", "POST"):
            upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body or None)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        return answer.status, answer.getheaders(), content

    def answer(self, status, text):
        content = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def reset(self):
        """Close the connection as a machine that dies does: with RST, whatever is still unread."""
        self.close_connection = True
        self.rfile.close()  # which holds the socket open
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_):
        pass
