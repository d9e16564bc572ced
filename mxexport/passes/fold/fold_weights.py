"""Quantized weights as packed codes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from mxexport.errors import FormatError
from mxexport.model import graph
from mxexport.model.constants import constant_array
from mxexport.model.editing import add_initializer
from mxexport.model.names import free_name
from mxexport.model.outcome import Outcome
from mxexport.numbers import groups, numerics, packing
from mxexport.numbers.bits import equal_bits
from mxexport.numbers.formats import GroupFormat
from mxexport.ops import DOMAIN, OPERATORS, GroupwiseDequant, MXFloatDequant, NVFP4ScaleDequant

_SLAB = 1 << 16  # elements


def fold_weights(model: ir.Model) -> Outcome:
    """Quant(weight, scale[, zero_point]) -> Dequant(packed codes, scale[, zero_point])  when all are constants.

    A weight is an initializer; quantizers of what is computed at run time are no matter of this pass.
    The values keep their bits: each weight is decoded again and compared before anything changes. The tensor keeps its
    name (`fc.weight_quant`); the node is called `fc.weight_dequant`, the codes `fc.weight_codes`. Power-of-two scales
    are stored as E8M0 codes and those of nvfp4 as E4M3 codes, one byte per group, read by an operator that gives the
    same float32 tensor. An axis shorter than a group is stored as a group of its own length. The float weight leaves
    the file unless something else reads it.
    """
    outcome, scene = Outcome(), None
    for node in list(model.graph):
        if graph.is_ours(node, graph.QUANTIZERS) and node.inputs[0].is_initializer():
            scene = scene or _Scene(model.graph)
            try:
                outcome.changed.append(_fold(scene, node))
            except _Declined as reason:
                outcome.declined.append((node.name, str(reason)))
    return outcome


def pack(model: ir.Model, quantizers: list[tuple[ir.Node, np.ndarray | None]]) -> None:
    """Fold these quantizers of the main graph, each given with the upper level of its NVFP4 scale where it has one.

    A quantizer that does not fold stays.
    """
    scene = _Scene(model.graph)
    for node, tensor_scale in quantizers:
        if node.graph is model.graph:
            with contextlib.suppress(_Declined):
                _fold(scene, node, tensor_scale)


class _Scene:
    """A graph, the names taken in it and the place of every node: found once, because all weights are asked for."""

    def __init__(self, g: ir.Graph):
        self.graph = g
        self.place = {node: i for i, node in enumerate(g)}
        self.values = {v.name for node in g for v in node.outputs} | {v.name for v in g.inputs}
        self.nodes = {node.name for node in g}

    def node_name(self, wanted: str) -> str:
        name = free_name(wanted, self.nodes)
        self.nodes.add(name)
        return name

    def initializer(self, name: str, array: np.ndarray) -> ir.Value:
        """A tied weight that was folded the same way before shares its own."""
        return add_initializer(self.graph, name, array, taken=self.values)

    def first(self, nodes) -> ir.Node:
        """The first of some nodes in the graph. Nodes made here never come before what they take the place of."""
        return min(nodes, key=lambda node: self.place.get(node, len(self.place)))


class _Declined(Exception):
    """Why a quantizer stays as it is."""


def _fold(scene: _Scene, node: ir.Node, tensor_scale: np.ndarray | None = None) -> str:
    g = scene.graph
    weight, scale, *zero_points = [value for value in node.inputs if value is not None]
    arrays = _constants(node)
    fmt, attributes = graph.quantizer_format(node), graph.attributes(node)
    op, described = _dequantizer(fmt, attributes, arrays[0].shape)
    codes = _packed_codes(OPERATORS[node.op_type], op, arrays, fmt, attributes)
    scale, how = _store_scale(scene, scale, arrays, fmt, described["axis"], tensor_scale)
    zero_points = [_settle(scene, value, array) for value, array in zip(zero_points, arrays[2:], strict=True)]
    inputs = [scene.initializer(f"{weight.name}_codes", codes), scale, *zero_points]
    scene.nodes.discard(node.name)
    name = scene.node_name(f"{node.name.removesuffix('_quant')}_dequant")
    new = ir.node(op.op_type(), inputs, described, domain=DOMAIN, name=name, doc_string=node.doc_string)
    new.metadata_props[graph.FORMAT_KEY] = fmt.name
    scene.place[new] = scene.place.get(node, len(scene.place))
    ir.convenience.replace_nodes_and_values(g, node, [node], [new], node.outputs, new.outputs)
    kept = "" if _drop_unused(g, weight) else f"; {weight.name} stays because {_readers(weight)}"
    return f"{name}: {fmt.name}, {arrays[0].nbytes} -> {codes.nbytes} bytes of codes, {how} scales{kept}"


# --- values -----------------------------------------------------------------------------------------------------


def _constants(node: ir.Node) -> list[np.ndarray]:
    """Weight, scale and (where there is one) zero point, all known before the model runs."""
    arrays = []
    for what, value in zip(("input", "scale", "zero point"), node.inputs, strict=False):
        if value is None:
            continue
        if value.is_initializer() and value.is_graph_input():
            raise _Declined(f"its {what} {value.name!r} is also an input of the graph; expected a plain initializer")
        array = constant_array(value)
        if array is None:
            raise _Declined(f"its {what} {value.name!r} is computed at run time; expected an initializer")
        arrays.append(array)
    return arrays


def _dequantizer(fmt: GroupFormat, attributes: dict, shape: tuple[int, ...]):
    """The operator that reads the codes, and its attributes."""
    axis = groups.normalize_axis(attributes["axis"], len(shape))
    # One short group is stored without the padding to a whole one: depthwise kernels, layers that read images.
    size = max(1, min(attributes["group_size"], shape[axis]))
    common = {"axis": axis, "group_size": size, "shape": list(shape)}
    if fmt.is_float:
        return MXFloatDequant, MXFloatDequant.attributes_of(fmt.element) | common
    return GroupwiseDequant, {name: attributes[name] for name in ("bit_width", "signed")} | common


def _codes(arrays: list[np.ndarray], fmt: GroupFormat, attributes: dict) -> np.ndarray:
    """uint8 codes in the shape of the weight, rounded and clipped as the quantizer's attributes say."""
    x, *contracted = arrays
    axis = attributes["axis"]
    scale, *zero = (groups.expand(c, axis, attributes["group_size"], x.shape[axis]) for c in contracted)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore"):
        v = np.where(scale == 0, np.copysign(np.float32(0), x), np.where(x == 0, x, x / scale))
        if fmt.is_float:
            return numerics.encode(v if attributes["signed"] else np.where(v <= 0, np.float32(0), v), fmt.element)
        low, high = numerics.int_range(*(attributes[name] for name in ("bit_width", "signed", "narrow")))
        q = np.clip(np.rint(v + zero[0] if zero else v), low, high)
    return np.nan_to_num(q).astype(np.int16).astype(np.uint8)


