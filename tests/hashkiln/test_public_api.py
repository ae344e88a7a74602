"""The public API: examples in docstrings, equality with the internal functions, and errors."""

import asyncio
import doctest
import subprocess
import sys

import numpy as np
import pytest

import hashkiln
from hashing.bits import pack
from hashing.evaluation.histograms import HammingHistogram, NeighbourHistogram
from hashing.evaluation.metrics import average_precision
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch, Data, fold
from hashing.methods import METHODS, learn
from infra.executors import InProcess
from infra.settings import Settings
from storage import models
from tests.conftest import blobs, cut
from workflows import arrays

BATCH = blobs(400, 16)
X, Y = BATCH.x, BATCH.y.argmax(axis=1)
CODES = pack(X[:, :12] > 0)


def test_the_examples_of_docstrings_hold_in_a_running_event_loop(tmp_path, monkeypatch, with_prefect_server):
    """As a notebook has one. reindex comes first: it publishes what the example of open reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    first = ["reindex", "open"]

    async def run():
        for name in [*first, *(name for name in hashkiln.__all__ if name not in first)]:
            (example,) = (test for test in finder.find(getattr(hashkiln, name), name, globs={}) if test.examples)
            runner.run(example)

    asyncio.run(run())
    assert runner.summarize().failed == 0


def test_importing_it_imports_nothing_and_array_functions_no_cluster():
    code = """
import sys, hashkiln
heavy = ("numpy", "torch", "ray", "prefect", "pyarrow", "numba", "pydantic")
print([name for name in heavy if name in sys.modules])
f = hashkiln.fit([[0.0, 1], [2, 0], [1, 1]], bits=2)
hashkiln.evaluate(f.encode([[1, 2]] * 3), labels=[1, 1, 0]), hashkiln.search([[1]], [[-1]]), hashkiln.open
print([name for name in ("torch", "ray", "prefect") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n[]\n"
    assert dir(hashkiln) == hashkiln.__all__
    with pytest.raises(AttributeError, match="'hashkiln' has no attribute 'encode'"):
        _ = hashkiln.encode


@pytest.mark.parametrize("form", [np.float64, np.float16, list])
def test_a_fit_is_that_of_the_method_on_the_same_rows(form, monkeypatch):
    monkeypatch.setattr(arrays, "ROWS_PER_SHARD", 100)
    monkeypatch.setattr(arrays, "BATCH_BYTES", 64 * 100)
    x = np.float16(X)
    given = x.tolist() if form is list else x.astype(form)
    f = hashkiln.fit(given, method="ITQ", bits=np.int64(12), n_iter=np.int64(5), seed=3)
    shards = cut(Batch(BATCH.ids, x.astype(np.float32)), 4)
    function = METHODS["itq"](12, n_iter=5, seed=3).fit(Data(shards, InProcess()))
    assert (f.dim, f.n_bits) == (16, 12)
    assert repr(f) == "Hasher(dim=16, n_bits=12)"
    np.testing.assert_array_equal(f.project(x), function.project(x))
    np.testing.assert_array_equal(f.encode(x), pack(function.encode(x)))
    assert f.encode(x[:0]).shape == (0, 2)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "ip"])
def test_a_quantizer_is_fitted_for_a_metric(metric):
    f = hashkiln.fit(X, method="rabitq", bits=16, metric=metric)
    function = learn(METHODS["rabitq"](16), Data(cut(BATCH, 4), InProcess(), metric=metric))
    assert f.function.metric == metric
    np.testing.assert_array_equal(f.encode(X), pack(function.encode(X)))


