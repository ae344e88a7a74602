"""Code tables: parts in Parquet, versions in Iceberg, their log, integrity and garbage collection."""
