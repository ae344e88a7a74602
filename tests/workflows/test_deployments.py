"""prefect.yaml as it is committed: deployed on a real server, run by a real worker, published for real."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from conftest import free_ports

from infra.settings import Settings
from storage import iceberg, tables

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = {entry["name"]: entry for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def until(found, seconds, what):
    """What `found` gives, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"expected {what} within {seconds} s"
        time.sleep(0.1)
    return result


class Prefect:
    """A server of its own in a folder, and a worker in another folder than that of prefect.yaml."""

    def __init__(self, folder):
        (port,) = free_ports(1)
        self.folder, self.url, self.running = folder, f"http://127.0.0.1:{port}/api", []
        (folder / "prefect").mkdir()  # else the server waits in vain for its database
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "HASHKILN_HOME": str(folder / "home"),
            "HASHKILN_CPUS": "2",
            "COLUMNS": "200",
        }
        self.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        until(self.is_healthy, 90, "a server")

    def start(self, name, *arguments):
        with (self.folder / f"{name}.log").open("wb") as log:
            process = psutil.Popen(
                [*PREFECT, *arguments], stdout=log, stderr=log, env=self.environment, cwd=self.folder
            )
        self.running.append(process)

    def is_healthy(self):
        assert self.running[0].poll() is None, (self.folder / "server.log").read_text()
        try:
            return httpx.get(f"{self.url}/health").is_success
        except httpx.TransportError:
            return False

    def __call__(self, *arguments):
        run = subprocess.run(
            [*PREFECT, *arguments], env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=150
        )
        logs = "".join(path.read_text() for path in self.folder.glob("*.log")) if run.returncode else ""
        assert run.returncode == 0, f"{' '.join(arguments)}\n{run.stdout}\n{run.stderr}\n{logs}"
        return run.stdout

    def read(self, path, **query):
        """What the server's API answers."""
        answer = httpx.post(f"{self.url}/{path}", json=query) if query else httpx.get(f"{self.url}/{path}")
        return answer.raise_for_status().json()

    def runs(self, name, *states):
        """Runs of a deployment in some states."""
        wanted = {"flow_runs": {"state": {"type": {"any_": states}}}, "deployments": {"name": {"any_": [name]}}}
        return self.read("flow_runs/filter", **wanted)

    def run(self, name):
        """The first run of a deployment, when it has ended."""
        self("deployment", "run", f"{name}/{name}", "--watch", "--watch-interval", "1", "--watch-timeout", "140")
        return self.runs(name, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")[0]

    def stop(self):
        """The worker first: without its server it would not go at once. Then whatever is left of either."""
        for process in reversed(self.running):
            family = [process, *process.children(recursive=True)] if process.is_running() else []
            process.terminate()
            for left in psutil.wait_procs(family, timeout=20)[1]:
                left.kill()
            process.wait(timeout=10)


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    prefect = Prefect(tmp_path_factory.mktemp("prefect"))
    try:
        prefect("work-pool", "create", "hashkiln", "--type", "process")
        prefect("deploy", "--all")
        prefect.start("worker", "worker", "start", "--pool", "hashkiln")
        yield prefect
    finally:
        prefect.stop()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_server_knows_what_the_file_says(prefect, name):
    wanted, found = DEPLOYMENTS[name], prefect.read(f"deployments/name/{name}/{name}")
    assert (found["parameters"], set(found["tags"])) == (wanted["parameters"], set(wanted["tags"]))
    schedules = [(s["slug"], s["cron"], s["timezone"]) for s in wanted.get("schedules", [])]
    known = [(s["slug"], s["schedule"]["cron"], s["schedule"]["timezone"]) for s in found["schedules"] if s["active"]]
    assert known == schedules
    limit = wanted.get("concurrency_limit")
    assert (found["global_concurrency_limit"] or {}).get("limit") == (limit and limit["limit"])
    assert (found["concurrency_options"] or {}).get("collision_strategy") == (limit and limit["collision_strategy"])
    if schedules:
        until(lambda: prefect.runs(name, "SCHEDULED"), 60, f"runs of {name} by its schedule")


def test_reindex_publishes_and_evaluate_measures_it(prefect):
    assert prefect.run("reindex")["state_type"] == "COMPLETED"
    settings = Settings(home=prefect.folder / "home")
    table = tables.open_table(iceberg.connect(settings.catalog_url, settings.warehouse_url), "sample__itq32")
    published = table.version()
    assert (published.name, published.properties["rows"]) == ("v1", "40000")
    assert sum(part.rows for part in table.parts(published.snapshot_id).values()) == 40_000
    assert Path(published.properties["report"]).read_text().startswith("<!")
    artifacts = {artifact["key"] for artifact in prefect.read("artifacts/filter", sort="KEY_ASC")}
    assert artifacts == {f"sample--itq32-{kind}" for kind in ("metrics", "summary", "report")}
    assert prefect.run("evaluate")["state_type"] == "COMPLETED"


@pytest.mark.slow
def test_benchmark_measures_its_grid(prefect):
    assert prefect.run("benchmark")["state_type"] == "COMPLETED"
    kept = list((prefect.folder / "home" / "warehouse" / "benchmark").glob("*.json"))
    assert len(kept) == 6  # three methods, two lengths, one seed
