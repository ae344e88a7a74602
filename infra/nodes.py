"""Nodes of a Ray cluster: their resources, calls on every node, and a check that all run the same code."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from hashing.mapreduce import Resources

LIBRARIES = ("hashkiln", "ray", "torch", "pyarrow", "numpy", "pyiceberg")  # their versions can change codes or files
PACKAGES = ("hashing", "storage", "infra", "workflows")
SECONDS = 60  # to wait for each node
T = TypeVar("T")


def nodes() -> list[Resources]:
    """Return the resources of each live node of the connected cluster."""
    return [_resources(node) for node in _alive()]


def resources_here() -> Resources:
    """Return the resources of the node that runs the calling task."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return next(_resources(node) for node in _alive() if node["NodeID"] == here)


def _resources(node: dict[str, Any]) -> Resources:
    found = dict(node["Resources"])
    cpus, gpus, memory = (found.pop(name, 0) for name in ("CPU", "GPU", "memory"))
    custom = {name: value for name, value in found.items() if not name.startswith(("node:", "object_store"))}
    return Resources(cpus, gpus, memory, custom)


def _alive() -> list[dict[str, Any]]:
    """Return Ray's description of each live node."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray has no types


def on_each_node(fn: Callable[[], T]) -> dict[str, T | Exception]:
    """Call a function on every node of the connected cluster.

    Returns its result, or the exception it raised, by the name of the node: "hostname (address)". The exception is a
    ConnectionError if a node does not answer within SECONDS, and no other node of its name does: it has just been lost,
    which Ray notices within a minute.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(num_cpus=0, max_retries=0)(_call)
    pending = []
    for node in _alive():
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        pending.append((name, task.options(scheduling_strategy=here, name="node").remote(fn)))
    answers: dict[str, T | Exception] = {}
    for name, ref in pending:
        answer = _answer(ref)
        if name not in answers or isinstance(answers[name], ConnectionError):
            answers[name] = answer
    return answers


def _call(fn: Callable[[], T]) -> T:
    return fn()


def _answer(ref: Any) -> Any:
    import ray

    try:
        return ray.get(ref, timeout=SECONDS)
    except ray.exceptions.RayTaskError as error:
        return error.cause
    except (ray.exceptions.RayError, TimeoutError) as error:
        return ConnectionError(f"no answer: {str(error).partition('.')[0]}")


@cache
def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of LIBRARIES in this process, and a digest of the code of PACKAGES."""
    code = hashlib.sha256()
    for name in PACKAGES:
        root = Path(__file__).parents[1] / name
        for file in sorted(root.rglob("*.py")):
            code.update(file.relative_to(root.parent).as_posix().encode() + b"\0" + file.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: version(name) for name in LIBRARIES}, "code": code.hexdigest()[:12]}


def check_versions() -> None:
    """Raise SettingsError if a node of the joined cluster runs other code or libraries than this process.

    A node that does not answer is not asked again: tasks run on the others.
    """
    here = installed_versions()
    found = {
        node: there
        for node, there in on_each_node(installed_versions).items()
        if not isinstance(there, ConnectionError)
    }
    if problems := [problem for node, there in found.items() if (problem := difference(node, here, there))]:
        from .settings import SettingsError  # here, as benchmarks/gpu.py runs the executors where pydantic is missing

        raise SettingsError(f"{'; '.join(problems)}: install the same version, or use one image, on every node")


def difference(node: str, here: dict[str, str], there: dict[str, str] | Exception) -> str:
    """Return a description of how the versions of a node differ from those of this process, or "" if they agree."""
    if isinstance(there, Exception):
        return f"node {node} cannot run hashkiln ({type(there).__name__}: {' '.join(str(there).split())[:200]})"
    other = [f"{name} {there.get(name)} instead of {mine}" for name, mine in here.items() if there.get(name) != mine]
    return f"node {node} has {', '.join(other)}" if other else ""
