"""torchao front-end: scales read, codes equal, products equal, the user's model untouched."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.frontends.stored import StoredLinear
from mxexport.frontends.torchao.reading import NVFP4Input, activation_differences, is_torchao
from mxexport.model import graph
from mxexport.numbers import numerics
from mxexport.numbers.formats import get_format
from mxexport.running import executors, verification
from tests.helpers import assert_equal_bits, assert_equal_up_to_turned_codes, edge_values

torchao = pytest.importorskip("torchao")

from torchao.prototype.mx_formats import (  # noqa: E402
    MXDynamicActivationMXWeightConfig,
    NVFP4DynamicActivationNVFP4WeightConfig,
    NVFP4WeightOnlyConfig,
    ScaleCalculationMode,
)
from torchao.prototype.mx_formats.mx_tensor import MXTensor, QuantizeTensorToMXKwargs  # noqa: E402
from torchao.prototype.mx_formats.nvfp4_tensor import (  # noqa: E402
    NVFP4Tensor,
    QuantizeTensorToNVFP4Kwargs,
    per_tensor_amax_to_scale,
)
from torchao.quantization import (  # noqa: E402
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
    PerGroup,
    quantize_,
)
from torchao.quantization.qat import QATConfig  # noqa: E402
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference  # noqa: E402

ELEMENTS = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4_e2m1": torch.float4_e2m1fn_x2,
}
MODES = [mode.value for mode in ScaleCalculationMode]


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 32), nn.LayerNorm(32))


def mx_config(name: str, mode: str = "rceil", block_size: int = 32) -> MXDynamicActivationMXWeightConfig:
    return MXDynamicActivationMXWeightConfig(
        block_size=block_size,
        activation_dtype=ELEMENTS[name],
        weight_dtype=ELEMENTS[name],
        kernel_preference=KernelPreference.EMULATED,
        scaling_mode=ScaleCalculationMode(mode),
    )


def quantized(model: nn.Module, config) -> nn.Module:
    """`model` quantized in place by torchao; layers whose width does not divide stay in float."""

    def divides(module, name):
        return isinstance(module, nn.Linear) and module.in_features % getattr(config, "block_size", 16) == 0

    quantize_(model, config, filter_fn=divides)
    return model.eval()


def float32_model(name: str, mode: str, block_size: int = 32) -> nn.Sequential:
    """What torchao's config makes, in float32: the config itself insists on bfloat16, the tensors do not."""
    model = nn.Sequential(nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 32, bias=False))
    for layer, size in ((model[0], block_size), (model[2], 16)):
        kwargs = QuantizeTensorToMXKwargs(
            elem_dtype=ELEMENTS[name],
            block_size=size,
            scaling_mode=ScaleCalculationMode(mode),
            is_swizzled_scales=True,
        )
        weight = MXTensor.to_mx(
            layer.weight.detach(),
            ELEMENTS[name],
            size,
            ScaleCalculationMode(mode),
            act_quant_kwargs=kwargs,
            is_swizzled_scales=True,
        )
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return model.eval()


def stored_mx(data: torch.Tensor, scale_codes: torch.Tensor) -> MXTensor:
    """An MXTensor of given FP8 elements [O, K] and scale codes [O, K / 32]."""
    scale = scale_codes.view(torch.float8_e8m0fnu)
    return MXTensor(data, scale, data.dtype, 32, torch.float32, KernelPreference.EMULATED, None, False)


def torchao_codes(weight) -> np.ndarray:
    """Element codes [O, K] by torchao's own unpacking."""
    from torchao.prototype.mx_formats.kernels import unpack_uint4

    data = weight.qdata.view(torch.uint8)
    return (unpack_uint4(data) if data.shape != weight.shape else data).numpy()


# --- weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ELEMENTS)
def test_weight_codes_scales_and_products_equal_torchao_in_float32(name, mode):
    torch.manual_seed(1)
    theirs = float32_model(name, mode)
    ours = mx.from_torchao(theirs)
    for index in (0, 2):
        weight, q = theirs[index].weight, ours[index].quant_weight()
        assert (q.format.name, q.scale_.shape[1]) == ((name, 3) if index == 0 else (f"{name}_g16", 3))
        np.testing.assert_array_equal(q.codes.flatten(1).numpy(), torchao_codes(weight))
        assert_equal_bits(q.value.numpy(), weight.dequantize().numpy())
        assert ours[index].input_quant.scale_rule == mode
    x = torch.randn(50, 96) * torch.logspace(-3, 3, 50)[:, None]
    assert_equal_bits(ours(x).numpy(), theirs(x).detach().numpy())


