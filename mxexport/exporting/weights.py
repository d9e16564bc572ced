"""Float weights under their PyTorch name and in their PyTorch layout, none read twice by one node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from mxexport.model.editing import new_initializer
from mxexport.model.names import free_name
from mxexport.model.rewriting import constant


def restore_transposed_weights(model: ir.Model, module: torch.nn.Module) -> None:
    """`val_7` = transpose of `head.weight`   ->   Transpose(`head.weight`)   for matrices that torch folded.

    Torch folds small transposes only, under a name of its own, and so stores a tied weight twice.
    """
    g = model.graph
    named = {name: p for name, p in module.named_parameters(remove_duplicate=False) if p.ndim == 2}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, parameter in named.items():
        by_shape.setdefault(tuple(parameter.shape), []).append(name)
    for value in list(g.initializers.values()):
        if value.name in named or value.shape is None or len(value.shape) != 2 or value.is_graph_output():
            continue
        array = constant(value)
        names = [n for n in by_shape.get(array.shape[::-1], ()) if _is_transpose(named[n], array)]
        if names:
            _replace(g, value, array, next((n for n in names if n in g.initializers), names[0]))


def _is_transpose(parameter: torch.Tensor, array: np.ndarray) -> bool:
    return np.array_equal(parameter.detach().float().cpu().numpy().T, array.astype(np.float32), equal_nan=True)


def _replace(g: ir.Graph, value: ir.Value, array: np.ndarray, name: str) -> None:
    weight = g.initializers.get(name)
    if weight is None:
        weight = new_initializer(g, name, array.T)
    users = list(value.consumers())
    transpose = ir.node("Transpose", [weight], {"perm": [1, 0]})
    transpose.outputs[0].shape, transpose.outputs[0].type = value.shape, value.type
    if users:
        transpose.metadata_props.update(users[0].metadata_props)  # it is named after the module it belongs to
    g.insert_before(g[0], transpose)
    value.replace_all_uses_with(transpose.outputs[0])
    del g.initializers[value.name]


def tell_apart(model: ir.Model) -> None:
    """BatchNormalization(x, w, b, b, w)   ->   BatchNormalization(x, w, b, b_1, w_1)   where torch merged them.

    qonnx renames only the first place in which a node reads a tensor (GiveUniqueTensorNames and what calls it).
    """
    g = model.graph
    for node in g:
        for i, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value in node.inputs[:i]:
                name = free_name(f"{value.name}_1", g.initializers)
                node.replace_input_with(i, new_initializer(g, name, constant(value).copy()))
