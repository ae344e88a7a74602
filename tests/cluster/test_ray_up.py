"""`ray up`, `ray exec` and `ray down` with infra/ray-cluster.yaml, as docs/how-to/cluster.md says, by SSH on hosts."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import blobs
from tests.prefect_server import until

from .services import INFRA, ROOT, SECRETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MACHINES = ("head", "worker-1", "worker-2")
BLOCK = runpy.run_path(str(ROOT / "docs" / "blocks.py"))["block"]
UP, REINDEX, DOWN = BLOCK("how-to/cluster", "ray up").splitlines()
JOB = BLOCK("how-to/cluster", "--working-dir").replace("\\\n", "")
SSHD = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PermitRootLogin prohibit-password
"""


def home_of_its_own(folder):
    """Return a command with which a host loses what Ray writes to the home folder."""
    home, layers = Path.home(), f"upperdir={folder}/upper,workdir={folder}/work"
    overlay = f"mount -t overlay -o lowerdir={home},{layers} overlay {home}"
    return f"mount -t tmpfs tmpfs {folder} && mkdir {folder}/upper {folder}/work && {overlay}"


@pytest.fixture(scope="module")
def launch(network):
    """Run a command with the file, on a machine that is not of the cluster; its output."""
    sshd = shutil.which("sshd", path="/usr/sbin")
    if not sshd or not shutil.which("rsync"):
        pytest.skip("SKIPPED FOR WANT OF sshd, rsync: install openssh-server and rsync")
    folder = network.folder
    for name in ("home", "profile"):
        (folder / name).mkdir()
    network.mounts = (home_of_its_own(folder / "home"), f"mount --bind {folder}/profile /etc/profile.d")
    network.add(["laptop", *MACHINES])
    subprocess.run([shutil.which("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    (folder / "sshd").write_text(SSHD.format(folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in MACHINES:
        with (folder / f"{name}.log").open("wb") as log:
            network.hosts[name].popen([sshd, "-D", "-e", "-f", folder / "sshd"], log, os.environ, folder)
    programs = Path(sys.executable).parent
    variables = {"PATH": f"{programs}:$PATH", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRETS["RAY_AUTH_TOKEN"]}
    variables |= {"RAY_ADDRESS": f"{network.hosts['head'].address}:6379", "HASHKILN_HOME": str(folder / "shared")}
    if "PYTHONPATH" in os.environ:
        variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
    lines = ["set -a", *(f"{name}={value}" for name, value in variables.items()), "set +a"]
    (folder / "profile" / "hashkiln.sh").write_text("\n".join(lines))
    text = (INFRA / "ray-cluster.yaml").read_text()
    own = {
        "head_ip": network.hosts["head"].address,
        "worker_ips": [network.hosts[name].address for name in MACHINES[1:]],
        "ssh_user": "root",
        "ssh_private_key": folder / "key",
    }
    for name, value in own.items():
        text, count = re.subn(rf"{name}: .*", f"{name}: {value}", text)
        assert count == 1, name
    (folder / "cluster.yaml").write_text(text)

    def run(line):
        program, *words = shlex.split(line.replace("infra/ray-cluster.yaml", str(folder / "cluster.yaml")))
        full = [programs / program, *words]
        ran = network.hosts["laptop"](*map(str, full), check=False, env={"TMPDIR": str(folder)}, timeout=280)
        assert ran.returncode == 0, f"{line}:\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
        return ran.stdout

    return run


@pytest.fixture(scope="module")
def on_the_head(launch):
    """Start the cluster; run a command on the head."""

    def run(command):
        out = launch(f"ray exec infra/ray-cluster.yaml {shlex.quote(command)}")
        return re.sub(r"\x1b\[[0-9;]*m", "", out)  # the command has a terminal

    launch(UP)
    until(lambda: run("ray list nodes").count("ALIVE") == 3, 200, "three nodes")  # the head starts both workers
    return run


def test_a_command_runs_on_the_cluster(on_the_head):
    *_, command = shlex.split(REINDEX)
    assert "Published sample__itq32 v1: 40,000 rows" in on_the_head(command.replace("mine", "sample"))


def test_a_job_brings_a_method_that_no_node_has(on_the_head, network):
    clone = network.folder / "clone"
    for package in ("hashkiln", "hashing", "storage", "infra", "workflows"):
        shutil.copytree(ROOT / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))
    methods = clone / "hashing" / "methods"
    (methods / "median_pca.py").write_text((methods / "lsh.py").read_text())
    source = network.folder / "source"  # not the sample: each node has a file of its own in the folder of the job
    source.mkdir()
    table = {"id": np.arange(3000), "vector": list(blobs(3000).x)}
    pq.write_table(pa.table(table), source / "0.parquet")
    on_the_head(f"hashkiln ingest {source} --name mine")
    job = JOB.replace("ray-head:8265", "127.0.0.1:8265").replace("ray-head:6379", "auto").strip() + " --queries 100"
    out = on_the_head(f"cd {clone} && {job}")
    assert "3 node(s), " in out
    assert re.search("Published mine__median.pca32 v1: 3,000 rows", out)
    with pytest.raises(AssertionError, match=r"median.pca"):
        on_the_head(job.replace("--working-dir .", ""))


def test_the_cluster_is_stopped(on_the_head, launch, network):
    """The workers end with the head."""
    launch(DOWN)
    machines = [network.hosts[name] for name in MACHINES]
    until(lambda: all(host("pgrep", "-x", "raylet", check=False).returncode for host in machines), 120, "no node")
