"""Computation on a torch device, in batches of rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from .deep.fitted import one_thread
from .mapreduce import Array

MOST_ROWS = 4096  # in a batch: more would not be faster, and copying overlaps with computing
FEWEST_ROWS = 128  # in a batch after padding, so that short batches have few different shapes
PROBE_ROWS = 16  # in the batch that measures memory
SHARE = 0.25  # of the free memory for a batch: two are on the device at a time
_lock = Lock()  # one thread of a process at a time uses the device, while the others read and write


class Batches:
    """Compute a function of rows on a device, with two batches in flight. `load` moves it there and returns it."""

    def __init__(self, load: Callable[[], Callable[[Tensor], Tensor]], device: str, cpu_rows: int) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError("expected a GPU for this process, found none: torch sees no CUDA device")
        self.values = load()
        self.rows, self.halved = cpu_rows if self.device.type == "cpu" else 0, False
        self.lanes = _Lane(self.device), _Lane(self.device)

    def run(self, x: Array, u: Array) -> None:
        """Write the values of all rows x (n, d) to u (n, n_bits) float32."""
        with _lock, reproducible():
            self._run(x, u)

    def _run(self, x: Array, u: Array) -> None:
        self.rows = self.rows or self._fitting_rows(x.shape[1])
        done = turn = 0
        while done < len(x):
            batch = slice(done, done + self.rows)
            lane = self.lanes[turn % 2]
            lane.finish()
            try:
                lane.start(self.values, x[batch], u[batch], self.rows)
            except torch.OutOfMemoryError as error:
                self._halve(error)
                continue
            done, turn = batch.stop, turn + 1
        for lane in self.lanes:
            lane.finish()

    @property
    def hardware(self) -> str:
        """Return the name of the device, such as NVIDIA H200."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"torch on {self.device}"

    @property
    def note(self) -> str:
        """Return a message if batches were halved because the device ran out of memory; otherwise an empty string."""
        return f"out of memory on {self.hardware}: batches of {self.rows} rows" if self.halved else ""

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        if self.rows == 1:
            raise ValueError(f"a single row does not fit in the memory of {self.device}: {error}") from None
        for lane in self.lanes:
            lane.finish()
        self.rows, self.halved = self.rows // 2, True

    def _fitting_rows(self, dim: int) -> int:
        """Return the number of rows in a batch, a power of two, estimated from the memory of a small batch."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        with torch.inference_mode():
            self.values(torch.zeros((PROBE_ROWS, dim), device=self.device))
        taken = torch.cuda.max_memory_allocated(self.device) - before
        free, _ = torch.cuda.mem_get_info(self.device)
        rows = int(SHARE * free * PROBE_ROWS / max(taken, 1))
        return min(MOST_ROWS, 1 << max(rows.bit_length() - 1, 0))


class _Lane:
    """One of the two batches in flight: a stream, pinned memory for rows and u, and the target of u."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pinned = device, device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.pinned else None  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.x, self.u = torch.empty(0), torch.empty(0)
        self.target: Array | None = None

    def start(self, values: Callable[[Tensor], Tensor], x: Array, target: Array, most: int) -> None:
        """Start computing the values of x (n, d), n <= most; `finish` writes them to target (n, n_bits)."""
        rows = min(most, max(FEWEST_ROWS, 1 << (len(x) - 1).bit_length()))
        dtype = torch.uint8 if x.dtype == np.uint8 else torch.float32  # pixels are converted on the device
        if self.x.shape != (rows, x.shape[1]) or self.x.dtype != dtype:
            self.x = torch.empty((rows, x.shape[1]), dtype=dtype, pin_memory=self.pinned)
            self.u = torch.empty((rows, target.shape[1]), pin_memory=self.pinned)
        self.x.numpy()[: len(x)] = x
        self.x[len(x) :] = 0
        with torch.inference_mode(), torch.cuda.stream(self.stream) if self.stream else nullcontext():
            on_device = self.x.to(self.device, torch.float32, non_blocking=True)
            self.u.copy_(values(on_device), non_blocking=True)
        self.target = target

    def finish(self) -> None:
        """Wait for the batch, if any, and write its u to the target."""
        if self.target is None:
            return
        if self.stream:
            self.stream.synchronize()
        self.target[:] = self.u.numpy()[: len(self.target)]
        self.target = None


@contextmanager
def reproducible() -> Iterator[None]:
    """Run torch without TF32, without algorithms selected by timing, and on one CPU thread."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False), one_thread():
            yield
    finally:
        matmul.fp32_precision = before
