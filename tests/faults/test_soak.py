"""Fifty rounds of re-indexing at random, each compared with the brute-force model of what the table must hold."""

import random

import pytest

from tests.faults.conftest import SEED
from tests.faults.world import REFIT, SPEC, TABLE, World
from workflows.tables import gc, history

ROUNDS = 50


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_soak(children, tmp_path):
    """Rows come, change, go and are deleted by id; models are replaced; versions are rolled back; gc runs between."""
    rng = random.Random(f"{SEED} soak")
    world = World(children, tmp_path)
    world.begin(rng)
    with world.watched():
        world.recover()
        for _ in range(ROUNDS):
            added = rng.randint(0, 4) if len(world.rows) < 10 else 0  # so that they are bundled now and then
            world.change(rng, added, rng.randint(0, 3), rng.randint(0, min(3, len(world.rows) - 4)))
            world.recover(rng.choices([SPEC, REFIT], [4, 1])[0])
            if rng.random() < 0.2:
                world.delete(rng.sample(world.ids(), 7))
            if rng.random() < 0.2:
                rolled_back = world.call(history.rollback, TABLE).end()
                assert rolled_back.result or "deleted rows" in rolled_back.error, rolled_back
                world.recover()
            if rng.random() < 0.2:
                collected = world.call(gc.gc, TABLE, 1, 5).end()
                assert collected.result, collected
    assert world.table().version().number > ROUNDS // 2
