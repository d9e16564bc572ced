"""Sessions of plain onnxruntime in which nothing but a compiled kernel can compute our operators."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import helper

import mxexport as mx
from mxexport import ops
from tests.helpers import assert_equal_bits, single_node_model


def open_kernels(model: onnx.ModelProto, threads: int = 1) -> onnxruntime.InferenceSession:
    """The model without function bodies."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    options.register_custom_ops_library(mx.ort_library())
    bare = onnx.ModelProto.FromString(model.SerializeToString())
    del bare.functions[:]
    return onnxruntime.InferenceSession(bare.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check(op_type: str, arrays: list, attributes: dict, threads: int = 1) -> None:
    """The kernel gives the reference's bits."""
    expected = ops.OPERATORS[op_type].reference(*arrays, **attributes)
    session = open_kernels(single_node_model(op_type, arrays, attributes), threads)
    fed = dict(zip([i.name for i in session.get_inputs()], [a for a in arrays if a is not None], strict=True))
    for actual, wanted in zip(session.run(None, fed), expected, strict=True):
        assert_equal_bits(actual, wanted, (op_type, attributes))


def open_shapes(op_type: str, kinds: list[str], attributes: dict) -> onnxruntime.InferenceSession:
    """A node whose inputs, i0 and so on, may have any shape."""
    types = [helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in kinds]
    inputs = [helper.make_tensor_value_info(f"i{i}", kind, None) for i, kind in enumerate(types)]
    outputs = [
        helper.make_tensor_value_info(f"y{i}", onnx.TensorProto.DataType.Value(port.dtype.upper()), None)
        for i, port in enumerate(ops.OPERATORS[op_type].outputs.values())
    ]
    names = [[value.name for value in values] for values in (inputs, outputs)]
    node = helper.make_node(op_type, *names, domain=ops.DOMAIN, **attributes)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(ops.DOMAIN, ops.VERSION)]
    made = helper.make_graph([node], "g", inputs, outputs)
    return open_kernels(helper.make_model(made, opset_imports=opsets, ir_version=10))
