"""Write a folder of exported files atomically."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import filesystem


@contextmanager
def atomic_folder(folder: str, about: dict[str, Any], replace: bool = False) -> Iterator[Path]:
    """Yield a hidden folder to write to. When the block ends, it gets a file export.json and its final name.

    If the block fails, the hidden folder is deleted, and an existing folder stays.

    Parameters
    ----------
    about
        The content of export.json.
    replace
        Whether a folder of that name is replaced.

    Raises as `check_folder` does.
    """
    target = check_folder(folder, replace)
    exists = target.exists()
    attempt, earlier = _hidden_name(target), _hidden_name(target)
    attempt.mkdir(parents=True)
    try:
        yield attempt
        filesystem.write_bytes(str(attempt / "export.json"), json.dumps(about, indent=2).encode())
        if exists:
            target.replace(earlier)
        attempt.replace(target)
    finally:
        if earlier.exists() and not target.exists():  # the second of the two failed
            earlier.replace(target)
        for left in (attempt, earlier):
            shutil.rmtree(left, ignore_errors=True)


def check_folder(folder: str, replace: bool = False) -> Path:
    """Return the path of a folder that can be exported to. Makes nothing.

    Raises ValueError if `folder` is a URL; FileExistsError if the folder exists, is not empty, and is not to be
    replaced; OSError if it cannot be written.
    """
    if "://" in folder:
        raise ValueError(f"expected a local folder to export to, found {folder}")
    target = Path(folder).expanduser().resolve()
    if not replace and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not an empty folder: choose another one to export to")
    filesystem.check_writable(str(_hidden_name(target)))  # next to it, where the export is prepared
    return target


def _hidden_name(target: Path) -> Path:
    """Return a new name of a hidden folder next to another one."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}")


def description_of(folder: Path) -> dict[str, Any]:
    """Return the export.json of a folder; an empty dict if it has none that can be read."""
    try:
        found = json.loads((folder / "export.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
