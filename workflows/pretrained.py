"""Pretrained parameters: brought into the warehouse once, and named by the SHA-256 of their file from then on."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hashing.deep.weights import in_order, torch_state
from hashing.mapreduce import Array
from infra.settings import Settings
from storage import models
from storage.files import filesystem
from storage.files.download import download


def keep(source: str, settings: Settings) -> str:
    """The digest of a file of safetensors, or of a state that torch.save wrote: a path, or a URL of any kind.

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
        _parameters(content)
    except ValueError as error:
        raise ValueError(f"{error}, in {source}") from None
    return models.keep_pretrained(settings.warehouse_url, content)


def load(digest: str, settings: Settings) -> dict[str, Array]:
    """The parameters of a digest, in the order of the network's layers; none where it is empty."""
    return _parameters(models.pretrained(settings.warehouse_url, digest)) if digest else {}


def _parameters(content: bytes) -> dict[str, Array]:
    # safetensors: eight bytes that say how long the JSON is that follows
    return in_order(models.tensors(content)) if content[8:9] == b"{" else torch_state(content)
