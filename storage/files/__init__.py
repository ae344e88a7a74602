"""Files by URL, local or in a store, which appear whole or not at all: Parquet, .npz, downloads, errors of stores."""
