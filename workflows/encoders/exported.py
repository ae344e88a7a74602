"""Networks in one file, .pt2 of torch.export or .onnx: one output (n, d), and inputs as `inputs` prepares them."""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hashing.mapreduce import Array

from .contract import EncoderRefused, check_output
from .inputs import Pictures, Texts
from .pictures import BATCH, in_batches

ONE_PER_ROW = "sentence_embedding"  # the output of sentence-transformers' ONNX files, after that of the tokens
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TENSOR = re.compile(r"(weight|tensor)_[0-9]+")  # files of plain numbers; torch unpickles others, such as opaque_obj_0

# What torch.export.save writes of a network of plain operators. On load torch evaluates expressions, calls operators
# and writes names into Python source, without checks.
FUNCTIONS = (
    "Integer|Rational|Add|Mul|Pow|Abs|Max|Min|Mod|FloorDiv|ModularIndexing|PythonMod|CleanDiv|CeilDiv|CeilToInt|"
    "FloorToInt|TruncToInt|RoundToInt|TruncToFloat|ToFloat|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|Where|"
    "Identity|Equality|Unequality|StrictGreaterThan|GreaterThan|StrictLessThan|LessThan|And|Or|Not"
)
OPERATORS = "eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|pow|mod|floordiv|truediv|lshift|rshift|and_|or_|getitem"
EXPRESSION = rf"(?:(?:Symbol|Float)\('[\w.+-]+'|(?:{FUNCTIONS})\(|[a-z_]+=(?:True|False|[0-9])|true|false|[0-9(), -])*"
OPERATOR = (
    rf"torch\.ops\.aten\.(?!from_file)\w+\.[A-Za-z]\w*|torch\.sym_\w+|_operator\.(?:{OPERATORS})|math\.[a-z]\w*|"
    r"torch\.ops\.higher_order\.wrap_with_(?:set_grad_enabled|autocast)"
)
TYPE = r"type|context|children_spec|null|builtins\.(?:tuple|list|dict)"
TREE = rf'(?:[]\[{{}}:, 1]|null|"(?:{TYPE}|\[(?:\\"\w+\\"(?:, )?)*\])")*'
PROGRAM = {"expr_str": EXPRESSION, "target": OPERATOR, "as_operator": OPERATOR, "in_spec": TREE, "out_spec": TREE}
PROGRAM |= {"as_string": r"[^\n]*", "metadata": r"[\s\S]*"}  # never evaluated
NAME = r"[\w.+-]*"


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
        self.names = TEXT_INPUTS[: len(inputs)]
        self.device = device

    @torch.inference_mode()
    def encode(self, batch: Sequence[Any]) -> Array:
        return in_batches(self._run, batch)

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
        if (kind == "text" and not set(self.names) <= set(TEXT_INPUTS)) or (kind == "image" and len(inputs) != 1):
            expected = " and ".join(TEXT_INPUTS) if kind == "text" else "one of pictures"
            raise EncoderRefused(f"{path.name} has the inputs {', '.join(self.names)}: expected {expected}")
        self.half = inputs[0].type == "tensor(float16)"
        outputs = [output.name for output in self.session.get_outputs()]
        self.output = ONE_PER_ROW if ONE_PER_ROW in outputs else outputs[0]
        self.prepare = Pictures(folder) if kind == "image" else Texts(folder)

    def encode(self, batch: Sequence[Any]) -> Array:
        parts = [self._run(batch[i : i + BATCH]) for i in range(0, len(batch), BATCH)]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def _run(self, part: Sequence[Any]) -> Array:
        found = self.prepare(part)
        if not isinstance(found, dict):
            found = {self.names[0]: found.astype(np.float16) if self.half else found}
        output: Array = self.session.run([self.output], {name: found[name] for name in self.names})[0]
        check_output(output.shape, len(part))
        return output


def only(folder: Path, suffix: str) -> Path:
    """Return the file with a suffix in a folder."""
    return next(path for path in sorted(folder.iterdir()) if path.suffix == suffix)


def refuse_pickles(path: Path) -> None:
    """Raise EncoderRefused if torch would run code from a .pt2 file: from pickles, compiled code or expressions."""
    from torch.export.pt2_archive import PT2ArchiveReader

    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    top = members[0].partition("/")[0] + "/" if members else ""
    names = [name.removeprefix(top) for name in members]
    if "archive_format" not in names:
        raise EncoderRefused(f"{path.name} has the layout of an old torch, which holds pickles: export it again")
    # torch ignores case, may take another of two files than zipfile does, and falls back to files outside a folder.
    if len({name.lower() for name in names}) < len(names) or not all(name.startswith(top) for name in members):
        raise EncoderRefused(f"{path.name} holds files of one name, or several folders: save it by torch.export.save")
    with PT2ArchiveReader(str(path)) as reader:  # that of torch.export.load
        if reader.get_file_names() != names:
            raise EncoderRefused(f"{path.name} is a damaged archive: save it by torch.export.save")
        for name in names:
            if name.lower().startswith("data/aotinductor/"):
                raise EncoderRefused(f"{path.name} holds compiled code, {name}: save it by torch.export.save")
            if pickled := _pickled(name, reader):
                raise EncoderRefused(f"{path.name} holds {pickled} as a pickle, which can run code: export it without")
            if name.lower().startswith("models/"):
                for key, text in _strings(json.loads(reader.read_string(name))):
                    if not re.fullmatch(PROGRAM.get(key, NAME), text):
                        raise EncoderRefused(
                            f"{path.name} holds {text[:80]!r} as {key or 'a name'}, which may run code: export a "
                            "network of plain operators"
                        )


def _pickled(name: str, reader: Any) -> str:
    """Return what torch would load as a pickle because of a file in an archive, or nothing."""
    folder, _, last = name.lower().rpartition("/")
    if folder in ("data/weights", "data/constants") and last.endswith("_config.json"):
        for key, entry in json.loads(reader.read_string(name))["config"].items():
            if entry["use_pickle"] is not False or not TENSOR.fullmatch(entry["path_name"]):
                return str(key)
    elif folder.startswith(("data/weights", "data/constants")):
        return "" if TENSOR.fullmatch(last) else name
    elif folder.startswith("data/"):  # the inputs of the export, tensors in nested tuples and dicts
        content = reader.read_bytes(name)
        return name if content and not _is_plain(content) else ""
    return ""


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the strings of a JSON value, each with its key; "metadata" for those directly in it."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, list):
        for one in node:
            yield from _strings(one, key)
    elif isinstance(node, dict):
        for name, one in node.items():
            yield "", name
            yield from _strings(one, key if key == "metadata" and isinstance(one, str) else name)


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
