"""The judge of codes: blocks of queries, graded relevance, and query overlap."""

from types import SimpleNamespace

import numpy as np
import pytest

from hashing.bits import pack
from hashing.evaluation import histograms
from hashing.evaluation.metrics import ndcg
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch, Data
from hashing.neighbours.exact import NearestNeighbours
from infra.executors import InProcess
from workflows.evaluation import ground_truth, query_overlap
from workflows.evaluation.judge import Judge, _by_labels
from workflows.evaluation.metrics import metric_values, retrieval_curves
from workflows.spec import Spec


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return Batch(
        np.arange(300), rng.integers(0, 4, (300, 6)).astype(np.float32), rng.integers(0, 2, (300, 5), np.uint8)
    )


def shards(batch, n):
    return [[batch.take(part)] for part in np.array_split(np.arange(len(batch.ids)), n)]


def test_neighbours_do_not_depend_on_the_block_size_of_queries(rows, monkeypatch):
    data, own = Data(shards(rows, 3), InProcess()), rows.ids[:50]
    whole = data.reduce(NearestNeighbours(rows.x[:50], own, 7))
    sizes = []
    zero = NearestNeighbours.zero

    def seen(statistic):
        state = zero(statistic)
        sizes.append(sum(part.nbytes for part in state))
        return state

    monkeypatch.setattr(NearestNeighbours, "zero", seen)
    monkeypatch.setattr(ground_truth, "STATE_BYTES", 2000)
    np.testing.assert_array_equal(ground_truth.exact_neighbours(rows.x[:50], own, 7, data), whole)
    assert sizes[0] == max(sizes) == 17 * 7 * 16  # as large as 2,000 bytes allow
    assert len(sizes) == 3 * 3


def test_states_of_the_largest_ground_truth_are_under_64_mib():
    first, *_, last = parts = ground_truth.query_slices(10_000, 16 * 10_000)
    assert (len(parts), first.start, last.stop) == (24, 0, 10_000)
    state = NearestNeighbours(np.zeros((first.stop, 1)), np.arange(first.stop), 10_000).zero()
    assert sum(part.nbytes for part in state) <= 1 << 26


def test_codes_of_all_lengths_share_the_lookup_of_neighbours(rows):
    """It takes 12 bytes a neighbour: 1.2 GB for 10,000 queries with 10,000 each."""
    judge = Judge(rows.take(slice(40)), True, rows.ids[:200].reshape(40, 5), "")
    for n_bits in (8, 16):
        codes = shards(rows._replace(x=np.zeros((300, n_bits // 8), np.uint8)), 2)
        judge.histogram_of(np.zeros((40, n_bits // 8), np.uint8), n_bits, codes, InProcess())
    assert len(judge._sorted) == 1


def judged(rows, **options):
    return Judge(rows.take(slice(40)), True, None, "", **options)


@pytest.mark.parametrize("state", [1 << 26, 999])
def test_grades_follow_the_counts_of_all_and_relevant_rows(rows, monkeypatch, state):
    monkeypatch.setattr(ground_truth, "STATE_BYTES", state)
    function = SimpleNamespace(n_bits=6, encode=lambda x: x >= 2)
    codes = shards(rows._replace(x=pack(rows.x >= 2)), 3)
    found = judged(rows, graded=True).histogram(function, codes, InProcess())
    np.testing.assert_array_equal(found[:2], judged(rows).histogram(function, codes, InProcess()))
    n_grades = int(rows.y[:40].sum(axis=1).max()) + 1
    asked = pack(rows.x[:40] >= 2), 6, pack_labels(rows.y[:40]), rows.ids[:40], n_grades
    grades = Data(codes, InProcess()).reduce(histograms.GradedHistogram(*asked))
    np.testing.assert_array_equal(found[2:], grades)
    metrics, plain = metric_values(found), metric_values(found[:2])
    np.testing.assert_array_equal(metrics["ndcg"], ndcg(grades))
    for depth in (10, 100):
        np.testing.assert_array_equal(metrics[f"ndcg_at_{depth}"], ndcg(grades, depth))
    assert metrics.keys() - plain.keys() == {"ndcg", "ndcg_at_10", "ndcg_at_100"}
    np.testing.assert_array_equal(metrics["map"], plain["map"])
    assert retrieval_curves(found) == retrieval_curves(found[:2])
    assert judged(rows, graded=True).histogram(function, [], InProcess()).shape == found.shape


def test_graded_relevance_needs_labels():
    protocol = Spec.model_validate({"dataset": "bare", "protocol": {"relevance": "graded"}}).protocol
    with pytest.raises(ValueError, match="relevance by labels needs labels: dataset bare has none"):
        _by_labels(protocol, (), SimpleNamespace(name="bare"))
    assert _by_labels(protocol, ("a",), SimpleNamespace(name="bare"))


class Named(list):
    """A shard that counts how often it is read."""

    def __init__(self, batches, name, read):
        super().__init__(batches)
        self.name, self.version, self.read = name, str(hash(batches[0].x.tobytes())), read

    def __iter__(self):
        self.read.append(self.name)
        return super().__iter__()


def test_query_overlap_is_counted_in_the_database_and_in_the_training_set(rows, tmp_path):
    read = []
    judge = Judge(Batch(np.arange(1000, 1040), rows.x[:40] + 10), False, None, "")
    base, learn = rows.x.copy(), rows.x[:20].copy()
    base[:3], learn[:5] = judge.queries.x[7], judge.queries.x[8]
    splits = {"base": Batch(np.arange(998, 1298), base), "learn": Batch(np.arange(1039, 1059), learn)}

    def named(split):
        return [Named(shard, f"{split}{i}", read) for i, shard in enumerate(shards(splits[split], 2))]

    dataset = SimpleNamespace(splits={"base": "mem://base", "learn": "mem://learn"}, shards=named)
    context = SimpleNamespace(dataset=dataset, base=named("base"), warehouse=str(tmp_path), executor=InProcess())
    found = query_overlap.overlap(judge, context)
    assert found == "database: 40 rows by id, 3 by content; training set: 1 rows by id, 5 by content"
    assert query_overlap.overlap(judge, context) == found
    assert sorted(read) == ["base0", "base1", "learn0", "learn1"]  # each once
    splits["base"].x[299] = judge.queries.x[7]
    context.base = named("base")
    more = query_overlap.overlap(judge, context)
    assert more == found.replace("3 by content", "4 by content")
    assert read[4:] == ["base1"]
    del dataset.splits["learn"]
    assert query_overlap.overlap(judge, context).endswith("; training set: the database")
    own = query_overlap.overlap(judged(rows), context)
    assert own.endswith("; training set: the database without the queries")
