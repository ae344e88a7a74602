"""The protocol of DHN on small files in CIFAR's format and on lists of pictures: sampling, MAP, cross-validation."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hashing.bits import pack
from hashing.evaluation.histograms import HammingHistogram
from hashing.evaluation.metrics import average_precision_at_hits
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch, Data
from hashing.methods import METHODS
from infra.executors import InProcess
from infra.settings import Settings
from storage.datasets import DATASETS
from storage.features.dataset import load_dataset
from storage.features.rows import Columns
from tests.conftest import blobs, cut
from tests.drawn_pictures import cifar_bytes, encoded, write_lists
from workflows import datasets
from workflows.benchmark import protocols
from workflows.benchmark.flow import benchmark
from workflows.benchmark.grid import Grid
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
    """A small cifar-10, 150 + 50 pictures of five classes, as files and in the catalogue."""
    real = DATASETS["cifar-10"]
    names = [real.splits["base"].file, *real.splits["base"].more_files]
    for place, file in enumerate([*names, "test_batch.bin"]):
        labels = np.arange(30 if file != "test_batch.bin" else 50) % CLASSES
        (tmp_path / file).write_bytes(cifar_bytes(labels.tolist(), 1000 * place))
    splits = {name: replace(split, n=n) for (name, split), n in zip(real.splits.items(), (150, 50), strict=True)}
    monkeypatch.setitem(DATASETS, "cifar-10", replace(real, splits=splits))
    return tmp_path


def grid(source, **values):
    values = {"datasets": ["cifar-10"], "methods": ["lsh"], "bits": [8], "protocol": "dhn", "tune": {}} | values
    return Grid(**{"source": str(source), "draw": SMALL} | values)


def test_a_fixed_number_of_rows_per_class_is_sampled_without_replacement():
    rng = np.random.default_rng(0)
    y = (rng.random((400, 6)) < [0.5, 0.4, 0.3, 0.2, 0.15, 0.1]).astype(np.uint8)
    ids = rng.permutation(10_000)[:400]
    queries, training = protocols.draw_by_class(ids, y, "abcdef", 4, 12)
    assert (len(queries), len(training)) == (6 * 4, 6 * 12)
    assert len(np.union1d(queries, training)) == 6 * 16
    for drawn, n in ((queries, 4), (training, 12)):
        assert (y[np.isin(ids, drawn)].sum(axis=0) >= n).all()
    order = rng.permutation(400)
    again = protocols.draw_by_class(ids[order], y[order], "abcdef", 4, 12)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate([queries, training]))
    other, _ = protocols.draw_by_class(ids, y, "abcdef", 4, 12, seed=1)
    assert set(other) != set(queries)


def test_a_class_with_too_few_rows_is_named():
    y = np.repeat(np.eye(2, dtype=np.uint8), [30, 11], axis=0)
    ids = np.arange(41)
    assert [len(part) for part in protocols.draw_by_class(ids, y, ["cat", "dog"], 3, 8)] == [6, 16]
    with pytest.raises(ValueError, match=r"expected 3 \+ 9 rows of each class, found 11 of class 'dog', 8 left"):
        protocols.draw_by_class(ids, y, ["cat", "dog"], 3, 9)


def test_figures_of_shallow_methods_equal_a_computation_by_hand(cifar):
    """By hand: the sample, a fit on the sampled rows alone, and MAP on all other rows."""
    ksh = {"methods": ["ksh"], "parameters": {"ksh": {"n_anchors": 10}}}
    (row,) = benchmark(grid(cifar, **ksh)).rows
    warehouse = Settings().warehouse_url
    drawn = load_dataset(warehouse, next(path.name for path in Path(warehouse, "datasets").glob("*-dhn-*")))
    parts = {}
    for split in ("base", "learn", "query"):
        batches = [batch for shard in drawn.shards(split, tuple(range(CLASSES))) for batch in shard]
        parts[split] = [np.concatenate([getattr(batch, name) for batch in batches]) for name in ("ids", "x", "y")]
    whole = load_dataset(warehouse, "cifar-10")
    batches = [batch for split in ("base", "query") for shard in whole.shards(split) for batch in shard]
    pixels = {i: x for batch in batches for i, x in zip(batch.ids.tolist(), batch.x, strict=True)}
    assert len(pixels) == 200
    assert [len(parts[split][0]) for split in ("base", "learn", "query")] == [185, 40, 15]
    assert not np.intersect1d(parts["query"][0], parts["base"][0]).size
    assert set(parts["learn"][0]) <= set(parts["base"][0])  # the paper's convention
    assert parts["learn"][2].sum(axis=0).tolist() == [8] * CLASSES
    for ids, x, _ in parts.values():
        np.testing.assert_array_equal(x, [pixels[i] for i in ids.tolist()])
    again = whole.model_copy(update={"metric": "cosine"})  # ingested again
    again = protocols.drawn_dataset(again, protocols.Draw(**SMALL), tuple(range(CLASSES)), Settings(), InProcess())
    assert (again.metric, again.name == drawn.name) == ("cosine", False)

    function = METHODS["ksh"](8, n_anchors=10).fit(Data(drawn.shards("learn", tuple(range(CLASSES))), InProcess()))
    (_, x, y), (ids, base, labels) = parts["query"], parts["base"]
    statistic = HammingHistogram(pack(function.encode(x)), 8, pack_labels(y), -1 - np.arange(15))

    def expected(rows, ranks):
        batch = Batch(ids[rows], pack(function.encode(base[rows])), labels[rows])
        histogram = statistic.update(statistic.zero(), batch)
        return pytest.approx(np.nanmean(average_precision_at_hits(histogram, ranks, np.nan)))

    assert row.metrics["map_dhn"] == expected(slice(None), 185)
    assert row.metrics["map_dhn"] == pytest.approx(row.metrics["map"])  # of all ranks
    assert (row.dataset, row.rows, row.training_rows, row.metrics["queries_without_hit"]) == ("cifar-10", 185, 40, 0)
    assert "map_dhn: of all ranks; rows learned from are ranked" in row.relevance
    few = benchmark(grid(cifar, **ksh, draw={**SMALL, "cutoff": 20, "training_in_database": False})).rows[0]
    assert (few.rows, few.training_rows) == (145, 40)
    assert few.metrics["map_dhn"] == expected(~np.isin(ids, parts["learn"][0]), 20)
    assert few.metrics["map_at_20"] <= few.metrics["map_dhn"]
    assert "the first 20 ranks; rows learned from are not ranked" in few.relevance


def test_queries_without_hits_are_excluded_and_counted():
    histogram = np.zeros((2, 2, 3), np.int64)
    histogram[0] = [[2, 2, 0], [4, 0, 0]]
    histogram[1] = [[2, 0, 0], [0, 0, 0]]
    assert protocols.dhn_average_precision(histogram, None) == {"map_dhn": 1.0, "queries_without_hit": 0.5}
    histogram[1] = 0
    assert protocols.dhn_average_precision(histogram, 2)["map_dhn"] == 0


def test_cross_validation_chooses_the_best_candidate_by_training_rows_alone(cifar, home):
    tune = {"dhn": {"lr": [1e-7, 1e-2], "quantization": [0.1]}}
    own = {"dhn": {"network": "linear", "epochs": 6, "batch_size": 8, "validation": 0.0, "optimizer": "adam"}}
    asked = grid(cifar, methods=["dhn", "lsh"], tune=tune, parameters=own)
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


def test_folds_partition_the_rows():
    whole = blobs(300)
    shards, seen = cut(whole, 2), []
    for place in range(3):
        inside, outside = (
            np.concatenate([part.ids for shard in shards for part in protocols.Fold(shard, place, 3, side)])
            for side in (True, False)
        )
        assert not np.intersect1d(inside, outside).size
        assert len(inside) + len(outside) == 300
        assert 70 < len(inside) < 130
        seen.append(inside)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), whole.ids)


def test_the_weight_and_the_learning_rate_are_tuned_by_default():
    own = METHODS["dhn"](8)
    weights, rates = (0.1 * own.quantization, own.quantization, 10 * own.quantization), (own.lr / 10, own.lr)
    found = protocols.tuned(MethodSpec(method="dhn"))
    assert found["quantization"] == pytest.approx(weights)
    assert found["lr"] == pytest.approx(rates)
    assert protocols.tuned(MethodSpec(method="itq")) == {}
    for name in protocols.WEIGHTS:
        spec = MethodSpec(method=name, bits=8)
        assert len(protocols.combinations(spec, protocols.tuned(spec))) in (2, 6)


def test_the_best_candidate_is_chosen_and_failing_ones_are_skipped():
    specs = protocols.combinations(MethodSpec(method="dhn", bits=8), {"lr": [0.1, 0.2, 0.3], "squared": [False]})

    def score(spec):
        if spec.parameters["lr"] == 0.3:
            raise ValueError("expected a finite loss, found nan")
        return spec.parameters["lr"]

    assert protocols.choose(specs, score).parameters == {"lr": 0.2, "squared": False}
    with pytest.raises(ValueError, match="none of 1 candidates could be fitted; the first failed with: expected a"):
        protocols.choose(specs[2:], score)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tune": {"dhn": {"lr": [0.1]}}}, "expected parameters for methods of the grid only, found dhn"),
        ({"tune": {"itq": {"n_iter": [5, "x"]}}}, "expected n_iter of itq as int, found 'x'"),
        ({"tune": {"itq": {"eta": [5]}}}, "expected parameters of itq, found eta: they are n_iter"),
        ({"tune": {"itq": {"n_iter": [5]}}, "protocol": "labels"}, "tune needs protocol dhn"),
        ({"parameters": {"itq": {"n_iter": True}}}, "expected n_iter of itq as int, found True"),
        ({"draw": {"folds": 1}}, "greater than or equal to 2"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        grid(tmp_path, **{"methods": ["itq"], **values})


def test_published_lists_are_used_as_given_and_queries_in_the_database_are_not_ranked(tmp_path):
    write_lists(tmp_path / "lists", base=20, learn=12, query=6)
    dataset = datasets.ingest_source("mine", str(tmp_path / "lists"), Settings(), Columns(), side=32)
    assert (dataset.kind, dataset.dim, dataset.queries_in_base) == ("image", 3072, True)
    (row,) = benchmark(grid(tmp_path, datasets=["mine"])).rows
    assert (row.rows, row.training_rows) == (20, 12)
    assert row.curves.precision[-1] == 1  # all rows share label 3
    assert row.curves.ranks[-1] == 10  # of 1, 2, 5, 10, 20 up to 19: a query's own row is not ranked
    assert row.dataset == "mine"


def test_the_command_samples_classes_tunes_and_reports_too_few_rows(tmp_path, run_command):
    (tmp_path / "p").mkdir()
    for i in range(30):
        (tmp_path / "p" / f"{i}.png").write_bytes(encoded(i % 3, i))
    lines = [f"{i}.png {' '.join('1' if i % 3 == label else '0' for label in range(3))}" for i in range(30)]
    (tmp_path / "p" / "database.txt").write_text("\n".join(lines))
    datasets.ingest_source("p", str(tmp_path / "p"), Settings(), Columns(), side=16)
    few = (
        r"expected 100 \+ 500 rows of each class, found 10 of class 0, 10 left .*, in dataset p: lower --class-queries"
    )
    with pytest.raises(ValueError, match=few):
        benchmark(grid("", datasets=["p"], draw={}))
    args = ["benchmark", "--dataset", "p", "--methods", "dpsh,ksh", "--bits", "8", "--protocol", "dhn"]
    args += ["--class-queries", "2", "--class-training", "4", "--without-training", "--cutoff", "5", "--folds", "2"]
    args += ["--set", "ksh.n_anchors=10", "--set", "dpsh.network=linear", "--set", "dpsh.epochs=1"]
    args += ["--tune", "DPSH.lr=0.001,0.01", "--json", str(tmp_path / "rows.json")]
    assert run_command(*args)[0] == 0
    deep, shallow = json.loads((tmp_path / "rows.json").read_text())
    for row in (deep, shallow):
        assert (row["rows"], row["training_rows"], "map_at_5" in row["metrics"]) == (12, 12, True)
    assert deep["tuned"] == {"lr": [0.001, 0.01]}
    assert deep["parameters"]["lr"] in (0.001, 0.01)
    assert deep["parameters"]["network"] == "linear"
    assert shallow["parameters"] == {"n_anchors": 10}
