"""Every path of the warehouse, and the pattern by which garbage collection recognises it. No other module repeats one.

Folder names are part of the format: they do not change with names in the code, so that older warehouses can be read.
For example, cached counts are in `kept/` and ground truth in `truth/`.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from .files.filesystem import join

FIELDS = {
    "digest": "[0-9a-f]{64}",  # SHA-256
    "run": "[0-9a-f]{16}",  # of a training run
    "dataset": "[^/]+",
    "subset": r"[^/]+-(?:dhn|plan)-[0-9a-f]{8}",  # a dataset sampled from another one for a benchmark or a plan
    "table": "[^/]+",
    "page": "[^/]+",
    "part": "[0-9]{5,}",  # number of a part of the map from keys to ids
    "last": "[0-9]{5,}",
    "format": "[0-9]+",
    "path": ".+",
    # Digest of what it was computed from, number of rows that were dropped, and suffix of the deletions.
    "piece": "[0-9a-f]{64}(?:-[0-9]+)?(?:~[0-9a-f]{12})?",
}
TEMPORARY = re.compile(r"(?P<path>(?:.+/)?\.[^/]+\.[0-9a-f]{32})")  # a temporary file of filesystem.create


@dataclass(frozen=True)
class Place:
    """The path of one kind of file below a folder.

    >>> place = Place("queries/{dataset}/{digest}.parquet")
    >>> place.url("s3://bucket/warehouse", dataset="sift1m", digest="0" * 64)[:37]
    's3://bucket/warehouse/queries/sift1m/'
    >>> place.pattern.fullmatch(f"queries/sift1m/{'0' * 64}.parquet")["dataset"]
    'sift1m'
    """

    template: str

    def url(self, folder: str, **fields: str) -> str:
        """Return the URL of a file, given the fields of the template."""
        return join(folder, self.template.format(**fields))

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Return the regular expression of paths below the folder, with the fields of the template as groups."""
        literal = re.split(r"\{(\w+)\}", self.template)
        named = [f"(?P<{part}>{FIELDS[part]})" if i % 2 else re.escape(part) for i, part in enumerate(literal)]
        return re.compile("".join(named))


# Below the warehouse.
MODEL_HEADER = Place("models/{digest}/function.json")
MODEL_TENSORS = Place("models/{digest}/function.safetensors")
MODEL_EPOCHS = Place("models/{digest}/training.json")
MODEL_MOMENTS = Place("models/{digest}/moments.npz")
FIT = Place("models/fits/{digest}")  # contains the digest of the fitted model
PRETRAINED = Place("pretrained/{digest}")
ENCODER = Place("encoders/{digest}/encoder.json")  # written last
ENCODER_FILE = Place("encoders/{digest}/{path}")
DATASET = Place("datasets/{dataset}/dataset.json")
DATASET_FOLDER = Place("datasets/{dataset}")
DATASET_KEYS = Place("datasets/{dataset}/keys")
DELETIONS = Place("datasets/{dataset}/deleted")
PIECE = Place("datasets/{dataset}/vectors/{piece}.parquet")
SUBSET = Place("datasets/{subset}/dataset.json")
SUBSET_ROWS = Place("datasets/{dataset}/drawn")
SUBSET_SHARD = Place("datasets/{subset}/drawn/{path}.parquet")
QUERIES = Place("queries/{dataset}/{digest}.parquet")
CURRENT_QUERIES = Place("queries/{dataset}/current.json")
CACHE = Place("kept/{digest}.npz")
GROUND_TRUTH = Place("truth/{digest}.parquet")

CHECKPOINT = Place("training/{run}/{path}")
REPORT = Place("reports/{table}/{page}.html")
REPORT_INDEX = Place("reports/index.html")
CELL = Place("benchmark/{digest}.json")
FOLD = Place("benchmark/folds/{digest}.json")
TABLES = Place("codes")
# Folders of the warehouse, except that of the tables.
FOLDERS = (
    "models", "pretrained", "encoders", "datasets", "queries", "kept", "truth", "training", "reports", "benchmark",
)  # fmt: skip

# Below the folder of a dataset's keys.
KEY_PART = Place("{part}.parquet")
KEY_INDEX = Place("index/{part}-{last}.u64")  # of the parts from the first to the last

# Below the folder of a code table.
PART = Place("data/{digest}.parquet")
QUARANTINE = Place("quarantine/{digest}.parquet")
QUARANTINE_IN_DATA = Place("data/quarantine/{digest}.parquet")  # in a table bucket, which denies all other folders
PART_INDEXES = Place("index")
PART_INDEX = Place("index/{digest}-{format}.mih")  # of the part with this digest
METADATA = Place("metadata")
ICEBERG_FILES = re.compile(r"metadata/[^/]+\.(metadata\.json|avro|puffin|stats)")