def test_labels_are_classes_or_multi_hot_and_ignored_by_unsupervised_methods():
    fits = [hashkiln.fit(X, y, method="itq_cca", bits=4) for y in (Y, Y.tolist(), BATCH.y, BATCH.y.astype(bool))]
    fits.append(hashkiln.fit(X, 7 - 2 * Y.astype(np.int8)[:, None], method="itq_cca", bits=4))
    for f in fits[1:4]:
        np.testing.assert_array_equal(f.encode(X), fits[0].encode(X))
    assert np.isfinite(fits[4].project(X)).all()
    np.testing.assert_array_equal(hashkiln.fit(X, Y, bits=4).encode(X), hashkiln.fit(X, bits=4).encode(X))


def test_a_deep_method_is_fitted_saved_and_loaded(tmp_path):
    f = hashkiln.fit(X, Y, method="dpsh", bits=8, network="linear", epochs=2)
    f.save(tmp_path / "f.safetensors")
    np.testing.assert_array_equal(hashkiln.Hasher.load(tmp_path / "f.safetensors").encode(X), f.encode(X))
    with pytest.raises(TypeError, match="not NoneType"):
        f.save(None)
    (tmp_path / "other").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"other.* is not a file that Hasher.save wrote"):
        hashkiln.Hasher.load(tmp_path / "other")


def test_a_dataset_is_fitted_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    f = hashkiln.fit("sample", method="pcah", bits=16)
    assert (f.dim, f.n_bits) == (128, 16)
    (digest,) = (path.parent.name for path in (tmp_path / "warehouse" / "models").glob("*/function.json"))
    np.testing.assert_array_equal(
        f.project(np.ones((1, 128))), models.load_model(Settings().warehouse_url, digest).project(np.ones((1, 128)))
    )
    with pytest.raises(ValueError, match="y: pass no labels, because dataset sample has its own"):
        hashkiln.fit("sample", Y)
    with pytest.raises(LookupError, match="found 'nowhere'"):
        hashkiln.fit("nowhere")


def mean_average_precision(statistic, x, y=None):
    return average_precision(statistic.finish(fold(statistic, [Batch(np.arange(len(x)), x, y)]))).mean()


def test_evaluation_is_that_of_the_histograms():
    own = np.arange(len(X)), np.arange(-40, 0)
    words = pack_labels(BATCH.y)
    report = hashkiln.evaluate(CODES, labels=Y, bits=12)
    expected = mean_average_precision(HammingHistogram(CODES, 12, words, own[0]), CODES, BATCH.y)
    assert report.measured.metrics["map"].value == pytest.approx(expected, abs=1e-12)
    assert report.measured.rows == 399
    report = hashkiln.evaluate(CODES[40:], CODES[:40], labels=Y[40:], query_labels=Y[:40], bits=12)
    expected = mean_average_precision(HammingHistogram(CODES[:40], 12, words[:40], own[1]), CODES[40:], BATCH.y[40:])
    assert report.measured.metrics["map"].value == pytest.approx(expected, abs=1e-12)
    assert report.measured.metrics["map"].low < expected < report.measured.metrics["map"].high


def nearest(queries, x, k, own=False):
    distance = ((queries[:, None].astype(np.float64) - x[None]) ** 2).sum(axis=2)
    if own:
        np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("ties", ["expectation", "by-id"])
def test_neighbours_are_the_exact_ones_of_the_vectors(ties, monkeypatch):
    monkeypatch.setattr(arrays, "ROWS_PER_SHARD", 150)
    cases = [
        (hashkiln.evaluate(CODES, neighbours=7, vectors=X, bits=12, ties=ties), nearest(X, X, 7, True), True),
        (hashkiln.evaluate(CODES[40:], CODES[:40], neighbours=7, vectors=X[40:], query_vectors=X[:40], bits=12,
                           ties=ties), nearest(X[:40], X[40:], 7), False),
    ]  # fmt: skip
    for report, truth, own in cases:
        codes, queries = (CODES, CODES) if own else (CODES[40:], CODES[:40])
        assert "the 7 nearest rows by Euclidean distance" in report.protocol
        if ties == "expectation":
            ids = np.arange(len(queries)) if own else np.arange(-40, 0)
            expected = mean_average_precision(NeighbourHistogram(queries, 12, truth, ids), codes)
        else:
            expected = np.mean([sorted_by_position(codes, queries[i], truth[i], i if own else -1)
                                for i in range(len(queries))])  # fmt: skip
        assert report.measured.metrics["map"].value == pytest.approx(expected, abs=1e-12)


