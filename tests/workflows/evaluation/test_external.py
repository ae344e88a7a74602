"""Evaluation of external codes against metrics from all pairs, and refusal of inconsistent files."""

import os
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import hashkiln
from hashing.bits import pack
from hashing.evaluation import metrics
from infra.settings import Settings
from tests.conftest import blobs
from workflows import arrays
from workflows.evaluation import external


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    return Settings()


def scored(codes, y, queries, own):
    """Metrics from all pairs; own (q,) are positions of the queries' own rows, or None."""
    distance = (queries[0][:, None] != codes[None]).sum(axis=2)
    relevant = (queries[1][:, None] & y[None]).any(axis=2)
    h = np.zeros((2, len(distance), codes.shape[1] + 1), np.int64)
    for i, row in enumerate(distance):
        keep = np.ones(len(row), bool)
        if own is not None:
            keep[own[i]] = False
        for kind, rows in enumerate((keep, keep & relevant[i])):
            h[kind, i] = np.bincount(row[rows], minlength=h.shape[2])
    return metrics.average_precision(h).mean()


def sorted_by_position(codes, y):
    """Return MAP by a stable sort, with every row as a query that is not ranked itself."""
    found = []
    for i, code in enumerate(codes):
        order = np.argsort((codes != code).sum(axis=1), kind="stable")
        relevant = (y & y[i]).any(axis=1)[order[order != i]]
        found.append((relevant.cumsum() / np.arange(1, len(y)))[relevant].mean())
    return np.mean(found)


def test_external_codes_are_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "ROWS_PER_SHARD", 170)
    monkeypatch.setattr(arrays, "BATCH_BYTES", 999)
    batch, rng = blobs(600, 8), np.random.default_rng(0)
    bits, y = batch.x @ rng.normal(size=(8, 12)) >= 0, batch.y.astype(bool)
    forms = {"bool": bits, "signs": np.where(bits, 1, -1).astype(np.int8), "floats": np.where(bits, 1.0, -1.0)}
    forms["packed"] = pack(bits)
    labels = {"classes": 3 * batch.y.argmax(1), "column": batch.y.argmax(1)[:, None], "hot": batch.y, "bool": y}
    for name, array in (forms | {f"y_{name}": array for name, array in labels.items()}).items():
        np.save(tmp_path / f"{name}.npy", array)
        np.save(tmp_path / f"query_{name}.npy", array[:40])
    at = {name: str(tmp_path / f"{name}.npy") for name in (*forms, *(f"y_{name}" for name in labels))}
    query = {name: str(tmp_path / f"query_{name}.npy") for name in at}
    expected = scored(bits, y, (bits[:40], y[:40]), None)
    correlation = abs(np.corrcoef(bits.T) - np.eye(12)).max()
    for name, label in zip(forms, labels, strict=True):
        report = external.evaluate_files(at[name], at[f"y_{label}"], query[name], query[f"y_{label}"], 12)
        assert report.measured.metrics["map"].value == pytest.approx(expected, abs=1e-12)
        assert report.measured.rows == 600
        assert report.health["largest correlation of two bits"] == pytest.approx(correlation)
    alone = external.evaluate_files(at["packed"], at["y_hot"], bits=12, n_queries=600)
    assert alone.measured.rows == 599
    expected = scored(bits, y, (bits, y), np.arange(600))
    assert alone.measured.metrics["map"].value == pytest.approx(expected, abs=1e-12)
    literal = external.evaluate_files(at["packed"], at["y_hot"], bits=12, n_queries=600, ties="by-id")
    assert "ties: in order of id" in literal.protocol
    assert literal.measured.metrics["map"].value == pytest.approx(sorted_by_position(bits, y), abs=1e-12)
    assert literal.measured.metrics["map"].value != pytest.approx(expected, abs=1e-4)
    drawn = external.evaluate_files(at["bool"], at["y_hot"], n_queries=50)
    assert "50 queries, sampled from the rows, own rows not ranked" in drawn.protocol


