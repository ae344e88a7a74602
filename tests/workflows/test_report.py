"""The report page, in a real browser where there is one."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from workflows import measure, report
from workflows.drift import Drift
from workflows.references import Model, Report, Staged, Verdict
from workflows.spec import Spec

EVIL = "<script>document.title='owned'</script>"


@pytest.fixture
def run():
    """(spec, staged, report, verdict) of two random versions; the user's words hold markup."""
    rng = np.random.default_rng(0)
    total = rng.integers(1, 50, (20, 17))
    histogram = np.stack([total, total // 3])
    model = Model(digest="d" * 64, fit="f" * 64, seconds=1.5, reason=f"drift {EVIL}")
    moved = Drift(rows=45, bit=3, moved=0.75, chance=0.2, balance=0.3, own_balance=0.5, shows=True)
    staged = Staged(
        table="t__itq16", branch="staged-0", base="v3", base_snapshot=1, model=model, source="s", rows=12345,
        encoded=45, removed=2, seconds=3.0, drift=moved,
    )  # fmt: skip
    found = measure.measured(histogram, 0)
    comparison = measure.Comparison(
        version="v3",
        rows=99,
        staged=found,
        published=found,
        differences={name: measure.estimate(rng.random(20), 0) for name in found.metrics},
    )
    made = Report(
        protocol="relevant: rows that share a label; 20 queries",
        measured=found,
        curves=measure.curves(histogram),
        comparison=comparison,
        health={"least entropy of a bit": 0.25},
        overlap="0 rows by id, 0 by content",
    )
    verdict = Verdict(passed=False, reasons=("coverage: 1 of 5",), notes=(f"by force: {EVIL}",))
    return Spec.model_validate({"dataset": "sample", "gate": {"force": EVIL}}), staged, made, verdict


def test_the_page_holds_what_was_found_and_nothing_from_elsewhere(run):
    page = report.page(*run)
    assert "t__itq16" in page
    assert "coverage: 1 of 5" in page
    assert "v3, common rows" in page
    assert str(run[2].measured.metrics["map"]) in page
    assert "Rows that are queries as well: 0 rows by id" in page
    assert str(run[2].comparison.differences["map"]) in page
    assert "bit 3 moved by 0.75 deviations in 45 new rows (0.30 of its bits are ones, 0.50 were)" in page
    assert "12,345, of which 45 encoded" in page
    assert EVIL not in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "src=" not in markup
    assert "href=" not in markup
    assert not re.search(r"<script[^>]*src=", page)


def test_the_curves_by_rank_are_drawn(run):
    html = report.plot(run[2].curves)
    data, _ = json.JSONDecoder().raw_decode(html, html.index("[{", html.rindex("Plotly.newPlot(")))
    by_rank = [[tuple(trace["x"]), tuple(trace["y"])] for trace in data[3:]]
    curves = run[2].curves
    assert by_rank == [[curves.ranks, curves.precision_at], [curves.ranks, curves.recall_at]]
    assert curves.ranks[:5] == (1, 2, 5, 10, 20)


def test_the_summary_says_what_the_gate_said(run):
    text = report.markdown(*run)
    assert text.startswith("# t__itq16: **rejected**")
    assert "- against: coverage: 1 of 5" in text


def test_a_browser_draws_the_page(run, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs a browser: install chromium to see the report drawn")
    (tmp_path / "report.html").write_text(report.page(*run))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [chromium, *flags, "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'report.html'}"]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert drawn.count('class="main-svg"') >= 2
    assert "<title>t__itq16: rejected</title>" in drawn  # the user's markup was shown, not run
    assert drawn.count('class="trace scatter') == 5
