"""Queries, relevant rows, and the comparison of versions."""

import re
from pathlib import Path

import numpy as np
import pytest

from hashing.bits import pack
from hashing.evaluation import metrics
from infra.executors import InProcess
from storage import models
from storage.features.shard import SourceChanged
from storage.tables import parts
from tests.conftest import blobs
from tests.workflows.conftest import (
    D,
    published_rows,
    reindex,
    spec,
    table_of,
    write_shard,
)
from workflows.context import Context
from workflows.evaluation import comparison, ground_truth
from workflows.evaluation.judge import draw_queries, judge_of
from workflows.evaluation.version import measure_version
from workflows.records import Verdict
from workflows.reindex.publishing import GateRejected
from workflows.spec import Gate


def test_versions_are_compared_on_their_common_rows(settings, mine, source):
    """Compared with a histogram of both versions computed by hand, with another model and changed rows."""
    reindex(settings, spec())
    old = published_rows(settings)
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1100))
    write_shard(source, "part5.parquet", blobs(100, D, seed=5, first_id=5000))
    again = spec(refit="always", gate={"force": "to look at it"})
    _, report, version = reindex(settings, again)
    new = published_rows(settings)
    assert version == "v2"
    table = table_of(settings)
    judge = judge_of(Context.of(spec(), settings, InProcess()), table.vocabulary)

    def mean_precision(rows, name, keep):
        function = models.load_model(settings.warehouse_url, table.version(name).properties["model"])
        rows = rows.take(np.isin(rows.ids, keep))
        queries = pack(function.encode(judge.queries.x))
        distance = np.bitwise_count(queries[:, None] ^ rows.x).sum(-1)
        relevant = judge.queries.y @ rows.y.T > 0
        ranked = judge.queries.ids[:, None] != rows.ids
        histogram = np.zeros((2, len(queries), 17), np.int64)
        for q in range(len(queries)):
            histogram[0, q] = np.bincount(distance[q, ranked[q]], minlength=17)
            histogram[1, q] = np.bincount(distance[q, ranked[q] & relevant[q]], minlength=17)
        return metrics.average_precision(histogram).mean()

    common = np.intersect1d(old.ids, new.ids)
    assert report.comparison.version == "v1"
    value = report.comparison.staged.metrics["map"].value
    assert value == pytest.approx(mean_precision(new, "v2", common), abs=1e-12)
    assert report.comparison.published.metrics["map"].value == pytest.approx(
        mean_precision(old, "v1", common), abs=1e-12
    )
    assert report.measured.metrics["map"].value == pytest.approx(mean_precision(new, "v2", new.ids), abs=1e-12)


def test_sampled_queries_are_frozen_excluded_from_training_and_from_their_own_rankings(settings, mine, source):
    reindex(settings, spec())
    table = table_of(settings)
    judge = judge_of(Context.of(spec(), settings, InProcess()), table.vocabulary)
    assert judge.drawn
    assert len(judge.queries.ids) == 50
    write_shard(source, "part4.parquet", blobs(400, D, seed=4, first_id=4000))
    reindex(settings, spec(protocol={"queries": 70}))
    again = judge_of(Context.of(spec(), settings, InProcess()), table_of(settings).vocabulary)
    for a, b in zip(judge.queries, again.queries, strict=True):
        np.testing.assert_array_equal(a, b)
    seventy = spec(protocol={"queries": 70, "new_queries": True})
    drawn = judge_of(Context.of(seventy, settings, InProcess()), table_of(settings).vocabulary)
    assert len(drawn.queries.ids) == 70
    histogram = judge.histogram(
        models.load_model(settings.warehouse_url, table.version().properties["model"]),
        table.shards(table.version().snapshot_id),
        InProcess(),
    )
    assert (histogram[0].sum(1) == 799).all()
    x = np.concatenate([batch.x for shard in mine.shards("base") for batch in shard])
    ids = np.concatenate([batch.ids for shard in mine.shards("base") for batch in shard])
    first = np.isin(ids, judge.queries.ids) | (ids >= 4000)
    weight = models.load_model(settings.warehouse_url, table.version().properties["model"])
    mean = x[~first].astype(np.float64).mean(0)
    np.testing.assert_allclose(mean @ weight.weight.astype(np.float64), weight.threshold, rtol=1e-3, atol=1e-4)