def sorted_by_position(codes, query, relevant, own):
    order = np.argsort(np.bitwise_count(codes ^ query).sum(axis=1), kind="stable")
    hits = np.isin(order[order != own], relevant)
    return (hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean()


def test_search_finds_the_first_of_all_pairs():
    distances, rows = hashkiln.search(CODES, CODES[:20], k=30)
    every = np.bitwise_count(CODES[:20, None] ^ CODES[None]).sum(axis=2)
    order = np.argsort(every, axis=1, kind="stable")[:, :30]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(every, order, axis=1))
    signs = np.where(X[:, :12] > 0, 1, -1)
    np.testing.assert_array_equal(hashkiln.search(signs, signs[:20].astype(float), k=30)[1], order)
    assert hashkiln.search(CODES[:3], CODES[:2])[1].shape == (2, 3)


NAN = np.where(np.arange(400)[:, None] == 7, np.nan, X)
FIT_REFUSED = [
    ({"x": X[0]}, r"x: expected numbers \(n, d\), found \(16,\) float32"),
    ({"x": [[1, 2], [3]]}, "x: expected an array, found list: "),
    ({"x": [["a", "b"]]}, r"x: expected numbers \(n, d\), found \(1, 2\) <U1"),
    ({"x": X[:0]}, "x: expected at least one row"),
    ({"x": NAN}, r"x: expected finite float32 values, found nan in row"),
    ({"x": X.astype(float) * 1e39}, "x: expected finite float32 values"),
    ({"metric": "hamming"}, "metric: expected one of euclidean, cosine, ip, found 'hamming'"),
    ({"metric": "cosine", "x": X * (np.arange(400) != 9)[:, None]}, "x: expected vectors other than zero, .* row 9$"),
    ({"method": "itk"}, "expected the name of a method, found 'itk'; did you mean itq"),
    ({"bits": 0}, "bits: Input should be greater than or equal to 1, found 0"),
    ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
    ({"n_iters": 3}, "expected parameters of itq, found n_iters: did you mean n_iter"),
    ({"n_iter": 0}, "expected ITQ's n_iter of at least 1, found 0"),
    ({"n_iter": None}, "parameters: expected a number or a string for n_iter, found None"),
    ({"method": "sdh", "y": 3}, r"y: expected integer labels .* found \(\) int64"),
    ({"method": "csq", "bits": 1, "y": Y}, "expected n_bits of at least 3 for 6 classes, found n_bits=1"),
    ({"method": "sdh"}, "y: sdh learns from labels: pass y"),
    ({"method": "sdh", "y": Y[:9]}, r"y: expected integer labels \(400,\) or multi-hot \(400, c\), found \(9,\) int64"),
    ({"method": "sdh", "y": Y + 0.5}, r"y: expected integer labels .* found \(400,\) float64"),
    ({"method": "dpsh", "y": Y, "network": "text"}, "expected texts for network=text, found rows of kind vector"),
]


@pytest.mark.parametrize(("given", "message"), FIT_REFUSED)
def test_fit_refuses_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as refused:
        hashkiln.fit(**{"x": X, **given})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["rabitq", "pcah"])
def test_a_row_of_zeros_without_a_cosine_is_named_by_its_place(method):
    f = hashkiln.fit(X, method=method, bits=X.shape[1], metric="cosine")
    x = np.ones((2**16 + 9, X.shape[1]))
    x[-2] = 1e-50  # zero as float32
    for call in (f.encode, f.project):
        with pytest.raises(ValueError, match=f"x: expected vectors other than zero, .* row {len(x) - 2}$"):
            call(x)


