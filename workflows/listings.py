"""What the listings of methods, datasets and tables show."""

import re
from dataclasses import fields
from typing import Any

from hashing.methods import Method, catalogue, method
from hashing.names import plain_name
from infra.settings import Settings
from storage import datasets
from storage.features.dataset import dataset_exists, dataset_names, load_dataset
from storage.tables.log import utc_timestamp

from .checks import dataset_name, refused, schema_of
from .context import open_tables
from .spec import Spec


def methods_listed() -> list[dict[str, Any]]:
    """Return the methods of the catalogue, sorted by name."""
    return [_method(name, cls) for name, cls in sorted(catalogue().items())]


def method_details(name: str) -> dict[str, Any]:
    """Return all about a method. Raises UsageError, with similar names, for an unknown name."""
    name = plain_name(name)
    with refused():
        cls = method(name)
    about, _, _ = (cls.__doc__ or "").partition("Reference:")
    _, *paragraphs = (" ".join(paragraph.split()) for paragraph in about.strip().split("\n\n"))
    return _method(name, cls) | {"details": "\n\n".join(paragraphs)}


def _method(name: str, cls: type[Method]) -> dict[str, Any]:
    text = cls.__doc__ or ""
    reference = " ".join(text.partition("Reference:")[2].split())
    years = re.findall(r"\b(?:19|20)\d\d\b", reference)
    deep = "deep, " if hasattr(cls, "network") else ""
    return {
        "method": name,
        "kind": deep + ("supervised" if cls.supervised else "unsupervised"),
        "year": years[0] if years else "",
        "what it does": text.split("\n")[0],
        "learns from": "labels" if cls.supervised else "vectors",
        "hyper-parameters": ", ".join(f"{f.name}={f.default}" for f in fields(cls)[1:]),
        "reference": reference,
    }


def datasets_listed(settings: Settings) -> list[dict[str, Any]]:
    """Return the ingested datasets, then the others of the catalogue, each sorted by name."""
    ingested = dataset_names(settings.warehouse_url)
    named = [name for name in datasets.names() if name not in ingested]
    return [_ingested(name, settings) for name in ingested] + [_named(name) for name in named]


def dataset_details(name: str, settings: Settings) -> dict[str, Any]:
    """Return all about a dataset. Raises LookupError, with similar names, for an unknown name."""
    name = dataset_name(name, settings)
    schema = schema_of(name, settings)
    known = _ingested(name, settings) if dataset_exists(settings.warehouse_url, name) else _named(name)
    rows = {"rows are": f"{schema.kind}s", "dimension": schema.dim, "labels": "yes" if schema.labelled else "no"}
    return known | rows


def _ingested(name: str, settings: Settings) -> dict[str, Any]:
    dataset = load_dataset(settings.warehouse_url, name)
    sizes = {split: dataset.understood[split].rows if split in dataset.understood else 0 for split in dataset.splits}
    return _listed(name, "ingested", dataset.source, sizes) | {"metric": dataset.metric, "from": dataset.splits["base"]}


def _named(name: str) -> dict[str, Any]:
    about = datasets.get(name)
    sizes = {split: part.n for split, part in about.splits.items()}
    folder = about.folder or name
    files = [file.urls[0] if file.urls else f"$HASHKILN_DATA/{folder}/{file.name}" for file in about.files]
    listed = _listed(name, "named", about.about, sizes)
    return listed | {"metric": about.metric, "licence": about.licence, "from": ", ".join(files) or "shipped"}


def _listed(name: str, state: str, about: str, sizes: dict[str, int]) -> dict[str, Any]:
    splits = ", ".join(f"{split} {rows:,}" if rows else split for split, rows in sizes.items())
    return {"dataset": name, "state": state, "rows": sizes.get("base") or None, "about": about, "splits": splits}


def tables_listed(settings: Settings) -> list[dict[str, Any]]:
    """Return the code tables, sorted by name, with what readers see now."""
    return [_table(table) for table in open_tables(settings)]


def _table(table: Any) -> dict[str, Any]:
    now = table.version()
    spec = Spec.stored(now.properties["spec"]) if "spec" in now.properties else None
    return {
        "table": table.name,
        "version": now.name if now.number else "",
        "published": utc_timestamp(now.timestamp_ms) if now.number else "",
        "rows": int(now.properties.get("rows", 0)),
        "bits": table.n_bits,
        "method": spec.method.method if spec else "",
    }
