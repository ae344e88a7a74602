"""The code that results depend on: it is part of what training runs, fits and measured cells are named by."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent


@cache
def source(method: type) -> str:
    """Return the SHA-256 of the Python files that a method consists of: its own, and all that methods share.

    A method of another package depends on all files of that package.
    """
    own = Path(inspect.getfile(method))
    files = [path for path in ROOT.rglob("*.py") if path.parent != ROOT / "methods" or path.name.startswith("_")]
    package = own.parent
    while (package.parent / "__init__.py").exists():
        package = package.parent
    whole = package != ROOT and (package / "__init__.py").exists()
    files += package.rglob("*.py") if whole else [own]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()