def test_scales_are_read_and_never_found_again():
    theirs = float32_model("mxfp8_e4m3", "ceil")  # twice the scale that floor would find, for nearly every group
    ours = mx.from_torchao(theirs)
    again = mx.quantize(ours[0].weight.detach(), "mxfp8_e4m3").scale_.squeeze(2)
    assert not torch.equal(again, ours[0].weight_scale)
    value = ours[0].weight_quant.apply(ours[0].weight, ours[0].weight_scale)
    assert_equal_bits(value.detach().numpy(), theirs[0].weight.dequantize().numpy())


def test_weights_keep_every_finite_e5m2_code_under_every_scale_that_does_not_overflow():
    codes = torch.arange(256, dtype=torch.uint8)
    codes = torch.where((codes & 0x7F) < 0x7C, codes, 0).repeat(240, 1)
    scales = torch.arange(240, dtype=torch.uint8)[:, None].repeat(1, 8)  # 57344 * 2**(240 - 127) is too large
    layer = nn.Linear(256, 240)
    weight = stored_mx(codes.view(torch.float8_e5m2), scales)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    q = mx.from_torchao(layer).quant_weight()
    np.testing.assert_array_equal(q.codes.flatten(1).numpy(), codes.numpy())
    np.testing.assert_array_equal(q.scale_codes.squeeze(2).numpy(), scales.numpy())
    assert_equal_bits(q.value.numpy(), weight.dequantize().numpy())


def test_a_weight_that_overflows_float32_is_refused_by_name():
    layer = nn.Linear(32, 16)
    codes = torch.full((16, 32), 0x78, dtype=torch.uint8).view(torch.float8_e4m3fn)  # 256
    weight = stored_mx(codes, torch.full((16, 1), 254, dtype=torch.uint8))
    layer.weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(UnsupportedError, match=r"head: 512 weights are not float32 numbers of mxfp8_e4m3.*\(0, 0\)"):
        mx.from_torchao(nn.ModuleDict({"head": layer}))


def test_nan_scales_make_nan_weights():
    layer = nn.Linear(64, 16)
    weight = layer.weight.detach().clone()
    weight[3, 40] = torch.nan
    layer.weight = nn.Parameter(MXTensor.to_mx(weight, torch.float8_e4m3fn), requires_grad=False)
    ours = mx.from_torchao(layer)
    assert torch.isnan(ours.quant_weight().value).sum() == 32 and torch.isnan(ours.weight_scale).sum() == 1


# --- torchao's configs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ELEMENTS)
def test_inference_config_in_bfloat16_keeps_codes_and_warns(name):
    theirs = quantized(mlp().bfloat16(), mx_config(name))
    state = {key: id(value) for key, value in theirs.named_parameters()}
    with pytest.warns(UserWarning, match="bfloat16.*: 0"):
        ours = mx.from_torchao(theirs)
    assert isinstance(ours[0], StoredLinear) and type(ours[2]) is nn.Linear  # 48 is no multiple of 32
    np.testing.assert_array_equal(ours[0].quant_weight().codes.flatten(1).numpy(), torchao_codes(theirs[0].weight))
    x = torch.randn(20, 96).bfloat16()
    torch.testing.assert_close(ours(x.float()), theirs(x).float(), atol=0.05, rtol=0.05)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert {key: id(value) for key, value in theirs.named_parameters()} == state
    assert type(theirs[0]) is nn.Linear and theirs[3].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp4_e2m1"])
def test_qat_layers_convert_before_and_after_the_convert_step(name):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 32))
    config = mx_config(name)
    quantize_(model, QATConfig(config, step="prepare"))
    model(torch.randn(4, 96)).sum().backward()
    x = torch.randn(30, 96)
    ours = mx.from_torchao(model)
    assert_equal_bits(ours(x).numpy(), model(x).detach().numpy())
    assert model[0].weight.requires_grad and type(model[0]).__name__ == "MXFakeQuantizedLinear"
    converted = copy.deepcopy(model).bfloat16()
    quantize_(converted, QATConfig(config, step="convert"))
    with pytest.warns(UserWarning, match="bfloat16.*: 0, 2"):
        after = mx.from_torchao(converted)
    np.testing.assert_array_equal(after[0].quant_weight().codes.flatten(1).numpy(), torchao_codes(converted[0].weight))


