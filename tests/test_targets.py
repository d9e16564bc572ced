"""Whole networks to standard ONNX and back, through Python and the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport import targets
from mxexport.errors import OptionError
from mxexport.model import graph
from mxexport.running import executors
from tests.helpers import assert_equal_bits, every
from tests.pass_helpers import Build
from tests.qdq_models import formats_of
from tests.test_export_layers import Language, Products, Residual, SelfAttention, randomized


class Digits(nn.Sequential):
    """A small MNIST network."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(576, 40), nn.ReLU(), nn.Linear(40, 10, bias=False),
        )  # fmt: skip


MODELS = {
    "digits": (Digits, torch.rand(2, 1, 28, 28)),
    "language": (Language, torch.randint(0, 50, (2, 7))),
    "residual": (Residual, torch.randn(2, 3, 6, 6)),
    "products": (Products, torch.randn(2, 5, 40)),
    "attention": (lambda: SelfAttention(batch_first=True), torch.randn(2, 7, 64)),
}
PAIRS = {
    "digits": [("mxfp4_e2m1", "mxint8"), ("mxint4", "mxfp6_e3m2")],
    "language": [("mxint4", "mxfp8_e4m3"), ("uint4_g32", "uint8_g32")],
    "residual": [("mxfp6_e2m3", "mxint8")],
    "products": [("mxint8", "mxfp8_e5m2")],
    "attention": [("uint4_g32", "mxfp8_e4m3"), ("mxint4", "mxfp4_e2m1")],
}


_EACH = [(name, pair) for name, pairs in PAIRS.items() for pair in pairs]


@pytest.mark.parametrize(
    ("name", "formats", "functions"),
    [(*case, functions) for functions in (True, False) for case in every(2 - functions, _EACH)],
)
def test_network_to_standard_onnx_and_back(name, formats, functions, tmp_path):
    torch.manual_seed(0)
    make, x = MODELS[name]
    source, there, back = (tmp_path / f"{n}.onnx" for n in ("source", "qdq", "back"))
    mx.export(mx.quantize_model(randomized(make()), *formats), (x,), source)
    report = targets.convert(source, there, to="qdq", functions=functions)
    targets.convert(there, back, to="mxexport")
    proto = onnx.load(there)
    onnx.checker.check_model(proto, full_check=True)
    assert bool(proto.functions) == functions and {n.domain for n in proto.graph.node} <= {"", "mxexport.ops"}
    quantizers = formats_of(graph.load(source))
    assert set(quantizers) <= {name for name, _ in report.notes}
    assert formats_of(graph.load(back)) == quantizers
    wanted = executors.run(source, x.numpy())
    for path in (there, back):
        for actual, expected in zip(executors.run(path, x.numpy()).values(), wanted.values(), strict=True):
            assert_equal_bits(actual, expected, (path.name, report.notes))


NO_TYPE = (
    "float_e4m3",
    "float_e5m2",
    "mxfloat_e3m4",
    "float_e2m5",
    "float_fnuz_e4m3",
    "float_fnuz_e3m4_g16",
    "int4_g16",
)
"""Elements that no ONNX type holds, and beside them some that a type does."""