LABELLED = {"labels": Y}
NEAREST = {"neighbours": 3, "vectors": X}
ASKED = {"queries": CODES, "query_labels": Y}
EVALUATE_REFUSED = [
    ({}, "with no queries: expected labels, or neighbours and vectors, found none of them"),
    (LABELLED | NEAREST, "found labels, neighbours, vectors"),
    (LABELLED | {"query_labels": Y}, "with no queries: expected labels, or .*, found labels, query_labels"),
    (LABELLED | {"queries": CODES}, "with queries: expected labels and query_labels, or .*, found labels"),
    ({"neighbours": 3}, "found neighbours"),
    (NEAREST | {"neighbours": 0}, "neighbours: expected an integer of at least 1, found 0"),
    (NEAREST | {"neighbours": 2.5}, "neighbours: expected an integer of at least 1, found 2.5"),
    (NEAREST | {"neighbours": 400}, "neighbours: expected at most 399, the number of ranked rows, found 400"),
    (NEAREST | {"vectors": X[:9]}, "vectors: expected one for each of 400 codes, found 9"),
    (NEAREST | {"queries": CODES, "query_vectors": X[:9]}, "query_vectors: .* 400 queries, found 9"),
    (NEAREST | {"queries": CODES, "query_vectors": X[:, 1:]}, "query_vectors: .* dimension 16, found 15"),
    (LABELLED | {"ties": "random"}, "ties: expected one of expectation, by-id, found 'random'"),
    (LABELLED | {"ties": ["by-id"]}, "ties: expected one of expectation, by-id, found"),
    (LABELLED | {"n_queries": 0}, "n_queries: expected an integer of at least 1, found 0"),
    (LABELLED | {"n_queries": "9"}, "n_queries: expected an integer of at least 1, found '9'"),
    (LABELLED | {"bits": 0}, "bits: expected an integer of at least 1, found 0"),
    (LABELLED | {"codes": X}, r"expected codes of -1 and \+1"),
    (LABELLED | {"codes": CODES[0]}, r"codes: expected codes \(n, B\) uint8"),
    (LABELLED | {"bits": 40}, "codes: expected codes of 40 bits, found 2 bytes of packed codes a row"),
    (LABELLED | ASKED | {"queries": CODES[:, :1]}, "queries: expected codes of 16 bits .* found 8 bits"),
    (LABELLED | ASKED | {"query_labels": BATCH.y}, r"query_labels: .* like \(400,\), found \(400, 6\)"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), EVALUATE_REFUSED)
def test_evaluate_refuses_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as refused:
        hashkiln.evaluate(**{"codes": CODES, **given})
    assert "\n" not in str(refused.value)


def test_search_encode_and_reindex_refuse_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path))
    f = hashkiln.fit(X, bits=4)
    for call, message in [
        (
            lambda: hashkiln.search(CODES, CODES[:, :1]),
            "queries: expected codes of 16 bits, .* found 8",
        ),
        (lambda: hashkiln.search(CODES, CODES, k=0), "k: expected an integer of at least 1, found 0"),
        (lambda: hashkiln.search(CODES, CODES, k=2.5), "k: expected an integer of at least 1, found 2.5"),
        (lambda: f.encode(X[:, 1:]), "x: expected vectors of dimension 16, found 15"),
        (lambda: f.project(NAN), "x: expected finite float32 values"),
        (
            lambda: hashkiln.reindex("sample", n_iters=3),
            "method: expected parameters of itq, found n_iters: did you mean n_iter",
        ),
        (lambda: hashkiln.reindex("sample", refit="alway"), "'always' or 'drift', found 'alway': did you mean always"),
        (lambda: hashkiln.reindex("A b"), "dataset: expected a name of a-z"),
    ]:
        with pytest.raises(ValueError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