@pytest.mark.parametrize("two_levels", [True, False])
def test_nvfp4_weights_equal_torchao_and_export_with_one_scale(tmp_path, two_levels):
    model = nn.Sequential(nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 32))
    with torch.no_grad():
        model[2].weight[0] = 0
    theirs = quantized(model, NVFP4WeightOnlyConfig(use_dynamic_per_tensor_scale=two_levels))
    ours, x = mx.from_torchao(theirs), torch.randn(20, 96)
    assert_equal_bits(ours(x).numpy(), theirs(x).detach().numpy())
    for index in (0, 2):
        q = ours[index].quant_weight()
        assert q.format.name == "nvfp4" and ours[index].input_quant is None
        np.testing.assert_array_equal(q.codes.flatten(1).numpy(), torchao_codes(theirs[index].weight))
        hp = theirs[index].weight.get_hp_scales().numpy()
        assert_equal_bits(q.scale_.squeeze(2).numpy(), hp)
        assert_equal_bits(
            numerics.decode(q.scale_codes.numpy(), numerics.NVFP4_SCALE) * q.tensor_scale.numpy(), q.scale_.numpy()
        )
    report = mx.export(theirs, (x,), tmp_path / "m.onnx")
    assert [(r.format, r.scale_shape) for r in report.layers] == [
        ("float_e2m1_g16", [48, 6]), ("float_e2m1_g16", [32, 3]),
    ]  # fmt: skip
    got = executors.run(tmp_path / "m.onnx", x.numpy(), [f"{i}.weight_quant" for i in (0, 2)])
    for index in (0, 2):
        assert_equal_bits(got[f"{index}.weight_quant"], theirs[index].weight.dequantize().numpy())


def test_nvfp4_activations_equal_torchao_and_export(tmp_path):
    model = nn.Sequential(nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 32))
    quantize_(model, NVFP4DynamicActivationNVFP4WeightConfig(step="prepare", use_triton_kernel=False))
    with pytest.raises(UnsupportedError, match="0: NVFP4ObservedLinear is still observing.*convert"):
        mx.from_torchao(model)
    x = torch.randn(20, 96)
    model(x)
    amax = model[0].amax.clone()
    quantize_(model, NVFP4DynamicActivationNVFP4WeightConfig(step="convert", use_triton_kernel=False))
    ours = mx.from_torchao(model)
    expected = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=amax / (6 * 448)).dequantize()
    assert_equal_bits(ours[0].input_quant(x).numpy(), expected.numpy())
    product = nn.functional.linear(expected, model[0].weight.dequantize(), model[0].bias)
    assert_equal_bits(ours[0](x).detach().numpy(), product.detach().numpy())
    mx.export(model, (x,), tmp_path / "m.onnx")
    (actual,) = executors.run(tmp_path / "m.onnx", x.numpy()).values()
    assert_equal_up_to_turned_codes(actual, ours(x).detach().numpy())


NVFP4_SCALES = {"one_level": (None, False), "calibrated": (0.013, False), "tiny": (1e-30, False), "found": (None, True)}


@pytest.mark.parametrize("name", NVFP4_SCALES)
def test_nvfp4_activations_have_the_bits_of_torchao_in_every_executor(tmp_path, name):
    level, dynamic = NVFP4_SCALES[name]
    level = None if level is None else torch.tensor(level)
    quantizer = NVFP4Input(get_format("nvfp4"), -1, tensor_scale=level, dynamic=dynamic)
    layer = mx.quant.QuantLinear(64, 64, bias=False, weight=None, activation="nvfp4")
    layer.input_quant = quantizer
    layer.weight.data = torch.eye(64)
    rows = torch.randn(300, 64) * torch.exp2(torch.randint(-20, 20, (300, 1)).float())
    infinite = torch.tensor([[torch.inf] + [1.0] * 63])
    inputs = [rows, torch.from_numpy(edge_values((100, 64))), torch.zeros(2, 64), -rows[:1], infinite, rows[:40] * 0]
    mx.export(layer, (rows,), tmp_path / "m.onnx")
    for x in (*inputs, torch.full((1, 64), 1e-42)):
        scale = per_tensor_amax_to_scale(x.abs().max()) if dynamic else level
        expected = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize(torch.float32)
        assert_equal_bits(quantizer(x).numpy(), expected.numpy())
        (found,) = [n for n in graph.load(tmp_path / "m.onnx").graph if n.op_type in ("MatMul", "Gemm")]
        for execute in (executors.run, executors.run_qonnx, executors.run_reference):
            actual = execute(tmp_path / "m.onnx", x.numpy(), [found.inputs[0].name])
            assert_equal_bits(actual[found.inputs[0].name], expected.numpy(), execute.__name__)


