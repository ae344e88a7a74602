"""Encoders of a few weights, as users store them: ONNX files for pictures and texts, and the same network as .pt2."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
WORDS = [
    "[PAD]",
    "[UNK]",
    "cat",
    "purrs",
    "whiskers",
    "car",
    "wheel",
    "engine",
    "tree",
    "leaf",
    "root",
    "the",
    "of",
    "a",
]
MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def weights(seed, rows, d=5):
    return np.random.default_rng(seed).normal(size=(rows, d)).astype(np.float32)


def picture_onnx(folder, seed=0, rows="n"):
    """Write an ONNX file that multiplies the mean colour by a matrix, and its preprocessing; return its path."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 3, SIDE, SIDE])
    return _write(folder, nodes, [given], weights(seed, 3))


def text_onnx(folder, seed=0):
    """Write the mean of word vectors, padding included, as an ONNX file with its tokenizer; return its path."""
    nodes = [
        helper.make_node("Gather", ["w", "input_ids"], ["words"]),
        helper.make_node("ReduceMean", ["words"], ["y"], axes=[1], keepdims=0),
    ]
    given = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "words"])
    table = weights(seed, len(WORDS))
    table[0] = 0
    path = _write(folder, nodes, [given], table)
    tokenizer(folder)
    return path


def _write(folder, nodes, inputs, w):
    folder.mkdir(exist_ok=True)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", w.shape[1]])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    preprocessing(folder)
    return folder / "model.onnx"


def preprocessing(folder):
    about = {"size": {"height": SIDE, "width": SIDE}, "image_mean": MEAN, "image_std": DEVIATION}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))


def tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 6, "pad_token": "[PAD]"}))


def of_pictures(pixels, seed=0):
    """Return the vectors (n, 5) that the network of `picture_onnx` has for pictures (n, SIDE, SIDE, 3) uint8."""
    x = pixels.astype(np.float64).mean(axis=(1, 2)) / 255
    return ((x - MEAN) / DEVIATION) @ weights(seed, 3)


def picture_pt2(folder, seed=0, rows=None):
    """Write the network of `picture_onnx` as a file of torch.export; return its path."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.from_numpy(weights(seed, 3)))

        def forward(self, x):
            return x.mean((2, 3)) @ self.w

    folder.mkdir(exist_ok=True)
    sizes = None if rows else ({0: torch.export.Dim("n")},)
    example = torch.rand(rows or 2, 3, SIDE, SIDE)
    program = torch.export.export(Network().eval(), (example,), dynamic_shapes=sizes)
    torch.export.save(program, folder / "model.pt2")
    preprocessing(folder)
    return folder / "model.pt2"
