"""Recommend a method and a code length: measure a few on a sample, and choose by recall after reranking."""

import time
from collections.abc import Sequence

import numpy as np

from hashing.mapreduce import Array, Executor
from hashing.statistics import keyed_hash
from infra.executors import Progress, connect, silent
from infra.settings import Settings
from storage.features import deletions, subsets
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard

from .benchmark.cells import Bench
from .benchmark.grid import Grid, Row
from .checks import Schema, UsageError, check_method, schema_of
from .datasets import ingest
from .evaluation.registry import OVERSAMPLING
from .reindex.planning import rows_of
from .reindex.source import vocabulary_of
from .spec import MethodSpec, Spec, Value, digest

METHODS = ("itq", "pca_rr", "lsh", "matryoshka", "rabitq", "pca_rabitq")  # learn in seconds, from vectors alone
SHARES = (1, 2, 4)  # lengths to try: the budget divided by these
SAMPLE = 100_000  # rows to measure on
FILES = 400_000  # rows of the shards that the sample is drawn from
QUERIES = 1000


class Option(Value):
    """A method with a length, and the number of candidates to rerank."""

    method: str
    bits: int
    bytes: int  # of a row: code and correctives
    rerank: int  # candidates for each query: vectors to read
    metric: str  # name of the recall in the registry
    recall: float
    low: float  # of the 95 % bootstrap interval
    high: float
    encode_rows_per_second: float
    fit_seconds: float


class Proposal(Value):
    """What `plan` recommends, and everything that it has measured."""

    dataset: str
    rows: int
    sample: int  # rows that were measured
    protocol: str  # relevant rows, number of queries
    neighbours: int
    target: float
    reached: bool  # whether the lower bound of the interval reaches the target
    choice: Option
    reindex: str  # commands
    search: str
    measured: tuple[Option, ...]
    failed: dict[str, str]  # method and length -> why it could not be measured
    seconds: float


def plan(dataset: str, budget: int, recall: float, neighbours: int = 10, progress: Progress = silent) -> Proposal:
    """Return the code that reads the fewest vectors for a recall, within a budget of bytes for each row.

    Parameters
    ----------
    dataset
        A named dataset, or the name of an ingested one, of vectors.
    budget
        Largest number of bytes of a row: its code and correctives.
    recall
        Smallest recall of the nearest neighbours after reranking: the lower bound of its interval. Candidates are the
        rows nearest by Hamming distance, or for a quantizer by its estimates.
    neighbours
        Number of nearest neighbours to find.

    Raises
    ------
    UsageError
        If the dataset holds no vectors or has too few rows, or no method can be measured on it.
    """
    start, settings = time.monotonic(), Settings()
    full = ingest(Spec(dataset=dataset), settings, progress)
    if full.kind != "vector":
        raise UsageError(f"dataset {dataset} holds {full.kind}s: turn them into vectors by `hashkiln embed` first")
    executor = connect(settings, progress)
    rows = sum(rows_of(full.shards("base")))
    if rows <= max(neighbours, QUERIES if "query" not in full.splits else 0):
        raise UsageError(f"expected more than {max(neighbours, QUERIES)} rows to measure on, found {rows}")
    vocabulary_of(full, None, executor, full.shards("base"))  # assigns ids to keys
    sample = _sample(full, settings, executor)
    schema = schema_of(sample.name, settings)
    specs = _specs(budget, schema)
    grid = Grid(
        datasets=(sample.name,), methods=tuple(dict.fromkeys(spec.method for spec in specs)),
        bits=tuple(dict.fromkeys(spec.bits for spec in specs)), protocol="neighbours", neighbours=neighbours,
        queries=QUERIES,
    )  # fmt: skip
    bench = Bench(sample.name, sample, (), grid, settings, executor, {})
    measured, failed, last = list[Option](), dict[str, str](), None
    for done, spec in enumerate(specs):
        executor.progress(f"{spec.method}, {spec.bits} bits", done, len(specs))
        try:
            last = bench.row(spec)
            measured += _options(last, neighbours)
        except ValueError as error:
            failed[f"{spec.method}, {spec.bits} bits"] = str(error)
    if last is None:
        raise UsageError(f"no method could be measured on {dataset}: {next(iter(failed.values()))}")
    reaching = [option for option in measured if option.low >= recall]
    choice = min(reaching, key=_cost) if reaching else max(measured, key=lambda option: (option.low, -option.rerank))
    reindex = f"hashkiln reindex --dataset {dataset} --method {choice.method} --bits {choice.bits}"
    reindex += f" --relevance neighbours --neighbours {neighbours}"
    if reaching:
        reindex += f" --floor {choice.metric}={recall:g}"
    table = f"{dataset.replace('-', '_')}__{choice.method}{choice.bits}"
    return Proposal(
        dataset=dataset,
        rows=rows,
        sample=last.rows,
        protocol=last.relevance,
        neighbours=neighbours,
        target=recall,
        reached=bool(reaching),
        choice=choice,
        reindex=reindex,
        search=f"hashkiln search {table} --queries FILE --k {neighbours} --rerank {choice.rerank} --out found.parquet",
        measured=tuple(measured),
        failed=failed,
        seconds=time.monotonic() - start,
    )


