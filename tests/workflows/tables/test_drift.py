"""Drift: moments recorded during encoding, detection, and the refit."""

import json

import numpy as np
import pytest

from hashing import bits
from infra.executors import InProcess
from storage import models
from storage.files import npz
from tests.conftest import blobs
from tests.workflows.conftest import D, encoded_from_source, published_codes, reindex, spec, table_of, write_shard
from workflows.context import Context
from workflows.reindex import fitting, staging
from workflows.tables import drift


def moments(u):
    summed = np.zeros((4, u.shape[1]))
    bits.pack_signs(u.astype(np.float32), summed)
    return summed


@pytest.mark.parametrize(
    ("shift", "scale", "moved"), [(0, 1, 0), (0.5, 1, 0.5), (-2, 1, 2), (0, 2, 1), (0, 0.5, 0.5), (3, 5, 5)]
)
def test_drift_is_measured_in_standard_deviations_of_the_training_rows(shift, scale, moved):
    u = np.random.default_rng(0).standard_normal((100_000, 8))
    new = np.random.default_rng(1).standard_normal((50_000, 8))
    new[:, 5] = new[:, 5] * scale + shift
    found = drift.between(moments(7 * u + 3), moments(7 * new + 3), limit=0.4)
    assert found.moved == pytest.approx(moved, abs=0.02, rel=0.02)
    assert found.shows == (moved > 0.4)
    assert found.bit == 5 or not moved
    assert found.balance == (7 * new[:, found.bit] + 3 >= 0).mean()
    assert found.rows == 50_000


def test_movement_of_few_rows_by_chance_is_no_drift():
    u = np.random.default_rng(0).standard_normal((100_000, 64))
    own = moments(u)
    found = [drift.between(own, moments(u[i : i + 40]), limit=0.5) for i in range(0, 40_000, 40)]
    assert max(one.moved for one in found) > 0.5
    assert not any(one.shows for one in found)


def test_a_bit_that_was_constant_in_training_has_no_standard_deviation():
    u = np.random.default_rng(0).standard_normal((1000, 3))
    u[:, 1] = 2
    found = drift.between(moments(u), moments(np.add(u, [0, 9, 0])), limit=0.5)
    assert (found.moved, found.shows) == (0, False)


def test_moments_of_the_parts_add_up_to_those_of_all_rows(settings, mine):
    staged, _, _ = reindex(settings, spec())
    function = models.load_model(settings.warehouse_url, staged.model.digest)
    u = np.concatenate([function.project(batch.x) for shard in mine.shards("base") for batch in shard])
    expected = np.stack([np.full(16, 800), (u >= 0).sum(0), u.sum(0, np.float64), (u.astype(np.float64) ** 2).sum(0)])
    table = table_of(settings)
    parts = table.parts(table.version().snapshot_id).values()
    np.testing.assert_allclose(drift.moments_of_parts(parts), expected, rtol=1e-12, atol=1e-9)
    stored = drift.first_moments(settings.warehouse_url, staged.model.digest)
    np.testing.assert_array_equal(stored, drift.moments_of_parts(parts))


def test_new_rows_of_the_same_distribution_keep_the_model(settings, mine, source):
    first, _, _ = reindex(settings, spec())
    assert first.drift is None
    for i in (4, 5):
        write_shard(source, f"part{i}.parquet", blobs(300, D, seed=i, first_id=1000 * i))
        staged, _, _ = reindex(settings, spec(refit="drift"))
        assert (staged.model.digest, staged.encoded, staged.drift.rows) == (first.model.digest, 300, 300)
        assert staged.drift.moved < 0.3
    told = json.loads(table_of(settings).version().properties["drift"])
    assert told == staged.drift.model_dump()
    assert "no drift: bit" in table_of(settings).version().properties["verdict"]


def test_rows_of_another_distribution_cause_a_refit_and_all_shards_are_encoded_again(settings, mine, source):
    first, _, _ = reindex(settings, spec())
    far = blobs(400, D, seed=4, first_id=4000)
    far = far._replace(x=far.x + 4 * np.random.default_rng(5).standard_normal(D).astype(np.float32))
    write_shard(source, "part4.parquet", far)
    kept = staging.stage(Context.of(spec(), settings, InProcess()), first.model)
    assert kept.drift.shows
    assert fitting.refit_reason(spec(), kept) == ""  # reported, but no refit unless requested
    staged, _, version = reindex(settings, spec(refit="drift", gate={"force": "to look at it"}))
    assert (version, staged.encoded, staged.rows) == ("v2", 1200, 1200)
    assert staged.model.digest != first.model.digest
    properties = table_of(settings).version().properties
    assert properties["model"] == staged.model.digest
    assert properties["fitted"].startswith("drift: bit")
    assert published_codes(settings) == encoded_from_source(settings, mine)
    assert reindex(settings, spec(refit="drift"))[0].unchanged
    strict = spec(refit="drift", max_drift=9)
    write_shard(source, "part5.parquet", far._replace(ids=far.ids + 1000))
    assert reindex(settings, strict)[0].model == staged.model.model_copy(
        update={"reason": "reuses the model of v2", "seconds": 0, "rows": 0}
    )


def test_without_recorded_moments_there_is_no_drift(settings, mine, source):
    """With a model published by an older program, and with damaged moments."""
    first, _, _ = reindex(settings, spec())
    url = f"{settings.warehouse_url}/models/{first.model.digest}/moments.npz"
    assert npz.read_arrays(url)["moments"].shape == (4, 16)
    with open(url, "r+b") as file:
        file.truncate(100)
    write_shard(source, "part4.parquet", blobs(300, D, seed=4, first_id=4000))
    staged, _, version = reindex(settings, spec(refit="drift"))
    assert (version, staged.drift, staged.model.digest) == ("v2", None, first.model.digest)
