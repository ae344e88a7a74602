"""Reading ahead: a thread computes the next items while the current one is used."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def ahead(items: Iterable[T], depth: int = 1) -> Generator[T]:
    """Yield items in order; a thread computes at most `depth` of them ahead.

    An exception of the iterable is raised in place of the item that it failed to produce. The thread ends with the
    generator: use contextlib.closing if you may not read all items.

    >>> list(ahead(map(str, range(3))))
    ['0', '1', '2']
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        waiting = deque(pool.submit(next, source, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item  # type: ignore[misc]  # only _END has another type
    finally:
        pool.shutdown(cancel_futures=True)
