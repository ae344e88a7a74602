"""What the papers prove about AGH, DGH and KMH."""

from itertools import pairwise

import numpy as np
import pytest

from hashing.anchors import anchor_eigenvectors, anchor_graph, anchor_weights
from hashing.bits import sgn
from hashing.families import AnchorGraphHash
from hashing.mapreduce import Batch, Data
from hashing.methods import dgh, kmh
from hashing.methods.agh import AGH
from hashing.methods.dgh import DGH
from hashing.methods.kmh import KMH
from hashing.solvers import balanced_partition, nearest_balanced
from tests.conftest import blobs, cut


@pytest.fixture(scope="module")
def graph():
    """The rows' Z and the anchors' mass and Z'Z, of a graph that hangs together."""
    x = np.random.default_rng(0).standard_normal((400, 5)) * [3, 2, 1, 0.5, 0.5]
    z = anchor_weights(x, x[:40], 1.5, 6)
    return z, z.sum(axis=0), z.T @ z


def test_anchor_graph_is_that_of_dense_formulas(in_process):
    batch = blobs(400)
    anchors, sigma, mass, gram = anchor_graph(Data(cut(batch, 3), in_process), 300, 3, 4, 0)
    assert len(anchors) == 40  # one for ten rows
    distances = np.sqrt(((batch.x[:, None].astype(np.float64) - anchors) ** 2).sum(axis=2))
    assert sigma == pytest.approx(np.sort(distances, axis=1)[:, 2].mean())
    z = np.where(distances <= np.sort(distances, axis=1)[:, 2:3], np.exp(-((distances / sigma) ** 2)), 0)
    z /= z.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mass, z.sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(gram, z.T @ z, rtol=1e-9, atol=1e-9)


def test_anchor_eigenvectors_are_those_of_the_graph_of_rows(graph):
    z, mass, gram = graph
    n = len(z)
    a = z / mass @ z.T
    y = z @ anchor_eigenvectors(mass, gram, 6)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(y.T @ y, n * np.eye(6), atol=1e-9 * n)
    values = np.linalg.eigvalsh(a)[::-1]
    assert values[0] == pytest.approx(1)
    assert values[1] < 0.999
    np.testing.assert_allclose(a @ y, y * values[1:7], atol=1e-9)


def test_second_layer_splits_where_the_graph_is_cut_least(in_process):
    """Against a search: of all pairs of thresholds that leave f balanced, for each lower one there is one upper."""
    x = np.random.default_rng(0).standard_normal((400, 5)) * [3, 2, 1, 0.5, 0.5]
    data = Data(cut(Batch(np.arange(400), x), 3), in_process)
    function = AGH(n_bits=8, n_nearest=6).fit(data)
    anchors, sigma, mass, gram = anchor_graph(data, 300, 6, 5, 0)
    z = anchor_weights(x, anchors, sigma, 6)
    laplacian = np.eye(400) - z / mass @ z.T
    lowers = np.linspace(-3, 3, 6001)
    for k, y in enumerate((z @ anchor_eigenvectors(mass, gram, 4)).T):
        positive = y >= 0
        uppers = (np.abs(y).sum() + (~positive).sum() * lowers) / positive.sum()
        f = np.where(positive, y - uppers[:, None], lowers[:, None] - y)
        best = int(((f @ laplacian) * f).sum(axis=1).argmin())
        assert 0 < best < 6000
        assert function.split[1, k] == pytest.approx(lowers[best], abs=1e-3)
        assert function.split[0, k] == pytest.approx(uppers[best], abs=1e-2)


def test_agh_refuses_what_it_cannot_do(in_process):
    data = Data(cut(blobs(300), 2), in_process)
    assert AGH(n_bits=7, layers=1).fit(data).encode(blobs(5).x).shape == (5, 7)
    with pytest.raises(ValueError, match=r"fewer eigenvectors than anchors .*, found 30 eigenvectors, 30 anchors"):
        AGH(n_bits=30, layers=1).fit(data)
    with pytest.raises(ValueError, match=r"expected at least n_nearest = 2 anchors, .*, found 1"):
        AGH(n_bits=2).fit(Data(cut(blobs(19), 1), in_process))
    with pytest.raises(ValueError, match="expected at least n_nearest = 2 anchors, one for 10 rows, found 0"):
        AGH(n_bits=2).fit(Data(cut(blobs(3), 1), in_process))
    same = blobs(300)._replace(x=np.ones((300, 4), np.float32))
    with pytest.raises(ValueError, match="expected rows that differ, found 300 rows with at most 30 different values"):
        AGH(n_bits=2).fit(Data(cut(same, 1), in_process))


