"""The compiled kernels for onnxruntime: the bits of the reference for any shape, attribute and number of threads; what
does not fit is refused; sessions that compute weights once."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings, strategies as st
from onnx import helper, numpy_helper
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.errors import OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.native.building import SWITCH
from mxexport.numbers import groups, packing
from mxexport.running import native_operators
from tests.bare_kernels import check, open_shapes
from tests.helpers import assert_equal_bits, edge_values, run_bodies, run_python

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
    pytest.mark.skipif(
        not native_operators.status().active, reason=f"no kernels here: {native_operators.status().reason}"
    ),
]
ON_TENSORS = {"MXScale", "NVFP4Scale", "GroupwiseScale", "GroupwiseZeroPoint", "GroupwiseQuant", "MXFloatQuant"}
STORED = {"GroupwiseDequant", "MXFloatDequant", "MXScaleDequant", "NVFP4ScaleDequant"}
EDGES = edge_values((64, 70)).reshape(-1)


def test_every_operator_has_a_kernel():
    assert native_operators.operators() == set(ops.OPERATORS)
    exported = {name for name, operator in ops.OPERATORS.items() if operator.role != "dataflow"}
    assert exported == ON_TENSORS | STORED, "what this file looks at; tests/test_native_dataflow.py has the others"


# --- any shape, any attribute -------------------------------------------------------------------------------------


@st.composite
def tensors(draw) -> tuple[np.ndarray, int, int]:
    """(x, axis, group size): up to four dimensions, some of them empty, any float32 and many edges."""
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 9, 33, 40]), min_size=1, max_size=4))
    while math.prod(shape) > 6000:
        shape[shape.index(max(shape))] = 2
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.choice(EDGES, shape) if draw(st.booleans()) else rng.standard_normal(shape)
    return np.asarray(x, np.float32), axis, draw(st.sampled_from([1, 2, 7, 16, 32, 100]))


def drawn_scale(data, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kind = data.draw(st.sampled_from(["powers", "subnormal", "any", "edges"]))
    if kind == "powers":
        return np.ldexp(np.float32(1), rng.integers(-120, 120, shape)).astype(np.float32)
    if kind == "subnormal":
        return np.ldexp(np.float32(1), rng.integers(-149, -120, shape)).astype(np.float32)
    return rng.choice(EDGES, shape) if kind == "edges" else rng.standard_normal(shape).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_scales_of_any_tensor(data):
    x, axis, group_size = data.draw(tensors())
    common, whole = {"axis": axis, "group_size": group_size}, st.integers
    low = data.draw(whole(0, 254))
    powers = {"emax": data.draw(whole(-126, 127)), "round_bias": data.draw(whole(0, 0x7FFFFF))}
    powers |= {"frac_bits": data.draw(whole(0, 22)), "code_min": low, "code_max": data.draw(whole(low, 254))}
    check("MXScale", [x], common | powers)
    levels = {"levels": data.draw(st.sampled_from([1.0, 7.0, 15.0, 127.0, 255.0, 448.0, 1e-30]))}
    check("NVFP4Scale", [x], common)
    for asymmetric in (0, 1):
        check("GroupwiseScale", [x], common | levels | {"asymmetric": asymmetric})
    scale = drawn_scale(data, groups.contracted_shape(x.shape, axis, group_size))
    check("GroupwiseZeroPoint", [x, scale], common | levels)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_integers_of_any_tensor(data):
    x, axis, group_size = data.draw(tensors())
    scale = drawn_scale(data, groups.contracted_shape(x.shape, axis, group_size))
    attributes = {"axis": axis, "group_size": group_size, "bit_width": data.draw(st.integers(2, 8))}
    attributes |= {"signed": data.draw(st.integers(0, 1)), "narrow": data.draw(st.integers(0, 1))}
    zero = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-8, 260, scale.shape).astype(np.float32)
    check("GroupwiseQuant", [x, scale] + [zero] * data.draw(st.integers(0, 1)), attributes)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_minifloats_of_any_tensor(data):
    x, axis, group_size = data.draw(tensors())
    scale = drawn_scale(data, groups.contracted_shape(x.shape, axis, group_size))
    attributes = {"axis": axis, "group_size": group_size, "exponent_bits": data.draw(st.integers(1, 8))}
    attributes |= {"mantissa_bits": data.draw(st.integers(0, 23)), "exponent_bias": data.draw(st.integers(-126, 127))}
    largest = st.one_of(st.floats(2.0**-149, 3.4028234663852886e38, width=32), st.sampled_from([6.0, 448.0, 57344.0]))
    attributes |= {"max_val": data.draw(largest), "signed": data.draw(st.integers(0, 1))}
    check("MXFloatQuant", [x, scale], attributes | {"signed_zero": data.draw(st.integers(0, 1))})


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_packed_codes_of_any_tensor(data):
    x, axis, group_size = data.draw(tensors())
    scale = drawn_scale(data, groups.contracted_shape(x.shape, axis, group_size))
    common = {"axis": axis, "group_size": group_size, "shape": list(x.shape)}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    if data.draw(st.booleans()):
        bits, signed = data.draw(st.integers(2, 8)), data.draw(st.integers(0, 1))
        zero = [rng.integers(-8, 260, scale.shape).astype(np.float32)] * data.draw(st.integers(0, 1))
        op_type, attributes = "GroupwiseDequant", {"bit_width": bits, "signed": signed}
    else:
        element = mx.get_format(data.draw(st.sampled_from(FLOATS))).element
        bits, zero, op_type = element.bits, [], "MXFloatDequant"
        attributes = ops.MXFloatDequant.attributes_of(element)
    codes = rng.integers(0, 256, packing.packed_shape(x.shape, bits, axis, group_size)).astype(np.uint8)
    check(op_type, [codes, scale, *zero], common | attributes)


FLOATS = [
    *("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1", "float_e3m2_g8"),
    *("float_ocp_e5m2_g32", "float_fnuz_e4m3_g32"),
]


@pytest.mark.parametrize("shape, axis", [((3, 1000, 64), -1), ((2, 96, 50, 50), 1), ((70, 3000), 0), ((40, 5000), 1)])
def test_threads_change_no_bit(shape, axis, rng):
    x = rng.choice(EDGES, shape).astype(np.float32)
    common = {"axis": axis, "group_size": 32}
    scales = {"emax": 8, "round_bias": 0, "frac_bits": 0, "code_min": 0, "code_max": 254}
    (scale,) = ops.MXScale.reference(x, **common, **scales)
    element = ops.MXFloatQuant.attributes_of(mx.get_format("mxfp8_e4m3").element)
    integers = ops.GroupwiseQuant.attributes_of(mx.get_format("mxint8").element)
    codes = rng.integers(0, 256, packing.packed_shape(shape, 6, axis, 32)).astype(np.uint8)
    stored = ops.MXFloatDequant.attributes_of(mx.get_format("mxfp6_e2m3").element) | {"shape": list(shape)}
    for threads in (1, 3):
        check("MXScale", [x], common | scales, threads)
        check("NVFP4Scale", [x], common, threads)
        check("MXFloatQuant", [x, scale], common | element, threads)
        check("GroupwiseQuant", [x, scale], common | integers, threads)
        check("MXFloatDequant", [codes, scale], common | stored, threads)


# --- what does not fit --------------------------------------------------------------------------------------------


INTEGERS = {"axis": 1, "group_size": 32, "bit_width": 8, "signed": 1, "narrow": 1}
X, SCALE = np.ones((2, 64), np.float32), np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    "arrays, attributes, words",
    [
        ([X, X], INTEGERS, "do not have one entry per group"),
        ([X, SCALE[:, :1]], INTEGERS, "do not have one entry per group"),
        ([X, SCALE[0]], INTEGERS, "do not have one entry per group"),
        ([X, SCALE, SCALE[:1]], INTEGERS, "do not have one entry per group"),
        ([X, SCALE], INTEGERS | {"axis": 2}, "axis lies outside"),
        ([np.ones((), np.float32), SCALE], INTEGERS | {"axis": 0}, "axis lies outside"),
        ([X, SCALE], INTEGERS | {"group_size": 0}, "group_size is below 1"),
        ([np.ones((1,) * 17, np.float32), SCALE], INTEGERS, "more than 16 dimensions"),
    ],
)
def test_wrong_shapes_are_refused_before_memory_is_touched(arrays, attributes, words):
    session = open_shapes("GroupwiseQuant", ["float32"] * len(arrays), attributes)
    with pytest.raises(Exception, match=words):
        session.run(None, {f"i{i}": a for i, a in enumerate(arrays)})


@pytest.mark.parametrize("shape", [(2, 31), (2, 33), (1, 32), (2, 32, 1)])
def test_codes_of_the_wrong_size_are_refused(shape):
    attributes = {"axis": 1, "group_size": 32, "bit_width": 4, "signed": 1, "shape": [2, 64]}
    session = open_shapes("GroupwiseDequant", ["uint8", "float32"], attributes)
    with pytest.raises(Exception, match="packed codes do not have the bytes"):
        session.run(None, {"i0": np.zeros(shape, np.uint8), "i1": SCALE})


def test_attributes_that_are_missing_or_too_large_are_refused():
    with pytest.raises(Exception, match="narrow"):
        open_shapes("GroupwiseQuant", ["float32"] * 2, {k: v for k, v in INTEGERS.items() if k != "narrow"})
    with pytest.raises(Exception, match="more than 8 bits"):
        open_shapes("GroupwiseQuant", ["float32"] * 2, INTEGERS | {"bit_width": 9})


# --- sessions -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["float", "packed"])
def file(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    tail = (nn.Flatten(), nn.Linear(40 * 16, 300), nn.ReLU(), nn.Linear(300, 5))
    net = mx.quantize_model(nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), *tail), "mxfp6_e2m3", "mxfp8_e4m3")
    mx.export(net, torch.randn(2, 3, 6, 6), folder / "m.onnx", weights=request.param)
    return folder / "m.onnx"


INPUT = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)


def test_a_file_gives_equal_bits_by_kernels_and_by_bodies(file):
    asked = [o for n in onnx.load(file).graph.node for o in n.output]
    assert len(asked) > 10
    kernels, by_bodies = mx.run(file, INPUT, asked), run_bodies(file, INPUT, asked)
    for name in asked:
        assert_equal_bits(kernels[name], by_bodies[name], name)


def test_plain_onnxruntime_takes_the_kernels_in_place_of_the_bodies(file, tmp_path):
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(mx.ort_library())
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "p")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    assert_equal_bits(session.run(None, {name: INPUT})[0], next(iter(mx.run(file, INPUT).values())))
    assert '"op_name" : "MXFloatQuant"' in Path(session.end_profiling()).read_text()


@pytest.mark.parametrize("switch", ["0", "1"])
def test_weights_are_computed_once_or_in_every_call(file, monkeypatch, switch):
    monkeypatch.setenv(SWITCH, switch)
    made = []
    opened = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: made.append(opened(*a, **k)) or made[-1])
    once, each = mx.Session(file), mx.Session(file, weights="each")
    assert len(made) == 3, "the weights' own session, and two"
    assert len(made[0].get_outputs()) == 3 and not made[0].get_inputs()
    wanted = next(iter(each.run(INPUT).values()))
    for _ in range(2):
        np.testing.assert_allclose(next(iter(once.run(INPUT).values())), wanted, rtol=1e-4, atol=1e-4)  # order of sums
    assert once.kernels == each.kernels
    assert ("compiled" in once.kernels) == (switch == "1") and ("MXEXPORT_NATIVE=0" in once.kernels) == (switch == "0")
    with pytest.raises(OptionError, match="weights is 'twice'"):
        mx.Session(file, weights="twice")


def test_forms_of_a_model_and_inner_tensors_run_alike(file):
    proto = onnx.load(file)
    asked = [n.output[0] for n in proto.graph.node if "quant" in n.name][:3] + [proto.graph.output[0].name]
    wanted = mx.Session(file, asked).run(INPUT)
    assert list(wanted) == asked
    for model in (proto, graph.load(file)):
        for name, array in mx.Session(model, asked).run(INPUT).items():
            assert_equal_bits(array, wanted[name], name)


def weight_model(*, extra: list | None = None, overridable: bool = False) -> onnx.ModelProto:
    """y = x @ quantized w, where w may be an input with a default."""
    w, s = np.random.default_rng(1).standard_normal((32, 4)).astype(np.float32), np.full((1, 4), 0.25, np.float32)
    nodes = [
        helper.make_node("GroupwiseQuant", ["w", "s"], ["q"], domain=ops.DOMAIN, **INTEGERS | {"axis": 0}),
        helper.make_node("Transpose", ["q"], ["t"]),
        helper.make_node("Gemm", ["x", "t"], ["y"], transB=1),
        *(extra or []),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", 1, ["n", 32])] + [value("w", 1, [32, 4])] * overridable
    outputs = [value("y", 1, None)] + [value(o, 1, None) for n in extra or [] for o in n.output]
    initializers = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(s, "s")]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
    made = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def test_a_weight_that_may_be_fed_stays_in_the_graph():
    session = mx.Session(weight_model(overridable=True))
    x = np.eye(32, dtype=np.float32)
    zero = session.run({"x": x, "w": np.zeros((32, 4), np.float32)})["y"]
    assert not zero.any() and session.run({"x": x})["y"].any()


def test_what_is_drawn_is_drawn_in_every_call():
    drawn = helper.make_node("RandomNormalLike", ["q"], ["r"])
    session = mx.Session(weight_model(extra=[drawn, helper.make_node("Identity", ["t"], ["kept"])]))
    first, second = (session.run(np.eye(32, dtype=np.float32)) for _ in range(2))
    assert (first["r"] != second["r"]).any()
    assert_equal_bits(first["kept"], second["kept"])
    assert_equal_bits(first["y"], first["kept"].T)


# --- where there are none -----------------------------------------------------------------------------------------


def test_the_switch_and_a_missing_compiler_are_named():
    script = """
import mxexport as mx
from mxexport.errors import UnsupportedError
try:
    print(mx.ort_library())
except UnsupportedError as error:
    print(error)
"""
    assert "switched off by MXEXPORT_NATIVE=0; files run without them" in run_python(script, **{SWITCH: "0"})
    assert "no C compiler found" in run_python(script, CC="no-such-compiler", PATH="/nowhere", **{SWITCH: "1"})


def test_a_runtime_that_refuses_the_library_leaves_the_bodies(monkeypatch):
    native_operators._load.cache_clear()

    def refuse(self, path):
        raise RuntimeError("too old")

    monkeypatch.setattr(onnxruntime.SessionOptions, "register_custom_ops_library", refuse)
    try:
        assert not native_operators.status().active and native_operators.status().reason.endswith("too old")
        assert native_operators.operators() == frozenset()
        with pytest.raises(UnsupportedError, match="too old"):
            mx.ort_library()
        x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
        session = mx.Session(weight_model())
        assert session.kernels.startswith("function bodies (onnxruntime") and session.run(x)["y"].shape == (3, 4)
    finally:
        native_operators._load.cache_clear()
