"""The flow `benchmark`: datasets x methods x bits x seeds under one protocol, each cell measured once and kept."""

from __future__ import annotations

import logging

from prefect import flow

from infra.executors import Progress, connect, silent
from infra.settings import Settings

from ..datasets import ingest, labels_of
from ..spec import Spec
from . import protocols
from .cells import Bench
from .grid import Grid, GridOutcome, Row

logger = logging.getLogger(__name__)


def benchmark(grid: Grid, progress: Progress = silent) -> GridOutcome:
    """Measure all cells.

    What was measured before, by the same code and versions from the same rows, is not measured again. A cell that
    cannot be is noted, and does not end the others.
    """
    settings = Settings()
    executor = connect(settings, progress)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    specs = list(grid.specs())
    datasets = [ingest(Spec(dataset=name, source=grid.source), settings, progress) for name in grid.datasets]
    for name, dataset in zip(grid.datasets, datasets, strict=True):
        vocabulary = labels_of(dataset, executor)
        if grid.protocol == "dhn":
            dataset = protocols.dataset_of(dataset, grid.draw, vocabulary, settings, executor)
        bench = Bench(name, dataset, vocabulary, grid, settings, executor, {})
        for done, spec in enumerate(specs):
            cell = f"{name}, {spec.method}, {spec.bits} bits, seed {spec.seed}"
            executor.progress(cell, done, len(specs))
            try:
                rows.append(bench.row(spec))
            except Exception as error:  # of this cell alone, whatever it is
                expected = isinstance(error, ValueError)
                failed[cell] = str(error) if expected else f"{type(error).__name__}: {error}"
                logger.warning("%s: %s", cell, failed[cell], exc_info=not expected)
    return GridOutcome(rows=tuple(rows), failed=failed)


@flow(name="benchmark")
def benchmark_flow(grid: Grid) -> GridOutcome:
    """Measure a grid, on a schedule or a cluster. A run that was cut off goes on where it stood."""
    return benchmark(grid)
