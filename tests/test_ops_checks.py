"""Attributes and shapes that make no sense are refused by name, before any executor computes something from them."""

from __future__ import annotations

import math
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from mxexport import ops
from mxexport.errors import FormatError, ScaleShapeError, ShapeError, UnsupportedError
from mxexport.model import graph
from mxexport.running import executors
from tests.test_vectors import MODELS, load

FIRST = {path.parts[-4]: path for path in reversed(MODELS)}
each_operator = pytest.mark.parametrize("op_type", ops.OPERATORS)


def case(op_type: str, **changes) -> tuple[onnx.ModelProto, list[np.ndarray], dict]:
    """A published case, attributes changed (None: left out); shapes of outputs are open."""
    model, arrays = onnx.load(FIRST[op_type]), load(FIRST[op_type], "input")
    node = model.graph.node[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute} | changes
    attributes = {name: value for name, value in attributes.items() if value is not None}
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model, arrays, attributes


def reshaped(model: onnx.ModelProto, arrays: list[np.ndarray], name: str, array: np.ndarray) -> list[np.ndarray]:
    index = [v.name for v in model.graph.input].index(name)
    model.graph.input[index].CopyFrom(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
    )
    return [array if i == index else a for i, a in enumerate(arrays)]


@each_operator
def test_attributes_out_of_range_or_missing_are_named(op_type):
    for name, declared in ops.OPERATORS[op_type].attributes.items():
        outside = f"{op_type}: attribute {name} is "
        beyond = {None: f"{op_type} lacks the attribute {name};"}
        beyond |= {declared.low - 1: outside, declared.high * 2 + 1: outside}
        for value, why in beyond.items():
            if value is not None and (math.isinf(value) or declared.kind == "f" and value > 1e38):
                continue  # no bound, or one that a float attribute cannot pass
            given = value if value is None or declared.kind == "f" else int(value)
            model, arrays, attributes = case(op_type, **{name: [given] * 3 if given and name == "shape" else given})
            for check in (
                lambda a=arrays, k=attributes: ops.OPERATORS[op_type].reference(*a, **k),
                lambda m=model: onnx.shape_inference.infer_shapes(m, strict_mode=True),
                lambda m=model: ops.check_nodes(m),
                lambda m=model: graph.attributes(ir.from_proto(m).graph[0]),
            ):
                with pytest.raises((FormatError, UnsupportedError), match=why):
                    check()


@pytest.mark.parametrize("op_type", [name for name, op in ops.OPERATORS.items() if "axis" in op.attributes])
def test_axes_and_group_sizes_that_do_not_exist_are_named(op_type):
    for changes in ({"axis": 9}, {"axis": -9}, {"group_size": 0}, {"group_size": -3}):
        model, arrays, attributes = case(op_type, **changes)
        for check in (
            lambda a=arrays, k=attributes: ops.OPERATORS[op_type].reference(*a, **k),
            lambda m=model: onnx.shape_inference.infer_shapes(m, strict_mode=True),
            lambda m=model: ops.check_nodes(m),
        ):
            with pytest.raises(ShapeError, match=r"axis -?9 is outside|group_size is (0|-3); expected at least 1"):
                check()


@pytest.mark.parametrize("op_type", [name for name, op in ops.OPERATORS.items() if len(op.inputs) > 1])
def test_inputs_of_other_shapes_are_named(op_type):
    for port in list(ops.OPERATORS[op_type].inputs)[1:]:
        model, arrays, attributes = case(op_type)
        if port not in [v.name for v in model.graph.input]:
            continue
        array = arrays[[v.name for v in model.graph.input].index(port)]
        for other in (array[..., None], np.repeat(array[None], 2, axis=0)):
            given = reshaped(model, arrays, port, other)
            shape = re.escape(str(other.shape))
            for check in (
                lambda a=given, k=attributes: ops.OPERATORS[op_type].reference(*a, **k),
                lambda m=model: ops.check_nodes(m),
            ):
                with pytest.raises(ShapeError, match=rf"{op_type}: {port} has shape {shape}, expected "):
                    check()


def test_no_executor_computes_from_a_scale_that_is_too_long():
    model, arrays, _ = case("MXFloatQuant")
    given = reshaped(model, arrays, "scale", np.repeat(arrays[1], 2, axis=1))
    for execute in executors.EXECUTORS.values():
        with pytest.raises(ScaleShapeError, match=r"node 'Y': MXFloatQuant: scale has shape \(\d+, \d+\), expected "):
            execute(model, tuple(given))


def test_dataflow_elements_of_more_than_a_byte_are_refused():
    for changes, op_type in (
        ({"exponent_bits": 5, "mantissa_bits": 3}, "MXQuantize"),
        ({"x_mantissa_bits": 7}, "MXMatMul"),
    ):
        model, arrays, attributes = case(op_type, **changes)
        with pytest.raises(FormatError, match="mantissa bits; codes have at most 8"):
            ops.OPERATORS[op_type].reference(*arrays, **attributes)


def test_open_lengths_and_unknown_shapes_pass():
    for op_type in ops.OPERATORS:
        model, _, attributes = case(op_type)
        for value in model.graph.input:
            for i, dim in enumerate(value.type.tensor_type.shape.dim):
                dim.dim_param = f"{value.name}_{i}"
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
        ops.check_nodes(model)
        for value in model.graph.input:
            value.type.tensor_type.ClearField("shape")
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type
        known = [d.dim_value for d in inferred.shape.dim] if inferred.HasField("shape") else None
        assert known == attributes.get("shape"), op_type


def test_a_file_with_an_attribute_out_of_range_is_unsupported_everywhere():
    model, arrays, _ = case("GroupwiseQuant", bit_width=9)
    why = r"node 'Y': GroupwiseQuant: attribute bit_width is 9; expected whole, 2 to 8"
    for execute in executors.EXECUTORS.values():
        with pytest.raises(UnsupportedError, match=why) as caught:
            execute(model, tuple(arrays))
        assert caught.value.exit_code == 3
