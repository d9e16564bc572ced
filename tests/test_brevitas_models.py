"""Brevitas models as their users write them: quant tensors in their code, half precision, layers of every kind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from brevitas import nn as qnn, quant as bq
from brevitas.quant import mx_quant_ocp
from brevitas.quant_tensor import QuantTensor
from torch import nn

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.running import executors, verification
from tests.brevitas_families import GROUP_ACTIVATIONS, GROUP_WEIGHTS, LANGUAGE_MODEL_WEIGHTS, variant
from tests.helpers import assert_equal_bits, in_full
from tests.test_brevitas import E4M3, INT8, all_notes, assert_converts, assert_same_bits, image, plain, rows, settled

pytestmark = pytest.mark.filterwarnings("ignore")

# --- quant tensors in the code between layers ---------------------------------------------------------------------


class Values(nn.Module):
    """Asks quant tensors for their values, once after a layer that does nothing else."""

    def __init__(self):
        super().__init__()
        self.act = qnn.QuantReLU(return_quant_tensor=True)
        self.none = qnn.QuantIdentity(act_quant=None, return_quant_tensor=True)
        self.fc = qnn.QuantLinear(64, 8, **E4M3)
        self.head = qnn.QuantLinear(64, 8, output_quant=bq.Int8ActPerTensorFloat, return_quant_tensor=True)

    def forward(self, x):
        y = self.none(self.act(x)).value
        return self.fc(y) + 2 * self.head(y).value


def test_values_of_quant_tensors_can_be_asked_for(tmp_path):
    x = rows(5, 64)
    converted = assert_converts(Values(), x)
    mx.export(converted, (x,), tmp_path / "m.onnx")
    (y,) = executors.run(tmp_path / "m.onnx", x.numpy()).values()
    assert_equal_bits(y, converted(x).detach().numpy())


class Scales(Values):
    def forward(self, x):
        return self.act(x).scale * x


def test_other_parts_of_quant_tensors_are_refused_before_anything_is_written(tmp_path):
    x, model = rows(5, 64), settled(Scales(), rows(5, 64))
    with pytest.raises(UnsupportedError, match="the model's own code fails .* has no attribute 'scale'"):
        mx.export(model, (x,), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class Demanding(nn.Module):
    """Takes quant tensors only."""

    def __init__(self):
        super().__init__()
        self.fc = qnn.QuantLinear(64, 8, **E4M3)

    def forward(self, x):
        assert isinstance(x, QuantTensor)
        return self.fc(x.value)


class Asking(Demanding):
    """The same, as the refusal says it."""

    def forward(self, x):
        assert hasattr(x, "value")
        return self.fc(x.value)


class Demanded(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        self.none = qnn.QuantIdentity(return_quant_tensor=True)
        self.block = block

    def forward(self, x):
        return self.block(self.none(x))


def test_code_that_takes_quant_tensors_only_is_named_with_its_line_and_a_way_out(tmp_path):
    x = rows(5, 64)
    model = settled(Demanded(Demanding()), x)
    place = r"in block .Demanding., test_brevitas_models.py line \d+: assert isinstance.x, QuantTensor."
    with pytest.raises(UnsupportedError, match=rf'{place}. Ask hasattr.x, "value". there in place of isinst'):
        mx.export(model, (x,), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=place):
        mx.export(mx.from_brevitas(model), (x,), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    mx.export(settled(Demanded(Asking()), x), (x,), tmp_path / "m.onnx")


class TiedHead(nn.Module):
    """A table that is also the head's weight: what its quantizer makes of it is used twice."""

    def __init__(self, quantizer):
        super().__init__()
        self.table = qnn.QuantEmbedding(20, 64, weight_quant=quantizer)

    def forward(self, tokens):
        return (
            nn.functional.linear(self.table(tokens), self.table.quant_weight()) + self.table.quant_weight().value[0, 0]
        )


