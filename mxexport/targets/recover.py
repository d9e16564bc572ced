"""Standard nodes that are the body of one of our operators -> that operator.

A graph is compared with the function body node by node: operators, attributes and constants must be those of the body,
the body's own attributes and inputs take what stands in their place. So what is recovered is the operator, whoever
wrote the file; a graph that another tool has rearranged is left as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mxexport.model.constants import constant_array
from mxexport.numbers.formats import FloatElement
from mxexport.ops import DOMAIN, OPERATORS, VERSION, MXFloatQuant

_RECOVERED = ("MXScale", "GroupwiseScale", "GroupwiseZeroPoint", "MXFloatQuant", "GroupwiseQuant")


def recover_operators(model: ir.Model) -> list[tuple[str, str]]:
    """Replace bodies by their operators, in place; (node name, operator) of each."""
    patterns = [_Pattern(op, present, model.opset_imports[""]) for op in _RECOVERED for present in _variants(op)]
    found = []
    for node in list(model.graph.all_nodes()):
        for pattern in patterns:
            if pattern.root.op_type == node.op_type and node.domain == "" and (call := pattern.match(node)):
                _replace(node, call)
                found.append((call.name, call.op_type))
                break
    if found:
        model.opset_imports[DOMAIN] = VERSION
    return found


def _variants(op: str) -> list[set[str]]:
    ports = OPERATORS[op].inputs
    required = {name for name, port in ports.items() if not port.optional}
    return [required] if len(required) == len(ports) else [required, set(ports)]


def _replace(root: ir.Node, call: ir.Node) -> None:
    call.metadata_props.update(root.metadata_props)
    replaced = [v.producer() for v in root.inputs if v is not None]
    ir.convenience.replace_nodes_and_values(root.graph, root, [root], [call], root.outputs, call.outputs)
    _remove_unused(replaced)


def _remove_unused(nodes: list[ir.Node | None]) -> None:
    """Remove those of `nodes` that nothing reads, then what only they read. onnx-ir's pass would take what the branches
    of an If that is gone had read for used."""
    while nodes:
        node = nodes.pop()
        if node is None or node.graph is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
            continue
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                branch = attribute.as_graph()
                nodes += [v.producer() for inner in branch for v in inner.inputs if v is not None]
                branch.outputs.clear()
                branch.remove(list(branch), safe=True)
        nodes += [v.producer() for v in node.inputs if v is not None]
        node.graph.remove(node, safe=True)


class _Pattern:
    """The body of one operator with one choice of inputs."""

    def __init__(self, op: str, present: set[str], opset: int):
        self.op, self.present = op, present
        self.body = ir.serde.deserialize_function(OPERATORS[op].function(opset, present))
        self.root = self.body.outputs[0].producer()

    def match(self, node: ir.Node) -> ir.Node | None:
        """A call of the operator that computes the first output of `node`, or None."""
        self._seen: dict[ir.Value, ir.Value] = {}
        self._attributes: dict[str, object] = {}
        if not self._value(self.body.outputs[0], node.outputs[0]):
            return None
        attributes = self._complete()
        if attributes is None:
            return None
        inputs = [self._seen[value] for value in self.body.inputs]
        return ir.node(
            self.op, inputs, attributes, domain=DOMAIN, name=(node.name or "").rpartition("/")[0] or node.name
        )

    def _value(self, wanted: ir.Value, found: ir.Value | None) -> bool:
        if wanted is None or found is None:
            return wanted is found
        if wanted in self._seen:
            return self._seen[wanted] is found
        maker = wanted.producer()
        if maker is not None and maker.op_type == "Constant":
            return self._constant(maker, found)
        if maker is not None and not self._node(maker, found.producer(), found.index()):
            return False
        self._seen[wanted] = found
        return True

    def _constant(self, wanted: ir.Node, found: ir.Value) -> bool:
        array = constant_array(found)
        if array is None:
            return False
        (attribute,) = wanted.attributes.values()
        if attribute.is_ref():
            kind = np.int64 if attribute.type == ir.AttributeType.INT else np.float32
            return array.shape == () and array.dtype == kind and self._bind(attribute.ref_attr_name, array.item())
        tensor = attribute.value.numpy()
        return tensor.dtype == array.dtype and tensor.shape == array.shape and tensor.tobytes() == array.tobytes()

    def _node(self, wanted: ir.Node, found: ir.Node | None, index: int | None) -> bool:
        return (
            found is not None
            and (found.domain, found.op_type, index) == ("", wanted.op_type, 0)
            and len(found.inputs) == len(wanted.inputs)
            and set(found.attributes) == set(wanted.attributes)
            and all(self._attribute(a, found.attributes[name]) for name, a in wanted.attributes.items())
            and all(map(self._value, wanted.inputs, found.inputs))
        )

    def _attribute(self, wanted: ir.Attr, found: ir.Attr) -> bool:
        if found.is_ref() or wanted.type != found.type:
            return False
        if wanted.type == ir.AttributeType.GRAPH:  # a branch: it reads the values around it by themselves
            return self._value(wanted.as_graph().outputs[0], found.as_graph().outputs[0])
        return self._bind(wanted.ref_attr_name, found.value) if wanted.is_ref() else wanted.value == found.value

    def _bind(self, name: str, value) -> bool:
        return self._attributes.setdefault(name, value) == value

    def _complete(self) -> dict | None:
        """Every attribute of the operator. Bodies do not read `exponent_bits`: it follows from bias and max_val."""
        a = self._attributes
        declared = OPERATORS[self.op].attributes
        if self.op == "MXFloatQuant":
            for element in (
                FloatElement(e, a["mantissa_bits"], s)
                for e in range(1, 8 - min(a["mantissa_bits"], 6))
                for s in ("none", "nan", "ieee", "fnuz")
            ):
                described = MXFloatQuant.attributes_of(element) | {"signed": a["signed"]}
                if all(a[name] == described[name] for name in a if name in described):
                    a = a | {"exponent_bits": element.exponent_bits}
                    break
        return {name: a[name] for name in declared} if set(declared) <= set(a) else None
