"""Our operators take float32: Casts around them where a model computes in half precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport import graph
from mxexport.exporting.naming import names_in_use
from mxexport.ops import DOMAIN

HALF = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def work_in_float32(model: ir.Model) -> None:
    """X (half) -> our operator -> Y (half)   becomes   Cast -> our operator -> Cast, as the torch kernels compute.

    float16 and bfloat16 are subsets of float32, so the first Cast is exact; the second rounds as torch does. A half
    constant becomes a float32 initializer of its name (of `<name>_float32` where others read it, too).
    """
    casts = _Casts(model.graph)
    for node in list(model.graph):
        if node.domain != DOMAIN:
            continue
        for i, value in enumerate(node.inputs):
            if value is not None and value.dtype in HALF:
                node.replace_input_with(i, casts.of_input(value))
        for value in node.outputs:
            if value.dtype in HALF:
                casts.behind(node, value)
    casts.drop_unread()


class _Casts:
    """One Cast or one constant per half-precision value."""

    def __init__(self, g: ir.Graph):
        self.graph, self.names = g, names_in_use(g)
        self.known: dict[ir.Value, ir.Value] = {}
        self.replaced: dict[ir.Value, ir.Value] = {}

    def of_input(self, value: ir.Value) -> ir.Value:
        if value not in self.known:
            array = graph.constant(value)
            self.known[value] = self._cast(value) if array is None else self._constant(value, array)
        return self.known[value]

    def _cast(self, value: ir.Value) -> ir.Value:
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(ir.DataType.FLOAT)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], cast)
        else:
            cast.metadata_props.update(producer.metadata_props)  # it is named after the module it belongs to
            self.graph.insert_after(producer, cast)
        return cast.outputs[0]

    def _constant(self, value: ir.Value, array: np.ndarray) -> ir.Value:
        wide = ir.Value(
            name=self.names.unique(f"{value.name}_float32"),
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(array.astype(np.float32)),
        )
        self.graph.register_initializer(wide)
        self.replaced[value] = wide
        return wide

    def behind(self, node: ir.Node, value: ir.Value) -> None:
        """Let readers of `value` read it rounded to the half precision it had."""
        cast = ir.node("Cast", [value], {"to": value.dtype})
        cast.metadata_props.update(node.metadata_props)
        rounded = cast.outputs[0]
        rounded.shape, rounded.type = value.shape, value.type
        value.replace_all_uses_with(rounded, replace_graph_outputs=True)
        if rounded.is_graph_output():
            rounded.name, value.name = value.name, None
        cast.replace_input_with(0, value)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_after(node, cast)

    def drop_unread(self) -> None:
        """Half constants that only our operators read make room for their float32 form, which takes their name."""
        for value, wide in self.replaced.items():
            if not value.uses() and not value.is_graph_output():
                name = value.name
                del self.graph.initializers[name]
                wide.name = name
