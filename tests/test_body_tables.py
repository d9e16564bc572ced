"""Function bodies over a table: formats x scale rules x axes x shapes x kinds of values x optimizer levels.

Every session serves all shapes and values of its row, for its model leaves the shapes open.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from mxexport import ops
from mxexport.native.building import SWITCH
from mxexport.numbers import groups, packing
from mxexport.numbers.formats import SCALE_RULES, FloatElement, get_format, round_bias
from mxexport.ops._attributes import LARGEST, POSITIVE
from mxexport.running.sessions import DISABLED_OPTIMIZERS
from tests.helpers import assert_equal_bits, edge_values, every, run_python, single_node_model
from tests.test_ops import quant_node, scale_attributes

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

FORMATS = (
    "mxfp8_e4m3",
    "mxfp8_e5m2",
    "mxfp6_e3m2",
    "mxfp6_e2m3",
    "mxfp4_e2m1",
    "mxint8",
    "mxint4",
    "mxfloat_fnuz_e4m3",
)
SHAPES = {
    0: [(70,), (6, 2), (40, 3, 2), (0, 4), (64, 0)],
    1: [(6, 70), (9, 64), (2, 33, 3, 2), (4, 1, 3, 3), (3, 0), (0, 40)],
    -1: [(6, 70), (5, 4), (2, 3, 33), (1,), (2, 0)],
    -2: [(33, 3), (2, 64, 3), (2, 2, 7, 2)],
}
FOREIGN = np.float32([1, 0, -0.0, np.nan, -0.3, 2.0**-149, 2.0**-127, -(2.0**-126), 3, 2.0**127, np.inf, -3e38])
LEVELS = [
    getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
    for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
]


def model_of(nodes: list[tuple[str, str, str, dict]], inputs: dict[str, int], opset: int = 18) -> onnx.ModelProto:
    """Nodes of ours given as (operator, inputs, outputs, attributes); inputs of any rank as name -> element type."""
    made = [
        helper.make_node(op, given.split(), outputs.split(), domain=ops.DOMAIN, name=outputs, **attributes)
        for op, given, outputs, attributes in nodes
    ]
    results = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for node in made for name in node.output
    ]
    given = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in inputs.items()]
    return helper.make_model(
        helper.make_graph(made, "g", given, results),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, ops.VERSION)],
        functions=ops.functions_for(made, opset),
        ir_version=10,
    )


class Executors:
    """onnxruntime at every level of its optimizer, with its own and with our settings, and onnx's evaluator."""

    def __init__(self, model: onnx.ModelProto):
        self.sessions = {"ours": session(model, LEVELS[-1], reuse=False, disabled=DISABLED_OPTIMIZERS)}
        self.sessions |= {str(level): session(model, level, reuse=True) for level in LEVELS}
        self.evaluator = ReferenceEvaluator(model)
        self.names = [o.name for o in model.graph.output]

    def check(self, feeds: dict[str, np.ndarray], expected: list[np.ndarray], context: object) -> None:
        runs = {name: found.run(self.names, feeds) for name, found in self.sessions.items()}
        runs["ReferenceEvaluator"] = self.evaluator.run(self.names, feeds)
        for executor, results in runs.items():
            for name, actual, wanted in zip(self.names, results, expected, strict=True):
                assert_equal_bits(actual, wanted, f"{name} of {context} in {executor}")


def session(model: onnx.ModelProto, level, reuse: bool, disabled: tuple[str, ...] = ()) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.enable_mem_reuse, options.log_severity_level = level, reuse, 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )


