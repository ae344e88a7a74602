"""The display of a run on a terminal: log lines, and below them a line for each stage, which stays when it is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

if TYPE_CHECKING:
    from rich.console import Console

    from infra.observability import Stage

STAGES = "infra.observability"  # the logger of stages, and of the epochs of a fit


class Display(logging.Handler):
    """Show the stages of a run as lines, each with a bar, what is being done, and a clock.

    Stages begin and end by records of the logger STAGES. Progress belongs to the innermost stage; outside of stages, as
    in a search, each kind of work has a line.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        note, clock = TextColumn("{task.fields[note]}"), TextColumn("{task.elapsed:,.1f} s")
        self.lines = Progress(TextColumn("{task.description}"), BarColumn(12), note, clock, console=console)
        self.open: list[TaskID] = []  # lines of what runs now, from the outermost
        self.work = ""  # the work of the only line outside of stages

    def __enter__(self) -> Self:
        logger = logging.getLogger(STAGES)
        self.level_before = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        self.lines.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, where: TracebackType | None) -> None:
        if not kind:
            self._end_work()
        logging.getLogger(STAGES).setLevel(self.level_before)
        self.stop()

    def stop(self) -> None:
        """Leave the lines as they are, and give the terminal back (not `close`, which importing Prefect calls).

        After Ctrl-C another thread does this, while stages and progress go on.
        """
        logging.getLogger(STAGES).removeHandler(self)
        with self._locked():
            while self.open:
                self._end("[red]not finished")
            self.lines.stop()

    def emit(self, record: logging.LogRecord) -> None:
        if not self.lines.live.is_started:
            return
        stage: Stage | None = getattr(record, "stage", None)
        record.shown = bool(stage and stage.stays) or record.levelno < logging.INFO or hasattr(record, "epoch")
        if stage and stage.state == "running":
            self._end_work()
            self.open.append(self.lines.add_task(stage.name, total=None, note=""))
        elif stage:
            self._end(stage.size if stage.state == "done" else "[red]failed", stage.stays)

    def progress(self, label: str, done: int, total: int) -> None:
        work = label.partition(",")[0]
        with self._locked():
            if not self.lines.live.is_started:
                return
            if self.work and self.work != work:
                self._end_work()
            if not self.open:
                self.work = work
                self.open.append(self.lines.add_task(work, total=None, note=""))
            count = f"{done:,} of {total:,}" if total else f"{done:,}" if done else ""
            note = count if label == self.work else f"{label} {count}"
            self.lines.update(self.open[-1], completed=done, total=total or None, note=note)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock under which `emit` is called."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _end_work(self) -> None:
        if self.work:
            self.work = ""
            self._end("")

    def _end(self, note: str, stays: bool = True) -> None:
        line = self.open.pop()
        if stays:
            self.lines.update(line, completed=1, total=1, note=note)
            self.lines.stop_task(line)
        else:
            self.lines.remove_task(line)
