"""What operators on windows of pixels share: shapes, and what does not fit."""

from __future__ import annotations

from mxexport.errors import ShapeError
from mxexport.numbers import groups
from mxexport.numbers.spatial import output_size


def check_window(where: str, shape: tuple, a: dict) -> None:
    """Raise ShapeError unless [N, H, W, C] has room for a window whose padding is smaller than its span."""
    counts = {"kernel_shape": 2, "strides": 2, "pads": 4, "dilations": 2}
    wrong = [f"{name} {list(a[name])}" for name, n in counts.items() if name in a and len(a[name]) != n]
    if wrong or len(shape) != 4:
        found = ", ".join(wrong) or f"X has shape {shape}"
        raise ShapeError(f"{where}: {found}; expected [N, H, W, C], two numbers for height and width, four for pads")
    spans = [(k - 1) * d + 1 for k, d in zip(a["kernel_shape"], a.get("dilations", (1, 1)), strict=True)]
    for axis, span in enumerate(spans):
        size, before, after = shape[axis + 1], a["pads"][axis], a["pads"][axis + 2]
        if max(before, after) >= span:
            raise ShapeError(f"{where}: pads {list(a['pads'])} of windows that span {spans}; expected less than a span")
        if not groups.is_open(size) and size + before + after < span:
            raise ShapeError(f"{where}: windows span {spans}, X has shape {shape}; expected a frame with room for one")


def output_sizes(shape: tuple, a: dict) -> tuple[int | None, ...]:
    """Height and width of the result; None where that of X is open."""
    return tuple(
        None if groups.is_open(shape[axis + 1]) else
        output_size(shape[axis + 1], a["kernel_shape"][axis], a["strides"][axis], a["pads"][axis], a["pads"][axis + 2],
                    a.get("dilations", (1, 1))[axis])
        for axis in (0, 1)
    )  # fmt: skip