def test_neighbours_are_computed_once_and_cached(settings, mine):
    by_distance = spec(protocol={"relevance": "neighbours", "neighbours": 5, "queries": 50})
    _, report, _ = reindex(settings, by_distance)
    assert "the 5 nearest rows by Euclidean distance" in report.protocol
    truth = list((settings.home / "warehouse" / "truth").iterdir())
    assert len(truth) == 1
    file = truth[0].stat().st_ino
    table = table_of(settings)
    judge = judge_of(Context.of(by_distance, settings, InProcess()), table.vocabulary)
    assert truth[0].stat().st_ino == file  # used, and not written again
    batches = [batch for shard in mine.shards("base") for batch in shard]
    x, ids = (np.concatenate([getattr(batch, field) for batch in batches]) for field in ("x", "ids"))
    distance = ((judge.queries.x[:, None].astype(np.float64) - x) ** 2).sum(-1)
    distance[judge.queries.ids[:, None] == ids] = np.inf
    np.testing.assert_array_equal(
        judge.neighbours, ids[np.lexsort((np.broadcast_to(ids, distance.shape), distance))[:, :5]]
    )


def test_only_changed_parts_are_counted_and_totals_equal_a_full_count(settings, mine, source, monkeypatch):
    """Bit for bit, for histograms and code health, over a series of versions."""
    read, iterate = [], parts.CodeShard.__iter__

    def seen(shard):
        read.append(shard.part.shard)
        return iterate(shard)

    def changed(first):
        reindex(settings, spec())
        read.clear()
        write_shard(source, "part1.parquet", blobs(150, D, seed=first, first_id=1000))
        write_shard(source, f"part{first}.parquet", blobs(90, D, seed=first, first_id=1000 * first))
        return reindex(settings, spec(gate={"force": "to look at it"}))[1]

    monkeypatch.setattr(parts.CodeShard, "__iter__", seen)
    for first in (5, 6):
        kept = changed(first)
        assert set(read) == {"part1.parquet", f"part{first}.parquet"}
    folder = settings.home / "warehouse" / "kept"
    for file in folder.iterdir():
        file.unlink()
    read.clear()
    table = table_of(settings)
    of = (Context.of(spec(), settings, InProcess()), table, table.version(), table.version("v2"))
    assert measure_version(*of) == kept
    assert set(read) == set(table.parts(table.version().snapshot_id))
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-7])
    assert measure_version(*of) == kept  # damaged counts are counted again


def test_cached_counts_of_another_model_or_other_queries_are_not_reused(settings, mine):
    reindex(settings, spec())
    _, report, _ = reindex(settings, spec(refit="always", method={"method": "lsh", "bits": 16}, code="itq16",
                                          gate={"force": "to look at it"}))  # fmt: skip
    table = table_of(settings)
    for file in (settings.home / "warehouse" / "kept").iterdir():
        file.unlink()
    drawn = spec(protocol={"queries": 60, "new_queries": True})
    again = measure_version(Context.of(spec(), settings, InProcess()), table, table.version(), table.version("v1"))
    assert again == report
    other = measure_version(Context.of(drawn, settings, InProcess()), table, table.version(), table.version("v1"))
    assert other.measured != report.measured


def test_neighbours_are_searched_only_among_new_rows(settings, mine, source, monkeypatch):
    """The result equals that of a full search."""
    by_distance = spec(protocol={"relevance": "neighbours", "neighbours": 5, "queries": 50})
    looked, exact = [], ground_truth.exact_neighbours

    def seen(x, own_rows, k, data, *more):
        looked.append([shard.name for shard in data.shards])
        return exact(x, own_rows, k, data, *more)

    monkeypatch.setattr(ground_truth, "exact_neighbours", seen)
    reindex(settings, by_distance)
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1100))
    write_shard(source, "part5.parquet", blobs(100, D, seed=5, first_id=5000))
    _, report, _ = reindex(settings, by_distance.model_copy(update={"gate": Gate(force="to look at it")}))
    assert looked == [[f"part{i}.parquet" for i in range(4)], ["part1.parquet", "part5.parquet"]]
    for file in [*(settings.home / "warehouse" / "kept").iterdir(), *(settings.home / "warehouse" / "truth").iterdir()]:
        file.unlink()
    table = table_of(settings)
    anew = measure_version(Context.of(by_distance, settings, InProcess()), table, table.version(), table.version("v1"))
    assert anew == report
    assert len(looked[-1]) == 5