def kinds(shape: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Values of a shape: any bit pattern, finite ones of every size, subnormals, and those that hurt."""
    rng, size = np.random.default_rng(seed), int(np.prod(shape))
    patterns = rng.integers(0, 2**32, size, dtype=np.uint32).view(np.float32)
    ordinary = (rng.standard_normal(size) * np.exp2(rng.integers(-20, 20, size))).astype(np.float32)
    finite = np.where(np.isfinite(patterns), patterns, ordinary)
    small = (rng.integers(-(2**23), 2**23, size) * 2.0**-149).astype(np.float32)
    made = {"patterns": patterns, "finite": finite, "ordinary": ordinary, "subnormal": small}
    made["edges"] = np.resize(edge_values((30, 70)), size) if size else ordinary
    return {name: values.reshape(shape) for name, values in made.items()}


def foreign(shape: tuple[int, ...], axis: int, group_size: int) -> np.ndarray:
    return np.resize(FOREIGN, groups.contracted_shape(shape, axis, group_size))


@pytest.mark.parametrize("axis, name", every(2, [(axis, name) for name in FORMATS for axis in SHAPES]))
def test_power_of_two_scales_and_their_quantizers(name, axis):
    fmt = get_format(name)
    rule = SCALE_RULES[(FORMATS.index(name) + list(SHAPES).index(axis)) % len(SCALE_RULES)]
    op_type, element = quant_node(fmt, axis)
    op, scale = ops.OPERATORS[op_type], scale_attributes(fmt, rule, axis)
    nodes = [("MXScale", "X", "scale", scale), (op_type, "X scale", "Y", element), (op_type, "X other", "Z", element)]
    run = Executors(model_of(nodes, {"X": onnx.TensorProto.FLOAT, "other": onnx.TensorProto.FLOAT}))
    for shape in SHAPES[axis]:
        other = foreign(shape, axis, fmt.group_size)
        for kind, x in kinds(shape).items():
            (s,) = ops.MXScale.compute(x, **scale)
            expected = [s, op.compute(x, s, **element)[0], op.compute(x, other, **element)[0]]
            run.check({"X": x, "other": other}, expected, (name, rule, axis, shape, kind))


@pytest.mark.parametrize("axis", SHAPES)
@pytest.mark.parametrize("name", ["int8_g32", "uint4_g16", "nvfp4"])
def test_float_scales_and_their_quantizers(name, axis):
    fmt = get_format(name)
    op_type, element = quant_node(fmt, axis)
    op, place = ops.OPERATORS[op_type], {"axis": axis, "group_size": fmt.group_size}
    scale_op, scale = ops.NVFP4Scale, dict(place)
    if name != "nvfp4":
        scale_op, levels = ops.GroupwiseScale, place | {"levels": float(fmt.element.max_val)}
        scale = levels | {"asymmetric": int(fmt.asymmetric)}
    nodes = [(scale_op.op_type(), "X", "scale", scale)]
    nodes += [("GroupwiseZeroPoint", "X scale", "zero", levels)] if fmt.asymmetric else []
    nodes += [(op_type, "X scale zero" if fmt.asymmetric else "X scale", "Y", element)]
    run = Executors(model_of(nodes, {"X": onnx.TensorProto.FLOAT}))
    for shape in SHAPES[axis]:
        for kind, x in kinds(shape).items():
            (s,) = scale_op.compute(x, **scale)
            zero = list(ops.GroupwiseZeroPoint.compute(x, s, **levels)) if fmt.asymmetric else []
            run.check({"X": x}, [s, *zero, *op.compute(x, s, *zero, **element)], (name, axis, shape, kind))


@pytest.mark.parametrize("emax", [-126, 0, 8, 127])
def test_scales_at_the_ends_of_their_attributes(emax):
    ends = [(0, 0, 254), (22, 0, 254), (22, 127, 127), (0, 254, 254), (3, 100, 140)]
    biases = [0, 1, 0x7FFFFF, round_bias(get_format("mxfp8_e4m3").element, "rceil")]
    common = {"axis": 1, "group_size": 8, "emax": emax}
    table = [
        common | {"round_bias": bias, "frac_bits": frac_bits, "code_min": low, "code_max": high}
        for bias, (frac_bits, low, high) in itertools.product(biases, ends)
    ]
    run = Executors(
        model_of([("MXScale", "X", f"s{i}", a) for i, a in enumerate(table)], {"X": onnx.TensorProto.FLOAT})
    )
    for kind, x in kinds((30, 70)).items():
        run.check({"X": x}, [ops.MXScale.compute(x, **a)[0] for a in table], (emax, kind))


@pytest.mark.parametrize("max_val", [POSITIVE, 2.0**-126, 448.0, 2.0**103, 2.0**104, LARGEST])
def test_minifloats_at_the_ends_of_their_attributes(max_val):
    table = [
        {"axis": 1, "group_size": 8, "exponent_bits": 8, "mantissa_bits": mantissa, "exponent_bias": bias}
        | {"max_val": max_val, "signed": signed, "signed_zero": signed_zero}
        for mantissa, bias, (signed, signed_zero) in itertools.product(
            (0, 3, 23), (-126, 7, 127), ((1, 1), (0, 1), (1, 0), (0, 0))
        )
    ]
    nodes = [("MXFloatQuant", "X scale", f"y{i}", a) for i, a in enumerate(table)]
    run = Executors(model_of(nodes, {"X": onnx.TensorProto.FLOAT, "scale": onnx.TensorProto.FLOAT}))
    scale = foreign((30, 70), 1, 8)
    for kind, x in kinds((30, 70)).items():
        run.check({"X": x, "scale": scale}, [ops.MXFloatQuant.compute(x, scale, **a)[0] for a in table], kind)


@pytest.mark.parametrize("signed", [0, 1])
def test_integers_of_every_width_with_and_without_zero_points(signed):
    table = [
        {"axis": 1, "group_size": 8, "bit_width": bits, "signed": signed, "narrow": narrow}
        for bits, narrow in itertools.product(range(2, 9), (0, 1))
    ]
    scale = foreign((30, 70), 1, 8)
    zero = np.resize(np.float32([0, 3, 255, -1, 128, np.nan, 0]), scale.shape)
    for given in ({"scale": scale}, {"scale": scale, "zero": zero}):
        nodes = [("GroupwiseQuant", " ".join(("X", *given)), f"y{i}", a) for i, a in enumerate(table)]
        run = Executors(model_of(nodes, dict.fromkeys(("X", *given), onnx.TensorProto.FLOAT)))
        for kind, x in kinds((30, 70)).items():
            expected = [ops.GroupwiseQuant.compute(x, *given.values(), **a)[0] for a in table]
            run.check({"X": x} | given, expected, (signed, list(given), kind))


@pytest.mark.parametrize("bits, axis", every(2, [(bits, axis) for axis in SHAPES for bits in range(2, 9)]))
def test_packed_codes_of_every_width(bits, axis):
    """Every byte pattern, groups that end within a byte and groups longer than the axis, scales of any kind."""
    rng, shapes = np.random.default_rng(bits), [s for s in SHAPES[axis] if 0 not in s or bits in (5, 8)]
    element = ops.MXFloatDequant.attributes_of(FloatElement(min(bits - 2, 4), bits - 1 - min(bits - 2, 4)))
    types = {"codes": onnx.TensorProto.UINT8, "scale": onnx.TensorProto.FLOAT}
    for shape, group_size in zip(shapes, itertools.cycle((32, 7, 16)), strict=False):
        common = {"axis": axis, "group_size": group_size, "shape": list(shape)}
        codes = rng.integers(0, 256, packing.packed_shape(shape, bits, axis, group_size), dtype=np.uint8)
        feeds = {"codes": codes, "scale": foreign(shape, axis, group_size)}
        table = [("GroupwiseDequant", common | {"bit_width": bits, "signed": signed}) for signed in (0, 1)]
        table += [("MXFloatDequant", common | element)] * (bits > 2)
        nodes = [(op, "codes scale", f"y{i}", attributes) for i, (op, attributes) in enumerate(table)]
        expected = [ops.OPERATORS[op].compute(*feeds.values(), **attributes)[0] for op, attributes in table]
        Executors(model_of(nodes, types)).check(feeds, expected, (bits, axis, shape, group_size))


@pytest.mark.parametrize("shape, axis", [((6, 64), 1), ((2, 40, 3, 2), 1), ((5, 4), -1), ((40, 3), 0)])
@pytest.mark.parametrize("name", ["mxfp8_e4m3", "mxint8"])
def test_shapes_that_are_known_when_the_file_is_loaded(name, shape, axis):
    """onnxruntime then computes the shapes ahead, and drops what they make pointless."""
    fmt, x = get_format(name), kinds(shape)["patterns"]
    op_type, element = quant_node(fmt, axis)
    attributes = scale_attributes(fmt, axis=axis)
    (scale,) = ops.MXScale.compute(x, **attributes)
    for op, arrays, given in (("MXScale", [x], attributes), (op_type, [x, scale], element)):
        model = single_node_model(op, arrays, given)
        feeds = dict(zip(ops.OPERATORS[op].inputs, arrays, strict=False))
        Executors(model).check(feeds, list(ops.OPERATORS[op].compute(*arrays, **given)), (op, shape))


@pytest.mark.parametrize("switch", ["0", "1"])  # bodies, kernels
def test_flush_to_zero_makes_no_nan(switch):
    """In a process of its own: onnxruntime keeps flush-to-zero for the rest of the process."""
    script = """
import numpy as np
from mxexport import ops
from mxexport.numbers.formats import MX_FORMATS, get_format
from mxexport.running import executors
from tests.helpers import edge_values, single_node_model
from tests.test_ops import quant_node, scale_attributes
x = edge_values((40, 70))
for name in MX_FORMATS:
    fmt = get_format(name)
    op_type, attributes = quant_node(fmt)
    nan = np.isnan(ops.OPERATORS[op_type].compute(x, *ops.MXScale.compute(x, **scale_attributes(fmt)), **attributes)[0])
    model = single_node_model("MXScale", [x], scale_attributes(fmt))
    scale = executors.run(model, {"X": x}, flush_denormals=True)["scale"]
    model = single_node_model(op_type, [x, scale], attributes)
    y = executors.run(model, {"X": x, "scale": scale}, flush_denormals=True)["Y"]
    assert (np.isnan(y) == nan).all(), name
    assert (y[:2] == 0).all() and np.isfinite(y[4:]).mean() > 0.9, name
"""
    run_python(script, **{SWITCH: switch})
