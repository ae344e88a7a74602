"""TLS and passwords everywhere, as docs/how-to/secure.md says: one run, and what refuses it without them."""

import json
import os
import shutil
import ssl
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from tests.conftest import free_ports, postgresql_server
from tests.prefect_server import ROOT, Prefect, until

pytestmark = pytest.mark.slow
PASSWORD = "user:password"
PROXY = """
import asyncio, ssl, sys
port, target, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(f"{folder}/server.crt", f"{folder}/server.key")

async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()

async def serve(reader, writer):
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target)
    await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", port, ssl=context) as server:
        await server.serve_forever()

asyncio.run(main())
"""


def certified(folder):
    """Make a certificate for loopback in a folder: server.crt and server.key."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("SKIPPED FOR WANT OF openssl: Debian has a package of this name")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3"
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", names, "-out", folder / "server.crt", "-keyout", folder / "server.key"]
    subprocess.run(make, check=True, capture_output=True)
    return folder


@pytest.fixture
def certificate(tmp_path_factory):
    return certified(tmp_path_factory.mktemp("certificate"))


@contextmanager
def running(*command, **environment):
    """Run a program until the end of its input."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **environment}, cwd=ROOT, **pipes) as process:
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def prefect(certificate, tmp_path, monkeypatch):
    """The variables of a client of a Prefect server with a password, behind a proxy with TLS."""
    with monkeypatch.context() as own:
        own.setenv("PREFECT_SERVER_API_AUTH_STRING", PASSWORD)
        server = Prefect(tmp_path)
    (port,) = free_ports(1)
    target, url = httpx.URL(server.url).port, f"https://127.0.0.1:{port}/api"
    proxy = subprocess.Popen([sys.executable, "-c", PROXY, str(port), str(target), certificate])
    trusted = ssl.create_default_context(cafile=certificate / "server.crt")

    def answers():
        try:
            return httpx.get(f"{url}/health", verify=trusted).is_success
        except httpx.TransportError:
            return False

    try:
        until(answers, 60, "the proxy")
        yield {
            "PREFECT_API_URL": url,
            "PREFECT_API_AUTH_STRING": PASSWORD,
            "PREFECT_API_SSL_CERT_FILE": str(certificate / "server.crt"),
            "PREFECT_HOME": str(tmp_path / "client"),
        }
    finally:
        proxy.kill()
        proxy.wait()
        server.stop()


@pytest.fixture
def ray(certificate):
    """The variables of a driver of a cluster whose processes speak TLS."""
    file = {"CERT": "server.crt", "KEY": "server.key"}
    tls = {f"RAY_TLS_SERVER_{name}": str(certificate / path) for name, path in file.items()}
    tls |= {"RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": str(certificate / "server.crt")}
    tls |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64, "PYTHONPATH": str(ROOT)}
    with running(sys.executable, "-m", "tests.ray_cluster", **tls) as cluster:
        address = cluster.stdout.readline().strip()
        yield tls | {"RAY_ADDRESS": address}


@pytest.fixture
def catalog(certificate):
    """The catalog on a PostgreSQL with TLS; the client checks its certificate."""
    (port,) = free_ports(1)
    files = [certificate / "server.crt", certificate / "server.key"]
    with postgresql_server("listen_addresses=127.0.0.1", "ssl=on", port=port, files=files) as (_, database):
        url = f"postgresql+psycopg2://tests@127.0.0.1:{port}/{database()}?sslmode=verify-full&sslrootcert="
        yield {"HASHKILN_CATALOG": f"{url}{certificate / 'server.crt'}"}


def hashkiln(*command, **environment):
    full = [sys.executable, "-m", "workflows.cli", *command]
    ran = subprocess.run(full, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)
    return ran.returncode, ran.stdout, ran.stderr


def test_a_run_with_tls_and_passwords_everywhere(certificate, prefect, ray, catalog, tmp_path):
    given = {**prefect, **ray, **catalog, "HASHKILN_HOME": str(tmp_path / "home")}
    code, out, errors = hashkiln("reindex", "--dataset", "sample", "--method", "lsh", "--bits", "8", **given)
    assert code == 0, errors
    assert "Published sample__lsh8 v1" in out

    host, _, port = ray["RAY_ADDRESS"].partition(":")
    assert ssl.get_server_certificate((host, int(port))) == (certificate / "server.crt").read_text()
    wrong = {"PREFECT_API_AUTH_STRING": "user:wrong", "HASHKILN_EXECUTOR": "inprocess"}
    wrong["HASHKILN_CATALOG"] = catalog["HASHKILN_CATALOG"].replace(str(certificate), str(certified(tmp_path)))
    code, out, _ = hashkiln("doctor", "--json", **{**given, **wrong})
    failed = {row["what"]: row["remedy"] for row in json.loads(out) if row["state"] == "failed"}
    assert code == 1
    assert failed.keys() == {"catalog", "prefect"}
    assert "PREFECT_API_AUTH_STRING" in failed["prefect"]
