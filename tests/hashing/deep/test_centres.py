"""Class centres: distances and bits, for any number of classes and bits, and targets of rows with several labels."""

from math import log2
from time import process_time

import numpy as np
import pytest
import torch

from hashing.deep import centres, sgd
from hashing.deep.centres import class_centres, distinct_bits, gilbert_varshamov, least_distance
from hashing.deep.contract import Facts
from hashing.methods.csq import CSQ
from infra.training import Here

HADAMARD = [(5, 8), (10, 64), (21, 64), (64, 64), (65, 64), (128, 64), (100, 256), (4, 2)]
SEARCHED = [(2, 16), (3, 16), (4, 64), (4, 5), (38, 12), (8, 48), (1000, 48)]
LINEAR = [(9, 5), (32, 5), (2000, 12), (1500, 48), (40_000, 64)]


@pytest.mark.parametrize(("c", "n_bits"), [*HADAMARD, *SEARCHED, *LINEAR])
def test_centres_are_far_from_each_other_and_their_bits_differ(c, n_bits):
    start = process_time()
    t = class_centres(c, n_bits, seed=0)
    assert process_time() - start < 20  # seconds also for 40,000 classes
    assert t.shape == (c, n_bits)
    assert set(np.unique(t)) == {-1, 1}
    assert len(np.unique(t, axis=0)) == c
    assert (np.abs(t.sum(axis=0, dtype=int)) < c).all()  # no bit is constant
    if c >= log2(n_bits) + 2:
        assert distinct_bits(t) == n_bits
    if c <= 2000:
        assert least_distance(t) >= gilbert_varshamov(c, n_bits)
    if c <= 2 * n_bits and n_bits & (n_bits - 1) == 0:
        assert least_distance(t) >= n_bits / 2


@pytest.mark.parametrize(("c", "n_bits", "least"), [(100, 16, 5), (196, 48, 18)])
def test_the_search_exceeds_the_bound(c, n_bits, least):
    assert least_distance(class_centres(c, n_bits, seed=3)) >= least > gilbert_varshamov(c, n_bits)


def test_the_first_rows_of_a_hadamard_matrix_would_repeat_bits():
    index = np.arange(64)
    h = 1 - 2 * (np.bitwise_count(index[:10, None] & index) % 2).astype(np.int8)
    assert distinct_bits(h) < 16 < distinct_bits(class_centres(10, 64, seed=0))


def test_complements_come_with_more_classes_than_bits_only():
    for c in (64, 65):
        t = class_centres(c, 64, seed=0).astype(int)
        assert (t @ t.T == -64).sum() == 2 * (c - 64)


@pytest.mark.parametrize(("c", "n_bits"), [(10, 64), (10, 12), (2000, 12)])
def test_centres_depend_on_the_seed_alone(c, n_bits):
    first, second = class_centres(c, n_bits, seed=0), class_centres(c, n_bits, seed=1)
    np.testing.assert_array_equal(first, class_centres(c, n_bits, seed=0))
    assert (first != second).any()


def test_the_bound_equals_its_definition():
    for c, n_bits in [(1, 4), (2, 4), (16, 4), (100, 16), (1000, 64)]:
        ball, row = [1], [1]  # of Pascal's triangle
        for _ in range(n_bits):
            row = [a + b for a, b in zip([0, *row], [*row, 0], strict=True)]
        for codes in row[1:]:
            ball.append(ball[-1] + codes)
        expected = max((d for d in range(1, n_bits + 1) if c * ball[d - 1] < 2**n_bits), default=0)
        assert gilbert_varshamov(c, n_bits) == expected


def test_distances_are_those_of_a_loop():
    t = np.where(np.random.default_rng(0).random((1100, 20)) < 0.5, 1, -1).astype(np.int8)
    expected = min((t[i] != t[:i]).sum(axis=1).min() for i in range(1, len(t)))
    assert least_distance(t) == expected
    assert least_distance(t[:1]) == 20


def test_more_classes_than_codes_are_refused():
    with pytest.raises(ValueError, match="expected n_bits of at least 6 for 33 classes, found n_bits=5"):
        class_centres(33, 5, seed=0)


def test_the_target_of_several_classes_is_the_sign_of_the_sum_of_their_centres():
    head = centres.head(10, 12, seed=0)
    y = (np.random.default_rng(0).random((50, 10)) < 0.3).astype(np.float32)
    t, ties = head.centres.numpy(), head.ties.numpy()
    for row, target in zip(y, centres.targets(head, torch.tensor(y)).numpy(), strict=True):
        total = sum(t[c] for c in range(10) if row[c]) + np.zeros(12)
        np.testing.assert_array_equal(target, np.where(total == 0, ties, np.sign(total)))
    np.testing.assert_array_equal(centres.targets(head, torch.eye(10)).numpy(), t)


def test_a_resumed_run_has_the_targets_of_the_first():
    def run():
        return sgd.Run(Here("", lambda *_: None, 1), CSQ(12), Facts(100, np.zeros(3), np.ones(3), 10), {})

    first, resumed, y = run(), run(), torch.ones(1, 10)
    with torch.no_grad():
        first.head.centres.neg_()  # as another version might have drawn them
        first.head.ties.neg_()
    assert not torch.equal(centres.targets(resumed.head, y), centres.targets(first.head, y))
    resumed.restore(first.state())
    for name in ("centres", "ties"):
        assert torch.equal(getattr(resumed.head, name), getattr(first.head, name))
    assert torch.equal(centres.targets(resumed.head, y), centres.targets(first.head, y))
