"""Executors, which run tasks in this process or on a Ray cluster. Both give the same bits."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from hashing.blas import one_blas_thread
from hashing.mapreduce import Resources, Worker, merge_tree

from . import telemetry
from .cluster import connect_to_ray
from .nodes import nodes
from .observability import OnEpoch, Progress, ignore_epochs, observed, report_epochs, silent
from .training import train_here, train_on_ray, workers_on_ray

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["InProcess", "OnEpoch", "Progress", "Ray", "connect", "silent"]

CONCURRENT = 2  # items that an actor processes at a time: one is read or written while the other is computed
RESTARTS = 3  # of an actor whose process or node was lost

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class InProcess:
    """Run tasks one after another in this process."""

    progress: Progress = silent
    checkpoints: str = ""  # folder of the checkpoints of unfinished training runs; without it, they cannot resume
    cpus: int | None = None  # for a training run; all if None
    on_epoch: OnEpoch = ignore_epochs
    trainer: Resources | None = None  # of a training run; if None, those of this machine

    def __post_init__(self) -> None:
        _observe(self)

    def with_resources(self, resources: Resources) -> InProcess:
        _check_resources(resources, [_this_machine(resources)])
        return self

    def map(self, fn: Callable[[T], R], items: Sequence[T], label: str = "") -> Iterator[R]:
        self.progress(label, 0, len(items))
        results = telemetry.in_groups((_run_task(fn, item) for item in items), label)
        for done, result in enumerate(results, 1):
            yield result
            self.progress(label, done, len(items))

    def reduce(self, fn: Callable[[T], S], merge: Callable[[S, S], S], items: Sequence[T], label: str = "") -> S:
        return merge_tree(self.map(fn, items, label), lambda group: _merge_states(merge, *group))

    def keep(self, fn: Callable[[T], R], items: Sequence[T], label: str = "") -> Sequence[R]:
        return list(self.map(fn, items, label))

    def train(self, loop: Callable[[Worker], None], name: str) -> bytes:
        on_report = partial(report_epochs, self.progress, self.on_epoch)
        taken = self.trainer or Resources(self.cpus or len(os.sched_getaffinity(0)), gpus=1)
        return train_here(loop, name, self.checkpoints, taken, on_report)

    def training_workers(self) -> int:
        return 1


@dataclass(frozen=True)
class Ray:
    """Run one Ray task for each item, with results in the order of the items.

    Ray retries a task whose worker or node is lost, which is safe because fn is pure. A task has one BLAS thread, and
    one CPU unless `with_resources` gives it more. Tasks with GPUs run in actors: each receives fn once, and applies it
    to many items. The first task connects to Ray, or starts it on this machine.
    """

    progress: Progress = silent
    address: str = ""  # of the cluster to join; empty: start Ray on this machine
    cpus: int | None = None  # of this machine; all if None
    in_flight: int = 256  # largest number of tasks whose results are not yet computed or read
    checkpoints: str = ""  # folder or URL of the checkpoints of unfinished training runs, visible to every node
    trainers: int | None = None  # workers of a training run; if None, one for each GPU, or one without GPUs
    trainer: Resources | None = None  # of each; if None, one GPU, if there are any, and its share of the CPUs
    on_epoch: OnEpoch = ignore_epochs
    resources: Resources = field(default_factory=Resources)  # of a task

    def __post_init__(self) -> None:
        _observe(self)

    def with_resources(self, resources: Resources) -> Ray:
        if resources != Resources():  # every machine has the default: no need to start Ray
            self.join()
            _check_resources(resources, nodes())
        return replace(self, resources=resources)

    def join(self, check: bool = True) -> str:
        """Connect to the cluster if needed, and return its description. Raises what `connect_to_ray` raises."""
        if not ("ray" in sys.modules and sys.modules["ray"].is_initialized()):  # importing it takes time, too
            self.progress("join Ray" if self.address else "start Ray", 0, 0)
        return connect_to_ray(self.address, self.cpus, check)

    def map(self, fn: Callable[[T], R], items: Sequence[T], label: str = "") -> Iterator[R]:
        for ref in self._submit(fn, items, label):
            yield _get(ref)

    def reduce(self, fn: Callable[[T], S], merge: Callable[[S, S], S], items: Sequence[T], label: str = "") -> S:
        self.join()
        merge_on_worker = _remote(_merge_states).options(name="merge")
        function = _put(merge)
        result: S = _get(
            merge_tree(self._submit(fn, items, label), lambda group: merge_on_worker.remote(function, *group))
        )
        return result

    def keep(self, fn: Callable[[T], R], items: Sequence[T], label: str = "") -> Sequence[Any]:
        return list(self._submit(fn, items, label))

    def train(self, loop: Callable[[Worker], None], name: str) -> bytes:
        self.join()
        on_report = partial(report_epochs, self.progress, self.on_epoch)
        return train_on_ray(loop, name, self.checkpoints, *workers_on_ray(self.trainers, self.trainer), on_report)

    def training_workers(self) -> int:
        self.join()
        count, _ = workers_on_ray(self.trainers, self.trainer)
        return count

    def _submit(self, fn: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[Any]:
        """Yield references to the results in order, each when its task is done."""
        self.join()
        submit = self._to_actors if self.resources.gpus else self._as_tasks
        self.progress(label, 0, len(items))
        with closing(submit(_put(fn), items, label or "map")) as done:  # fn may hold a model: send it once
            for n, ref in enumerate(telemetry.in_groups(done, label), 1):
                yield ref
                self.progress(label, n, len(items))

    def _as_tasks(self, fn: Any, items: Sequence[Any], label: str) -> Generator[Any]:
        task = _remote(_run_task).options(name=label, **_options(self.resources))
        measured = label if telemetry.measures() else ""
        pending: deque[Any] = deque()
        for item in items:
            pending.append(task.remote(fn, item, measured))
            if len(pending) == self.in_flight:
                yield _wait(pending.popleft())
        while pending:
            yield _wait(pending.popleft())

    def _to_actors(self, fn: Any, items: Sequence[Any], label: str) -> Generator[Any]:
        """Run the items on actors, which end with the last item.

        Plain tasks cannot do this: a worker process keeps the first GPU it has used, even for a task with another one.
        """
        import ray

        count = min(len(items), max(1, sum(node.times(self.resources) for node in nodes())))
        measured = label if telemetry.measures() else ""
        options = {"max_concurrency": CONCURRENT, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        holder = _remote(_Holder).options(**_options(self.resources), **options)
        actors = [holder.remote() for _ in range(count)]
        # An actor gets an item when it is ready or done with another, because nodes may be slow or still starting.
        running = {actor.ready.options(name=label).remote(): actor for _ in range(CONCURRENT + 1) for actor in actors}
        pending: deque[Any] = deque()
        try:
            for item in items:
                (done, *_), _ = ray.wait(list(running), fetch_local=False)
                actor = running.pop(done)
                pending.append(ref := actor.run.options(name=label).remote([fn], item, measured))
                running[ref] = actor
                while ray.wait([pending[0]], timeout=0, fetch_local=False)[0]:
                    yield pending.popleft()
            while pending:
                yield _wait(pending.popleft())
        finally:
            for actor in actors:
                ray.kill(actor)


class _Holder:
    """An actor that applies one function to many items, from several threads."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.fn: Callable[[Any], Any] | None = None

    def ready(self) -> None:
        """Return when the actor has started."""

    def run(self, fn: list[Any], item: Any, measured: str) -> Any:
        """Return fn of an item. `fn` is a reference in a list, because Ray would load a plain one for each item."""
        with self.lock:
            self.fn = self.fn or _get(fn[0])
        return _run_task(self.fn, item, measured)


