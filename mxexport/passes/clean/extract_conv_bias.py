from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model import rewriting as rw
from mxexport.model.editing import make_node, new_initializer
from mxexport.model.names import Names
from mxexport.model.outcome import Outcome
from mxexport.passes.exactness import approximate


@approximate(ulp=4, reason="some convolution kernels start their sum from the bias instead of adding it last")
def extract_conv_bias(model: ir.Model) -> Outcome:
    """Conv(x, w, b) -> Add(Conv(x, w), b')  when the rank of w is known; ConvTranspose, too.

    b' is b with one dimension per spatial axis; a quantized b is reshaped at run time.
    """
    outcome, names = Outcome(), None
    for _, node in rw.nodes(model):
        if not rw.is_op(node, "Conv", "ConvTranspose") or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        width = rw.rank(node.inputs[1]) or rw.rank(node.inputs[0])
        if width is None:
            outcome.declined.append(
                (rw.label(node), "the ranks of its weight and input are not known; infer shapes first")
            )
            continue
        names = names or Names(rw.value_names(model))
        extract(node, width - 2, names)
        outcome.changed.append(f"{rw.label(node)}: bias of {node.op_type} as an Add of its own")
    return outcome


def extract(node: ir.Node, spatial: int, names: Names) -> None:
    """The bias of one Conv whose kernel has `spatial` spatial axes."""
    graph, base, y, bias = node.graph, node.name or node.outputs[0].name, node.outputs[0], node.inputs[2]
    shape = (-1, *(1,) * spatial)
    known = rw.constant(bias)
    if known is not None:
        per_channel = new_initializer(graph, names.unique(f"{bias.name}_per_channel"), known.reshape(shape))
    else:  # a quantized bias
        target = new_initializer(graph, names.unique(f"{base}.bias_shape"), np.array(shape, np.int64))
        reshape = make_node(
            "Reshape", [bias, target], names.unique(f"{base}.bias"), names.unique(f"{base}.bias_reshaped")
        )
        graph.insert_before(node, reshape)
        per_channel = reshape.outputs[0]
    node.replace_input_with(2, None)
    node.resize_inputs(2)
    name = names.unique(f"{base}.bias_add")
    add = make_node("Add", [y, per_channel], name, name, y)
    graph.insert_after(node, add)
    _take_over(y, add)


def _take_over(y: ir.Value, add: ir.Node) -> None:
    """All users of `y` but the new node read its sum; the sum keeps the name."""
    total = add.outputs[0]
    y.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, y)
    y.name, total.name = total.name, y.name