@pytest.mark.parametrize("method", [AGH, DGH])
def test_a_disconnected_graph_is_reported(method, in_process):
    batch = blobs(300)
    far = np.arange(300)[:, None] % 10 * 1e5  # ten islands of 30 rows, of some 3 anchors each
    data = Data(cut(batch._replace(x=(batch.x + far).astype(np.float32)), 2), in_process)
    with pytest.raises(
        ValueError, match=r"expected an anchor graph with 24 eigenvalues .* disconnected components: raise n_nearest"
    ):
        method(n_bits=24 if method is DGH else 48, n_nearest=2).fit(data)


@pytest.mark.parametrize("rank", [6, 4])
def test_nearest_balanced_matrix(rank):
    """Of all balanced, uncorrelated Y the nearest: tr(B'Y) is the sum of the singular values of JB, its upper bound."""
    rng = np.random.default_rng(0)
    n, k = 300, 6
    b = sgn(rng.standard_normal((n, k)))
    b[:, rank:] = b[:, : k - rank]  # the same bits twice
    r = rng.standard_normal((n, k))
    both = np.hstack([b, r])
    both = both - both.mean(axis=0)
    y = both @ nearest_balanced(both.T @ both, n)
    np.testing.assert_allclose(y.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(y.T @ y, n * np.eye(k), atol=1e-7)
    bound = np.sqrt(n) * np.linalg.svd(b - b.mean(axis=0), compute_uv=False).sum()
    assert (b * y).sum() == pytest.approx(bound)


@pytest.mark.parametrize("n_rotate", [100, 0])
def test_dgh_raises_its_objective_in_every_step(in_process, monkeypatch, n_rotate):
    """From either start, DGH-R and DGH-I: of the latter Y is the graph's eigenvectors themselves."""
    improved, seen, eigenvectors = dgh.improved, [], []
    of_graph = dgh.anchor_eigenvectors

    def watched_graph(*given):
        eigenvectors.append(of_graph(*given))
        return eigenvectors[0]

    monkeypatch.setattr(dgh, "anchor_eigenvectors", watched_graph)

    def watched(rows, p, mass, rho, n_inner, label):
        """One move of B at a time; B and Y in between by dense formulas."""
        z = np.vstack([part.z.toarray() for shard in rows.shards for part in shard])
        y = all_y(rows)
        assert seen or np.allclose(y, z @ eigenvectors[0]) == (n_rotate == 0)
        for _ in range(n_inner):
            b = sgn(2 * z @ p + rho * y)
            seen.append(((z.T @ b) ** 2 / mass[:, None]).sum() + rho * (b * y).sum())
            before, (solved, p) = p, improved(rows, p, mass, rho, 1, label)
            np.testing.assert_allclose(p, z.T @ b / mass[:, None], atol=1e-9)
            if (p == before).all():
                break
        seen.append(seen[-1] + rho * (b * (all_y(solved) - y)).sum())
        np.testing.assert_allclose(all_y(solved).sum(axis=0), 0, atol=1e-8)
        np.testing.assert_allclose(all_y(solved).T @ all_y(solved), len(y) * np.eye(y.shape[1]), atol=1e-6)
        return solved, p

    def all_y(rows):
        return np.vstack([part.x for shard in rows.shards for part in shard])

    monkeypatch.setattr(dgh, "improved", watched)
    DGH(n_bits=8, n_rotate=n_rotate).fit(Data(cut(blobs(600), 3), in_process))
    assert len(seen) > 5
    assert all(after >= before * (1 - 1e-12) for before, after in pairwise(seen))
    assert seen[-1] > seen[0] * 1.001


def test_dgh_codes_are_the_signs_of_the_anchors_mean_codes(in_process):
    batch = blobs(400)
    function = DGH(n_bits=8).fit(Data(cut(batch, 2), in_process))
    assert isinstance(function, AnchorGraphHash)
    assert function.split.shape == (2, 0)
    assert np.abs(function.weight).max() <= 1 + 1e-6  # means of signs


def objective(centres, counts, sums, target, lam):
    """The paper's, but for what the centres do not change, by loops over pairs."""
    n = counts.sum()
    value = ((counts[:, None] * centres - 2 * sums) * centres).sum() / n
    for i in range(len(centres)):
        for j in range(len(centres)):
            gap = np.linalg.norm(centres[i] - centres[j])
            value += lam * counts[i] * counts[j] / n**2 * (gap - target[i, j]) ** 2
    return value


def cells(k=8, width=3, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 50, k).astype(float)
    means = rng.standard_normal((k, width)) * 2
    means -= counts @ means / counts.sum()
    codes = np.arange(k)[:, None] >> np.arange(3) & 1
    return means + rng.standard_normal((k, width)), counts, counts[:, None] * means, codes


def test_kmh_centres_lower_the_objective_in_every_move():
    centres, counts, sums, codes = cells()
    target = 1.5 * np.sqrt((codes[:, None] != codes).sum(axis=2))
    values = [
        objective(kmh.moved(centres, counts, sums, target, 10.0, k), counts, sums, target, 10.0) for k in range(60)
    ]
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    assert values[-1] < values[0] - 1


def test_kmh_centres_come_to_rest_where_the_gradient_is_zero():
    """Central differences of the paper's objective, and its minimum by SciPy's quasi-Newton method from there."""
    from scipy.optimize import minimize

    centres, counts, sums, codes = cells()
    target = 1.5 * np.sqrt((codes[:, None] != codes).sum(axis=2))
    rest = kmh.moved(centres, counts, sums, target, 10.0, 20000)

    def value(flat):
        return objective(flat.reshape(rest.shape), counts, sums, target, 10.0)

    step = 1e-5 * np.eye(rest.size)
    gradient = [(value(rest.ravel() + e) - value(rest.ravel() - e)) / 2e-5 for e in step]
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert minimize(value, rest.ravel(), method="L-BFGS-B").fun == pytest.approx(value(rest.ravel()), abs=1e-8)


def test_kmh_is_finite_at_coincident_centres_and_empty_cells():
    centres, counts, sums, codes = cells()
    target = 1.5 * np.sqrt((codes[:, None] != codes).sum(axis=2))
    centres[3] = centres[5] = centres[0]
    counts[2], sums[2] = 0, 0
    sums -= counts[:, None] / counts.sum() * sums.sum(axis=0)
    start = objective(centres, counts, sums, target, 10.0)
    found = kmh.moved(centres, counts, sums, target, 10.0, 5)
    assert np.isfinite(found).all()
    assert objective(found, counts, sums, target, 10.0) < start
    np.testing.assert_array_equal(kmh.moved(centres, counts, sums, target, 0.0, 5)[2], centres[2])


def test_kmh_without_affinity_is_kmeans(in_process):
    from sklearn.cluster import KMeans

    batch = blobs(500, 6)
    data = Data(cut(batch, 3), in_process)
    start = KMH(n_bits=4, n_part=4, lam=0.0, n_iter=0).fit(data)
    found = KMH(n_bits=4, n_part=4, lam=0.0, n_iter=7).fit(data)
    v = (batch.x.astype(np.float64) - start.mean) @ start.rotation
    lloyd = KMeans(16, init=start.centres[0].astype(np.float64), n_init=1, max_iter=7, tol=0, algorithm="lloyd")
    np.testing.assert_allclose(found.centres[0], lloyd.fit(v).cluster_centers_, atol=1e-4)
    code = found.encode(batch.x) @ (1 << np.arange(4))
    np.testing.assert_array_equal(code, ((v[:, None] - found.centres[0]) ** 2).sum(axis=2).argmin(axis=1))


def test_kmh_starts_as_pca_hashing(in_process):
    """Before any iteration the cells are the orthants of the leading directions, and a code its centre's signs."""
    batch = blobs(500, 10)
    function = KMH(n_bits=6, n_part=2, n_iter=0).fit(Data(cut(batch, 2), in_process))
    assert function.rotation.shape == (10, 9)  # 10 directions in 3 parts of 3
    np.testing.assert_allclose(function.rotation.T @ function.rotation, np.eye(9), atol=1e-5)
    v = (batch.x - function.mean) @ function.rotation
    np.testing.assert_array_equal(function.encode(batch.x), v[:, [0, 1, 3, 4, 6, 7]] >= 0)


def test_balanced_partition_deals_all_positions_once():
    variances = np.exp(-np.arange(11.0))
    dealt = balanced_partition(variances, 3)
    assert sorted(dealt.ravel()) == list(range(9))
    logs = np.log(variances[dealt]).sum(axis=1)
    assert logs.max() - logs.min() <= 4  # 0 1 2 | 3 4 5 | 6 7 8 would differ by 18
    np.testing.assert_array_equal(balanced_partition(np.array([8.0, 4.0, 2.0, 1.0]), 2), [[0, 3], [1, 2]])


@pytest.mark.parametrize(("n_bits", "part", "message"), [
    (33, 0, "expected n_bits <= the directions in which rows vary, found 0 for 1 bits"),
    (40, 0, "expected n_bits <= the directions in which rows vary, found 6 for 8 bits"),
])  # fmt: skip
def test_kmh_refuses_what_it_cannot_do(n_bits, part, message, in_process):
    with pytest.raises(ValueError, match=message):
        KMH(n_bits=n_bits, n_part=part).fit(Data(cut(blobs(100), 1), in_process))
