"""The detector that the other tests rely on: a reader notices a half-published version."""

import random

import pytest

from storage.tables import commits
from tests.faults import world
from tests.faults.conftest import SEED
from tests.faults.tally import Tally
from tests.faults.world import SPEC


def test_a_reader_sees_half_a_version(ready, monkeypatch):
    """Main points for a moment at the first commit of a staging, where no publish sets it."""
    tally = Tally()
    monkeypatch.setattr(world, "TALLY", tally)  # this one is no fault of the product's
    ready.restore("grown")
    ready.change(random.Random(SEED))
    run = ready.start(SPEC)
    run.hear_of("evaluate")
    run.process.kill()
    run.end()
    table = ready.table().iceberg
    (staged,) = (ref.snapshot_id for name, ref in table.refs().items() if name.startswith("staged-"))
    half = table.snapshot_by_id(table.snapshot_by_id(staged).parent_snapshot_id).snapshot_id
    with pytest.raises(AssertionError, match="1 contents were seen that no version ever had"), ready.watched():
        commits.commit(table, (), (commits.set_branch("main", half),))
    assert tally.half_visible == 1
