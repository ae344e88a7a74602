"""What each channel of notifications sends; the automations of infra/automations.yaml, provoked on a real server."""

import json
import subprocess
import sys

import pytest
from apprise.plugins.sendgrid import NotifySendGrid
from apprise.plugins.slack import NotifySlack
from prefect.blocks.core import Block

from infra.settings import SettingsError
from tests.loopback import receiving
from tests.prefect_server import until
from workflows import deployments

LONG = ("--dataset", "sample", "--bits", "8", "--set", "n_iter=1000000")  # until it is killed
HEARTBEAT = 30  # seconds, the least that Prefect allows; silence is three of them


SLACK = {"HASHKILN_NOTIFY_URL": "https://hooks.slack.com/services/T0/B0/x0"}
EMAIL = {
    "HASHKILN_NOTIFY_SENDGRID_KEY": "SG.x0", "HASHKILN_NOTIFY_FROM": "hashkiln@example.com",
    "HASHKILN_NOTIFY_TO": "ada@example.com, bob@example.com",
}  # fmt: skip


def block(monkeypatch, channel, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return deployments._block(channel)


@pytest.mark.parametrize(
    ("channel", "right", "name", "value"),
    [
        ("slack", SLACK, "HASHKILN_NOTIFY_URL", "https://example.com/services/T0/B0/secret"),
        ("slack", SLACK, "HASHKILN_NOTIFY_URL", "https://hooks.slack.com/services/T0/secret"),
        ("slack", SLACK, "HASHKILN_NOTIFY_URL", "https://hooks.slack.com/services/T0/B0/secret_"),
        ("webhook", SLACK, "HASHKILN_NOTIFY_URL", "example.com/secret"),
        ("email", EMAIL, "HASHKILN_NOTIFY_SENDGRID_KEY", "secret key"),
        ("email", EMAIL, "HASHKILN_NOTIFY_FROM", "secret"),
        ("email", EMAIL, "HASHKILN_NOTIFY_TO", "ada@example.com;secret@example.com"),
    ],
)
def test_an_address_to_which_nothing_would_be_sent_is_refused(monkeypatch, channel, right, name, value):
    with pytest.raises(SettingsError, match=rf"^--notify {channel}: expected {name} such as ") as refused:
        block(monkeypatch, channel, right | {name: value})
    assert "secret" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # which apprise imports
@pytest.mark.parametrize(
    ("channel", "right", "name", "value", "sent_to"),
    [
        ("slack", SLACK, "HASHKILN_NOTIFY_URL", "https://hooks.slack.com/triggers/T0/1/x0", 1),
        ("slack", SLACK, "HASHKILN_NOTIFY_URL", "https://hooks.slack.com/workflows/T0/A0/1/x0", 1),
        ("slack", SLACK, "HASHKILN_NOTIFY_URL", "https://HOOKS.slack.com/services/T0/B0/x0/", 1),
        ("email", EMAIL, "HASHKILN_NOTIFY_TO", "ada@example.com , bob@example.com", 2),
    ],
)
def test_other_addresses_that_prefect_sends_to_are_accepted(monkeypatch, channel, right, name, value, sent_to):
    (sender,) = block(monkeypatch, channel, right | {name: value})._apprise_client
    assert len(sender) == sent_to


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # which apprise imports
def test_slack_and_email_receive_the_message(monkeypatch, with_prefect_server):
    """The server loads the block and sends by it; here to loopback, with the address of each service replaced."""
    received = []
    with receiving(lambda request, body: received.append((request, json.loads(body))), answer=b"ok") as url:
        monkeypatch.setattr(NotifySlack, "webhook_url", f"{url}/services")
        monkeypatch.setattr(NotifySendGrid, "notify_url", f"{url}/v3/mail/send")
        for channel, given in (("slack", SLACK), ("email", EMAIL)):
            made = block(monkeypatch, channel, given)
            made.save(f"as-{channel}", overwrite=True)
            stored = Block.load(f"{made.get_block_type_slug()}/as-{channel}")
            stored.notify("map 0.1 < 0.3\nhttp://server/run", "rejected")
    (slack, sent), *mails = received
    assert slack.path == "/services/T0/B0/x0"
    assert sent["attachments"][0]["title"] == "rejected"
    assert sent["attachments"][0]["text"] == "map 0.1 &lt; 0.3\nhttp://server/run"
    to = [mail["personalizations"][0]["to"][0]["email"] for _, mail in mails]
    assert to == ["ada@example.com", "bob@example.com"]
    for request, mail in mails:
        assert request.headers["Authorization"] == "Bearer SG.x0"
        assert (mail["from"]["email"], mail["subject"]) == ("hashkiln@example.com", "rejected")
        print(mail["content"])


@pytest.mark.slow
def test_runs_are_late_without_a_worker_and_crash_and_fall_silent(prefect_server, messages, tmp_path):
    prefect = prefect_server
    prefect.environment |= {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT), "HASHKILN_NOTIFY_URL": messages.url,
    }  # fmt: skip
    prefect("work-pool", "create", "lost", "--type", "process")
    deploy = [sys.executable, "-m", "workflows.cli", "deploy", *LONG, "--pool", "lost", "--notify", "webhook"]
    subprocess.run(deploy, env=prefect.environment, check=True, timeout=600)

    def sent(words):
        return [one for one in messages if words in one["subject"]]

    def beating():
        """Return the runs that have sent a heartbeat."""
        beats = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
        return {event["resource"]["prefect.resource.id"] for event in prefect.read("events/filter", **beats)["events"]}

    def kill(*processes):
        for process in processes:
            process.kill()

    prefect("deployment", "run", "reindex/sample__itq8")
    (late,) = until(lambda: sent(" is late: "), 300, "a message about a late run")
    assert "sample__itq8" in late["subject"]
    assert "worker" in late["body"]

    prefect.start("lost", "worker", "start", "--pool", "lost")  # takes the late run
    worker = prefect.running[-1]
    until(lambda: len(beating()) == 1, 300, "a heartbeat")
    kill(*worker.children(recursive=True))  # as if it took too much memory
    (crashed,) = until(lambda: sent(" failed: "), 300, "a message about a crashed run")
    assert "sample__itq8" in crashed["subject"]
    assert prefect.runs("sample__itq8", "CRASHED")

    prefect("deployment", "run", "reindex/sample__itq8")  # the crashed run leaves its place in the concurrency limit
    until(lambda: len(beating()) == 2, 300, "a heartbeat of the next run")
    kill(worker, *worker.children(recursive=True))  # as if its machine were lost: nothing says goodbye
    (silent,) = until(lambda: sent(" is silent: "), 10 * HEARTBEAT, "a message about a silent run")
    assert "sample__itq8" in silent["subject"]
    assert "machine" in silent["body"]
    # The server may send the message before it has changed the state: it takes both actions at the same time.
    runs = until(lambda: len(found := prefect.runs("sample__itq8", "CRASHED")) == 2 and found, 300, "two crashed runs")
    assert {run["state_name"] for run in runs} == {"Crashed", "Silent"}
    assert len(sent(" failed: ")) == 1
