"""Digests of the code that results depend on. Training runs, fits and benchmark cells use them as keys."""

import hashlib
import inspect
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent


@cache  # files may change later, but the process keeps running the code that it has loaded
def source(method: type) -> str:
    """Return the SHA-256 of the Python files that a method depends on: its own file and the files that methods share.

    A method of another package depends on all files of that package, including its sub-packages. The digest covers the
    content of each file and its path below the package, but not where the package is installed. Raises ValueError if
    the class was defined in an interactive session and so has no file.
    """
    try:
        own = Path(inspect.getfile(method))
    except (OSError, TypeError) as error:
        raise ValueError(
            f"method {method.__name__} has no source file: define it in a .py file and import it"
        ) from error
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
