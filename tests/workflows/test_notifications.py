"""The automations `late` and `silent` of infra/automations.yaml, provoked on a real server."""

import subprocess
import sys

import pytest

from tests.prefect_server import until

LONG = ("--dataset", "sample", "--bits", "8", "--set", "n_iter=1000000")  # until it is killed
HEARTBEAT = 30  # seconds, the least that Prefect allows; silence is three of them


@pytest.mark.slow
def test_a_run_without_a_worker_is_late_and_one_whose_machine_is_lost_is_silent(prefect_server, messages, tmp_path):
    prefect = prefect_server
    prefect.environment |= {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT), "HASHKILN_NOTIFY_URL": messages.url,
    }  # fmt: skip
    prefect("work-pool", "create", "lost", "--type", "process")
    deploy = [sys.executable, "-m", "workflows.cli", "deploy", *LONG, "--pool", "lost", "--notify", "webhook"]
    subprocess.run(deploy, env=prefect.environment, check=True, timeout=600)

    def message(words):
        return next((one for one in messages if words in one["subject"]), None)

    prefect("deployment", "run", "reindex/sample__itq8")
    late = until(lambda: message(" is late: "), 300, "a message about a late run")
    assert "sample__itq8" in late["subject"]
    assert "worker" in late["body"]

    prefect.start("lost", "worker", "start", "--pool", "lost")  # takes the late run
    worker = prefect.running[-1]
    beats = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
    until(lambda: prefect.read("events/filter", **beats)["events"], 300, "a heartbeat")
    for process in [worker, *worker.children(recursive=True)]:  # as if its machine were lost: nothing says goodbye
        process.kill()
    silent = until(lambda: message(" is silent: "), 10 * HEARTBEAT, "a message about a silent run")
    assert "sample__itq8" in silent["subject"]
    assert "machine" in silent["body"]
    # The server may send the message before it has changed the state: it takes both actions at the same time.
    (run,) = until(lambda: prefect.runs("sample__itq8", "CRASHED"), 300, "a crashed run")
    assert run["state_name"] == "Silent"
    assert not message(" failed: ")
