"""Passes on packed weights: what they do to a weight in float, packed afterwards, is what they do to packed codes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.model import graph
from mxexport.passes import (
    absorb_affines,
    absorb_scales,
    fold_reshapes,
    fold_transposes,
    fold_weights,
    merge_quantizers,
    pad_groups,
    run_passes,
)
from tests.pass_helpers import Build, infer, op_types

RNG = np.random.default_rng(0)
CHANNELS = np.array([1, 2, 0.5, 4, 8, 0.25], np.float32)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def transposed(b: Build, fmt: str) -> ir.Value:
    return b.op("MatMul", b.inputs[0], b.op("Transpose", b.weight(array(6, 70), fmt, 1, "fc"), perm=[1, 0]))


def reshaped(b: Build, fmt: str) -> ir.Value:
    weight = b.op("Reshape", b.weight(array(1, 70, 6), fmt, 1, "fc"), np.array([70, 6]))
    return b.op("MatMul", b.inputs[0], weight)


def scaled(b: Build, fmt: str) -> ir.Value:
    factor = np.float32(2) if fmt == "nvfp4" else CHANNELS
    return b.op("Mul", b.op("MatMul", b.inputs[0], b.weight(array(70, 6), fmt, 0, "fc")), factor)


def odd_scaled(b: Build, fmt: str) -> ir.Value:
    return b.op("Mul", b.op("MatMul", b.inputs[0], b.weight(array(70, 6), fmt, 0, "fc")), CHANNELS * np.float32(0.3))


def short(b: Build, fmt: str) -> ir.Value:
    return b.op("MatMul", b.quant(b.inputs[0], "mxfp8_e4m3_g32", 1, "q"), b.weight(array(70, 6), fmt, 0, "fc"))


FORMATS = ["mxfp4_e2m1", "mxint8", "int4_g32", "uint4_g32", "nvfp4"]
CASES = [
    *((fold_transposes, transposed, fmt) for fmt in FORMATS),
    *((fold_reshapes, reshaped, fmt) for fmt in FORMATS),
    *((absorb_scales, scaled, fmt) for fmt in FORMATS),
    *((absorb_affines, odd_scaled, fmt) for fmt in ("int4_g32", "uint4_g32")),
    *((pad_groups, short, fmt) for fmt in ("mxfp4_e2m1", "mxint8", "uint4_g32")),
]


def contents(model: ir.Model) -> tuple:
    constants = {name: value.const_value.numpy().tobytes() for name, value in model.graph.initializers.items()}
    nodes = sorted(
        (n.op_type, n.name, str(sorted((k, str(a.value)) for k, a in n.attributes.items()))) for n in model.graph
    )
    return nodes, constants


@pytest.mark.parametrize(("function", "make", "fmt"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_packed_codes_are_rewritten_as_the_weight_would_be(function, make, fmt):
    b = Build(x=("N", 70))
    plain = b.model(make(b, fmt))
    packed = run_passes(plain, [fold_weights]).model
    assert {n.op_type for n in packed.graph} & graph.DEQUANTIZERS
    expected = run_passes(run_passes(plain, [function]).model, [fold_weights])
    found = run_passes(packed, [function], verify=True)
    assert found.changed == {function.__name__: 1} and not function(found.model).changed
    assert contents(found.model) == contents(expected.model)


def test_codes_that_no_quantizer_makes_stay():
    b = Build(x=(2, 32))
    codes = np.zeros((6, 32), np.uint8)
    codes[0, 0] = 0x7C  # Inf of e5m2
    weight = b.op(
        "MXFloatDequant", codes, np.ones((6, 1), np.float32), name="w", domain="mxexport.ops", axis=1, group_size=32,
        exponent_bits=5, mantissa_bits=2, exponent_bias=15, max_code=0x7B, has_inf=1, signed_zero=1, shape=[6, 32],
    )  # fmt: skip
    model = b.model(b.op("MatMul", b.inputs[0], b.op("Transpose", weight, name="t", perm=[1, 0])))
    outcome = fold_transposes(model)
    assert outcome.declined == [("t", "not folded into `w`: `w` holds codes that no quantizer makes")]


def test_a_packed_export_cleans_to_what_the_float_export_packs_to(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(64, 64), nn.Linear(64, 64), nn.BatchNorm1d(64)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.relu(self.norm(self.a(x))))

    qmodel, example = mx.quantize_model(Tied().eval(), weight="mxfp4_e2m1", activation="mxint8"), (torch.rand(2, 64),)
    reports = []
    for weights in ("float", "packed"):
        kept = {} if weights == "float" else {"weights": weights}
        mx.export(qmodel, example, tmp_path / f"{weights}.onnx", **kept)
        reports.append(
            mx.clean(tmp_path / f"{weights}.onnx", tmp_path / f"{weights}_clean.onnx", pack=True, verify=True)
        )
    assert reports[0].after == reports[1].after and "Transpose" not in reports[1].after.operators
    again = mx.clean(tmp_path / "packed_clean.onnx", tmp_path / "again.onnx", pack=True, verify=True)
    assert not again.changed and again.before == again.after == reports[0].after


def test_equal_packed_weights_become_one():
    b = Build(x=(2, 64))
    w = array(64, 64)
    model = b.model(b.op("Add", *(b.op("MatMul", b.inputs[0], b.weight(w, "mxint8", 0, n)) for n in "ab")))
    packed = run_passes(model, [fold_weights]).model
    for name in [v for v in packed.graph.initializers if v.startswith("b.")]:  # as deduplicate_initializers would
        kept = packed.graph.initializers[name.replace("b.", "a.", 1)]
        packed.graph.initializers[name].replace_all_uses_with(kept)
    record = run_passes(infer(packed), [merge_quantizers], verify=True)
    assert op_types(record.model).count("GroupwiseDequant") == op_types(record.model).count("MXScaleDequant") == 1
