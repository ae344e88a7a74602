"""The index pages: versions of a table, tables of a warehouse."""

import re

import pytest

from infra.executors import InProcess
from tests.conftest import blobs
from tests.workflows.reports.browser import audit
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import TABLE, D, spec, write
from workflows.context import Context
from workflows.reindex import pipeline
from workflows.reindex.publishing import GateRejected
from workflows.reports.index import write_index

settings, source = published_table.settings, published_table.source  # fixtures


def test_each_run_has_its_page_and_its_line_in_the_index(settings, source, browser, monkeypatch):
    write(source, "1.parquet", blobs(150, D, seed=9, first_id=1000))
    assert pipeline.run_stages(Context.of(spec(), settings, InProcess())).version == "v2"
    write(source, "1.parquet", blobs(160, D, seed=8, first_id=1000))
    with pytest.raises(GateRejected):
        pipeline.run_stages(Context.of(spec(gate={"floors": {"map": 0.99}}), settings, InProcess()))
    reports = source.parent / "home" / "warehouse" / "reports"
    page = (reports / TABLE / "index.html").read_text()
    links = re.findall(r'<th scope="row"><a href="(.*?)">(.*?)</a>', page)
    assert [name.partition("-")[0] for _, name in links] == ["rejected", "v2"]  # v1 was published without a page
    runs = [(reports / TABLE / link).read_text() for link, _ in links]
    assert "is below its floor of 0.9900" in runs[0]
    assert "map over versions" in runs[0]
    assert "Compared with v1" in runs[1]
    assert [re.search("<title>(.*)</title>", run)[1] for run in runs] == [f"{TABLE}: rejected", f"{TABLE} v2: passed"]
    assert re.search(
        r"<dt>seconds per stage</dt><dd>fit [\d.]+, encode [\d.]+, evaluate [\d.]+, gate [\d.]+</dd>", runs[1]
    )
    whole = (reports / "index.html").read_text()
    assert f'<a href="{TABLE}/index.html">{TABLE}</a>' in whole
    assert re.search(r"<td>\d+ bits, [a-z_]+</td>", whole)
    monkeypatch.setenv("HASHKILN_HOME", str(source.parent / "another"))
    write_index(settings, TABLE)  # of the given settings, and not those of the environment
    assert ((reports / TABLE / "index.html").read_text(), (reports / "index.html").read_text()) == (page, whole)
    for html in (page, whole):
        audit(browser, html)
