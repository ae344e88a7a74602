"""The plan of a run, the dry run, and runs with nothing to do."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from typer.testing import CliRunner

from infra.executors import InProcess
from storage.features.shard import Columns, FeatureShard
from storage.tables.parts import Part
from tests.conftest import blobs
from tests.workflows.conftest import SPEC, D, encoded_from_source, published_codes, reindex, spec, table_of, write_shard
from workflows import cli
from workflows.checks import UsageError
from workflows.context import Context
from workflows.evaluation.registry import HEALTH
from workflows.reindex import planning, publishing, unchanged
from workflows.reindex.run import nothing_to_do


def parts(**versions):
    return {name: Part(f"/{name}", name, version, 1, 1, 0, 0) for name, version in versions.items()}


def shards(**versions):
    return {name: FeatureShard(f"/{name}", name, version, 2, Columns()) for name, version in versions.items()}


def test_the_plan_is_a_difference():
    have, want = parts(a="1", b="1", c="1"), shards(b="1", c="2", d="1")
    plan = planning.plan_parts(have, want, same=True)
    assert plan.model_dump() == {
        "added": ("d",), "changed": ("c",), "stale": (), "removed": ("a",), "kept": ("b",),
        "found": (),
    }  # fmt: skip
    assert (plan.missing, plan.empty) == (["c", "d"], False)
    assert planning.plan_parts(have, want, same=False).stale == ("b",)
    assert planning.plan_parts(have, want, same=False).missing == ["b", "c", "d"]
    assert planning.plan_parts(parts(a="1"), shards(a="1"), same=True).empty
    assert not planning.plan_parts(parts(a="1"), shards(), same=True).empty


def everything(folder):
    """Return all files below a folder, each with modification time and size."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_writes_nothing_and_predicts_the_run(settings, mine, source):
    before = everything(settings.home)
    first = planning.forecast(Context.of(spec(), settings, InProcess()))
    assert everything(settings.home) == before
    assert (first.base, first.rows, len(first.plan.added), first.seconds) == ("v0", 800, 4, None)
    assert first.bytes == sum(path.stat().st_size for path in source.iterdir())
    assert (first.fit, first.reason) == (True, "nothing is published yet")
    reindex(settings, spec())
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1000))
    write_shard(source, "part9.parquet", blobs(70, D, seed=10, first_id=9000))
    (source / "part3.parquet").unlink()
    before = everything(settings.home)
    found = planning.forecast(Context.of(spec(), settings, InProcess()))
    assert everything(settings.home) == before
    assert found.plan.model_dump() == {
        "added": ("part9.parquet",), "changed": ("part1.parquet",), "stale": (), "removed": ("part3.parquet",),
        "kept": ("part0.parquet", "part2.parquet"), "found": (),
    }  # fmt: skip
    assert (found.base, found.rows) == ("v1", 220)
    assert (found.fit, found.reason) == (False, "reuses the model of v1")
    rate = 800 / float(table_of(settings).version().properties["encode_seconds"])
    assert found.seconds == pytest.approx(220 / rate)
    always = planning.forecast(Context.of(spec(refit="always"), settings, InProcess()))
    assert (always.fit, always.reason, always.rows) == (True, "--refit always", 620)
    assert everything(settings.home) == before
    assert reindex(settings, spec())[0].encoded == found.rows


def test_parts_of_an_earlier_attempt_are_not_planned_again(settings, mine, source):
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(100, D, seed=4, first_id=4000))
    always = spec(refit="always", gate={"floors": {"map": 0.99}})
    assert planning.forecast(Context.of(always, settings, InProcess())).rows == 900
    with pytest.raises(publishing.GateRejected):
        reindex(settings, always)
    found = planning.forecast(Context.of(always, settings, InProcess()))
    assert (found.rows, found.fit) == (0, False)
    assert found.reason == "--refit always; fitted earlier on the same rows"


def test_a_run_with_nothing_to_do_changes_no_file_of_the_warehouse(settings, mine):
    reindex(settings, spec())
    before = everything(settings.home)
    assert reindex(settings, spec())[0].unchanged
    outcome = unchanged.outcome_if_unchanged(Context.of(spec(), settings, InProcess()))
    assert (outcome.unchanged, outcome.version, outcome.rows, outcome.report) == (True, "v1", 800, "page")
    assert everything(settings.home) == before


