"""Checks before a run starts, so that a refused run leaves nothing behind."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from hashing.mapreduce import Array, Executor, Resources
from hashing.methods import MOST_CLASSES, check_against, method
from hashing.names import hint, spelled
from infra.executors import InProcess, connect
from infra.settings import Settings
from storage import datasets
from storage.export.folder import check_folder
from storage.features import media
from storage.features.dataset import dataset_exists, dataset_names, load_dataset
from storage.files import filesystem
from storage.queries import current_queries
from storage.tables.table import table_name

from .export import check_exports
from .ingested import labels_of
from .spec import MethodSpec, Protocol, Spec

LABELS_READ = 10**6  # rows whose labels are read before a run; those of more rows are first read by the fit


class UsageError(ValueError):
    """Invalid options of a run. The command line exits with 2."""


class Schema(NamedTuple):
    """Properties of a dataset that are known without reading rows."""

    name: str
    kind: str  # vector, image or text
    dim: int  # of the vectors, or of the numbers that represent an image or a text
    labelled: bool


def schema_of(name: str, settings: Settings) -> Schema:
    """Return the schema of an ingested dataset, or of one in the catalogue.

    Raises LookupError, with the existing names, for an unknown name.
    """
    if dataset_exists(settings.warehouse_url, name):
        known = load_dataset(settings.warehouse_url, name)
        return Schema(name, known.kind, known.dim, known.columns.labels is not None)
    if name not in datasets.DATASETS:
        existing = _datasets(settings)
        raise LookupError(f"expected the name of a dataset, found {name!r}: {hint(name, existing, 'the datasets are')}")
    about = datasets.get(name)
    return Schema(name, about.kind, about.splits["base"].d or media.dim(about.kind), about.metric == "labels")


def dataset_name(name: str, settings: Settings) -> str:
    """Return the name of the dataset that is equal up to case, hyphens and underscores, or `name` if none is."""
    if name in datasets.DATASETS or dataset_exists(settings.warehouse_url, name):
        return name
    return spelled(name, _datasets(settings)) or name


def _datasets(settings: Settings) -> list[str]:
    """Return the ingested datasets, then the others of the catalogue."""
    return list(dict.fromkeys([*dataset_names(settings.warehouse_url), *datasets.names()]))


def check_run(spec: Spec, settings: Settings) -> None:
    """Raise UsageError for a run that cannot succeed."""
    schema = schema_of(spec.dataset, settings)
    check_method(spec.method, schema, known_classes([spec.method], spec.dataset, settings))
    check_protocol(spec.protocol, schema)
    check_queries(spec, settings)
    check_trainers(spec.method, settings)
    check_precision(spec, settings)
    check_resources(settings, "fit", "encode", "evaluate")
    with refused():
        name = table_name(spec.dataset, spec.code_name)
        check_exports(spec.exports, name, settings, spec.method.correctives)


def check_method(spec: MethodSpec, schema: Schema, n_classes: int = 0) -> None:
    """Raise UsageError if a method cannot learn from a dataset. `n_classes` is 0 if it is unknown."""
    with refused(f"in dataset {schema.name}"):
        check_against(spec.build(), schema.kind, schema.dim, schema.labelled, n_classes)


def known_classes(specs: Iterable[MethodSpec], name: str, settings: Settings) -> int:
    """Return the number of classes of a dataset, if they may be too many for a method; 0 if not, or it is unknown."""
    most = []
    for spec in specs:
        most += [2**spec.bits] if getattr(method(spec.method), "class_codes", False) else []
        most += [MOST_CLASSES] if spec.reads_labels else []
    if not most:
        return 0
    if not dataset_exists(settings.warehouse_url, name):
        return datasets.get(name).classes
    dataset = load_dataset(settings.warehouse_url, name)
    rows = sum(split.rows for split in dataset.understood.values())
    return len(labels_of(dataset, InProcess())) if min(most) < rows <= LABELS_READ else 0


def check_protocol(protocol: Protocol, schema: Schema) -> None:
    """Raise UsageError if relevance needs labels and the dataset has none."""
    if protocol.relevance in ("labels", "graded") and not schema.labelled:
        raise UsageError(f"relevance by labels needs labels: dataset {schema.name} has none")


def check_queries(spec: Spec, settings: Settings) -> None:
    """Raise UsageError if a dataset has too few rows to draw the queries from."""
    if not dataset_exists(settings.warehouse_url, spec.dataset):
        return
    dataset, wanted = load_dataset(settings.warehouse_url, spec.dataset), spec.protocol.queries
    if "query" in dataset.splits or (
        current_queries(settings.warehouse_url, dataset.name) and not spec.protocol.new_queries
    ):
        return
    if "base" in dataset.understood and dataset.understood["base"].rows <= wanted:
        rows = sum(shard.rows for shard in dataset.shards("base"))  # now: there may be more than at ingest
        if rows < 2:
            raise UsageError(f"dataset {dataset.name} has {rows} row: expected at least 2, a query and a row to find")
        if rows <= wanted:
            raise UsageError(f"{rows:,} rows are too few to draw {wanted:,} queries from: pass fewer by --queries")


def check_pretrained(spec: MethodSpec, schema: Schema, parameters: Mapping[str, Array]) -> None:
    """Raise UsageError if pretrained parameters do not fit the network."""
    from hashing.deep import networks

    with refused(f"for network={spec.network}: give --pretrained parameters of that network"):
        networks.check_pretrained_shapes(spec.network, schema.dim, parameters)


def check_trainers(spec: MethodSpec, settings: Settings) -> None:
    """Raise UsageError if the training workers cannot share a batch evenly."""
    if spec.network and settings.executor == "ray" and settings.trainers:
        _check_batch(spec, settings.trainers)


def check_precision(spec: Spec, settings: Settings) -> None:
    """Raise UsageError if a precision needs GPUs and encoding takes none."""
    if spec.precision != "float32" and not settings.encode.gpus:
        raise UsageError(f"--precision {spec.precision} needs GPUs: set HASHKILN_ENCODE_GPUS=1")


def check_resources(settings: Settings, *stages: str) -> None:
    """Raise UsageError if no machine has the resources that a task of one of the stages needs."""
    executor = connect(settings)
    for stage in stages:
        with refused(f"for HASHKILN_{stage.upper()}_*"):
            executor.with_resources(getattr(settings, stage) or Resources())


def check_outputs(*files: str | None, folder: str = "") -> None:
    """Raise UsageError if files that the user names, or a new folder, cannot be written. Makes nothing."""
    try:
        for file in filter(None, files):
            filesystem.check_writable(file)
        if folder:
            check_folder(folder)
    except ConnectionError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from None


def check_training(spec: MethodSpec, executor: Executor) -> None:
    """Raise UsageError if the cluster cannot host the training workers, or they cannot share a batch evenly."""
    if spec.network:
        with refused():
            workers = executor.training_workers()
        _check_batch(spec, workers)


def _check_batch(spec: MethodSpec, workers: int) -> None:
    size = getattr(spec.build(), "batch_size", workers)
    if size % workers:
        raise UsageError(
            f"batch_size={size} is not divisible by the {workers} training workers: change batch_size or "
            "HASHKILN_TRAINERS"
        )


@contextmanager
def refused(where: str = "") -> Iterator[None]:
    """Raise a ValueError of the block as a UsageError, with the place added to its message."""
    try:
        yield
    except ValueError as error:
        raise UsageError(", ".join(filter(None, (str(error), where)))) from None