def _packed_codes(quantizer, dequantizer, arrays: list[np.ndarray], fmt: GroupFormat, attributes: dict) -> np.ndarray:
    """The packed codes of a weight, slab by slab: the steps of a whole one would take many times its memory.

    Raises _Declined where they do not give the bits that the quantizer gives.
    """
    axis = groups.normalize_axis(attributes["axis"], arrays[0].ndim)
    cut, packed, wrong, first = int(axis == 0), [], 0, None
    for start, part in _slabs(arrays, cut):
        described = _dequantizer(fmt, attributes, part[0].shape)[1]
        codes = packing.pack_codes(_codes(part, fmt, attributes), fmt.element.bits, axis, described["group_size"])
        (expected,) = quantizer.reference(*part, **attributes)
        (decoded,) = dequantizer.reference(codes, *part[1:], **described)
        differs = ~equal_bits(decoded, expected)
        if first is None and differs.any():
            place = np.argwhere(differs)[0]
            values = float(expected[tuple(place)]), float(decoded[tuple(place)])
            place[cut : cut + 1] += start
            first = (*values, tuple(map(int, place)))
        wrong += int(differs.sum())
        packed.append(codes)
    if first is not None:
        raise _Declined(
            f"{wrong} of {arrays[0].size} quantized values are no {fmt.name} codes times scales, first "
            f"{first[0]:.9g} at {first[2]} (codes would give {first[1]:.9g})"
        )
    return np.concatenate(packed, cut) if len(packed) > 1 else packed[0]


