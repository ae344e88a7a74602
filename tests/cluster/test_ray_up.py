"""`ray up`, `ray exec` and `ray down` with infra/ray-cluster.yaml, as docs/how-to/cluster.md says, by SSH on hosts."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prefect_server import until

from .services import INFRA, ROOT, SECRETS

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


def test_a_cluster_is_started_and_used_and_stopped(launch, network):
    """The head starts both workers, and they end with it."""
    blocks = runpy.run_path(str(ROOT / "docs" / "blocks.py"))
    up, reindex, down = blocks["block"]("how-to/cluster", "ray up").splitlines()
    launch(up)
    listed = "ray exec infra/ray-cluster.yaml 'ray list nodes'"
    until(lambda: launch(listed).count("ALIVE") == 3, 200, "three nodes")
    out = launch(reindex.replace("mine", "sample"))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)  # the command has a terminal
    assert "Published sample__itq32 v1: 40,000 rows" in plain
    launch(down)
    machines = [network.hosts[name] for name in MACHINES]
    until(lambda: all(host("pgrep", "-x", "raylet", check=False).returncode for host in machines), 120, "no node")
