"""One thread for BLAS: the last digits of a product depend on the number of threads that compute it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock, local

from threadpoolctl import OpenBLASController, ThreadpoolController

_lock = Lock()
_thread = local()  # limited: whether the thread is inside one_blas_thread
_callers = 0  # number of threads inside one_blas_thread
_before: list[int] = []  # thread counts of _shared_pools before the first caller entered


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _shared_pools() -> list[OpenBLASController]:
    """Return the BLAS libraries whose threads belong to the process: OpenBLAS, unless it was built for OpenMP."""
    pools = _libraries().select(internal_api="openblas").lib_controllers
    return [pool for pool in pools if pool.threading_layer != "openmp"]


def _limit(threads: list[int]) -> None:
    OpenBLASController.clear_controlling_thread(force=True)  # otherwise OpenBLAS ignores limits set by other threads
    for pool, n in zip(_shared_pools(), threads, strict=True):
        pool.set_num_threads(n)
    OpenBLASController.clear_controlling_thread(force=True)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread inside the context, so that products do not depend on the machine's load and cores.

    Several threads may be inside at once. If BLAS has one thread pool for the whole process, the last thread to leave
    lifts the limit. Nested contexts do nothing, because setting a limit takes a fraction of a millisecond.
    """
    global _callers, _before
    if getattr(_thread, "limited", False):
        yield
        return
    _thread.limited = True
    with _lock:
        if not _callers:
            _before = [pool.num_threads for pool in _shared_pools()]
            _limit([1] * len(_before))
        _callers += 1
    try:
        with _libraries().limit(limits=1, user_api="blas"):
            yield
    finally:
        _thread.limited = False
        with _lock:
            _callers -= 1
            if not _callers:
                _limit(_before)
