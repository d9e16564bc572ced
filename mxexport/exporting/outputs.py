"""Graph outputs under the keys of what `forward` returns: `last_hidden_state`, `more.0`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
import torch
import torch.utils._pytree as pytree
from torch.export.graph_signature import TensorArgument

from mxexport.exporting.naming import names_in_use


def name_outputs(model: ir.Model, program: torch.export.ExportedProgram) -> None:
    """Name outputs that lie in dicts or objects like them; others keep torch's name."""
    keys = _output_keys(program)
    if len(keys) != len(model.graph.outputs):
        return
    names = names_in_use(model.graph)
    for value, key in zip(model.graph.outputs, keys, strict=True):
        if key and value.name != key:
            value.name = names.unique(key)


def name_inputs_again(model: ir.Model) -> None:
    """Torch calls an input that `forward` also returns `x_orig`, and the output `x`: the input keeps its own name."""
    outputs = {value.name: value for value in model.graph.outputs}
    for value in model.graph.inputs:
        name = value.name.removesuffix("_orig")
        if name != value.name and name in outputs:
            outputs[name].name = names_in_use(model.graph).unique(name)
            value.name = name


def _output_keys(program: torch.export.ExportedProgram) -> list[str]:
    """A name from its keys for every output that is a tensor: `hidden`, `more.0`; "" where there are only positions."""
    spec = program.call_spec.out_spec
    paths = dict(leaf_paths(pytree.tree_unflatten(list(range(spec.num_leaves)), spec)))
    kinds = [output.arg for output in program.graph_signature.output_specs if output.kind.name == "USER_OUTPUT"]
    return [_key_name(paths.get(i, ())) for i, kind in enumerate(kinds) if isinstance(kind, TensorArgument)]


def leaf_paths(tree: Any, path: tuple = ()) -> Iterator[tuple[int, tuple]]:
    """(number of a leaf, keys that lead to it); leaves of containers other than these have none."""
    if isinstance(tree, int):
        yield tree, path
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from leaf_paths(item, (*path, key))
    elif isinstance(tree, (tuple, list)):
        for key, item in zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True):
            yield from leaf_paths(item, (*path, key))


def _key_name(path: tuple) -> str:
    return ".".join(map(str, path)) if any(isinstance(key, str) for key in path) else ""
