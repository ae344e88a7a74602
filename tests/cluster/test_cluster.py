"""Faults of a cluster: machines, links and services are lost while a version is made.

After each, readers have seen whole versions only, the next run publishes, and nothing is lost, there twice or encoded
twice.
"""

import re
import shlex
import time

import pytest

from .cluster import REINDEX, SHARDS
from .services import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]
STAGES = {  # the line of the log with which a stage begins, and that with which it ends
    "fit": ("Joined Ray", "\nfit: "),
    "encode": ("to encode", "\nencode: "),
    "evaluate": ("\nencode: ", "\nevaluate: "),
}


def test_doctor_asks_every_host(cluster):
    """A folder that hosts do not share cannot be the warehouse."""
    run = cluster.run("doctor", "--json")
    assert run.ends()[0] == 0, run.text
    nodes = [row for row in run.json if row["what"].startswith("node ")]
    assert {row["what"].split()[1] for row in nodes} == {
        "ray-head", "ray-worker-1", "ray-worker-2", "prefect-worker", "driver",
    }  # fmt: skip
    own = {"HASHKILN_WAREHOUSE": "/dev/shm/warehouse", "HASHKILN_CATALOG": "sqlite:////dev/shm/catalog.db"}  # noqa: S108
    run = cluster.run("doctor", "--json", **own)
    assert run.ends()[0] == 1, run.text
    rows = run.json
    failed = {row["what"].split()[1 if " " in row["what"] else 0] for row in rows if row["state"] == "failed"}
    assert failed == {"catalog", "ray-head", "ray-worker-1", "ray-worker-2", "prefect-worker"}


def test_a_ray_job_publishes_and_a_failed_one_has_an_exit_code(cluster, summary):
    cluster.grow()
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text()
    command = re.search(r"^ray job submit .*\\\n.*", page, re.MULTILINE)[0].replace("\\\n", "")
    *submit, program, _, _, _ = shlex.split(command)  # hashkiln reindex --dataset mine
    run = cluster.run(program, *REINDEX, program=submit)
    code, seconds = run.ends()
    assert code == 0, run.text
    summary(f"ray job submit: published in {seconds:.0f} s; {cluster.check()}")
    run = cluster.run("hashkiln", "reindex", "--dataset", "nowhere", program=submit)
    assert run.ends()[0] != 0
    assert "expected the name of a dataset, found 'nowhere'" in run.text


def test_slurm_runs_a_command_on_its_nodes(cluster, slurm, summary):
    cluster.grow()
    code, text, seconds = slurm.batch(*REINDEX)
    assert code == 0, text
    assert "2 node(s), 2 CPUs" in text
    summary(f"sbatch on 2 nodes: published in {seconds:.0f} s; {cluster.check()}")


@pytest.mark.parametrize("stage", STAGES)
def test_a_worker_is_killed(cluster, summary, stage):
    begin, end = STAGES[stage]
    run = cluster.reindex_to(begin, *(("--refit", "always") if stage == "fit" else ()))
    at = time.time()
    cluster.hosts["ray-worker-1"].kill()
    assert end not in run.text, "the stage ended before the worker was killed"
    noticed = cluster.lost("ray-worker-1", at)
    code, seconds = run.ends()
    assert code == 0, run.text
    found = cluster.check(cluster.batches * SHARDS if stage == "fit" else SHARDS)
    summary(f"worker killed in {stage}: noticed after {noticed:.0f} s, published in {seconds:.0f} s; {found}")
    cluster.restart("ray-worker-1")


def test_the_link_of_a_worker_is_cut_and_restored(cluster, summary):
    run = cluster.reindex_to(STAGES["encode"][0])
    at = time.time()
    cluster.hosts["ray-worker-2"].cut()
    noticed = cluster.lost("ray-worker-2", at)
    cluster.hosts["ray-worker-2"].restore()
    code, seconds = run.ends()
    assert code == 0, run.text
    summary(f"link of a worker cut: noticed after {noticed:.0f} s, published in {seconds:.0f} s; {cluster.check()}")
    if cluster.services.running["ray-worker-2"].poll() is not None:  # `ray start --block` ends: Docker starts it again
        cluster.services.start("ray-worker-2")


def test_the_head_is_killed_and_restarted(cluster, summary):
    run = cluster.reindex_to(STAGES["encode"][0])
    at = time.monotonic()
    cluster.hosts["ray-head"].kill()
    code, _ = run.ends()
    noticed = time.monotonic() - at
    assert code == 1, run.text
    for name in ("ray-worker-1", "ray-worker-2", "driver", "prefect-worker"):
        cluster.hosts[name].kill()  # without a head, nodes end; Docker starts them again
    cluster.restart("ray-head", "ray-worker-1", "ray-worker-2", "driver", "prefect-worker")
    cluster.nodes = cluster.watch("ray-head", "nodes")
    left = cluster.plan()
    _, seconds = cluster.command(*REINDEX)
    summary(f"head killed: run failed after {noticed:.0f} s; {_rest(left, seconds)}; {cluster.check(left)}")


def test_the_host_of_the_driver_is_lost(cluster, summary):
    cluster.reindex_to(STAGES["evaluate"][0])
    at = time.time()
    cluster.hosts["driver"].kill()
    noticed = cluster.lost("driver", at)
    cluster.restart("driver")
    left = cluster.plan()
    assert left == 0  # its shards were committed
    _, seconds = cluster.command(*REINDEX)
    summary(f"driver's host lost: noticed after {noticed:.0f} s; {_rest(left, seconds)}; {cluster.check(left)}")


def test_postgresql_is_restarted(cluster, summary):
    run = cluster.reindex_to(STAGES["encode"][0])
    cluster.hosts["postgres"].kill()
    cluster.restart("postgres")
    code, seconds = run.ends()
    left = SHARDS if not code else cluster.plan()
    ended = f"published in {seconds:.0f} s" if not code else f"failed after {seconds:.0f} s"
    if code:
        _, seconds = cluster.command(*REINDEX)
        ended += f"; {_rest(left, seconds)}"
    summary(f"PostgreSQL restarted: {ended}; {cluster.check(left)}")


def test_s3_is_slow_and_then_away(cluster, summary):
    store = cluster.hosts["s3"]
    run = cluster.reindex_to(STAGES["encode"][0])
    store.limit("40mbit")
    cluster.holds(5)
    store.cut()
    cluster.holds(20)
    store.restore()
    store.limit(None)
    code, seconds = run.ends()
    assert code == 0, run.text
    summary(f"S3 at 40 Mbit/s for 5 s and away for 20 s: published in {seconds:.0f} s; {cluster.check()}")


def test_the_prefect_server_is_away_for_a_minute(cluster, summary):
    run = cluster.reindex_to(STAGES["encode"][0])
    cluster.hosts["prefect"].cut()
    cluster.holds(60)
    cluster.hosts["prefect"].restore()
    code, seconds = run.ends()
    assert code == 0, run.text
    summary(f"Prefect server away for 60 s: published in {seconds:.0f} s; {cluster.check()}")


def _rest(left, seconds):
    return f"{SHARDS - left} of {SHARDS} shards were committed and kept, the rest took {seconds:.0f} s"