def test_neighbours_in_a_file_that_changes_while_it_is_read_are_not_cached(settings, mine, source):
    by_distance = spec(protocol={"relevance": "neighbours", "neighbours": 5, "queries": 50})

    def relevant(executor):
        return judge_of(Context.of(by_distance, settings, executor), ()).neighbours

    draw_queries(Context.of(by_distance, settings, InProcess()))

    def meanwhile(label, done, total):
        if label == "exact neighbours" and not done:
            write_shard(source, "new", blobs(300, D, seed=9, first_id=3000))
            (source / "part3.parquet").rename(source / "old")
            (source / "new").rename(source / "part3.parquet")

    with pytest.raises(SourceChanged, match=r"part3\.parquet changed after it was listed"):
        relevant(InProcess(meanwhile))
    (source / "old").rename(
        source / "part3.parquet"
    )  # its version, under which neighbours are cached, is the same again
    assert relevant(InProcess()).max() < 3200


DAMAGES = {
    "lost": lambda path: path.unlink(),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:600] + b"?" + path.read_bytes()[601:]),
}


@pytest.mark.parametrize(("damage", "relevance"), [("lost", "labels"), ("torn", "neighbours"), ("flipped", "labels")])
def test_a_published_version_with_a_damaged_part_is_not_compared_and_blocks_no_run(
    settings, mine, source, damage, relevance
):
    """The shard of the part has changed, so the part cannot be repaired."""
    by = {"relevance": relevance, "neighbours": 5, "queries": 50}
    reindex(settings, spec(protocol=by))
    path = Path(part_of(settings, "part1.parquet").url)
    DAMAGES[damage](path)
    parts._verified.clear()  # as in a new process
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1100))
    line = rf"not comparable with v1: .*{path.name}"
    with pytest.raises(GateRejected, match=f"the loss of recall_at_1000 cannot be checked: {line}"):
        reindex(settings, spec(protocol=by, gate={"max_loss": {"recall_at_1000": 1}}))
    staged, report, version = reindex(settings, spec(protocol=by))
    assert (version, staged.encoded, report.comparison) == ("v2", 0, None)
    table = table_of(settings)
    verdict = Verdict.model_validate_json(table.version().properties["verdict"])
    assert [note for note in verdict.notes if re.match(line, note)] == [
        f"not comparable with v1: {report.incomparable}"
    ]
    for folder in ("kept", "truth"):
        for file in (settings.home / "warehouse" / folder).glob("*"):
            file.unlink()
    anew = measure_version(Context.of(spec(protocol=by), settings, InProcess()), table, table.version(), None)
    assert (anew.measured, anew.health) == (report.measured, report.health)


def test_a_damaged_part_of_the_staged_version_is_an_error(settings, mine, source):
    """Its shard has not changed, so it would be published again; `verify --repair` repairs it."""
    reindex(settings, spec())
    path = Path(part_of(settings, "part2.parquet").url)
    DAMAGES["flipped"](path)
    parts._verified.clear()
    for file in (settings.home / "warehouse" / "kept").iterdir():
        file.unlink()
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1100))
    with pytest.raises(ValueError, match=f"expected a part of SHA-256 {path.stem}, found"):
        reindex(settings, spec())


def test_only_damage_makes_versions_incomparable(settings, mine, source, monkeypatch):
    """Any other error is raised, although a version can be published without comparison."""

    def wrong(values, seed):
        raise ValueError("a mistake of the program's")

    reindex(settings, spec())
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1100))
    monkeypatch.setattr(comparison, "estimated", wrong)
    with pytest.raises(ValueError, match="a mistake of the program's"):
        reindex(settings, spec())


def part_of(settings, shard):
    table = table_of(settings)
    return table.parts(table.version().snapshot_id)[shard]
