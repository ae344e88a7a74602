"""Reading ahead: the next items are computed in a thread while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T]:
    """Yield items in order; a thread computes at most `depth` of them ahead.

    An error of the items is raised where the item would have come. The thread ends with the generator: use
    contextlib.closing where the items may not be read to their end.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        waiting = deque(pool.submit(next, source, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item  # type: ignore[misc]  # _END is the only item of another type
    finally:
        pool.shutdown(cancel_futures=True)
