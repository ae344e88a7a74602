"""Pretrained parameters: brought into the warehouse once, and named by the SHA-256 of their file from then on."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import NamedTuple

from hashing.deep.weights import in_order, torch_state
from hashing.mapreduce import Array
from infra.settings import Settings
from storage import models
from storage.files import filesystem
from storage.files.download import download


class Pretrained(NamedTuple):
    """A file of parameters that was read, and is not in the warehouse yet."""

    digest: str
    content: bytes
    parameters: dict[str, Array]


def read(source: str) -> Pretrained:
    """Read a file of safetensors, or of a state that torch.save wrote: a path, or a URL of any kind.

    Raises ValueError where it is neither.
    """
    if source.startswith(("http://", "https://", "ftp://")):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "pretrained"
            download(source, target)
            content = target.read_bytes()
    else:
        content = filesystem.read_bytes(filesystem.absolute(source))
    try:
        return Pretrained(hashlib.sha256(content).hexdigest(), content, _parameters(content))
    except ValueError as error:
        raise ValueError(f"{error}, in {source}") from None


def keep(source: str, settings: Settings) -> str:
    """Bring a file of parameters into the warehouse, and return its digest."""
    return models.save_pretrained(settings.warehouse_url, read(source).content)


def load(digest: str, settings: Settings) -> dict[str, Array]:
    """The parameters of a digest, in the order of the network's layers; none where it is empty."""
    return _parameters(models.load_pretrained(settings.warehouse_url, digest)) if digest else {}


def _parameters(content: bytes) -> dict[str, Array]:
    # safetensors: eight bytes that say how long the JSON is that follows
    return in_order(models.read_safetensors(content)) if content[8:9] == b"{" else torch_state(content)
