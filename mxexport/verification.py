"""Checks that every executor computes the same bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport import graph, runtime
from mxexport.ops import OPERATORS


def equal_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Element by element: equal bit patterns, any NaN equal to any NaN (arrays of equal shape and dtype)."""
    if a.dtype != np.float32 or b.dtype != np.float32:
        return a == b
    return (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))


def count_quantizer_differences(model: ir.Model, inputs, execute=runtime.run) -> dict[str, int]:
    """Node name -> values whose bits differ from the numpy reference given the very input the node saw.

    Runs the graph once in `execute` (`runtime.run`, `run_qonnx` or `run_reference`), asking for the input, scale and
    output of every scale, quantizer and dequantizer node.
    """
    kinds = graph.QUANTIZERS | graph.SCALES | graph.DEQUANTIZERS | graph.STORED_SCALES | {"GroupwiseZeroPoint"}
    nodes = [n for n in model.graph if graph.is_ours(n, kinds)]
    wanted = list(dict.fromkeys(v.name for n in nodes for v in (*n.inputs, *n.outputs) if v is not None))
    known = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
    seen = known | _run_for(model, inputs, [name for name in wanted if name not in known], execute)
    differences = {}
    for node in nodes:
        arrays = [None if v is None else seen[v.name] for v in node.inputs]
        (expected,) = OPERATORS[node.op_type].reference(*arrays, **graph.attributes(node))
        differences[node.name] = int((~equal_bits(expected, seen[node.outputs[0].name])).sum())
    return differences


def _run_for(model: ir.Model, inputs, names: list[str], execute) -> dict[str, np.ndarray]:
    proto = runtime.load_proto(model)
    fed = runtime.feeds(proto, inputs)
    computed = execute(proto, fed, [name for name in names if name not in fed])
    return fed | computed
