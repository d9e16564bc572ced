"""How tensors of a QONNX graph, channels first, lie in streams."""

from __future__ import annotations

import onnx_ir as ir


def is_row(value: ir.Value) -> bool:
    """Whether a tensor holds images of one row, [batch, channels, 1, width]: hardware turns them into columns."""
    return value.shape is not None and len(value.shape) == 4 and value.shape[2] == 1


def same_image(shape: ir.Shape | None, frame: tuple[int, ...]) -> bool:
    """Whether a tensor of `shape` [batch, channels, ...] holds the image `frame` [H, W, C], but for sizes of one."""
    if shape is None or len(shape) < 3 or shape[1] != frame[2]:
        return False
    return [d for d in shape[2:] if d != 1] == [d for d in frame[:2] if d != 1]
