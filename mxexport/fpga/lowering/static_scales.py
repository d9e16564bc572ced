"""Integer networks with constant scales of any value, as QONNX's `Quant` and per-tensor integer formats write them,
as networks of integers with factors beside them: what the units take.

Every quantizer gets scale 1. Its own scale stands before it as 1/s, and goes as s behind the products that read it,
where it meets the scale of the weight; neighbouring factors become one. So a layer costs one multiplication by a
constant, between its accumulator and its next quantizer. Factors are combined in float32, which rounds them; results
turn by one code only where a value lies that close to the border between two.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.errors import UnsupportedError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.editing import Editor, add_constant, sole_user
from mxexport.model.names import Names
from mxexport.model.rewriting import is_op, is_qonnx_quantizer, values_of
from mxexport.model.uniform import Uniform, add_quant, is_quantizer, read_activation
from mxexport.numbers import groups
from mxexport.ops import qonnx_general
from mxexport.passes.clean.extract_conv_bias import extract
from mxexport.passes.clean.split_gemm import split
from mxexport.passes.streamline.merge_affines import merge_affines

GROUP = 32
"""One scale serves every group; so many elements a group, as MX weights have."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SAME_VALUES = (
    "Identity",
    "Dropout",
    "Flatten",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "MaxPool",
    "GlobalMaxPool",
    "Slice",
)
_HOMOGENEOUS = (*_SAME_VALUES, "Relu", "LeakyRelu", "AveragePool", "GlobalAveragePool")
"""op(x * c) = op(x) * c for one positive c; those of _SAME_VALUES put out nothing that was not in x."""


def integer_quantizers(model: ir.Model) -> dict[ir.Node, Uniform]:
    """Quantizers of activations with one constant scale that is no power of two, or codes that no MX format has."""
    found = {}
    for node in model.graph:
        if not is_quantizer(node) or constant_array(node.inputs[0]) is not None or _finds_its_scale(node):
            continue
        try:
            uniform = read_activation(node)
        except UnsupportedError:  # the lowering names it, and says why
            continue
        plain = not is_qonnx_quantizer(node) and uniform.grid is not None and uniform.signed and uniform.narrow
        if not plain and 2 <= uniform.bits <= 8:
            found[node] = uniform
    return found


def take_out_scales(model: ir.Model) -> bool:
    """Rewrite `model` in place as the module says; False where it holds nothing of the kind."""
    quantizers = integer_quantizers(model)
    if not quantizers and not any(_parts(node) for node in model.graph if is_op(node, *_PRODUCTS)):
        return False
    _store_biases(model)
    _open_products(model)
    for domain, version in ((qonnx_general.DOMAIN, 1), (ops.DOMAIN, ops.VERSION)):
        model.opset_imports.setdefault(domain, version)
    work = _Work(Editor(model))
    for product, parts in _integer_weights(model).items():
        work.take_weight(product, *parts)
    for node, uniform in quantizers.items():
        work.take_activation(node, uniform)
    work.put_factors()
    work.editor.finish()
    merge_affines(model)
    return True


def _finds_its_scale(node: ir.Node) -> bool:
    return graph.is_ours(node.inputs[1].producer(), graph.SCALES)


def _store_biases(model: ir.Model) -> None:
    """Constants that a quantizer makes, but for weights, become initializers of the same values: hardware holds a bias
    as wide as its accumulator."""
    for node in list(model.graph):
        uses = list(node.outputs[0].uses()) if is_quantizer(node) else []
        weight = any(is_op(user, "Transpose") or (is_op(user, *_PRODUCTS) and index == 1) for user, index in uses)
        array = constant_array(node.outputs[0]) if uses and not weight else None
        if array is not None:
            node.outputs[0].replace_all_uses_with(add_constant(model.graph, f"{node.name}_value", array))
            model.graph.remove(node, safe=True)


def _open_products(model: ir.Model) -> None:
    """Biases as Adds of their own: a factor stands before them."""
    names = Names(values_of(model.graph))
    for node in list(model.graph):
        if is_op(node, "Conv", "ConvTranspose") and len(node.inputs) > 2 and node.inputs[2] is not None:
            extract(node, len(node.inputs[1].shape) - 2, names)
        elif is_op(node, "Gemm"):
            split(node, names)


# --- weights ----------------------------------------------------------------------------------------------------


def _integer_weights(model: ir.Model) -> dict[ir.Node, tuple[np.ndarray, np.ndarray]]:
    """Product -> whole numbers (float32, as the product reads its weight) and float64 steps, one for each output; of
    weights whose scales are no powers of two in groups."""
    found = {}
    for node in model.graph:
        if is_op(node, *_PRODUCTS) and (parts := _parts(node)) is not None:
            found[node] = parts
    return found


