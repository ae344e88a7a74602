"""The protocol of DHN on small files in CIFAR's format and on lists of pictures: draws, MAP, and cross-validation."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_pictures import cifar_bytes, encoded
from test_picture_files import write_lists

from hashing.bits import pack
from hashing.evaluation import HammingHistogram, average_precision_at_hits
from hashing.hamming import pack_labels
from hashing.mapreduce import Data
from hashing.methods import METHODS
from infra.executors import InProcess
from infra.settings import Settings
from storage.datasets import DATASETS
from storage.features import load
from workflows import dhn, ingest
from workflows.benchmark import Grid, benchmark
from workflows.spec import MethodSpec

HASHKILN = str(Path(sys.executable).with_name("hashkiln"))
SMALL = {"class_queries": 3, "class_training": 8}
CLASSES = 5


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name, value in {"HASHKILN_HOME": str(tmp_path / "home"), "HASHKILN_EXECUTOR": "inprocess"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "home"


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """cifar-10 of 150 + 50 pictures of five classes, as files and in the catalogue."""
    real = DATASETS["cifar-10"]
    names = [real.splits["base"].file, *real.splits["base"].more]
    for place, file in enumerate([*names, "test_batch.bin"]):
        labels = np.arange(30 if file != "test_batch.bin" else 50) % CLASSES
        (tmp_path / file).write_bytes(cifar_bytes(labels.tolist(), 1000 * place))
    splits = {name: replace(split, n=n) for (name, split), n in zip(real.splits.items(), (150, 50), strict=True)}
    monkeypatch.setitem(DATASETS, "cifar-10", replace(real, splits=splits))
    return tmp_path


def grid(source, **values):
    values = {"datasets": ["cifar-10"], "methods": ["itq"], "bits": [8], "protocol": "dhn", "tune": {}} | values
    return Grid(**{"source": str(source), "draw": SMALL} | values)


def test_so_many_rows_of_each_class_and_none_twice():
    rng = np.random.default_rng(0)
    y = (rng.random((400, 6)) < [0.5, 0.4, 0.3, 0.2, 0.15, 0.1]).astype(np.uint8)
    ids = rng.permutation(10_000)[:400]
    queries, training = dhn.draw(ids, y, "abcdef", 4, 12)
    assert (len(queries), len(training)) == (6 * 4, 6 * 12)
    assert len(np.union1d(queries, training)) == 6 * 16
    for drawn, n in ((queries, 4), (training, 12)):
        assert (y[np.isin(ids, drawn)].sum(axis=0) >= n).all()
    order = rng.permutation(400)
    again = dhn.draw(ids[order], y[order], "abcdef", 4, 12)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate([queries, training]))
    other, _ = dhn.draw(ids, y, "abcdef", 4, 12, seed=1)
    assert set(other) != set(queries)


def test_a_class_of_too_few_rows_is_named():
    y = np.repeat(np.eye(2, dtype=np.uint8), [30, 11], axis=0)
    ids = np.arange(41)
    assert [len(part) for part in dhn.draw(ids, y, ["cat", "dog"], 3, 8)] == [6, 16]
    with pytest.raises(
        ValueError, match=r"expected 3 \+ 9 rows of each class, found 11 of class 'dog', 8 left for the"
    ):
        dhn.draw(ids, y, ["cat", "dog"], 3, 9)


def test_shallow_methods_by_hand(cifar):
    """Each figure is what the parts give: the draw, a fit of the drawn rows alone, and A2 of all other rows."""
    (row,) = benchmark(grid(cifar)).rows
    drawn = load(
        Settings().warehouse_url, next(p.name for p in Path(Settings().warehouse_url, "datasets").glob("*-dhn-*"))
    )
    parts = {}
    for split in ("base", "learn", "query"):
        batches = [batch for shard in drawn.shards(split, tuple(range(CLASSES))) for batch in shard]
        parts[split] = [np.concatenate([getattr(batch, name) for batch in batches]) for name in ("ids", "x", "y")]
    whole = [
        batch
        for split in ("base", "query")
        for shard in load(Settings().warehouse_url, "cifar-10").shards(split)
        for batch in shard
    ]
    pixels = dict(
        zip(np.concatenate([b.ids for b in whole]).tolist(), np.concatenate([b.x for b in whole]), strict=True)
    )
    assert len(pixels) == 200
    assert [len(parts[split][0]) for split in ("base", "learn", "query")] == [185, 40, 15]
    assert not np.intersect1d(parts["query"][0], parts["base"][0]).size
    assert set(parts["learn"][0]) <= set(parts["base"][0])  # the paper's convention
    assert parts["learn"][2].sum(axis=0).tolist() == [8] * CLASSES
    for ids, x, _ in parts.values():
        np.testing.assert_array_equal(x, [pixels[i] for i in ids.tolist()])
    function = METHODS["itq"](n_bits=8).fit(Data(drawn.shards("learn"), InProcess()))
    (_, x, y), (ids, base, labels) = parts["query"], parts["base"]
    statistic = HammingHistogram(pack(function.encode(x)), 8, pack_labels(y), -1 - np.arange(15))
    from hashing.mapreduce import Batch

    histogram = statistic.update(statistic.zero(), Batch(ids, pack(function.encode(base)), labels))
    assert row.metrics["map_dhn"] == pytest.approx(
        np.nanmean(average_precision_at_hits(histogram, 185, np.nan)), abs=1e-12
    )
    assert row.metrics["map_dhn"] == pytest.approx(
        row.metrics["map"], abs=1e-12
    )  # all ranks, and no query without a hit
    assert (row.dataset, row.rows, row.training_rows, row.metrics["queries_without_hit"]) == ("cifar-10", 185, 40, 0)
    assert "map_dhn: of all ranks; rows learned from are ranked" in row.relevance
    few = benchmark(grid(cifar, draw={**SMALL, "cutoff": 20, "training_in_database": False})).rows[0]
    assert (few.rows, few.training_rows) == (145, 40)
    mine = ~np.isin(ids, parts["learn"][0])
    histogram = statistic.update(statistic.zero(), Batch(ids[mine], pack(function.encode(base[mine])), labels[mine]))
    assert few.metrics["map_dhn"] == pytest.approx(
        np.nanmean(average_precision_at_hits(histogram, 20, np.nan)), abs=1e-12
    )
    assert few.metrics["map_at_20"] < few.metrics["map_dhn"]
    assert "the first 20 ranks; rows learned from are not ranked" in few.relevance


def test_queries_without_a_hit_are_left_out_and_counted():
    histogram = np.zeros((2, 2, 3), np.int64)
    histogram[0] = [[2, 2, 0], [4, 0, 0]]
    histogram[1] = [[2, 0, 0], [0, 0, 0]]
    assert dhn.average_precision(histogram, None) == {"map_dhn": 1.0, "queries_without_hit": 0.5}
    assert dhn.average_precision(np.zeros_like(histogram) + [[[1]], [[0]]], 2)["map_dhn"] == 0


def test_cross_validation_takes_the_best_by_training_rows_alone(cifar, home):
    tune = {"dhn": {"lr": [1e-7, 1e-2], "quantization": [0.1]}}
    own = {"dhn": {"network": "cnn", "epochs": 6, "batch_size": 8, "validation": 0.0}}
    asked = grid(cifar, methods=["dhn", "sh"], tune=tune, parameters=own)
    deep, shallow = benchmark(asked).rows
    assert deep.parameters == own["dhn"] | {"lr": 1e-2, "quantization": 0.1}
    assert deep.tuned == {"lr": (1e-7, 1e-2), "quantization": (0.1,)}
    assert (shallow.tuned, shallow.parameters) == ({}, {})
    folds = list((home / "warehouse" / "benchmark" / "folds").iterdir())
    assert len(folds) == 2 * 3
    before = {path: path.stat().st_mtime_ns for path in folds}
    assert benchmark(asked).rows == (deep, shallow)
    assert {path: path.stat().st_mtime_ns for path in folds} == before
    assert deep.metrics["map_dhn"] > 0.5  # a fifth by chance


def test_folds_part_the_rows():
    class Shard(list):
        pass

    from conftest import blobs, cut

    whole = blobs(300)
    shards = cut(whole, 2)
    seen = []
    for place in range(3):
        inside, outside = (
            np.concatenate([b.ids for shard in shards for b in dhn.Fold(shard, place, 3, side)])
            for side in (True, False)
        )
        assert not np.intersect1d(inside, outside).size
        assert len(inside) + len(outside) == 300
        assert 70 < len(inside) < 130
        seen.append(inside)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), whole.ids)


def test_the_best_candidate_is_chosen_and_one_that_fails_is_not():
    specs = dhn.candidates(MethodSpec(method="dhn", bits=8), {"lr": [0.1, 0.2, 0.3], "squared": [False]})

    def score(spec):
        if spec.parameters["lr"] == 0.3:
            raise ValueError("expected a finite loss, found nan")
        return spec.parameters["lr"]

    assert dhn.choose(specs, score).parameters == {"lr": 0.2, "squared": False}
    with pytest.raises(
        ValueError, match="expected one of 1 candidates to be fitted, found that none was: expected a fin"
    ):
        dhn.choose(specs[2:], score)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tune": {"dhn": {"lr": [0.1]}}}, "expected parameters of methods of the grid, found dhn"),
        ({"tune": {"itq": {"n_iter": [5, "x"]}}}, "expected a int for itq's n_iter, found 'x'"),
        ({"tune": {"itq": {"eta": [5]}}}, "expected parameters of itq among"),
        ({"tune": {"itq": {"n_iter": [5]}}, "protocol": "labels"}, "expected protocol dhn, which alone chooses"),
        ({"draw": {"folds": 1}}, "greater than or equal to 2"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        grid(tmp_path, **values)


def test_lists_are_used_as_they_are_and_queries_in_the_database_are_not_ranked(tmp_path):
    write_lists(tmp_path / "lists", base=30, learn=12, query=6)
    dataset = ingest.ingest_source("mine", str(tmp_path / "lists"), Settings(), None, side=32)
    assert (dataset.kind, dataset.dim, dataset.queries_in_base) == ("image", 3072, True)
    (row,) = benchmark(grid(tmp_path, datasets=["mine"])).rows
    assert (row.rows, row.training_rows) == (30, 12)
    assert row.curves.precision[-1] == 1  # all rows share label 3
    histogram_rows = row.curves.ranks[-1]
    assert histogram_rows == 20  # of 1, 2, 5, 10, 20 up to 29: a query's own row is not ranked
    assert row.dataset == "mine"


def test_the_command_says_what_fails_in_one_line(cifar, tmp_path):
    args = [HASHKILN, "benchmark", "--dataset", "cifar-10", "--from", str(cifar), "--methods", "itq", "--bits", "8"]
    run = subprocess.run([*args, "--protocol", "dhn"], env=os.environ, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "expected 50000 rows, found 150" in " ".join(run.stderr.split())  # the catalogue's own cifar-10
    (tmp_path / "p").mkdir()
    for i in range(30):
        (tmp_path / "p" / f"{i}.png").write_bytes(encoded(i % 3, i))
    lines = [f"{i}.png {' '.join('1' if i % 3 == label else '0' for label in range(3))}" for i in range(30)]
    (tmp_path / "p" / "database.txt").write_text("\n".join(lines))
    done = subprocess.run(
        [HASHKILN, "ingest", str(tmp_path / "p"), "--name", "p", "--side", "16"], env=os.environ, timeout=120, check=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0
    args = [HASHKILN, "benchmark", "--dataset", "p", "--methods", "sh,ksh", "--bits", "8", "--protocol", "dhn"]
    run = subprocess.run(args, env=os.environ, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "expected 100 + 500 rows of each class, found 10 of class" in " ".join(run.stderr.split())
    args += ["--class-queries", "2", "--class-training", "4", "--json", str(tmp_path / "rows.json"), "--tune", "none"]
    subprocess.run([*args, "--set", "ksh.n_anchors=10"], env=os.environ, timeout=120, check=True, capture_output=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["method"], row["rows"], row["training_rows"]) for row in rows] == [("sh", 24, 12), ("ksh", 24, 12)]