def _slabs(arrays: list[np.ndarray], cut: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Runs of about _SLAB elements along axis `cut` of arrays that agree on it, with the place where each begins."""
    length = arrays[0].shape[cut] if arrays[0].ndim > cut else 0
    step = max(1, _SLAB * length // max(1, arrays[0].size)) if length else 1
    if length <= step:
        yield 0, arrays
        return
    for start in range(0, length, step):
        at = (slice(None),) * cut + (slice(start, start + step),)
        yield start, [array[at] for array in arrays]


# --- the graph --------------------------------------------------------------------------------------------------


def _store_scale(
    scene: _Scene, scale: ir.Value, arrays: list[np.ndarray], fmt: GroupFormat, axis: int, tensor_scale=None
) -> tuple[ir.Value, str]:
    """The scale as the file keeps it, for everything that reads it, and in words how that is."""
    if graph.is_ours(scale.producer(), graph.STORED_SCALES):
        return scale, "stored"
    if any(user.graph is not scene.graph for user, _ in scale.uses()):  # of a graph inside a node before this one
        return _settle(scene, scale, arrays[1]), "float32"
    if fmt.is_mx:
        try:
            codes = numerics.codes_from_scale(arrays[1], fmt.step_frac_bits)
        except FormatError:  # powers of two that E8M0 does not reach
            return _settle(scene, scale, arrays[1]), "float32"
        stored = [scene.initializer(f"{scale.name}_codes", codes)]
        node = ir.node("MXScaleDequant", stored, {"frac_bits": fmt.step_frac_bits}, domain=DOMAIN)
    elif fmt.scale == "nvfp4":
        if tensor_scale is None:
            found, codes, tensor_scale = numerics.nvfp4_scale(arrays[0], axis, fmt.group_size)
        else:
            codes = numerics.encode(arrays[1] / tensor_scale, numerics.NVFP4_SCALE)
            (found,) = NVFP4ScaleDequant.reference(codes, tensor_scale)
        if not equal_bits(found, arrays[1]).all():  # found from other values
            return _settle(scene, scale, arrays[1]), "float32"
        stored = [
            scene.initializer(f"{scale.name}_codes", codes),
            scene.initializer(f"{scale.name}_tensor", np.asarray(tensor_scale, np.float32)),
        ]
        node = ir.node("NVFP4ScaleDequant", stored, domain=DOMAIN)
    else:
        return _settle(scene, scale, arrays[1]), "float32"
    g, node.name = scene.graph, scene.node_name(scale.name)
    first = scene.first([user for user, _ in scale.uses()])
    g.insert_before(first, node)
    scene.place[node] = scene.place.get(first, len(scene.place))
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(arrays[1].shape)
    name = scale.name
    _replace(g, scale, node.outputs[0])
    node.outputs[0].name = name
    return node.outputs[0], {"MXScaleDequant": "E8M0", "NVFP4ScaleDequant": "E4M3"}[node.op_type]


def _settle(scene: _Scene, value: ir.Value, array: np.ndarray) -> ir.Value:
    """A constant that operators of ours compute becomes an initializer; an initializer stays."""
    if value.is_initializer() or graph.is_ours(value.producer(), graph.STORED_SCALES):
        return value
    name, value.name = value.name, f"{value.name}_computed"  # the initializer takes the name
    scene.values.discard(name)
    new = scene.initializer(name, array)
    _replace(scene.graph, value, new)
    return new


def _replace(g: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """`new` serves every reader of `old`, which goes."""
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if old.producer() is None:
        _drop_unused(g, old)
    else:
        g.remove(old.producer(), safe=True)


def _drop_unused(g: ir.Graph, value: ir.Value) -> bool:
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return False
    g.initializers.pop(value.name, None)
    return True


def _readers(value: ir.Value) -> str:
    names = sorted({user.name or user.op_type for user, _ in value.uses()})
    return f"{', '.join(names)} read{'s' * (len(names) == 1)} it" if names else "it is an input or output of the graph"