def test_a_refit_replaces_a_missing_model_and_other_runs_fail(settings, mine):
    reindex(settings, spec())
    digest = table_of(settings).version().properties["model"]
    shutil.rmtree(settings.home / "warehouse" / "models" / digest)
    for run in (nothing_to_do, lambda of: planning.forecast(Context.of(of, settings, InProcess()))):
        with pytest.raises(FileNotFoundError, match=f"model {digest} is missing from .*: restore it, or fit it by"):
            run(spec())
    assert reindex(settings, spec(refit="always"))[2] == "v1"  # the same model again
    assert nothing_to_do(spec()).unchanged


def test_the_command_prints_the_plan_and_needs_no_prefect_if_there_is_nothing_to_do(settings, mine, source):
    run = CliRunner().invoke
    options = ["reindex", "--dataset", "mine", "--bits", "16", "--queries", "50"]
    found = json.loads(run(cli.app, [*options, "--dry-run", "--json"]).stdout)
    assert found == planning.forecast(Context.of(spec(), settings, InProcess())).model_dump(mode="json")
    assert "mine__itq16, new" in run(cli.app, [*options, "--dry-run"]).stdout
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(100, D, seed=4, first_id=4000))
    output = run(cli.app, [*options, "--dry-run"], env={"COLUMNS": "120"}).stdout
    assert "mine__itq16, based on v1" in output
    assert "shards added" in output
    assert "1: part4.parquet" in output
    assert "no: reuses the model of v1" in output
    reindex(settings, spec())
    before = everything(settings.home)
    assert "Nothing to do: mine__itq16 v2 is up to date" in " ".join(run(cli.app, options).stdout.split())
    assert everything(settings.home) == before


def test_new_rules_are_checked_on_an_unchanged_version(settings, mine):
    """They use the stored metrics and health: nothing is measured or written."""
    reindex(settings, spec())
    stored = table_of(settings).version().properties
    found = json.loads(stored["metrics"]) | {"health.entropy": json.loads(stored["health"])[HEALTH["health.entropy"]]}
    before = everything(settings.home)

    def run(*rules):
        options = ["reindex", "--dataset", "mine", "--bits", "16", "--queries", "50", *rules]
        plain = CliRunner().invoke(cli.app, options, env={"COLUMNS": "200"})
        as_json = CliRunner().invoke(cli.app, [*options, "--json"])
        assert as_json.exit_code == plain.exit_code
        assert everything(settings.home) == before
        return plain.exit_code, " ".join((plain.stdout + plain.stderr).split()), json.loads(as_json.stdout)["verdict"]

    nothing = {"passed": True, "reasons": [], "notes": []}
    assert run() == (0, "Nothing to do: mine__itq16 v1 is up to date.", nothing)
    code, output, verdict = run("--floor", "map=0.1", "--ceiling", "health.entropy=1", "--max-loss", "map=0.1")
    held = [
        f"map {found['map']:.4f} is within its floor of 0.1000",
        f"health.entropy {found['health.entropy']:.4f} is within its ceiling of 1.0000",
        "no loss of map: nothing has changed",
    ]
    assert (code, verdict) == (0, {"passed": True, "reasons": [], "notes": held})
    assert all(note in output for note in held)
    code, output, verdict = run("--floor", "map=0.1", "--floor", "precision_radius_2=1")
    broken = f"precision_radius_2 {found['precision_radius_2']:.4f} is below its floor of 1.0000"
    assert (code, verdict["passed"], verdict["reasons"], verdict["notes"]) == (3, False, [broken], held[:1])
    assert broken in output
    assert table_of(settings).version().name == "v1"
    code, output, verdict = run("--floor", "precision_radius_2=1", "--force", "the boss says so")
    assert (code, verdict["reasons"]) == (0, [broken])
    assert "stays published by force, reason: the boss says so" in output
    # a metric that is not stored is noted, and fails only the rules that need it
    code, _, verdict = run("--relevance", "graded", "--floor", "ndcg=0.1", "--floor", "health.entropy=0.1")
    assert (code, verdict["reasons"]) == (3, ["ndcg was not measured: its floor of 0.1000 cannot be checked"])
    assert verdict["notes"][0] == f"v1 was measured by another protocol: {stored['protocol']}"
    assert run("--relevance", "graded", "--floor", "health.entropy=0.1")[0] == 0
    assert run("--relevance", "labels", "--floor", "map=0.1")[0] == 0  # as auto is where there are labels


