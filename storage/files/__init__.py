"""Files by URL: local and S3, Parquet, .npz and downloads. A file appears whole or not at all."""
