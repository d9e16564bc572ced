from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.model import rewriting as rw
from mxexport.model.editing import new_initializer
from mxexport.model.graph import is_ours
from mxexport.model.outcome import Outcome
from mxexport.ops import DOMAIN, VERSION, functions_for
from mxexport.running import sessions
from mxexport.running.execution import NUMPY_TYPES

SIZE_LIMIT = 1 << 20
"""Bytes a folded tensor may have; more is fine where it does not outgrow what it is made from."""

_ALIGNMENT = 64  # bytes
_GROWING = {"ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad", "OneHot", "EyeLike", "Gather"}
_OWN_SCALES = {"MXScale", "GroupwiseScale", "GroupwiseZeroPoint"}


def fold_constants(model: ir.Model) -> Outcome:
    """op(c, d) -> initializer  when c, d are constants, op is no quantizer (ours, QONNX's, QuantizeLinear), and the
    result is small or no larger than what it is made from; Shape(x) -> initializer  when the shape of x is known.

    All of a graph is computed in one onnxruntime session, by the kernels that would have run.
    """
    outcome = Outcome()
    for graph in list(model.graphs()):
        _fold_graph(model, graph, outcome)
    return outcome


def _fold_graph(model: ir.Model, graph: ir.Graph, outcome: Outcome) -> None:
    region: list[ir.Node] = []
    made: dict[ir.Value, ir.Node] = {}
    ready: dict[ir.Value, ir.TensorProtocol] = {}
    for node in graph:
        if not node.outputs:  # ONNX asks for one, protobuf does not
            continue
        if not all(v is None or rw.is_constant(v) or v in made or v in ready for v in node.inputs):
            if _is_known_shape(node):
                ready[node.outputs[0]] = _shape_of(node)
            continue
        if rw.is_op(node, "Constant"):
            tensor = _constant_tensor(node)
            if tensor is not None and not node.outputs[0].is_graph_output():
                ready[node.outputs[0]] = tensor
            continue
        reason = _why_not(model, node)
        if reason is None:
            region.append(node)
            made.update((v, node) for v in node.outputs)
        elif reason:
            outcome.declined.append((rw.label(node), reason))
    folded = ready | _evaluate(model, region, made, ready, outcome)
    lifted = [_replace(graph, value, tensor) for value, tensor in folded.items() if value.uses()]
    for node in {value.producer(): None for value in (*made, *ready)}:
        unused = node is not None and not any(v.uses() or v.is_graph_output() for v in node.outputs)
        if unused:
            outcome.changed.append(f"{rw.label(node)}: {node.op_type} of constants")
    for node in reversed([*{value.producer(): None for value in (*ready, *made)}]):
        if node is not None and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            graph.remove(node, safe=True)
    for value in lifted:
        if not value.uses():  # it went into another folded tensor
            del graph.initializers[value.name]


def _why_not(model: ir.Model, node: ir.Node) -> str | None:
    """Why a node of constants stays: a reason, "" where that goes without saying, None to fold it."""
    if rw.is_quantizer(node):
        return ""
    if node.domain == DOMAIN and not is_ours(node, _OWN_SCALES):
        return ""
    if node.domain not in {*rw.STANDARD_DOMAINS, DOMAIN}:
        return f"it is {node.domain}.{node.op_type}, not a standard operator"
    if node.op_type in {*rw.RANDOM, "Dropout"}:
        return f"{node.op_type} gives other values each time"
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return "it holds graphs of its own"
    output = next((v for v in node.outputs if v.is_graph_output()), None)
    if output is not None:
        return f"it makes the graph output {output.name!r}"
    odd = next(
        (v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype and v.dtype not in NUMPY_TYPES), None
    )
    if odd is not None:
        return f"onnxruntime takes no {odd.dtype} from outside ({odd.name!r})"
    return _too_large(node)


def _too_large(node: ir.Node) -> str | None:
    shape = rw.static_shape(node.outputs[0])
    if shape is None:
        return "the size of its result is not known; infer shapes first" if node.op_type in _GROWING else None
    item = node.outputs[0].dtype.itemsize if node.outputs[0].dtype else 4
    size = int(np.prod(shape, dtype=np.float64) * item)
    if size <= max(SIZE_LIMIT, sum(_bytes(v) for v in node.inputs)):
        return None
    return f"its result takes {size:,} bytes, more than what it is made from and than the limit of {SIZE_LIMIT:,}"


