"""Programs that run on hosts of the cluster: write the source, read versions, watch nodes, audit the table."""

import json
import sys
import time

TABLE = "mine__itq64"


def grow(batch, shards, rows, d):
    """Write shards of random vectors to the source on S3."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import s3fs

    files = s3fs.S3FileSystem()
    for shard in range(batch * shards, (batch + 1) * shards):
        random = np.random.default_rng(shard)
        x = random.standard_normal((rows, d), dtype=np.float32) * np.linspace(2, 0.5, d, dtype=np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), d)
        ids = np.arange(shard * rows, (shard + 1) * rows)
        with files.open(f"hashkiln/source/{shard:04}.parquet", "wb") as file:
            pq.write_table(pa.table({"id": ids, "vector": vectors}), file)


def read():
    """Read the published version again and again: one line with its name, rows and digest, or the error."""
    from infra.settings import Settings
    from tests.faults.driver import fingerprint, open_table, published

    while True:
        try:
            table = open_table(Settings(), TABLE)
            version = table.version()
            ids, codes = published(table)
            entry = {"version": version.name, "rows": len(ids), "digest": fingerprint(ids, codes)}
            if table.version().name != version.name:
                continue  # published meanwhile: `published` may have read either
        except Exception as error:  # services are away on purpose: a reader fails, and must not see a half version
            entry = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps({"at": time.time(), **entry}), flush=True)
        time.sleep(0.5)


def nodes():
    """Print the addresses of the nodes that are alive, twice a second."""
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    while True:
        alive = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
        print(json.dumps({"at": time.time(), "alive": alive}), flush=True)
        time.sleep(0.5)


def audit():
    """Verify every part of the published version; print its rows, problems, doubled rows and rows encoded."""
    import numpy as np

    from infra.settings import Settings
    from tests.faults.driver import open_table, published
    from workflows.tables.verify import verify

    found = verify(TABLE)
    table = open_table(Settings(), TABLE)
    doubled = len(found_ids := published(table)[0]) - len(np.unique(found_ids))
    encoded = int(table.version().properties["encoded"])
    print(json.dumps({"rows": found.rows, "problems": found.problems, "doubled": doubled, "encoded": encoded}))


if __name__ == "__main__":
    globals()[sys.argv[1]](*map(int, sys.argv[2:]))