def test_the_flow_checks_new_rules_on_an_unchanged_version(settings, mine, with_prefect_server, run_command):
    """A configured server records the run, and as failed if a rule does not hold."""
    reindex(settings, spec())
    options = ["reindex", "--dataset", "mine", "--bits", "16", "--queries", "50", "--json", "--floor"]
    for rule, code in (("map=0.1", 0), ("map=1", 3)):
        status, output, errors = run_command(*options, rule, PREFECT_API_URL=with_prefect_server.url)
        assert status == code, errors
        found = json.loads(output)
        assert (found["unchanged"], found["verdict"]["passed"]) == (True, code == 0)
    ended = {"state": {"type": {"any_": ["FAILED", "COMPLETED"]}}}  # deployments of other tests have scheduled runs
    wanted = {"flows": {"name": {"any_": ["reindex"]}}, "flow_runs": ended}
    last = with_prefect_server.read("flow_runs/filter", **wanted, sort="START_TIME_DESC", limit=2)
    assert [run["state_type"] for run in last] == ["FAILED", "COMPLETED"]


def test_a_configured_prefect_server_records_every_run(settings, mine, monkeypatch):
    reindex(settings, spec())
    assert nothing_to_do(spec()).unchanged
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert nothing_to_do(spec()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-loss", "map"), "expected NAME=VALUE, found 'map'"),
        (("--max-loss", "map=-1"), "--max-loss: a loss of map must be between 0 and 1, found -1"),
        (("--floor", "map=high"), "--floor map: Input should be a valid number"),
        (("--ceiling", "health.constant_bits"), "expected NAME=VALUE"),
        (("--max-drift", "0"), "--max-drift: Input should be greater than 0"),
    ],
)
def test_rules_are_validated_when_parsed(options, message):
    found = CliRunner().invoke(cli.app, ["reindex", "--dataset", "mine", *options], env={"COLUMNS": "200"})
    assert found.exit_code == 2 or isinstance(found.exception, UsageError)  # with which `main` exits with 2
    assert message.replace(" ", "") in f"{found.stderr}{found.exception}".replace(" ", "").replace("\n", "")


RUN = """
    import json, sys
    from infra.executors import connect
    from infra.settings import Settings
    from storage.tables.commits import PublishConflict
    from workflows.reindex import gate, pipeline, publishing
    from workflows.spec import Spec

    spec, settings = Spec.model_validate(json.loads(sys.argv[1])), Settings()
    print("ready", flush=True)
    sys.stdin.readline()
    context = pipeline.open_run(spec, settings, connect(settings))
    try:
        staged = pipeline.fit_and_stage(context)
        if staged.unchanged:
            print("adopted", staged.base)
        else:
            report = gate.evaluate_staged(context, staged)
            verdict = gate.gate(context, staged, report)
            print("published", publishing.publish(context, staged, report, verdict, "page"))
    except PublishConflict as error:
        print("conflict", error)
"""


def test_of_two_runs_at_once_one_publishes(settings, mine, source):
    """Two processes start together. One publishes; the other reports the conflict, or finds nothing to do."""
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(100, D, seed=4, first_id=4000))
    command = [sys.executable, "-c", textwrap.dedent(RUN), json.dumps(SPEC)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, **pipes, env=os.environ) for _ in range(2)]
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * 2
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    ends = [run.communicate(timeout=600) for run in runs]
    words = sorted(output.partition(" ")[0].strip() for output, _ in ends)
    assert words in (["adopted", "published"], ["conflict", "published"]), ends
    table = table_of(settings)
    assert [version.name for version in table.versions()] == ["v1", "v2"]
    assert published_codes(settings) == encoded_from_source(settings, mine)
