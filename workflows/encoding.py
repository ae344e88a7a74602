"""The encoding of source shards by a model, on CPUs or on GPUs."""

from typing import NamedTuple

from hashing.functions import HashFunction, OnDevice, Precision
from infra.settings import Settings
from storage import models
from storage.features.shard import FeatureShard
from storage.tables.parts import Part, encode_shard


class Encoded(NamedTuple):
    """A new part, and the device that encoded it."""

    part: Part
    device: str  # cpu, or the name of a GPU
    note: str  # a warning about GPU memory; empty if there is none


def encoding_function(settings: Settings, model: str, precision: Precision) -> HashFunction:
    """Return the hash function of a model, on the GPU of a task if its encoding tasks have GPUs."""
    function = models.load_model(settings.warehouse_url, model)
    return function.to(settings.device, precision) if settings.encode.gpus else function


def encode_part(shard: FeatureShard, function: HashFunction, folder: str) -> Encoded:
    """Encode a source shard to a part in the folder of a table. Raises what `encode_shard` raises."""
    part = encode_shard(shard, function, folder)
    if isinstance(function, OnDevice):
        return Encoded(part, function.batches.hardware, function.batches.note)
    return Encoded(part, "cpu", "")
