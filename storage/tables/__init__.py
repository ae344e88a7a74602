"""Code tables: parts in Parquet, versions in Iceberg, commits, log, integrity checks, garbage collection."""
