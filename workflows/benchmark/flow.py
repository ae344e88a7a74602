"""The flow `benchmark`: datasets x methods x bits x seeds under one protocol; each cell is measured once and cached."""

import logging
from collections.abc import Mapping

from prefect import flow

from hashing.mapreduce import Array
from infra.executors import Progress, connect, silent
from infra.observability import logged_stage
from infra.settings import Settings

from .. import checks
from ..datasets import ingest
from ..reindex.source import vocabulary_of
from ..spec import Protocol, Spec
from . import protocols
from .cells import Bench
from .grid import Grid, GridOutcome, Row

logger = logging.getLogger(__name__)


def check_cells(grid: Grid, settings: Settings, parameters: Mapping[str, Array] | None = None) -> None:
    """Check every cell of a grid before any is measured. Raises UsageError if one cannot be measured.

    `parameters` are pretrained parameters, by name; None: do not check them.
    """
    problems: dict[str, tuple[str, str]] = {}  # by cell, without seed: method and problem
    for name in grid.datasets:
        schema = checks.schema_of(name, settings)
        n_classes = checks.known_classes(grid.specs(), name, settings)
        for spec in grid.specs():
            try:
                for candidate in protocols.combinations(spec, grid.tuned(spec)):
                    checks.check_method(candidate, schema, n_classes)
                    checks.check_trainers(candidate, settings)
                    if parameters is not None and spec.pretrained:
                        checks.check_pretrained(candidate, schema, parameters)
                if grid.by_labels(spec):
                    checks.check_protocol(Protocol(relevance="labels"), schema)
            except checks.UsageError as error:
                problems.setdefault(f"{name}, {spec.method}, {spec.bits} bits", (spec.method, str(error)))
    if problems:
        cell, (_, problem) = next(iter(problems.items()))
        names = sorted({method for method, _ in problems.values()})
        more = f"; {len(problems)} cells cannot be measured; leave out the methods {', '.join(names)}"
        raise checks.UsageError(f"{cell}: {problem}" + more * (len(problems) > 1))


def benchmark(grid: Grid, progress: Progress = silent) -> GridOutcome:
    """Measure all cells of a grid.

    Cached results for the same code, versions and rows are reused. The outcome lists the cells that failed; they do not
    stop the others. Raises UsageError, before anything is measured, if a cell cannot be measured.
    """
    settings = Settings()
    check_cells(grid, settings)
    executor = connect(settings, progress)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    specs = list(grid.specs())
    for spec in specs:
        checks.check_training(spec, executor)
    datasets = [ingest(Spec(dataset=name, source=grid.source), settings, progress) for name in grid.datasets]
    cells = len(datasets) * len(specs)
    with logged_stage("benchmark"):
        for name, dataset in zip(grid.datasets, datasets, strict=True):
            vocabulary = vocabulary_of(dataset, None, executor, dataset.shards("base"))  # assigns ids to keys, too
            if grid.protocol == "dhn":
                dataset = protocols.drawn_dataset(dataset, grid.draw, vocabulary, settings, executor)
            bench = Bench(name, dataset, vocabulary, grid, settings, executor, {})
            for spec in specs:
                cell = f"{name}, {spec.method}, {spec.bits} bits, seed {spec.seed}"
                executor.progress("cells", len(rows) + len(failed), cells)
                try:
                    with logged_stage(cell, stays=False):
                        rows.append(bench.row(spec))
                except Exception as error:  # a failed cell does not stop the others
                    expected = isinstance(error, ValueError)
                    failed[cell] = str(error) if expected else f"{type(error).__name__}: {error}"
                    logger.warning("%s: %s", cell, failed[cell], exc_info=not expected)
    return GridOutcome(rows=tuple(rows), failed=failed)


@flow(name="benchmark")
def benchmark_flow(grid: Grid) -> GridOutcome:
    """Measure a grid, on a schedule or a cluster. An interrupted run resumes from the cached cells."""
    return benchmark(grid)
