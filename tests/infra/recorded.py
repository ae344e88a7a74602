# ruff: noqa: E402 (what is imported clears the environment)
"""A training run that records every loss, and a driver process that tests may kill."""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
environment = dict(os.environ)

from tests.conftest import blobs, cut

os.environ.update(environment)  # importing conftest clears it, but the driver needs it to find S3

from hashing.mapreduce import Data
from hashing.methods.dpsh import DPSH


def recorded(log, **settings):
    """DPSH, which writes pid, progress and loss of each step to a file. Of no module, so that Ray ships it."""

    @dataclass(frozen=True)
    class Recorded(DPSH):
        log: str = ""

        def loss(self, out):
            value = super().loss(out)
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {out.progress} {value.item()!r}\n")
            return value

    return Recorded(**{"n_bits": 16, "batch_size": 64, "validation": 0.0, "log": str(log)} | settings)


def steps(log):
    """(pid, progress, loss) of all steps that were taken, in the order in which they were."""
    lines = Path(log).read_text().splitlines(keepends=True) if Path(log).exists() else []
    return [
        (int(pid), float(at), float(loss)) for pid, at, loss in (line.split() for line in lines if line[-1] == "\n")
    ]


def losses(log):
    """Loss by progress. A step that was taken again must have had the same."""
    found = {}
    for _, at, loss in steps(log):
        assert found.setdefault(at, loss) == loss
    return found


def data(executor, pictures=False):
    rows = blobs(640, d=784 if pictures else 32)
    return Data(cut(rows._replace(x=20 * rows.x + 128) if pictures else rows, 3), executor)


def digest(function):
    return hashlib.sha256(b"".join(part.tobytes() for part in function.parameters)).hexdigest()


if __name__ == "__main__":
    from infra.executors import InProcess, Ray

    kind, log, checkpoints, epochs = sys.argv[1:]
    executors = {
        "here": InProcess(checkpoints=checkpoints, cpus=1),
        "ray": Ray(cpus=2, trainers=2, checkpoints=checkpoints),
    }
    print(digest(recorded(log, epochs=int(epochs)).fit(data(executors[kind]))))
