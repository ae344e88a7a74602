"""A Prefect server for tests, and its client."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from tests.conftest import free_ports

ROOT = Path(__file__).parents[1]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def until(found, seconds, what):
    """Return the first true result of `found`, called repeatedly."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"expected {what} within {seconds} s"
        time.sleep(0.1)
    return result


class Prefect:
    """A server and its workers, in a folder of their own."""

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
            "PREFECT_LOGGING_LEVEL": "INFO",  # a command that ran in this process has set CRITICAL
            "HASHKILN_HOME": str(folder / "home"),
            "HASHKILN_CPUS": "2",
            "COLUMNS": "200",
        }
        self.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        until(self.is_healthy, 300, "a server")

    def start_worker(self):
        """Start a worker of the work pool hashkiln, which it creates, once."""
        if len(self.running) == 1:
            self.start("worker", "worker", "start", "--pool", "hashkiln", "--type", "process")
            until(lambda: httpx.get(f"{self.url}/work_pools/hashkiln", timeout=300).is_success, 300, "a work pool")

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
        """Run a command of Prefect and return its output."""
        run = subprocess.run(
            [*PREFECT, *arguments], env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=600
        )
        logs = "".join(path.read_text() for path in self.folder.glob("*.log")) if run.returncode else ""
        assert run.returncode == 0, f"{' '.join(arguments)}\n{run.stdout}\n{run.stderr}\n{logs}"
        return run.stdout

    def read(self, path, **query):
        """Return a response of the server's API."""
        method = "POST" if query else "GET"
        answer = httpx.request(method, f"{self.url}/{path}", json=query or None, timeout=300)
        return answer.raise_for_status().json()

    def runs(self, name, *states):
        """Return the runs of a deployment in given states."""
        wanted = {"flow_runs": {"state": {"type": {"any_": states}}}, "deployments": {"name": {"any_": [name]}}}
        return self.read("flow_runs/filter", **wanted)

    def run(self, name, parameters=None, **environment):
        """Run the deployment FLOW/NAME to its end; return its run."""
        from prefect.deployments import run_deployment
        from prefect.settings import PREFECT_API_URL, temporary_settings

        given = {"parameters": parameters or {}, "job_variables": {"env": environment}}
        with temporary_settings({PREFECT_API_URL: self.url}):  # Prefect has read the environment on import
            run = run_deployment(name, timeout=600, poll_interval=1, as_subflow=False, **given)
        return self.read(f"flow_runs/{run.id}")

    def kill(self):
        """Kill the server, and leave nothing to stop. There must be no worker."""
        family = self._family()
        for process in family:
            process.kill()
        psutil.wait_procs(family)
        self.running.clear()

    def freeze(self):
        """Let the server accept connections and answer nothing, until it is killed. There must be no worker."""
        for process in self._family():
            process.suspend()

    def _family(self):
        (server,) = self.running
        return [server, *server.children(recursive=True)]

    def stop(self):
        """Stop the worker first, as it waits for its server, then all child processes."""
        for process in reversed(self.running):
            family = [process, *process.children(recursive=True)] if process.is_running() else []
            process.terminate()
            for left in psutil.wait_procs(family, timeout=3)[1]:  # a server waits for clients to disconnect
                left.kill()
            process.wait(timeout=120)
        self.running.clear()
