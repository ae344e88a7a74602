"""A server that answers as the Hugging Face hub does, for one dataset or model; its files are those of a folder."""

import hashlib
import http.server
import json
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from tests.loopback import in_thread

COMMIT = "5f3c" * 10
LARGE = (".parquet", ".onnx")  # suffixes of files that are stored by LFS


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, query = unquote(self.path).partition("?")
        self.server.requested.append(path)
        if path in self.server.damaged:
            return self.answer(self.server.damaged[path])
        api, root = f"/api/{self.server.kind}s/{self.server.name}", self.server.folder
        place = f"/datasets/{self.server.name}" if self.server.kind == "dataset" else f"/{self.server.name}"
        if path in (f"{api}/revision/{name}" for name in ("main", COMMIT, "a/branch")):
            return self.answer(json.dumps({"id": self.server.name, "sha": COMMIT, "siblings": []}).encode())
        if path == f"{api}/tree/{COMMIT}":
            return self.page("cursor" in query)
        if path.startswith(f"{place}/resolve/{COMMIT}/"):  # large ones are elsewhere
            file = path.removeprefix(f"{place}/resolve/{COMMIT}/")
            return self.redirect(f"/cdn/{file}") if file.endswith(LARGE) else self.file(root / file)
        if path.startswith("/cdn/"):
            return self.file(root / path.removeprefix("/cdn/"))
        self.answer(b"", 401)

    do_HEAD = do_GET

    def page(self, second):
        """Answer with one half of the files."""
        files = sorted(path for path in self.server.folder.rglob("*") if path.is_file())
        half = len(files) // 2
        link = "" if second else f'<http://{self.headers["Host"]}{self.path}&cursor=2>; rel="next"'
        listed = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "folder"}] * (not second)
        listed += [self.entry(path) for path in (files[half:] if second else files[:half])]
        self.answer(json.dumps(listed).encode(), Link=link)

    def entry(self, path):
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        entry = {"type": "file", "oid": git, "size": len(content), "path": str(path.relative_to(self.server.folder))}
        if path.name.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def file(self, path):
        content = self.server.damaged.get(path.name, path.read_bytes() if path.is_file() else None)
        if content is None:
            return self.answer(b"", 404)
        etag = hashlib.sha256(content).hexdigest()
        self.answer(content, **{"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def redirect(self, place):
        self.answer(b"", 302, Location=place, **{"X-Repo-Commit": COMMIT})

    def answer(self, content, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def serving_hub(folder, name, kind="dataset"):
    """Serve a folder as the hub does; yield the server, with its address `url` and the `requested` paths.

    A file whose name is in `damaged` is sent with that content instead, and so is the answer of a path.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.name, server.kind = Path(folder), name, kind
    server.requested, server.damaged = [], {}
    with in_thread(server) as server.url:
        yield server
