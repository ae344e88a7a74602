"""A folder of exported files that appears whole or not at all."""

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
    """A hidden folder beside the wanted one. When the block ends it gets export.json and its name; else it vanishes."""
    if "://" in folder:
        raise ValueError(f"expected a folder of this machine to export to, found {folder}")
    target = Path(folder).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"expected a new or an empty folder to export to, found {target} with something in it")
    attempt = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    attempt.mkdir(parents=True)
    try:
        yield attempt
        filesystem.write_bytes(str(attempt / "export.json"), json.dumps(about, indent=2).encode())
        attempt.replace(target)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
