"""Exported layers: equal bits in every executor, contracted scales, tied weights stored once, names of the modules."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.numbers import bits
from mxexport.numbers.groups import contracted_shape
from mxexport.quant import QuantLayer
from mxexport.running import executors, verification
from tests.helpers import assert_equal_up_to_turned_codes, rms


class Residual(nn.Module):
    """Convolutions, one of them depthwise, around a quantized addition."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu = nn.Conv2d(3, 40, 3, padding=1), mx.QuantReLU("mxfp8_e4m3")
        self.depthwise, self.add = nn.Conv2d(40, 40, 3, padding=1, groups=40), mx.QuantAdd("mxint8")
        self.end = mx.QuantIdentity("mxint8", axis=1)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        return self.end(self.add(x, self.depthwise(x)))


class Language(nn.Module):
    """Embedding tied to the head; layer norm, GELU and a residual in between."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.fc = nn.Embedding(50, 64), nn.LayerNorm(64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + nn.functional.gelu(self.fc(self.norm(x))))


class SelfAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attn, self.norm = nn.MultiheadAttention(64, 4, **options), nn.LayerNorm(64)
        self.register_buffer("mask", torch.ones(7, 7).triu(1).bool())

    def forward(self, x):
        return self.norm(x + self.attn(x, x, x, attn_mask=self.mask, need_weights=False)[0])


class CrossAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attn = nn.MultiheadAttention(64, 4, batch_first=True, **options)

    def forward(self, x, y, padding):
        return self.attn(x, y, y, key_padding_mask=padding)


class Products(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.product = nn.Linear(40, 40), mx.QuantMatMul("mxfp6_e2m3")

    def forward(self, x):
        return self.product(self.fc(x), x.transpose(1, 2))


TOKENS = (torch.randint(0, 50, (2, 7)),)
SEQUENCE = (torch.randn(2, 7, 64),)
PADDING = torch.arange(5).repeat(2, 1) >= torch.tensor([[5], [3]])

MODELS = {
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(40, 8, 3, stride=2), nn.GELU()), (torch.randn(2, 40, 11),)),
    "conv2d_reflect": (lambda: nn.Sequential(nn.Conv2d(40, 8, 3, padding=1, padding_mode="reflect")),
                       (torch.randn(2, 40, 5, 5),)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(3, 8, 3)), (torch.randn(2, 3, 4, 4, 4),)),
    "transposed1d": (lambda: nn.Sequential(nn.ConvTranspose1d(40, 8, 3, stride=2)), (torch.randn(2, 40, 5),)),
    "transposed2d": (lambda: nn.Sequential(nn.ConvTranspose2d(40, 8, 3, stride=2, groups=2, output_padding=1)),
                     (torch.randn(2, 40, 4, 4),)),
    "residual": (Residual, (torch.randn(2, 3, 6, 6),)),
    "language": (Language, TOKENS),
    "products": (Products, (torch.randn(2, 5, 40),)),
    "attention": (lambda: SelfAttention(batch_first=True), SEQUENCE),
    "attention_sequence_first": (SelfAttention, (torch.randn(7, 2, 64),)),
    "cross_attention": (CrossAttention, (*SEQUENCE, torch.randn(2, 5, 64), PADDING)),
    "cross_attention_widths": (lambda: CrossAttention(kdim=48, vdim=48), (*SEQUENCE, torch.randn(2, 5, 48), PADDING)),
    "encoder": (lambda: nn.TransformerEncoderLayer(64, 4, 96, batch_first=True, activation="gelu"), SEQUENCE),
    "decoder": (lambda: nn.TransformerDecoderLayer(64, 4, 96, batch_first=True), (*SEQUENCE, torch.randn(2, 5, 64))),
}  # fmt: skip


# No quantizer behind a sum: nothing can turn over.
ONE_LAYER = {"conv1d", "conv2d_reflect", "conv3d", "transposed1d", "transposed2d", "products"}


def randomized(model: nn.Module) -> nn.Module:
    """Every parameter another value: torch stores equal ones (zero biases, fresh norms) once."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval()


@dataclass(frozen=True)
class Exported:
    """`model` is what was exported, `original` the float model it was made of."""

    name: str
    original: nn.Module
    model: nn.Module
    args: tuple[torch.Tensor, ...]
    path: Path
    report: mx.ExportReport

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(a.numpy() for a in self.args)


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory) -> Exported:
    torch.manual_seed(0)
    make, args = MODELS[request.param]
    original = randomized(make())
    model = mx.quantize_model(original, "mxfp8_e4m3", "mxint8")
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    # The sequence of sequence-first attention has the mask's length; only batches may vary.
    report = mx.export(model, args, path, dynamic_batch=request.param != "attention_sequence_first")
    return Exported(request.param, original, model, args, path, report)


