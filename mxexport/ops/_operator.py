"""What every operator of the domain shares: one declaration serves schema, ONNX function, qonnx and inference."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx import defs
from qonnx.core.datatype import DataType
from qonnx.custom_op.base import CustomOp

from mxexport.errors import FormatError, MXExportError, ShapeError
from mxexport.numbers import groups, packing
from mxexport.ops._attributes import Attribute
from mxexport.ops._body import Body

DOMAIN = "mxexport.ops"
VERSION = 1


@dataclass(frozen=True)
class Port:
    """An input or output: its element type and its meaning. `dtype` is an onnx.TensorProto name in lower case."""

    dtype: str
    meaning: str
    optional: bool = False


@dataclass(frozen=True)
class _Kind:
    """One kind of attribute as onnx and onnx-ir name it, and the default qonnx asks for."""

    schema: defs.OpSchema.AttrType
    function: ir.AttributeType
    default: object


_KINDS = {
    "i": _Kind(defs.OpSchema.AttrType.INT, ir.AttributeType.INT, 0),
    "f": _Kind(defs.OpSchema.AttrType.FLOAT, ir.AttributeType.FLOAT, 0.0),
    "ints": _Kind(defs.OpSchema.AttrType.INTS, ir.AttributeType.INTS, []),
}

Shape = tuple[int | str | None, ...] | None


ROLES = {
    "quantizer": "values to the nearest elements times their scale",
    "dequantizer": "packed codes and scales to values: folded weights",
    "scale": "scales of values, found at run time",
    "zero_point": "zero points of values, found at run time",
    "stored_scale": "scale codes, one byte per group, to scales",
    "dataflow": "what one hardware unit computes",
}
"""What an operator is for; tables of operators are drawn from it."""


class Operator(CustomOp):
    """Base of all operators; subclasses fill in the class attributes and three functions.

    `compute(*arrays, **attributes)` is the numpy meaning, `body(b)` the same in standard ONNX operators,
    `infer_shapes(shapes, attributes)` the output shapes. Everything else is derived.
    """

    role: ClassVar[str]  # see ROLES
    attributes: ClassVar[dict[str, Attribute]]
    inputs: ClassVar[dict[str, Port]]
    outputs: ClassVar[dict[str, Port]]

    @classmethod
    def compute(cls, *arrays: np.ndarray | None, **attributes) -> tuple[np.ndarray, ...]:
        raise NotImplementedError

    @classmethod
    def reference(cls, *arrays: np.ndarray | None, **attributes) -> tuple[np.ndarray, ...]:
        """The numpy meaning, inputs and attributes checked. Raises as `check` does."""
        cls.check([None if a is None else np.shape(a) for a in arrays], attributes)
        return cls.compute(*arrays, **attributes)

    @classmethod
    def body(cls, b: Body, present: set[str]) -> dict[str, ir.Value]:
        """Output name -> value; `present` names the inputs this variant of the function has."""
        raise NotImplementedError

    @classmethod
    def infer_shapes(cls, shapes: list[Shape], attributes: dict) -> list[Shape]:
        return [shapes[0]]

    @classmethod
    def check(cls, shapes: list[Shape], attributes: dict) -> None:
        """Raise unless attributes and input shapes make sense; open lengths and unknown shapes (None) do.

        Raises:
            FormatError: an attribute that is missing or outside its range.
            ShapeError: axis, group size or an input that does not fit.
        """
        for name, declared in cls.attributes.items():
            if name not in attributes:
                raise FormatError(f"{cls.op_type()} lacks the attribute {name}; write every attribute on the node")
            if not declared.allows(attributes[name]):
                wanted = f"{'a number' if declared.kind == 'f' else 'whole'}, {declared.range()}"
                raise FormatError(f"{cls.op_type()}: attribute {name} is {attributes[name]!r}; expected {wanted}")
        given = dict(zip(cls.inputs, shapes, strict=False))
        whole = attributes.get("shape", shapes[0] if shapes else None)
        if "group_size" in attributes:
            groups.group_count(1, attributes["group_size"])
        if whole is not None:
            cls.check_shapes(tuple(whole), {n: s for n, s in given.items() if s is not None}, attributes)

    @classmethod
    def check_shapes(cls, whole: tuple, given: dict[str, tuple], attributes: dict) -> None:
        """Raise ShapeError where the known shapes of inputs do not fit; `whole` is the shape before grouping."""
        if "axis" in attributes:
            groups.normalize_axis(attributes["axis"], len(whole), cls.op_type())
            for name in ("scale", "zero_point"):
                if name in given:
                    place = (attributes["axis"], attributes["group_size"])
                    groups.check_scale_shape(cls.op_type(), given[name], whole, *place, name)

    @classmethod
    def check_packed(cls, whole: tuple, given: dict[str, tuple], bits: int, attributes: dict) -> None:
        """Raise ShapeError unless the packed codes fit the shape of what they make."""
        if not any(map(groups.is_open, given.get("codes", (None,)))):
            place = (attributes["axis"], attributes["group_size"])
            packing.check_packed_shape(cls.op_type(), given["codes"], whole, bits, *place)

    def output_datatypes(self) -> list:
        return [DataType["FLOAT32"]] * len(self.outputs)

    # --- derived: ONNX ----------------------------------------------------------------------------------------

    @classmethod
    def op_type(cls) -> str:
        return cls.__name__

    @classmethod
    def summary(cls) -> str:
        return (cls.__doc__ or "").strip()

    @classmethod
    def schema(cls) -> defs.OpSchema:
        option = defs.OpSchema.FormalParameterOption

        def port(name: str, p: Port) -> defs.OpSchema.FormalParameter:
            kind = option.Optional if p.optional else option.Single
            return defs.OpSchema.FormalParameter(name, f"tensor({p.dtype})", p.meaning, param_option=kind)

        schema = defs.OpSchema(
            cls.op_type(),
            DOMAIN,
            VERSION,
            cls.summary(),
            inputs=[port(*item) for item in cls.inputs.items()],
            outputs=[port(*item) for item in cls.outputs.items()],
            attributes=[
                defs.OpSchema.Attribute(name, _KINDS[a.kind].schema, a.meaning, required=True)
                for name, a in cls.attributes.items()
            ],
        )
        schema.set_type_and_shape_inference_function(cls._infer)
        return schema

    @classmethod
    def _infer(cls, ctx) -> None:
        found = {name: ctx.get_attribute(name) for name in cls.attributes}
        attributes = {name: _value(a) for name, a in found.items() if a is not None}
        shapes = [read_shape(ctx.get_input_type(i)) for i in range(ctx.get_num_inputs())]
        cls.check(shapes[:1], attributes)  # a scale of one per element stays for the pass that contracts it
        known = shapes[0] is not None or "shape" in attributes
        inferred = cls.infer_shapes(shapes, attributes) if known else [None] * len(cls.outputs)
        ports = list(cls.outputs.values())
        for i in range(ctx.get_num_outputs()):
            ctx.set_output_type(i, _make_type(ports[i].dtype, inferred[i]))

    @classmethod
    def function(cls, opset: int, present: set[str] | None = None) -> onnx.FunctionProto:
        """The function body for a model of `opset`. `present`: the inputs to declare (default: all)."""
        given = frozenset(cls.inputs if present is None else present)
        return onnx.FunctionProto.FromString(cls._function_bytes(opset, given))

    @classmethod
    @functools.cache
    def _function_bytes(cls, opset: int, present: frozenset[str]) -> bytes:
        """Built once: every file that is read or run is held against it."""
        b = Body(tuple(name for name in cls.inputs if name in present))
        declared = [ir.Attr(name, _KINDS[a.kind].function, None) for name, a in cls.attributes.items()]
        proto = ir.serde.serialize_function(b.function(DOMAIN, cls.op_type(), cls.body(b, present), declared))
        proto.opset_import[0].version = opset
        _shorten_names(proto.node, (*proto.input, *proto.output))
        proto.doc_string = cls.summary()
        return proto.SerializeToString(deterministic=True)

    # --- derived: qonnx ---------------------------------------------------------------------------------------

    def get_nodeattr_types(self):
        return {name: (a.kind, True, _KINDS[a.kind].default) for name, a in self.attributes.items()}

    def node_attributes(self) -> dict:
        return {name: self.get_nodeattr(name) for name in self.attributes}

    def make_shape_compatible_op(self, model):
        """The node itself: onnx infers by its schema, from shapes that are open or not known yet, too."""
        first = [_shape_in(model, name) for name in self.onnx_node.input[:1]]
        with self._named():
            self.check(first, self.node_attributes())
        if not any(entry.domain == DOMAIN for entry in model.model.opset_import):
            model.model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
        standing_in = onnx.NodeProto()
        standing_in.CopyFrom(self.onnx_node)
        standing_in.domain = DOMAIN  # finn-base knows it by another
        return standing_in

    def infer_node_datatype(self, model):
        for name, datatype in zip(self.onnx_node.output, self.output_datatypes(), strict=False):
            if name:
                model.set_tensor_datatype(name, datatype)

    def execute_node(self, context, graph):
        given = self.onnx_node.input[: len(self.inputs)]
        arrays = [context[name] if name else None for name in given]
        arrays += [None] * (len(self.inputs) - len(arrays))
        with self._named():
            results = self.reference(*arrays, **self.node_attributes())
        for name, result in zip(self.onnx_node.output, results, strict=False):
            if name:
                context[name] = result

    @contextlib.contextmanager
    def _named(self):
        try:
            yield
        except MXExportError as error:
            raise type(error)(f"node {self.onnx_node.name!r}: {error}") from None

    def verify_node(self):
        present = {a.name for a in self.onnx_node.attribute}
        missing = sorted(set(self.attributes) - present)
        return [f"attribute {name} is missing" for name in missing] or ["all attributes are set"]


def _shorten_names(nodes: Iterable[onnx.NodeProto], kept: Collection[str], short: dict[str, str] | None = None) -> None:
    """v0, v1, …, vA, … in place of every name but those `kept`, branches included: names are a third of what a body
    takes in a file."""
    short = {name: name for name in ("", *kept)} if short is None else short

    def rename(name: str) -> str:
        return short.setdefault(name, f"v{np.base_repr(len(short), 36)}")

    for node in nodes:
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = map(rename, names)
        for attribute in node.attribute:
            _shorten_names(attribute.g.node, kept, short)
            for output in attribute.g.output:
                output.name = rename(output.name)


def contracted(shape: Shape, attributes: dict) -> Shape:
    """Shape of one entry per group; a symbolic length stays unknown."""
    return groups.contracted_shape(shape, attributes["axis"], attributes["group_size"])


def check_shape(where: str, name: str, found: tuple, expected: tuple) -> None:
    """Raise ShapeError unless an input has the expected shape; open lengths fit."""
    if not groups.fits(found, expected):
        raise ShapeError(f"{where}: {name} has shape {found}, expected {expected}")


def check_code_bits(where: str, exponent_bits: int, mantissa_bits: int) -> None:
    """Raise FormatError for a dataflow element that does not fit a byte; integers have no exponent bits, and 9 bits
    where none is negative."""
    bits = 1 + exponent_bits + mantissa_bits + (exponent_bits == 0)
    if bits > 8 + (exponent_bits == 0):
        raise FormatError(f"{where}: {exponent_bits} exponent and {mantissa_bits} mantissa bits; codes have at most 8")


def _value(attribute: onnx.AttributeProto):
    return onnx.helper.get_attribute_value(attribute)


def _shape_in(model, name: str) -> Shape:
    """The shape of a tensor of a qonnx model, whose own reading of it has 0 for lengths that are open."""
    info = model.get_tensor_valueinfo(name)
    return model.get_tensor_shape(name) if info is None else read_shape(info.type)


def read_shape(type_proto) -> Shape:
    """None where the shape, or the whole type, is not known."""
    if type_proto is None or not type_proto.tensor_type.HasField("shape"):
        return None
    tensor = type_proto.tensor_type
    return tuple(
        d.dim_value if d.HasField("dim_value") else (d.dim_param if d.HasField("dim_param") else None)
        for d in tensor.shape.dim
    )


def _make_type(dtype: str, shape: Shape) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(onnx.TensorProto.DataType.Value(dtype.upper()), shape)
