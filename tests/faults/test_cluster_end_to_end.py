"""A cluster as its users run it, PostgreSQL, Ray and an S3 that throttles and resets: the bits of one process."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.settings import Settings
from storage.files import filesystem
from storage.files.filesystem import join
from tests.conftest import blobs
from tests.faulty_proxy import FaultyProxy
from workflows.context import open_table

D, TABLE = 16, "many__itq16"
ASKED = ["--dataset", "many", "--bits", "16", "--queries", "20", "--relevance", "neighbours", "--neighbours", "5"]


class Place:
    """Where the same rows are indexed by the same commands."""

    def __init__(self, folder, warehouse="", **environment):
        self.folder, self.source = folder, join(warehouse or str(folder), "source")
        self.environment = {"HASHKILN_HOME": str(folder), "HASHKILN_WAREHOUSE": warehouse, **environment}

    def write(self, number, seed):
        batch, file = blobs(300, D, seed=seed, first_id=1000 * number), io.BytesIO()
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.x.ravel()), D)
        pq.write_table(pa.table({"id": batch.ids, "vector": vectors}), file)
        filesystem.write_bytes(join(self.source, f"{number}.parquet"), file.getvalue())

    def hashkiln(self, *arguments):
        command = [Path(sys.executable).with_name("hashkiln"), *arguments, "--json"]
        environment = {**os.environ, **self.environment}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    def reindex(self):
        outcome = self.hashkiln("reindex", *ASKED)
        return [outcome[name] for name in ("version", "unchanged", "rows", "encoded")]

    def published(self):
        """Return all that readers see: digests of the parts, the model, and the metrics."""
        settings = Settings(
            home=self.folder,
            warehouse=self.environment["HASHKILN_WAREHOUSE"],
            catalog=self.environment.get("HASHKILN_CATALOG", ""),
        )
        table = open_table(settings, TABLE)
        version = table.version()
        parts = table.parts(version.snapshot_id).values()
        told = {name: version.properties[name] for name in ("model", "fit", "metrics", "health", "protocol", "rows")}
        return {part.shard: Path(part.url).name for part in parts}, told


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cluster_gives_the_bits_of_one_process(s3, postgresql, tmp_path, monkeypatch):
    with FaultyProxy(
        urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc,
        failing=0.1,
        kinds=("slow down", "internal error", "reset", "lost", "torn"),
    ) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        warehouse = f"{s3}/{tmp_path.name}"
        cluster = Place(tmp_path / "cluster", warehouse, HASHKILN_CATALOG=postgresql(), HASHKILN_EXECUTOR="ray")
        alone = Place(tmp_path / "alone", HASHKILN_EXECUTOR="inprocess")
        seen = []
        for place in (cluster, alone):
            for number in range(5):
                place.write(number, seed=number)
            place.hashkiln("ingest", place.source, "--name", "many")
            runs = [(place.reindex(), place.published())]
            place.write(3, seed=30)
            runs += [(place.reindex(), place.published()) for _ in range(2)]
            seen.append(runs)
        assert [outcome for outcome, _ in seen[0]] == [
            ["v1", False, 1500, 1500],
            ["v2", False, 1500, 300],
            ["v2", True, 1500, 0],
        ]
        assert seen[0] == seen[1]
        before, after, _ = (parts for _, (parts, _) in seen[0])
        assert {name for name in after if before[name] != after[name]} == {"3.parquet"}
        assert proxy.faults.keys() == set(proxy.kinds)
        assert proxy.faults.total() > 20
