"""Search the published version of a code table, and move to the next one once it is published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any
from weakref import ref

import numpy as np

from hashing.mapreduce import Array

from .reader import Reader

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Searches:
    """The number of searches in one version that have not ended."""

    running: int = 0


class Follower:
    """The published version of a code table, in memory. Threads may share it.

    Created by `hashkiln.open` with follow=True. A thread looks for a new version every `seconds`, opens it and replaces
    the old one, until `close` or the end of a `with` statement. A search ends in the version where it began. At most
    two versions are in memory: a new one is not opened while a search still runs in the version before the current
    one. Errors of the thread are logged as warnings, and it tries again.

    Parameters
    ----------
    first : Reader
        The current version.
    newer : callable
        Returns a Reader of the published version, or None if that is the one given.
    seconds : float
        Interval, above 0.

    Examples
    --------
    >>> import hashkiln
    >>> with hashkiln.open("sample__lsh8", follow=True) as table:
    ...     distances, ids = table.search([[0.0] * 128], k=5)
    >>> ids.shape
    (1, 5)
    """

    def __init__(self, first: Reader, newer: Callable[[Reader], Reader | None], seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"seconds: expected an interval above 0, found {seconds}")
        self._current, self._searches, self._before = first, _Searches(), _Searches()
        self._newer, self._swap, self._refresh, self._closed = newer, Lock(), Lock(), Event()
        Thread(target=_keep_fresh, args=(ref(self), self._closed, seconds), daemon=True).start()

    def __repr__(self) -> str:
        return f"Follower({self._current!r})"

    @contextmanager
    def pinned(self) -> Iterator[Reader]:
        """Return the current version, for several searches in one version, in a `with` statement."""
        with self._swap:
            reader, searches = self._current, self._searches
            searches.running += 1
        try:
            yield reader
        finally:
            with self._swap:
                searches.running -= 1

    def search(
        self, x: Any, k: int = 10, rerank: int = 0, asymmetric: bool = False, where: Any = None
    ) -> tuple[Array, Array]:
        """Search the current version, as `Reader.search` does. `where` accepts labels only."""
        with self.pinned() as reader:
            return reader.search(x, k, rerank, asymmetric, _labels(where))

    def within(self, x: Any, radius: int, where: Any = None) -> tuple[Array, Array, Array]:
        """Search the current version, as `Reader.within` does. `where` accepts labels only."""
        with self.pinned() as reader:
            return reader.within(x, radius, _labels(where))

    def keys(self, ids: Array) -> Array:
        """Return the keys of rows of any version, as `Reader.keys` does."""
        with self.pinned() as reader:
            return reader.keys(ids)

    def refresh(self) -> bool:
        """Look for a new version now. Return whether there is one; then searches begin in it."""
        with self._refresh:
            if self._closed.is_set() or self._before.running:
                return False
            if not (reader := self._newer(self._current)):
                return False
            with self._swap:
                self._before, self._current, self._searches = self._searches, reader, _Searches()
            return True

    def close(self) -> None:
        """Stop looking for new versions. Searches are still answered."""
        self._closed.set()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _keep_fresh(follower: ref[Follower], closed: Event, seconds: float) -> None:
    """Refresh until the follower is closed or no longer referenced."""
    while not closed.wait(seconds) and (target := follower()):
        try:
            target.refresh()
        except Exception as error:  # the old version is still there, and the next attempt may succeed
            logger.warning(
                "cannot open the published version: %s", str(error)
            )  # a reference to the error would keep the follower alive
        del target


def _labels(where: Any) -> Any:
    if isinstance(where, np.ndarray) and where.dtype == bool:
        raise ValueError("where: expected labels, found bool for the rows of one version: search in `pinned()`")
    return where
