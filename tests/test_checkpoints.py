"""Checkpoints of other tools: codes as stored, activations and outputs as the tools' own, damage told in one line.

The files were made by the tools themselves (tests/data/make_*.py); `expected.npz` holds what the tools computed.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import mxexport as mx
from mxexport import cli
from mxexport.errors import InputFileError, MXExportError, UnsupportedError
from mxexport.frontends.checkpoints.plans import matches_regex
from mxexport.frontends.stored import StoredEmbedding, StoredLinear
from mxexport.quant import Quantizer
from tests.checkpoint_network import WIDTH, Experts, edge_inputs, network, token_ids
from tests.helpers import FULL, assert_equal_bits

FOLDER = Path(__file__).parent / "data" / "checkpoints"
EXPECTED = {path.name: dict(np.load(path / "expected.npz")) for path in sorted(FOLDER.iterdir())}
WITH_OUTPUT = [name for name, found in EXPECTED.items() if "output" in found]
WITH_INPUTS = [name for name, found in EXPECTED.items() if "up.quantized" in found]
NETWORKS = [name for name in EXPECTED if name != "gpt-oss"]
LAYOUTS = ["mxfp4", "mxfp6a8", "mxfp8", "nvfp4"] if FULL else ["mxfp6a8", "nvfp4"]


@pytest.fixture(scope="module")
def read():
    """Name -> the model with exact zeros, read once."""
    models = {}
    return lambda name: models.setdefault(name, mx.from_checkpoint(network(1), FOLDER / name, exact_zeros=True))


def stored_parts(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer -> bytes of its elements and of its scales, as they stand in the file."""
    tensors, found = load_file(FOLDER / name / "model.safetensors"), {}
    for key, tensor in tensors.items():
        layer, _, part = key.rpartition(".")
        scale = tensors.get(f"{layer}.weight_scale")
        if scale is not None and part in ("weight", "weight_packed"):
            found[layer] = tuple(t.view(torch.uint8).numpy() for t in (tensor, scale))
    return found


def small_copy(name: str, folder: Path) -> dict:
    """A copy of a checkpoint to change; its tensors."""
    shutil.copytree(FOLDER / name, folder)
    return load_file(folder / "model.safetensors")


# --- what the tools computed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_OUTPUT)
def test_outputs_are_the_tools_own(name, read):
    """Bits of quantizers are compared below; another machine may sum products in another order."""
    expected = EXPECTED[name]["output"]
    np.testing.assert_allclose(read(name)(token_ids()).numpy(), expected, rtol=2e-5, atol=2e-4)
    assert np.abs(expected).max() > 50


@pytest.mark.parametrize("name", WITH_INPUTS)
def test_activations_have_the_tools_bits(name, read):
    expected, quantizer = EXPECTED[name]["up.quantized"], read(name).up.input_quant
    assert_equal_bits(quantizer(edge_inputs()).numpy(), expected)
    plain = mx.from_checkpoint(network(1), FOLDER / name).up.input_quant
    np.testing.assert_array_equal(plain(edge_inputs()).numpy(), expected)  # -0 equals +0 here


def test_fp8_of_compressed_tensors_follows_none_of_the_four_rules(read):
    expected, found = EXPECTED["compressed-tensors-mxfp8"]["up.quantized"], read("compressed-tensors-mxfp8").up
    assert found.input_quant.scale_rule == 0x200000
    for rule in ("floor", "ceil", "even", "rceil"):
        assert (Quantizer(found.input_quant.format, -1, rule)(edge_inputs()).numpy() != expected).any()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("modelopt")])
def test_weights_are_those_that_modelopt_decodes(name, read):
    """It computes on GPUs only, but decodes what it stored."""
    for layer, values in EXPECTED[name].items():
        if layer != "up.quantized":
            np.testing.assert_array_equal(read(name).get_submodule(layer).weight.numpy(), values)
    kinds = {type(m).__name__ for m in read(name).modules() if isinstance(m, nn.Linear)}
    assert kinds == {"StoredLinear"}


