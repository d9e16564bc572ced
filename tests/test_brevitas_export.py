"""Files made from Brevitas models: the same bits in every executor, names, notes, and a model left as it was."""

from __future__ import annotations

import json
import subprocess
import sys

import brevitas
import numpy as np
import onnx
import pytest
import torch
from brevitas import nn as qnn, quant as bq
from brevitas.quant import mx_quant_ocp
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.ops import qonnx_general
from mxexport.running import executors, verification
from tests.brevitas_families import (
    GROUP_ACTIVATIONS,
    GROUP_WEIGHTS,
    PLAIN_ACTIVATIONS,
    PLAIN_WEIGHTS,
    RUN_TIME_ACTIVATIONS,
)
from tests.helpers import assert_equal_bits, assert_equal_up_to_turned_codes, every

pytestmark = pytest.mark.filterwarnings("ignore")

EXECUTORS = [executors.run, executors.run_qonnx, executors.run_reference]


def linear(outputs: int, weight, activation=None, inputs: int = 70, **options) -> nn.Module:
    return qnn.QuantLinear(inputs, outputs, weight_quant=weight, input_quant=activation, **options)


def mixed() -> tuple[nn.Module, torch.Tensor]:
    """MX, float-scaled groups and ordinary integer quantizers in one network."""
    torch.manual_seed(0)
    model = nn.Sequential(
        qnn.QuantConv2d(
            40, 24, 3, weight_quant=GROUP_WEIGHTS["mx_e4m3"], input_quant=GROUP_ACTIVATIONS["mx_e4m3"]
        ),
        qnn.QuantReLU(),
        qnn.QuantConvTranspose2d(24, 8, 2, weight_quant=mx_quant_ocp.MXInt8Weight, input_quant=mx_quant_ocp.MXInt8Act),
        nn.Flatten(),
        linear(20, bq.Int8WeightPerChannelFloat, bq.Int8ActPerTensorFloat, 200, bias_quant=bq.Int32Bias),
        linear(
            9, GROUP_WEIGHTS["mx_uint8_float_scale"], GROUP_ACTIVATIONS["mx_int8_float_scale"], 20,
        ),
    )  # fmt: skip
    model[2].weight.data[0] = 1.9  # one bit more than Brevitas' MX int8 reaches
    return model, torch.randn(3, 40, 6, 6, generator=torch.Generator().manual_seed(0))


