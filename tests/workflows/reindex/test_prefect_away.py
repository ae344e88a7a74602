"""A run whose Prefect server goes away for good, or answers nothing, publishes its version, and ends soon."""

import json
import subprocess
import sys
import time

import pytest

from tests.prefect_server import ROOT, Prefect

REINDEX = ("reindex", "--dataset", "sample", "--method", "lsh", "--bits", "8", "--json")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lose", "more"),
    [(Prefect.kill, ()), (Prefect.kill, ("--floor", "map=0.9")), (Prefect.freeze, ())],
    ids=["published", "rejected", "frozen"],
)
def test_a_run_ends_without_its_server(tmp_path, lose, more):
    server = Prefect(tmp_path)
    retries = {"PREFECT_CLIENT_MAX_RETRIES": "2", "PREFECT_LOGGING_LEVEL": "CRITICAL", "HASHKILN_EXECUTOR": "inprocess"}
    command = [sys.executable, "-m", "workflows.cli", *REINDEX, *more]
    try:
        with (
            (tmp_path / "out").open("wb") as out,
            subprocess.Popen(
                command, env=server.environment | retries, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True
            ) as run,
        ):
            next(line for line in run.stderr if line.startswith("fit:"))
            lose(server)
            start = time.monotonic()
            lines = run.stderr.read().splitlines()
    finally:
        server.stop()
    found = json.loads((tmp_path / "out").read_text())
    if more:
        assert (run.returncode, found["error"]["type"]) == (3, "GateRejected")
    else:
        assert (run.returncode, found["version"]) == (0, "v1")
    assert time.monotonic() - start < 240
    (said,) = [line for line in lines if "does not answer" in line]
    assert said.startswith(f"the Prefect server {server.url} does not answer, and does not show how this run ended: ")