def _parts(product: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """None where there are none: the lowering then says what it takes."""
    maker, turn = product.inputs[1].producer(), None
    if is_op(maker, "Transpose"):
        maker, turn = maker.inputs[0].producer(), maker.attributes.get("perm")
        turn = None if turn is None else turn.value
    if not graph.is_ours(maker, {"GroupwiseQuant", "GroupwiseDequant"}) and not is_qonnx_quantizer(maker):
        return None
    if graph.is_ours(maker, {maker.op_type}) and graph.quantizer_format(maker).is_mx:
        return None
    values, scale = constant_array(product.inputs[1]), constant_array(maker.inputs[1])
    zero = maker.inputs[2] if len(maker.inputs) > 2 else None
    zeros = np.zeros(1) if zero is None else constant_array(zero)
    if values is None or scale is None or zeros is None or zeros.any() or not np.isfinite(values).all():
        return None
    if values.ndim < 2:  # a vector has no axis of outputs
        return None
    if product.inputs[1].producer() is not maker and scale.ndim:
        scale = scale.transpose(turn)
    axis = output_axis(product)
    if scale.size > 1 and scale.size != scale.shape[axis] or not (np.isfinite(scale) & (scale > 0)).all():
        return None
    steps = np.broadcast_to(scale.reshape(-1), (values.shape[axis],)).astype(np.float64)
    spread = steps.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    codes = np.rint(values / spread) + 0.0
    exact = np.array_equal((codes * spread).astype(np.float32), values) and np.abs(codes).max(initial=0) <= 128
    return (codes.astype(np.float32), steps) if exact else None


def output_axis(product: ir.Node) -> int:
    """The axis of its weight that holds outputs."""
    transposed = product.op_type == "Gemm" and product.attributes.get_int("transB", 0)
    return 0 if product.op_type == "Conv" or transposed else 1


# --- the rewriting ----------------------------------------------------------------------------------------------


class _Work:
    """Rewrites one quantizer after the other; factors wait for the products they go behind."""

    def __init__(self, editor: Editor):
        self.editor = editor
        self._factors: dict[ir.Node, np.ndarray] = {}

    def take_weight(self, product: ir.Node, codes: np.ndarray, steps: np.ndarray) -> None:
        """The product reads whole numbers; their steps go behind it."""
        value, axis = product.inputs[1], 1 - output_axis(product)
        name = value.producer().name or f"{product.name}_weight"
        scale = np.ones(groups.contracted_shape(codes.shape, axis, GROUP), np.float32)
        bits = max(int(np.abs(codes).max(initial=1)).bit_length() + 1, 2)
        element = {"bit_width": bits, "signed": 1, "narrow": int(codes.min(initial=0) > -(2 ** (bits - 1)))}
        made = self.editor.node(
            "GroupwiseQuant",
            [self.editor.constant(f"{name}_integers", codes), self.editor.constant(f"{name}_ones", scale)],
            {"axis": axis, "group_size": GROUP} | element,
            name=name,
            output=value.name,
            like=value,
            domain=ops.DOMAIN,
            before=product,
        )
        product.replace_input_with(1, made)
        self.editor.drop(value.producer())
        self._factors[product] = self._factors.get(product, 1.0) * steps

    def take_activation(self, node: ir.Node, uniform: Uniform) -> None:
        """Q(x) becomes Q(x / scale) with scale 1; what reads it gets the scale in some way."""
        first = _first(node)
        divided = self._times(first.inputs[0], 1 / float(uniform.scale), f"{node.name}_step", before=first)
        first.replace_input_with(0, divided)
        old = node.outputs[0]
        made = add_quant(node, node.inputs[0], f"{node.name}_integers", np.float32(1), *_kind(uniform))
        self.editor.take_over(old, made)
        self.editor.drop(node)
        self._spread(made, uniform, moved=False)

    def _spread(self, value: ir.Value, uniform: Uniform, moved: bool) -> None:
        """Readers of `value` got integers times the scale and get integers now. `moved`: not from the quantizer."""
        taken = set()
        for user, index in list(value.uses()):
            if is_op(user, *_PRODUCTS) and index == 0:
                if moved:
                    again = add_quant(user, value, f"{user.name}_codes", np.float32(1), *_kind(uniform))
                    user.replace_input_with(0, again)
                    taken.add(again.producer())
                self._factors[user] = self._factors.get(user, 1.0) * np.array([float(uniform.scale)])
                taken.add(user)
            elif is_op(user, *_SAME_VALUES, "Relu") and index == 0:
                self._spread(user.outputs[0], uniform, moved=True)
                taken.add(user)
        if value.is_graph_output() or any(user not in taken for user, _ in value.uses()):
            scaled = self._times(value, float(uniform.scale), f"{value.name}_scaled", after=value.producer())
            self.editor.take_over(value, scaled, (scaled.producer(), *taken))

    def put_factors(self) -> None:
        for product, factor in self._factors.items():
            out = product.outputs[0]
            behind = 0 if product.op_type in ("MatMul", "Gemm") else len(product.inputs[1].shape) - 2
            scaled = self._times(out, factor.reshape(-1, *[1] * behind), f"{product.name}_scale", after=product)
            self.editor.take_over(out, scaled, (scaled.producer(),))

    def _times(self, value: ir.Value, factor: float | np.ndarray, name: str, **place) -> ir.Value:
        constant = self.editor.constant(f"{name}_factor", np.asarray(factor, np.float32))
        return self.editor.node("Mul", [value, constant], name=name, like=value, **place)


def _kind(uniform: Uniform) -> tuple[int, bool, bool]:
    return uniform.bits, uniform.signed, uniform.narrow


def _first(node: ir.Node) -> ir.Node:
    """The first of the nodes before a quantizer that a positive factor passes, and that lead to it alone."""
    while (maker := node.inputs[0].producer()) is not None:
        if not is_op(maker, *_HOMOGENEOUS) or sole_user(node.inputs[0]) is None:
            break
        node = maker
    return node
