"""Hash functions and fits at rest, on every filesystem."""

import numpy as np
import pytest

from hashing.families import LinearHash
from hashing.quantizers.rabitq import RaBitQHash
from storage import models
from storage.files import filesystem
from storage.files.filesystem import join


def function(n_bits, d=16):
    rng = np.random.default_rng(n_bits)
    return LinearHash(rng.standard_normal((d, n_bits)), rng.standard_normal(n_bits))


def test_models_are_named_by_their_content(folder):
    digest = models.save_model(folder, function(24))
    loaded = models.load_model(folder, digest)
    np.testing.assert_array_equal(loaded.weight, function(24).weight)
    assert models.save_model(folder, function(24)) == digest
    assert models.save_model(folder, function(25)) != digest
    with pytest.raises(FileNotFoundError, match=r"^model abc is missing from .*/models: restore"):
        models.load_model(folder, "abc")
    url = join(folder, "models", digest, "function.safetensors")
    content = filesystem.read_bytes(url)
    filesystem.write_bytes(url, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"^model {digest} in .* was modified: its content has the digest"):
        models.load_model(folder, digest)


def test_fits_are_recorded(folder):
    assert models.recorded_fit(folder, "key") is None
    models.record_fit(folder, "key", digest := models.save_model(folder, function(24)))
    assert models.recorded_fit(folder, "key") == digest
    models.record_fit(folder, "key", "missing")
    assert models.recorded_fit(folder, "key") is None


def test_a_model_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    path = str(tmp_path / "model.safetensors")
    models.save_file(path, function(24))
    np.testing.assert_array_equal(models.load_file(path).weight, function(24).weight)
    monkeypatch.setattr(models, "FORMAT", models.FORMAT + 1)
    models.save_file(path, RaBitQHash(np.eye(8), np.zeros(8), metric="ip"))  # only functions with a metric have it
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 3, newer than 2: upgrade hashkiln"):
        models.load_file(path)
