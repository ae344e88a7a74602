"""Write a folder of exported files atomically."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import filesystem


@contextmanager
def atomic_folder(folder: str, about: dict[str, Any]) -> Iterator[Path]:
    """Yield a hidden folder to write to. When the block ends, it gets a file export.json and its final name.

    If the block fails, the hidden folder is deleted.

    Parameters
    ----------
    about
        The content of export.json.

    Raises
    ------
    ValueError
        If `folder` is a URL.
    FileExistsError
        If the folder exists and is not empty.
    """
    if "://" in folder:
        raise ValueError(f"expected a local folder to export to, found {folder}")
    target = Path(folder).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not an empty folder: choose another one to export to")
    attempt = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    attempt.mkdir(parents=True)
    try:
        yield attempt
        filesystem.write_bytes(str(attempt / "export.json"), json.dumps(about, indent=2).encode())
        attempt.replace(target)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
