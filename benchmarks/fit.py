"""How long does each shallow method fit on one core, what bounds it, and how precise are its codes?

    HASHKILN_DATA=… python benchmarks/fit.py [--dataset mnist] [--bits 32] [--methods bre,ksh]

A method whose codes have a bit or two for each dimension has that length instead. All training rows are read from their
shards, in process; time is that of the process, reading included. Relevant are rows that share a label for supervised
methods, and the 50 nearest rows for others; rows are ranked by the Hamming distance of codes, also those of quantizers.
Rows that the file of --json has of other methods stay, with their commit.
"""

import argparse
import json
import linecache
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import FrameType

import measure

from hashing.bits import pack
from hashing.blas import one_blas_thread
from hashing.deep.method import Deep
from hashing.evaluation.metrics import average_precision
from hashing.mapreduce import Data
from hashing.methods import METHODS, Method, method
from infra.executors import InProcess
from infra.settings import Settings
from workflows.context import Context
from workflows.datasets import ingest
from workflows.evaluation.judge import judge_of
from workflows.ingested import labels_of, training_shards
from workflows.spec import Protocol, Spec

PACKAGES = tuple(str(measure.ROOT / name) for name in ("hashing", "storage"))
EVERY = 0.01  # seconds between two looks at the stack
LEAST = 0.1  # share of a line that is shown
REMARKS = """
Beside each fit are the lines of code that took at least a tenth of its time, up to three, with their share. Time in a
library counts for the line that calls it: `@` is a matrix product of BLAS, and reading is in `storage`.
"""


class Lines:
    """Counts the processor time of a block by the line of Hashkiln that the current thread is at.

    Another thread looks at the stack; libraries let it, as they release the lock of the interpreter while they compute.
    """

    def __enter__(self) -> "Lines":
        self.seconds: Counter[tuple[str, int]] = Counter()
        self._ended, self._watched = threading.Event(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        before = time.process_time()
        while not self._ended.wait(EVERY):
            frame: FrameType | None = sys._current_frames()[self._watched]
            while frame and not frame.f_code.co_filename.startswith(PACKAGES):
                frame = frame.f_back
            now = time.process_time()
            if frame:
                self.seconds[frame.f_code.co_filename, frame.f_lineno] += now - before
            before = now

    def __str__(self) -> str:
        total = sum(self.seconds.values())
        most = [(line, spent / total) for line, spent in self.seconds.most_common(3) if spent >= LEAST * total]
        return ", ".join(f"{share:.0%} {_shown(*line)}" for line, share in most)


def _shown(file: str, line: int) -> str:
    """Return a line of code in Markdown, in a table."""
    code = linecache.getline(file, line).partition("  #")[0].strip().replace("|", "\\|")
    return f"`{code}` in {Path(file).relative_to(measure.ROOT).as_posix()}"


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    executor, settings = InProcess(), Settings()
    dataset = ingest(Spec(dataset=options.dataset), settings)
    vocabulary = labels_of(dataset, executor)
    judges = {}
    for name in options.methods.split(","):
        built = with_length(name, options.bits, dataset.dim)
        if built.supervised not in judges:
            protocol = Protocol(relevance="labels" if built.supervised else "neighbours", neighbours=50)
            context = Context(Spec(dataset=dataset.name, protocol=protocol), settings, executor, dataset)
            judges[built.supervised] = judge_of(context, vocabulary)
        judge = judges[built.supervised]
        data = Data(training_shards(dataset, judge.queries.ids if judge.drawn else [], vocabulary), executor)
        with one_blas_thread(), Lines() as lines:
            start = time.process_time()
            function = built.fit(data)
            seconds = time.process_time() - start
        base = Data(dataset.shards("base", vocabulary), executor)
        codes = base.map_rows(lambda batch, function=function: batch._replace(x=pack(function.encode(batch.x))))
        found = float(average_precision(judge.histogram(function, list(codes.shards), executor)).mean())
        case = f"{dataset.name}, {built.n_bits} bits: {name}"
        yield measure.row(case, {"ours": [seconds]}, "s", note=f"mAP {100 * found:.2f} %; {lines}")


def kept(options: argparse.Namespace) -> list[measure.Row]:
    """Return the rows of the file of --json that are of other methods."""
    if not options.json or not options.json.exists():
        return []
    earlier, asked = json.loads(options.json.read_text()), options.methods.split(",")
    rows = [measure.Row(**row) for row in earlier["rows"] if row["case"].rpartition(" ")[2] not in asked]
    for row in rows:
        if "commit" not in row.note:
            row.note += f"; commit {earlier['commit']}"
    return rows


def with_length(name: str, bits: int, dim: int) -> Method:
    """Return a method with `bits` bits, or with a bit or two for each dimension if it needs them."""
    for n_bits in (bits, dim):
        built = method(name)(n_bits=n_bits)
        with suppress(ValueError):
            getattr(built, "check_dim", lambda dim: None)(dim)
            return built
    return method(name)(n_bits=2 * dim)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--bits", type=int, default=32)
    shallow = (name for name, made in METHODS.items() if not issubclass(made, Deep))
    parser.add_argument("--methods", default=",".join(shallow), help="default: all shallow ones")
    options = parser.parse_args()
    rows = chain(kept(options), measured(options))
    measure.run(__doc__, options, rows, packages=("numba", "scipy"), remarks=REMARKS)


if __name__ == "__main__":
    main()
