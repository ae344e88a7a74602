"""A bucket of a real S3 server on this machine: SeaweedFS, from its package."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket

import s3fs

SERVERS = ("master", "volume", "filer", "s3")


@contextmanager
def bucket(folder: str) -> Iterator[str]:
    """Start a server that stores its data in a folder, and yield the URL of a bucket; stop it in the end.

    The environment then names the server, and keys that it does not check.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket()) for _ in range(2 * len(SERVERS))]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    flags = [f"-{name}.port{kind}" for name in SERVERS for kind in ("", ".grpc")]
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1", "-s3"]
    command += [f"{flag}={port}" for flag, port in zip(flags, ports, strict=True)]
    command += [
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=4096",
        "-master.telemetry=false",
        "-s3.port.lance=0",
        "-s3.port.iceberg=0",
    ]
    url = f"http://127.0.0.1:{ports[-2]}"
    os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                s3fs.S3FileSystem(endpoint_url=url, use_listings_cache=False).mkdir("benchmark")
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError(f"{command[0]} did not start within a minute")
        yield "s3://benchmark"
    finally:
        server.kill()
        server.wait()