@pytest.mark.parametrize("quantizer", [mx_quant_ocp.MXFloat8e4m3Weight, bq.Int8WeightPerTensorFloat])
def test_quantized_weights_can_be_used_in_the_code_between_layers(quantizer, tmp_path):
    tokens = torch.randint(0, 20, (3, 4))
    converted = assert_converts(TiedHead(quantizer), tokens)
    mx.export(converted, (tokens,), tmp_path / "m.onnx")
    (y,) = executors.run(tmp_path / "m.onnx", tokens.numpy()).values()
    torch.testing.assert_close(torch.from_numpy(y), converted(tokens).detach(), rtol=1e-5, atol=1e-5)


# --- layers -------------------------------------------------------------------------------------------------------


class OutputSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = qnn.QuantConvTranspose2d(40, 8, 2, stride=2, **E4M3)

    def forward(self, x):
        return self.up(x, output_size=[15, 14])


def test_a_transposed_convolution_takes_an_output_size():
    assert assert_converts(OutputSize(), image(40)).up(image(40)).shape[2:] == (14, 14)


@pytest.mark.parametrize("options", [{"weight_quant": GROUP_WEIGHTS["mx_uint8"]}, {"weight_signed": False, **INT8}])
def test_unsigned_weights_without_a_zero_point_make_quant_tensors(options):
    layer = qnn.QuantLinear(70, 9, **options)
    layer.weight.data.abs_()
    converted = assert_converts(layer, rows(4, 70))
    assert_same_bits(layer.quant_weight(), converted.quant_weight())
    assert not converted.quant_weight().zero_point.any() and converted.quant_weight().format.name == "uint8_g32"


@pytest.mark.parametrize("layer", [qnn.QuantUpsample, qnn.QuantUpsamplingNearest2d])
def test_upsampling_to_the_nearest_keeps_its_bits(layer):
    assert_converts(nn.Sequential(qnn.QuantIdentity(return_quant_tensor=True), layer(scale_factor=2)), image(4))


@pytest.mark.parametrize(
    "layer, message",
    [
        (qnn.QuantUpsamplingBilinear2d(scale_factor=2), "mode 'bilinear' rounds to the scale.*use nn.Upsample"),
        (qnn.HadamardClassifier(64, 8), "HadamardClassifier: this kind of layer is not known here"),
        (qnn.QuantEmbedding(9, 64, max_norm=1.0), "QuantEmbedding: max_norm rescales the table"),
        (qnn.QuantLinear(64, 8, dtype=torch.float64, **E4M3), "1.weight: is float64, .*call model.float"),
        (qnn.QuantLinear(64, 8, device="meta"), "1.weight: is on device meta"),
        (
            qnn.QuantLinear(70, 8, weight_quant=mx_quant_ocp.MXInt8Weight, weight_group_dim=-1),
            "1: Brevitas fails on this QuantLinear: RuntimeError: view size",
        ),
    ],
)
def test_layers_that_cannot_be_converted_are_named(layer, message):
    with pytest.raises(UnsupportedError, match=message):
        mx.from_brevitas(nn.Sequential(qnn.QuantIdentity(return_quant_tensor=True), layer))


SCRIPTED = """
import torch
from brevitas import config, nn as qnn
from brevitas.quant import mx_quant_ocp as q
import mxexport as mx
assert config.JIT_ENABLED
quantizers = {"weight_quant": q.MXFloat8e4m3Weight, "input_quant": q.MXFloat8e4m3Act}
layer, x = qnn.QuantLinear(64, 8, **quantizers).eval(), torch.randn(3, 64)
assert torch.equal(mx.from_brevitas(layer, (x,))(x), layer(x))
"""


