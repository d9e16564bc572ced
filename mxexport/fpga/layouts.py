"""How tensors of a QONNX graph, channels first, lie in streams."""

from __future__ import annotations

import onnx_ir as ir


def group_count_of(node: ir.Node) -> int:
    """Groups of channels of a convolution; 1 for other products."""
    return node.attributes["group"].value if "group" in node.attributes else 1


def is_depthwise(node: ir.Node) -> bool:
    """Whether a convolution has a group for every channel that comes and for every one that goes."""
    count = group_count_of(node)
    shape = node.inputs[1].shape
    return node.op_type == "Conv" and count > 1 and shape is not None and shape[0] == count and shape[1] == 1


def is_turned(value: ir.Value, frame: tuple[int, ...] | None) -> bool:
    """Whether a stream brings, as one column, images that a tensor holds as one row: sequences that a graph puts into
    images for a while, as torch's one-dimensional pools do."""
    if frame is None or len(frame) != 3 or value.shape is None or len(value.shape) != 4:
        return False
    return tuple(value.shape[2:]) == (frame[1], frame[0]) and 1 == frame[1] < frame[0]


def same_image(shape: ir.Shape | None, frame: tuple[int, ...]) -> bool:
    """Whether a tensor of `shape` [batch, channels, ...] holds the image `frame` [H, W, C], but for sizes of one."""
    if shape is None or len(shape) < 3 or shape[1] != frame[2]:
        return False
    return [d for d in shape[2:] if d != 1] == [d for d in frame[:2] if d != 1]
