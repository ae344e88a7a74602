"""The life of code tables after publication: history, verification, garbage collection, deletion, drift."""
