"""Index pages: the versions of a table, and the tables of a warehouse. Each links to the pages below it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from infra.settings import Settings
from storage import warehouse
from storage.files import filesystem
from storage.tables.table import CodeTable, Version

from ..context import open_tables
from ..evaluation.registry import split_protocol
from ..spec import Spec
from ..tables.history import Event, events, metrics_of_versions
from .pages import render, sentence
from .run_charts import headline, history_charts


class Line(NamedTuple):
    """A line of an index."""

    name: str
    link: str  # relative; empty if there is no page
    cells: Sequence[str]


def write_index(settings: Settings, table: str) -> None:
    """Write the index of a table and that of the warehouse."""
    tables = open_tables(settings)
    opened = next(one for one in tables if one.name == table)
    pages = {
        warehouse.REPORT.url(settings.warehouse_url, table=table, page="index"): table_page(opened, events(opened)),
        warehouse.REPORT_INDEX.url(settings.warehouse_url): warehouse_page(settings.warehouse_url, tables),
    }
    for url, page in pages.items():
        filesystem.write_bytes(url, page.encode())


def table_page(table: CodeTable, recorded: Sequence[Event]) -> str:
    """Return the index of a table: its recorded events, newest first, and the metrics of its versions."""
    versions = {version.name: version for version in table.versions()}
    shown = headline([name for event in recorded for name in event.metrics])
    lines = [
        Line(
            event.version,
            _page_of(versions.get(event.version)),
            [
                "published now" if event.published else event.what,
                *_values(event.metrics, shown),
                "" if event.rows is None else f"{event.rows:,}",
                event.when[:16].replace("T", " "),
                event.model[:12],
                event.by,
                event.note,
            ],
        )
        for event in reversed(recorded)
        if event.version != "v0"
    ]
    now = table.version().properties
    return render(
        "index.html",
        title=table.name,
        lead=_about(now) if "spec" in now else "Nothing is published yet.",
        parent="../index.html",
        head=["version", "state", *shown, "rows", "when (UTC)", "model", "by", "note"],
        lines=lines,
        charts=history_charts(metrics_of_versions(table, now.get("protocol", ""))),
    )


def warehouse_page(url: str, tables: Sequence[CodeTable]) -> str:
    """Return the index of a warehouse: its tables with their published versions."""
    published = {table.name: (table, table.version()) for table in tables}
    metrics = {name: json.loads(v.properties.get("metrics", "{}")) for name, (_, v) in published.items()}
    shown = headline([name for found in metrics.values() for name in found])
    lines = [
        Line(
            name,
            f"{name}/index.html",
            [
                version.name,
                _codes(table, version),
                *_values(metrics[name], shown),
                f"{int(version.properties.get('rows', 0)):,}",
                version.properties.get("at", "")[:16].replace("T", " "),
                split_protocol(version.properties.get("protocol", ""))[0],
            ],
        )
        for name, (table, version) in published.items()
    ]
    return render(
        "index.html",
        title="Code tables",
        lead=f"Warehouse {url}. Compare metrics only between tables with the same protocol.",
        parent="",
        head=["table", "version", "codes", *shown, "rows", "when (UTC)", "protocol"],
        lines=lines,
        charts=[],
    )


def _about(properties: dict[str, str]) -> str:
    spec = Spec.stored(properties["spec"])
    made = f"{spec.dataset}, encoded to {spec.method.bits} bits by {spec.method.method}"
    return f"{made}. {sentence(properties['protocol'])}."


def _codes(table: CodeTable, version: Version) -> str:
    """Return the length of the codes, and the method of the version if it has rows."""
    made = version.properties.get("spec")
    return f"{table.n_bits} bits" + (f", {Spec.stored(made).method.method}" if made else "")


def _values(metrics: dict[str, float], names: Sequence[str]) -> list[str]:
    return [f"{metrics[name]:.4f}" if name in metrics else "–" for name in names]


def _page_of(version: Version | None) -> str:
    """Return the name of the report of a version, which is beside the index of its table."""
    page = version.properties.get("report", "").rpartition("/")[2] if version else ""
    return page if page.endswith(".html") else ""