def test_nvfp4_dynamic_activations_follow_each_input():
    layer = nn.Linear(32, 16)
    kwargs = QuantizeTensorToNVFP4Kwargs(use_dynamic_per_tensor_scale=True)
    weight = NVFP4Tensor.to_nvfp4(layer.weight.detach(), act_quant_kwargs=kwargs)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    quant = mx.from_torchao(layer).input_quant
    x = torch.randn(2, 3, 32)
    expected = NVFP4Tensor.to_nvfp4(x.view(6, 32), per_tensor_scale=x.abs().max() / (6 * 448)).dequantize()
    assert_equal_bits(quant(x).numpy(), expected.view(2, 3, 32).numpy())


# --- export -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ELEMENTS)
def test_export_takes_a_torchao_model_as_it_is(tmp_path, name):
    torch.manual_seed(3)
    theirs, x = float32_model(name, "rceil"), torch.randn(40, 96)
    report = mx.export(theirs, (x[:2],), tmp_path / "m.onnx")
    assert [r.name for r in report.layers if r.bytes] == ["0.weight_quant", "2.weight_quant"]
    assert [r.format for r in report.layers] == [name, name, f"{name}_g16", f"{name}_g16"]
    model = graph.load(tmp_path / "m.onnx")
    scale = model.graph.initializers["0.weight_scale"].const_value.numpy()
    assert scale.shape == (48, 3)
    got = executors.run(model, x.numpy(), ["0.weight_quant", "2.weight_quant"])
    for index in (0, 2):
        assert_equal_bits(got[f"{index}.weight_quant"], theirs[index].weight.dequantize().numpy())
    for execute in (executors.run, executors.run_qonnx, executors.run_reference):
        assert not any(verification.count_quantizer_differences(model, x.numpy(), execute).values())
    (output,) = executors.run(model, x.numpy()).values()
    assert float(np.abs(output - theirs(x).detach().numpy()).max()) < 0.1
    assert isinstance(theirs[0].weight, MXTensor)


def test_a_torchao_mlp_compiles_to_hardware_stages(tmp_path):
    theirs, x = float32_model("mxfp6_e2m3", "rceil"), torch.rand(64, 96)
    weight = MXTensor.to_mx(
        theirs[0].weight.dequantize(), "fp6_e2m3", act_quant_kwargs=theirs[0].weight.act_quant_kwargs
    )
    theirs = nn.Sequential(theirs[0])
    theirs[0].weight = nn.Parameter(weight, requires_grad=False)
    mx.export(theirs, (x[:2],), tmp_path / "m.onnx")
    design = mx.compile(tmp_path / "m.onnx", tmp_path / "build", calibration=x.numpy(), margin=1)
    got = design.run_dataflow(x.numpy()).values
    assert np.abs(got - theirs(x).detach().numpy()).max() < 1e-3


# --- activations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_activation_differences_name_layer_and_cause(mode):
    ours = mx.from_torchao(float32_model("mxfp8_e4m3", mode))
    x = torch.randn(4, 96)
    assert activation_differences(ours, x)["0"].values == 0
    x[0] *= 1e-39
    x[1, 5] = torch.inf
    found = activation_differences(ours, x)
    assert list(found) == ["0", "2"]
    d = found["0"]
    assert d.small_scale > 0 and d.not_finite > 0 and d.scale_rounding == 0 and d.total == x.numel()
    assert d.values == d.small_scale + d.not_finite + d.scale_rounding