def outputs(model: nn.Module, args: tuple) -> list[np.ndarray]:
    with torch.no_grad():
        found = model(*args)
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,)) if t is not None]


def check_outputs(exported: Exported) -> None:
    """The file computes what torch computes: its error is 10 dB below that of quantization, or nothing but rounding."""
    found = executors.run(exported.path, exported.arrays).values()
    from_torch, from_floats = (outputs(m, exported.args) for m in (exported.model, exported.original))
    for actual, expected, floats in zip(found, from_torch, from_floats, strict=True):
        if exported.name in ONE_LAYER:
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
        else:
            assert_equal_up_to_turned_codes(actual, expected, 0.3 * rms(expected - floats))


def constants(path) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in graph.load(path).graph.initializers.items()}


@pytest.mark.parametrize("execute", [executors.run, executors.run_qonnx, executors.run_reference])
def test_quantizers_give_equal_bits_on_equal_input(exported, execute):
    if exported.name == "transposed2d" and execute is executors.run_reference:
        pytest.skip("onnx's ReferenceEvaluator fails on ConvTranspose with groups")
    differences = verification.count_quantizer_differences(graph.load(exported.path), exported.arrays, execute)
    assert len(differences) >= 3 and not any(differences.values()), differences


def test_outputs_agree_with_torch_up_to_accumulation_order(exported):
    check_outputs(exported)


def test_another_batch_size_runs(exported):
    if exported.name == "attention_sequence_first":
        pytest.skip("exported with a fixed batch")
    check_outputs(replace(exported, args=tuple(torch.cat([a, a[:1]]) for a in exported.args)))


def test_every_weight_is_stored_once_with_a_contracted_scale(exported):
    onnx.checker.check_model(onnx.load(exported.path), full_check=True)
    nodes = [n for n in graph.load(exported.path).graph if graph.is_ours(n, graph.QUANTIZERS)]
    weights = [n for n in nodes if constant(n.inputs[0]) is not None]
    quantized = {id(getattr(m, w)) for m in exported.model.modules() for w in _quantized_weights(m)}
    assert len(weights) == len({n.inputs[0].name for n in weights}) == len(quantized)
    for node in weights:
        a, shape = graph.attributes(node), constant(node.inputs[0]).shape
        assert constant(node.inputs[1]).shape == contracted_shape(shape, a["axis"], a["group_size"])
    stored = sum(array.size for array in constants(exported.path).values() if array.dtype == np.float32)
    parameters = sum(p.numel() for p in exported.model.parameters())
    scales = sum(constant(n.inputs[1]).size for n in weights)
    assert stored <= parameters + scales + 64  # a few scalars of torch's own, and masks as floats


def _quantized_weights(module: nn.Module) -> tuple[str, ...]:
    held = isinstance(module, QuantLayer) and "weight_quant" in module.quantizers()
    return module.weight_names if held else ()


def test_every_quantizer_of_the_file_has_the_name_of_its_module(exported):
    modules, layers = dict(exported.model.named_modules()), exported.report.layers
    for layer in layers:
        owner = layer.name.rpartition(".")[0]
        assert owner in modules, layer.name
        assert layer.format in {"mxfp8_e4m3", "mxint8", "mxfp6_e2m3"} and layer.scale_shape
    assert len({layer.name for layer in layers}) == len(layers)


def test_torch_weights_have_the_same_bits(exported):
    nodes = [n for n in graph.load(exported.path).graph if graph.is_ours(n, graph.QUANTIZERS) and "weight" in n.name]
    found = executors.run(exported.path, exported.arrays, [n.outputs[0].name for n in nodes])
    for node in nodes:
        owner, _, weight = node.inputs[0].name.rpartition(".")
        expected = exported.model.get_submodule(owner).quant_weight(weight).value.detach().numpy()
        assert bits.equal_bits(found[node.outputs[0].name], expected).all()


# --- ties and refusals ----------------------------------------------------------------------------------------


def export(model, args, tmp_path) -> tuple[list[str], dict[str, np.ndarray]]:
    mx.export(model, args, tmp_path / "m.onnx")
    differences = verification.count_quantizer_differences(
        graph.load(tmp_path / "m.onnx"), tuple(a.numpy() for a in args)
    )
    assert not any(differences.values())
    return [n.name for n in graph.load(tmp_path / "m.onnx").graph], constants(tmp_path / "m.onnx")


