"""The report of a run."""

import re

import numpy as np
import pytest

from storage.features.previews import DATA_URL
from tests.workflows.reports.browser import audit
from workflows import records
from workflows.evaluation import metrics
from workflows.records import Bits, Drift, Example, Model, Neighbour, Report, Staged, Verdict
from workflows.reports import run_charts
from workflows.reports.examples import Seen
from workflows.reports.run import Surroundings, lead, metric_rows, run_markdown, run_page, trained
from workflows.spec import Spec

EPOCHS = [
    {"epoch": 1, "loss": 0.75, "score": 0.5, "lr": 0.01, "seconds": 2.0, "rows": 60_000},
    {"epoch": 2, "loss": 0.5, "score": 0.875, "lr": 0.005, "seconds": 1.5, "rows": 60_000},
    {"epoch": 3, "loss": 0.25, "score": 0.875, "lr": 0.0, "seconds": 1.0, "rows": 60_000},
]
EVIL = "<script>document.title='owned'</script>"
NEAR = [Neighbour(id=8, distance=1, relevant=True), Neighbour(id=9, distance=2, relevant=False, labels=["a"])]
PIXEL = DATA_URL + "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="
AROUND = Surroundings(
    versions={"v2": {"map": 0.25, "precision_at_100": 0.5}, "v3": {"map": 0.3}},
    lineage={"dataset": EVIL, "host": "a machine"},
    examples=[
        Example(kind=kind, id=7, precision=0.5, labels=[EVIL], neighbours=NEAR) for kind in ("best", "median", "worst")
    ],
    seen=Seen({7: EVIL}, {7: PIXEL, 8: EVIL, 9: "a text"}),
)


