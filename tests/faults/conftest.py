"""Faults are drawn by a seeded generator: HASHKILN_FAULTS of them in all, 10 by default, by HASHKILN_FAULT_SEED.

A test marked `faults(share=s)` gets s percent of them, and an argument `draw`, the generator of its own chance.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import random
import time
from pathlib import Path

import pytest

from tests.faults.tally import TALLY
from tests.faults.world import World

FAULTS = int(os.environ.get("HASHKILN_FAULTS", "10"))
SEED = int(os.environ.get("HASHKILN_FAULT_SEED", random.SystemRandom().randrange(10**6)))


def pytest_generate_tests(metafunc):
    if "draw" in metafunc.fixturenames:
        share = metafunc.definition.get_closest_marker("faults").kwargs["share"]
        seeds = [f"{SEED} {metafunc.function.__name__} {i}" for i in range(round(FAULTS * share / 100))]
        metafunc.parametrize("draw", seeds, ids=range(len(seeds)), indirect=True)


@pytest.fixture
def draw(request):
    print(f"replay: HASHKILN_FAULTS={FAULTS} HASHKILN_FAULT_SEED={SEED} pytest {request.node.nodeid}")
    return random.Random(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Time and failures by kind, which is the test's name."""
    start, kind, passed = time.monotonic(), kind_of(item), False
    try:
        result = yield
        passed = True
        return result
    except pytest.skip.Exception:
        passed = True
        raise
    finally:
        TALLY.seconds[kind] += time.monotonic() - start
        TALLY.failed[kind] += not passed


def kind_of(item):
    return item.function.__name__.removeprefix("test_").replace("_", " ")


@pytest.fixture
def injected(request):
    """A function to call with the stage in which a fault was injected."""
    return lambda stage: TALLY.injected(kind_of(request.node), stage)


def pytest_terminal_summary(terminalreporter):
    if TALLY.kinds or TALLY.failed:
        terminalreporter.section(f"faults, by HASHKILN_FAULT_SEED={SEED}")
        for line in TALLY.lines():
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def children():
    """Forks of a server that has imported everything and holds no threads or locks of ours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.driver"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture(scope="session")
def ready(children, tmp_path_factory):
    return prepare(World(children, tmp_path_factory.mktemp("world")))


def prepare(world):
    """Save states to restore: `first` with nothing published, `grown` with v1 and v2."""
    rng = random.Random(SEED)
    world.begin(rng)
    world.save("first")
    world.recover()
    world.change(rng)
    world.recover()
    world.save("grown")
    assert len(world.shards()) == len(world.rows), "a part for each file: else no version is ever half there"
    return world
