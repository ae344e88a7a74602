"""The gate: which versions it rejects, and why."""

import re
from contextlib import suppress
from pathlib import Path

import pytest

from infra.executors import InProcess
from storage.features.shard import FeatureShard
from storage.tables.commits import PublishConflict
from tests.conftest import blobs
from tests.workflows.conftest import D, reindex, spec, table_of, write_shard
from workflows import records
from workflows.context import Context
from workflows.evaluation.registry import HEALTH
from workflows.records import Verdict
from workflows.reindex import fitting, publishing, staging
from workflows.reindex import gate as gate_
from workflows.reindex.publishing import GateRejected
from workflows.reports.run import write_report
from workflows.spec import Spec


def test_a_rejected_version_is_not_visible_to_readers(settings, mine, source):
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    with pytest.raises(GateRejected, match=r"map 0\.\d+ is below its floor of 0\.9900"):
        reindex(settings, spec(gate={"floors": {"map": 0.99}}))
    table = table_of(settings)
    assert table.version().name == "v1"
    rejected = [v for v in table.versions() if v.name.startswith("rejected-")]
    assert len(rejected) == 1
    assert "below its floor" in rejected[0].properties["verdict"]
    forced, _, version = reindex(settings, spec(gate={"floors": {"map": 0.99}, "force": "the boss says so"}))
    assert (version, forced.encoded) == ("v2", 0)  # what was rejected is encoded already
    assert "the boss says so" in table_of(settings).version().properties["verdict"]


def test_a_loss_beyond_sampling_noise_is_rejected_and_one_within_it_is_not(settings, mine):
    reindex(settings, spec(code="c"))
    worse = {"code": "c", "method": {"method": "lsh", "bits": 16, "seed": 3}, "refit": "always"}
    with pytest.raises(GateRejected, match=r"map changed by -0\.\d+ .* since v1, on 799 common rows: a loss of more"):
        reindex(settings, spec(**worse))
    _, report, version = reindex(settings, spec(**worse, gate={"max_loss": 1.0}))
    assert version == "v2"
    assert report.comparison.differences["map"].high < 0


def test_a_version_is_not_published_over_one_that_another_run_published(settings, mine, source):
    executor = InProcess()
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    slow = spec()
    staged = staging.stage(Context.of(slow, settings, executor), fitting.fit(Context.of(slow, settings, executor)))
    report = gate_.evaluate_staged(Context.of(slow, settings, InProcess()), staged)
    write_shard(source, "part5.parquet", blobs(50, D, seed=5, first_id=5000))
    assert reindex(settings, spec())[2] == "v2"
    with pytest.raises(PublishConflict, match="another run published"):
        publishing.publish(
            Context.of(slow, settings, InProcess()), staged, report, Verdict(passed=True, reasons=(), notes=()), "page"
        )
    assert table_of(settings).version().name == "v2"


def test_a_source_that_changes_after_staging_fails_the_coverage_check(settings, mine, source):
    executor = InProcess()
    staged = staging.stage(Context.of(spec(), settings, executor), fitting.fit(Context.of(spec(), settings, executor)))
    report = gate_.evaluate_staged(Context.of(spec(), settings, InProcess()), staged)
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    verdict = gate_.gate(Context.of(spec(), settings, InProcess()), staged, report)
    assert not verdict.passed
    assert "1 of 5 source shards are missing, such as part4.parquet" in verdict.reasons[0]


def judged(settings, of, staged=None, **changed):
    """Return (verdict, report) of a staged version."""
    executor = InProcess()
    staged = staged or staging.stage(
        Context.of(of, settings, executor), fitting.fit(Context.of(of, settings, executor))
    )
    report = gate_.evaluate_staged(Context.of(of, settings, InProcess()), staged).model_copy(update=changed)
    return gate_.gate(Context.of(of, settings, InProcess()), staged, report), report


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ({"floors": {"health.entropy": 0.999}}, r"health.entropy 0\.\d+ is below its floor of 0.9990"),
        ({"floors": {"health.entropy": 0.5}}, ""),
        ({"ceilings": {"health.correlation": 0.001}}, r"health.correlation 0\.\d+ is above its ceiling of 0.0010"),
        ({"ceilings": {"health.constant_bits": 0}}, ""),
        ({"ceilings": {"empty_balls_radius_2": 0}}, r"empty_balls_radius_2 0\.\d+ is above its ceiling of 0"),
    ],
)
def test_floors_and_ceilings_apply_to_metrics_and_to_code_health(settings, mine, gate, reason):
    verdict, _ = judged(settings, spec(gate=gate))
    assert verdict.passed == (not reason)
    assert re.search(reason, " ".join(verdict.reasons))


