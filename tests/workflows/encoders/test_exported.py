"""Networks in one file give the vectors of the network, and nothing is loaded that can run code."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from storage import encoders
from tests import tiny_encoders
from tests.hub import COMMIT, serving_hub
from tests.tiny_encoders import SIDE
from workflows.encoders import models
from workflows.encoders.contract import EncoderRefused
from workflows.encoders.exported import OnnxFile, TorchFile
from workflows.encoders.inputs import Pictures, Texts

PIXELS = np.random.default_rng(1).integers(0, 256, (70, SIDE, SIDE, 3), np.uint8)
PICTURES = [Image.fromarray(one) for one in PIXELS]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return tiny_encoders.picture_pt2(tmp_path_factory.mktemp("encoder"))


def rewritten(path, folder, change):
    """Copy a .pt2 file and its preprocessing to a folder, with `change(name, content)` applied to each member."""
    folder.mkdir()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(folder / path.name, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    tiny_encoders.preprocessing(folder)
    return folder


def test_a_file_of_torch_export_and_an_onnx_file_give_the_vectors_of_the_network(exported, tmp_path):
    expected = tiny_encoders.of_pictures(PIXELS)
    tiny_encoders.picture_onnx(tmp_path)
    for encoder in (TorchFile(exported.parent, "image", "cpu"), OnnxFile(tmp_path, "image", "cpu")):
        found = encoder.encode(PICTURES)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_text_is_cut_at_the_limit_of_its_tokenizer(tmp_path):
    tiny_encoders.text_onnx(tmp_path)
    texts = ["cat car tree leaf root engine wheel", "cat car tree leaf root engine"]
    found = OnnxFile(tmp_path, "text", "cpu").encode(texts)
    np.testing.assert_array_equal(*found)
    assert Texts(tmp_path)(["cat unknown", "cat"])["input_ids"].tolist() == [[2, 1], [2, 0]]


def test_pictures_are_resized_by_their_shorter_side_and_cropped_in_the_middle(tmp_path):
    about = {"size": {"shortest_edge": 8}, "crop_size": 4, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 12:20] = 255  # columns 6 to 10 after the resize to 16, the ones that the crop takes
    found = Pictures(tmp_path)([Image.fromarray(pixels)])
    assert found.shape == (1, 3, 4, 4)
    assert found.min() > 0.8


def pictures_by(folder, **about):
    given = {"size": 4, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, **about}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return Pictures(folder)


def test_a_size_of_one_number_is_the_shorter_side_before_a_crop(tmp_path):
    picture = Image.fromarray(PIXELS[0]).resize((32, 16))
    expected = pictures_by(tmp_path, size={"shortest_edge": 8}, crop_size=4)([picture])
    np.testing.assert_array_equal(pictures_by(tmp_path, size=8, crop_size=4)([picture]), expected)
    assert pictures_by(tmp_path, size=8, crop_size=4, do_center_crop=False)([picture]).shape == (1, 3, 8, 8)


def test_steps_that_the_preprocessing_turns_off_are_left_out(tmp_path):
    x = PIXELS[0].transpose(2, 0, 1)[None]
    off = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    np.testing.assert_array_equal(pictures_by(tmp_path, **off)(PICTURES[:1]), x)
    found = pictures_by(tmp_path, do_resize=False, do_normalize=False)(PICTURES[:1])
    np.testing.assert_allclose(found, x / 255, rtol=1e-6)
    found = pictures_by(tmp_path, do_resize=False, do_rescale=False)(PICTURES[:1])
    np.testing.assert_allclose(found, x * 2.0 - 1, rtol=1e-6)


def test_texts_are_padded_and_cut_on_the_side_that_the_tokenizer_says(tmp_path):
    tiny_encoders.tokenizer(tmp_path)
    about = {"model_max_length": 2, "pad_token": "[PAD]", "padding_side": "left", "truncation_side": "left"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    assert Texts(tmp_path)(["cat purrs whiskers", "cat"])["input_ids"].tolist() == [[3, 4], [0, 2]]


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_pickles_in_a_file_of_torch_export_are_refused_before_they_run(exported, tmp_path, capsys):
    def in_inputs(name, content):
        file = io.BytesIO()
        torch.save(Evil(), file)
        return file.getvalue() if "sample_inputs" in name else content

    def in_weights(name, content):
        return content.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else content

    for part, change in enumerate((in_inputs, in_weights)):
        folder = rewritten(exported, tmp_path / str(part), change)
        with pytest.raises(EncoderRefused, match=r"model.pt2 holds .* as a pickle, which can run code"):
            TorchFile(folder, "image", "cpu")
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("serialized_state_dict.pt", pickle.dumps(Evil()))
    with pytest.raises(EncoderRefused, match="layout of an old torch"):
        TorchFile(tmp_path, "image", "cpu")
    assert capsys.readouterr().out == ""


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("prefix", ["opaque_obj_", "custom_obj_", "tensor_x"])
def test_a_constant_that_torch_would_unpickle_is_refused(exported, tmp_path, prefix):
    touched = tmp_path / "touched"

    def change(name, content):
        if "constants_config" not in name:
            return content
        with zipfile.ZipFile(exported) as archive:
            weights = json.loads(archive.read("model/data/weights/model_weights_config.json"))["config"]
        return json.dumps({"config": {"c": {**weights["w"], "path_name": f"{prefix}0", "is_param": False}}})

    folder = rewritten(exported, tmp_path / "evil", change)
    payload = pickle.dumps(Touch(touched))
    with zipfile.ZipFile(folder / "model.pt2", "a") as archive:
        archive.writestr(f"model/data/constants/{prefix}0", payload + b"\0" * (-len(payload) % 4))
    with pytest.raises(EncoderRefused, match=r"model.pt2 holds .* as a pickle, which can run code"):
        TorchFile(folder, "image", "cpu")
    assert not touched.exists()


@pytest.mark.parametrize("place", ["expression", "expression of metadata", "operator", "name", "tree"])
def test_a_program_whose_strings_torch_would_run_is_refused(exported, tmp_path, place):
    touched = tmp_path / "touched"
    code = f"open({str(touched)!r}, 'w')"

    def change(name, content):
        if not name.endswith("models/model.json"):
            return content
        program = json.loads(content)
        graph = program["graph_module"]["graph"]
        if place == "expression":
            graph["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = code
        elif place == "expression of metadata":
            graph["tensor_values"]["metadata"] = json.loads(json.dumps(graph["tensor_values"]["x"]))
            graph["tensor_values"]["metadata"]["sizes"][0]["as_expr"]["expr_str"] = code
        elif place == "operator":
            graph["nodes"][0]["target"] = "torch.os.system"
        elif place == "tree":
            signature = program["graph_module"]["module_call_graph"][0]["signature"]
            signature["in_spec"] = signature["in_spec"].replace("builtins.dict", "collections.defaultdict")
        else:
            return json.dumps(program).replace('"x"', json.dumps(f"x={code}"))
        return json.dumps(program)

    folder = rewritten(exported, tmp_path / "evil", change)
    with pytest.raises(EncoderRefused, match=r"model.pt2 holds .*, which may run code"):
        TorchFile(folder, "image", "cpu")
    assert not touched.exists()


def test_a_network_of_many_operators_is_not_refused(tmp_path):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.normal = torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.BatchNorm2d(4)
            self.layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        def forward(self, x):
            x = torch.nn.functional.gelu(self.normal(self.convolution(x)), approximate="tanh")
            x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = self.layer(x.flatten(2).transpose(1, 2))
            with torch.no_grad():
                scale = torch.tensor([1.0, 2.0, 3.0, -float("inf")]).clamp(min=0)
            return torch.einsum("nld,d->nd", x, scale).half().float()

    n, height = torch.export.Dim("n"), torch.export.Dim("height", min=8, max=99)
    example = torch.rand(2, 3, 16, 16)
    program = torch.export.export(Network().eval(), (example,), dynamic_shapes=({0: n, 2: height},))
    torch.export.save(program, tmp_path / "model.pt2")
    tiny_encoders.preprocessing(tmp_path)
    assert TorchFile(tmp_path, "image", "cpu").encode(PICTURES[:3]).shape == (3, 4)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "double", ["model/data/sample_inputs/model.pt", "model/Data/sample_inputs/model.pt", "b/x", "x"]
)
@pytest.mark.parametrize("last", [False, True])
def test_a_file_in_which_zipfile_and_torch_may_read_different_parts_is_refused(exported, tmp_path, double, last):
    touched, evil = tmp_path / "touched", io.BytesIO()
    torch.save(Touch(touched), evil)
    with zipfile.ZipFile(exported) as source, zipfile.ZipFile(tmp_path / "model.pt2", "w") as target:
        parts = [(name, source.read(name)) for name in source.namelist()]
        for name, content in (
            [*parts, (double, evil.getvalue())] if last else [parts[0], (double, evil.getvalue()), *parts[1:]]
        ):
            target.writestr(name, content)
    tiny_encoders.preprocessing(tmp_path)
    with pytest.raises(EncoderRefused, match="holds files of one name, or several folders"):
        TorchFile(tmp_path, "image", "cpu")
    assert not touched.exists()


def test_a_network_for_a_fixed_number_of_rows_is_refused(tmp_path):
    with pytest.raises(EncoderRefused, match="takes 2 rows at a time: export it with a dynamic first dimension"):
        TorchFile(tiny_encoders.picture_pt2(tmp_path / "torch", rows=2).parent, "image", "cpu")
    tiny_encoders.picture_onnx(tmp_path / "onnx", rows=2)
    with pytest.raises(EncoderRefused, match="takes 2 rows at a time"):
        OnnxFile(tmp_path / "onnx", "image", "cpu")


def folder_with(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return str(folder)


def test_a_model_that_cannot_be_used_is_refused_with_what_to_do(tmp_path, monkeypatch):
    pickled = folder_with(tmp_path / "pickled", modules__json="[]", pytorch_model__bin="")
    with pytest.raises(EncoderRefused, match="save the model as safetensors"):
        models.find_encoder(pickled, "text")
    with pytest.raises(EncoderRefused, match=r"found config.json, in"):
        models.find_encoder(folder_with(tmp_path / "unknown", config__json="{}"), "text")
    with pytest.raises(EncoderRefused, match=r"expected a folder, or a file .onnx or .pt2, found .*weights.bin"):
        models.find_encoder(folder_with(tmp_path / "other", weights__bin="") + "/weights.bin", "text")
    path = tiny_encoders.picture_onnx(tmp_path / "onnx")
    with pytest.raises(EncoderRefused, match=r"expected tokenizer.json in the folder of .*model.onnx"):
        models.find_encoder(str(path), "text")
    sentences = folder_with(tmp_path / "sentences", modules__json="[]", model__safetensors="")
    with pytest.raises(EncoderRefused, match=r"encodes text, found a dataset of images"):
        models.find_encoder(sentences, "image")
    monkeypatch.setattr("workflows.encoders.contract.find_spec", lambda name: None)
    with pytest.raises(EncoderRefused, match=r"package sentence_transformers: pip install 'hashkiln\[sentence-trans"):
        models.find_encoder(sentences, "text")
    timm = folder_with(tmp_path / "timm", config__json='{"architecture": "resnet18"}', model__safetensors="")
    with pytest.raises(EncoderRefused, match=r"package timm: pip install 'hashkiln\[timm\]'"):
        models.find_encoder(timm, "image")


def test_a_revision_of_a_local_model_is_refused(tmp_path):
    path = tiny_encoders.picture_onnx(tmp_path / "encoder")
    for pin in ("v2", "sha256:"):
        with pytest.raises(EncoderRefused, match=f"local path, which has no revision {pin}: pass the path alone"):
            models.find_encoder(f"{path}@{pin}", "image")


def test_a_local_path_may_contain_an_at_sign(tmp_path):
    folder = tiny_encoders.picture_onnx(tmp_path / "encoder").parent
    digest = models.find_encoder(str(folder), "image").digest
    folder = folder.rename(tmp_path / "encoder@v2")
    path = (folder / "model.onnx").rename(folder / "model@3.onnx")
    for given in (folder, path):
        found = models.find_encoder(str(given), "image")
        assert models.find_encoder(f"{given}@sha256:{found.digest}", "image").files == found.files
        with pytest.raises(EncoderRefused, match=f"{given} is a local path, which has no revision v2: pass"):
            models.find_encoder(f"{given}@v2", "image")
    path.rename(folder / "model.onnx")
    assert models.find_encoder(str(folder), "image").digest == digest


def test_the_identity_is_that_of_the_files_and_not_of_their_place(tmp_path):
    one, other = (tiny_encoders.picture_onnx(tmp_path / name) for name in ("one", "other"))
    assert models.find_encoder(str(one), "image").digest == models.find_encoder(str(other), "image").digest
    assert models.find_encoder(str(one.parent), "image").digest == models.find_encoder(str(one), "image").digest
    (other.parent / "preprocessor_config.json").write_text("{}")
    assert models.find_encoder(str(one), "image").digest != models.find_encoder(str(other), "image").digest


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "tokenizer.json"])
def test_an_encoder_that_cannot_be_loaded_is_refused_before_it_is_stored(settings, tmp_path, name):
    path = tiny_encoders.text_onnx(tmp_path / "encoder")
    if name == "model.pt2":
        path = path.rename(path.with_name(name))
    path.with_name(name).write_bytes(b"{garbage")
    found = models.find_encoder(str(path), "text")
    with pytest.raises(EncoderRefused, match=rf"cannot use .*{path.name}: \w+: .+"):
        found.save(settings.warehouse_url, "text")
    assert not encoders.encoder_exists(settings.warehouse_url, found.digest)


def test_nulls_in_the_settings_of_a_tokenizer_are_its_defaults(tmp_path):
    tiny_encoders.tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": None, "pad_token": None}))
    assert Texts(tmp_path)(["cat purrs", "cat"])["input_ids"].tolist() == [[2, 3], [2, 0]]


@pytest.mark.parametrize("location", ["weights/../w.bin", "../w.bin", "/w.bin", "w.bin", "weights/w"])
def test_the_weights_that_an_onnx_file_names_belong_to_it(settings, tmp_path, location):
    path = tiny_encoders.picture_onnx(tmp_path / "encoder")
    (path.parent / "weights").mkdir()
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    weights = path.with_name("w.bin")
    model = onnx.load(path, load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    if ".." in location or location.startswith("/"):
        with pytest.raises(EncoderRefused, match="names weights outside its folder"):
            models.find_encoder(str(path), "image")
        return
    weights = weights.rename(path.parent / location)
    found = models.find_encoder(str(path), "image")
    assert location in found.files
    found.save(settings.warehouse_url, "image")
    vectors = models.StoredEncoder(settings.warehouse_url, found.digest, "image", "cpu")(PICTURES[:3])
    np.testing.assert_allclose(vectors, tiny_encoders.of_pictures(PIXELS[:3]), rtol=1e-4, atol=1e-5)
    weights.write_bytes(bytes(weights.stat().st_size))
    assert models.find_encoder(str(path), "image").digest != found.digest


def test_a_network_of_other_inputs_and_a_broken_configuration_are_refused_in_one_line(tmp_path):
    path = tiny_encoders.picture_onnx(tmp_path / "encoder")
    tiny_encoders.tokenizer(path.parent)
    with pytest.raises(EncoderRefused, match="has the inputs x: expected input_ids and attention_mask"):
        OnnxFile(path.parent, "text", "cpu")
    with pytest.raises(EncoderRefused, match=r"config.json is not valid JSON"):
        models.find_encoder(folder_with(tmp_path / "broken", config__json="{", model__safetensors=""), "image")


FIND = """
import sys
from workflows.encoders.models import find_encoder
for name in sys.argv[1:]:
    try:
        print(find_encoder(name, "text").digest)
    except ValueError as error:
        print(error)
"""


def test_an_encoder_of_a_hub_is_that_of_its_files(tmp_path):
    """In a process of its own, because huggingface_hub reads the address when it is imported."""
    folder = tiny_encoders.text_onnx(tmp_path / "encoder").parent
    (folder / "pytorch_model.bin").write_text("a pickle")
    expected = models.find_encoder(str(folder), "text").digest
    names = ["some/encoder", f"some/encoder@{COMMIT}", f"some/encoder@sha256:{expected}", "some/other"]
    with serving_hub(folder, "some/encoder", "model") as hub:
        given = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-c", FIND, *names]
        found = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=True)
        assert not any("pytorch_model.bin" in path for path in hub.requested)
    *digests, missing = found.stdout.splitlines()
    assert digests == [expected] * 3
    assert missing.startswith("no such file or folder: some/other; and not from the hub, as some/other: ")
    assert "401 Unauthorized" in missing
