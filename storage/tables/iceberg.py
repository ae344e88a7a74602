"""The form of a code table in Iceberg: catalog, schema, partition, properties, and what it says of a part."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.conversions import from_bytes, to_bytes
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import ValidatableTableRequirement
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import FixedType, IntegerType, ListType, LongType, NestedField, StringType

from hashing.bits import n_bytes

from ..files import s3
from .parts import Part

NAMESPACE = "codes"
PREFIX = "hashkiln."
OTHERS = re.compile("already exists|UNIQUE constraint|locked")  # what a catalog says where others came first
FORMAT = 1  # of a code table; raise it with every change that an older program would misread


class AssertProperty(ValidatableTableRequirement):
    """A property of the table must be what it was when it was read. Iceberg has no such requirement of its own."""

    type: str = "hashkiln-assert-property"
    key: str
    value: str | None

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]  # as Iceberg has it
        found = base_metadata.properties.get(self.key) if base_metadata else None
        if found != self.value:
            raise CommitFailedException(f"expected {self.key} = {self.value}, found {found}")


class AssertRefs(ValidatableTableRequirement):
    """The table must have the names it had when it was read, of the same snapshots, and no other."""

    type: str = "hashkiln-assert-refs"
    refs: dict[str, int]

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]  # as Iceberg has it
        found = {name: ref.snapshot_id for name, ref in base_metadata.refs.items()} if base_metadata else {}
        if found != self.refs:
            raise CommitFailedException(f"expected the names {sorted(self.refs)}, found {sorted(found)}, or moved")


def connect(catalog_url: str, warehouse: str) -> Catalog:
    """The Iceberg catalog at an SQLAlchemy URL."""
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError

    if file := _file(catalog_url):
        file.parent.mkdir(parents=True, exist_ok=True)

    def attempt() -> Catalog:
        alive = {"pool_pre_ping": "true"}  # hours may lie between two commits, and the server may have hung up
        catalog = SqlCatalog("hashkiln", uri=catalog_url, warehouse=warehouse, **alive, **s3.catalog_properties())
        weakref.finalize(catalog, catalog.engine.dispose)  # Python 3.13 warns of SQLite connections left open
        catalog.create_namespace_if_not_exists(NAMESPACE)
        return catalog

    others = 3  # times at most: once for each part of a new catalog, which they may make at the same time
    while True:
        try:
            return attempt()
        except DBAPIError as error:
            found = " ".join(str(error.orig).split())
            if not (others and OTHERS.search(found)):
                place = make_url(catalog_url).render_as_string()
                raise ConnectionError(f"expected the Iceberg catalog at {place}, found: {found}") from error
            others -= 1


def catalog_exists(catalog_url: str) -> bool:
    """Whether there is a catalog to connect to: an embedded one is made by the first `connect`."""
    file = _file(catalog_url)
    return file is None or file.exists()


def _file(catalog_url: str) -> Path | None:
    """Return the file of an SQLite catalog, None for any other."""
    from sqlalchemy.engine import make_url

    url = make_url(catalog_url)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def table_layout(n_bits: int) -> tuple[Schema, PartitionSpec, dict[str, str]]:
    """Schema, partition and properties of a table of codes of n_bits."""
    properties = {
        PREFIX + "format": str(FORMAT),
        PREFIX + "n_bits": str(n_bits),
        PREFIX + "bit_order": "bit j is byte j div 8, position j mod 8 (little); padding is zero",
        PREFIX + "columns": "id: row of the dataset; code: packed bits; labels: places in hashkiln.vocabulary",
        "commit.retry.num-retries": "0",  # a conflict is re-planned here, never replayed blindly
    }
    schema = Schema(
        NestedField(1, "id", LongType(), required=True),
        NestedField(2, "code", FixedType(n_bytes(n_bits)), required=True),
        NestedField(3, "labels", ListType(6, IntegerType(), element_required=True), required=False),
        NestedField(4, "shard", StringType(), required=False),
        NestedField(5, "version", StringType(), required=False),
    )
    spec = PartitionSpec(
        PartitionField(4, 1000, IdentityTransform(), "shard"), PartitionField(5, 1001, IdentityTransform(), "version")
    )
    # shard and version are not in the files: readers take them from the partition
    properties["schema.name-mapping.default"] = schema.name_mapping.model_dump_json()
    return schema, spec, properties


def to_data_file(part: Part, spec_id: int) -> DataFile:
    """The table's entry for a part, made without opening the file."""
    values: dict[str, Any] = {
        "content": DataFileContent.DATA,
        "file_path": part.url,
        "file_format": FileFormat.PARQUET,
        "partition": Record(part.shard, part.version),
        "record_count": part.rows,
        "file_size_in_bytes": part.size,
        "value_counts": {1: part.rows, 2: part.rows},
        "null_value_counts": {1: 0, 2: 0},
        "lower_bounds": {1: to_bytes(LongType(), part.min_id)},
        "upper_bounds": {1: to_bytes(LongType(), part.max_id)},
    }
    empty: dict[str, Any] = {"column_sizes": {}, "nan_value_counts": {}, "split_offsets": None}
    file = DataFile.from_args(**values, **empty, equality_ids=None, sort_order_id=None)
    file.spec_id = spec_id
    return file


def to_part(file: DataFile) -> Part:
    """The part that an entry stands for."""
    low, high = (int(from_bytes(LongType(), bounds[1])) for bounds in (file.lower_bounds, file.upper_bounds))
    shard, version = file.partition[0], file.partition[1]
    return Part(file.file_path, shard, version, file.record_count, file.file_size_in_bytes, low, high)
