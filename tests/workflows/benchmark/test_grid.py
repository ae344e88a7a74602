"""The grid: every cell is measured once, cached, and shown with the published figure."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from hashing.bits import pack
from hashing.evaluation.histograms import NeighbourHistogram
from hashing.evaluation.metrics import average_precision
from hashing.mapreduce import Batch, Data
from hashing.methods import METHODS
from hashing.methods.itq import ITQ
from hashing.neighbours.exact import NearestNeighbours
from infra.executors import InProcess
from infra.settings import Settings
from storage.features.rows import Columns
from workflows.benchmark.flow import benchmark
from workflows.benchmark.grid import Grid, Row
from workflows.benchmark.published import BDNN, DHN
from workflows.checks import UsageError
from workflows.datasets import ingest_source
from workflows.ingested import dataset_of
from workflows.reports.benchmark import grid_markdown, order, table
from workflows.spec import Spec

HASHKILN = str(Path(sys.executable).with_name("hashkiln"))
SMALL = {"datasets": ["sample"], "methods": ["lsh", "pcah"], "bits": [8, 16], "protocol": "neighbours"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name, value in {"HASHKILN_HOME": str(tmp_path), "HASHKILN_EXECUTOR": "inprocess"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A small grid, measured once for the tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASHKILN_HOME", str(tmp_path_factory.mktemp("grid")))
        patch.setenv("HASHKILN_EXECUTOR", "inprocess")
        outcome = benchmark(Grid(**SMALL, seeds=[0, 1]))
    assert not outcome.failed
    return outcome.rows


def test_every_combination_is_a_row_and_deterministic_methods_have_one_seed(rows):
    found = [(row.method, row.bits, row.seed) for row in rows]
    assert found == [("lsh", 8, 0), ("lsh", 8, 1), ("lsh", 16, 0), ("lsh", 16, 1), ("pcah", 8, 0), ("pcah", 16, 0)]
    for row in rows:
        assert (row.dataset, row.protocol, row.rows, row.training_rows) == ("sample", "neighbours", 40_000, 5_000)
        assert 0 < row.metrics["map_pessimistic"] <= row.metrics["map"] <= row.metrics["map_optimistic"] < 1
        assert row.fit_seconds > 0
        assert row.fit_cpu_seconds > 0
        assert row.encode_rows_per_second > 0


def test_a_cell_equals_a_computation_by_hand(home):
    (row,) = benchmark(Grid(datasets=["sample"], methods=["itq"], bits=[16], protocol="neighbours")).rows
    sample = dataset_of(Spec(dataset="sample"), Settings())
    function = ITQ(n_bits=16).fit(Data(sample.shards("learn"), InProcess()))
    queries = [batch for shard in sample.shards("query") for batch in shard]
    x, ids = np.concatenate([b.x for b in queries]), np.concatenate([b.ids for b in queries])
    base = sample.shards("base")
    truth, _ = Data(base, InProcess()).reduce(NearestNeighbours(x, ids, 100))
    codes = [[Batch(b.ids, pack(function.encode(b.x))) for b in shard] for shard in base]
    statistic = NeighbourHistogram(pack(function.encode(x)), 16, truth, ids)
    histogram = Data(codes, InProcess()).reduce(statistic)
    assert row.metrics["map"] == average_precision(histogram).mean()


def test_a_quantizer_is_measured_by_its_estimates_too(home):
    grid = Grid(datasets=["sample"], methods=["rabitq"], bits=[128], protocol="neighbours", queries=50)
    (row,) = benchmark(grid).rows
    assert row.metrics["estimator.recall_reranked_x1"] > 1.1 * row.metrics["recall_reranked_x1"]
    low, high = row.intervals[row.reranked(1)]
    assert low < row.metrics["estimator.recall_reranked_x1"] < high
    text = grid_markdown([row])
    assert "mean average precision (tie-aware), by the estimates of a quantizer, %" in text
    assert "Bytes a row, with correctives: rabitq with 128 bits 20" in text


def test_a_second_run_measures_nothing(home):
    first = benchmark(Grid(**SMALL))
    assert benchmark(Grid(**SMALL)) == first
    longer = benchmark(Grid(**{**SMALL, "bits": [8, 16, 24]}))
    assert [row for row in longer.rows if row.bits < 24] == list(first.rows)
    assert len(list((home / "warehouse" / "benchmark").iterdir())) == 6


def test_a_killed_run_resumes_where_it_stopped(home):
    args = [HASHKILN, "benchmark", "--dataset", "sample", "--methods", "lsh,pcah,itq", "--bits", "8,16,24,32"]
    folder = home / "warehouse" / "benchmark"
    run = subprocess.Popen([*args, "--protocol", "neighbours"], env=os.environ, stderr=subprocess.DEVNULL)
    while run.poll() is None and not (folder.exists() and list(folder.glob("*.json"))):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert 0 < len(before) < 12
    outcome = benchmark(Grid(**{**SMALL, "methods": ["lsh", "pcah", "itq"], "bits": [8, 16, 24, 32]}))
    assert len(outcome.rows) == 12
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert len(after) == 12
    assert {name: after[name] for name in before} == before


def test_other_parameters_or_fewer_queries_make_another_cell(home):
    grid = {**SMALL, "methods": ["itq"], "bits": [16]}
    (whole,) = benchmark(Grid(**grid)).rows
    (other,) = benchmark(Grid(**grid, parameters={"itq": {"n_iter": 1}})).rows
    (fewer,) = benchmark(Grid(**grid, queries=20)).rows
    (real,) = benchmark(Grid(**grid, asymmetric=True)).rows
    assert real.metrics["map"] == whole.metrics["map"] < real.metrics["map_asymmetric"]
    assert other.parameters == {"n_iter": 1}
    assert len({whole.metrics["map"], other.metrics["map"], fewer.metrics["map"]}) == 3
    assert "20 queries" in fewer.relevance


def test_datasets_of_the_same_files_share_cells_unless_their_metrics_differ(home):
    x = np.random.default_rng(0).standard_normal((1500, 8)) * np.linspace(0.1, 9, 1500)[:, None]
    pq.write_table(pa.table({"id": range(1500), "vector": list(x)}), home / "x.parquet")
    for name, metric in (("plain", None), ("same", None), ("cosine", "cosine")):
        ingest_source(name, str(home / "x.parquet"), Settings(), Columns(), metric=metric)
    grid = {"methods": ["lsh"], "bits": [16], "protocol": "neighbours", "queries": 20}
    plain, same, cosine = benchmark(Grid(**grid, datasets=["plain", "same", "cosine"])).rows
    assert (plain.dataset, same.dataset, cosine.dataset) == ("plain", "same", "cosine")
    assert plain.when == same.when
    assert plain.metrics["map"] == same.metrics["map"] != cosine.metrics["map"]


def test_an_impossible_cell_is_named_before_any_is_measured(home):
    with pytest.raises(UsageError, match=r"^sample, pcah, 256 bits: expected n_bits <= d"):
        benchmark(Grid(datasets=["sample"], methods=["pcah"], bits=[16, 256], protocol="neighbours"))
    with pytest.raises(
        UsageError, match=r"^sample, lsh, 8 bits: relevance by labels needs labels: dataset sample has none"
    ):
        benchmark(Grid(datasets=["sample"], methods=["lsh"], bits=[8], protocol="labels"))
    assert not list(home.rglob("*.json"))


def test_a_failing_cell_does_not_stop_the_others(home, monkeypatch):
    monkeypatch.setattr(METHODS["pcah"], "fit", lambda self, data: 1 / 0)
    outcome = benchmark(Grid(**{**SMALL, "bits": [8]}))
    assert [row.method for row in outcome.rows] == ["lsh"]
    assert outcome.failed == {"sample, pcah, 8 bits, seed 0": "ZeroDivisionError: division by zero"}


def test_datasets_are_located_before_any_cell_is_measured(home):
    with pytest.raises(LookupError, match="expected the name of a dataset, found 'nowhere'"):
        benchmark(Grid(**{**SMALL, "datasets": ["sample", "nowhere"]}))
    assert not list(home.rglob("benchmark/*.json"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ["itk"]}, "did you mean itq"),
        ({"bits": [0]}, "greater than or equal to 1"),
        ({"parameters": {"sh": {"n_iter": 1}}}, "expected parameters for methods of the grid only, found sh: "),
        ({"methods": ["itq"], "parameters": {"itk": {"n_iter": 1}}}, "found itk: did you mean itq"),
        ({"parameters": {"lsh": {"n_iter": 1}}}, "expected parameters of lsh"),
        ({"protocol": "knn"}, "'bdnn', 'labels', 'graded', 'neighbours' or 'dhn'"),
        ({"methods": ["lsh", "LSH"]}, "expected distinct values, found repeated lsh"),
        ({"bits": [8, 16, 8]}, "expected distinct values, found repeated 8"),
        ({"seeds": []}, "expected at least one value, found none"),
        ({"queries": 0}, "greater than or equal to 1"),
        ({"methods": ["itq"], "parameters": {"itq": {"n_iter": 0}}}, "expected ITQ's n_iter of at least 1, found 0"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(values, message):
    with pytest.raises(ValidationError, match=message):
        Grid(**{**SMALL, **values})


def test_all_means_the_catalogue_and_names_of_papers_are_accepted():
    assert Grid(**{**SMALL, "methods": ["all"]}).methods == tuple(sorted(METHODS))
    assert Grid(**{**SMALL, "methods": ["UH-BDNN"]}).methods == ("uh_bdnn",)


def test_tables_show_mean_standard_deviation_and_published_figure(rows):
    like = [
        row.model_copy(update={"dataset": "mnist", "protocol": "bdnn", "method": "itq", "bits": 16}) for row in rows[:2]
    ]
    like = [
        row.model_copy(update={"metrics": {**row.metrics, BDNN.metric: p}})
        for row, p in zip(like, (0.05, 0.07), strict=True)
    ]
    assert "| itq | 6.00 ± 1.41 (5.87) | 2 |" in table(like, BDNN.metric)
    text = grid_markdown(rows)
    assert "## sample, protocol neighbours" in text
    assert "40,000 rows, 5,000 training rows; relevant: the 100 nearest rows" in text
    assert "(" not in table(rows, BDNN.metric)  # nothing was published for the sample


def test_tables_show_the_seconds_that_are_asked_for(rows):
    old = [row.model_copy(update={"fit_seconds": 2.5, "fit_cpu_seconds": None}) for row in rows if row.bits == 8]
    new = [row.model_copy(update={"fit_seconds": 2.5, "fit_cpu_seconds": 1.5}) for row in rows if row.bits == 16]
    found = [*old, *new]
    assert "| lsh | 2.5 ± 0.0 | 2.5 ± 0.0 | 2 |" in grid_markdown(found).partition("### Fit time, seconds")[2]
    own = grid_markdown(found, seconds="fit_cpu_seconds").partition("### Processor time of the fit, seconds")[2]
    assert "| lsh | not measured | 1.5 ± 0.0 | 2 |" in own


def test_a_method_with_several_sets_of_hyper_parameters_has_a_line_for_each(rows):
    def row(value, **parameters):
        return rows[0].model_copy(
            update={"method": "dpsh", "bits": 32, "parameters": parameters, "metrics": {"map": value}}
        )

    lines = table([row(0.1), row(0.3), row(0.6, epochs=30)], "map").splitlines()
    assert lines[2:] == ["| dpsh, defaults | 20.00 ± 14.14 | 2 |", "| dpsh, epochs=30 | 60.00 | 1 |"]
    assert table([row(0.6, epochs=30)], "map").endswith("\n| dpsh | 60.00 | 1 |")


def test_published_figures_of_the_dhn_protocol_are_shown_with_its_own_metric(rows):
    changes = {"dataset": "cifar-10", "protocol": "dhn", "method": "dhn", "bits": 48, "tuned": {"lr": (0.1, 1.0)}}
    row = rows[0].model_copy(update={**changes, "metrics": {**rows[0].metrics, "map_dhn": 0.6}})
    text = grid_markdown([row])
    assert "| dhn | 60.00 (62.10) | 1 |" in text
    assert text.count("(62.10)") == 1  # and beside no other metric
    assert "Chosen by cross-validation on the training rows: dhn lr" in text
    assert "map_dhn" not in grid_markdown(rows)
    for dataset, average in {"nus-wide": 16.30, "cifar-10": 25.78, "flickr25k": 12.70}.items():  # from the paper
        ours, ksh = (np.mean(list(DHN.figures[dataset][name].values())) for name in ("dhn", "ksh"))
        assert 100 * (ours - ksh) == pytest.approx(average, abs=0.02)


def test_the_ranking_of_methods_is_compared_with_that_of_a_similar_dataset(rows):
    def row(method, value):
        changes = {"dataset": "photosift", "protocol": "bdnn", "method": method, "bits": 32}
        return rows[0].model_copy(update={**changes, "metrics": {BDNN.metric: value}})

    text = "\n".join(order([row("itq", 0.1), row("sh", 0.3), row("sph", 0.2), row("lsh", 0.9)]))
    assert "32 bits, Kendall's tau 1.00: measured sh > sph > itq; published sh > sph > itq." in text


def test_the_command_writes_rows_tables_and_plots(home, run_command):
    args = ["benchmark", "--dataset", "sample", "--methods", "lsh,pcah,sgh", "--bits", "8", "--seeds", "2"]
    args += ["--set", "sgh.lr=1e30"]  # with which no epoch ends
    args += ["--protocol", "neighbours", "--json", str(home / "rows.json"), "--out", str(home / "out")]
    args += ["--figures", str(home / "figures")]
    code, _, error = run_command(*args)
    assert code == 1
    assert "sample, sgh, 8 bits, seed 1: expected a finite loss, found" in " ".join(error.split())
    found = [Row(**row) for row in json.loads((home / "rows.json").read_text())]
    assert [(row.method, row.bits) for row in found] == [("lsh", 8)] * 2 + [("pcah", 8)]
    assert (home / "out" / "rows.json").read_text() == (home / "rows.json").read_text()
    table = pq.read_table(home / "out" / "rows.parquet")
    assert table["metrics"].to_pylist()[0]["map"] == found[0].metrics["map"]
    assert "| lsh |" in (home / "out" / "tables.md").read_text()
    assert "Mean average precision (tie-aware)" in (home / "out" / "plots.html").read_text()
    assert {path.suffix for path in (home / "figures").iterdir()} == {".svg", ".pdf", ".csv"}
    assert found[0].effective == {}
    assert found[0].hardware.endswith(" CPUs")
    assert found[0].evaluate_seconds > 0
