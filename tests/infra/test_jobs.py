"""`ray job submit --working-dir`, as docs/how-to/cluster.md says: a job brings code that no node has."""

import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import free_ports
from tests.prefect_server import ROOT
from tests.ray_cluster import HEAD, NODE, ray_cluster

pytestmark = pytest.mark.slow


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Submit a command to a cluster of two nodes, as a person elsewhere does; its exit code and output."""
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))  # of the nodes
    dashboard, *agents = free_ports(3)
    head = HEAD | {"include_dashboard": True, "dashboard_port": dashboard, "dashboard_agent_listen_port": agents[0]}
    with ray_cluster(NODE | {"dashboard_agent_listen_port": agents[1]}, head) as cluster:

        def run(line, folder):
            line = line.replace("http://ray-head:8265", f"http://127.0.0.1:{dashboard}")
            program, *words = shlex.split(line.replace("\\\n", "").replace("ray-head:6379", cluster.address))
            command = [Path(sys.executable).with_name(program), *words]
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
            return ran.returncode, ran.stdout + ran.stderr

        yield run


def test_a_job_brings_a_method_that_no_node_has(submit, tmp_path):
    line = runpy.run_path(str(ROOT / "docs" / "blocks.py"))["block"]("how-to/cluster", "--working-dir")
    line = line.replace("--dataset mine", "--dataset sample --bits 16")
    clone = tmp_path / "clone"
    for package in ("hashkiln", "hashing", "storage", "infra", "workflows"):
        shutil.copytree(ROOT / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))
    methods = clone / "hashing" / "methods"
    (methods / "mymethod.py").write_text((methods / "lsh.py").read_text())
    code, out = submit(line, clone)
    assert code == 0, out[-4000:]
    assert "2 node(s)" in out
    assert "Published sample__mymethod16 v1: 40,000 rows" in out
    code, out = submit(line.replace("--working-dir .", ""), clone)
    assert code != 0
    assert "mymethod" in out.splitlines()[-1] or "no method 'mymethod'" in out, out
