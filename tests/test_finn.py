"""`convert --to finn`: the values of the exported file, by integers only; what does not fit is named.

tests/finn runs the files through FINN+'s own steps (make test-finn).
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from qonnx.custom_op.general.intquant import int_quant
from torch import nn

import mxexport as mx
from mxexport.errors import OptionError, UnsupportedError
from mxexport.quant import QuantReLU, freeze_scales
from mxexport.running import executors
from mxexport.targets import finn_steps

STATIC_MX = mx.QuantSpec("mxint8", source="static", scaling_per_output="tensor")
STATIC = mx.QuantSpec("int8", source="static", scaling_per_output="tensor")
MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 6)), (1, 70)),
    "cnn": (
        lambda: nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(360, 5)),
        (1, 3, 8, 8),
    ),
}


def exported(name: str, weight: str, activation, path) -> np.ndarray:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = mx.quantize_model(make(), weight, activation)
    model(torch.randn(64, *shape[1:]))
    freeze_scales(model)
    x = torch.randn(shape)
    mx.export(model.eval(), (x,), path)
    return x.numpy()


@pytest.mark.parametrize("weight", ["mxint4", "mxfp4_e2m1", "mxfp6_e3m2"])
@pytest.mark.parametrize("name", MODELS)
def test_converted_file_gives_the_values_of_the_exported_one(name, weight, tmp_path):
    x = exported(name, weight, STATIC, tmp_path / "m.onnx")
    report = mx.convert(tmp_path / "m.onnx", tmp_path / "finn.onnx", to="finn")
    proto = onnx.load(report.path)
    onnx.checker.check_model(proto)
    assert report.opset == 20 and any("steps=build_steps()" in note for _, note in report.notes)
    assert {n.domain for n in proto.graph.node} <= {"", "qonnx.custom_op.general"}
    assert all(d.HasField("dim_value") for i in proto.graph.input for d in i.type.tensor_type.shape.dim)
    for execute in (executors.run, executors.run_qonnx):
        (expected,), (actual,) = (execute(p, x).values() for p in (tmp_path / "m.onnx", report.path))
        # Products are sums of other, wider integers times one scale: float32 may round them once more.
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("weight", "activation", "message"),
    [
        ("mxint4", "mxint8", "0.input_quant"),
        ("mxfp8_e5m2", STATIC, "bits"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(weight, activation, message, tmp_path):
    exported("mlp", weight, activation, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=message):
        mx.convert(tmp_path / "m.onnx", tmp_path / "finn.onnx", to="finn")
    assert not (tmp_path / "finn.onnx").exists()


@pytest.mark.parametrize("opset", [17, 20])
def test_an_older_opset_may_be_asked_for(opset, tmp_path):
    exported("cnn", "mxint4", STATIC, tmp_path / "m.onnx")
    assert mx.convert(tmp_path / "m.onnx", tmp_path / "finn.onnx", to="finn", opset=opset).opset == opset
    with pytest.raises(OptionError, match="opset is 22; expected a whole number from 13 to 21"):
        mx.convert(tmp_path / "m.onnx", tmp_path / "finn.onnx", to="finn", opset=22)


@pytest.mark.parametrize("clean", [False, True])
def test_constants_of_images_have_every_dimension(clean, tmp_path):
    """FINN absorbs no others into thresholds once images are channels last."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 4, 3)).eval()
    model = mx.quantize_model(model, "mxint4", STATIC)
    model(torch.randn(8, 3, 8, 8))
    freeze_scales(model)
    source = tmp_path / "m.onnx"
    mx.export(model, (torch.randn(1, 3, 8, 8),), source)
    if clean:
        mx.clean(source, source := tmp_path / "c.onnx")
    proto = onnx.load(mx.convert(source, tmp_path / "finn.onnx", to="finn").path)
    shapes = {i.name: tuple(i.dims) for i in proto.graph.initializer}
    constants = [
        shapes[n] for node in proto.graph.node if node.op_type in ("Add", "Mul") for n in node.input if n in shapes
    ]
    assert constants and all(len(shape) in (0, 4) for shape in constants)


def test_weights_per_channel_convert_without_clean(tmp_path):
    channel = mx.QuantSpec("int4", scaling_per_output="channel")
    exported("cnn", channel, STATIC, tmp_path / "m.onnx")
    report = mx.convert(tmp_path / "m.onnx", tmp_path / "finn.onnx", to="finn")
    assert [note for _, note in report.notes if "weights are" in note] == [
        "weights are 4-bit integers, one step per output channel (its own)"
    ] * 2


