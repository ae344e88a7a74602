"""Files by URL: local and in stores, Parquet, .npz and downloads. A file appears whole or not at all."""