@pytest.mark.parametrize("rows", [16, 24])
@pytest.mark.parametrize("fmt", every(3, NO_TYPE))
def test_cleaned_weights_of_matmul_keep_their_place(fmt, rows, tmp_path):
    """Square and not: codes turned by mistake would show as other values in one, as a file that does not load in the
    other."""
    torch.manual_seed(0)
    model, x = mx.quantize_model(nn.Sequential(nn.Linear(16, rows)), fmt, None), torch.randn(4, 16)
    source, cleaned, there, back = (tmp_path / f"{n}.onnx" for n in ("source", "clean", "qdq", "back"))
    mx.export(model, (x,), source)
    mx.clean(source, cleaned, verify=True)
    assert targets.convert(cleaned, there, to="qdq").verified == "equal bits"
    assert targets.convert(there, back, to="mxexport").verified == "equal bits"
    (wanted,) = executors.run(cleaned, x.numpy()).values()
    for path in (there, back):
        assert_equal_bits(*executors.run(path, x.numpy()).values(), wanted, (path.name, fmt))
    np.testing.assert_allclose(wanted, model(x).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_fractional_zero_points_of_a_cleaned_weight_keep_their_place(tmp_path):
    """As HQO finds them: stored as float32 values."""
    rng = np.random.default_rng(0)
    b = Build(x=(4, 16))
    w = b.const(rng.standard_normal((16, 16)).astype(np.float32), "w")
    scale, zero = (rng.uniform(0.1, 1, (1, 16)).astype(np.float32) for _ in "sz")
    q = b.op("GroupwiseQuant", w, scale, zero * 4, name="q", domain="mxexport.ops", axis=0, group_size=16, bit_width=4,
             signed=0, narrow=0)  # fmt: skip
    graph.save(b.model(b.op("MatMul", b.inputs[0], q)), tmp_path / "m.onnx")
    report = targets.convert(tmp_path / "m.onnx", tmp_path / "q.onnx", to="qdq")
    assert report.verified == "equal bits" and "stored as float32 values" in dict(report.notes)["q"]


def test_native_types_in_the_reference_evaluator(tmp_path):
    torch.manual_seed(0)
    make, x = MODELS["digits"]
    source, native = tmp_path / "source.onnx", tmp_path / "native.onnx"
    mx.export(mx.quantize_model(make(), "mxfp4_e2m1", "mxfp4_e2m1"), (x,), source)
    targets.convert(source, native, to="qdq", opset=25)
    kinds = {onnx.TensorProto.DataType.Name(i.data_type) for i in onnx.load(native).graph.initializer}
    assert {"FLOAT4E2M1", "FLOAT8E8M0"} <= kinds
    wanted = executors.run_reference(source, x.numpy())
    for actual, expected in zip(executors.run_reference(native, x.numpy()).values(), wanted.values(), strict=True):
        assert_equal_bits(actual, expected)


def test_quantizers_of_qonnx_become_standard_operators(tmp_path):
    from onnx import TensorProto, helper, numpy_helper

    from mxexport.ops import qonnx_general

    constants = {"s": np.float32(0.3), "z": np.float32(0), "b": np.float32(4)}
    node = helper.make_node(
        "Quant", ["x", "s", "z", "b"], ["y"], name="q", domain=qonnx_general.DOMAIN, signed=1, narrow=0,
        rounding_mode="ROUND",
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])
    inits = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(qonnx_general.DOMAIN, 2)]
    proto = helper.make_model(helper.make_graph([node], "g", [x], [y], inits), opset_imports=imports, ir_version=10)
    onnx.save(proto, tmp_path / "m.onnx")
    values = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32) * 3
    for functions, how in ((True, "as a function of standard operators"), (False, "as standard operators")):
        report = targets.convert(tmp_path / "m.onnx", tmp_path / "q.onnx", to="qdq", functions=functions)
        assert report.notes == [("q", f"Quant {how}")]
        assert_equal_bits(executors.run(tmp_path / "q.onnx", values)["y"], executors.run_qonnx(proto, values)["y"])


def test_unknown_targets_and_options(tmp_path):
    with pytest.raises(OptionError, match="unknown target 'tensorrt'; expected one of qdq"):
        targets.convert("m.onnx", "o.onnx", to="tensorrt")


def test_command_line(tmp_path):
    torch.manual_seed(0)
    source, out = tmp_path / "m.onnx", tmp_path / "q.onnx"
    mx.export(mx.quantize_model(nn.Sequential(nn.Linear(40, 4)), "mxfp4_e2m1"), (torch.zeros(1, 40),), source)

    def run(*arguments):
        command = [sys.executable, "-m", "mxexport.cli", "convert", *map(str, arguments), "-f"]
        return subprocess.run(command, capture_output=True, text=True)

    done = run(source, out, "--to", "qdq", "--opset", 24, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["opset"], report["target"]) == (24, "qdq") and [
        "0.weight_quant",
        "mxfp4_e2m1 carried in FLOAT4E2M1",
    ] in report["notes"]
    done = run(out, tmp_path / "b.onnx", "--to", "mxexport")
    assert done.returncode == 0 and "0.weight_quant: MXFloatQuant, mxfp4_e2m1" in done.stdout, done.stderr
    options = ("--batch", 2, "--fold", "wide", "--input-type", "16,8", "--max-weight-bits", 30, "--round-bias")
    weights_only = tmp_path / "w.onnx"
    mx.export(
        mx.quantize_model(nn.Sequential(nn.Linear(40, 4)), "mxfp4_e2m1", None), (torch.zeros(1, 40),), weights_only
    )
    done = run(weights_only, tmp_path / "h.onnx", "--to", "hls4ml", *options)
    assert done.returncode == 0 and "input: rounded to 16 bits, 8 of them" in done.stdout, done.stderr
    for arguments, message in [
        ((source, out, "--to", "hls4ml", "--input-type", "16"), "expected two whole numbers"),
        ((source, out, "--to", "nothing"), "unknown target"),
        ((source, out, "--to", "qdq", "--opset", 19), "expected 21 to 25"),
        ((source, out, "--to", "mxexport", "--opset", 24), "opset"),
        ((tmp_path / "absent.onnx", out, "--to", "qdq"), "no such file"),
    ]:
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