def test_constant_bits_are_noted_and_rejected_by_a_ceiling(settings, mine):
    health = dict.fromkeys(HEALTH.values(), 0.5) | {HEALTH["health.constant_bits"]: 2}
    verdict, _ = judged(settings, spec(), health=health)
    assert verdict.passed
    assert "2 bits are constant over all rows and carry no information" in verdict.notes
    verdict, _ = judged(settings, spec(gate={"ceilings": {"health.constant_bits": 0}}), health=health)
    assert verdict.reasons == ("health.constant_bits 2.0000 is above its ceiling of 0.0000",)


def test_every_metric_can_have_a_largest_loss(settings, mine, source):
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(300, D, seed=4, first_id=4000))
    verdict, report = judged(settings, spec(gate={"max_loss": {"recall_at_1000": 0.01}}))
    assert set(report.comparison.differences) == set(report.measured.metrics)
    noted = [note for note in verdict.notes if "within sampling noise" in note]
    assert [note.split()[0] for note in noted] == ["map", "recall_at_1000"]

    def lost(metric, low, value, high, **gate):
        d = {**report.comparison.differences, metric: records.Estimate(value=value, low=low, high=high)}
        comparison = report.comparison.model_copy(update={"differences": d})
        return judged(settings, spec(gate={"max_loss": gate}), comparison=comparison)[0].reasons

    assert lost("map", -0.03, -0.02, -0.01) != ()  # map has a rule always
    assert lost("map", -0.03, -0.02, 0.01) == ()  # inside the noise
    assert lost("map", -0.03, -0.02, -0.01, map=0.02) == ()
    assert lost("recall_at_1000", -0.03, -0.02, -0.01) == ()  # no rule for it
    (reason,) = lost("recall_at_1000", -0.03, -0.02, -0.01, recall_at_1000=0.01)
    assert reason.startswith(
        "recall_at_1000 changed by -0.0200 [-0.0300, -0.0100] since v1, on 799 common rows: a loss"
    )
    assert lost("empty_balls_radius_2", -0.3, -0.2, -0.1, empty_balls_radius_2=0) == ()  # fewer of them are a gain
    assert lost("empty_balls_radius_2", 0.1, 0.2, 0.3, empty_balls_radius_2=0) != ()


def test_a_part_that_lacks_rows_is_refused(settings, mine, monkeypatch):
    """Source rows are counted by the footers of the source, not by the encoder."""
    read = FeatureShard.read_blocks

    def lossy(shard):
        for block in read(shard):
            lost = 3 if shard.name == "part2.parquet" else 0
            yield block._replace(batch=block.batch.take(slice(lost, None)), labels=block.labels and block.labels[lost:])

    monkeypatch.setattr(FeatureShard, "read_blocks", lossy)
    with pytest.raises(GateRejected, match=r"expected 200 rows of part2.parquet, as in the source, found 197"):
        reindex(settings, spec())


def test_a_forced_verdict_is_recorded_with_the_failed_checks(settings, mine, source):
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(300, D, seed=4, first_id=4000))
    forced = spec(gate={"floors": {"map": 0.99}, "force": "the boss says so"})
    assert reindex(settings, forced)[2] == "v2"
    verdict = Verdict.model_validate_json(table_of(settings).version().properties["verdict"])
    assert verdict.passed
    assert "is below its floor" in verdict.reasons[0]
    assert verdict.notes[-1] == "published by force, reason: the boss says so"


def test_each_run_keeps_its_report(settings, mine, source):
    """Even if two runs of the same plan are rejected, and a third is published."""

    def run(gate):
        of = spec(gate=gate)
        staged = staging.stage(
            Context.of(of, settings, InProcess()), fitting.fit(Context.of(of, settings, InProcess()))
        )
        report = gate_.evaluate_staged(Context.of(of, settings, InProcess()), staged)
        verdict = gate_.gate(Context.of(of, settings, InProcess()), staged, report)
        page = write_report(Context.of(of, settings, InProcess()), staged, report, verdict)
        assert (
            write_report(Context.of(of, settings, InProcess()), staged, report, verdict) == page
        )  # a task that is retried
        with suppress(GateRejected):
            publishing.publish(Context.of(of, settings, InProcess()), staged, report, verdict, page)
        return staged.branch, page

    runs = [run(gate) for gate in ({"floors": {"map": 0.99}}, {"floors": {"map": 0.98}}, {})]
    (branch,), pages = {branch for branch, _ in runs}, [page for _, page in runs]
    folder = settings.home / "warehouse" / "reports" / "mine__itq16"
    assert sorted(pages) == sorted(map(str, folder.iterdir()))
    assert ["floor of 0.9900" in Path(page).read_text() for page in pages] == [True, False, False]
    assert ["floor of 0.9800" in Path(page).read_text() for page in pages] == [False, True, False]
    table = table_of(settings)
    assert table.version().properties["report"] == pages[2]
    assert table.version(branch.replace("staged-", "rejected-")).properties["report"] == pages[1]


def test_gates_of_versions_by_older_programs_are_read():
    """Their max_loss was a single number, for map."""
    assert Spec.model_validate({"dataset": "mine", "gate": {"max_loss": 0.25}}).gate.max_loss == {"map": 0.25}
