"""Windows of a file give the bytes of the file, also at the end of a window, of a range and of the file."""

import contextlib

import numpy as np
import pyarrow as pa
import pytest

from storage.files.parquet_windows import Window, WindowsAhead

CONTENT = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8).tobytes()
RANGES = [(600, 903), (10, 500)]  # column chunks may be in any order


@pytest.mark.parametrize("size", [1, 16, 100, 4096])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_they_are_the_bytes_of_the_file(size, ahead):
    file, rng = pa.BufferReader(CONTENT), np.random.default_rng(size)
    with contextlib.closing(WindowsAhead(file, size, ahead, RANGES) if ahead else Window(file, size)) as windows:
        for at, end in RANGES:
            while at < end:
                stop = min(at + int(rng.integers(0, 40)), end)
                assert windows.read(at, stop, end).tobytes() == CONTENT[at:stop]
                at = stop if rng.integers(2) else at + (stop - at) // 2  # a header is read in advance


@pytest.mark.parametrize("ahead", [0, 2])
def test_fewer_bytes_where_the_file_ends(ahead):
    file = pa.BufferReader(CONTENT)
    with contextlib.closing(WindowsAhead(file, 64, ahead, [(900, 1020)]) if ahead else Window(file, 64)) as windows:
        assert windows.read(900, 1010, 1020).tobytes() == CONTENT[900:]
