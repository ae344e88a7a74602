"""How a code table is stored in Iceberg: catalog, schema, partitions, properties, and the entry of a part."""

import json
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.conversions import from_bytes, to_bytes
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import FixedType, FloatType, IntegerType, ListType, LongType, NestedField, StringType
from pyiceberg.utils.config import Config
from sqlalchemy.engine import make_url

from hashing.bits import n_bytes
from hashing.quantizers.estimator import corrective_type

from ..files import s3
from ..files.stores import store
from .parts import FIRST, Part

NAMESPACE = "codes"
KINDS = {"http": "rest", "https": "rest", "glue": "glue", "thrift": "hive"}  # types of catalogs by the scheme of a URL
PREFIX = "hashkiln."
LOST_RACE = re.compile("already exists|UNIQUE constraint|locked")  # errors of a catalog that others create as well
LONG = LongType()
FORMAT = 2  # version of the table format; increase it with every change that an older program would misread
WITH_CORRECTIVES = 4  # format of tables with correctives: older programs would rank their rows by Hamming distance
WITH_FLOAT32 = 3  # format of those whose correctives are float32, which only their models of hashkiln 0.2 write


def open_catalog(catalog: str, warehouse: str) -> Catalog:
    """Return an Iceberg catalog, with the namespace of the code tables, which is created if it is missing.

    Parameters
    ----------
    catalog
        SQLAlchemy URL of a database, created if it is an SQLite file that is missing; http(s):// URL of a REST catalog;
        glue://; thrift:// URL of a Hive metastore; or the name of a catalog in the configuration of pyiceberg.
        Properties of a URL's catalog, such as its credentials, are read from that configuration under the name
        hashkiln.
    warehouse
        Folder of the tables, unless the configuration names one or a REST catalog chooses it.

    Raises
    ------
    LookupError
        If the configuration has no catalog of that name, or if the catalog cannot keep tables or commit to them.
    ConnectionError
        If the catalog cannot be reached, refuses the connection, or needs a package that is not installed.
    """
    name, properties = _properties(catalog, warehouse)
    if file := _file(properties.get("uri", "")):
        file.parent.mkdir(parents=True, exist_ok=True)

    def attempt() -> Catalog:
        opened = load_catalog(name, **properties)
        if isinstance(opened, SqlCatalog):
            weakref.finalize(opened, opened.engine.dispose)  # Python 3.13 warns about open SQLite connections
        if not opened.namespace_exists(NAMESPACE):  # a reader may not be allowed to create one
            opened.create_namespace_if_not_exists(NAMESPACE)
        return opened

    retries = 3  # one for each part of a new catalog that another process can create at the same time
    while True:
        try:
            return attempt()
        except Exception as error:  # of any of the libraries of databases, HTTP and clouds
            reason = " ".join(str(getattr(error, "orig", error)).split())
            if not (retries and LOST_RACE.search(reason)):
                place = make_url(catalog).render_as_string() if "://" in catalog else name  # hides the password
                raise ConnectionError(f"cannot connect to the Iceberg catalog at {place}: {reason}") from error
            retries -= 1


def open_existing_catalog(catalog: str, warehouse: str) -> Catalog | None:
    """Return an Iceberg catalog as `open_catalog` does, or None for an embedded one that does not exist."""
    return open_catalog(catalog, warehouse) if catalog_exists(catalog) else None


def catalog_exists(catalog: str) -> bool:
    """Return whether the catalog exists. True for a server; `open_catalog` creates an embedded one."""
    file = _file(_properties(catalog, "")[1].get("uri", ""))
    return file is None or file.exists()


def _properties(catalog: str, warehouse: str) -> tuple[str, dict[str, str]]:
    """Return the name and the properties with which pyiceberg loads a catalog."""
    config = Config()  # of the current environment; pyiceberg itself keeps that of its import
    name = "hashkiln" if "://" in catalog else catalog
    configured = config.get_catalog_config(name)
    if configured is None and name == catalog:
        known = ", ".join(config.get_known_catalogs()) or "none"
        raise LookupError(f"HASHKILN_CATALOG: the configuration of pyiceberg has no catalog {name!r}; it has: {known}")
    properties = {key: str(value) for key, value in (configured or {}).items()}
    if name != catalog:
        properties |= {"type": KINDS.get(catalog.partition("://")[0], "sql"), "uri": catalog}
    if reason := _refusal(properties):
        raise LookupError(f"HASHKILN_CATALOG: {reason}: use a database, a REST catalog, Glue or a Hive metastore")
    if properties.get("type") != "rest" and not properties.get("uri", "").startswith("http"):
        properties.setdefault("warehouse", warehouse)
    pool = {"pool_pre_ping": "true"}  # hours can pass between two commits, and a database can close connections
    where = store(warehouse)
    return name, {**pool, **s3.catalog_properties(), **(where.catalog_properties() if where else {}), **properties}


def _refusal(properties: dict[str, str]) -> str:
    """Return why no catalog with these properties can have code tables, or an empty string."""
    kind, uri = properties.get("type", "").lower(), properties.get("uri", "")
    if kind in ("bigquery", "dynamodb"):
        return f"pyiceberg cannot commit to tables in a catalog of type {kind}"
    if kind == "in-memory" or (uri.startswith("sqlite") and make_url(uri).database in (None, "", ":memory:")):
        return "a catalog in memory loses its tables when the command ends"
    return ""


def _file(uri: str) -> Path | None:
    """Return the file of an SQLite catalog, None for any other."""
    url = make_url(uri) if uri.startswith("sqlite") else None
    return Path(url.database) if url and url.database else None


def table_layout(n_bits: int, correctives: Sequence[str] = ()) -> tuple[Schema, PartitionSpec, dict[str, str]]:
    """Return schema, partitions and properties of a table of n_bits codes, with columns for their correctives."""
    half = bool(correctives) and corrective_type(correctives).itemsize == 2
    properties = {
        PREFIX + "format": str((WITH_CORRECTIVES if half else WITH_FLOAT32) if correctives else FORMAT),
        PREFIX + "n_bits": str(n_bits),
        PREFIX + "bit_order": "bit j is byte j div 8, position j mod 8 (little); padding is zero",
        PREFIX + "columns": "id: row of the dataset; code: packed bits; labels: places in hashkiln.vocabulary",
        "commit.retry.num-retries": "0",  # commits.retry_commit plans again instead of replaying
    }
    schema = Schema(  # numbered as Iceberg does: those of columns, then those of elements
        NestedField(1, "id", LongType(), required=True),
        NestedField(2, "code", FixedType(n_bytes(n_bits)), required=True),
        NestedField(3, "labels", ListType(FIRST + len(correctives), IntegerType(), True), required=False),
        NestedField(4, "shard", StringType(), required=False),
        NestedField(5, "version", StringType(), required=False),
        *(
            NestedField(FIRST + i, name, FixedType(2) if half else FloatType(), required=True)
            for i, name in enumerate(correctives)
        ),
    )
    spec = PartitionSpec(
        PartitionField(4, 1000, IdentityTransform(), "shard"), PartitionField(5, 1001, IdentityTransform(), "version")
    )
    if correctives:
        properties[PREFIX + "correctives"] = json.dumps(list(correctives))
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
