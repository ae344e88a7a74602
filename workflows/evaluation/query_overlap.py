"""Query overlap of a dataset's splits, counted per shard and cached."""

from hashing.evaluation import query_overlap

from ..context import Context
from . import incremental
from .judge import Judge


def overlap(judge: Judge, context: Context) -> str:
    """Return, as text, how many rows of the database and of the training set equal a query by id or by content.

    Overlap makes metrics look better than they are.
    """
    dataset = context.dataset
    statistic = query_overlap.QueryOverlap(judge.queries.ids, judge.queries.x)

    def found(split: str) -> str:
        asked = ["overlap", judge.queries.ids.tolist(), judge.queries.x.tobytes().hex(), dataset.splits[split]]
        shards = context.base if split == "base" else dataset.shards(split)
        counts = incremental.url(context.warehouse, *asked)
        by_id, by_content = incremental.by_shard(statistic, counts, shards, context.executor, "overlap")
        return f"{by_id} rows by id, {by_content} by content"

    drawn = ", which contains the queries (a query's own row is not ranked)" if judge.drawn else ""
    training = found("learn") if "learn" in dataset.splits else "the database" + " without the queries" * judge.drawn
    return f"database: {found('base')}{drawn}; training set: {training}"
