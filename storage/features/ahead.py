"""Reading ahead: the next item is computed while the present one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield items in order. A thread computes one item ahead, never more; its errors are raised here."""
    source, end = iter(items), object()

    def following() -> Any:
        return next(source, end)

    with ThreadPoolExecutor(1, "ahead") as thread:
        pending = thread.submit(following)
        while (item := pending.result()) is not end:
            pending = thread.submit(following)
            yield item
