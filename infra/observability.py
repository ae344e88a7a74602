"""What others see of a run: observers of progress and epochs, whose errors never stop it, and a log line per stage."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, ParamSpec

from hashing.mapreduce import Epoch

logger = logging.getLogger(__name__)
P = ParamSpec("P")
Progress = Callable[[str, int, int], None]  # label, finished items, total
OnEpoch = Callable[[Sequence[Epoch]], None]  # all finished epochs, at each report


class Observer(Generic[P]):
    """A callback whose errors never stop work: the first is logged in one line, later ones are ignored.

    Examples
    --------
    >>> report = Observer(print)
    >>> report("encode", 1, 8)
    encode 1 8
    >>> report.failed
    False
    """

    def __init__(self, callback: Callable[P, None]) -> None:
        self.callback = callback
        self.error: Exception | None = None  # the last one

    @property
    def failed(self) -> bool:
        return self.error is not None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            self.callback(*args, **kwargs)
        except Exception as error:  # the callback may raise anything
            if not self.failed:
                name = getattr(self.callback, "__qualname__", type(self.callback).__name__)
                message = " ".join(str(error).split())
                logger.warning("observer %s failed, the run continues: %s: %s", name, type(error).__name__, message)
            self.error = error


def observed(callback: Callable[P, None]) -> Observer[P]:
    """Return the callback as an observer, or unchanged if it is one."""
    return callback if isinstance(callback, Observer) else Observer(callback)


@dataclass
class Stage:
    """A stage of a run, or a cell of a benchmark, and its size once it is known."""

    name: str
    rows: int = 0
    seconds: float = 0.0
    state: str = "running"  # or done, failed
    stays: bool = True  # on a display, when it is done
    started: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.size, f"{self.seconds:.1f} s")))

    @property
    def size(self) -> str:
        """The rows and rows per second; empty if the stage has not counted rows."""
        return f"{self.rows:,} rows, {self.rows / self.seconds:,.0f} rows/s" if self.rows and self.seconds else ""


@contextmanager
def logged_stage(name: str, stays: bool = True) -> Iterator[Stage]:
    """Log one line when the block has ended: name, rows and seconds. A terminal shows its begin too (level DEBUG)."""
    found = Stage(name, stays=stays)
    logger.debug("%s begins", name, extra={"stage": found})
    try:
        yield found
        found.state = "done"
    except BaseException:
        found.state = "failed"
        raise
    finally:
        found.seconds = time.monotonic() - found.started
        level = logging.INFO if found.state == "done" else logging.DEBUG  # who raised the error reports it
        logger.log(level, "%s: %s", name, found, extra={"stage": found})


def silent(label: str, done: int, total: int) -> None:
    """Ignore progress."""


def ignore_epochs(epochs: Sequence[Epoch]) -> None:
    """Ignore epochs."""


def report_epochs(progress: Progress, on_epoch: OnEpoch, epochs: Sequence[Epoch], most: int) -> None:
    """Report the finished epochs and the planned total (`most`) to both callbacks, and log the last epoch."""
    label = "train"
    if epochs:
        last = epochs[-1]
        label += f", loss {last['loss']:.4f}" + ("" if last["score"] is None else f", score {last['score']:.4f}")
        logger.info("%s: epoch %d of %d, %.1f s", label, len(epochs), most, last["seconds"], extra={"epoch": last})
    progress(label, len(epochs), most)
    on_epoch(epochs)
