"""The life of code tables: history, verification, garbage collection, deletion, drift."""
