"""Every operator: numpy reference = function body in onnxruntime = in the reference evaluator = qonnx."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given, settings, strategies as st
from onnx.reference import ReferenceEvaluator

from mxexport import ops
from mxexport.errors import ScaleShapeError
from mxexport.native.building import SWITCH
from mxexport.numbers import fixedpoint, groups, numerics, quantized
from mxexport.numbers.formats import MX_FORMATS, SCALE_RULES, get_format, round_bias
from mxexport.running import executors, native_operators
from tests.helpers import ALL_FORMATS, assert_equal_bits, edge_values, run_bodies, run_python, single_node_model

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


def check_all_executors(op_type: str, arrays: list, attributes: dict, opset: int = 18) -> tuple[np.ndarray, ...]:
    expected = ops.OPERATORS[op_type].reference(*arrays, **attributes)
    model = single_node_model(op_type, arrays, attributes, opset)
    onnx.checker.check_model(model, full_check=True)
    feeds = {i.name: a for i, a in zip(model.graph.input, [a for a in arrays if a is not None], strict=True)}
    names = [o.name for o in model.graph.output]
    runs = {
        "onnxruntime": lambda: [run_bodies(model, feeds)[n] for n in names],
        "ReferenceEvaluator": lambda: ReferenceEvaluator(model).run(names, feeds),
        "qonnx": lambda: [executors.run_qonnx(model, feeds)[n] for n in names],
    }
    if op_type in native_operators.operators():
        runs["kernel"] = lambda: [executors.run(model, feeds)[n] for n in names]
    for name, execute in runs.items():
        for actual, wanted in zip(execute(), expected, strict=True):
            assert_equal_bits(actual, wanted, f"{op_type} in {name}")
    return expected


def scale_attributes(fmt, rule="floor", axis=1):
    return {
        "axis": axis,
        "group_size": fmt.group_size,
        "emax": fmt.element.emax,
        "round_bias": round_bias(fmt.element, rule),
        "frac_bits": fmt.step_frac_bits,
        "code_min": 0,
        "code_max": 254,
    }


def quant_node(fmt, axis=1):
    op = ops.MXFloatQuant if fmt.is_float else ops.GroupwiseQuant
    return op.op_type(), {"axis": axis, "group_size": fmt.group_size, **op.attributes_of(fmt.element)}


@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", MX_FORMATS)
def test_scale_and_quantizer_equal_everywhere(name, rule):
    fmt, x = get_format(name), edge_values((64, 70))
    (scale,) = check_all_executors("MXScale", [x], scale_attributes(fmt, rule))
    op_type, attributes = quant_node(fmt)
    (y,) = check_all_executors(op_type, [x, scale], attributes)
    assert_equal_bits(y, quantized.quantize(x, fmt, axis=1, rule=rule).dequantize())


@pytest.mark.parametrize("name", [n for n in ALL_FORMATS if not get_format(n).is_mx])
def test_float_scaled_formats_equal_everywhere(name):
    fmt, x = get_format(name), edge_values((64, 70))
    levels = float(fmt.element.max_val)
    common = {"axis": 0, "group_size": fmt.group_size, "levels": levels}
    (scale,) = check_all_executors("GroupwiseScale", [x], common | {"asymmetric": int(fmt.asymmetric)})
    zero = check_all_executors("GroupwiseZeroPoint", [x, scale], common)[0] if fmt.asymmetric else None
    op_type, attributes = quant_node(fmt, axis=0)
    (y,) = check_all_executors(op_type, [x, scale] + ([zero] if fmt.asymmetric else []), attributes)
    assert_equal_bits(y, quantized.quantize(x, fmt, axis=0).dequantize())


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxfp4_e2m1", "mxint8"])
def test_every_midpoint_and_its_neighbours_round_alike(name):
    fmt = get_format(name)
    codes = np.arange(256 if not fmt.is_float else 2**fmt.element.bits, dtype=np.uint8)
    values = numerics.decode(codes if fmt.is_float else codes.view(np.int8), fmt.element)
    values = np.unique(values[np.isfinite(values)])
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    points = np.concatenate([values, middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)])
    x = np.float32(points).reshape(1, -1)
    step = np.float32(2.0**-fmt.step_frac_bits)
    scale = np.full((1, groups.group_count(x.shape[1], fmt.group_size)), step, np.float32)
    op_type, attributes = quant_node(fmt)
    check_all_executors(op_type, [x, scale], attributes)


@pytest.mark.parametrize("opset", range(18, 27))
def test_bodies_hold_at_every_opset(opset):
    if opset > 24:
        pytest.importorskip("onnxruntime", minversion="1.32")
    fmt, x = get_format("mxfp6_e3m2"), edge_values((16, 40))
    (scale,) = check_all_executors("MXScale", [x], scale_attributes(fmt), opset)
    op_type, attributes = quant_node(fmt)
    check_all_executors(op_type, [x, scale], attributes, opset)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_shape_axis_and_short_last_group(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    group = data.draw(st.integers(1, 12))
    fmt = get_format(f"{data.draw(st.sampled_from(['mxfp4_e2m1', 'mxint8', 'mxfp8_e5m2']))}_g{group}")
    x = np.random.default_rng(data.draw(st.integers(0, 2**32))).standard_normal(shape).astype(np.float32)
    (scale,) = check_all_executors("MXScale", [x], scale_attributes(fmt, axis=axis))
    assert scale.shape == groups.contracted_shape(shape, axis, group)
    op_type, attributes = quant_node(fmt, axis)
    check_all_executors(op_type, [x, scale], attributes)


def test_unsigned_minifloat_clamps_at_zero():
    x = np.array([[-3.0, -0.0, 0.0, 1e-9, 2.9, 9.0]], np.float32)
    _, attributes = quant_node(get_format("mxfp4_e2m1"))
    (y,) = check_all_executors("MXFloatQuant", [x, np.ones((1, 1), np.float32)], attributes | {"signed": 0})
    assert_equal_bits(y, np.array([[0, 0, 0, 0, 3, 6]], np.float32))


def test_integers_have_no_negative_zero():
    x = np.float32([[-5.0, -0.0, 0.0, 5.0, -np.inf, np.inf], [-0.1, -0.0, -1e-45, -0.4, 0.4, 0.1]])
    scale, zero = np.float32([[0.0], [1.0]]), np.float32([[0.0], [3.0]])
    attributes = {"axis": 1, "group_size": 6, "bit_width": 8, "signed": 1, "narrow": 1}
    for arrays in ([x, scale], [x, scale, zero]):
        (y,) = check_all_executors("GroupwiseQuant", arrays, attributes)
        assert not y.any() and not np.signbit(y).any()


@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", MX_FORMATS)
def test_dataflow_quantizer_equals_everywhere(name, rule):
    fmt, rng = get_format(name), np.random.default_rng(1)
    v = rng.integers(-(2**62), 2**62, (120, 70)) >> rng.integers(0, 62, (120, 70))
    v[0] = 0
    attributes = {
        "axis": 1,
        "group_size": 32,
        "width": 63,
        "lsb_exp": -40,
        **fixedpoint.element_parameters(fmt.element),
        "emax": fmt.element.emax,
        "round_bias": round_bias(fmt.element, rule),
        "code_min": 100,
        "code_max": 140,
    }
    check_all_executors("MXQuantize", [v], attributes)


@pytest.mark.parametrize("pair", [("mxint8", "mxint8"), ("mxfp8_e4m3", "mxfp4_e2m1"), ("mxfp6_e3m2", "mxint8")])
def test_dataflow_matmul_equals_everywhere(pair):
    rng, parameters, arrays = np.random.default_rng(2), {}, []
    for side, name, rows in (("x", pair[0], 6), ("w", pair[1], 5)):
        fmt = get_format(name)
        q = quantized.quantize(rng.standard_normal((rows, 70)), fmt)
        element = fixedpoint.element_parameters(fmt.element)
        codes = groups.from_groups(q.codes, 1, 70).view(np.uint8) & np.uint8(2**fmt.element.bits - 1)
        arrays += [codes, q.scale_codes]
        parameters |= {f"{side}_{key}": element[key] for key in ("exponent_bits", "mantissa_bits")}
    offset = int(arrays[1].min()) + int(arrays[3].min())
    arrays.append(rng.integers(-1000, 1000, 5))
    check_all_executors(
        "MXMatMul", arrays, parameters | {"group_size": 32, "scale_offset": offset, "width": 60, "lsb_exp": 0}
    )


def wide_products(bits: int, kind: str) -> tuple[list[np.ndarray], dict]:
    """MXMatMul of MX int8 with results of `bits` bits, sign included; low bits come from blocks with small shifts."""
    rng, rows, length, top = np.random.default_rng(bits), 4, 100, 2 ** (bits - 1) - 1
    high = bits - 22  # 32 products of 127 * 127 have 19 bits
    if kind == "random":
        x, w = (rng.integers(-127, 128, (n, length)) for n in (rows, 6))
    else:
        x, w = np.full((rows, length), 127), np.full((6, length), 127 if kind == "highest" else -127)
    scales = [np.array([[high // 2, 0, 3, 1]] * n, np.uint8) for n in (rows, 6)]
    scales[0][:, 0] += high % 2
    attributes = {"group_size": 32, "x_exponent_bits": 0, "x_mantissa_bits": 6, "w_exponent_bits": 0}
    attributes |= {"w_mantissa_bits": 6, "scale_offset": 0, "width": bits, "lsb_exp": 0}
    arrays = [x.astype(np.int8).view(np.uint8), scales[0], w.astype(np.int8).view(np.uint8), scales[1]]
    (products,) = ops.MXMatMul.reference(*arrays, np.zeros(6, np.int64), **attributes)
    if kind == "random":  # the bias brings the largest of each output to the end of the range
        return [*arrays, top - products.max(0)], attributes
    return [*arrays, (top if kind == "highest" else -top) - products[0]], attributes


@pytest.mark.parametrize("kind", ["highest", "lowest", "random"])
@pytest.mark.parametrize("bits", range(54, 64))
def test_dataflow_matmul_is_exact_up_to_63_bits(bits, kind):
    arrays, attributes = wide_products(bits, kind)
    (y,) = check_all_executors("MXMatMul", arrays, attributes)
    assert int(np.abs(y).max()) == 2 ** (bits - 1) - 1
    if kind == "random" and bits > 54:
        assert (y != y.astype(np.float64).astype(np.int64)).any()  # a sum in float64 would round


@pytest.mark.parametrize("rows, length, outputs", [(0, 64, 3), (2, 0, 3), (1, 1, 1)])
def test_dataflow_matmul_of_nothing_is_the_bias(rows, length, outputs):
    arrays, attributes = wide_products(54, "random")
    x, w = np.zeros((rows, length), np.uint8), np.zeros((outputs, length), np.uint8)
    scales = [np.zeros((n, -(-length // 32)), np.uint8) for n in (rows, outputs)]
    (y,) = check_all_executors("MXMatMul", [x, scales[0], w, scales[1], np.arange(outputs)], attributes)
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(outputs), (rows, outputs)))


@pytest.mark.parametrize("op_type", sorted(ops.of_role("dataflow")))
def test_no_dataflow_body_holds_an_integer_kernel_that_is_not_exact(op_type):
    """onnxruntime computes these on int64 by way of float64, or refuses them (measured from 2**53 on)."""
    body = ops.OPERATORS[op_type].function(18).node
    inexact = {"ReduceSum", "ReduceSumSquare", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceProd", "Pow", "BitShift"}
    assert not inexact & {node.op_type for node in body}


def test_eltwise_equals_everywhere():
    x = np.array([[-5, 0, 7, -(2**62), 2**62]])
    for relu in (0, 1):
        check_all_executors("Eltwise", [x], {"relu": relu, "width": 64, "lsb_exp": -3})


@pytest.mark.parametrize("switch", ["0", "1"])  # bodies, kernels
def test_zero_groups_survive_flush_to_zero(switch):
    """In a process of its own: onnxruntime keeps flush-to-zero for the rest of the process."""
    script = """
