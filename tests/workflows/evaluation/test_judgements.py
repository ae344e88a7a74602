"""Judgements in the layout of BEIR: NDCG@10 by the protocol `graded` is that of the judged grades."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hashkiln
from storage.features.contract import SourceRefused
from storage.features.dataset import load_dataset
from storage.features.rows import Columns
from storage.formats import beir
from tests import tiny_encoders
from tests.workflows.conftest import reindex
from workflows import datasets
from workflows.embed import embed
from workflows.spec import Spec

RNG = np.random.default_rng(0)
TEXTS = {f"d{i}": " ".join(RNG.choice(tiny_encoders.WORDS, 5)) for i in range(120)}
QUERIES = {f"q{i}": " ".join(RNG.choice(tiny_encoders.WORDS, 3)) for i in range(12)} | {"d5": TEXTS["d5"]}
GRADES = {
    (query, text): int(RNG.integers(-1, 4))
    for query in list(QUERIES)[1:]  # the first one is not judged
    for text in RNG.choice(list(TEXTS), 15, replace=False)
    if query != text
}


@pytest.fixture(params=["jsonl", "parquet"])
def folder(tmp_path, request):
    parted = {key: text.partition(" ") for key, text in TEXTS.items()}
    corpus = [{"_id": key, "title": title, "text": text} for key, (title, _, text) in parted.items()]
    queries = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    judgements = [{"query-id": query, "corpus-id": text, "score": grade} for (query, text), grade in GRADES.items()]
    folder = tmp_path / "beir"
    if request.param == "parquet":
        for name, rows in (("corpus/0", corpus), ("queries/0", queries), ("qrels/test-00000-of-00001", judgements)):
            (folder / name).parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    else:
        (folder / "qrels").mkdir(parents=True)
        for name, rows in (("corpus", corpus), ("queries", queries)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = ["\t".join(map(str, row.values())) for row in judgements]
        (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder


def ndcg_at_10(distances, grades):
    """Return NDCG@10 of texts by increasing distance, the expectation over random orders of tied ones."""
    gains, discounts = 2.0**grades - 1, 1 / np.log2(np.arange(2, 12))
    expected = [gains[distances == distance].mean() for distance in distances[:10]]
    return expected @ discounts / (np.sort(gains)[::-1][:10] @ discounts)


def test_ndcg_at_10_is_that_of_the_judged_grades(settings, tmp_path, folder):
    texts = datasets.ingest_source("judged", str(folder), settings, Columns())
    assert (texts.kind, texts.understood["base"].rows, texts.understood["query"].rows) == ("text", 120, 12)
    embed("judged", str(tiny_encoders.text_onnx(tmp_path / "encoder")), "vectors")
    spec = Spec(dataset="vectors", method={"method": "lsh", "bits": 16}, protocol={"relevance": "graded"})
    _, report, _ = reindex(settings, spec)
    table = hashkiln.open("vectors__lsh16")
    queries = load_dataset(settings.warehouse_url, "vectors").shards("query", allow_unknown=True)
    x = np.concatenate([batch.x for shard in queries for batch in shard])
    distances, ids = table.search(x, k=len(TEXTS))
    values = []
    for query, near, keys in zip(list(QUERIES)[1:], distances, map(table.keys, ids), strict=True):
        other = np.array(keys) != query
        grades = np.array([max(GRADES.get((query, key), 0), 0) for key in keys])
        values.append(ndcg_at_10(near[other], grades[other]))
    assert 0 < np.mean(values) < 1
    assert report.measured.metrics["ndcg_at_10"].value == pytest.approx(np.mean(values), abs=1e-6)


def test_a_judgement_of_a_missing_text_is_refused_before_anything_is_written(folder, settings):
    (corpus,) = beir.find_test_set(str(folder))["base"]
    rows = list(beir._read(corpus, ("_id", "text")))
    judged = [text if grade > 0 else None for (_, text), grade in GRADES.items()]
    missing = list(dict.fromkeys(filter(None, judged)))[3:5]
    kept = [row for row in rows if row["_id"] not in missing]
    if corpus.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(kept), corpus)
    else:
        corpus.write_text("".join(json.dumps(row) + "\n" for row in kept))
    where = rf"row {1 + judged.index(missing[0])} of .*qrels/test.*"
    with pytest.raises(
        SourceRefused, match=f"a row with the _id '{missing[0]}', as in {where}, found none in {corpus}; 2 of"
    ):
        datasets.ingest_source("judged", str(folder), settings, Columns())
    assert not settings.home.exists()


def as_files(folder, corpus=b"", judgements=""):
    """Write a test set of two texts and a query, with more lines of its corpus and judgements."""
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_bytes(b'\xef\xbb\xbf{"_id": 1, "text": "one"}\n\n{"_id": 2, "text": 2}\n' + corpus)
    (folder / "corpus.jsonl.gz").write_bytes(b"a copy that is not read")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "two"}\n')
    (folder / "qrels" / "test.tsv").write_text("\ufeffquery-id\tcorpus-id\tscore\nq\t2\t1.0\n" + judgements)
    return {split: list(blocks) for split, blocks in beir.read_test_set(beir.find_test_set(str(folder))).items()}


def test_files_may_have_a_byte_order_mark_empty_lines_numbers_and_copies(tmp_path):
    (texts,), (queries,) = as_files(tmp_path).values()
    assert (texts.keys, texts.x, texts.labels) == (["1", "2"], ["one", "2"], [[], [0]])
    assert (queries.keys, queries.x, queries.labels) == (["q"], ["two"], [[0]])


@pytest.mark.parametrize(
    ("corpus", "judgements", "message"),
    [
        (b'{"_id": 3, "text": "\xe9"}', "", r"corpus\.jsonl cannot be read: 'utf-8' codec can't decode"),
        (b"", "q\t1\t1.5\n", "an integer up to 100 as the score of query 'q' and text '1' in row 2 of .*, found '1.5'"),
        (b"", "q\t1\t100000000\n", "expected an integer up to 100 as the score of query 'q' and text '1' in .*, found"),
        (
            b"",
            "p\t1\t1\n",
            r"a row with the _id 'p', as in row 2 of .*test\.tsv, found none in .*queries\.jsonl$",
        ),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, corpus, judgements, message):
    with pytest.raises(ValueError, match=message):
        as_files(tmp_path, corpus, judgements)
