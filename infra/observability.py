"""What a run says of itself while it goes on. Whoever listens is an observer, and observers never stop work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, ParamSpec

from hashing.mapreduce import Epoch

logger = logging.getLogger(__name__)
P = ParamSpec("P")
Progress = Callable[[str, int, int], None]  # label, items done, items in all
OnEpoch = Callable[[Sequence[Epoch]], None]  # the epochs that have ended, at each report


class Observer(Generic[P]):
    """A callback that cannot stop work: its first error is logged in one line, and the next calls go on trying."""

    def __init__(self, callback: Callable[P, None]) -> None:
        self.callback = callback
        self.failed = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            self.callback(*args, **kwargs)
        except Exception as error:  # of any kind: it is not ours
            if not self.failed:
                name = getattr(self.callback, "__qualname__", type(self.callback).__name__)
                said = " ".join(str(error).split())
                logger.warning("observer %s failed, work goes on: %s: %s", name, type(error).__name__, said)
            self.failed = True


def observed(callback: Callable[P, None]) -> Observer[P]:
    """Return the callback as an observer; one that is an observer already is itself."""
    return callback if isinstance(callback, Observer) else Observer(callback)


def silent(label: str, done: int, total: int) -> None:
    """Ignore progress."""


def unheard(epochs: Sequence[Epoch]) -> None:
    """Ignore epochs."""


def tell(progress: Progress, on_epoch: OnEpoch, epochs: Sequence[Epoch], most: int) -> None:
    """Report finished epochs and the planned total: as a line of progress, and to the observer of epochs."""
    label = "train"
    if epochs:
        label += f", loss {epochs[-1]['loss']:.4f}"
        label += "" if epochs[-1]["score"] is None else f", score {epochs[-1]['score']:.4f}"
    progress(label, len(epochs), most)
    on_epoch(epochs)
