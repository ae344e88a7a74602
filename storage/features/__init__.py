"""The rows of a dataset: shards, columns, keys, labels, splits, bundles, deletions, subsets, images and texts."""