@in_full
def test_quantizers_scripted_by_brevitas_are_read_too():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPTED], env=os.environ | {"BREVITAS_JIT": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# --- half precision -----------------------------------------------------------------------------------------------

BFLOAT16 = {
    "mx_e4m3": E4M3,
    "mx_int8": INT8,
    "mx_uint8": {"weight_quant": GROUP_WEIGHTS["mx_uint8"]},
    **{name: {"weight_quant": q} for name, q in LANGUAGE_MODEL_WEIGHTS.items() if name != "uint8_groups_hqo"},
}


@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_layers_keep_their_bits(name):
    torch.manual_seed(0)
    layer, x = qnn.QuantLinear(70, 9, **BFLOAT16[name]).bfloat16(), rows(6, 70).bfloat16()
    layer.weight.data[3] = 0
    converted = mx.from_brevitas(layer.eval(), (x,))
    assert converted(x).dtype == torch.bfloat16
    assert_same_bits(plain(layer.quant_weight()).float(), converted.quant_weight().value.float())
    assert_same_bits(plain(layer(x)).float(), plain(converted(x)).float())


@pytest.mark.parametrize("name", ["mx_e4m3", "mx_e2m1", "mx_int8", "mx_e4m3_midmax", "mx_int8_ceil", "mx_e4m3_round"])
def test_bfloat16_activations_differ_only_in_scales_its_log2_misrounds(name):
    amax = torch.arange(0x3000, 0x5000, dtype=torch.int16).view(torch.bfloat16)  # 2**-31 to 2**33
    x = (torch.rand(len(amax), 32, generator=torch.Generator().manual_seed(0)) * 2 - 1).bfloat16() * amax[:, None]
    x[:, 0] = amax
    act = qnn.QuantIdentity(act_quant=variant(GROUP_ACTIVATIONS[name], group_dim=-1), return_quant_tensor=True)
    model = nn.Sequential(nn.Linear(2, 2), act).bfloat16().eval()
    converted = mx.from_brevitas(model)[1]
    theirs, ours = act(x).scale_.float().flatten(), converted.act_quant.scale(x).flatten()
    equal = theirs == ours
    assert_same_bits(plain(act(x))[equal].float(), plain(converted(x))[equal].float())
    step = torch.log2(amax.double()) - torch.log2(2 - torch.tensor(converted.act_quant.rule.round_bias / 2.0**23))
    assert ((step - step.round()).abs()[~equal] <= (step.abs()[~equal] + 1) * 2**-7).all()
    assert 0 < (~equal).float().mean() < 0.1 and "bfloat16 log2" in all_notes(converted)


def test_bfloat16_models_run_from_their_file_with_equal_quantizers(tmp_path):
    model = nn.Sequential(qnn.QuantConv2d(40, 8, 3, **E4M3), nn.Flatten(), qnn.QuantLinear(200, 9, **INT8)).bfloat16()
    x = image(40).bfloat16()
    mx.export(model.eval(), (x,), tmp_path / "m.onnx")
    loaded = graph.load(tmp_path / "m.onnx")
    differences = verification.count_quantizer_differences(loaded, x.float().numpy(), executors.run)
    assert len(differences) == 6 and not any(differences.values()), differences


@pytest.mark.parametrize(
    "dtype, quantizers, message",
    [
        (torch.bfloat16, {}, "weight: a scale without groups.* in bfloat16; call model.float"),
        (torch.float16, E4M3, "input: scales found at run time, which float16 has no room for"),
        (
            torch.bfloat16,
            {"weight_quant": None, "input_quant": GROUP_ACTIVATIONS["mx_int8_float_scale"]},
            "input: float scales found at run time.* in bfloat16",
        ),
    ],
)
def test_half_precision_without_equal_bits_is_refused(dtype, quantizers, message):
    with pytest.raises(UnsupportedError, match=message):
        mx.from_brevitas(qnn.QuantLinear(64, 8, **quantizers).to(dtype).eval())


def test_scales_that_were_read_stay_float32_when_the_model_is_cast():
    converted = mx.from_brevitas(qnn.QuantLinear(64, 8, weight_quant=LANGUAGE_MODEL_WEIGHTS["int8_groups"]).eval())
    scale = converted.weight_scale.clone()
    converted.half()
    assert converted.weight.dtype == torch.float16 and torch.equal(converted.weight_scale, scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_torch_changes_no_bit(dtype):
    layer, x = qnn.QuantLinear(64, 8, **E4M3).eval(), rows(5, 64)
    expected = layer(x)
    torch.set_default_dtype(dtype)
    try:
        converted = mx.from_brevitas(layer, (x,))
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_bits(expected, converted(x))


def test_a_model_converted_in_inference_mode_runs_outside_of_it():
    layer, x = qnn.QuantLinear(64, 8, **INT8).eval(), rows(5, 64)
    with torch.inference_mode():
        converted = mx.from_brevitas(layer, (x,))
    assert_same_bits(layer(x), converted(x))
