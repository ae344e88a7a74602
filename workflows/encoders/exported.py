"""Networks in one file, .pt2 of torch.export or .onnx: one output (n, d), and inputs as `inputs` prepares them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hashing.mapreduce import Array

from .contract import EncoderRefused
from .inputs import Pictures, Texts
from .pictures import BATCH, in_batches

ONE_PER_ROW = "sentence_embedding"  # the output of sentence-transformers' ONNX files, after that of the tokens


class TorchFile:
    """A network saved by torch.export.save, with a dynamic first dimension.

    It takes pictures (n, 3, height, width) float32; or input_ids and attention_mask (n, tokens) int64.
    """

    def __init__(self, folder: Path, kind: str, device: str) -> None:
        from torch.export.passes import move_to_device_pass

        path = only(folder, ".pt2")
        refuse_pickles(path)
        program = torch.export.load(path)
        inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
        _check_dynamic(inputs[0].meta["val"].shape[0], path)
        self.model = move_to_device_pass(program, device).module()
        self.prepare = Pictures(folder) if kind == "image" else Texts(folder)
        self.names = ("input_ids", "attention_mask", "token_type_ids")[: len(inputs)]
        self.device = device

    @torch.inference_mode()
    def encode(self, batch: Sequence[Any]) -> Array:
        return _vectors(in_batches(self._run, batch))

    def _run(self, part: Sequence[Any]) -> Any:
        found = self.prepare(part)
        arrays = [found[name] for name in self.names] if isinstance(found, dict) else [found]
        return self.model(*(torch.from_numpy(array).to(self.device) for array in arrays))


class OnnxFile:
    """A network in ONNX, with a dynamic first dimension. Texts are given by the names of the inputs."""

    def __init__(self, folder: Path, kind: str, device: str) -> None:
        import onnxruntime

        path = only(folder, ".onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # Ray sets it to the CPUs of a task
        usable = onnxruntime.get_available_providers()
        wanted = ["CUDAExecutionProvider"] if device == "cuda" else []
        providers = [name for name in (*wanted, "CPUExecutionProvider") if name in usable]
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        inputs = self.session.get_inputs()
        _check_dynamic(inputs[0].shape[0], path)
        self.names = [given.name for given in inputs]
        self.half = inputs[0].type == "tensor(float16)"
        outputs = [output.name for output in self.session.get_outputs()]
        self.output = ONE_PER_ROW if ONE_PER_ROW in outputs else outputs[0]
        self.prepare = Pictures(folder) if kind == "image" else Texts(folder)

    def encode(self, batch: Sequence[Any]) -> Array:
        parts = [self._run(batch[i : i + BATCH]) for i in range(0, len(batch), BATCH)]
        return _vectors(np.concatenate(parts).astype(np.float32, copy=False))

    def _run(self, part: Sequence[Any]) -> Array:
        found = self.prepare(part)
        if not isinstance(found, dict):
            found = {self.names[0]: found.astype(np.float16) if self.half else found}
        output: Array = self.session.run([self.output], {name: found[name] for name in self.names})[0]
        return output


def only(folder: Path, suffix: str) -> Path:
    """Return the file with a suffix in a folder."""
    return next(path for path in sorted(folder.iterdir()) if path.suffix == suffix)


def refuse_pickles(path: Path) -> None:
    """Raise EncoderRefused for a .pt2 file from which torch would load pickled objects, which can run code."""
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "archive_format" not in names:
            raise EncoderRefused(f"{path.name} has the layout of an old torch, which holds pickles: export it again")
        if compiled := [name for name in names if name.startswith("data/aotinductor/")]:
            raise EncoderRefused(f"{path.name} holds compiled code, {compiled[0]}: save it by torch.export.save")
        for name, full in names.items():
            content = archive.read(full) if name.startswith("data/") and name.endswith((".json", ".pt")) else b""
            if name.endswith("_config.json"):
                pickled = [key for key, entry in json.loads(content)["config"].items() if entry["use_pickle"]]
            elif content:  # the inputs of the export, tensors in nested tuples and dicts
                pickled = [] if _is_plain(content) else [name]
            else:
                pickled = []
            if pickled:
                raise EncoderRefused(
                    f"{path.name} holds {pickled[0]} as a pickle, which can run code: export it without"
                )


def _is_plain(content: bytes) -> bool:
    """Return whether the content of a file of torch.save holds only tensors and plain values."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # of many types
        return False
    return True


def _check_dynamic(first: Any, path: Path) -> None:
    if isinstance(first, int):
        raise EncoderRefused(f"{path.name} takes {first} rows at a time: export it with a dynamic first dimension")


def _vectors(output: Array) -> Array:
    if output.ndim != 2:
        found = "x".join(map(str, output.shape[1:]))
        raise EncoderRefused(
            f"expected one vector for each row, found an output of {found}: export the network with its pooling"
        )
    return output
