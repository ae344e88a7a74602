"""Hash functions at rest: safetensors and JSON, named by the SHA-256 of their content. No pickle."""

import hashlib
import json
from typing import Any, Literal

from hashing.functions import HashFunction
from hashing.mapreduce import Array, Epoch, Metric
from hashing.serialized import from_arrays, to_arrays

from . import warehouse as places
from .files import filesystem

METADATA = "hashkiln"  # key of the header in a single file
FORMAT = 2  # of functions with a metric, which older programs would take for those without one; 1: of all others


def save_model(warehouse: str, function: HashFunction) -> str:
    """Write a hash function to `models/<digest>/` and return the digest. Equal functions have equal digests.

    >>> import tempfile
    >>> import numpy as np
    >>> from hashing.families import LinearHash
    >>> with tempfile.TemporaryDirectory() as warehouse:
    ...     digest = save_model(warehouse, LinearHash(np.eye(3), np.zeros(3)))
    ...     load_model(warehouse, digest).n_bits
    3
    """
    from safetensors.numpy import save as to_bytes

    header, arrays = _contents(function)
    tensors = to_bytes(arrays)
    digest = _digest(header.encode(), tensors)
    filesystem.write_bytes(places.MODEL_TENSORS.url(warehouse, digest=digest), tensors)
    filesystem.write_bytes(places.MODEL_HEADER.url(warehouse, digest=digest), header.encode())
    if function.epochs:
        filesystem.write_bytes(places.MODEL_EPOCHS.url(warehouse, digest=digest), json.dumps(function.epochs).encode())
    return digest


def load_model(warehouse: str, digest: str) -> HashFunction:
    """Return the hash function with a digest.

    Raises FileNotFoundError if there is no such model; ValueError if its content has another digest, or a newer version
    of Hashkiln wrote it.
    """
    header, tensors = (_content(warehouse, digest, place) for place in (places.MODEL_HEADER, places.MODEL_TENSORS))
    if (actual := _digest(header, tensors)) != digest:
        raise ValueError(f"model {digest} in {warehouse}/models was modified: its content has the digest {actual}")
    return _function(json.loads(header), read_safetensors(tensors))


def metric_of(warehouse: str, digest: str) -> Metric | Literal[""]:
    """Return the metric of the model with a digest: see `HashFunction.metric`. Raises FileNotFoundError without one."""
    numbers = json.loads(_content(warehouse, digest, places.MODEL_HEADER))["numbers"]
    found: Metric | Literal[""] = numbers.get("metric", "")
    return found


def save_file(path: str, function: HashFunction) -> None:
    """Write a hash function to one safetensors file, outside any warehouse."""
    from safetensors.numpy import save as to_bytes

    header, arrays = _contents(function)
    filesystem.write_bytes(filesystem.absolute(path), to_bytes(arrays, {METADATA: header}))


def load_file(path: str) -> HashFunction:
    """Return the hash function in a file that `save_file` wrote. Raises ValueError for any other file."""
    content = filesystem.read_bytes(filesystem.absolute(path))
    try:
        arrays = read_safetensors(content)
        length = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + length])["__metadata__"][METADATA]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a file that Hasher.save wrote: {error}") from None
    return _function(json.loads(about), arrays)


def training_epochs(warehouse: str, digest: str) -> list[Epoch]:
    """Return the training history of a model; empty if it was not trained in epochs. The digest does not cover it."""
    url = places.MODEL_EPOCHS.url(warehouse, digest=digest)
    epochs: list[Epoch] = json.loads(filesystem.read_bytes(url)) if filesystem.exists(url) else []
    return epochs


def record_fit(warehouse: str, fit: str, digest: str) -> None:
    """Record the model (its digest) of a fit (the digest of its specification and data), which need not run again."""
    filesystem.write_bytes(places.FIT.url(warehouse, digest=fit), digest.encode())


def recorded_fit(warehouse: str, fit: str) -> str | None:
    """Return the digest of the model that `record_fit` recorded for a fit, or None, also if the model is missing."""
    url = places.FIT.url(warehouse, digest=fit)
    digest = filesystem.read_bytes(url).decode() if filesystem.exists(url) else ""
    return digest if digest and filesystem.exists(places.MODEL_HEADER.url(warehouse, digest=digest)) else None


def save_pretrained(warehouse: str, content: bytes) -> str:
    """Write a file of pretrained network parameters and return its SHA-256, which names it."""
    digest = hashlib.sha256(content).hexdigest()
    filesystem.write_bytes(places.PRETRAINED.url(warehouse, digest=digest), content)
    return digest


def load_pretrained(warehouse: str, digest: str) -> bytes:
    """Return the file of pretrained parameters with a digest.

    Raises FileNotFoundError if there is none; ValueError if its content has another digest.
    """
    url = places.PRETRAINED.url(warehouse, digest=digest)
    try:
        content = filesystem.read_bytes(url)
    except FileNotFoundError:
        missing = f"pretrained parameters {digest} are missing from {warehouse}/pretrained"
        raise FileNotFoundError(f"{missing}: pass the file again with --pretrained FILE") from None
    if (actual := hashlib.sha256(content).hexdigest()) != digest:
        raise ValueError(f"pretrained parameters {url} were modified: their content has the digest {actual}")
    return content


def read_safetensors(content: bytes) -> dict[str, Array]:
    """Return the named arrays in the content of a safetensors file.

    Raises ValueError if the content is not safetensors, or has a type that numpy lacks, such as bfloat16.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        arrays: dict[str, Array] = from_bytes(content)
        return arrays
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read safetensors of numpy types: {error}") from None


def _content(warehouse: str, digest: str, place: places.Place) -> bytes:
    try:
        return filesystem.read_bytes(place.url(warehouse, digest=digest))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"model {digest} is missing from {warehouse}/models: restore it, or fit it by `reindex --refit always`"
        ) from None


def _contents(function: HashFunction) -> tuple[str, dict[str, Array]]:
    """Return the JSON header and the arrays of a hash function."""
    family, arrays, numbers = to_arrays(function)
    format = FORMAT if function.metric else 1
    header = {"format": format, "family": family, "n_bits": function.n_bits, "numbers": numbers}
    return json.dumps(header, sort_keys=True), arrays


def _function(header: dict[str, Any], arrays: dict[str, Array]) -> HashFunction:
    if (found := header.get("format", 1)) > FORMAT:
        raise ValueError(f"the model has format {found}, newer than {FORMAT}: upgrade hashkiln to load it")
    return from_arrays(header["family"], arrays, header["numbers"])


def _digest(header: bytes, tensors: bytes) -> str:
    return hashlib.sha256(header + b"\n" + tensors).hexdigest()
