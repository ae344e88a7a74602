"""The code that results depend on: it is part of what training runs, fits and measured cells are named by."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent


@cache  # the code that this process has loaded, whatever happens to its files later
def source(method: type) -> str:
    """Return the SHA-256 of the Python files that a method consists of: its own, and all that methods share.

    Sub-packages are included. A method of another package depends on all files of that package. A file counts by its
    content and its path below its package: the digest is the same wherever the package is installed.
    """
    own = Path(inspect.getfile(method))
    package = own.parent
    while (package.parent / "__init__.py").exists():
        package = package.parent
    shared = [path for path in ROOT.rglob("*.py") if path.parent != ROOT / "methods" or path.name.startswith("_")]
    whole = package != ROOT and (package / "__init__.py").exists()
    digest = hashlib.sha256()
    for root, files in ((ROOT, shared), (package, package.rglob("*.py") if whole else [own])):
        for path in sorted(files):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
