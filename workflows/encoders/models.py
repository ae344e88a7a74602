"""Find an encoder by path or by its name on the Hugging Face hub, store it in the warehouse, and load it on workers.

Only files that hold no code are used: safetensors, ONNX, .pt2 of torch.export, JSON and vocabularies; never pickles.
"""

import hashlib
import json
import mmap
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

from hashing.mapreduce import Array
from storage import encoders
from storage.features import media

from .contract import Encoder, EncoderRefused, check_output, need
from .inputs import PICTURES, TOKENIZER, TOKENIZER_SETTINGS

WEIGHTS = (".safetensors", ".onnx", ".pt2")
SUFFIXES = (*WEIGHTS, ".json", ".txt", ".model", ".jinja")
OTHER_FORMATS = ("onnx", "openvino")  # folders with further copies of the weights
EXTERNAL = re.compile(rb"\n\x08location\x12([\x01-\x7f])")  # in an ONNX file, before the name of a file of weights
HUB_OWNER = "sentence-transformers"  # of models that are named without an owner
PINNED = "sha256:"


class Adapter(NamedTuple):
    """How to run the models of one library. A change in what it computes is a new version."""

    module: str  # of this package
    encoder: str  # class in that module
    needs: tuple[str, ...]  # packages
    extra: str  # of hashkiln, which installs them
    kinds: tuple[str, ...]
    version: int = 1


ADAPTERS = {
    "sentence-transformers": Adapter(
        "sentences", "SentenceEncoder", ("sentence_transformers",), "sentence-transformers", ("text",)
    ),
    "open_clip": Adapter("clip", "ClipEncoder", ("open_clip",), "open-clip", ("image", "text")),
    "timm": Adapter("pictures", "TimmEncoder", ("timm",), "timm", ("image",)),
    "onnx": Adapter("exported", "OnnxFile", ("onnxruntime", "tokenizers"), "onnx", ("image", "text"), 2),
    "torch.export": Adapter("exported", "TorchFile", (), "onnx", ("image", "text"), 2),
}