def test_a_tied_weight_of_one_format_is_stored_and_quantized_once(tmp_path):
    names, stored = export(mx.quantize_model(Language()), TOKENS, tmp_path)
    assert sum(array.shape == (50, 64) for array in stored.values()) == 1
    assert sum(array.shape == (50, 2) for array in stored.values()) == 1
    assert sum("weight_quant" in name for name in names) == 2


@pytest.mark.parametrize("head", ["mxfp4_e2m1_g16", "uint4_g16"])
def test_a_tied_weight_of_two_formats_is_stored_once_with_two_scales(tmp_path, head):
    names, stored = export(mx.quantize_model(Language(), formats={"head": {"weight": head}}), TOKENS, tmp_path)
    assert sum(array.shape == (50, 64) for array in stored.values()) == 1
    scales = [array for name, array in stored.items() if "_scale" in name and len(array) == 50]
    assert {(50, 2), (50, 4)} <= {array.shape for array in scales}
    assert sum("weight_quant" in name for name in names) == 3


def test_a_tied_weight_that_one_side_leaves_in_float_is_stored_once(tmp_path):
    names, stored = export(mx.quantize_model(randomized(Language()), exclude=["head"]), TOKENS, tmp_path)
    matrices = {name for name, array in stored.items() if array.ndim == 2 and array.size > 1000}
    assert matrices in ({"embed.weight", "fc.weight"}, {"head.weight", "fc.weight"})


def test_weights_in_float_keep_their_names(tmp_path):
    model = mx.quantize_model(randomized(nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 40))), exclude=["1"])
    _, stored = export(model, SEQUENCE, tmp_path)
    assert stored["1.weight"].shape == (40, 48) and "1.bias" in stored
    assert not [name for name in stored if name.startswith("val_")]


def test_a_layer_used_twice_is_quantized_once(tmp_path):
    layer = nn.Linear(64, 64)
    names, stored = export(mx.quantize_model(nn.Sequential(layer, nn.Tanh(), layer)), SEQUENCE, tmp_path)
    assert len([name for name in names if "weight_quant" in name]) == 1
    assert sum(array.shape == (64, 64) for array in stored.values()) == 1


def test_padding_waste_is_reported(tmp_path):
    model = mx.quantize_model(nn.Sequential(nn.Conv2d(40, 40, 3, groups=40), nn.Conv2d(40, 8, 1)))
    report = mx.export(model, (torch.randn(2, 40, 5, 5),), tmp_path / "m.onnx")
    waste = {layer.name: round(layer.padding_percent, 2) for layer in report.layers}
    assert waste["0.weight_quant"] == 96.88 and waste["1.weight_quant"] == waste["1.input_quant"] == 37.5


def test_a_model_of_activations_alone_can_be_exported(tmp_path):
    names, stored = export(nn.Sequential(nn.Tanh(), mx.QuantIdentity("mxfp4_e2m1")), SEQUENCE, tmp_path)
    assert [n for n in names if n.startswith("1.")] and not stored


def test_folded_batch_norm_leaves_no_trace_in_the_file(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    mx.export(mx.quantize_model(model, fold_batch_norm=True), (torch.randn(2, 3, 5, 5),), tmp_path / "m.onnx")
    kinds = [n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("Conv") == 1 and "BatchNormalization" not in kinds


def test_export_is_quiet(tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make, args = MODELS["cross_attention"]
        mx.export(mx.quantize_model(make()), args, tmp_path / "m.onnx")
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]


def test_files_name_only_our_domain_and_the_standard_one(exported):
    assert {o.domain for o in onnx.load(exported.path).opset_import} == {"", ops.DOMAIN}


class ChannelsLast(nn.Module):
    """As ConvNeXt and Swin end: layers on channels-last features, which a global pool then takes channels first."""

    def __init__(self, dims: int):
        super().__init__()
        self.fc, self.head = nn.Linear(32, 32), nn.Linear(32, 4)
        self.pool = {2: nn.AdaptiveAvgPool2d(1), 3: nn.AdaptiveAvgPool3d((1, 1, 1))}[dims]

    def forward(self, x):
        return self.head(self.pool(self.fc(x).movedim(-1, 1)).flatten(1))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_global_pool_of_permuted_features_is_one_mean(tmp_path, dims):
    model, shape = mx.quantize_model(ChannelsLast(dims)).eval(), (4,) * dims
    mx.export(model, (torch.randn(2, *shape, 32),), tmp_path / "m.onnx")
    kinds = [n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("ReduceMean") == 1 and not {"Gather", "Range"} & {*kinds}
    x = torch.randn(3, *shape, 32)
    with torch.no_grad():
        expected = model(x).numpy()
    (found,) = mx.run(tmp_path / "m.onnx", x.numpy()).values()
    assert_equal_up_to_turned_codes(found, expected)
