from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from mxexport.errors import OptionError
from mxexport.model.outcome import Outcome


def fix_shapes(model: ir.Model, shapes: Mapping[str, int | Sequence[int]]) -> Outcome:
    """input(batch, 64) -> input(1, 64)  when `shapes` says {"batch": 1}, or {"input": (1, 64)}.

    Dimensions of a name that is fixed are fixed wherever they stand; infer_shapes finds the others.

    Raises:
        OptionError: a name that is neither an input nor an open dimension, or a shape that does not fit.
    """
    outcome = Outcome()
    inputs = {value.name: value for value in model.graph.inputs if value.name not in model.graph.initializers}
    sizes = _sizes(inputs, shapes)
    for value in inputs.values():
        if value.shape is None:
            fixed = list(shapes[value.name]) if value.name in shapes else None
        else:
            fixed = _fixed(value, shapes.get(value.name), sizes)
        if fixed is not None and (value.shape is None or fixed != list(value.shape)):
            outcome.changed.append(f"{value.name}: {value.shape} -> {fixed}")
            value.shape = ir.Shape(fixed)
    if outcome.changed:
        for graph in model.graphs():
            for node in graph:
                for made in node.outputs:
                    if made.shape is not None:
                        made.shape = ir.Shape(_fixed(made, None, sizes))
    return outcome


def _sizes(inputs: Mapping[str, ir.Value], shapes: Mapping) -> dict[str, int]:
    """Open dimension -> size; checks every name."""
    dims = {str(d) for v in inputs.values() if v.shape is not None for d in v.shape if not isinstance(d, int)}
    dims.discard("None")
    sizes = {}
    for name, wanted in shapes.items():
        if name in inputs:
            if isinstance(wanted, int):
                raise OptionError(f"shapes: input {name!r} needs a whole shape such as (1, 64), found {wanted}")
            shape = inputs[name].shape or wanted
            if len(shape) != len(wanted) or any(
                isinstance(d, int) and d != w for d, w in zip(shape, wanted, strict=True)
            ):
                raise OptionError(f"shapes: input {name!r} is {shape} in the file; {tuple(wanted)} does not fit")
            pairs = [(str(d), w) for d, w in zip(shape, wanted, strict=True) if not isinstance(d, int)]
        elif name in dims:
            pairs = [(name, wanted)]
        else:
            known = ", ".join(sorted(map(repr, {*inputs, *dims})))
            raise OptionError(f"shapes: {name!r} is neither an input nor an open dimension; expected one of {known}")
        for dim, size in pairs:
            if not isinstance(size, int) or size < 1:
                raise OptionError(f"shapes: {name!r}: expected sizes of 1 or more, found {size!r}")
            if dim != "None" and sizes.setdefault(dim, size) != size:
                raise OptionError(f"shapes: dimension {dim!r} is given as {sizes[dim]} and as {size}")
    return sizes


def _fixed(value: ir.Value, wanted: Sequence[int] | None, sizes: Mapping[str, int]) -> list:
    if wanted is not None:
        return list(wanted)
    return [d if isinstance(d, int) else sizes.get(str(d), d) for d in value.shape]
