"""Convolutions whose kernels hold zeros instead of groups and dilations; for tools that know neither."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def without_groups(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """Conv(x, W [O, C/g, ...], g groups) -> Conv(x, W [O, C, ...])  with zeros for the other groups' channels.

    The weight to use; the node says so. Depthwise convolutions with one filter a channel stay as they are.
    """
    count = _attribute(node, "group", 1)
    if count == 1 or (weight.shape[1] == 1 and count == weight.shape[0]):
        return weight
    rows, inner = weight.shape[0] // count, weight.shape[1]
    full = np.zeros((weight.shape[0], inner * count, *weight.shape[2:]), weight.dtype)
    for i in range(count):
        full[i * rows : (i + 1) * rows, i * inner : (i + 1) * inner] = weight[i * rows : (i + 1) * rows]
    node.attributes["group"] = ir.AttrInt64("group", 1)
    return full


def without_dilations(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """Conv(x, W, dilations d) -> Conv(x, W')  with d - 1 zeros between the taps.

    The weight to use; the node says so.
    """
    dilations = _attribute(node, "dilations", [1] * (weight.ndim - 2))
    if set(dilations) == {1}:
        return weight
    sizes = [(size - 1) * d + 1 for size, d in zip(weight.shape[2:], dilations, strict=True)]
    spread = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    spread[(..., *(slice(None, None, d) for d in dilations))] = weight
    node.attributes["dilations"] = ir.AttrInt64s("dilations", [1] * len(sizes))
    if "kernel_shape" in node.attributes:
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", sizes)
    return spread


def _attribute(node: ir.Node, name: str, default):
    return node.attributes[name].value if name in node.attributes else default