class FoundEncoder(NamedTuple):
    """An encoder whose files were found, and not yet stored in the warehouse."""

    name: str  # as the user gave it
    adapter: str
    digest: str  # identity: the adapter, its version, and the content of all files
    files: dict[str, Path]  # by path below the folder of the encoder
    checksums: dict[str, str]  # SHA-256 of each

    def save(self, warehouse: str, kind: str) -> None:
        """Store the encoder, unless it is stored already. Raise EncoderRefused if it cannot encode a short batch."""
        if not encoders.encoder_exists(warehouse, self.digest):
            self._try(kind)
        about = {"name": self.name, "adapter": self.adapter, "files": self.checksums}
        encoders.save_encoder(warehouse, self.digest, self.files, about)

    def _try(self, kind: str) -> None:
        one = "a text" if kind == "text" else media.picture(b"P6 64 48 255\n" + bytes(64 * 48 * 3))  # a black PPM
        with TemporaryDirectory(prefix="hashkiln-encoder-") as name:
            for path, file in self.files.items():
                copy = Path(name, path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            try:
                check_output(_load(self.adapter, Path(name), kind, "cpu").encode([one, one]).shape, 2)
            except EncoderRefused:
                raise
            except Exception as error:  # of many types and libraries
                reason = str(error).strip().partition("\n")[0]
                raise EncoderRefused(f"cannot use {self.name}: {type(error).__name__}: {reason}") from error


def find_encoder(text: str, kind: str) -> FoundEncoder:
    """Return the encoder that a user names, for texts or pictures.

    Parameters
    ----------
    text
        A folder; a file .onnx or .pt2; or the name of a model on the hub, such as all-MiniLM-L6-v2 or owner/model. A
        name may end with @ and the revision to download, or with @sha256: and the expected digest. A path that exists
        may itself contain @.
    kind
        "text" or "image".

    Raises
    ------
    EncoderRefused
        If there is no such model, if it has no files that can be used, if its form is unknown, if it encodes
        another kind, if a local one is given with a revision, if its digest differs, or if a package that it needs is
        missing.
    """
    name, pin = _name_and_pin(text)
    expected = pin.removeprefix(PINNED) if pin.startswith(PINNED) else ""
    path = Path(name).expanduser()
    if not path.exists():
        path = _download(name, "" if expected else pin)
    elif pin and not expected:
        raise EncoderRefused(
            f"{name} is a local path, which has no revision {pin}: pass the path alone, or @sha256:DIGEST"
        )
    adapter, files = _form(path)
    about = ADAPTERS[adapter]
    if kind not in about.kinds:
        raise EncoderRefused(f"{name} encodes {' and '.join(about.kinds)}, found a dataset of {kind}s")
    _need_packages(about, kind)
    if adapter in ("onnx", "torch.export"):
        _check_inputs(path, kind, files)
    checksums = {name: _sha256(file) for name, file in sorted(files.items())}
    identity = json.dumps([adapter, about.version, checksums])
    digest = hashlib.sha256(identity.encode()).hexdigest()
    if expected and digest != expected:
        raise EncoderRefused(f"expected the encoder {name} with the digest {expected}, found {digest}")
    return FoundEncoder(text, adapter, digest, files, checksums)


def _name_and_pin(text: str) -> tuple[str, str]:
    """Return the name of an encoder, and what follows the last @; empty if the whole text is a path that exists."""
    if Path(text).expanduser().exists():
        return text, ""
    name, at, pin = text.rpartition("@")
    return (name, pin) if at else (text, "")


def _need_packages(adapter: Adapter, kind: str) -> None:
    """Raise EncoderRefused, with the extra to install, if a package of an adapter is missing."""
    for package in adapter.needs:
        if package != "tokenizers" or kind == "text":
            need(package, adapter.extra)


def _form(path: Path) -> tuple[str, dict[str, Path]]:
    """Return the adapter of a model, and its files by their paths below its folder."""
    if path.is_file():
        return _single_file(path)
    files = {str(file.relative_to(path)): file for file in sorted(_usable(path))}
    if "modules.json" in files:
        adapter = "sentence-transformers"
    elif "open_clip_config.json" in files:
        adapter = "open_clip"
    elif "config.json" in files and "architecture" in _read_json(files["config.json"]):
        adapter = "timm"
    else:
        single = [file for name, file in files.items() if "/" not in name and file.suffix in WEIGHTS[1:]]
        if len(single) != 1:
            raise EncoderRefused(
                f"expected a model of sentence-transformers (modules.json), open_clip (open_clip_config.json) or timm "
                f"(config.json), or one file .onnx or .pt2, found {', '.join(list(files)[:8]) or 'nothing'}, in {path}"
            )
        return _single_file(single[0])
    files = {name: file for name, file in files.items() if not name.endswith(WEIGHTS[1:])}
    if not any(name.endswith(".safetensors") for name in files):
        raise EncoderRefused(
            f"expected weights as .safetensors in {path}, found none: others, such as .bin and .pt, are pickles, which "
            "can run code: save the model as safetensors"
        )
    return adapter, files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise EncoderRefused(f"{path} is not valid JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def _usable(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        inside = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in inside)
        if file.is_file() and file.suffix in SUFFIXES and not hidden and inside[0] not in OTHER_FORMATS:
            yield file


def _single_file(path: Path) -> tuple[str, dict[str, Path]]:
    if path.suffix not in WEIGHTS[1:]:
        raise EncoderRefused(f"expected a folder, or a file .onnx or .pt2, found {path}")
    described_by = [path.with_name(name) for name in (PICTURES, TOKENIZER, TOKENIZER_SETTINGS)]
    files = {file.name: file for file in (path, *described_by) if file.exists()}
    if path.suffix == ".onnx" and path.stat().st_size:
        files |= {name: path.parent / name for name in _external(path) if (path.parent / name).is_file()}
    return "onnx" if path.suffix == ".onnx" else "torch.export", files


def _external(path: Path) -> set[str]:
    """Return the files of weights that an ONNX file names, relative to its folder."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = [content[match.end() : match.end() + match[1][0]] for match in EXTERNAL.finditer(content)]
    names = {name.decode(errors="replace") for name in found}
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise EncoderRefused(f"{path} names weights outside its folder, {name}: save them in that folder")
    return {Path(name).as_posix() for name in names}


def _check_inputs(path: Path, kind: str, files: dict[str, Path]) -> None:
    """Raise EncoderRefused if the file that describes the inputs of a network is missing."""
    if (needed := PICTURES if kind == "image" else TOKENIZER) not in files:
        hint = ", with size, image_mean and image_std" if kind == "image" else ""
        raise EncoderRefused(
            f"expected {needed} in the folder of {path}, to describe its inputs{hint}: see `hashkiln embed --help`"
        )


def _download(name: str, revision: str) -> Path:
    """Download the usable files of a model from the hub, and return their local folder."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise EncoderRefused(
            f"no such file or folder: {name}; to download models by name: pip install 'hashkiln[sentence-transformers]'"
        ) from None
    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    ignored = [f"{folder}/*" for folder in OTHER_FORMATS]
    repository = name if "/" in name else f"{HUB_OWNER}/{name}"
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns, ignore_patterns=ignored)
        )
    except Exception as error:  # of many types: no network, no such model, a private one
        reason = str(error).strip().partition("\n")[0]
        raise EncoderRefused(
            f"no such file or folder: {name}; and not from the hub, as {repository}: {reason}"
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_lock = Lock()


@dataclass(frozen=True)
class StoredEncoder:
    """An encoder in the warehouse. It is small: a worker loads the network when it first encodes."""

    warehouse: str
    digest: str
    kind: str  # text or image
    device: str  # cpu or cuda

    def __call__(self, batch: Sequence[Any]) -> Array:
        """Return the vectors (n, d) float32 of a batch."""
        with _lock:  # a GPU actor reads and writes in another thread meanwhile
            return _loaded(self).encode(batch)


@lru_cache(maxsize=1)
def _loaded(stored: StoredEncoder) -> Encoder:
    adapter: str = encoders.describe_encoder(stored.warehouse, stored.digest)["adapter"]
    _need_packages(ADAPTERS[adapter], stored.kind)
    return _load(adapter, encoders.encoder_folder(stored.warehouse, stored.digest), stored.kind, stored.device)


def _load(adapter: str, folder: Path, kind: str, device: str) -> Encoder:
    module = import_module(f".{ADAPTERS[adapter].module}", __package__)
    encoder: Encoder = getattr(module, ADAPTERS[adapter].encoder)(folder, kind, device)
    return encoder
