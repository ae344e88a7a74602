"""`ray up` starts the cluster of infra/ray-cluster.yaml by SSH, and `ray exec` runs commands there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prefect_server import until

from .services import INFRA, SECRETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MACHINES = ("head", "worker-1", "worker-2")
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
    """Run a command of Ray with the file, on a machine that is not of the cluster; its output."""
    sshd = shutil.which("sshd", path="/usr/sbin")
    if not sshd or not shutil.which("rsync"):
        pytest.skip("SKIPPED FOR WANT OF sshd, rsync: install openssh-server and rsync")
    folder = network.folder
    (folder / "home").mkdir()
    network.mounts = (home_of_its_own(folder / "home"),)
    network.add(["laptop", *MACHINES])
    subprocess.run([shutil.which("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    (folder / "sshd").write_text(SSHD.format(folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in MACHINES:
        with (folder / f"{name}.log").open("wb") as log:
            network.hosts[name].popen([sshd, "-D", "-e", "-f", folder / "sshd"], log, os.environ, folder)
    programs = Path(sys.executable).parent
    path = f"{programs}:{os.environ['PATH']}"
    variables = {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRETS["RAY_AUTH_TOKEN"]}
    variables |= {"RAY_ADDRESS": f"{network.hosts['head'].address}:6379", "HASHKILN_HOME": str(folder / "shared")}
    if "PYTHONPATH" in os.environ:
        variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
    (folder / "hashkiln.env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    text = (INFRA / "ray-cluster.yaml").read_text().replace("/etc/hashkiln.env", str(folder / "hashkiln.env"))
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

    def run(command, *arguments):
        full = [programs / "ray", command, folder / "cluster.yaml", *arguments]
        ran = network.hosts["laptop"](*map(str, full), check=False, timeout=280)
        assert ran.returncode == 0, f"{shlex.join(map(str, full))}:\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
        return ran.stdout

    return run


def test_a_cluster_is_started_and_used(launch, network):
    """The head starts both workers."""
    launch("up", "--yes", "--no-config-cache")
    inside = f"set -a; . {network.folder / 'hashkiln.env'}; "
    until(lambda: launch("exec", inside + "ray list nodes").count("ALIVE") == 3, 200, "three nodes")
    out = launch("exec", inside + "hashkiln reindex --dataset sample")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)  # the command has a terminal
    assert "Published sample__itq32 v1: 40,000 rows" in plain
