"""Checks of everything that a run needs, on this machine and on every node of Ray."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from infra.executors import InProcess, connect
from infra.nodes import difference, installed_versions, on_each_node, resources_here
from infra.settings import Settings
from storage.files import filesystem
from storage.tables import iceberg, table

PINNED = {"fastapi": ("0.139", "0.151"), "sqlalchemy": ("2.0", "2.1")}  # with others, servers fail without a message
PROBE = b"probe"  # content of a file that is written to the warehouse and removed
LEAST_FREE = 2**30  # bytes of a disk
LEAST_MEMORY = 2**29  # bytes for tasks: a process that encodes takes about 0.4 GB
MOST_SKEW = 30  # seconds between clocks: versions and grace periods compare times of different machines

REMEDIES = {
    "libraries": "install hashkiln again, with its constraints.txt",
    "warehouse": "check HASHKILN_WAREHOUSE and the AWS_* variables; the account must read, write, list and delete",
    "catalog": "check HASHKILN_CATALOG, and that its database is reachable from here",
    "data": "check HASHKILN_DATA",
    "disk": "free some space, or set HASHKILN_HOME to a folder on another disk",
    "executor": "check RAY_ADDRESS, RAY_AUTH_MODE and RAY_AUTH_TOKEN",
    "prefect": "check PREFECT_API_URL and PREFECT_API_AUTH_STRING, or start a server with `prefect server start`",
}
CLUSTER = {
    "folder": "set HASHKILN_WAREHOUSE to s3://bucket/prefix, or to a folder that every node mounts at the same path",
    "sqlite": "set HASHKILN_CATALOG to a database server, such as postgresql+psycopg2://user:password@host/database",
    "lost": "start it again; if it ended on purpose, wait a minute for Ray to notice",
    "memory": "give the node more memory, or start its Ray with a smaller --object-store-memory",
    "node": "use one image, or install the same version, on every node; see the docs on clusters",
    "clock": "synchronise the clocks, for example with chrony",
}


class Node(NamedTuple):
    """The state of a node of the cluster, as it reports it."""

    versions: dict[str, str]
    time: float
    free: int  # bytes of its disk
    cpus: float
    memory: float  # bytes that Ray gives to tasks
    gpus: int
    warehouse: str  # the error of reading, writing and deleting there, or empty


def examine() -> list[dict[str, str]]:
    """Run all checks. Return a row for each, with what, state (ok or failed), found and remedy; each node has a row."""
    settings = Settings()
    checks: dict[str, Callable[[], str]] = {
        "libraries": _libraries,
        "warehouse": lambda: _warehouse(settings),
        "catalog": lambda: _catalog(settings),
        "data": lambda: _data(settings),
        "disk": lambda: _disk(settings),
        "executor": lambda: _executor(settings),
        "prefect": _prefect,
    }
    rows = [_checked(subject, check) for subject, check in checks.items()]
    failed = {row["what"] for row in rows if row["state"] == "failed"}
    asked = settings.executor == "ray" and not failed & {"executor", "warehouse"}
    return rows + _nodes(settings) if asked else rows


def _checked(subject: str, check: Callable[[], str]) -> dict[str, str]:
    try:
        return _row(subject, check())
    except Exception as error:  # any error is a finding to report
        return _row(subject, " ".join(str(error).split()), REMEDIES[subject])


def _row(subject: str, found: str, remedy: str = "") -> dict[str, str]:
    return {"what": subject, "state": "failed" if remedy else "ok", "found": found, "remedy": remedy}


def _nodes(settings: Settings) -> list[dict[str, str]]:
    """Check the nodes of Ray: a row for each, and for each setting that cannot work on several machines."""
    probe = filesystem.join(settings.warehouse_url, f".doctor-{uuid.uuid4().hex}")
    before = time.time()
    try:
        filesystem.write_bytes(probe, PROBE)
        found = on_each_node(partial(_this_node, probe))
    finally:
        filesystem.remove(probe)
    rows = [_node_row(name, node, before, time.time()) for name, node in found.items()]
    if len(found) > 1 and settings.catalog_url.startswith("sqlite"):
        rows.append(_row("catalog", f"{settings.catalog_url} is a file of one machine", CLUSTER["sqlite"]))
    return rows


def _this_node(probe: str) -> Node:
    """Read what the driver wrote to the warehouse, write and delete there, and describe this machine."""
    import torch

    try:
        _check_probe(probe)
        own = f"{probe}-{uuid.uuid4().hex}"
        filesystem.write_bytes(own, PROBE)
        filesystem.remove(own)
        problem = ""
    except Exception as error:  # any error is a finding to report
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    free, here, gpus = _free(Settings().home), resources_here(), torch.cuda.device_count()
    return Node(installed_versions(), time.time(), free, here.cpus, here.memory, gpus, problem)


def _node_row(name: str, node: Node | Exception, before: float, after: float) -> dict[str, str]:
    subject = f"node {name}"
    if isinstance(node, ConnectionError):
        return _row(subject, str(node), CLUSTER["lost"])
    if isinstance(node, Exception) or difference(name, installed_versions(), node.versions):
        there = node if isinstance(node, Exception) else node.versions
        return _row(subject, difference(name, installed_versions(), there), CLUSTER["node"])
    if node.warehouse:
        return _row(subject, f"cannot use the warehouse: {node.warehouse}", CLUSTER["folder"])
    if skew := max(before - MOST_SKEW - node.time, node.time - after - MOST_SKEW, 0):
        return _row(subject, f"its clock is {skew + MOST_SKEW:.0f} s off this one", CLUSTER["clock"])
    if node.free < LEAST_FREE:
        return _row(subject, f"{node.free / 2**30:.2f} GiB free on its disk", REMEDIES["disk"])
    memory = f"{node.memory / 2**30:.1f} GiB of memory for tasks"
    if node.cpus and node.memory < LEAST_MEMORY:  # without CPUs, such as a driver's, a node runs no tasks
        return _row(subject, memory, CLUSTER["memory"])
    disk = f"{node.free / 2**30:.1f} GiB free on its disk"
    return _row(subject, f"same versions, warehouse usable, {disk}, {memory}, {node.gpus} GPUs")


def _libraries() -> str:
    for name, (low, high) in PINNED.items():
        if not _numbers(low) <= _numbers(version(name)) < _numbers(high):
            raise ValueError(f"expected {name} >= {low}, < {high}, found {version(name)}: install hashkiln again")
    return ", ".join(f"{name} {version(name)}" for name in ("prefect", "ray", "torch", "pyarrow", "pyiceberg", "numpy"))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def _warehouse(settings: Settings) -> str:
    probe = filesystem.join(settings.warehouse_url, f".doctor-{uuid.uuid4().hex}")
    filesystem.write_bytes(probe, PROBE)
    _check_probe(probe)
    filesystem.remove(probe)
    return f"{settings.warehouse_url}, writable"


def _check_probe(url: str) -> None:
    if filesystem.read_bytes(url) != PROBE:
        raise OSError(f"the content of {url} differs from what was written to it")


def _catalog(settings: Settings) -> str:
    names = table.table_names(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url))
    return f"code tables: {len(names)}"


def _data(settings: Settings) -> str:
    folder = settings.data_folder
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return f"{folder}: {', '.join(names) or 'empty; named datasets are downloaded to it'}"


def _disk(settings: Settings) -> str:
    free = _free(settings.home)
    if free < LEAST_FREE:
        raise OSError(f"expected at least 1 GiB free at {settings.home}, found {free / 2**30:.2f} GiB")
    return f"{free / 2**30:.1f} GiB free at {settings.home}"


def _free(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, which need not exist."""
    return shutil.disk_usage(next(path for path in [folder, *folder.parents] if path.exists())).free


def _executor(settings: Settings) -> str:
    executor = connect(settings)
    return "in process" if isinstance(executor, InProcess) else executor.join(check=False)  # rows of nodes do


def _prefect() -> str:
    from prefect.client.orchestration import get_client

    if not (url := os.environ.get("PREFECT_API_URL")):
        return f"embedded, in {Path(os.environ['PREFECT_HOME'])}"
    with get_client(sync_client=True) as client:
        client.hello().raise_for_status()
    return f"server at {url}"