MODELS = {
    "mixed": mixed,
    "float8": lambda: (
        linear(9, PLAIN_WEIGHTS["e5m2_channel"], PLAIN_ACTIVATIONS["e4m3"]),
        torch.randn(4, 70, generator=torch.Generator().manual_seed(1)),
    ),
    "binary": lambda: (linear(9, PLAIN_WEIGHTS["binary"], PLAIN_ACTIVATIONS["binary"]), torch.ones(4, 70)),
    "pool": lambda: (
        nn.Sequential(
            qnn.QuantReLU(return_quant_tensor=True),
            qnn.TruncAvgPool2d(3, trunc_quant=bq.TruncTo8bit, return_quant_tensor=False),
            nn.Flatten(),
            linear(9, bq.Int8WeightPerTensorFloat, inputs=20),
        ),
        torch.randn(4, 5, 6, 6, generator=torch.Generator().manual_seed(2)),
    ),
    "rounding": lambda: (
        nn.Sequential(
            linear(9, bq.Int8WeightPerTensorFloat, PLAIN_ACTIVATIONS["int8_floor"]),
            qnn.QuantIdentity(act_quant=PLAIN_ACTIVATIONS["uint8_asymmetric"]),
        ),
        torch.randn(4, 70, generator=torch.Generator().manual_seed(2)),
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    model, x = MODELS[request.param]()
    model.train()
    for _ in range(2):
        model(x)
    path = tmp_path_factory.mktemp("brevitas") / "net.onnx"
    report = mx.export(model.eval(), (x,), path)
    return model, x, path, report


def test_file_is_valid_and_made_of_standard_and_contracted_quantizers(exported):
    _, _, path, _ = exported
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    domains = {node.domain for node in proto.graph.node}
    assert domains <= {"", ops.DOMAIN, qonnx_general.DOMAIN} and len(domains) > 1
    assert b"brevitas" not in path.read_bytes().lower()


@pytest.mark.parametrize("execute", EXECUTORS)
def test_outputs_are_those_of_brevitas(exported, execute):
    """Up to the order of sums, which is another in every executor; the bits of the quantizers are compared below."""
    model, x, path, _ = exported
    (actual,) = execute(path, x.numpy()).values()
    expected = model(x).detach().numpy()
    if isinstance(model, qnn.QuantLinear):  # no quantizer behind the sums: nothing can turn over
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    else:
        assert_equal_up_to_turned_codes(actual, expected)


@pytest.mark.parametrize("execute", EXECUTORS)
def test_every_quantizer_gives_equal_bits_on_equal_input(exported, execute):
    _, x, path, _ = exported
    model = graph.load(path)
    if any(graph.is_ours(node, graph.QUANTIZERS) for node in model.graph):
        differences = verification.count_quantizer_differences(model, x.numpy(), execute)
        assert len(differences) >= 3 and not any(differences.values()), differences
    assert_standard_quantizers_agree(model, x.numpy(), execute)


def assert_standard_quantizers_agree(model, x, execute) -> None:
    """`Quant`, `FloatQuant` and `BipolarQuant` against the torch ops, on the input the node saw."""
    nodes = [node for node in model.graph if node.domain == qonnx_general.DOMAIN]
    assert nodes
    names = list(dict.fromkeys(v.name for n in nodes for v in (n.inputs[0], n.outputs[0])))
    known = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
    known[model.graph.inputs[0].name] = x
    seen = known | execute(model, x, [name for name in names if name not in known])
    by_type = {"Quant": torch.ops.mxexport.quant, "FloatQuant": torch.ops.mxexport.float_quant}
    for node in nodes:
        attributes = [node.attributes[name].value for name in qonnx_general.ATTRIBUTES[node.op_type]]
        tensors = [torch.tensor(seen[v.name]) for v in node.inputs]
        expected = by_type.get(node.op_type, torch.ops.mxexport.bipolar_quant)(*tensors, *attributes)
        assert_equal_bits(seen[node.outputs[0].name], expected.numpy(), node.name)


def test_scales_along_a_dimension_that_stays_open_have_equal_bits(tmp_path):
    act = RUN_TIME_ACTIVATIONS["int8_row"].let(
        dynamic_scaling_broadcastable_fn=lambda x, shape: x.view(shape[0], 1, shape[-1]), permute_dims=(0, 2, 1)
    )
    layer = qnn.QuantIdentity(act_quant=act).eval()
    x = torch.randn(4, 9, 20, generator=torch.Generator().manual_seed(0))
    x[0, 2, 3], x[1, 4, 5] = torch.nan, torch.inf
    path = tmp_path / "net.onnx"
    mx.export(layer, (x,), path, dynamic_shapes=({0: "batch", 1: "sequence"},))
    for values in (x, x[:3, :5]):
        for execute in EXECUTORS:
            (actual,) = execute(path, values.numpy()).values()
            assert_equal_bits(actual, layer(values).detach().numpy(), execute.__name__)


@pytest.mark.parametrize("name", every(3, RUN_TIME_ACTIVATIONS))
def test_scales_found_at_run_time_have_equal_bits_in_every_executor(name, tmp_path):
    layer = qnn.QuantIdentity(act_quant=RUN_TIME_ACTIVATIONS[name]).eval()
    x = torch.randn(6, 5, 70, generator=torch.Generator().manual_seed(0))
    x[0], x[1], x[2, 3, 4], x[3, :, :32] = 0.0, -x[1].abs() - 1, torch.nan, torch.inf
    path = tmp_path / "net.onnx"
    mx.export(layer, (x,), path)
    for values in (x, x[:2], x[2:3], x[3:4], x[4:]):
        expected = layer(values).detach().numpy()
        if "groups" in name:
            expected = expected + 0.0  # codes of groups have no -0
        for execute in EXECUTORS:
            (actual,) = execute(path, values.numpy()).values()
            assert_equal_bits(actual, expected, execute.__name__)
    mx.export(layer, (x,), path, dynamic_shapes=({0: "batch", 1: "sequence"},))
    (actual,) = executors.run(path, x[4:, :3].numpy()).values()
    assert_equal_bits(actual, layer(x[4:, :3]).detach().numpy() + (0.0 if "groups" in name else -0.0))
    cleaned = tmp_path / "clean.onnx"
    mx.clean(path, cleaned)
    assert_equal_bits(*(next(iter(executors.run(p, x.numpy()).values())) for p in (cleaned, path)))


@pytest.mark.parametrize("execute", [executors.run, executors.run_qonnx])
def test_weights_in_the_file_are_those_of_brevitas(exported, execute):
    model, x, path, _ = exported
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "quant_weight")}
    wanted = [f"{name}.weight_quant" if name else "weight_quant" for name in layers]
    for layer, value in zip(layers.values(), execute(path, x.numpy(), wanted).values(), strict=True):
        assert_equal_bits(value + np.float32(0), layer.quant_weight().value.detach().numpy() + np.float32(0))


