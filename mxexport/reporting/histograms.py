"""How often a quantized weight uses every element code, and every shared scale."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.rewriting import constant
from mxexport.numbers import groups, numerics
from mxexport.numbers.formats import GroupFormat
from mxexport.reporting.charts import Bars

_MOST = 64
"""Bars of one chart; more values share them."""


def weight_histograms(node: ir.Node) -> dict[str, Bars]:
    """Charts of a node that makes a quantized weight: "elements", and "scales" where they are powers of two."""
    values, scale = constant_array(node.outputs[0]), constant_array(node.inputs[1])
    if values is None or scale is None or not values.size:
        return {}
    fmt, axis = graph.quantizer_format(node), graph.attributes(node)["axis"]
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    found = {} if zero is not None and zero.any() else {"elements": _elements(values, scale, fmt, node, axis)}
    exponents, exact = numerics.power_of_two_exponents(scale)
    if exact.all():
        found["scales"] = _counted(exponents.ravel(), lambda e: f"2^{e}", lambda e: _scale_words(e, fmt))
    return found


def _scale_words(exponent: int, fmt: GroupFormat) -> str:
    """An integer's scale in the graph is its step, some bits below the shared scale that is stored."""
    return f"2^{exponent}" + (f", stored as E8M0 code {exponent + fmt.step_frac_bits + 127}" if fmt.is_mx else "")


def _elements(values: np.ndarray, scale: np.ndarray, fmt: GroupFormat, node: ir.Node, axis: int) -> Bars:
    """Elements in units of their scale: every value of a float element has a bar of its own, integers share bars."""
    size = graph.attributes(node)["group_size"]
    spread = groups.expand(scale, axis, size, values.shape[axis])
    with np.errstate(divide="ignore", invalid="ignore"):
        elements = np.where(spread == 0, 0, values.astype(np.float64) / spread.astype(np.float64))
    elements = elements[np.isfinite(elements)]
    if fmt.is_float:
        grid = _float_values(fmt)
        # A product with a float32 scale may be rounded: the element is the nearest one.
        nearest = np.searchsorted((grid[1:] + grid[:-1]) / 2, elements)
        return _folded([f"{value:g}" for value in grid], np.bincount(nearest, minlength=len(grid)).tolist())
    return _counted(np.rint(elements).astype(np.int64), str, str)


def _float_values(fmt: GroupFormat) -> np.ndarray:
    """Every finite value of a float element, in order; the two zeros are one."""
    values = numerics.decode(np.arange(1 << fmt.element.bits, dtype=np.uint8), fmt.element)
    return np.unique(values[np.isfinite(values)].astype(np.float64) + 0.0)


def _counted(numbers: np.ndarray, end, label) -> Bars:
    low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    counts = np.bincount((numbers - low).ravel(), minlength=high - low + 1).tolist()
    bars = _folded([label(low + i) for i in range(len(counts))], counts)
    return Bars(bars.labels, bars.counts, end(low), end(high))


def _folded(labels: list[str], counts: list[int]) -> Bars:
    """At most `_MOST` bars: neighbours share one."""
    per = -(-len(counts) // _MOST)
    starts = range(0, len(counts), per)
    names = [labels[s] if per == 1 else f"{labels[s]} … {labels[min(s + per, len(labels)) - 1]}" for s in starts]
    return Bars(names, [sum(counts[s : s + per]) for s in starts], labels[0], labels[-1])
