"""One contract, two executors; and which cluster is joined."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import numpy as np
import pytest

from hashing.mapreduce import FAN_IN
from infra.executors import InProcess, Ray, connect
from infra.settings import Settings, current_user


@pytest.fixture(params=["in_process", "ray"])
def executor(request, in_process, ray_executor):
    return in_process if request.param == "in_process" else ray_executor


def test_results_come_in_the_order_of_the_items(executor):
    def slow_first(i):
        time.sleep(0.2 * (i == 0))
        return i * i

    assert list(executor.map(slow_first, range(20))) == [i * i for i in range(20)]
    assert list(executor.map(slow_first, [])) == []


@pytest.mark.parametrize("n", [1, FAN_IN, FAN_IN + 1, 70])
def test_states_are_merged_in_order_in_one_tree(executor, n):
    assert executor.reduce(lambda i: [i], lambda a, b: a + b, range(n)) == list(range(n))
    values = np.random.default_rng(0).standard_normal(n) * 10.0 ** np.arange(n)
    expected = InProcess().reduce(lambda v: v, lambda a, b: a + b, values)
    assert executor.reduce(lambda v: v, lambda a, b: a + b, values) == expected  # to the last bit


def test_kept_results_can_be_items(executor):
    kept = executor.keep(lambda i: np.full(3, i), range(5))
    kept = executor.keep(lambda x: x + 1, kept)
    assert list(executor.map(lambda x: int(x.sum()), kept)) == [3, 6, 9, 12, 15]


def test_errors_of_the_function_are_raised(executor):
    def refuse(i):
        raise ValueError(f"expected something else, found {i}")

    with pytest.raises(ValueError, match=r"^expected something else, found 0$"):
        list(executor.map(refuse, range(3)))
    with pytest.raises(ValueError, match=r"^expected something else, found "):
        executor.reduce(refuse, max, range(20))


def test_a_task_holds_one_blas_thread(executor):
    def threads(_):
        from threadpoolctl import threadpool_info

        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    assert list(executor.map(threads, range(2))) == [{1}, {1}]


@pytest.mark.parametrize("kind", [InProcess, partial(Ray, in_flight=3)])
def test_progress_is_reported(kind, ray_executor):
    told = []
    executor = kind(progress=lambda *args: told.append(args))
    list(executor.map(lambda i: i, range(4), "square"))
    assert told == [("square", done, 4) for done in range(5)]


def test_few_tasks_are_in_flight_at_a_time(ray_executor, tmp_path):
    executor = Ray(in_flight=2)
    started = tmp_path / "started"
    started.mkdir()
    results = executor.map(lambda i: (started / str(i)).touch(), range(10))
    next(results)
    time.sleep(0.5)  # time for tasks that should not be there to start
    assert len(list(started.iterdir())) <= 3
    list(results)
    assert len(list(started.iterdir())) == 10


def test_the_task_of_a_killed_worker_is_retried(ray_executor, tmp_path):
    def die_once(i):
        if i == 3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [i]

    assert list(ray_executor.map(die_once, range(6))) == [[i] for i in range(6)]
    assert (tmp_path / "died").exists()
    (tmp_path / "died").unlink()
    assert ray_executor.reduce(die_once, lambda a, b: a + b, range(6)) == list(range(6))
    assert (tmp_path / "died").exists()


def test_a_local_ray_requires_its_token(ray_executor):
    """Ray listens on every interface, so that a node address on loopback guards nothing."""
    address = ray_executor.join().split()[2].rstrip(":")
    assert address.startswith("127.0.0.2:")
    code = "import ray; ray.init(address=ADDRESS, log_to_driver=False); print('in')".replace("ADDRESS", repr(address))
    refused = run(code, RAY_AUTH_TOKEN="0" * 64, RAY_NUM_REDIS_GET_RETRIES="1")  # else it asks for 20 s
    assert refused.returncode != 0
    assert "AuthenticationError" in refused.stderr  # the next tests join it with the token


def run(code, **environment):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_named_cluster_that_does_not_answer_is_an_error(address):
    code = """
        from infra.executors import connect
        from infra.settings import Settings
        print(list(connect(Settings()).map(abs, [1])))
    """
    result = run(code, RAY_ADDRESS=address)
    assert result.returncode == 1
    assert f"ConnectionError: no Ray cluster answers at RAY_ADDRESS={address}" in result.stderr
    assert not result.stdout


def test_a_node_with_another_version_is_refused_by_its_name(ray_executor):
    address = ray_executor.join().split()[2].rstrip(":")
    code = """
        import importlib.metadata as metadata
        installed = metadata.version
        metadata.version = lambda name: "0.1" if name == "numpy" else installed(name)  # in the driver only
        from infra.executors import connect
        from infra.settings import Settings, SettingsError
        try:
            connect(Settings()).join()
        except SettingsError:
            connect(Settings()).join()  # is refused again
    """
    refused = run(code, RAY_ADDRESS=address)
    assert refused.returncode == 1
    assert re.search(r"SettingsError: node \S+ \(127.0.0.2\) has numpy [\d.]+ instead of 0.1: install", refused.stderr)


def test_a_named_cluster_is_joined(ray_executor):
    address = ray_executor.join().split()[2].rstrip(":")
    code = """
        from infra.executors import connect
        from infra.settings import Settings
        executor = connect(Settings())
        print(list(executor.map(abs, [-1])), executor.join())
    """
    result = run(code, RAY_ADDRESS=address)
    assert result.stdout.startswith(f"[1] Ray at {address}: 1 node(s), 2 CPUs"), result.stderr


def test_settings_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.home == tmp_path / ".hashkiln"
    assert settings.warehouse_url == str(tmp_path / ".hashkiln" / "warehouse")
    assert settings.catalog_url == f"sqlite:///{tmp_path}/.hashkiln/catalog.db"
    monkeypatch.setenv("HASHKILN_WAREHOUSE", "s3://bucket/prefix/")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    settings = Settings()
    assert settings.warehouse_url == "s3://bucket/prefix"
    assert settings.ray_address == "10.0.0.1:6379"
    assert isinstance(connect(settings), InProcess)
    monkeypatch.setenv("HASHKILN_EXECUTOR", "spark")
    with pytest.raises(ValueError, match="Input should be 'ray' or 'inprocess'"):
        Settings()


@pytest.mark.parametrize("folder", ["wh", "~/wh", "file://wh"])
def test_paths_of_the_settings_are_absolute(folder, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HASHKILN_WAREHOUSE", folder)
    monkeypatch.setenv("HASHKILN_HOME", "~/home")
    monkeypatch.setenv("HASHKILN_DATA", "raw")
    monkeypatch.setenv("HASHKILN_CATALOG", "sqlite:///tables.db?timeout=30")
    settings = Settings()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert settings.warehouse_url.removeprefix("file://") == str(tmp_path / "wh")
    assert settings.training_url.removeprefix("file://") == str(tmp_path / "wh" / "training")
    assert settings.catalog_url == f"sqlite:///{tmp_path}/tables.db?timeout=30"
    assert (settings.home, settings.data_folder) == (tmp_path / "home", tmp_path / "raw")


def test_azure_has_the_name_that_pyiceberg_knows(monkeypatch):
    monkeypatch.setenv("HASHKILN_WAREHOUSE", "az://container/w")
    assert Settings().warehouse_url == "abfs://container/w"


@pytest.mark.parametrize(
    ("catalog", "stored"),
    [
        ("sqlite:///~/tables.db", "sqlite:///{}/tables.db"),
        ("sqlite+pysqlite:///tables.db", "sqlite+pysqlite:///{}/tables.db"),
        ("sqlite:////var/tables.db", "sqlite:////var/tables.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql+psycopg2://user:word@host/hashkiln", "postgresql+psycopg2://user:word@host/hashkiln"),
    ],
)
def test_only_the_file_of_a_catalog_is_a_path(catalog, stored, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HASHKILN_CATALOG", catalog)
    assert Settings().catalog_url == stored.format(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HASHKILN_CATALOG", "tables.db", "expected a URL such as sqlite:///catalog.db, https.* or the name "),
        ("HASHKILN_CATALOG", "postgre sql://user:secret@host", "(?s)^(?!.*secret)HASHKILN_CATALOG: expected a URL"),
        ("HASHKILN_WAREHOUSE", "~no-such-user/wh", "cannot expand ~ in ~no-such-user/wh"),
        ("HASHKILN_REPORTS", "s3://b/w", "HASHKILN_REPORTS: expected an address such as https://.*, found 's3://b/w'"),
    ],
)
def test_settings_with_invalid_paths_or_addresses_are_refused(name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Settings()


def test_importing_our_modules_does_not_start_ray():
    assert "ray" not in run("import sys, infra.executors; print(*sys.modules)").stdout.split()


def test_ray_that_does_not_start_is_an_error_in_one_line(monkeypatch):
    import ray

    def start(**options):
        raise Exception("The current node timed out during startup. This\ncould happen.")  # as Ray itself does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    seen, line = (
        [],
        r"^Ray did not start on this machine: The current node timed out .* If the machine is busy, try again",
    )
    with pytest.raises(ConnectionError, match=line):
        Ray(lambda *progress: seen.append(progress)).join()
    assert seen == [("start Ray", 0, 0)]


def test_the_user_has_a_name_in_a_container_too(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # of nobody
    assert current_user() == "uid 54321"
    monkeypatch.setenv("USER", "ada")
    assert current_user() == "ada"