# --- ties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.25, 2.0**-7, 3.0, 0.1, 0.0123])
@pytest.mark.parametrize(
    ("bits", "signed", "narrow"), [(8, 1, 0), (8, 1, 1), (4, 1, 0), (8, 0, 0), (2, 1, 1), (1, 0, 0)]
)
def test_thresholds_give_the_codes_of_qonnx_on_ties_and_beside_them(scale, bits, signed, narrow):
    lowest = narrow - 2 ** (bits - 1) if signed else 0
    highest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    scale = np.float32(scale)
    middle = ((np.arange(lowest, highest) + 0.5) * np.float64(scale)).astype(np.float32)  # as FINN makes them
    exact = finn_steps.exact_thresholds(middle[None], scale.reshape(1), lowest)[0]
    ties = np.concatenate([middle, exact])
    x = np.unique(
        np.concatenate([ties, *(np.nextafter(ties, np.float32(s)) for s in (-np.inf, np.inf)), [0, 1e9, -1e9]])
    )
    x = x.astype(np.float32)
    codes = lowest + (x[:, None] >= exact).sum(1)
    wanted = int_quant(x, scale, np.float32(0), np.float32(bits), signed, narrow, "ROUND") / scale
    np.testing.assert_array_equal(codes, np.rint(wanted))
    if scale in (0.25, 2.0**-7):  # every tie is a number, and goes to the even code
        assert (exact != middle).sum() == sum(code % 2 == 0 for code in range(lowest, highest))


# --- a quantizer behind a quantizer ---------------------------------------------------------------------------


def quantizers(tmp_path, first, second, between: str = "") -> list[tuple[float, int, int]]:
    """(scale, bits, signed) of the activation quantizers of relu -> first -> second -> product, as FINN gets them."""
    torch.manual_seed(0)
    parts = [QuantReLU(first), *([nn.MaxPool2d(2)] if between else []), nn.Flatten(), nn.Linear(32, 6)]
    model = mx.quantize_model(nn.Sequential(nn.Conv2d(3, 8 if between else 2, 3, padding=1), *parts), "mxint4", second)
    x = torch.rand(8, 3, 4, 4)
    model(x)
    freeze_scales(model)
    mx.export(model.eval(), (x[:1],), tmp_path / "m.onnx")
    report = mx.convert(tmp_path / "m.onnx", tmp_path / "finn.onnx", to="finn")
    assert report.verified == "equal values"
    proto = onnx.load(report.path)
    known = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    found = [n for n in proto.graph.node if n.op_type == "Quant" and n.input[0] not in known]
    signed = {n.name: next(a.i for a in n.attribute if a.name == "signed") for n in found}
    return [(float(known[n.input[1]]), int(known[n.input[3]]), signed[n.name]) for n in found]


@pytest.mark.parametrize("between", ["", "pool"])
def test_a_quantizer_that_changes_nothing_goes(between, tmp_path):
    _, relu = quantizers(tmp_path, STATIC_MX, STATIC_MX, between)
    assert relu[1:] == (7, 0)


def test_a_coarser_one_behind_it_is_unsigned(tmp_path):
    coarse = mx.QuantSpec("mxint4", source="static", scaling_per_output="tensor")
    *_, relu, behind = quantizers(tmp_path, STATIC_MX, coarse)
    assert relu[1:] == (7, 0) and behind[1:] == (3, 0) and behind[0] > relu[0]


def test_the_steps_are_imported_without_the_rest():
    rest = "{'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'qonnx'}"
    code = f"import sys, mxexport.targets.finn_steps; print(sorted({rest} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done


def test_groups_become_zeros(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2))
    model, data = mx.quantize_model(network, "mxint4", STATIC_MX), torch.randn(32, 4, 7, 7)
    model(data)
    freeze_scales(model)
    mx.export(model.eval(), (data[:1],), tmp_path / "model.onnx")
    notes = mx.convert(tmp_path / "model.onnx", tmp_path / "finn.onnx", to="finn").notes
    assert any("zeros in place of groups" in text for _, text in notes)
    made = onnx.load(tmp_path / "finn.onnx")
    assert not [
        a for n in made.graph.node for a in n.attribute if n.op_type == "Conv" and a.name == "group" and a.i > 1
    ]
    runs = [executors.run_qonnx(tmp_path / f"{name}.onnx", data[:1].numpy()) for name in ("model", "finn")]
    first, second = (next(iter(found.values())) for found in runs)
    assert np.array_equal(first, second)
