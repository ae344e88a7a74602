"""A process that reports through a pipe, and may be killed."""

from __future__ import annotations

import time
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

PATIENCE = 180  # seconds; a Ray worker that is started again takes a minute on a machine with a load of 18


class Ended(NamedTuple):
    """How a child ended; without result and error, it was killed."""

    stage: str  # the last one it began
    result: Any
    error: str

    @property
    def killed(self) -> bool:
        return self.result is None and not self.error


class Child:
    """A process that reports through a pipe, and has ended when the pipe closes."""

    def __init__(self, context: ForkServerContext, target: Any, *arguments: Any) -> None:
        self._pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()
        self._stage, self._result, self._error = "start", None, ""

    def hear(self, timeout: float) -> bool:
        """Receive the next report. Return False if the process has ended; raise TimeoutError without a report."""
        if not self._pipe.poll(timeout):
            raise TimeoutError(f"nothing heard for {timeout:.0f} s in stage {self._stage}")
        try:
            kind, what = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            return False
        match kind:
            case "stage":
                self._stage = what
            case "done":
                self._result = what
            case "failed":
                self._error = what
        return True

    def hear_of(self, stage: str) -> None:
        """Wait until it begins a stage, or ends."""
        while self._stage != stage and self.hear(PATIENCE):
            pass

    def tell(self, what: Any) -> None:
        with suppress(BrokenPipeError):  # it has ended, and reported why
            self._pipe.send(what)

    def end(self) -> Ended:
        """Wait for its end."""
        while self.hear(PATIENCE):
            pass
        self.process.join(PATIENCE)
        return Ended(self._stage, self._result, self._error)

    def kill_after(self, seconds: float) -> Ended:
        """kill -9 at that time, unless it has ended before."""
        deadline = time.monotonic() + seconds
        try:
            while self.hear(max(0, deadline - time.monotonic())):
                pass
        except TimeoutError:
            self.process.kill()
        return self.end()
