"""Results that Ray spills to disk, and tasks whose memory or node is taken away, as on preemptible machines."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.prefect_server import ROOT, until
from tests.ray_cluster import NODE, ray_cluster

pytestmark = pytest.mark.slow
RETRIES = 3  # of a task whose node is lost, by default
SPARE = 3 * 10**9  # bytes that a machine has left for its tasks: other programs may take some of them meanwhile
START = """
import sys, time
from pathlib import Path
from infra.executors import connect
from infra.settings import Settings

executor, folder = connect(Settings()), Path(sys.argv[1])

def attempt(item):
    (folder / f"{item}-{time.time_ns()}").touch()
    return len(list(folder.glob(f"{item}-*")))
"""


@contextmanager
def driver(cluster, folder, program):
    """Start a program on the head; a function that sends it a line and returns the next line that it prints."""
    code = START + textwrap.dedent(program)
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
    with (
        (folder / "errors").open("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-c", code, folder], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        ) as process,
    ):  # fmt: skip

        def answer():
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, (folder / "errors").read_text()[-4000:]
            return line.strip()

        try:
            yield answer
        finally:
            process.kill()


def attempted(folder, times):
    return len(list(folder.glob("*-*"))) >= times


def test_spilled_results_are_read_and_made_again_if_their_node_is_lost(tmp_path):
    program = """
        import numpy as np

        def make(item):
            attempt(item)
            return np.full(2_500_000, item)  # 20 MB

        kept = executor.keep(make, range(20))
        print(sum(executor.map(np.sum, kept)), flush=True)
        input()
        print(executor.reduce(np.sum, lambda a, b: a + b, kept), flush=True)
    """
    small = NODE | {"object_store_memory": 10**8}  # a quarter of what is kept
    with ray_cluster(small) as cluster, driver(cluster, tmp_path, program) as answer:
        assert answer() == str(190 * 2_500_000)
        assert len(list(tmp_path.glob("*-*"))) == 20
        session = Path(cluster.head_node.get_session_dir_path())
        spilled = sum(file.stat().st_size for file in session.glob("ray_spilled_objects*/**/*") if file.is_file())
        assert spilled > 10**8
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(**small)
        assert answer() == str(190 * 2_500_000)
        assert len(list(tmp_path.glob("*-*"))) > 20


def test_a_task_that_is_ended_for_want_of_memory_runs_again(tmp_path):
    """Ray ends a task before the machine runs out of memory. Here it takes more than there is, the first time."""
    program = """
        import numpy as np

        def take(item):
            if attempt(item) == 1:
                taken = []
                while True:
                    if len(taken) < 80:
                        taken.append(np.ones(12_500_000))  # 100 MB
                    time.sleep(0.1)
            return item

        print(list(executor.map(take, range(2))), flush=True)
    """
    memory = psutil.virtual_memory()
    if memory.available < 4 * SPARE:
        pytest.skip(f"SKIPPED FOR WANT OF MEMORY: {memory.available:,} bytes are available")
    most = (memory.total - memory.available + SPARE) / memory.total
    settings = {"memory_usage_threshold": most, "memory_monitor_refresh_ms": 100}
    with ray_cluster(**settings) as cluster, driver(cluster, tmp_path, program) as answer:
        assert answer() == "[0, 1]"
        assert all(len(list(tmp_path.glob(f"{item}-*"))) > 1 for item in range(2))
        assert "Ray: Task _run_task failed due to oom." in (tmp_path / "errors").read_text()  # not in the output


def test_a_task_moves_whenever_its_node_is_preempted(tmp_path):
    """As often as a task is tried again: such nodes count, too."""
    program = """
        def wait(item):
            attempt(item)
            while not (folder / "go").exists():
                time.sleep(0.1)
            return item

        print(list(executor.map(wait, range(2))), flush=True)
    """
    drain = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    with ray_cluster() as cluster, driver(cluster, tmp_path, program) as answer:
        for moved in range(1, RETRIES + 1):
            until(partial(attempted, tmp_path, 2 * moved), 60, f"both tasks on node {moved}")
            (node,) = cluster.worker_nodes
            cluster.add_node(**NODE | {"node_ip_address": f"127.0.0.{moved + 3}"})
            notice = ["--reason-message", "spot", "--deadline-remaining-seconds", "0", "--node-id", node.node_id]
            subprocess.run([*drain, "--address", cluster.address, *notice], check=True, timeout=60)
            cluster.remove_node(node, allow_graceful=False)
        (tmp_path / "go").touch()
        assert answer() == "[0, 1]"
