"""Retrieval test sets in the layout of BEIR: a corpus of texts, queries, and judgements of the relevance of texts.

A judgement of grade g becomes g labels that the text shares with its query and with no other query. The number of
shared labels, which is what graded relevance counts, is then the grade.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from . import FeatureRows

TABLES = {"base": "corpus", "query": "queries", "judgements": "qrels/test"}
SUFFIXES = (".jsonl", ".jsonl.gz", ".tsv", ".parquet", "/*.parquet", "-*.parquet")
BLOCK_ROWS = 1024
HIGHEST = 100  # grade: each is a label


def find_test_set(source: str) -> dict[str, list[Path]] | None:
    """Return the files of each of TABLES in a folder; None if one has none."""
    found = {}
    for name, table in TABLES.items():
        listed = (sorted(Path(source).glob(table + suffix)) for suffix in SUFFIXES)
        found[name] = next(filter(None, listed), [])  # of one form: the others may be copies
    return found if all(found.values()) else None


def read_test_set(files: Mapping[str, Sequence[Path]]) -> dict[str, Iterator[FeatureRows]]:
    """Return the corpus and the judged queries as texts with keys; titles precede texts.

    Grades of 0 and less mean that a text is not relevant. Queries without a relevant text are left out.

    Raises ValueError for a line that cannot be read, a missing column, and a judgement of a text or query that is
    missing. The corpus is read twice, because what is missing from it is known only at its end.
    """
    grades: dict[str, dict[str, int]] = {}
    judged_in: tuple[dict[str, str], dict[str, str]] = {}, {}  # the first judgement of each query and text
    for number, row, path in _rows(files["judgements"], ("query-id", "corpus-id", "score")):
        query, text = str(row["query-id"]), str(row["corpus-id"])
        try:
            grade, fraction = divmod(float(row["score"]), 1)
            if fraction or grade > HIGHEST:
                raise ValueError
        except (TypeError, ValueError):
            where = f"of query {query!r} and text {text!r} in row {number} of {path}"
            raise ValueError(
                f"expected an integer up to {HIGHEST} as the score {where}, found {row['score']!r}"
            ) from None
        if grade > 0:
            grades.setdefault(query, {})[text] = int(grade)
            for key, places in zip((query, text), judged_in, strict=True):
                places.setdefault(key, f"row {number} of {path}")
    if not grades:
        raise ValueError(f"expected a judgement above 0, found none in {files['judgements'][0]}")
    most = max(max(judged.values()) for judged in grades.values())
    of_queries: dict[str, list[int]] = {}
    of_texts: dict[str, list[int]] = {}
    for number, (query, judged) in enumerate(grades.items()):
        of_queries[query] = [number * most + i for i in range(max(judged.values()))]
        for text, grade in judged.items():
            of_texts.setdefault(text, []).extend(of_queries[query][:grade])
    for split, places in zip(("query", "base"), judged_in, strict=True):
        _check_judged(files[split], places)
    queries = list(_texts(files["query"], of_queries, False))  # checked before texts are written
    return {"base": _texts(files["base"], of_texts, True), "query": iter(queries)}


def _check_judged(paths: Sequence[Path], judged_in: Mapping[str, str]) -> None:
    """Raise ValueError unless all keys are those of rows. Reads the rows up to the last of these."""
    missing = dict(judged_in)
    for _, row, _ in _rows(paths, ("_id",)):
        missing.pop(str(row["_id"]), None)
        if not missing:
            return
    key, where = next(iter(missing.items()))
    others = f"; {len(missing):,} of {len(judged_in):,} judged rows are missing" if len(missing) > 1 else ""
    raise ValueError(f"expected a row with the _id {key!r}, as in {where}, found none in {paths[0]}{others}")


def _texts(paths: Sequence[Path], labels: Mapping[str, list[int]], unjudged: bool) -> Iterator[FeatureRows]:
    """Yield texts with the labels of their keys. Those without labels are left out unless `unjudged`."""
    every = ((str(row["_id"]), row) for _, row, _ in _rows(paths, ("_id", "text")))
    rows = ((key, row) for key, row in every if unjudged or key in labels)
    start = 0
    while block := list(islice(rows, BLOCK_ROWS)):
        keys = [key for key, _ in block]
        texts = [" ".join(str(part) for part in (row.get("title"), row["text"]) if part) for _, row in block]
        yield FeatureRows(
            np.arange(start, start := start + len(keys)), texts, [labels.get(k, []) for k in keys], keys=keys
        )


def _rows(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any], Path]]:
    """Yield the rows of JSON lines, .tsv files with a header, and Parquet files, with their numbers and files."""
    import pyarrow as pa

    for path in paths:
        try:
            for number, row in enumerate(_read(path, columns), 1):
                if absent := [column for column in columns if row.get(column) is None]:
                    raise ValueError(f"{path}: expected {', '.join(columns)} in row {number}, found no {absent[0]}")
                yield number, row, path
        except (csv.Error, EOFError, OSError, UnicodeDecodeError, pa.ArrowException, zlib.error) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error


def _read(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; of a Parquet file with these columns and the title only."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(path)
        names = [name for name in parquet.schema_arrow.names if name in (*columns, "title")]
        for batch in parquet.iter_batches(columns=names):
            yield from batch.to_pylist()
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        if path.suffix == ".tsv":
            yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for line, text in enumerate(file, 1):
            if text.isspace():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{path}: expected a JSON object, found {text[:60]!r} in line {line}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}: expected a JSON object, found {text[:60]!r} in line {line}")
            yield row
