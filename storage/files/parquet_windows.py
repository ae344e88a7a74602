"""Read a file in windows: one when it is needed, or several ahead in threads, which a remote store needs."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Window:
    """One window of a file, in memory that is used again.

    Parameters
    ----------
    file : pyarrow.NativeFile, open for random access
    size : bytes to read at a time
    """

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size
        self._buffer = np.empty(0, np.uint8)
        self._start, self._read = 0, 0  # the part of the file that the buffer holds

    def read(self, start: int, stop: int, end: int) -> Array:
        """Return the bytes from start to stop, valid until the next call; fewer if the file ends before.

        Reads on for the next call, but not beyond `end`.
        """
        if not self._start <= start <= stop <= self._start + self._read:
            n = min(max(self._size, stop - start), end - start)
            held = (
                self._buffer[: self._read][max(0, start - self._start) :] if start >= self._start else self._buffer[:0]
            )
            if len(self._buffer) < n:
                self._buffer = np.empty(n, np.uint8)
            self._buffer[: len(held)] = held  # no byte is read twice
            self._file.seek(start + len(held))
            self._start, self._read = start, len(held) + self._file.readinto(self._buffer[len(held) : n])
        stop = min(stop, self._start + self._read)
        return np.frombuffer(self._buffer.data.toreadonly()[start - self._start : stop - self._start], np.uint8)

    def close(self) -> None:
        """Do nothing: no thread reads ahead."""


class WindowsAhead:
    """Windows of some ranges of a file, which threads read before they are needed.

    Parameters
    ----------
    file : pyarrow.NativeFile, open for random access
    size : bytes of a window
    ahead : number of windows to read ahead, each by a thread
    ranges : (start, end) of each range of the file, in the order in which they are read
    """

    def __init__(self, file: Any, size: int, ahead: int, ranges: Sequence[tuple[int, int]]) -> None:
        self._windows = _windows(file, size, ahead, ranges)
        self._held: list[tuple[int, int, Array]] = []  # end of the range, place in the file, and bytes

    def read(self, start: int, stop: int, end: int) -> Array:
        """Return the bytes from start to stop of the range that stops at `end`; fewer if the file ends before.

        Within a range, `start` never decreases.
        """
        if start == stop:
            return np.empty(0, np.uint8)  # they may begin where a window ends
        self._held = [held for held in self._held if held[0] == end and held[1] + len(held[2]) > start]
        while not self._held or self._held[-1][1] + len(self._held[-1][2]) < stop:
            if not (window := next(self._windows, None)):
                break
            if window[0] == end:
                self._held.append(window)
        parts = [data[max(0, start - at) : stop - at] for _, at, data in self._held if at < stop]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])

    def close(self) -> None:
        """End the threads."""
        self._windows.close()


def _windows(file: Any, size: int, ahead: int, ranges: Sequence[tuple[int, int]]) -> Generator[tuple[int, int, Array]]:
    """Yield the end of the range, the place and the bytes of each window, while threads read the next ones."""
    places = ((end, at, min(size, end - at)) for start, end in ranges for at in range(start, end, size))
    pool = ThreadPoolExecutor(ahead)
    try:
        reads = ((end, at, pool.submit(file.read_at, n, at)) for end, at, n in places)
        waiting = deque(islice(reads, ahead))
        while waiting:
            end, at, read = waiting.popleft()
            waiting.extend(islice(reads, 1))
            yield end, at, np.frombuffer(read.result(), np.uint8)
    finally:
        pool.shutdown(cancel_futures=True)
