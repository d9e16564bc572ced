"""Quantizers with one step, zero point 0: what integer toolflows take. Reading ours, writing QONNX's `Quant`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.editing import add_constant
from mxexport.model.rewriting import is_qonnx_quantizer
from mxexport.numbers.grids import Grid
from mxexport.ops import qonnx_general

_STATIC = (
    "give the layer constant activation scales: mxexport.quant.activation_quantizer(..., source='static', "
    "scaling_per_output='tensor'), run data through the model, freeze_scales(model), then export"
)
_EXPAND = ("", "Expand")


@dataclass(frozen=True)
class Uniform:
    """Integers of `bits` bits times `scale`; `narrow` leaves the most negative one unused."""

    scale: np.float32
    bits: int
    signed: bool = True
    narrow: bool = True

    @property
    def lowest(self) -> int:
        """The least integer; one signed bit is -1 and 1 in QONNX."""
        return min(self.narrow - 2 ** (self.bits - 1), -1) if self.signed else 0

    @property
    def highest(self) -> int:
        return max(2 ** (self.bits - 1) - 1, 1) if self.signed else 2**self.bits - 1 - self.narrow

    @property
    def grid(self) -> Grid | None:
        """None where the scale is no power of two."""
        mantissa, exponent = math.frexp(float(self.scale))
        if mantissa != 0.5:
            return None
        return Grid.within(exponent - 1, max(-self.lowest, self.highest), self.signed)


def is_quantizer(node: ir.Node) -> bool:
    return is_qonnx_quantizer(node) or graph.is_ours(node, graph.QUANTIZERS)


def read_activation(node: ir.Node) -> Uniform:
    """What an activation quantizer does, as one step. Raises UnsupportedError with the reason where it has none."""
    if node.op_type not in ("GroupwiseQuant", "Quant"):
        raise UnsupportedError(f"{_kind(node)}, expected integers times one step; use an integer format such as mxint8")
    scale, zero = _scale(node.inputs[1]), _zero_point(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None:
        found = _maker(node.inputs[1])
        raise UnsupportedError(f"its scale is found at run time ({found}), expected a constant; {_STATIC}")
    if zero is None and len(node.inputs) > 2 and node.inputs[2] is not None:
        found = _maker(node.inputs[2])
        raise UnsupportedError(f"its zero point is found at run time ({found}), expected 0 as a constant; {_STATIC}")
    if zero is not None and np.any(zero):
        way_out = "use a signed format, or signed=False after a ReLU"
        raise UnsupportedError(f"its zero point is {zero[zero != 0].flat[0]:g}, expected 0; {way_out}")
    if not (np.isfinite(scale).all() and scale.size and (scale > 0).all()):
        found = scale.reshape(-1)[:3]
        raise UnsupportedError(f"its scale is {found}, expected a positive finite number; calibrate the model again")
    if not (scale == scale.flat[0]).all():
        raise UnsupportedError(f"it has {np.unique(scale).size} different scales, expected one; {_STATIC}")
    if node.op_type == "Quant":
        return _read_standard(node, np.float32(scale.flat[0]))
    a = graph.attributes(node)
    signed = bool(a["signed"])
    return Uniform(np.float32(scale.flat[0]), a["bit_width"], signed, signed and bool(a["narrow"]))


def _kind(node: ir.Node) -> str:
    if graph.is_ours(node, graph.QUANTIZERS):
        return f"{graph.quantizer_format(node).element.name} activations are not evenly spaced"
    return f"it is a {node.op_type}"


def _maker(value: ir.Value) -> str:
    producer = value.producer()
    return f"input {value.name!r} of the model" if producer is None else producer.op_type


def _scale(value: ir.Value | None) -> np.ndarray | None:
    """A constant scale; one that Expand repeats for every group, at run time, is left as it was before."""
    while value is not None and (maker := value.producer()) is not None and (maker.domain, maker.op_type) == _EXPAND:
        value = maker.inputs[0]
    return constant_array(value)


def _zero_point(value: ir.Value | None) -> np.ndarray | None:
    """A constant zero point; `scale * 0`, which stands beside asymmetric weights, is 0 whatever the scale's shape."""
    maker = None if value is None else value.producer()
    if maker is not None and (maker.domain, maker.op_type) == ("", "Mul"):
        factors = [constant_array(v) for v in maker.inputs]
        if any(factor is not None and not factor.any() for factor in factors):
            return np.zeros(1, np.float32)
    return constant_array(value)


def _read_standard(node: ir.Node, scale: np.float32) -> Uniform:
    bits = constant_array(node.inputs[3])
    a = {name: attribute.value for name, attribute in node.attributes.items()}
    if bits is None or bits.size != 1 or bits.flat[0] not in range(1, 65):
        found = "found at run time" if bits is None else str(bits.reshape(-1)[:3])
        raise UnsupportedError(f"its bit width is {found}, expected one whole number; store it as an initializer")
    if (mode := qonnx_general.rounding_mode_of(node)) != "ROUND":
        raise UnsupportedError(f"its rounding mode is {mode}, expected ROUND (ties to even); train the model with that")
    return Uniform(scale, int(bits.flat[0]), bool(a.get("signed", 1)), bool(a.get("narrow", 0)))


def add_quant(
    before: ir.Node, x: ir.Value, name: str, scale: np.ndarray, bits: int, signed: bool, narrow: bool
) -> ir.Value:
    """`Quant(x)` inserted before the node `before`; `scale` broadcasts to x."""
    g = before.graph
    inputs = [
        x,
        add_constant(g, f"{name}_scale", np.asarray(scale, np.float32)),
        add_constant(g, f"{name}_zero", np.float32(0)),
        add_constant(g, f"{name}_bits", np.float32(bits)),
    ]
    node = ir.node(
        "Quant",
        inputs,
        {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"},
        domain=qonnx_general.DOMAIN,
        name=name,
    )
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, x.shape, x.type
    g.insert_before(before, node)
    return node.outputs[0]


def add_constant_on_grid(before: ir.Node, array: np.ndarray, name: str, grid: Grid) -> ir.Value:
    """A constant of values on `grid`, with the `Quant` that says so and changes none of them.

    Raises:
        UnsupportedError: the integers are so large that `Quant`, in float32, would change some.
    """
    value = add_constant(before.graph, f"{name}_values", array)
    scale = np.ldexp(np.float32(1), grid.exponent)
    made = add_quant(before, value, name, scale, grid.bits, grid.signed, False)
    check_reproduced(made, array, grid.bits)
    return made


def check_reproduced(quantized: ir.Value, array: np.ndarray, bits: int) -> None:
    """Raises UnsupportedError where a constant's `Quant` changes it: beyond 127 bits x / scale overflows float32."""
    if not np.array_equal(constant_array(quantized), array):
        found = f"a Quant of {bits} bits does not give its constant back in float32, expected equal values"
        raise UnsupportedError(f"{found}; use a format of a smaller range")
