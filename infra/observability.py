"""Observers: callbacks for progress and epochs, whose errors never stop a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
        self.failed = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            self.callback(*args, **kwargs)
        except Exception as error:  # the callback may raise anything
            if not self.failed:
                name = getattr(self.callback, "__qualname__", type(self.callback).__name__)
                message = " ".join(str(error).split())
                logger.warning("observer %s failed, the run continues: %s: %s", name, type(error).__name__, message)
            self.failed = True


def observed(callback: Callable[P, None]) -> Observer[P]:
    """Return the callback as an observer, or unchanged if it is one."""
    return callback if isinstance(callback, Observer) else Observer(callback)


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
        logger.info("%s: epoch %d of %d, %.1f s", label, len(epochs), most, last["seconds"])
    progress(label, len(epochs), most)
    on_epoch(epochs)
