"""How tensors of a QONNX graph, channels first, lie in streams."""

from __future__ import annotations

import onnx_ir as ir


def is_depthwise(node: ir.Node) -> bool:
    """Whether a convolution has a group for every channel that comes and for every one that goes."""
    count = node.attributes["group"].value if "group" in node.attributes else 1
    shape = node.inputs[1].shape
    return node.op_type == "Conv" and count > 1 and shape is not None and shape[0] == count and shape[1] == 1


def is_row(value: ir.Value) -> bool:
    """Whether a tensor holds images of one row, [batch, channels, 1, width]: hardware turns them into columns."""
    return value.shape is not None and len(value.shape) == 4 and value.shape[2] == 1


def same_image(shape: ir.Shape | None, frame: tuple[int, ...]) -> bool:
    """Whether a tensor of `shape` [batch, channels, ...] holds the image `frame` [H, W, C], but for sizes of one."""
    if shape is None or len(shape) < 3 or shape[1] != frame[2]:
        return False
    return [d for d in shape[2:] if d != 1] == [d for d in frame[:2] if d != 1]
