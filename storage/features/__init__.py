"""Feature datasets: shards of (id, vector | picture | text, labels), their columns, keys, splits and deletions."""
