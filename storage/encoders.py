"""Encoders in the warehouse: the files of each once, under the digest of its identity, visible to every worker."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import warehouse as places
from .files import filesystem


def save_encoder(warehouse: str, digest: str, files: Mapping[str, Path], about: Mapping[str, Any]) -> None:
    """Copy the files of an encoder, by their paths below its folder, unless they are there already.

    `about` is JSON, with the SHA-256 of each file by its path under "files".
    """
    if filesystem.touch(places.ENCODER.url(warehouse, digest=digest)):
        return
    for path, local in files.items():
        with local.open("rb") as source, filesystem.create(_url(warehouse, digest, path)) as target:
            shutil.copyfileobj(source, target, 2**24)
    filesystem.write_bytes(places.ENCODER.url(warehouse, digest=digest), json.dumps(about, indent=2).encode())


def encoder_exists(warehouse: str, digest: str) -> bool:
    """Return whether an encoder is stored completely."""
    return filesystem.exists(places.ENCODER.url(warehouse, digest=digest))


def describe_encoder(warehouse: str, digest: str) -> dict[str, Any]:
    """Return what `save_encoder` was given as `about`."""
    about: dict[str, Any] = json.loads(filesystem.read_bytes(places.ENCODER.url(warehouse, digest=digest)))
    return about


def encoder_folder(warehouse: str, digest: str) -> Path:
    """Return a local folder with the files of an encoder: that of the warehouse, or a copy for this process.

    Raises FileNotFoundError if a file is missing; ValueError if a file was modified.
    """
    files: dict[str, str] = describe_encoder(warehouse, digest)["files"]
    if filesystem.is_remote(warehouse):
        folder = Path(_copies().name, digest)
        for path in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            _copy(_url(warehouse, digest, path), folder / path)
    else:
        folder = Path(filesystem.absolute(places.ENCODER.url(warehouse, digest=digest))).parent
    for path, expected in files.items():
        with (folder / path).open("rb") as file:
            if (actual := hashlib.file_digest(file, "sha256").hexdigest()) != expected:
                raise ValueError(f"{folder / path} was modified: its SHA-256 is {actual}, not {expected}")
    return folder


@lru_cache(maxsize=1)
def _copies() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is deleted when this process ends."""
    return tempfile.TemporaryDirectory(prefix="hashkiln-encoders-")


def _copy(url: str, target: Path) -> None:
    fs, path = filesystem.arrow(url)
    with fs.open_input_stream(path) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**24)


def _url(warehouse: str, digest: str, path: str) -> str:
    return places.ENCODER_FILE.url(warehouse, digest=digest, path=path)
