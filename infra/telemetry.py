"""Metrics of tasks and stages through Ray, and OpenTelemetry traces. Both are off by default, and cost nothing then.

Nothing else records: executors measure each task and group of tasks, the pipeline each stage and verdict. Ray adds its
own metrics, such as retried tasks, CPUs, GPUs and memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from .observability import Observer

if TYPE_CHECKING:
    from .settings import Settings

METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # kind, description and labels of hashkiln_<name>
    "tasks": ("Counter", "Finished tasks", ("task",)),
    "task_seconds": ("Counter", "Time in finished tasks, in seconds", ("task",)),
    "task_errors": ("Counter", "Tasks that raised an error", ("task", "error")),
    "rows": ("Counter", "Rows of the parts that tasks wrote or read", ("task",)),
    "bytes": ("Counter", "Bytes of the files that tasks read", ("task",)),
    "stages": ("Counter", "Finished stages of runs", ("stage",)),
    "stage_seconds": ("Counter", "Time in finished stages, in seconds", ("stage",)),
    "stage_errors": ("Counter", "Tries of stages that raised an error", ("stage", "error")),
    "verdicts": ("Counter", "Verdicts of the gate", ("table", "verdict")),
    "behind_shards": ("Gauge", "Source shards that the published version lacks", ("table",)),
    "source_time": ("Gauge", "When the source was listed for the published version, in Unix seconds", ("table",)),
}
GROUP = 256  # tasks in a span
SECONDS = 10  # to wait for the head

T = TypeVar("T")
R = TypeVar("R")
_sink: Callable[[str, float, dict[str, str]], None] | None = None  # None: no metrics
_traced = False


def start(settings: Settings, join: Callable[[], object] | None = None) -> None:
    """Record what the settings ask for. The first metric of a driver calls `join`, which connects it to Ray."""
    global _sink, _traced
    _sink = Observer(partial(_add_on_head, join)) if settings.metrics and join else None
    if settings.traces and not _traced:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": "hashkiln"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)  # Prefect's too: each flow and task run is a span. Sends the rest at exit
    _traced = settings.traces


def measures() -> bool:
    """Return whether this process records metrics."""
    return _sink is not None


def record(name: str, value: float = 1, **labels: str) -> None:
    """Add to a counter of METRICS, or set a gauge, if metrics are on."""
    if _sink:
        _sink(name, value, labels)


def _add_on_head(join: Callable[[], object], name: str, value: float, labels: dict[str, str]) -> None:
    """Record a metric of the driver on the head, because a node that was started for a driver can end with it."""
    join()
    import ray

    add = ray.remote(_add).options(num_cpus=0, resources={"node:__internal_head__": 0.001}, name="metrics")
    ray.get(add.remote(name, value, labels), timeout=SECONDS)


def _add(name: str, value: float, labels: dict[str, str]) -> None:
    metric = _metric(name)
    if METRICS[name][0] == "Gauge":
        metric.set(value, labels)
    elif value > 0:
        metric.inc(value, labels)


@cache
def _metric(name: str) -> Any:
    from ray.util import metrics

    kind, description, labels = METRICS[name]
    return getattr(metrics, kind)(f"hashkiln_{name}", description, labels)


def measured(fn: Callable[[T], R], item: T, task: str) -> R:
    """Return fn(item), and record its metrics: for a task on Ray, whose driver records metrics.

    Rows are those of the attribute `part` of the result or of the item; bytes are those of the item's `files`, or else
    of its `part`.
    """
    global _sink
    _sink = _sink or Observer(_add)
    begin = time.monotonic()
    try:
        result = fn(item)
    except Exception as error:
        record("task_errors", task=task, error=type(error).__name__)
        raise
    record("task_seconds", time.monotonic() - begin, task=task)
    record("tasks", task=task)
    read, made = getattr(item, "part", None), getattr(result, "part", None)
    files = getattr(item, "files", ()) or [read]
    record("bytes", sum(file.size for file in files if file), task=task)
    record("rows", getattr(made or read, "rows", 0), task=task)
    return result


@contextmanager
def recorded_stage(name: str) -> Iterator[None]:
    """Record the metrics and the span of a stage."""
    begin = time.monotonic()
    try:
        with span(name):
            yield
    except Exception as error:
        record("stage_errors", stage=name, error=type(error).__name__)
        raise
    record("stage_seconds", time.monotonic() - begin, stage=name)
    record("stages", stage=name)


def span(name: str) -> AbstractContextManager[object]:
    """Return the context of a span, if traces are on."""
    if not _traced:
        return nullcontext()
    from opentelemetry import trace

    return trace.get_tracer("hashkiln").start_as_current_span(name)


def in_groups(results: Iterator[T], label: str) -> Iterator[T]:
    """Return the results of tasks in order. If traces are on, each GROUP of them is a span."""
    return _in_groups(results, label) if _traced else results


def _in_groups(results: Iterator[T], label: str) -> Iterator[T]:
    from opentelemetry import trace

    tracer = trace.get_tracer("hashkiln")
    while True:
        begin, tasks = time.time_ns(), 0
        for result in islice(results, GROUP):
            yield result
            tasks += 1
        if tasks:
            tracer.start_span(label, attributes={"tasks": tasks}, start_time=begin).end()
        if tasks < GROUP:
            return
