"""The report page, in a real browser where there is one."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from workflows import records
from workflows.evaluation import metrics
from workflows.records import Drift, Model, Report, Staged, Verdict
from workflows.reports.run import plot, run_markdown, run_page, trained
from workflows.spec import Spec

EPOCHS = [
    {"epoch": 1, "loss": 0.75, "score": 0.5, "lr": 0.01, "seconds": 2.0, "rows": 60_000},
    {"epoch": 2, "loss": 0.5, "score": 0.875, "lr": 0.005, "seconds": 1.5, "rows": 60_000},
    {"epoch": 3, "loss": 0.25, "score": 0.875, "lr": 0.0, "seconds": 1.0, "rows": 60_000},
]
EVIL = "<script>document.title='owned'</script>"


@pytest.fixture
def run():
    """Return (spec, staged, report, verdict, epochs) of two random versions; texts of the user contain markup."""
    rng = np.random.default_rng(0)
    total = rng.integers(1, 50, (20, 17))
    histogram = np.stack([total, total // 3])
    model = Model(digest="d" * 64, fit="f" * 64, seconds=1.5, reason=f"drift {EVIL}")
    moved = Drift(rows=45, bit=3, moved=0.75, chance=0.2, balance=0.3, own_balance=0.5, shows=True)
    staged = Staged(
        table="t__itq16", branch="staged-0", base="v3", base_snapshot=1, model=model, source="s", rows=12345,
        encoded=45, removed=2, seconds=3.0, drift=moved,
    )  # fmt: skip
    found = metrics.measured(histogram, 0, metrics.metric_values(histogram))
    comparison = records.Comparison(
        version="v3",
        rows=99,
        staged=found,
        published=found,
        differences={name: metrics.estimated(rng.random(20), 0) for name in found.metrics},
    )
    made = Report(
        protocol="relevant: rows that share a label; 20 queries",
        measured=found,
        curves=metrics.retrieval_curves(histogram),
        comparison=comparison,
        health={"least entropy of a bit": 0.25},
        overlap="0 rows by id, 0 by content",
    )
    verdict = Verdict(passed=False, reasons=("coverage: 1 of 5",), notes=(f"by force: {EVIL}",))
    return Spec.model_validate({"dataset": "sample", "gate": {"force": EVIL}}), staged, made, verdict, EPOCHS


def test_the_page_shows_all_results_and_loads_nothing_external(run):
    page = run_page(*run)
    assert "t__itq16" in page
    assert "coverage: 1 of 5" in page
    assert "v3, common rows" in page
    assert str(run[2].measured.metrics["map"]) in page
    assert "Query overlap: 0 rows by id" in page
    assert str(run[2].comparison.differences["map"]) in page
    assert "bit 3 moved by 0.75 standard deviations in 45 new rows (share of ones 0.30, in training 0.50)" in page
    assert "12,345; this run encoded 45 in" in page
    assert EVIL not in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "src=" not in markup
    assert "href=" not in markup
    assert not re.search(r"<script[^>]*src=", page)


def drawn(html):
    """Return the traces of the last plot."""
    return json.JSONDecoder().raw_decode(html, html.index("[{", html.rindex("Plotly.newPlot(")))[0]


def test_training_epochs_are_plotted_and_summarized(run):
    page = run_page(*run)
    assert page.index(trained(EPOCHS)) < page.rindex("Plotly.newPlot(")
    for trace, name in zip(drawn(page), ("loss", "score", "lr"), strict=True):
        assert (trace["x"], trace["y"]) == ([1, 2, 3], [epoch[name] for epoch in EPOCHS])
    said = "3 epochs of 60,000 rows in 4.5 s, loss 0.2500; selected epoch 2, the best on held-out rows (map 0.8750)"
    assert trained(EPOCHS) == said
    assert f"Training: {said}." in run_markdown(*run)
    unjudged = [{**epoch, "score": None} for epoch in EPOCHS]
    assert trained(unjudged) == "3 epochs of 60,000 rows in 4.5 s, loss 0.2500"
    assert [trace["y"] for trace in drawn(run_page(*run[:4], unjudged))] == [[0.75, 0.5, 0.25], [0.01, 0.005, 0.0]]


def test_a_model_without_epochs_has_no_training_section(run):
    page = run_page(*run[:4], [])
    assert "<h2>Training" not in page
    assert page.count("Plotly.newPlot(") == run_page(*run).count("Plotly.newPlot(") - 1
    assert "Training" not in run_markdown(*run[:4], [])


def test_curves_by_rank_are_plotted(run):
    html = plot(run[2].curves)
    data = drawn(html)
    by_rank = [[tuple(trace["x"]), tuple(trace["y"])] for trace in data[3:]]
    curves = run[2].curves
    assert by_rank == [[curves.ranks, curves.precision_at], [curves.ranks, curves.recall_at]]
    assert curves.ranks[:5] == (1, 2, 5, 10, 20)


def test_the_summary_shows_the_verdict_of_the_gate(run):
    text = run_markdown(*run)
    assert text.startswith("# t__itq16: **rejected**")
    assert "- failed check: coverage: 1 of 5" in text


def test_a_browser_renders_the_page(run, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs a browser: install chromium to see the report drawn")
    (tmp_path / "report.html").write_text(run_page(*run))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [chromium, *flags, "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'report.html'}"]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert seen.count('class="main-svg"') >= 4
    assert "<title>t__itq16: rejected</title>" in seen  # the user's markup was shown, not run
    assert seen.count('class="trace scatter') == 5 + 3
