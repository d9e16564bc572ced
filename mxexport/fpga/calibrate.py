"""Finds the range of shared scales each layer needs, and writes it into the MXScale nodes.

The clamp then belongs to the QONNX graph as well as to the hardware, so both still agree on every input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from mxexport.errors import ShapeError, UnsupportedError
from mxexport.model import graph
from mxexport.numbers import numerics
from mxexport.numbers.formats import E8M0_MAX, E8M0_NAN
from mxexport.running import executors

_MAX_INPUT_WIDTH = 24


def calibrate(model: ir.Model, inputs: Mapping[str, np.ndarray], margin: int = 1) -> None:
    """Set `code_min` and `code_max` of every MXScale to what `inputs` (by name) use, widened by `margin` codes on both
    sides.

    All-zero blocks take no part. Later blocks outside the range are clamped, and counted where they run.

    Raises:
        ShapeError: `inputs` do not fit the graph or are empty.
        UnsupportedError: a calibration input makes a layer's values NaN or Inf.
    """
    if any(len(array) == 0 for array in inputs.values()):
        raise ShapeError("calibration: no inputs given")
    nodes = [n for n in model.graph if graph.is_ours(n, {"MXScale"})]
    for node in nodes:
        _set_range(node, 0, E8M0_MAX)
    scales = executors.run(model, inputs, [n.outputs[0].name for n in nodes] or None)
    for node in nodes:
        codes = numerics.codes_from_scale(scales[node.outputs[0].name], node.attributes["frac_bits"].value)
        if (codes == E8M0_NAN).any():
            raise UnsupportedError(f"calibration: the input of {node.name!r} holds NaN or Inf on the given inputs")
        used = codes[codes > 0].astype(int)
        low, high = (used.min(), used.max()) if used.size else (127, 127)
        _set_range(node, max(int(low) - margin, 0), min(int(high) + margin, E8M0_MAX))


def _set_range(node: ir.Node, low: int, high: int) -> None:
    node.attributes["code_min"] = ir.AttrInt64("code_min", low)
    node.attributes["code_max"] = ir.AttrInt64("code_max", high)


def fixed_point_input(inputs: np.ndarray, margin: int = 1, max_width: int = _MAX_INPUT_WIDTH) -> tuple[int, int]:
    """Width (sign included) and lsb_exp of the network's input: exact for `inputs` where `max_width` bits allow it.

    `margin` more bits leave room for larger inputs; otherwise the finest grid of `max_width` bits is taken.
    """
    x = np.abs(np.asarray(inputs, np.float64)).ravel()
    x = x[x > 0]
    if x.size == 0:
        return 2 + margin, 0
    top = math.frexp(float(x.max()))[1]  # x < 2**top
    mantissa, exponent = np.frexp(x)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    lowest = int((exponent - 53 + np.log2(whole & -whole).astype(np.int64)).min())
    width = top - lowest + 1 + margin
    if width <= max_width:
        return width, lowest
    return max_width, top + 1 + margin - max_width