def _bytes(value: ir.Value | None) -> int:
    shape = rw.static_shape(value)
    if value is not None and value.const_value is not None:
        return value.const_value.nbytes
    return int(np.prod(shape, dtype=np.float64)) * 4 if shape is not None else 0


def _is_known_shape(node: ir.Node) -> bool:
    if not rw.is_op(node, "Shape", "Size") or node.outputs[0].is_graph_output() or node.inputs[0].shape is None:
        return False
    dims = list(node.inputs[0].shape)
    if node.op_type == "Shape":
        dims = dims[rw.attribute(node, "start", 0) : rw.attribute(node, "end")]
    return all(isinstance(d, int) for d in dims)


def _shape_of(node: ir.Node) -> ir.TensorProtocol:
    dims = list(node.inputs[0].shape)
    if node.op_type == "Size":
        return ir.tensor(np.array(np.prod(dims, dtype=np.int64)))
    return ir.tensor(np.array(dims[rw.attribute(node, "start", 0) : rw.attribute(node, "end")], np.int64))


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The value of a Constant node; None for text and sparse tensors, which stay nodes."""
    for name, kind in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        found = node.attributes.get(name)
        if found is not None and not found.is_ref():
            return ir.tensor(np.array(found.value, kind))
    found = node.attributes.get("value")
    return found.value if found is not None and not found.is_ref() else None


# --- computing ------------------------------------------------------------------------------------------------


def _evaluate(model, region, made, ready, outcome) -> dict[ir.Value, ir.TensorProtocol]:
    """Values of the region that something outside it uses."""
    if not region:
        return {}
    inside = set(region)
    wanted = [v for v in made if any(use.node not in inside for use in v.uses())]
    if not wanted:
        return {}
    try:
        return compute(model, region, wanted, ready)
    except Exception as error:  # onnxruntime's exceptions have no common base; one bad node spoils the session
        if len(region) > 1:
            return _evaluate_singly(model, region, wanted, ready, outcome)
        outcome.declined.append((rw.label(region[0]), f"onnxruntime cannot compute it: {str(error).splitlines()[0]}"))
        return {}


def _evaluate_singly(model, region, wanted, ready, outcome) -> dict[ir.Value, ir.TensorProtocol]:
    known = dict(ready)
    for node in region:
        try:
            known |= compute(model, [node], [v for v in node.outputs if v.uses()], known)
        except Exception as error:  # as above
            outcome.declined.append((rw.label(node), f"onnxruntime cannot compute it: {str(error).splitlines()[0]}"))
    return {value: known[value] for value in wanted if value in known}


def compute(model: ir.Model, region: list[ir.Node], wanted: list[ir.Value], ready: dict) -> dict:
    """Value -> tensor for the `wanted` outputs of a `region` that reads initializers and the tensors of `ready` alone,
    in the order of execution; onnxruntime computes them, and raises what it raises."""
    protos = [ir.serde.serialize_node(node) for node in region]
    inside = {v for node in region for v in node.outputs}
    sources = {
        v: ready.get(v, v.const_value) for node in region for v in node.inputs if v is not None and v not in inside
    }
    fed = {value.name: _aligned(tensor.numpy()) for value, tensor in sources.items()}
    infos = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in fed.items()
    ]
    outputs = [onnx.ValueInfoProto(name=value.name) for value in wanted]
    imports = [onnx.helper.make_opsetid("", model.opset_imports.get("", 20)), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(protos, "constants", infos, outputs),
        opset_imports=imports,
        functions=functions_for(protos, imports[0].version),
        ir_version=max(model.ir_version, 8),
    )
    session = sessions.open_plain(proto.SerializeToString())
    arrays = session.run([value.name for value in wanted], fed)
    return {value: ir.tensor(a) for value, a in zip(wanted, arrays, strict=True) if isinstance(a, np.ndarray)}


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that lies in memory as onnxruntime's own initializers do: sums of its kernels start with what comes before
    the first boundary of a vector register, so their last bits depend on it."""
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _replace(graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer takes the tensor's name; the node that made it is about to go."""
    name, value.name = value.name, f"{value.name}_folded"
    initializer = new_initializer(graph, name, tensor)
    value.replace_all_uses_with(initializer)
    return initializer
