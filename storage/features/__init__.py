"""Feature datasets: shards of (id, vector | image | text, labels), their columns, keys, splits and deletions."""
