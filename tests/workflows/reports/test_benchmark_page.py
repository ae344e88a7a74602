"""The page and the figures of a benchmark."""

import csv
import io
import re
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest

from tests.workflows.reports.browser import audit
from workflows.benchmark.grid import Row
from workflows.evaluation import metrics
from workflows.reports.benchmark_page import figure_files, grid_page, groups_of, panels, styles_of
from workflows.reports.charts import text_width


def row(dataset, method, bits, seed):
    rng = np.random.default_rng([bits, seed])
    total = rng.integers(1, 50, (20, bits + 1))
    total[:, -1] += 1000 - total.sum(1)
    histogram = np.stack([total, total // 3])
    return Row(
        dataset=dataset, method=method, bits=bits, protocol="labels", seed=seed, relevance="rows that share a label",
        parameters={}, effective={"n_iter": 50}, rows=1000, training_rows=100, health={}, fit_seconds=1.0 + seed,
        metrics={"map": rng.random(), "precision_radius_2": rng.random()}, curves=metrics.retrieval_curves(histogram),
        encode_rows_per_second=1e6, evaluate_seconds=0.5, hardware="a CPU", versions={"numpy": "2"}, when="now",
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """Two datasets; itq has two seeds, ksh learns from labels and lacks a length."""
    found = [row("mnist", "itq", bits, seed) for bits in (8, 16, 32) for seed in (0, 1)]
    return (*found, *(row("mnist", "ksh", bits, 0) for bits in (8, 32)), row("sample", "ksh", 8, 0))


def test_a_method_has_one_style_and_ticks_are_the_measured_lengths(rows):
    styles, groups = styles_of(rows), groups_of(rows)
    assert styles == {"itq": 0, "ksh": 1}
    for of in groups.values():
        for panel in panels(of, styles):
            assert all(series.style == styles[series.name] for series in panel.chart.series)
    first = next(panels(next(iter(groups.values())), styles)).chart
    assert (first.x_label, first.y_label, first.x_ticks) == ("bits", "map", [8, 16, 32])
    itq, ksh = first.series
    values = [[r.metrics["map"] for r in rows[i : i + 2]] for i in (0, 2, 4)]
    np.testing.assert_allclose(itq.y, np.mean(values, axis=1))
    np.testing.assert_allclose(np.subtract(itq.high, itq.y), np.std(values, axis=1, ddof=1))
    assert (ksh.x, ksh.low) == ([8, 32], [])


def test_figures_are_svg_pdf_and_csv(rows):
    files = dict(figure_files(rows))
    assert {"mnist-labels-map.svg", "mnist-labels-pr-16.pdf", "sample-labels-fit_seconds.csv"} <= set(files)
    assert len(files) == 3 * ((4 + 2 * 3) + (4 + 2))
    for name, content in files.items():
        if name.endswith(".svg"):
            drawn = list(ET.fromstring(content).iter("{http://www.w3.org/2000/svg}text"))  # noqa: S314
            texts = [text.text for text in drawn]
            ticks = [text.text for text in drawn if text.get("text-anchor") == "end"]
            assert max(map(text_width, ticks)) < 40  # else they reach the name of the axis
            assert "bits" in texts or "recall" in texts or "N" in texts
    head, *table = csv.reader(io.StringIO(files["mnist-labels-map.csv"].decode()))
    assert head == ["series", "bits", "map", "low", "high"]
    assert [line[:2] for line in table] == [["itq", "8"], ["itq", "16"], ["itq", "32"], ["ksh", "8"], ["ksh", "32"]]
    assert float(table[3][2]) == rows[6].metrics["map"]


def test_a_pdf_finds_its_objects_and_embeds_its_font(rows):
    content = dict(figure_files(rows))["mnist-labels-map.pdf"]
    start = int(re.search(rb"startxref\n(\d+)\n%%EOF\n$", content)[1])
    places = [int(line[:10]) for line in content[start:].split(b"\n")[3:] if line.endswith(b" n ")]
    assert len(places) == 7
    for number, place in enumerate(places, 1):
        assert content[place:].startswith(b"%d 0 obj\n" % number)
    assert b"/FontFile2 7 0 R" in content
    page = zlib.decompress(content[places[3] :].partition(b"stream\n")[2]).decode("cp1252")
    opacity = dict(re.findall(r"/(G\d) << /ca ([\d.]+) >>", content.decode("latin1")))
    assert {opacity[state] for state in re.findall(r"/(G\d) gs .* BT", page)} == {"1"}  # texts
    assert {opacity[state] for state in re.findall(r"/(G\d) gs .* f\n", page)} == {"1", "0.16"}  # marks and bands
    assert all(f"({text}) Tj" in page for text in ("itq", "ksh", "bits", "map", "8", "16", "32"))


def test_a_browser_shows_what_the_keyboard_selects(rows, browser):
    page = audit(browser, grid_page(rows))
    assert re.findall("1.00[^<]*", page.locator("tbody:visible").last.inner_html()) == ["1.00 to 2.00", "1.00"]
    seen = page.locator("figure:visible")
    curves = ["Precision against recall, 32 bits", "Precision at the first N ranks, 32 bits"]
    assert seen.locator("h3").all_inner_texts() == ["Mean average precision (tie-aware)", *curves]
    page.locator("#metric").press("s")  # of "Seconds to fit"
    page.locator("#bits").press("End")
    assert seen.locator("h3").all_inner_texts()[:2] == ["Seconds to fit", "Precision against recall, 8 bits"]
    assert seen.locator("path.s1:visible").count()
    page.get_by_label("ksh").press(" ")
    assert not seen.locator("path.s1:visible").count()
    page.locator("#group").press("ArrowDown")
    assert page.locator("h2:visible").all_inner_texts() == ["sample, protocol labels: rows that share a label"]