def test_names_scales_and_notes_come_from_the_layers(tmp_path):
    model, x = mixed()
    report = mx.export(model.eval(), (x,), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    names = {node.name for node in proto.graph.node}
    assert {
        "0.input_scale",
        "0.input_quant",
        "0.weight_quant",
        "1.act_quant",
        "4.bias_quant",
        "5.weight_quant",
    } <= names
    shapes = {i.name: list(i.dims) for i in proto.graph.initializer}
    assert shapes["0.weight_scale"] == [24, 2, 3, 3] and shapes["2.weight_scale"] == [1, 8, 2, 2]
    assert shapes["5.weight_scale"] == shapes["5.weight_zero_point"] == [9, 1]
    formats = {layer.name: layer.format for layer in report.layers}
    assert formats["0.weight_quant"] == "mxfp8_e4m3" and formats["2.weight_quant"] == "mxint8"
    assert formats["5.weight_quant"] == "uint8_g32" and formats["4.weight_quant"] == "int8"
    noted = {where for where, _ in json.loads(report.to_json())["notes"]}
    assert {"0.input", "2.weight", "2.input"} <= noted


def test_an_exported_conversion_is_the_exported_model(tmp_path):
    model, x = mixed()
    mx.export(model.eval(), (x,), tmp_path / "a.onnx")
    mx.export(mx.from_brevitas(model, (x,)), (x,), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_mixed_rounding_needs_opset_19(tmp_path):
    model, x = MODELS["rounding"]()
    with pytest.raises(UnsupportedError, match="(?s)need opset 19.*input_quant: rounding mode FLOOR"):
        mx.export(model.eval(), (x,), tmp_path / "m.onnx", opset=18)


def test_mxint8_of_brevitas_is_refused_by_the_hardware_and_its_floats_are_not(tmp_path):
    x = torch.rand(40, 64)
    for weight, activation in (("mx_e4m3", "mx_e4m3"), ("mx_int8_narrow", "mx_e2m1")):
        model = linear(8, GROUP_WEIGHTS[weight], GROUP_ACTIVATIONS[activation], 64)
        mx.export(nn.Sequential(model).eval(), (x,), tmp_path / "m.onnx")
        mx.compile(tmp_path / "m.onnx", tmp_path / weight, calibration=x)
    model = linear(8, GROUP_WEIGHTS["mx_int8"], GROUP_ACTIVATIONS["mx_int8"], 64)
    mx.export(nn.Sequential(model).eval(), (x,), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="codes reach -128"):
        mx.compile(tmp_path / "m.onnx", tmp_path / "build", calibration=x)


# --- the user's model -----------------------------------------------------------------------------------------


class Unexportable(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = linear(8, GROUP_WEIGHTS["mx_e4m3"], bq.Int8ActPerTensorFloat, 8)
        self.drop = nn.Dropout()

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


class Unconvertible(Unexportable):
    def __init__(self):
        super().__init__()
        self.up = qnn.QuantUpsamplingBilinear2d(scale_factor=2)

    def forward(self, x):
        return self.up(self.fc(x)[None, None])


def state_of(model: nn.Module) -> dict:
    flags = {
        name: (m.training, getattr(m, "export_mode", None), id(getattr(m, "export_handler", None)), type(m))
        for name, m in model.named_modules()
    }
    hooks = {name: len(m._forward_hooks) for name, m in model.named_modules()}
    tensors = {name: t.detach().numpy().tobytes() for name, t in (*model.named_parameters(), *model.named_buffers())}
    keys = list(model.state_dict())
    return {"flags": flags, "hooks": hooks, "tensors": tensors, "keys": keys}


@pytest.mark.parametrize("make, succeeds", [(Unexportable, False), (Unconvertible, False), (mixed, True)])
def test_the_model_is_left_as_it_was(tmp_path, make, succeeds):
    made = make()
    model, x = made if isinstance(made, tuple) else (made, torch.randn(2, 8))
    model.train()
    next(iter(model.children())).eval()
    before = state_of(model)
    if succeeds:
        mx.export(model, (x,), tmp_path / "m.onnx")
    else:
        with pytest.raises(UnsupportedError):
            mx.export(model, (x,), tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []
    assert state_of(model) == before


def test_a_model_left_broken_by_brevitas_own_export_still_converts(tmp_path):
    from brevitas.export import export_qonnx

    x = torch.randn(4, 8)
    model = Unexportable().eval()
    model.fc(x)
    expected = model.fc(x).detach()
    with pytest.raises(Exception):  # noqa: B017  (torch raises many types)
        export_qonnx(model, args=x, export_path=str(tmp_path / "b.onnx"), dynamo=True)
    converted = mx.from_brevitas(model)
    assert torch.equal(converted.fc(x), expected)


def test_training_flags_are_those_of_the_model():
    model, x = mixed()
    model.train()
    model[0].eval()
    converted = mx.from_brevitas(model, (x,))
    assert converted.training and converted[3].training and not converted[0].training and converted[5].training


# --- Brevitas itself ------------------------------------------------------------------------------------------


def test_brevitas_is_imported_only_when_a_model_needs_it(tmp_path):
    script = """
import sys, torch, mxexport as mx, mxexport.exporting.exporter
model = mx.quantize_model(torch.nn.Sequential(torch.nn.Linear(32, 4)))
mx.export(model, (torch.ones(1, 32),), sys.argv[1] + "/m.onnx")
assert not any(name.split(".")[0] == "brevitas" for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_brevitas_is_named(monkeypatch):
    model, _ = mixed()
    monkeypatch.setitem(sys.modules, "brevitas", None)
    with pytest.raises(UnsupportedError, match=r"Brevitas cannot be imported .*pip install brevitas==0\.13\.4"):
        mx.from_brevitas(model)


def test_another_brevitas_version_is_named(monkeypatch):
    model, x = mixed()
    monkeypatch.setattr(brevitas, "__version__", "0.12.0")
    with pytest.raises(UnsupportedError, match=r"found Brevitas 0\.12\.0, expected 0\.13\.4"):
        mx.export(model, (x,), "unused.onnx")
