"""Looks at our operators in a file before an executor that knows only their bodies runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import onnx

from mxexport.errors import FormatError, ShapeError, UnsupportedError
from mxexport.ops._operator import DOMAIN, Operator, Shape, read_shape


def check_nodes(proto: onnx.ModelProto, operators: Mapping[str, type[Operator]]) -> None:
    """Raise UnsupportedError or ShapeError for the first node of ours whose attributes or inputs make no sense.

    A body computes something from nearly any attribute and any scale that is long enough. Shapes are taken from inputs
    and initializers; what a file says of the tensors between is nobody's word.
    """
    shapes: dict[str, Shape] = {v.name: read_shape(v.type) for v in proto.graph.input}
    shapes |= {t.name: tuple(t.dims) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.domain != DOMAIN or node.op_type not in operators:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        with naming(node.name or node.output[0]):
            operators[node.op_type].check([shapes.get(name) for name in node.input], attributes)


def check_known(node: onnx.NodeProto, operators: Mapping[str, type[Operator]]) -> None:
    """Raise UnsupportedError unless `node`, of our domain, is one of `operators`."""
    if node.op_type not in operators:
        raise UnsupportedError(
            f"node {node.name or node.output[0]!r}: the domain {DOMAIN} has no operator {node.op_type!r}; "
            f"expected one of {', '.join(operators)}"
        )


@contextlib.contextmanager
def naming(node: str) -> Iterator[None]:
    """Puts the node's name in front of what `Operator.check` says; attributes in a file make it unsupported."""
    try:
        yield
    except ShapeError as error:
        raise type(error)(f"node {node!r}: {error}") from None
    except FormatError as error:
        raise UnsupportedError(f"node {node!r}: {error}") from None
