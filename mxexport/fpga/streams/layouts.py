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


_SPATIAL = (
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "BatchNormalization",
)
_ROWS = ("MatMul", "Gemm", "LayerNormalization", "RMSNormalization", "Softmax")


def is_sequence(value: ir.Value) -> bool:
    """Whether an input of the graph brings tokens, (batch, tokens, channels): of three known axes, the last is the one
    along which the first layer groups, normalizes or multiplies. Else three axes are channels and a length."""
    shape = value.shape
    if shape is None or len(shape) != 3 or not all(isinstance(d, int) for d in shape[1:]):
        return False
    return _channel_axis(value, 3, set()) == 2


def _channel_axis(value: ir.Value, rank: int, seen: set[ir.Value]) -> int | None:
    """The axis that the first layer behind `value` takes for its channels; None where no node says so."""
    seen.add(value)
    for node in value.consumers():
        if node.op_type in _SPATIAL:
            return 1
        if node.op_type in _ROWS:
            return rank - 1
        if "axis" in node.attributes and node.domain != "":
            return node.attributes["axis"].value % rank
        out = node.outputs[0]
        if out in seen or out.shape is None or len(out.shape) != rank:
            continue
        found = _channel_axis(out, rank, seen)
        if found is not None and node.op_type == "Transpose" and "perm" in node.attributes:
            found = node.attributes["perm"].value[found]
        if found is not None:
            return found
    return None