import numpy as np
from mxexport import ops
from mxexport.numbers.formats import MX_FORMATS, get_format
from mxexport.running import executors
from tests.helpers import single_node_model
from tests.test_ops import quant_node, scale_attributes
x = np.zeros((2, 64), np.float32); x[1] = 1.0
for name in MX_FORMATS:
    fmt = get_format(name)
    model = single_node_model("MXScale", [x], scale_attributes(fmt))
    scale = executors.run(model, {"X": x}, flush_denormals=True)["scale"]
    op_type, attributes = quant_node(fmt)
    model = single_node_model(op_type, [x, scale], attributes)
    y = executors.run(model, {"X": x, "scale": scale}, flush_denormals=True)["Y"]
    assert (y == x).all(), (name, y)
"""
    run_python(script, **{SWITCH: switch})


def test_every_attribute_is_required():
    node = single_node_model("MXScale", [np.ones((1, 32), np.float32)], scale_attributes(get_format("mxint8")))
    del node.graph.node[0].attribute[0]
    with pytest.raises(onnx.checker.ValidationError, match="axis"):
        onnx.checker.check_model(node)


def test_expanded_scale_is_refused_by_name():
    x = np.ones((4, 64), np.float32)
    _, attributes = quant_node(get_format("mxint8"))
    with pytest.raises(ScaleShapeError, match=r"scale has shape \(4, 64\), expected \(4, 2\).*one entry per group"):
        ops.GroupwiseQuant.reference(x, x, **attributes)


def test_ops_import_without_torch():
    script = "import sys; sys.modules['torch'] = None; import mxexport, mxexport.ops; assert mxexport.ops.OPERATORS"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_operator_says_what_it_is_for():
    from mxexport.ops._operator import ROLES

    assert {op.role for op in ops.OPERATORS.values()} == set(ROLES)
    assert ops.of_role("quantizer", "scale") == {
        "MXFloatQuant",
        "GroupwiseQuant",
        "MXScale",
        "NVFP4Scale",
        "GroupwiseScale",
    }
