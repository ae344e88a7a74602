"""kill -9 of the driver at every stage, two drivers at once, a clock that goes backwards."""

import random
import time

import pytest

from tests.faults.conftest import SEED
from tests.faults.world import NO_HARM, REFIT, SPEC, TABLE, Harm
from workflows.tables import history

STATES = {"first": ("first", SPEC), "grown": ("grown", SPEC), "refit": ("grown", REFIT)}


@pytest.fixture(scope="session")
def whole(ready):
    """What a run that nothing happens to takes, by state: events and seconds."""
    return {}


@pytest.fixture
def begun(ready, whole, draw):
    """A world before a run, the specification of the run, and its total events and seconds."""
    state = draw.choice(list(STATES))
    saved, spec = STATES[state]
    if state not in whole:
        ready.restore(saved)
        ready.change(random.Random(SEED))  # not drawn: a draw is the same whichever tests ran before
        start = time.monotonic()
        whole[state] = ready.reindex(spec).result["events"], time.monotonic() - start
    ready.restore(saved)
    ready.change(draw)
    return ready, spec, *whole[state]


def killed(world, spec, draw, events, **harm):
    """A run that dies at some event. It may be one that takes fewer events than the whole that was measured."""
    while not (ended := world.reindex(spec, Harm(die_at=draw.randint(1, events - 1), **harm))).killed:
        assert ended.result, ended
        world.check()
        world.change(draw)
        events = ended.result["events"]
    return ended


@pytest.mark.faults(share=37)
def test_kill_9_at_an_event(begun, draw, injected):
    """Of any of the moments before a file or the catalog changes; and at times of the run that should recover, too."""
    world, spec, events, _ = begun
    with world.watched():
        injected(killed(world, spec, draw, events).stage)
        while draw.random() < 0.3 and (ended := world.reindex(spec, Harm(die_at=draw.randint(1, events // 2)))).killed:
            injected(ended.stage)
        world.recover(spec)


@pytest.mark.faults(share=8)
def test_kill_9_at_a_time(begun, draw, injected):
    world, spec, _, seconds = begun
    with world.watched():
        while not (ended := world.start(spec).kill_after(draw.uniform(0, 0.9) * seconds)).killed:
            assert ended.result, ended  # too late: the machine is quicker now than when the whole was measured
            world.check()
            world.change(draw)
            seconds /= 2
        injected(ended.stage)
        world.recover(spec)


@pytest.mark.faults(share=8)
def test_two_runs_at_once(begun, draw, injected):
    """Each publishes, finds it published, or reports that the other did. One of them may be killed."""
    world, spec, events, seconds = begun
    with world.watched():
        one = world.start(spec)
        time.sleep(draw.uniform(0, 0.7) * seconds)
        other = world.start(spec, draw.choice([NO_HARM, Harm(die_at=draw.randint(1, events - 1))]))
        ends = [one.end(), other.end()]
        injected(ends[0].stage)
        assert all(end.result or end.killed or end.error.startswith("PublishConflict") for end in ends), ends
        world.recover(spec)


@pytest.mark.faults(share=4)
def test_a_clock_that_goes_backwards(begun, draw, injected):
    """The clock was ahead in the run that died, by anything up to ten years, and is right in the next one."""
    world, spec, events, _ = begun
    with world.watched():
        ahead = 10 ** draw.uniform(0, 8.5)
        injected(killed(world, spec, draw, events, clock=ahead).stage)
        world.recover(spec)
        world.change(draw)
        ended = world.reindex(spec, Harm(clock=-ahead))
        assert ended.result, ended
        injected(ended.stage)
        world.check()
        numbers = [version.number for version in world.table().versions() if version.number > 0]
        assert numbers == sorted(numbers), "versions come in the order in which they were published"


@pytest.mark.faults(share=5)
def test_publish_during_rollback(ready, draw, injected):
    """Each moves main, or reports that the other did. The next run publishes the present source."""
    world = ready
    world.restore("grown")
    world.change(draw)
    with world.watched():
        run = world.start(SPEC)
        run.hear_of(draw.choice(["stage", "evaluate", "gate", "publish"]))
        time.sleep(draw.uniform(0, 0.3))
        ends = [world.call(history.rollback, TABLE, "v1").end(), run.end()]
        injected(ends[1].stage)
        assert all(end.result or end.error.startswith("PublishConflict") for end in ends), ends
        assert any(end.result for end in ends), ends
        world.recover()
