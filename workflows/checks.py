"""What can be known before a run begins is checked before it begins: where it is refused, nothing was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from hashing.mapreduce import Array, Executor
from hashing.methods import check_against
from infra.settings import Settings
from storage import datasets
from storage.features import media
from storage.features.dataset import dataset_exists, load_dataset

from .spec import MethodSpec, Protocol, Spec


class UsageError(ValueError):
    """A mistake in what was asked for: the command line ends with exit 2."""


class Schema(NamedTuple):
    """What is known of a dataset without reading a row."""

    name: str
    kind: str  # vector, image or text
    dim: int  # of a vector, or the numbers that a picture or a text is read as
    labelled: bool


def schema_of(name: str, settings: Settings) -> Schema:
    """Return the schema of a dataset that was ingested, or that the catalogue says of one that was not.

    Raises ValueError for a name that is neither.
    """
    if dataset_exists(settings.warehouse_url, name):
        known = load_dataset(settings.warehouse_url, name)
        return Schema(name, known.kind, known.dim, known.columns.labels is not None)
    about = datasets.get(name)
    return Schema(name, about.kind, about.splits["base"].d or media.dim(about.kind), about.metric == "labels")


def check_run(spec: Spec, settings: Settings) -> None:
    """Raise UsageError for a run that cannot be."""
    schema = schema_of(spec.dataset, settings)
    check_method(spec.method, schema)
    check_protocol(spec.protocol, schema)
    check_trainers(spec.method, settings)


def check_method(spec: MethodSpec, schema: Schema) -> None:
    """Raise UsageError where a method cannot learn from a dataset."""
    with _refused(f"in dataset {schema.name}"):
        check_against(spec.build(), schema.kind, schema.dim, schema.labelled)


def check_protocol(protocol: Protocol, schema: Schema) -> None:
    """Raise UsageError where relevance is by labels, and there are none."""
    if protocol.relevance in ("labels", "graded") and not schema.labelled:
        raise UsageError(f"expected labels, for relevance by labels, found none in dataset {schema.name}")


def check_pretrained(spec: MethodSpec, schema: Schema, parameters: Mapping[str, Array]) -> None:
    """Raise UsageError where parameters do not fit the network that would start from them."""
    from hashing.deep import networks

    with _refused(f"for network={spec.network}: give --pretrained parameters of that network"):
        networks.check_pretrained(spec.network, schema.dim, parameters)


def check_trainers(spec: MethodSpec, settings: Settings) -> None:
    """Raise UsageError where the workers of SGD that are asked for cannot share a batch."""
    if spec.network and settings.executor == "ray" and settings.trainers:
        _check_batch(spec, settings.trainers)


def check_training(spec: MethodSpec, executor: Executor) -> None:
    """Raise UsageError where the executor's machines have no place for the workers of SGD, or these share no batch."""
    if spec.network:
        with _refused():
            workers = executor.training_workers()
        _check_batch(spec, workers)


def _check_batch(spec: MethodSpec, workers: int) -> None:
    size = getattr(spec.build(), "batch_size", workers)
    if size % workers:
        raise UsageError(
            f"expected a batch_size that {workers} workers of training share evenly, found batch_size={size}: change "
            "it or HASHKILN_TRAINERS"
        )


@contextmanager
def _refused(where: str = "") -> Iterator[None]:
    """What is refused inside is the user's mistake."""
    try:
        yield
    except ValueError as error:
        raise UsageError(", ".join(filter(None, (str(error), where)))) from None