def _observe(executor: InProcess | Ray) -> None:
    """Wrap the callbacks of an executor, so that their errors never stop a run."""
    object.__setattr__(executor, "progress", observed(executor.progress))
    object.__setattr__(executor, "on_epoch", observed(executor.on_epoch))


def _check_resources(needed: Resources, machines: Sequence[Resources]) -> None:
    """Raise ValueError if no machine has the resources that a task needs."""
    if not any(machine.times(needed) for machine in machines):
        found = "; ".join(sorted(set(map(str, machines)))) or "none"
        raise ValueError(f"expected a machine with {needed} for a task, found {found}")


def _this_machine(needed: Resources) -> Resources:
    """Return the resources of this machine. GPUs are counted only if a task needs one, as torch is slow to import."""
    gpus = 0
    if needed.gpus:
        import torch

        gpus = torch.cuda.device_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Resources(len(os.sched_getaffinity(0)), gpus, memory)


def _options(needed: Resources) -> dict[str, Any]:
    custom = dict(needed.custom)
    return {"num_cpus": needed.cpus, "num_gpus": needed.gpus, "memory": int(needed.memory), "resources": custom}


def _run_task(fn: Callable[[T], R], item: T, measured: str = "") -> R:
    """Return fn(item), and record metrics under the name `measured`, if there is one."""
    with one_blas_thread():
        return telemetry.measured(fn, item, measured) if measured else fn(item)


def _merge_states(merge: Callable[[S, S], S], *states: S) -> S:
    with one_blas_thread():
        return reduce(merge, states)


def _remote(fn: Callable[..., Any]) -> Any:
    import ray

    return ray.remote(fn)


def _put(value: Any) -> Any:
    import ray

    return ray.put(value)


def _wait(ref: Any) -> Any:
    import ray

    ray.wait([ref], fetch_local=False)
    return ref


def _get(ref: Any) -> Any:
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:  # raise the worker's own error, as InProcess does
        raise (error.cause if isinstance(error.cause, Exception) else error) from error
    except ray.exceptions.RayError as error:
        raise ConnectionError(f"Ray lost a result and could not restore it: {error}") from error


def connect(settings: Settings, progress: Progress = silent, on_epoch: OnEpoch = ignore_epochs) -> InProcess | Ray:
    """Return the executor that the settings select."""
    if settings.executor == "inprocess":
        telemetry.start(settings)
        return InProcess(progress, settings.training_url, settings.cpus, on_epoch, settings.fit)
    address, cpus, runs = settings.ray_address, settings.cpus, settings.training_url
    trainers, trainer = settings.trainers, settings.fit
    executor = Ray(progress, address, cpus, checkpoints=runs, trainers=trainers, trainer=trainer, on_epoch=on_epoch)
    telemetry.start(settings, executor.join)
    return executor
