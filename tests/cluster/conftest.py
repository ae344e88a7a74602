"""The cluster of infra/compose.yaml on hosts of this machine, with a dataset, a reader and a watch on its nodes."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from .cluster import Cluster
from .hosts import Network, missing
from .services import Services
from .slurm import NODES, Slurm

SUMMARY = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[SUMMARY] = []


@pytest.fixture(scope="module")
def network():
    """A network without hosts, on a machine that can run the services."""
    if lacking := missing():
        pytest.skip(f"SKIPPED FOR WANT OF {lacking}")
    if not any(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("SKIPPED FOR WANT OF POSTGRESQL: no initdb in /usr/lib/postgresql/*/bin")
    if not Path(sys.executable).with_name("weed").exists():
        pytest.skip("SKIPPED FOR WANT OF SEAWEEDFS: no weed in the virtual environment")
    folder = Path(tempfile.mkdtemp())  # pytest closes its own to the user of PostgreSQL, whenever it starts
    folder.chmod(0o755)
    network = Network(folder)
    yield network
    network.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cluster(network):
    services = Services(network, network.folder, NODES)
    services.start_all()
    return Cluster(services, network.folder)


@pytest.fixture
def slurm(cluster):
    if lacking := Slurm.missing():
        pytest.skip(f"SKIPPED FOR WANT OF {lacking}: install slurm-wlm and munge")
    with Slurm(cluster) as slurm:
        yield slurm


@pytest.fixture
def summary(request):
    """Add a line to the summary: what happened, when it was noticed, and what was left."""
    return request.config.stash[SUMMARY].append


def pytest_terminal_summary(terminalreporter):
    if lines := terminalreporter.config.stash[SUMMARY]:
        terminalreporter.section("cluster")
        for line in lines:
            terminalreporter.write_line(line)
