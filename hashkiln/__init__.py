"""Hashkiln from Python: vectors in, binary codes out.

Fit, encode, evaluate and search with arrays in memory:

    f = hashkiln.fit(x, method="itq", bits=64)       # a Hasher
    codes = f.encode(x)                              # (n, 8) uint8
    hashkiln.evaluate(codes, labels=y)               # a Report: metrics with intervals
    hashkiln.search(codes, f.encode(queries), k=10)  # distances, rows

Or with a dataset and its published code table:

    hashkiln.reindex("sample", method="itq", bits=64)  # a RunOutcome
    table = hashkiln.open("sample__itq64")             # a Reader
    table.search(queries, k=10)                        # distances, ids

Each name is imported when it is first used. The functions are defined in `workflows`; this package has no logic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.evaluation.external import evaluate
    from workflows.following import Follower
    from workflows.in_memory import Hasher, fit, search
    from workflows.opening import open
    from workflows.reader import Reader
    from workflows.records import Report, RunOutcome
    from workflows.reindex.run import reindex

__all__ = ["Follower", "Hasher", "Reader", "Report", "RunOutcome", "evaluate", "fit", "open", "reindex", "search"]

_MODULES = {
    "Follower": "workflows.following",
    "Hasher": "workflows.in_memory",
    "Reader": "workflows.reader",
    "Report": "workflows.records",
    "RunOutcome": "workflows.records",
    "evaluate": "workflows.evaluation.external",
    "fit": "workflows.in_memory",
    "open": "workflows.opening",
    "reindex": "workflows.reindex.run",
    "search": "workflows.in_memory",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hashkiln' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