@pytest.fixture
def run():
    """Return (spec, staged, report, verdict, epochs) of two random versions; texts of the user contain markup."""
    rng = np.random.default_rng(0)
    total = rng.integers(1, 50, (20, 17))
    total[::4, :4] = 0  # empty balls
    histogram = np.stack([total, total // 3])
    model = Model(digest="d" * 64, fit="f" * 64, seconds=1.5, reason=f"drift {EVIL}")
    moved = Drift(rows=45, bit=3, moved=0.75, chance=0.2, balance=0.3, own_balance=0.5, shows=True)
    staged = Staged(
        table="t__itq16", branch="staged-0", base="v3", base_snapshot=1, model=model, source="s", rows=12345,
        encoded=45, removed=2, seconds=3.0, drift=moved,
    )  # fmt: skip
    found = metrics.measured_metrics(histogram, 0, metrics.metric_values(histogram))
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
        bits=Bits(balance=rng.random(16).tolist(), correlation=rng.uniform(-1, 1, (16, 16)).tolist()),
        overlap="0 rows by id, 0 by content",
    )
    verdict = Verdict(passed=False, reasons=("coverage: 1 of 5",), notes=(f"by force: {EVIL}",))
    return Spec.model_validate({"dataset": "sample", "gate": {"force": EVIL}}), staged, made, verdict, EPOCHS


def test_the_page_shows_all_results_and_loads_nothing(run):
    page = run_page(*run, AROUND)
    _staged, report = run[1:3]
    for shown in (
        "t__itq16: rejected", "coverage: 1 of 5", "v3, common rows", str(report.measured.metrics["map"]),
        "0 rows by id, 0 by content", str(report.comparison.differences["map"]), "a machine", "a text", PIXEL,
        "bit 3 moved by 0.75 standard deviations in 45 new rows (share of ones 0.30, in training 0.50)",
    ):  # fmt: skip
        assert shown in page
    assert EVIL not in page
    assert len(page) < 1_500_000
    assert not re.search(r"<script|<link|url\(|@import", page)
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert {link for link in links if link[0] != "#" and link != PIXEL} == {"../index.html", "index.html"}
    assert lead(*run[:3]) in page


def figures(page):
    """Return the title of each figure, and the rows of its table."""
    found = re.findall(r"<figure.*?<h3>(.*?)</h3>.*?<tbody>(.*?)</tbody>", page, re.DOTALL)
    return {title: re.sub(r"</?t[rdh][^>]*>", " ", body).split() for title, body in found}


def test_each_figure_has_its_numbers(run):
    found = figures(run_page(*run, AROUND))
    assert list(found) == [
        "Precision against recall", "Within a Hamming radius", "At the first N ranks", "Distances",
        "Activation of bits", "Correlation of bits", "map over versions", "precision_at_100 over versions",
        "Training loss", "Map on held-out rows", "Learning rate",
    ]  # fmt: skip
    assert " ".join(found["Training loss"]) == "training loss 1 0.75 training loss 2 0.5 training loss 3 0.25"
    assert " ".join(found["map over versions"][:6]) == "versions v2 0.25 versions v3 0.3"


def test_both_conventions_on_empty_balls_are_drawn_and_explained(run):
    page, curves = run_page(*run), run[2].curves
    assert curves.found[:5] == (0.75, 0.75, 0.75, 0.75, 1)
    assert curves.found_precision[2] == pytest.approx(curves.precision[2] / 0.75)
    assert curves.found_precision[4] == pytest.approx(curves.precision[4])
    assert "Within radius 2, 25.0 % of the balls are empty" in page
    nowhere = metrics.retrieval_curves(np.array([[[0, 3]], [[0, 1]]]))
    assert (nowhere.found_precision, nowhere.found) == ((None, 1 / 3), (0, 1))
    assert (nowhere.pairs, nowhere.relevant_pairs) == ((0, 3), (0, 1))


def test_a_page_of_values_that_are_not_finite_is_written(run):
    """The gate refuses such a version, and its report is where to look."""
    spec, staged, made, verdict, epochs = run
    nothing = records.Estimate(value=np.nan, low=np.nan, high=np.nan)
    measured = made.measured.model_copy(update={"metrics": made.measured.metrics | {"map": nothing}})
    comparison = made.comparison.model_copy(update={"differences": made.comparison.differences | {"map": nothing}})
    curves = made.curves.model_copy(update={"precision_at": (np.nan,) * len(made.curves.ranks)})
    made = made.model_copy(update={"measured": measured, "comparison": comparison, "curves": curves})
    page = run_page(spec, staged, made, verdict, [{**epoch, "loss": np.nan} for epoch in epochs], AROUND)
    assert "nan [nan, nan]" in page
    assert not re.search(r'd="[^"]*(nan|inf)', page)


def test_training_is_summarized(run):
    said = "3 epochs of 60,000 rows in 4.5 s, loss 0.2500; selected epoch 2, the best on held-out rows (map 0.8750)"
    assert trained(EPOCHS) == said
    assert f"Training: {said}." in run_markdown(*run)
    unjudged = [{**epoch, "score": None} for epoch in EPOCHS]
    assert trained(unjudged) == "3 epochs of 60,000 rows in 4.5 s, loss 0.2500"
    drawn = run_charts.training(unjudged, None)
    assert [figure.title for figure in drawn] == ["Training loss", "Learning rate"]
    assert not re.search(r">\d\.5</text>", drawn[0].svg.replace(">0.5<", ""))  # no half epochs
    assert '<h2 id="training"' not in run_page(*run[:4], [])
    assert "Training" not in run_markdown(*run[:4], [])


def test_long_codes_are_drawn_in_few_cells():
    bits = Bits(balance=[0.5] * 4096, correlation=np.zeros((64, 64)).tolist())
    assert sum(len(figure.svg) for figure in run_charts.codes(bits)) < 100_000


def test_the_summary_shows_the_verdict_of_the_gate(run):
    spec, staged, *others = run
    text = run_markdown(spec, staged.model_copy(update={"encode_seconds": 3.0}), *others)
    assert text.startswith("# t__itq16: **rejected**")
    assert "- failed check: coverage: 1 of 5" in text
    assert "12,345 rows, 45 encoded in this run in 3.0 s (15 rows/s)" in text


def test_the_table_in_prefect_has_the_metrics_beside_those_of_the_version_before(run):
    report = run[2]
    row = next(row for row in metric_rows(report) if row["metric"] == "map")
    value = f"{report.measured.metrics['map'].value:.4f}"
    assert row == {
        "metric": "map", "staged": str(report.measured.metrics["map"]), "staged, common rows": value,
        "v3, common rows": value, "difference": str(report.comparison.differences["map"]),
    }  # fmt: skip


def test_a_browser_shows_the_page(run, browser):
    page = audit(browser, run_page(*run, AROUND))
    assert page.title() == "t__itq16: rejected"  # the user's markup was shown, not run
    assert page.locator("figure svg").count() == 11
    assert page.locator("figure svg path.l0").count() >= 6


def test_the_page_is_read_with_the_keyboard(run, browser):
    page = browser.new_page(viewport={"width": 400, "height": 800})
    page.set_content(run_page(*run, AROUND))
    page.keyboard.press("Tab")
    assert page.locator(":focus").text_content() == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.locator(":focus").text_content() == "Numbers of Precision against recall"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    table = page.get_by_role("region", name="Numbers of Precision against recall")
    assert table.get_attribute("tabindex") == page.locator(":focus").get_attribute("tabindex") == "0"
    page.keyboard.press("End")
    page.wait_for_function("document.activeElement.scrollTop > 0")
    assert page.get_by_role("figure", name="Precision against recall").get_by_role("row").count() > 40
