"""Nodes of a Ray cluster: a function on each of them, and the code and libraries that each one runs."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from .settings import SettingsError

LIBRARIES = ("hashkiln", "ray", "torch", "pyarrow", "numpy", "pyiceberg")  # whose versions can change bits or files
PACKAGES = ("hashing", "storage", "infra", "workflows")
SECONDS = 60  # for an answer of a node
T = TypeVar("T")


def on_each_node(fn: Callable[[], T]) -> dict[str, T | Exception]:
    """Run a function on every node of the joined cluster; its result or error by the name of the node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray has no types
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_call)
    pending = {}
    for node in alive:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        pending[f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"] = task.options(
            scheduling_strategy=here, name="node"
        ).remote(fn)
    return {name: _answer(ref) for name, ref in pending.items()}


def _call(fn: Callable[[], T]) -> T:
    return fn()


def _answer(ref: Any) -> Any:
    import ray

    try:
        return ray.get(ref, timeout=SECONDS)
    except Exception as error:  # any error is the answer of this node
        return error.cause if isinstance(error, ray.exceptions.RayTaskError) else error


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries here, and a digest of our own code."""
    code = hashlib.sha256()
    for name in PACKAGES:
        root = Path(__file__).parents[1] / name
        for file in sorted(root.rglob("*.py")):
            code.update(file.relative_to(root.parent).as_posix().encode() + b"\0" + file.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: version(name) for name in LIBRARIES}, "code": code.hexdigest()[:12]}


def check_versions() -> None:
    """Raise SettingsError if a node of the joined cluster runs other code or libraries than this process."""
    found, here = on_each_node(versions), versions()
    if problems := [problem for node, there in found.items() if (problem := difference(node, here, there))]:
        raise SettingsError(f"{'; '.join(problems)}: install the same version, or use one image, on every node")


def difference(node: str, here: dict[str, str], there: dict[str, str] | Exception) -> str:
    """Return in words how the versions of a node differ from those here; empty if they do not."""
    if isinstance(there, Exception):
        return f"node {node} cannot run hashkiln ({type(there).__name__}: {' '.join(str(there).split())[:200]})"
    other = [f"{name} {there.get(name)} instead of {mine}" for name, mine in here.items() if there.get(name) != mine]
    return f"node {node} has {', '.join(other)}" if other else ""
