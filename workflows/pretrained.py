"""Pretrained parameters of networks. The warehouse stores each file once, under its SHA-256."""

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
    """A file of parameters, read but not yet stored in the warehouse."""

    digest: str  # SHA-256 of the content, hexadecimal
    content: bytes
    parameters: dict[str, Array]  # in the order of the network's layers


def read_pretrained(source: str) -> Pretrained:
    """Read parameters from a path or URL: a safetensors file, or a state dict saved by torch.save.

    Raises ValueError, with the source, for any other content.
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


def stored_parameters(digest: str, settings: Settings) -> dict[str, Array]:
    """Return the parameters stored under a digest, in the order of the network's layers; empty for an empty digest."""
    return _parameters(models.load_pretrained(settings.warehouse_url, digest)) if digest else {}


def _parameters(content: bytes) -> dict[str, Array]:
    # A safetensors file starts with eight bytes for the length of its header, which is JSON.
    return in_order(models.read_safetensors(content)) if content[8:9] == b"{" else torch_state(content)