@dataclass
class Malice:
    """Creates a folder when it is unpickled."""

    folder: str

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_inconsistent_external_files_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    files = {
        "codes": rng.integers(0, 256, (50, 2), np.uint8), "labels": rng.integers(0, 3, 50), "few": np.zeros(9, int),
        "wide": rng.integers(0, 256, (50, 3), np.uint8), "levels": rng.integers(0, 3, (50, 8)), "flat": np.zeros(50),
        "grades": rng.integers(0, 5, (50, 4)), "none": np.zeros((50, 0), int),
        "huge": np.full(50, 2**64 - 1, np.uint64),
    }  # fmt: skip
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "objects.npy", np.array([{}] * 50), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Malice(str(tmp_path / "run"))))
    np.savez(tmp_path / "several.npz", a=np.zeros(3))

    def refused(match, *names, error=ValueError, **options):
        with pytest.raises(error, match=match):
            external.evaluate_files(*(str(tmp_path / (n if "." in n else f"{n}.npy")) for n in names), **options)

    with pytest.raises(ValueError, match=r"executor: expected an executor, such as .*, found 'ray'"):
        hashkiln.evaluate(files["codes"], labels=files["labels"], executor="ray")
    refused("codes of 20 bits, found 2 bytes of packed codes a row", "codes", "labels", bits=20)
    refused("zero padding after 12 bits, found", "codes", "labels", bits=12)
    refused(r"integer labels \(50,\).*, found \(9,\) int64", "codes", "few")
    refused(r"codes of -1 and \+1, or bool, or packed uint8, found", "levels", "labels")
    refused(r"found \(50,\) float64", "flat", "labels")
    refused("multi-hot labels of 0 and 1, found 0 to 4", "codes", "grades")
    refused("queries: expected codes of 16 bits .* found 24 bits", "codes", "labels", "wide", "labels")
    refused(r"expected labels of int64, found none, of shape \(50, 0\)", "codes", "none")
    refused("expected labels of int64, found up to 18446744073709551615", "codes", "huge")
    refused("with queries: expected labels and query_labels", "codes", "labels", "codes")
    refused("expected a .npy file of numbers", "codes", "objects")
    refused("expected a .npy file of numbers", "pickle", "labels")
    assert not (tmp_path / "run").exists()
    refused("an archive of several arrays", "several.npz", "labels")
    refused("nowhere", "nowhere", "labels", error=FileNotFoundError)


def test_labels_are_compared_as_integers_whatever_their_type(tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    rng = np.random.default_rng(0)
    codes, y = (
        rng.integers(0, 256, (60, 2), np.uint8),
        2**60 + rng.integers(0, 3, 60),
    )  # equal as floats
    for name, array in {"codes": codes, "signed": y, "unsigned": y.astype(np.uint64)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    maps = []
    for labels in ("signed", "unsigned"):
        names = ("codes", labels, "codes", "signed")
        report = external.evaluate_files(*(str(tmp_path / f"{name}.npy") for name in names))
        maps.append(report.measured.metrics["map"].value)
    assert maps[0] == maps[1] < 0.9


@pytest.mark.parametrize("ties", ["expectation", "by-id"])
def test_a_single_row_as_its_own_query_has_no_neighbours(tmp_path, monkeypatch, ties):
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    np.save(tmp_path / "codes.npy", np.zeros((1, 2), np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(1, int))
    report = external.evaluate_files(str(tmp_path / "codes.npy"), str(tmp_path / "labels.npy"), ties=ties)
    assert report.measured.rows == 0
    assert report.measured.metrics["map"].value == 0
    assert report.curves.ranks == ()


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "ip"])
def test_recall_after_reranking_is_what_reranking_finds(metric):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(400, 12)) * rng.lognormal(size=(400, 1))).astype(np.float32)
    queries = rng.normal(size=(20, 12)).astype(np.float32)
    f = hashkiln.fit(x, method="lsh", bits=16)
    codes, asked = f.encode(x), f.encode(queries)
    report = hashkiln.evaluate(
        codes, asked, neighbours=10, vectors=x, query_vectors=queries, metric=metric, ties="by-id"
    )
    products = queries.astype(np.float64) @ x.T
    score = {
        "euclidean": -((queries[:, None].astype(np.float64) - x) ** 2).sum(axis=2),
        "cosine": products / np.linalg.norm(x.astype(np.float64), axis=1),
        "ip": products,
    }[metric]
    true = np.argsort(-score, axis=1)[:, :10]
    for factor in (1, 2, 4, 10):
        _, rows = hashkiln.search(codes, asked, k=10 * factor)
        found = np.take_along_axis(rows, np.argsort(-np.take_along_axis(score, rows, 1), axis=1)[:, :10], 1)
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, true, strict=True)])
        assert report.measured.metrics[f"recall_reranked_x{factor}"].value == pytest.approx(recall)
