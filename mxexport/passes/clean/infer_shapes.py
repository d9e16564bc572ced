from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import defs

import mxexport.ops  # noqa: F401  (registers the schemas)
from mxexport.model.outcome import Outcome
from mxexport.model.rewriting import QONNX_DOMAINS, STANDARD_DOMAINS
from mxexport.ops import DOMAIN, qonnx_general

_DATA_LIMIT = 1000  # bytes; larger initializers say nothing about shapes
_KNOWN_DOMAINS = {*STANDARD_DOMAINS, DOMAIN, qonnx_general.DOMAIN}
_MADE_UP = "unk__"
_SHAPE_KEEPING = ("Trunc", "IntQuant")
_ATTRIBUTES = {"rounding_mode": "STRING", "signed": "INT", "narrow": "INT"}


def infer_shapes(model: ir.Model) -> Outcome:
    """tensor of unknown shape -> tensor with its shape  when inference finds one, our operators' included.

    Weights are left out of what is handed to onnx. Known dimensions are never overwritten, named ones by numbers only.
    """
    outcome = Outcome()
    _register_qonnx_schemas()
    try:
        inferred = onnx.shape_inference.infer_shapes(_skeleton(model), data_prop=True)
    except Exception as error:  # onnx raises its own InferenceError and protobuf's errors
        outcome.declined.append(("graph", f"onnx cannot infer shapes: {str(error).splitlines()[0]}"))
        return outcome
    _merge_graph(model.graph, inferred.graph, outcome)
    return outcome


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model without large initializers (they become inputs) and without bodies that have a schema."""
    copy = model.clone()
    for key in [key for key in copy.functions if key[0] in {DOMAIN, *QONNX_DOMAINS}]:
        del copy.functions[key]
    for graph in list(copy.graphs()):
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= _DATA_LIMIT:
                continue
            del graph.initializers[name]
            value.shape, value.type = value.shape or ir.Shape(tensor.shape), value.type or ir.TensorType(tensor.dtype)
            if graph is copy.graph and not value.is_graph_input():
                graph.inputs.append(value)
    for node in copy.graph.all_nodes():
        if node.domain in QONNX_DOMAINS:
            node.domain = qonnx_general.DOMAIN
        if node.domain in _KNOWN_DOMAINS:  # what the file says is compared afterwards; onnx would take its word
            for value in node.outputs:
                value.shape = None
    copy.opset_imports.setdefault(qonnx_general.DOMAIN, 1)
    return ir.to_proto(copy)


def _register_qonnx_schemas() -> None:
    """Operators of QONNX that we do not execute but whose shape is that of their first input."""
    for op_type in _SHAPE_KEEPING:
        if defs.has(op_type, qonnx_general.DOMAIN):
            continue
        variadic = defs.OpSchema.FormalParameterOption.Variadic
        schema = defs.OpSchema(
            op_type,
            qonnx_general.DOMAIN,
            1,
            f"{op_type} of the QONNX standard.",
            inputs=[defs.OpSchema.FormalParameter("inputs", "tensor(float)", "", param_option=variadic)],
            outputs=[defs.OpSchema.FormalParameter("y", "tensor(float)", "")],
            attributes=[
                defs.OpSchema.Attribute(name, getattr(defs.OpSchema.AttrType, kind), "", required=False)
                for name, kind in _ATTRIBUTES.items()
            ],
        )
        schema.set_type_and_shape_inference_function(lambda ctx: ctx.set_output_type(0, ctx.get_input_type(0)))
        defs.register_schema(schema)


def _merge_graph(graph: ir.Graph, inferred: onnx.GraphProto, outcome: Outcome) -> None:
    found = {info.name: info.type for infos in (inferred.value_info, inferred.output) for info in infos}
    protos = {
        proto.output[0]: proto for proto in inferred.node if proto.output and any(a.g.node for a in proto.attribute)
    }
    for node in graph:
        for value in node.outputs:
            if value.name in found:
                _merge_value(node, value, found[value.name], outcome)
        if node.outputs and node.outputs[0].name in protos:
            bodies = {a.name: a.g for a in protos[node.outputs[0].name].attribute if a.HasField("g")}
            for name, attribute in node.attributes.items():
                if name in bodies and attribute.type == ir.AttributeType.GRAPH:
                    _merge_graph(attribute.as_graph(), bodies[name], outcome)


def _merge_value(node: ir.Node, value: ir.Value, proto: onnx.TypeProto, outcome: Outcome) -> None:
    if not proto.HasField("tensor_type"):
        return
    tensor, before = proto.tensor_type, value.shape
    if value.type is None and tensor.elem_type:
        value.type = ir.TensorType(ir.DataType(tensor.elem_type))
    if not tensor.HasField("shape"):
        return
    dims = [d.dim_value if d.HasField("dim_value") else _name(d.dim_param) for d in tensor.shape.dim]
    if before is None:
        value.shape = ir.Shape(dims)
        outcome.changed.append(f"{value.name}: {value.shape}")
        return
    if len(before) != len(dims):
        outcome.declined.append((node.name, f"the file gives {value.name!r} the shape {before}, inference says {dims}"))
        return
    clashes = [1 for old, new in zip(before, dims, strict=True) if _known(old) and _known(new) and old != new]
    if clashes:
        outcome.declined.append((node.name, f"the file gives {value.name!r} the shape {before}, inference says {dims}"))
    merged = [new if _says_more(old, new) else old for old, new in zip(before, dims, strict=True)]
    if merged != list(before):
        value.shape = ir.Shape(merged)
        outcome.changed.append(f"{value.name}: {value.shape}")


def _name(text: str) -> str | None:
    """The name of an open dimension. Those that onnx makes up count from 0 each time: equal ones need not be equal."""
    return None if not text or text.startswith(_MADE_UP) else text


def _says_more(old, new) -> bool:
    unnamed = str(old) == "None" or str(old).startswith(_MADE_UP)
    return not _known(old) and (_known(new) or (unnamed and new is not None))


def _known(dim) -> bool:
    return isinstance(dim, int)
