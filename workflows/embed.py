"""Embed the texts or pictures of a dataset: a frozen encoder turns them into vectors, which are a new dataset.

Only what is missing is encoded, so a run after a change or after a crash does the rest. The new dataset appears, or
changes, when all of its vectors are stored.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import get_args

from hashing.mapreduce import Executor, Resources
from hashing.names import check_choice, counted
from infra.executors import Progress, connect, silent
from infra.settings import Settings
from storage import warehouse as places
from storage.features import deletions, pieces
from storage.features.dataset import BadRows, Dataset, Embedding, dataset_exists, load_dataset
from storage.features.pieces import Piece
from storage.features.rows import Columns
from storage.features.summary import SplitSummary
from storage.formats import Metric

from .checks import UsageError, refused, schema_of
from .datasets import ingest
from .encoders.models import StoredEncoder, find_encoder
from .ingested import dataset_of
from .replacement import check_replacement, save_or_replace
from .spec import Spec, Value, check_name

READERS = 16  # threads that read footers; latency dominates

logger = logging.getLogger(__name__)


class Embedded(Value):
    """The result of `embed`."""

    dataset: str
    encoder: str  # digest of its identity
    dim: int
    rows: int
    shards: int
    encoded: int  # shards of this run; the others were stored already
    encoded_rows: int
    dropped: int  # rows that could not be read
    seconds: float


def embed(
    dataset: str,
    encoder: str,
    name: str,
    metric: Metric | None = None,
    bad_rows: BadRows = "refuse",
    progress: Progress = silent,
) -> Embedded:
    """Embed the texts or pictures of a dataset, and return what was done.

    Ids or keys, labels and splits are those of the dataset.

    Parameters
    ----------
    dataset
        A named dataset, or the name of an ingested one.
    encoder
        As in `encoders.models.find_encoder`.
    name
        Name of the new dataset. If it exists, changed rows are encoded again; all of them by another encoder.
    metric
        How the vectors are compared. Default: as before, and cosine at first.
    bad_rows
        Whether to refuse or to drop rows that cannot be read.

    Raises
    ------
    UsageError
        If the dataset holds vectors, or the new name is invalid or that of a dataset that was not embedded.
    LookupError
        If there is no such dataset.
    EncoderRefused
        If the encoder cannot be used, or does not return one vector for each row.
    SourceRefused
        If the new dataset has code tables, and its vectors come from another encoder or dataset.
    """
    settings = Settings()
    with refused():
        check_name(name)
        check_choice("metric", metric, (None, *get_args(Metric)))
        check_choice("bad_rows", bad_rows, get_args(BadRows))
    before = load_dataset(settings.warehouse_url, name) if dataset_exists(settings.warehouse_url, name) else None
    if name == dataset or (before and not before.embedding):
        raise UsageError(f"dataset {name} was not embedded: choose another --name for the vectors")
    if (kind := schema_of(dataset, settings).kind) == "vector":
        raise UsageError(f"dataset {dataset} holds vectors: encoders take texts or pictures")
    found = find_encoder(encoder, kind)
    source = ingest(Spec(dataset=dataset, bad_rows=bad_rows), settings, progress)
    source = source.model_copy(update={"bad_rows": bad_rows})
    how = Embedding(source=dataset, encoder=encoder, digest=found.digest, bad_rows=bad_rows, pieces={})
    new = _described(name, source, metric or (before.metric if before else "cosine"), how)
    check_replacement(settings, new)
    found.save(settings.warehouse_url, source.kind)
    return _update(new, how, source, settings, progress)


def refresh(dataset: Dataset, settings: Settings, progress: Progress = silent) -> int:
    """Encode what has changed in the source of an embedded dataset, and return the number of rows that were encoded."""
    if not dataset.embedding or is_current(dataset, settings):
        return 0
    source = _source_of(dataset.embedding, settings)
    return _update(dataset, dataset.embedding, source, settings, progress).encoded_rows


def is_current(dataset: Dataset, settings: Settings) -> bool:
    """Return whether the vectors of an embedded dataset are those of its source as it is now; True for others."""
    if not (how := dataset.embedding):
        return True
    plan = _plan(how, _source_of(how, settings), _deleted(dataset.name, settings))
    stored = {split: {name: pieces.digest_of(stem) for name, stem in one.items()} for split, one in how.pieces.items()}
    return stored == {split: {piece.name: piece.digest for piece in one} for split, one in plan.items()}


def _source_of(how: Embedding, settings: Settings) -> Dataset:
    return dataset_of(Spec(dataset=how.source, bad_rows=how.bad_rows), settings)


def _described(name: str, source: Dataset, metric: Metric, how: Embedding) -> Dataset:
    """Return the new dataset, without what follows from its vectors."""
    keyed, labels = source.columns.keyed, pieces.LABELS if source.columns.labels else None
    return Dataset(
        name=name, metric=metric, queries_in_base=source.queries_in_base, dim=0, splits={},
        columns=Columns(id=pieces.id_column(keyed), keyed=keyed, labels=labels), keys=source.keys,
        source=f"{source.name}, encoded by {how.encoder}", embedding=how,
    )  # fmt: skip


def _deleted(name: str, settings: Settings) -> tuple[str, ...]:
    """Return the deletion files of an embedded dataset, which may not exist yet."""
    return deletions.deletion_files(places.DELETIONS.url(settings.warehouse_url, dataset=name))


def _plan(how: Embedding, source: Dataset, deleted: tuple[str, ...]) -> dict[str, list[Piece]]:
    """Return the pieces of each split of the source. Reads the number of rows of each file."""
    cut = partial(pieces.pieces_of_shard, dataset=how.source, encoder=how.digest, deleted=deleted)
    with ThreadPoolExecutor(READERS) as pool:
        return {
            split: list(chain.from_iterable(pool.map(partial(cut, split=split), source.shards(split))))
            for split in source.splits
        }


def _update(new: Dataset, how: Embedding, source: Dataset, settings: Settings, progress: Progress) -> Embedded:
    """Encode the pieces that are not stored, and then write the dataset."""
    start, warehouse, deleted = time.monotonic(), settings.warehouse_url, _deleted(new.name, settings)
    plan = _plan(how, source, deleted)
    stems = pieces.stored_pieces(warehouse, new.name)
    if how.bad_rows == "refuse":
        stems = {digest: stem for digest, stem in stems.items() if not pieces.dropped_from(stem)}
    every = list(chain.from_iterable(plan.values()))
    stems, encoded = pieces.touch_pieces(warehouse, new.name, every, stems), list[Piece]()
    executor, device = _with_gpus(connect(settings, progress), settings)
    encoder = StoredEncoder(warehouse, how.digest, source.kind, device)
    write = partial(pieces.write_piece, warehouse=warehouse, dataset=new.name, encode=encoder)
    while todo := [piece for piece in every if piece.digest not in stems]:
        logger.info("%s: %s, %d to encode", new.name, counted(len(every), "shard"), len(todo))
        written = executor.map(write, todo, f"embed {new.name}")
        stems |= {piece.digest: stem for piece, stem in zip(todo, written, strict=True)}
        encoded += todo
        stems = pieces.touch_pieces(warehouse, new.name, every, stems)  # a long time may have passed
    listed = {split: {piece.name: stems[piece.digest] for piece in one} for split, one in plan.items()}
    used = [stems[piece.digest] for piece in every]
    dropped = sum(map(pieces.dropped_from, used))
    new = new.model_copy(
        update={
            "dim": pieces.dim_of(warehouse, new.name, used),
            "splits": dict.fromkeys(listed, pieces.folder_of(warehouse, new.name)),
            "embedding": how.model_copy(update={"pieces": listed}),
        }
    )
    new = save_or_replace(settings, new.model_copy(update={"understood": _summaries(new, source, plan)}))
    now = _source_of(how, settings)
    if (now.deleted, _deleted(new.name, settings)) != (source.deleted, deleted):  # their vectors may have been written
        rest = _update(new, how, now, settings, progress)
        return rest.model_copy(
            update={
                "encoded": len(encoded) + rest.encoded,
                "encoded_rows": sum(piece.stop - piece.start for piece in encoded) + rest.encoded_rows,
            }
        )
    return Embedded(
        dataset=new.name,
        encoder=how.digest,
        dim=new.dim,
        rows=sum(piece.stop - piece.start for piece in every) - dropped,
        shards=len(every),
        encoded=len(encoded),
        encoded_rows=sum(piece.stop - piece.start for piece in encoded),
        dropped=dropped,
        seconds=time.monotonic() - start,
    )


def _with_gpus(executor: Executor, settings: Settings) -> tuple[Executor, str]:
    """Return the executor for encoding, and the torch device of its tasks: GPUs if there are any, by default."""
    if settings.embed:
        return executor.with_resources(settings.embed), settings.device if settings.embed.gpus else "cpu"
    try:
        return executor.with_resources(Resources(gpus=1)), settings.device
    except ValueError:  # no machine has a GPU
        return executor.with_resources(Resources()), "cpu"


def _summaries(new: Dataset, source: Dataset, plan: Mapping[str, Sequence[Piece]]) -> dict[str, SplitSummary]:
    """Return the description of each split; deleted rows count."""
    named = "keys" if new.columns.keyed else "ids"
    found = {}
    for split, one in plan.items():
        held = new.files(split)
        found[split] = SplitSummary(
            rows=sum(piece.stop - piece.start for piece in one),
            files=len(held),
            bytes=sum(file.size for file in held.values()),
            ids=f"{named} of {source.name} in column {new.columns.id}",
            x=f"vectors of dimension {new.dim} (float32) in column {new.columns.x}",
            labels=f"those of {source.name} in column {new.columns.labels}" if new.columns.labels else "none",
        )
    return found