def test_experts_are_those_that_transformers_decodes(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = Experts()

        def forward(self, x):
            return self.experts(x)

    model, path = mx.from_checkpoint(Model(), FOLDER / "gpt-oss"), tmp_path / "experts.onnx"
    for name, values in EXPECTED["gpt-oss"].items():
        assert_equal_bits(getattr(model.experts, name).numpy(), values)
    x = torch.randn(2, 3, WIDTH) * 0.01
    mx.export(model, (x,), path, weights="packed")
    stored, initializers = load_file(FOLDER / "gpt-oss" / "model.safetensors"), _initializers(path)
    for name in EXPECTED["gpt-oss"]:
        blocks = stored[f"experts.{name}_blocks"].flatten(2).mT
        found = next(array for key, array in initializers.items() if f"{name}.original_codes" in key)
        np.testing.assert_array_equal(found, blocks.numpy())
    found = next(iter(mx.run(path, x.numpy()).values()))
    np.testing.assert_allclose(found, model(x).detach().numpy(), rtol=1e-5, atol=1e-3)


# --- codes ------------------------------------------------------------------------------------------------------


def _initializers(path: Path) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("name", NETWORKS)
def test_quant_tensors_hold_the_stored_codes(name, read):
    stored = stored_parts(name)
    layers = {n: m for n, m in read(name).named_modules() if isinstance(m, (StoredLinear, StoredEmbedding))}
    assert layers.keys() == stored.keys() and len(stored) >= 6
    for layer, (elements, scales) in stored.items():
        weight = layers[layer].quant_weight()
        codes, bits = weight.codes.flatten(1).numpy(), weight.format.element.bits
        unpacked = np.unpackbits(elements, axis=1, bitorder="little").reshape(len(elements), -1, bits)
        found = np.unpackbits(codes[..., None], axis=2, bitorder="little")[..., :bits]
        np.testing.assert_array_equal(found, unpacked)
        if weight.format.is_mx:
            np.testing.assert_array_equal(weight.scale_codes.flatten(1).numpy(), scales.reshape(len(codes), -1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_hold_the_stored_bytes_and_run_to_the_tools_output(layout, read, tmp_path):
    name, path = f"compressed-tensors-{layout}", tmp_path / "model.onnx"
    mx.export(read(name), (token_ids(),), path, weights="packed")
    initializers = _initializers(path)
    for layer, (codes, scales) in stored_parts(name).items():
        np.testing.assert_array_equal(initializers[f"{layer}.weight_codes"], codes)
        if layout != "nvfp4":
            np.testing.assert_array_equal(initializers[f"{layer}.weight_scale_codes"], scales)
    found = next(iter(mx.run(path, token_ids().numpy()).values()))
    np.testing.assert_allclose(found, EXPECTED[name]["output"], rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("name", ["compressed-tensors-mxfp8", "compressed-tensors-nvfp4", "quark-mxfp6-e3m2"])
def test_quantizers_keep_their_bits_through_the_file(name, read, tmp_path):
    class Alone(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.quantizer = layer, layer.input_quant

        def forward(self, x):
            return self.quantizer(x)

    path = tmp_path / "model.onnx"
    mx.export(Alone(read(name).up), (edge_inputs(),), path)
    found = next(iter(mx.run(path, edge_inputs().numpy()).values()))
    assert_equal_bits(found, EXPECTED[name]["up.quantized"])


# --- models and folders -----------------------------------------------------------------------------------------


def test_the_float_model_stays_and_the_report_names_every_layer():
    model = network(1)
    before = copy.deepcopy(model.state_dict())
    found = mx.from_checkpoint(model, FOLDER / "compressed-tensors-mxfp8")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    told = str(mx.conversion_report(found))
    assert "up: StoredLinear weight=mxfp8_e4m3 activation=mxfp8_e4m3 (floor/R=0x200000)" in told
    assert "head: Linear left as it is: float in the checkpoint" in told
    assert not any(p.requires_grad for p in found.parameters()) and not found.training


def test_a_model_on_the_meta_device_takes_the_files_tensors(read):
    with torch.device("meta"):
        model = type(network())()
    found = mx.from_checkpoint(model, FOLDER / "compressed-tensors-mxfp4", exact_zeros=True)
    assert_equal_bits(found(token_ids()).numpy(), read("compressed-tensors-mxfp4")(token_ids()).numpy())


class Tied(nn.Module):
    """Its head multiplies with the table of its embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.up, self.head = nn.Embedding(24, 64), nn.Linear(64, 64), nn.Linear(64, 24, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.up(self.embed(ids)))


def _tied_folder(folder, **more):
    tensors = load_file(FOLDER / MX4 / "model.safetensors")
    up = {f"up.{part}": tensors[f"attention.o_proj.{part}"] for part in ("weight_packed", "weight_scale", "bias")}
    folder.mkdir()
    save_file(up | {"embed.weight": tensors["embed.weight"]} | more, folder / "model.safetensors")
    shutil.copy(FOLDER / MX4 / "config.json", folder)


def test_tied_parameters_come_once_and_stay_tied(tmp_path):
    _tied_folder(tmp_path / "x")
    model = Tied()
    before = model.embed.weight.clone()
    found = mx.from_checkpoint(model, tmp_path / "x")
    stored = load_file(tmp_path / "x" / "model.safetensors")["embed.weight"]
    assert found.head.weight is found.embed.weight and torch.equal(found.head.weight, stored)
    assert torch.equal(model.embed.weight, before) and model.head.weight is model.embed.weight
    _tied_folder(tmp_path / "y", **{"head.weight": stored + 1})
    with pytest.raises(InputFileError, match="'head.weight' is tied in the model, and differs here"):
        mx.from_checkpoint(Tied(), tmp_path / "y")


def test_layers_that_compute_something_else_are_refused():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = network(1)
    model.up = Doubled(64, 96)
    with pytest.raises(UnsupportedError, match="up: weight_packed is that of a quantized layer, and Doubled is no"):
        mx.from_checkpoint(model, FOLDER / MX4)
    model = network(1)
    model.up.forward = lambda x: x
    with pytest.raises(UnsupportedError, match="up: its forward was replaced on this object"):
        mx.from_checkpoint(model, FOLDER / MX4)


def test_shards_and_half_precision(tmp_path, read):
    tensors = small_copy("compressed-tensors-mxfp4", tmp_path / "x")
    (tmp_path / "x" / "model.safetensors").unlink()
    first = {key: tensor for key, tensor in tensors.items() if key < "down"}
    rest = {key: tensor for key, tensor in tensors.items() if key not in first}
    rest["head.bias"] = rest["head.bias"].bfloat16()
    listed = {}
    for i, part in enumerate((first, rest)):
        save_file(part, tmp_path / "x" / f"model-{i}.safetensors")
        listed |= dict.fromkeys(part, f"model-{i}.safetensors")
    (tmp_path / "x" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.warns(UserWarning, match="1 tensors are stored in half precision, in which compressed-tensors also"):
        found = mx.from_checkpoint(network(1), tmp_path / "x")
    assert found.head.bias.dtype == torch.float32
    weights = [model.up.quant_weight().value for model in (found, read("compressed-tensors-mxfp4"))]
    assert_equal_bits(*(weight.numpy() for weight in weights))


def test_a_download_cache_of_links_is_read(tmp_path):
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    small_copy("compressed-tensors-mxfp4", snapshot)
    blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.move(snapshot / name, blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert isinstance(mx.from_checkpoint(network(1), snapshot).up, StoredLinear)


def test_a_config_of_modelopt_alone_is_enough(tmp_path):
    small_copy("modelopt-mxfp8", tmp_path / "x")
    (tmp_path / "x" / "config.json").unlink()
    assert mx.from_checkpoint(network(1), tmp_path / "x").up.input_quant.scale_rule == "rceil"


def test_the_command_exports_a_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(FOLDER.parents[2])

    def call(*options: str) -> int:
        argv = ["mxexport", "export", "tests.checkpoint_network:network", str(tmp_path / "m.onnx"), "--json", *options]
        monkeypatch.setattr(sys, "argv", [*argv, "--input", "int64:1,6", "--checkpoint", str(FOLDER / MX4)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0

    assert call() == 0
    formats = {layer["format"] for layer in json.loads(capsys.readouterr().out)["layers"]}
    assert formats == {"mxfp4_e2m1"}
    assert call("-f", "--weight", "mxint8") == 2
    assert "--checkpoint has its own weights and formats" in " ".join(capsys.readouterr().err.split())


# --- what is refused --------------------------------------------------------------------------------------------


def _drop(name):
    return lambda tensors: tensors.pop(name)


def _set(name, make):
    return lambda tensors: tensors.update({name: make(tensors.get(name))})


def _at(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(torch.uint8)[0, 0] = value
        return tensor

    return change


def _float_weight(tensors):
    del tensors["up.weight_scale"], tensors["up.weight_packed"]
    tensors["up.weight"] = torch.ones(96, 64)


def _packed_head(tensors):
    del tensors["head.weight"]
    tensors["head.weight_packed"], tensors["head.weight_scale"] = torch.zeros(10, 32).byte(), torch.zeros(10, 2).byte()


MX4, NV4, MX8 = "compressed-tensors-mxfp4", "compressed-tensors-nvfp4", "compressed-tensors-mxfp8"
WRONG_TENSORS = {  # what: checkpoint, change, words of the one error
    "no scales": (
        MX4, _drop("up.weight_scale"),
        "up: a quantized weight needs elements and scales, found weight of uint8",
    ),
    "no elements": (MX4, _drop("up.weight_packed"), "up: a quantized weight needs .* found weight_scale of uint8"),
    "no bias": (MX4, _drop("up.bias"), "it does not hold 'up.bias'"),
    "no layer": (
        MX4, lambda t: [t.pop(k) for k in list(t) if k.startswith("up.")],
        "it does not hold 'up.bias', 'up.wei",
    ),
    "a scale of 255": (MX4, _set("up.weight_scale", _at(255)), "up: 1 scales have code 255, which is NaN"),
    "a NaN": (MX8, _set("up.weight", _at(0x7F)), "up: 1 of its values are NaN, Inf, or beyond float32"),
    "a block of NaN": (NV4, _set("up.weight_scale", _at(0x7F)), "up: its block scales hold NaN or negative"),
    "a negative block": (NV4, _set("up.weight_scale", _at(0x98)), "up: its block scales hold NaN or negative"),
    "a global scale of 0": (
        NV4, _set("up.weight_global_scale", torch.zeros_like),
        "its upper scale is 0.0; expected a num",
    ),
    "an input scale of NaN": (
        NV4, _set("up.input_global_scale", lambda t: t * torch.nan), "up: its input_global_scale is nan; expected"
    ),
    "no input scale": (NV4, _drop("up.input_global_scale"), "up: its input is quantized as NVFP4 and has no input_glo"),
    "short rows": (
        MX4, _set("up.weight_packed", lambda t: t[:, :16].clone()),
        "up: packed codes .* are not those of a we",
    ),
    "few rows": (
        MX4, _set("up.weight_packed", lambda t: t[:8].clone()),
        r"up: its elements have shape \(8, 32\); a mxfp4",
    ),
    "few scales": (
        MX4, _set("up.weight_scale", lambda t: t[:, :1].clone()),
        r"up: its scales have shape \(96, 1\); a mxf",
    ),
    "three axes": (
        MX4, _set("up.weight_packed", lambda t: t[None].clone()),
        "up: packed codes .* are not those of a wei",
    ),
    "signed bytes": (
        MX4, _set("up.weight_packed", lambda t: t.view(torch.int8)),
        "'up.weight_packed' holds torch.int8",
    ),
    "float scales": (
        MX4, _set("up.weight_scale", lambda t: t.float()),
        "up: no layout that is known has weight of uint8, ",
    ),
    "a float weight": (MX4, _float_weight, "up: the config calls it quantized, and the files hold a float weight"),
    "quantized all the same": (
        MX4, _packed_head,
        "head: the config calls it float, and the files hold a quantized weight",
    ),
    "a stranger": (
        MX4, _set("layers.7.up.weight", lambda _: torch.ones(2)),
        "no module of the model is called 'layers.7.up'",
    ),
    "a strange part": (
        MX4, _set("up.extra", lambda _: torch.ones(2)),
        "no parameter of the model is called 'up.extra'",
    ),
    "a strange shape": (
        MX4, _set("norm.bias", lambda t: t[:3].clone()),
        r"'norm.bias' is torch.float32 \(3,\); the model's",
    ),
    "bytes for numbers": (
        MX4, _set("norm.bias", lambda t: t.byte()),
        "norm: bias is torch.uint8, and no scales of it are",
    ),
    "twice": (MX4, _set("up.weight", lambda _: torch.ones(96, 64)), "up: its weight is stored twice"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_tensors_that_do_not_fit_are_named(what, tmp_path):
    name, change, message = WRONG_TENSORS[what]
    tensors = small_copy(name, tmp_path / "x")
    change(tensors)
    save_file(tensors, tmp_path / "x" / "model.safetensors")
    with pytest.raises((InputFileError, UnsupportedError), match=message):
        mx.from_checkpoint(network(1), tmp_path / "x")


def _config(*path, value):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


Q, GROUP = "quantization_config", ("quantization_config", "config_groups", "group_0")
WRONG_CONFIGS = {
    "another tool": (
        MX4, _config(Q, "quant_method", value="gptq"),
        "quant_method 'gptq' is not known; expected one of com",
    ),
    "no table": (MX4, _config(Q, value="mxfp4"), "has no table of quantization"),
    "not quantized": (MX4, lambda c: c.pop(Q), "has no table of quantization; is the model quantized"),
    "rotations": (
        MX4, _config(Q, "transform_config", value={"a": 1}),
        "'transform_config' is set, which rotates activ",
    ),
    "a cache": (
        MX4, _config(Q, "kv_cache_scheme", value={"num_bits": 8}),
        "'kv_cache_scheme' is set, which quantizes the",
    ),
    "outputs": (
        MX4, _config(*GROUP, "output_activations", value={"num_bits": 8}),
        "group_0: 'output_activations' is set",
    ),
    "an order": (
        MX4, _config(*GROUP, "weights", "actorder", value="group"),
        "up: weights: 'actorder' is set, which reord",
    ),
    "int8 inputs": (
        MX4, _config(*GROUP, "input_activations", "type", value="int"),
        "up: its input is quantized with .*'int'",
    ),
    "groups of 64": (
        MX4, _config(*GROUP, "input_activations", "group_size", value=64),
        "up: its input .* group_size 64",
    ),
    "targets of numbers": (
        MX4, _config(*GROUP, "targets", value=[3]),
        r"group_0: 'targets' is \[3\]; expected a list of n",
    ),
    "a slow pattern": (
        MX4, _config(*GROUP, "targets", value=["re:(a+)+$"]),
        "the pattern .* could take forever to match",
    ),
    "no pattern": (MX4, _config(*GROUP, "targets", value=["re:("]), r"'\(' is no regular expression"),
    "another algorithm": ("modelopt-mxfp8", _config(Q, "quant_algo", value="FP8"), "quant_algo 'FP8' is not carried"),
    "axis 0": (
        "quark-mxfp4", _config(Q, "global_quant_config", "weight", "ch_axis", value=0), "its weight .* ch_axis 0"
    ),
    "static inputs": (
        "quark-mxfp4", _config(Q, "global_quant_config", "input_tensors", "is_dynamic", value=False), "is_dynamic False"
    ),
    "levels": (
        "quark-mxfp4", _config(Q, "global_quant_config", "weight", value=[1]),
        "its weight is given by list; expected",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_CONFIGS)
def test_configs_that_are_not_carried_are_named(what, tmp_path):
    name, change, message = WRONG_CONFIGS[what]
    small_copy(name, tmp_path / "x")
    path = tmp_path / "x" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=message):
        mx.from_checkpoint(network(1), tmp_path / "x")


def _index(listed):
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))


def _link(name, target):
    def change(folder):
        shutil.move(folder / name, folder.parent / target)
        (folder / name).symlink_to(folder.parent / target)

    return change


def _dangling(folder):
    os.remove(folder / "config.json")
    (folder / "config.json").symlink_to("nowhere")


WRONG_FOLDERS = {
    "nothing": (lambda folder: shutil.rmtree(folder), "no such folder"),
    "no tensors": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "no safetensors file; checkpoints in pickled",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json; it says what the tensors mean"),
    "a config of text": (
        lambda folder: (folder / "config.json").write_text("mxfp4"),
        "config.json is no readable JSON",
    ),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "config.json: expected an object, found list"),
    "deep": (lambda folder: (folder / "config.json").write_text("[" * 10**5), "config.json is no readable JSON"),
    "keys twice": (lambda folder: (folder / "config.json").write_text('{"a": 1, "a": 2}'), "key 'a' stands twice"),
    "not utf-8": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{"), "config.json is no readable JSON"),
    "two files": (lambda folder: (shutil.copy(folder / "model.safetensors", folder / "a.safetensors"),
                                  (folder / "model.safetensors").rename(folder / "b.safetensors")),
                  "tensor .* stands in a.safetensors and in b.safetensors"),
    "a shard above": (
        _index({"up.bias": "../model.safetensors"}),
        r"'../model.safetensors' is no name of a .safetensors",
    ),
    "a shard anywhere": (
        _index({"up.bias": "/etc/passwd"}),
        "'/etc/passwd' is no name of a .safetensors file in the sam",
    ),
    "no shard": (_index({"up.bias": "model-2.safetensors"}), "no such file: .*model-2.safetensors"),
    "another tensor": (
        _index({"up.bias": "model.safetensors", "x": "model.safetensors"}),
        "tensor 'x' is not in model.saf",
    ),
    "an empty index": (_index({}), "'weight_map' is no table of file names"),
    "a link": (_link("model.safetensors", "elsewhere.safetensors"), "is a link to a file outside"),
    "a config of links": (_link("config.json", "elsewhere.json"), "is a link to a file outside"),
    "a dangling link": (_dangling, "no such file: .*config.json"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_FOLDERS)
def test_folders_that_cannot_be_read_are_named(what, tmp_path):
    change, message = WRONG_FOLDERS[what]
    small_copy(MX4, tmp_path / "x")
    change(tmp_path / "x")
    with pytest.raises(InputFileError, match=message):
        mx.from_checkpoint(network(1), tmp_path / "x")


def test_what_is_no_model_or_has_other_layers_is_refused():
    with pytest.raises(UnsupportedError, match="expected a torch.nn.Module, found dict"):
        mx.from_checkpoint({}, FOLDER / MX4)
    with pytest.raises(InputFileError, match="no module of the model is called 'attention.k_proj'"):
        mx.from_checkpoint(nn.Sequential(nn.Linear(64, 64)), FOLDER / MX4)


ORIGINAL = (FOLDER / MX4 / "model.safetensors").read_bytes()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_files_raise_our_errors_only(data, tmp_path_factory):
    """Cut anywhere, or with bytes changed: most of it in the header, where lengths, offsets, names and dtypes stand."""
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(ORIGINAL)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, 2500))] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(content)
    shutil.copy(FOLDER / MX4 / "config.json", folder)
    try:
        found = mx.from_checkpoint(network(1), folder)
    except MXExportError as error:
        assert str(error) and len(str(error).splitlines()) <= 12
    else:
        assert torch.isfinite(found.up.weight).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pattern=st.text(alphabet="ab.*+(){}[]|\\?^$", max_size=30))
def test_patterns_match_as_re_does_or_are_refused(pattern):
    try:
        found = matches_regex(pattern, "a.b" * 8)
    except UnsupportedError:
        return
    assert found == (re.match(pattern, "a.b" * 8) is not None)


# --- hardware ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FULL, reason="simulates a design; MXEXPORT_FULL=1")
def test_a_checkpoint_becomes_hardware_under_a_rule_of_no_name(tmp_path):
    """MXFP8 of compressed-tensors: the addend 0x200000 in the file, in the dataflow graph, and in RTL."""
    layer = nn.Linear(64, 16)
    weight = mx.quantize(layer.weight.detach(), "mxfp8_e4m3", axis=1, scale_rule=0x200000)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tensors = {"0.weight": weight.codes.flatten(1).view(torch.float8_e4m3fn), "0.bias": layer.bias.detach()}
    save_file(tensors | {"0.weight_scale": weight.scale_codes.flatten(1)}, folder / "model.safetensors")
    config = json.loads((FOLDER / MX8 / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    model = mx.from_checkpoint(nn.Sequential(nn.Linear(64, 16)), folder)
    x = torch.randn(16, 64)
    x[::2] *= 1.75 / x[::2].abs().amax(1, keepdim=True)  # where the rules part
    mx.export(model, (x,), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx")
    design = mx.compile(tmp_path / "c.onnx", tmp_path / "design", calibration=x.numpy())
    expected = design.run_dataflow(x[:6].numpy())
    np.testing.assert_array_equal(design.simulate(x[:6].numpy()).raw, expected.raw)
    wanted = model(x[:6]).numpy()
    np.testing.assert_allclose(expected.values, wanted, atol=0.02 * np.abs(wanted).max())
