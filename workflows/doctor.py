"""Checks of everything that a run needs."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from infra.executors import InProcess, connect
from infra.settings import Settings
from storage.files import filesystem
from storage.tables import iceberg, table

PINNED = {"fastapi": ("0.139", "0.151"), "sqlalchemy": ("2.0", "2.1")}  # with others, servers fail without a message


def examine() -> list[dict[str, str]]:
    """Run all checks. Return the subject, the state (ok or failed) and the finding of each: what, state, found."""
    settings = Settings()
    return [
        _checked("libraries", _libraries),
        _checked("warehouse", lambda: _warehouse(settings)),
        _checked("catalog", lambda: _catalog(settings)),
        _checked("data", lambda: _data(settings)),
        _checked("disk", lambda: _disk(settings)),
        _checked("executor", lambda: _executor(settings)),
        _checked("prefect", _prefect),
    ]


def _checked(subject: str, check: Callable[[], str]) -> dict[str, str]:
    try:
        return {"what": subject, "state": "ok", "found": check()}
    except Exception as error:  # any error is a finding to report
        return {"what": subject, "state": "failed", "found": " ".join(str(error).split())}


def _libraries() -> str:
    for name, (low, high) in PINNED.items():
        if not _numbers(low) <= _numbers(version(name)) < _numbers(high):
            raise ValueError(f"expected {name} >= {low}, < {high}, found {version(name)}: install hashkiln again")
    return ", ".join(f"{name} {version(name)}" for name in ("prefect", "ray", "torch", "pyarrow", "pyiceberg", "numpy"))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _warehouse(settings: Settings) -> str:
    probe = filesystem.join(settings.warehouse_url, f".doctor-{uuid.uuid4().hex}")
    filesystem.write_bytes(probe, b"probe")
    if filesystem.read_bytes(probe) != b"probe":
        raise OSError(f"the content of {probe} differs from what was written to it")
    filesystem.remove(probe)
    return f"{settings.warehouse_url}, writable"


def _catalog(settings: Settings) -> str:
    names = table.table_names(iceberg.connect(settings.catalog_url, settings.warehouse_url))
    return f"code tables: {len(names)}"


def _data(settings: Settings) -> str:
    folder = settings.data_folder
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return f"{folder}: {', '.join(names) or 'empty; named datasets are downloaded to it'}"


def _disk(settings: Settings) -> str:
    folder = next(path for path in [settings.home, *settings.home.parents] if path.exists())
    free = shutil.disk_usage(folder).free
    if free < 2**30:
        raise OSError(f"expected at least 1 GiB free at {folder}, found {free / 2**30:.2f} GiB")
    return f"{free / 2**30:.1f} GiB free at {folder}"


def _executor(settings: Settings) -> str:
    executor = connect(settings)
    return "in process" if isinstance(executor, InProcess) else executor.join()


def _prefect() -> str:
    from prefect.client.orchestration import get_client

    if not (url := os.environ.get("PREFECT_API_URL")):
        return f"embedded, in {Path(os.environ['PREFECT_HOME'])}"
    with get_client(sync_client=True) as client:
        client.hello().raise_for_status()
    return f"server at {url}"
