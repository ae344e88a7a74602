"""Hash functions at rest: safetensors and JSON, named by the SHA-256 of their content. No pickle."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hashing.functions import HashFunction, from_arrays, to_arrays
from hashing.mapreduce import Array, Epoch

from . import warehouse as places
from .files import filesystem

METADATA = "hashkiln"  # the key of the header in a single file


def save_model(warehouse: str, function: HashFunction) -> str:
    """Write a hash function to `models/<digest>/`, and return the digest. What is there already stays."""
    from safetensors.numpy import save as to_bytes

    header, arrays = _parts(function)
    tensors = to_bytes(arrays)
    digest = _digest(header.encode(), tensors)
    filesystem.write_bytes(places.MODEL_TENSORS.url(warehouse, digest=digest), tensors)
    filesystem.write_bytes(places.MODEL_HEADER.url(warehouse, digest=digest), header.encode())
    if function.epochs:
        filesystem.write_bytes(places.MODEL_EPOCHS.url(warehouse, digest=digest), json.dumps(function.epochs).encode())
    return digest


def load_model(warehouse: str, digest: str) -> HashFunction:
    """The hash function of a digest. Raises ValueError where its content is not what was saved."""
    from safetensors.numpy import load as from_bytes

    try:
        header = filesystem.read_bytes(places.MODEL_HEADER.url(warehouse, digest=digest))
        tensors = filesystem.read_bytes(places.MODEL_TENSORS.url(warehouse, digest=digest))
    except FileNotFoundError:
        raise FileNotFoundError(f"expected model {digest} in {warehouse}/models, found none") from None
    if (found := _digest(header, tensors)) != digest:
        raise ValueError(f"expected model {digest}, found content of digest {found}: the files were changed")
    return _function(json.loads(header), from_bytes(tensors))


def save_file(path: str, function: HashFunction) -> None:
    """Write a hash function to one file of safetensors, outside any warehouse."""
    from safetensors.numpy import save as to_bytes

    header, arrays = _parts(function)
    filesystem.write_bytes(filesystem.absolute(path), to_bytes(arrays, {METADATA: header}))


def load_file(path: str) -> HashFunction:
    """Return the hash function of a file. Raises ValueError for any other file."""
    content = filesystem.read_bytes(filesystem.absolute(path))
    try:
        arrays = tensors(content)
        length = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + length])["__metadata__"][METADATA]
    except (ValueError, KeyError) as error:
        raise ValueError(f"expected a file that Hasher.save wrote, found {path}: {error}") from None
    return _function(json.loads(about), arrays)


def training(warehouse: str, digest: str) -> list[Epoch]:
    """The epochs in which a model was trained; none if it was not. Of the fit, which is no part of the digest."""
    url = places.MODEL_EPOCHS.url(warehouse, digest=digest)
    epochs: list[Epoch] = json.loads(filesystem.read_bytes(url)) if filesystem.exists(url) else []
    return epochs


def remember(warehouse: str, fit: str, digest: str) -> None:
    """Note which model a fit (the digest of its specification and data) gave, so that a rerun need not fit again."""
    filesystem.write_bytes(places.FIT.url(warehouse, digest=fit), digest.encode())


def recall(warehouse: str, fit: str) -> str | None:
    """The model of an earlier fit, if there was one."""
    url = places.FIT.url(warehouse, digest=fit)
    return filesystem.read_bytes(url).decode() if filesystem.exists(url) else None


def keep_pretrained(warehouse: str, content: bytes) -> str:
    """Keep a file of parameters that networks may start from under its digest, which is returned."""
    digest = hashlib.sha256(content).hexdigest()
    filesystem.write_bytes(places.PRETRAINED.url(warehouse, digest=digest), content)
    return digest


def pretrained(warehouse: str, digest: str) -> bytes:
    """The file of parameters of a digest. Raises ValueError where its content is not what was kept."""
    url = places.PRETRAINED.url(warehouse, digest=digest)
    try:
        content = filesystem.read_bytes(url)
    except FileNotFoundError:
        expected = f"pretrained parameters {digest} in {warehouse}/pretrained"
        raise FileNotFoundError(f"expected {expected}, found none: --pretrained FILE brings them") from None
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise ValueError(f"expected pretrained parameters {digest}, found content of digest {found} in {url}")
    return content


def tensors(content: bytes) -> dict[str, Array]:
    """The arrays of safetensors. Raises ValueError for what is none."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        arrays: dict[str, Array] = from_bytes(content)
        return arrays
    except (SafetensorError, KeyError, TypeError) as error:  # of a type that numpy has not, such as bfloat16
        raise ValueError(f"expected safetensors of numpy's types, found {error}") from None


def _parts(function: HashFunction) -> tuple[str, dict[str, Array]]:
    """The header, JSON, and the arrays of a hash function."""
    family, arrays, numbers = to_arrays(function)
    header = {"format": 1, "family": family, "n_bits": function.n_bits, "numbers": numbers}
    return json.dumps(header, sort_keys=True), arrays


def _function(header: dict[str, Any], arrays: dict[str, Array]) -> HashFunction:
    return from_arrays(header["family"], arrays, header["numbers"])


def _digest(header: bytes, tensors: bytes) -> str:
    return hashlib.sha256(header + b"\n" + tensors).hexdigest()
