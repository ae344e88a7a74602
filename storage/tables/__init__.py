"""Code tables: parts in Parquet, versions in Iceberg, their log, integrity checks and garbage collection."""