def test_activation_differences_find_torchaos_rceil_off_near_powers_of_two():
    ours = mx.from_torchao(float32_model("mxfp8_e4m3", "rceil"))
    x = torch.randn(1, 96)
    x[0, 32:64] *= 2.0**12  # subnormal elements: only there does twice the scale show
    x[0, 40] = float(np.nextafter(np.float32(448 * 2.0**20), np.float32(np.inf)))
    d = activation_differences(ours, x)["0"]
    assert x[0].abs().max() == x[0, 40] and d.scale_rounding == d.values > 0


# --- refusals ---------------------------------------------------------------------------------------------------


def test_other_torchao_weights_are_refused_by_layer():
    model = mlp()
    quantize_(model, Int8WeightOnlyConfig(version=2))
    assert is_torchao(model)
    with pytest.raises(UnsupportedError, match=r"0: weight is a \w+; expected torchao's MXTensor or NVFP4Tensor"):
        mx.from_torchao(model)


CONFIGS = {
    "int8": (
        Int8WeightOnlyConfig(version=2),
        'weight=mx.QuantSpec("int8", scaling_per_output="channel"), activation=None',
    ),
    "int8_int8": (
        Int8DynamicActivationInt8WeightConfig(version=2),
        'weight=mx.QuantSpec("int8", scaling_per_output="channel"), activation="int8_g96"',
    ),
    "intx": (
        IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(16)),
        'weight="int4_g16", activation=None',
    ),
    "float8": (
        Float8WeightOnlyConfig(),
        'weight=mx.QuantSpec("float_ocp_e4m3", scaling_per_output="channel"), activation=None',
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_integer_and_float8_weights_are_refused_with_what_does_the_same_here(name):
    config, arguments = CONFIGS[name]
    model, x = mlp().float(), torch.randn(2, 96)
    expected = model(x)
    quantize_(model, config)
    with pytest.raises(UnsupportedError) as refusal:
        mx.from_torchao(model)
    message = str(refusal.value)
    assert f"mx.quantize_model(model, {arguments})" in message and message.count("quantize_model") == 1
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(layer.weight.dequantize())
    again = eval(f"mx.quantize_model(model, {arguments})", {"mx": mx, "model": model})
    assert (again(x) - expected).std() < 0.2 * expected.std()


def test_a_quantized_weight_outside_a_linear_is_refused():
    embedding = nn.Embedding(16, 32)
    embedding.weight = nn.Parameter(MXTensor.to_mx(embedding.weight.detach(), torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(UnsupportedError, match="Embedding: Embedding is not a Linear"):
        mx.from_torchao(embedding)


def test_a_float_model_is_refused_with_the_way_out():
    assert not is_torchao(mlp())
    with pytest.raises(UnsupportedError, match=r"torchao.quantization.quantize_"):
        mx.from_torchao(mlp())


def test_a_model_that_cannot_be_copied_is_refused():
    model = float32_model("mxfp8_e4m3", "floor")
    model.lock = threading.Lock()
    with pytest.raises(UnsupportedError, match="Sequential cannot be copied: cannot pickle"):
        mx.from_torchao(model)


def test_modules_used_twice_stay_one():
    theirs = float32_model("mxfp8_e4m3", "floor")[0]
    ours = mx.from_torchao(nn.ModuleList([theirs, theirs, nn.Sequential(theirs)]))
    assert ours[0] is ours[1] is ours[2][0]


def test_state_dict_round_trips():
    theirs = float32_model("mxfp4_e2m1", "floor")
    ours, other = mx.from_torchao(theirs), mx.from_torchao(float32_model("mxfp4_e2m1", "floor"))
    other.load_state_dict(ours.state_dict())
    x = torch.randn(5, 96)
    assert torch.equal(other(x), ours(x))


def test_without_torchao_the_error_says_what_to_install_and_export_works(tmp_path):
    script = """
import sys
sys.modules["torchao"] = None
import torch, mxexport as mx
from mxexport.errors import MissingToolError
try:
    mx.from_torchao(torch.nn.Linear(32, 4))
except MissingToolError as error:
    assert "pip install 'torchao" in str(error), error
else:
    raise SystemExit("no error")
mx.export(mx.quantize_model(torch.nn.Sequential(torch.nn.Linear(32, 4))), (torch.zeros(1, 32),), sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "m.onnx"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
