"""Finds the range of shared scales each layer needs, and writes it into the MXScale nodes; and the range of what norms
read, as Clip nodes before them.

The clamps then belong to the QONNX graph as well as to the hardware, so both still agree on every input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from mxexport.errors import ShapeError, UnsupportedError
from mxexport.fpga.lowering import norm_patterns
from mxexport.fpga.unit import Refused
from mxexport.model import graph
from mxexport.model.editing import Editor
from mxexport.model.rewriting import is_op
from mxexport.numbers import numerics
from mxexport.numbers.formats import E8M0_BIAS, E8M0_MAX, E8M0_NAN
from mxexport.running import executors

_MAX_INPUT_WIDTH = 24
_RANGE = "range"
"""Mark (in memory alone) of the Clip nodes that calibration puts in."""
_WIDE_EMAX = 8
"""From e4m3 on, whose smallest steps are 17 binades below its largest."""


def calibrate(model: ir.Model, inputs: Mapping[str, np.ndarray], margin: int = 1) -> None:
    """Set `code_min` and `code_max` of every MXScale to what `inputs` (by name) use, widened by `margin` codes on both
    sides.

    All-zero blocks take no part. Later blocks outside the range are clamped, and counted where they run. Weights of
    attention, which a Softmax makes, have ranges by design: from 1 down to what still counts among so many tokens.
    What a norm reads is clipped to `margin` bits more than it had on `inputs`: sums of worst cases would cost the bits
    with which a norm computes.

    Raises:
        ShapeError: `inputs` do not fit the graph or are empty.
        UnsupportedError: a calibration input makes a layer's values NaN or Inf.
    """
    if any(len(array) == 0 for array in inputs.values()):
        raise ShapeError("calibration: no inputs given")
    nodes = [n for n in model.graph if graph.is_ours(n, {"MXScale"})]
    for node in nodes:
        set_range(node, 0, E8M0_MAX)
    normed = _normed(model)
    wanted = [n.outputs[0].name for n in nodes] + [v.name for v in normed]
    scales = executors.run(model, inputs, list(dict.fromkeys(wanted)) or None)
    _clip(model, {value: float(np.abs(scales[value.name]).max()) * 2.0**margin for value in normed})
    for node in nodes:
        codes = numerics.codes_from_scale(scales[node.outputs[0].name], node.attributes["frac_bits"].value)
        if (codes == E8M0_NAN).any():
            raise UnsupportedError(f"calibration: the input of {node.name!r} holds NaN or Inf on the given inputs")
        used = codes[codes > 0].astype(int)
        low, high = (used.min(), used.max()) if used.size else (127, 127)
        low, high = max(int(low) - margin, 0), min(int(high) + margin, E8M0_MAX)
        designed = _attention_range(node)
        set_range(node, *((low, high) if designed is None else designed))


def _attention_range(node: ir.Node) -> tuple[int, int] | None:
    """Of the scales of what a Softmax makes: the code of 1, and as many below as a share of one of T tokens, and two
    bits of it, need: log2(T) + 2. Formats of four exponent bits and more reach as far by themselves. None of others."""
    maker, shape = node.inputs[0].producer(), node.inputs[0].shape
    if not is_op(maker, "Softmax") or shape is None or not isinstance(shape[-1], int):
        return None
    emax = node.attributes["emax"].value
    top = E8M0_BIAS - emax
    return top - (0 if emax >= _WIDE_EMAX else (shape[-1] - 1).bit_length() + 2), top


def _normed(model: ir.Model) -> list[ir.Value]:
    """What norms read, outputs of the graph left out: they stay as they are."""
    found, inner = [], set()
    for node in model.graph:
        try:
            norm = None if node in inner else norm_patterns.read(node)
        except Refused:  # the lowering says so
            continue
        inner.update(() if norm is None else norm.inner)
        if norm is not None and norm.x.producer() is not None and not norm.x.is_graph_output():
            found.append(norm.x)
    return list(dict.fromkeys(found))


def _clip(model: ir.Model, ends: Mapping[ir.Value, float]) -> None:
    """A Clip behind each value, for all that read it."""
    editor = Editor(model)
    for value, end in ends.items():
        if not 0 < end < np.inf:
            continue
        maker = value.producer()
        names = (f"{value.name}_lowest", f"{value.name}_highest")
        limits = [editor.constant(n, np.float32(sign * end)) for n, sign in zip(names, (-1, 1), strict=True)]
        name = f"{maker.name or value.name}.range"
        clipped = editor.node("Clip", [value, *limits], name=name, like=value, after=maker)
        clipped.producer().meta[_RANGE] = True
        value.replace_all_uses_with(clipped)
        clipped.producer().replace_input_with(0, value)
    editor.finish()


def is_range(node: ir.Node) -> bool:
    """Whether calibration put this Clip in."""
    return is_op(node, "Clip") and _RANGE in node.meta


def set_range(node: ir.Node, low: int, high: int) -> None:
    """Of the scale codes of an MXScale."""
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
