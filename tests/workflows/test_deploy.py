"""`hashkiln deploy` on a real server with a real worker: what it creates, and the messages that a run causes."""

import json

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.prefect_server import until

SMALL = ("--method", "lsh", "--bits", "8")
DEPLOY = ("deploy", "--dataset", "sample", *SMALL, "--pool", "hashkiln")


@pytest.fixture(scope="module")
def prefect(prefect_server):
    prefect_server.start_worker()
    return prefect_server


@pytest.fixture
def deploy(prefect, run_command, monkeypatch):
    """Run `hashkiln deploy` with the server of the tests; its exit code, stdout and stderr."""
    monkeypatch.setenv("HASHKILN_HOME", prefect.environment["HASHKILN_HOME"])

    def run(*more, **environment):
        with temporary_settings({PREFECT_API_URL: prefect.url}):  # Prefect has read the environment on import
            return run_command(*DEPLOY, *more, PREFECT_API_URL=prefect.url, **environment)

    return run


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--cron", "0 2 * *"), "invalid schedule '0 2 * *'"),
        (("--timezone", "Mars"), "timezone 'Mars'"),
        (("--pool", "nowhere"), "prefect work-pool create nowhere --type process"),
        (("--notify", "slack"), "--notify slack needs HASHKILN_NOTIFY_URL"),
        (("--floor", "mapp=0.3"), "mapp"),
        (("--bits", "0"), "bits"),
    ],
)
def test_a_mistake_creates_nothing(deploy, prefect, more, words):
    before = prefect.read("deployments/count", deployments={})
    code, _, errors = deploy(*more)
    assert code == 2
    assert words in errors
    assert prefect.read("deployments/count", deployments={}) == before


def test_without_a_server_it_says_which_variable_to_set(run_command, tmp_path):
    code, _, errors = run_command(*DEPLOY, HASHKILN_HOME=str(tmp_path), PREFECT_API_URL="")
    assert code == 2
    assert "set PREFECT_API_URL" in errors


def test_deploy_creates_and_updates_and_a_run_sends_its_outcome(deploy, prefect, messages):
    code, out, errors = deploy("--cron", "30 1 * * *", "--timezone", "Europe/Paris", "--floor", "map=0.01")
    assert code == 0, errors
    assert [line for line in out.splitlines() if line] == [
        "reindex/sample__lsh8", "evaluate/sample__lsh8", "verify/sample__lsh8", "gc/gc",
    ]  # fmt: skip
    slugs = [prefect.read(f"deployments/name/{name}")["schedules"][0]["slug"] for name in out.split()]
    assert slugs == ["nightly", "weekly", "weekly", "nightly"]  # as in prefect.yaml: else the server refuses
    code, _, errors = deploy("--floor", "map=0.99", "--notify", "webhook", HASHKILN_NOTIFY_URL=messages.url)
    assert code == 0, errors
    code, out, _ = deploy("--floor", "map=0.99", "--notify", "webhook", "--json", HASHKILN_NOTIFY_URL=messages.url)
    names = [name for name in json.loads(out) if name.startswith("hashkiln: ")]
    assert [automation["name"] for automation in prefect.read("automations/filter", sort="NAME_ASC")] == sorted(names)
    found = prefect.read("deployments/name/reindex/sample__lsh8")
    assert found["parameters"]["spec"]["gate"] == {"floors": {"map": 0.99}}
    assert [one["schedule"]["cron"] for one in found["schedules"]] == ["0 2 * * *"]
    assert set(found["tags"]) == {"hashkiln", "sample", "sample__lsh8"}
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    block = prefect.read("block_documents/filter", include_secrets=False)[0]
    assert messages.url not in json.dumps(block)

    rejected = prefect.run("reindex/sample__lsh8", HASHKILN_EXECUTOR="inprocess")
    assert (rejected["state_name"], rejected["state_type"]) == ("Rejected", "FAILED")
    assert rejected["name"].startswith("sample__lsh8 20")
    message = until(lambda: [one for one in messages if "rejected" in one["subject"]], 300, "a message")[0]
    assert "sample__lsh8" in message["subject"]
    assert "map" in message["body"]
    assert not [one for one in messages if "failed" in one["subject"]]

    code, _, errors = deploy("--notify", "webhook", HASHKILN_NOTIFY_URL=messages.url)  # no floor
    assert code == 0, errors
    published = prefect.run("reindex/sample__lsh8")
    assert published["state_name"] == "Completed"
    wanted = {"hashkiln.version.rejected", "hashkiln.version.published"}
    events = {"filter": {"event": {"name": sorted(wanted)}}}
    until(lambda: {e["event"] for e in prefect.read("events/filter", **events)["events"]} == wanted, 300, "both events")
    of_run = {"flow_run_id": {"any_": [published["id"]]}}

    def line(words, of):  # the server stores lines in batches, some after the run
        logs = prefect.read("logs/filter", logs=of_run)
        return any(words in line["message"] and line["name"].startswith(of) for line in logs)

    until(lambda: line("published sample__lsh8 v1: 40,000 rows", "prefect"), 300, "the line of publishing")
    until(lambda: line("Started local Ray", "infra"), 300, "our own line, of the Ray that runs it")

    prefect.run("reindex/sample__lsh8", {"spec": {"dataset": "nowhere"}}, HASHKILN_EXECUTOR="inprocess")
    message = until(lambda: [one for one in messages if "failed" in one["subject"]], 300, "a message")[0]
    assert message["subject"].startswith("reindex failed: nowhere__itq32 20")
    assert "nowhere" in message["body"]
