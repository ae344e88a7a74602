"""Full disks, and parts that are truncated or corrupted in place."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import driver
from tests.faults.conftest import prepare
from tests.faults.world import REFIT, SPEC, TABLE, Harm, World
from workflows.tables import verify

MOUNT, UMOUNT = "/bin/mount", "/bin/umount"
FULL = ("No space left on device", "File too large", "database or disk is full", "disk I/O error")


class Disk:
    """A world on a disk of its own."""

    def __init__(self, folder, context):
        self.folder, self.mounted = folder, False
        mount = [MOUNT, "-t", "tmpfs", "-o", "size=1g", "hashkiln-test", str(folder)]
        self.mounted = subprocess.run(mount, check=False).returncode == 0
        self.world = prepare(World(context, folder))

    def used(self):
        return shutil.disk_usage(self.folder).used

    def hold(self, n_bytes):
        """Limit the total number of bytes."""
        subprocess.run([MOUNT, "-o", f"remount,size={n_bytes}", str(self.folder)], check=True)


@pytest.fixture(scope="module")
def disk(children, tmp_path_factory):
    disk = Disk(tmp_path_factory.mktemp("disk"), children)
    yield disk
    if disk.mounted:
        subprocess.run([UMOUNT, "-l", str(disk.folder)], check=True)


@pytest.mark.faults(share=9)
def test_disk_full(disk, draw, injected):
    """No room on the disk; or, where no disk may be mounted here and now and then anyway, none in a file."""
    world, spec = disk.world, draw.choice([SPEC, REFIT])
    world.restore(draw.choice(["first", "grown"]))
    world.change(draw)
    with world.watched():
        if disk.mounted and draw.random() < 0.7:
            disk.hold(disk.used() + draw.randint(0, 120_000))
            ended = world.reindex(spec)
            disk.hold(2**30)
        else:
            ended = world.reindex(spec, Harm(file_bytes=draw.randint(0, 8000)))
        assert any(sign in ended.error for sign in FULL), ended
        injected(ended.stage)
        world.recover(spec)


@pytest.mark.faults(share=9)
def test_torn_part(ready, draw, injected):
    def tear(path, content):
        path.write_bytes(content[: draw.randrange(len(content))])

    injected(draw.choice(PLACES)(ready, draw, tear))


@pytest.mark.faults(share=8)
def test_corrupted_part(ready, draw, injected):
    def corrupt(path, content):
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ draw.randint(1, 255)]) + content[place + 1 :])

    injected(draw.choice(PLACES)(ready, draw, corrupt))


def in_the_way(world, draw, harm):
    """Under the name of a part that is still to be encoded: encoding its shard writes it whole."""
    state = draw.getstate()
    for attempt in range(2):  # the first one shows what the parts will be
        draw.setstate(state)
        world.restore("grown")
        world.change(draw)
        if not attempt:
            before = parts_of(world)
            world.reindex()
            after = {path: path.read_bytes() for path in parts_of(world) - before}
    for path in draw.sample(sorted(after), draw.randint(1, len(after))):
        harm(path, after[path])
    with world.watched():
        world.recover()
    return "stage"


def on_a_branch(world, draw, harm):
    """Committed by a run that died before it was published: the run that adopts it refuses it."""
    world.restore(draw.choice(["first", "grown"]))
    world.change(draw)
    before = parts_of(world)
    run = world.start(SPEC)
    run.hear_of("evaluate")
    run.process.kill()
    assert run.end().killed
    path = draw.choice(sorted(parts_of(world) - before))
    with world.watched():
        refused_until_repaired(world, path, harm, adopted=True)
    return "evaluate"


def published(world, draw, harm):
    """Readers get an error, and so does verify."""
    world.restore("grown")
    path = draw.choice(sorted(parts_of(world)))
    refused_until_repaired(world, path, harm)
    return "published"


def refused_until_repaired(world, path, harm, adopted=False):
    """Reading the part fails with a line that names it. Encoding its shard again, or a copy, repairs it."""
    content = path.read_bytes()
    table = world.table()
    holders = {
        version.name: [p.shard for p in table.parts(version.snapshot_id).values() if Path(p.url) == path]
        for version in table.versions()
    }
    harm(path, content)
    for version, shards in holders.items():
        read = world.call(driver.content, TABLE, version).end()
        verified = world.call(verify.verify, TABLE, version).end()
        assert bool(read.error) == bool(verified.result.problems) == bool(shards), (read, verified)
        assert not shards or (path.name in read.error and path.name in verified.result.problems[0])
    if adopted:
        refused = world.reindex()
        assert path.name in refused.error, refused
    (shard,) = set().union(*holders.values())
    if shard in world.rows:
        world.touch(shard)
    else:
        path.write_bytes(content)
    ended = world.reindex()
    assert ended.result, ended
    world.check()
    assert not world.call(verify.verify, TABLE).end().result.problems


PLACES = [in_the_way, on_a_branch, published]


def parts_of(world):
    return set((world.settings.home / "warehouse" / "codes" / TABLE / "data").glob("*.parquet"))
