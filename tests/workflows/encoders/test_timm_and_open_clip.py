"""The adapters of timm and open_clip, by models of random weights, where these packages are installed."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from workflows.encoders import models

pytestmark = pytest.mark.slow
PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (120, 100, 3), np.uint8)) for i in range(3)]


def encoded(folder, kind, batch):
    """Return the adapter that is found for a model, and its vectors."""
    found = models.find_encoder(str(folder), kind)
    adapter = models.ADAPTERS[found.adapter]
    module = pytest.importorskip(f"workflows.encoders.{adapter.module}")
    return found.adapter, getattr(module, adapter.encoder)(folder, kind, "cpu").encode(batch)


def test_timm_gives_the_features_before_the_classifier(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet10t", num_classes=7).eval()
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    how = {
        "input_size": [3, 96, 96], "interpolation": "bilinear", "crop_pct": 0.9, "mean": mean, "std": deviation,
        "num_classes": 7, "first_conv": "conv1.0", "classifier": "fc",
    }  # fmt: skip
    about = {"architecture": "resnet10t", "num_classes": 7, "pretrained_cfg": how}
    (tmp_path / "config.json").write_text(json.dumps(about))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    adapter, found = encoded(tmp_path, "image", PICTURES)
    network.reset_classifier(0)
    transform = timm.data.create_transform(**{key: how[key] for key in list(how)[:5]})
    with torch.inference_mode():
        expected = network(torch.stack([transform(picture) for picture in PICTURES])).numpy()
    assert adapter == "timm"
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_open_clip_gives_texts_and_pictures_of_length_1(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    sizes = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    network = open_clip.CLIP(**sizes).eval()
    about = {"model_cfg": sizes, "preprocess_cfg": {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.26, 0.27]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(about))
    save_file(network.state_dict(), tmp_path / "open_clip_model.safetensors")
    texts = ["a cat", "a dog and a tree"]
    adapter, found = encoded(tmp_path, "text", texts)
    with torch.inference_mode():
        expected = network.encode_text(open_clip.get_tokenizer("ViT-B-32")(texts), normalize=True).numpy()
    assert adapter == "open_clip"
    np.testing.assert_allclose(found, expected, atol=1e-5)
    _, found = encoded(tmp_path, "image", PICTURES)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
