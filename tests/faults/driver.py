"""The code of child processes: a driver that can inject a fault into itself, and a reader that polls all the time.

The children are forked from a server that has imported all of this and runs nothing, so that one costs no seconds.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet  # noqa: F401  (imported now, so that no child has to)
import pyiceberg.catalog.sql
import pyiceberg.io.pyarrow
import pyiceberg.table.update
import safetensors.numpy  # noqa: F401
import scipy.linalg  # noqa: F401
import sqlalchemy.event

import hashing.hamming.kernels
import hashing.neighbours.exact_kernels  # noqa: F401
from infra.executors import connect
from infra.settings import Settings
from storage.tables import iceberg
from storage.tables.table import CodeTable, load_table
from workflows.context import Context
from workflows.reindex import fitting, gate, publishing, staging
from workflows.spec import Spec

PAUSE = 0.005  # seconds between two reads: the others need the processor, too


class Harm(NamedTuple):
    """A fault that a driver injects into itself."""

    die_at: int = 0  # the event before which it dies of kill -9; 0: none
    clock: float = 0  # seconds that its clock is ahead
    file_bytes: int = 0  # no file may grow beyond; 0: as the disk allows


def reindex(pipe: Connection, environment: dict[str, str], spec: str, harm: Harm) -> None:
    """Run the stages. Report each stage as it begins, and at the end the result and the number of events."""
    os.environ.update(environment)
    events = Events(harm.die_at)
    _hurt(harm)
    of, settings = Spec.model_validate_json(spec), Settings()
    context = Context.of(of, settings, connect(settings))

    def begin(stage: str) -> None:
        pipe.send(("stage", stage))

    try:
        begin("fit")
        model = fitting.fit(context)
        begin("stage")
        staged = staging.stage(context, model)
        version = staged.base
        if not staged.unchanged:
            begin("evaluate")
            report = gate.evaluate_staged(context, staged)
            begin("gate")
            verdict = gate.gate(context, staged, report)
            begin("publish")
            version = publishing.publish(context, staged, report, verdict, "")
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        sys.exit(1)
    pipe.send(("done", {"version": version, "encoded": staged.encoded, "events": events.seen}))


class Events:
    """Counts what changes files or the catalog, each just before it happens, and dies at one of them.

    A file that dies while pyiceberg writes it is left torn under its own name.
    """

    def __init__(self, die_at: int) -> None:
        self.seen, self.die_at = 0, die_at
        create = pyiceberg.io.pyarrow.PyArrowFile.create

        def torn(file, overwrite=False):
            if self.seen + 1 == self.die_at:
                with create(file, overwrite) as stream:
                    stream.write(b"torn")
            self.happen()
            return create(file, overwrite)

        pyiceberg.io.pyarrow.PyArrowFile.create = torn
        for name in ("commit", "before_cursor_execute"):
            sqlalchemy.event.listen(sqlalchemy.Engine, name, self.happen)
        sys.addaudithook(self._audit)

    def _audit(self, event: str, args: tuple) -> None:
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in ("os.rename", "os.link", "os.remove", "os.mkdir"):
            self.happen()

    def happen(self, *_about: object, **_more: object) -> None:
        self.seen += 1
        if self.seen == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _hurt(harm: Harm) -> None:
    if harm.file_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (harm.file_bytes, harm.file_bytes))
    if harm.clock:  # the machine's clock is not ours to move: what pyiceberg and the stages ask is
        true = time.time
        time.time = lambda: true() + harm.clock

        class Shifted(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls.fromtimestamp(time.time(), tz)

        for name, module in list(sys.modules.items()):
            if name.startswith(("pyiceberg", "workflows")) and getattr(module, "datetime", 0) is datetime.datetime:
                module.datetime = Shifted


def call(pipe: Connection, environment: dict[str, str], function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function of the product, and report what it returns."""
    os.environ.update(environment)
    try:
        pipe.send(("stage", function.__name__))
        pipe.send(("done", function(*arguments)))
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        sys.exit(1)


def read(pipe: Connection, environment: dict[str, str], name: str) -> None:
    """Read the published rows in a loop until stopped, then once more; report how often each content was seen."""
    os.environ.update(environment)
    table, seen, stopped = None, dict[str, int](), False
    pipe.send(("stage", "reading"))
    try:
        while not stopped:
            stopped = pipe.poll(PAUSE)
            try:
                table = table.refresh() if table else open_table(Settings(), name)
                found = fingerprint(*published(table))
            except (LookupError, ConnectionError):  # not made yet, and perhaps no room for a catalog
                if seen:
                    raise
                continue
            seen[found] = seen.get(found, 0) + 1
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        sys.exit(1)
    pipe.send(("done", seen))


def content(name: str, version: str) -> str:
    """The fingerprint of a version."""
    return fingerprint(*published(open_table(Settings(), name), version))


def open_table(settings: Settings, name: str) -> CodeTable:
    return load_table(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url), name)


def published(table: CodeTable, version: str = "main") -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) and packed codes (n, B) of a version, as its parts come."""
    batches = [batch for shard in table.shards(table.version(version).snapshot_id) for batch in shard]
    if not batches:
        return np.zeros(0, np.int64), np.zeros((0, (table.n_bits + 7) // 8), np.uint8)
    return np.concatenate([batch.ids for batch in batches]), np.concatenate([batch.x for batch in batches])


def fingerprint(ids: np.ndarray, codes: np.ndarray) -> str:
    """Return the digest of rows as a multiset, independent of the order of parts."""
    order = np.lexsort((*codes.T, ids))
    return hashlib.sha256(ids[order].tobytes() + codes[order].tobytes()).hexdigest()
