"""How a code table is stored in Iceberg: catalog, schema, partitions, properties, and the entry of a part."""

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
LOST_RACE = re.compile("already exists|UNIQUE constraint|locked")  # errors of a catalog that others create as well
LONG = LongType()
FORMAT = 1  # version of the table format; increase it with every change that an older program would misread


class AssertProperty(ValidatableTableRequirement):
    """Require that a table property is unchanged. Iceberg has no such requirement."""

    type: str = "hashkiln-assert-property"
    key: str
    value: str | None

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]  # signature of pyiceberg
        current = base_metadata.properties.get(self.key) if base_metadata else None
        if current != self.value:
            raise CommitFailedException(f"expected {self.key} = {self.value}, found {current}")


class AssertRefs(ValidatableTableRequirement):
    """Require that the table has exactly these branches and tags, at these snapshots."""

    type: str = "hashkiln-assert-refs"
    refs: dict[str, int]

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]  # signature of pyiceberg
        current = {name: ref.snapshot_id for name, ref in base_metadata.refs.items()} if base_metadata else {}
        if current != self.refs:
            raise CommitFailedException(f"expected branches and tags {self.refs}, found {current}")


def connect(catalog_url: str, warehouse: str) -> Catalog:
    """Return the Iceberg catalog at an SQLAlchemy URL, created if it is missing.

    Raises
    ------
    ConnectionError
        If the database cannot be reached or refuses the connection.
    """
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError

    if file := _file(catalog_url):
        file.parent.mkdir(parents=True, exist_ok=True)

    def attempt() -> Catalog:
        pool = {"pool_pre_ping": "true"}  # hours can pass between two commits, and the server can close connections
        catalog = SqlCatalog("hashkiln", uri=catalog_url, warehouse=warehouse, **pool, **s3.catalog_properties())
        weakref.finalize(catalog, catalog.engine.dispose)  # Python 3.13 warns about open SQLite connections
        catalog.create_namespace_if_not_exists(NAMESPACE)
        return catalog

    retries = 3  # one for each part of a new catalog that another process can create at the same time
    while True:
        try:
            return attempt()
        except DBAPIError as error:
            reason = " ".join(str(error.orig).split())
            if not (retries and LOST_RACE.search(reason)):
                place = make_url(catalog_url).render_as_string()  # hides the password
                raise ConnectionError(f"cannot connect to the Iceberg catalog at {place}: {reason}") from error
            retries -= 1


def catalog_exists(catalog_url: str) -> bool:
    """Return whether the catalog exists. True for a server; `connect` creates an embedded one."""
    file = _file(catalog_url)
    return file is None or file.exists()


def _file(catalog_url: str) -> Path | None:
    """Return the file of an SQLite catalog, None for any other."""
    from sqlalchemy.engine import make_url

    url = make_url(catalog_url)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def table_layout(n_bits: int) -> tuple[Schema, PartitionSpec, dict[str, str]]:
    """Return schema, partitions and properties of a table of n_bits codes."""
    properties = {
        PREFIX + "format": str(FORMAT),
        PREFIX + "n_bits": str(n_bits),
        PREFIX + "bit_order": "bit j is byte j div 8, position j mod 8 (little); padding is zero",
        PREFIX + "columns": "id: row of the dataset; code: packed bits; labels: places in hashkiln.vocabulary",
        "commit.retry.num-retries": "0",  # commits.retry_commit plans again instead of replaying
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
    # shard and version are not in the files; readers take them from the partition
    properties["schema.name-mapping.default"] = schema.name_mapping.model_dump_json()
    return schema, spec, properties


def to_data_file(part: Part, spec_id: int) -> DataFile:
    """Return the manifest entry of a part, without opening its file."""
    values: dict[str, Any] = {
        "content": DataFileContent.DATA,
        "file_path": part.url,
        "file_format": FileFormat.PARQUET,
        "partition": Record(part.shard, part.version),
        "record_count": part.rows,
        "file_size_in_bytes": part.size,
        "value_counts": {1: part.rows, 2: part.rows},
        "null_value_counts": {1: 0, 2: 0},
        "lower_bounds": {1: to_bytes(LONG, part.min_id)},
        "upper_bounds": {1: to_bytes(LONG, part.max_id)},
    }
    empty: dict[str, Any] = {"column_sizes": {}, "nan_value_counts": {}, "split_offsets": None}
    file = DataFile.from_args(**values, **empty, equality_ids=None, sort_order_id=None)
    file.spec_id = spec_id
    return file


def to_part(file: DataFile) -> Part:
    """Return the part of a manifest entry."""
    low, high = (int(from_bytes(LONG, bounds[1])) for bounds in (file.lower_bounds, file.upper_bounds))
    shard, version = file.partition[0], file.partition[1]
    return Part(file.file_path, shard, version, file.record_count, file.file_size_in_bytes, low, high)
