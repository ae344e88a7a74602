"""Source, warehouse and models on S3, through Ray: the driver is killed twice, and the third run finishes."""

import os
import random

import pytest

from tests.faults.conftest import SEED
from tests.faults.tally import TALLY
from tests.faults.world import SPEC, World
from tests.ray_cluster import ray_cluster


@pytest.mark.slow
def test_driver_killed_twice_on_s3(children, s3, tmp_path):
    with ray_cluster() as cluster:  # of its own: its workers have the environment that it was started in
        killed_twice(children, s3, tmp_path, cluster)


def killed_twice(children, s3, tmp_path, cluster):
    rng = random.Random(f"{SEED} s3")
    world = World(children, tmp_path, f"{s3}/faults/source", f"{s3}/faults/warehouse")
    world.environment |= {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "RAY_"))}
    on_ray = {"HASHKILN_EXECUTOR": "ray", "RAY_ADDRESS": cluster.address}
    world.begin(rng)
    with world.watched():
        for stage in (rng.choice(["fit", "stage"]), rng.choice(["stage", "evaluate", "publish"])):
            for seconds in (rng.uniform(0, 2), 0.1, 0):
                run = world.start(SPEC, **on_ray)
                run.hear_of(stage)
                ended = run.kill_after(seconds)
                if ended.killed:
                    break
                world.check()  # the run finished first: give the next one something to do
                world.change(rng)
            assert ended.killed, ended
            TALLY.injected("driver killed twice on s3", ended.stage)
        world.environment |= on_ray
        world.recover()
        world.change(rng)
        world.recover()
