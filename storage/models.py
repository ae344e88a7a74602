"""Hash functions at rest: safetensors and JSON, named by the SHA-256 of their content. No pickle."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hashing.functions import HashFunction, from_arrays, to_arrays
from hashing.mapreduce import Array, Epoch

from . import warehouse as places
from .files import filesystem


def save_model(warehouse: str, function: HashFunction) -> str:
    """Write a hash function to `models/<digest>/`, and return the digest. What is there already stays."""
    from safetensors.numpy import save as to_bytes

    family, arrays, numbers = to_arrays(function)
    tensors = to_bytes(arrays)
    header = json.dumps({"format": 1, "family": family, "n_bits": function.n_bits, "numbers": numbers}, sort_keys=True)
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
    about: dict[str, Any] = json.loads(header)
    return from_arrays(about["family"], from_bytes(tensors), about["numbers"])


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


def _digest(header: bytes, tensors: bytes) -> str:
    return hashlib.sha256(header + b"\n" + tensors).hexdigest()
