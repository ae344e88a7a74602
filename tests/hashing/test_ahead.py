"""Items are computed ahead, by one thread, in order and within bounds."""

import threading
from contextlib import closing

import pytest

from hashing.ahead import ahead


def test_items_keep_their_order_and_at_most_one_is_computed_ahead():
    computed, waiting = [], threading.Semaphore(0)

    def items():
        for i in range(5):
            computed.append(i)
            waiting.release()
            yield i

    for i, item in enumerate(ahead(items())):
        assert item == i
        if i < 4:
            for _ in range(1 if i else 2):
                waiting.acquire()
        assert computed == list(range(min(i + 2, 5)))


def test_an_error_is_raised_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("row 2")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="row 2"):
        next(found)


def test_the_thread_ends_with_its_consumer():
    before = threading.active_count()
    found = ahead(iter(range(100)))
    assert next(found) == 0
    found.close()
    assert threading.active_count() == before
    assert list(ahead([])) == []
    with pytest.raises(KeyboardInterrupt), closing(ahead(iter(int, 1), 3)):
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_several_items_are_computed_ahead_by_one_thread():
    computed, by = [], set()

    def items():
        for item in range(20):
            computed.append(item)
            by.add(threading.current_thread().name)
            yield item

    for item in ahead(items(), 3):
        assert item in computed
        assert len(computed) <= item + 1 + 3
    assert computed == list(range(20))
    assert len(by) == 1