def _cost(option: Option) -> tuple[int, int, float]:
    return option.rerank, option.bytes, -option.recall


def _specs(budget: int, schema: Schema) -> list[MethodSpec]:
    """Return the methods and lengths to measure, without those that the dimension rules out."""
    found: list[MethodSpec] = []
    for size in (budget // share for share in SHARES if share <= budget):
        for name in METHODS:
            try:
                spec = longest(name, size, schema)
            except UsageError as error:
                problem = error
            else:
                found += [spec] if spec not in found else []
    if not found:
        raise problem
    return found


def longest(name: str, size: int, schema: Schema) -> MethodSpec:
    """Return a method with its longest code for rows of at most `size` bytes. Raises UsageError if there is none."""
    shortest, d = MethodSpec(method=name, bits=8), schema.dim
    most = min(8 * (1 + size - shortest.row_bytes), 4096)
    problem = UsageError(f"rows of {name} take at least {shortest.row_bytes} bytes, found a budget of {size}")
    for bits in (most, most - most % d, d):  # some methods have at most d bits, some a multiple of d
        if 8 <= bits <= most:
            try:
                check_method(spec := shortest.model_copy(update={"bits": bits}), schema)
                return spec
            except UsageError as error:
                problem = error
    raise problem


def _options(row: Row, neighbours: int) -> list[Option]:
    found = []
    for factor in OVERSAMPLING:
        metric = row.reranked(factor)
        low, high = row.intervals[metric]
        found.append(
            Option(
                method=row.method,
                bits=row.bits,
                bytes=row.row_bytes,
                rerank=factor * neighbours,
                metric=metric,
                recall=row.metrics[metric],
                low=low,
                high=high,
                encode_rows_per_second=row.encode_rows_per_second,
                fit_seconds=row.fit_seconds,
            )
        )
    return found


def _sample(dataset: Dataset, settings: Settings, executor: Executor) -> Dataset:
    """Return a sample of the base rows of a dataset, with queries, as a dataset `<name>-plan-<digest>`.

    It is drawn by keyed hash from a few shards, drawn by the hash of their names. A split learn is left out, as methods
    learn from the sample. A sample of all rows is a copy, too: the dataset may not have its queries drawn yet.
    """
    shards = _some(dataset.shards("base"))
    splits = {"base": (shards, SAMPLE)}
    if "query" in dataset.splits:
        splits["query"] = (dataset.shards("query"), QUERIES)
    versions = [[(shard.name, shard.version) for shard in listed] for listed, _ in splits.values()]
    name = f"{dataset.name}-plan-{digest(versions, SAMPLE, QUERIES, dataset.metric)[:8]}"
    if known := subsets.known_subset(settings.warehouse_url, name):
        return known
    drawn = {split: (listed, _drawn(listed, n, executor)) for split, (listed, n) in splits.items()}
    return subsets.write_subset(settings.warehouse_url, name, dataset, drawn)


def _some(shards: Sequence[FeatureShard]) -> list[FeatureShard]:
    """Return shards in the order of the hash of their names, as many as hold FILES rows."""
    chosen, rows = list[FeatureShard](), 0
    for shard in sorted(shards, key=lambda shard: digest(shard.name)):
        if rows < FILES:
            chosen.append(shard)
            rows += shard.rows
    return chosen


def _drawn(shards: Sequence[FeatureShard], n: int, executor: Executor) -> Array:
    """Return the ids (m,) int64 of the n rows with the smallest hashes; of all rows if there are fewer."""
    ids = np.concatenate(list(executor.map(_ids, shards, "ids")))
    return np.sort(ids[np.argsort(keyed_hash(ids, 0), kind="stable")[:n]])


def _ids(shard: FeatureShard) -> Array:
    ids = np.concatenate([shard.ids(url) for url in shard.urls])
    return ids[~np.isin(ids, deletions.deleted_ids(shard.deleted))]
