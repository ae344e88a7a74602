"""kill -9 of a Ray worker, of the driver beside it, both on the Ray of all tests, and of a node of a cluster."""

import os
import time

import psutil
import pytest

from tests.faults.world import REFIT, SPEC
from tests.ray_cluster import NODE, ray_cluster

STAGES = ["fit", "stage", "evaluate"]  # that work on Ray
SOON = {"fit": 0.5, "stage": 0.2, "evaluate": 0.1, "publish": 0}  # seconds after a stage begins: the run has not ended


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def address(request):
    """Of the cluster, for whom asks for one, or of the Ray that all tests share."""
    if "cluster" in request.fixturenames:
        return request.getfixturevalue("cluster").address
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture
def begun(ready, address, draw):
    """A world, and a run that begins in it on Ray."""
    spec = draw.choice([SPEC, REFIT])
    ready.restore(draw.choice(["first", "grown"]))
    ready.change(draw)
    ray = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    with ready.watched():
        run = ready.start(spec, HASHKILN_EXECUTOR="ray", RAY_ADDRESS=address, **ray)
        yield ready, spec, run
        run.process.kill()
        ready.recover(spec)


def workers():
    """The processes of tasks, by their titles: ray::encode, or ray::IDLE. The node's own agents have titles, too."""
    raylets = [child for child in psutil.Process().children(recursive=True) if "raylet" in child.name()]
    titled = [p for raylet in raylets for p in raylet.children(recursive=True) if p.name().startswith("ray::")]
    return [p for p in titled if not p.name().startswith(("ray::Runtime", "ray::Dashboard"))]


@pytest.mark.faults(share=6)
@pytest.mark.usefixtures("ray_executor")
def test_kill_9_of_a_ray_worker(begun, draw, injected):
    """The run continues. In half of the cases the worker must be busy."""
    _, _, run = begun
    for stage in sorted(draw.sample(STAGES, draw.randint(1, 3)), key=STAGES.index):
        run.hear_of(stage)
        busy, deadline = draw.random() < 0.5, time.monotonic() + 30
        while time.monotonic() < deadline and not kill_one(draw, busy):
            time.sleep(0.002)
        injected(stage)
    ended = run.end()
    assert ended.result, ended


def kill_one(draw, busy):
    try:
        found = [worker for worker in workers() if not busy or "IDLE" not in worker.name()]
        for worker in draw.sample(found, min(1, len(found))):
            worker.kill()
            return True
    except psutil.NoSuchProcess:  # it ended between two looks
        pass
    return False


@pytest.mark.faults(share=3)
def test_kill_9_of_a_ray_node(begun, cluster, draw, injected):
    """The run continues when another node joins."""
    _, _, run = begun
    stage = draw.choice(STAGES)
    run.hear_of(stage)
    time.sleep(draw.uniform(0, 1))
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)
    ended = run.end()
    assert ended.result, ended
    injected(stage)


@pytest.mark.faults(share=3)
@pytest.mark.usefixtures("ray_executor")
def test_kill_9_of_a_driver_on_ray(begun, draw, injected):
    _, _, run = begun
    stage = draw.choice(list(SOON))
    run.hear_of(stage)
    ended = run.kill_after(draw.uniform(0, SOON[stage]))
    assert ended.killed, ended
    injected(ended.stage)
