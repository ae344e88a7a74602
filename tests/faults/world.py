"""A dataset of small shards, its table, and the brute-force model of what that table must hold."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashing.bits import pack
from hashing.mapreduce import Batch
from infra.settings import Settings
from storage import models, queries
from storage.features.shard import Columns, FeatureShard
from storage.files import filesystem
from storage.tables.parts import Part
from storage.tables.table import CodeTable
from tests.faults import driver
from tests.faults.child import Child, Ended
from tests.faults.driver import Harm
from tests.faults.tally import TALLY
from workflows import datasets
from workflows.ingested import dataset_of
from workflows.spec import Spec
from workflows.tables import deletion, gc

SHARDS, ROWS, D = 5, 50, 16  # so few that no two of them are bundled, nor after three changes
DATASET, TABLE = "many", "many__lsh16"
SPEC: dict[str, Any] = {
    "dataset": DATASET,
    "method": {"method": "lsh", "bits": 16},
    "protocol": {"queries": 10, "neighbours": 5},
    "gate": {"max_loss": 1.0},
}
REFIT = {**SPEC, "refit": "always"}
NO_HARM = Harm()


class World:
    """Source, table and model under one folder, or on S3. What is right is in `rows`, and in `complete`."""

    def __init__(self, context: ForkServerContext, root: Path, source: str = "", warehouse: str = "") -> None:
        self.context, self.root = context, root
        self.source = source or str(root / "now" / "source")
        self.environment = {
            "HASHKILN_HOME": str(root / "now" / "home"),
            "HASHKILN_WAREHOUSE": warehouse,
            "HASHKILN_EXECUTOR": "inprocess",
            "HASHKILN_COMMIT_SHARDS": "2",
        }
        self.settings = Settings(home=root / "now" / "home", warehouse=warehouse, executor="inprocess", commit_shards=2)
        self.rows: dict[str, Batch] = {}  # what the source has: shard -> rows
        self.complete: set[str] = set()  # fingerprints of all that readers may see
        self._saved: dict[str, tuple[dict[str, Batch], set[str], int]] = {}
        self._next_id = 0

    # --- the source ------------------------------------------------------------------------------------------------

    def begin(self, rng: random.Random) -> None:
        """Shards, and the dataset that uses them where they lie."""
        self._add(SHARDS, rng)
        datasets.ingest_source(DATASET, self.source, self.settings, Columns())
        self.complete = {driver.fingerprint(np.zeros(0, np.int64), np.zeros((0, 2), np.uint8))}

    def change(self, rng: random.Random, added: int = 3, changed: int = 3, removed: int = 2) -> None:
        """Some shards come, some change, one of them keeping its ids, some go."""
        for name in rng.sample(sorted(self.rows), removed):
            filesystem.remove(filesystem.join(self.source, name))
            del self.rows[name]
        for name in rng.sample(sorted(self.rows), changed):
            self._write(name, rng, self.rows[name].ids if rng.random() < 0.5 else None)
        self._add(added, rng)

    def _add(self, n: int, rng: random.Random) -> None:
        for _ in range(n):
            self._write(f"{self._next_id:06}.parquet", rng)

    def delete(self, ids: list[int]) -> None:
        """Rows leave by id: the files of the source keep them, and every reader leaves them out."""
        deleted = self.call(deletion.delete, DATASET, np.array(ids)).end()
        assert deleted.result, deleted
        for name, batch in self.rows.items():
            self.rows[name] = batch.take(~np.isin(batch.ids, ids))
        self.check()

    def ids(self) -> list[int]:
        return [int(i) for batch in self.rows.values() for i in batch.ids]

    def touch(self, name: str) -> None:
        """The same rows in a new file: its time or tag differs."""
        self._put(name, self.rows[name])

    def _write(self, name: str, rng: random.Random, ids: np.ndarray | None = None) -> None:
        n = rng.randint(ROWS // 2, ROWS) if ids is None else len(ids)
        if ids is None:
            ids = np.arange(self._next_id, self._next_id + n)
            self._next_id += n
        x = np.random.default_rng(rng.getrandbits(32)).standard_normal((n, D)).astype(np.float32)
        self._put(name, Batch(ids, x))

    def _put(self, name: str, batch: Batch) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.x.ravel()), D)
        file = io.BytesIO()
        pq.write_table(pa.table({"id": batch.ids, "vector": vectors}), file)
        filesystem.write_bytes(filesystem.join(self.source, name), file.getvalue())
        self.rows[name] = batch

    # --- states to come back to ------------------------------------------------------------------------------------

    def save(self, name: str) -> None:
        shutil.copytree(self.root / "now", self.root / name)
        self._saved[name] = dict(self.rows), set(self.complete), self._next_id

    def restore(self, name: str) -> None:
        """Under the same paths and with the same times: the table knows its files by them."""
        shutil.rmtree(self.root / "now", ignore_errors=True)
        shutil.copytree(self.root / name, self.root / "now")
        rows, complete, self._next_id = self._saved[name]
        self.rows, self.complete = dict(rows), set(complete)

    # --- what runs -------------------------------------------------------------------------------------------------

    def start(self, spec: dict[str, Any], harm: Harm = NO_HARM, **environment: str) -> Child:
        of = Spec.model_validate(spec).model_dump_json()
        return Child(self.context, driver.reindex, {**self.environment, **environment}, of, harm)

    def call(self, function: Any, *arguments: Any) -> Child:
        return Child(self.context, driver.call, self.environment, function, *arguments)

    def reindex(self, spec: dict[str, Any] = SPEC, harm: Harm = NO_HARM) -> Ended:
        return self.start(spec, harm).end()

    def table(self) -> CodeTable:
        return driver.open_table(self.settings, TABLE)

    def shards(self) -> dict[str, FeatureShard]:
        """The source as the product sees it now: tiny files may be bundled, and rows deleted."""
        dataset = dataset_of(Spec.model_validate(SPEC), self.settings)
        return {shard.name: shard for shard in dataset.shards("base")}

    def committed(self) -> dict[str, dict[str, Part]]:
        """By model: the parts of today's source that any version has, be it published, rejected or staged."""
        try:
            table, shards = self.table(), self.shards()
        except LookupError:  # it died before there was one
            return {}
        found: dict[str, dict[str, Part]] = {}
        for version in table.versions():
            parts = table.parts(version.snapshot_id).items()
            now = {name: part for name, part in parts if name in shards and part.version == shards[name].version}
            found.setdefault(version.properties.get("model", ""), {}).update(now)
        return found

    # --- what must hold --------------------------------------------------------------------------------------------

    def expected(self, model: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and codes of all rows of the source, encoded in one go."""
        ids = np.concatenate([batch.ids for batch in self.rows.values()])
        x = np.concatenate([batch.x for batch in self.rows.values()])
        return ids, pack(models.load_model(self.settings.warehouse_url, model).encode(x))

    def recover(self, spec: dict[str, Any] = SPEC) -> Ended:
        """The next run finishes, encodes no row that was committed, and readers then get every row once."""
        before = {
            model: {name: (part.url, written(part.url)) for name, part in parts.items()}
            for model, parts in self.committed().items()
        }
        ended = self.reindex(spec)
        assert ended.result, f"the next run did not finish: {ended}"
        committed = before.get(self.table().version().properties["model"], {})
        missing = sum(shard.rows for name, shard in self.shards().items() if name not in committed)
        encoded = ended.result["encoded"]
        TALLY.encoded_again += max(0, encoded - missing)
        assert encoded == missing, f"{encoded} rows were encoded, where {missing} were not committed"
        assert [written(url) for url, _ in committed.values()] == [when for _, when in committed.values()]
        self.check()
        return ended

    def check(self) -> None:
        """What is published equals the brute-force model: the same rows, each once, with the same codes."""
        table = self.table()
        ids, codes = self.expected(table.version().properties["model"])
        self.complete.add(driver.fingerprint(ids, codes))
        found_ids, found_codes = driver.published(table)
        lost, duplicated = len(np.setdiff1d(ids, found_ids)), len(found_ids) - len(np.unique(found_ids))
        TALLY.lost += lost
        TALLY.duplicated += duplicated
        assert (lost, duplicated) == (0, 0)
        assert driver.fingerprint(found_ids, found_codes) == driver.fingerprint(ids, codes)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A reader reads on and on. At the end, all it saw must have been whole versions, and no garbage stays."""
        reader = Child(self.context, driver.read, self.environment, TABLE)
        try:
            reader.hear_of("reading")
            yield
            reader.tell("stop")
            ended = reader.end()
        finally:
            reader.process.kill()
        assert ended.result, f"the reader was broken: {ended}"
        half = [content for content in ended.result if content not in self.complete]
        TALLY.half_visible += len(half)
        TALLY.reads += sum(ended.result.values())
        assert not half, f"{len(half)} contents were seen that no version ever had"
        self.collect()

    def collect(self) -> None:
        """gc without a grace time leaves exactly what the versions reach."""
        collected = self.call(gc.gc, None, 0, None, False, True).end()
        assert collected.result, collected
        table = self.table()
        metadata, io = table.iceberg.metadata, table.iceberg.io
        reached = {table.iceberg.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
        for snapshot in metadata.snapshots:
            for manifest in snapshot.manifests(io):
                reached |= {manifest.manifest_path}
                reached |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(io)}
            reached |= {snapshot.manifest_list}
        there = {file.url for file in filesystem.inventory(table.iceberg.location())}
        lacking, left = reached - there, (there - reached) | self.beside()
        TALLY.unreachable += len(left)
        assert not lacking, f"gc has deleted {lacking}"
        assert not left, f"gc has left {left}"
        versions = [table.version(), *table.versions()]
        assert {version.snapshot_id for version in versions} == {s.snapshot_id for s in metadata.snapshots}
        self.check()

    def beside(self) -> set[str]:
        """Files beside the table that no version of it needs."""
        warehouse, table, left = self.settings.warehouse_url, self.table(), set()
        named = {version.properties.get("model") for version in [table.version(), *table.versions()]}
        for url in (file.url for file in filesystem.inventory(warehouse)):
            match filesystem.relative_path(warehouse, url).split("/"):
                case ["models", "fits", _]:
                    needed = filesystem.read_bytes(url).decode() in named
                case ["models", model, _]:
                    needed = model in named
                case ["queries", _, name]:
                    needed = name == "current.json" or url == queries.current_queries(warehouse, DATASET)
                case [folder, *_]:
                    needed = folder in ("codes", "datasets", "reports")
            left |= set() if needed else {url}
        return left


def written(url: str) -> Any:
    """Which file it is, and when it was written; on S3 its tag."""
    if "://" in url:
        return filesystem.stat(url)
    found = os.stat(url)
    return found.st_ino, found.st_mtime_ns
