"""plan -> dataflow graph: what each hardware unit computes, as an executable ONNX file of int64 streams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.fpga.plan import MatMul, Quantize, Relu, Step
from mxexport.model import graph
from mxexport.model.names import Names
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import get_format
from mxexport.ops import DOMAIN, VERSION

OPSET = 18
_BIAS_WIDTH = 28
_BATCH = ir.SymbolicDim("batch")


@dataclass(frozen=True)
class Stream:
    """A stream of wide integers: K values of `width` bits (sign included), each worth value * 2**lsb_exp."""

    length: int
    width: int
    lsb_exp: int


@dataclass
class Layer:
    """One quantizer and the matrix product behind it, with every number the hardware needs."""

    name: str
    source: Stream
    quantizer: fixedpoint.BlockQuantizer
    x_format: str
    w_format: str
    group_size: int
    codes: np.ndarray
    scale_codes: np.ndarray
    bias: np.ndarray
    scale_offset: int
    result: Stream
    relu: bool
    # Names of the tensors that both graphs have: the QONNX tensor and the dataflow tensor.
    input_tensors: tuple[str, str] = ("", "")
    quant_tensor: str = ""
    output_tensors: tuple[str, str] = ("", "")

    @property
    def rows(self) -> int:
        return len(self.codes)

    @property
    def blocks(self) -> int:
        return self.scale_codes.shape[1]


def lower(steps: list[Step], source: Stream) -> list[Layer]:
    """Layers in stream order, their accumulators sized exactly.

    Raises:
        UnsupportedError: an accumulator would need more than 63 bits; names the layer and the formats.
    """
    layers: list[Layer] = []
    names = Names()
    pending: Quantize | None = None
    for step in steps:
        if isinstance(step, Quantize):
            pending = step
        elif isinstance(step, MatMul):
            layers.append(_layer(pending, step, source))
            layers[-1].name = names.unique(step.name or "layer")  # files of others may leave it out
            source = layers[-1].result
        elif isinstance(step, Relu):
            if not layers:
                raise UnsupportedError(f"compile: node {step.name!r}: ReLU of the network's input is not lowered")
            layers[-1].relu = True
            layers[-1].output_tensors = (step.tensor, layers[-1].output_tensors[1])
    return layers


def _layer(q: Quantize, m: MatMul, source: Stream) -> Layer:
    x_element = q.format.element
    if source.length != q.length or m.codes.shape[1] != q.length:
        raise UnsupportedError(
            f"compile: node {m.name!r}: weight has {m.codes.shape[1]} inputs, the stream before it {source.length}"
        )
    quantizer = fixedpoint.BlockQuantizer(
        **fixedpoint.element_parameters(x_element),
        emax=x_element.emax,
        round_bias=q.round_bias,
        code_min=q.code_min,
        code_max=q.code_max,
    )
    bias = np.zeros(len(m.codes)) if m.bias is None else m.bias.astype(np.float64)
    offset, lsb_exp, width = _window(q, m, bias)
    if width > fixedpoint.MAX_WIDTH:
        raise UnsupportedError(f"compile: node {m.name!r}: {_why_too_wide(q, m, bias, width)}")
    return Layer(
        name=m.name,
        source=source,
        quantizer=quantizer,
        x_format=q.format.name,
        w_format=m.format.name,
        group_size=m.format.group_size,
        codes=m.codes,
        scale_codes=m.scale_codes,
        bias=fixedpoint.round_to_lsb(bias, lsb_exp),
        scale_offset=offset,
        result=Stream(len(m.codes), width, lsb_exp),
        relu=False,
        input_tensors=(q.source_tensor, ""),
        quant_tensor=q.tensor,
        output_tensors=(m.tensor, ""),
    )


def _window(q: Quantize, m: MatMul, bias: np.ndarray) -> tuple[int, int, int]:
    """Scale offset, lsb_exp and width of the accumulator.

    The products alone fix the least significant bit. A bias that does not lie on its grid gets more of them, up to
    28 bits in all, so that rounding it costs no more than float32 arithmetic would on values of usual size.
    """

    def size(offset: int) -> tuple[int, int, int]:
        lsb_exp = _lsb_exp(q, m, offset)
        biases = np.array([int(abs(v)) + 1 for v in np.ldexp(bias, -lsb_exp)], object)
        return offset, lsb_exp, int((_largest(q, m, offset) + biases).max()).bit_length() + 1

    offset, lsb_exp, width = size(q.code_min + int(m.scale_codes.min()))
    on_grid = (np.ldexp(bias, -lsb_exp) % 1 == 0).all()
    return size(offset if on_grid else offset - max(_BIAS_WIDTH - width, 0))


def _lsb_exp(q: Quantize, m: MatMul, offset: int) -> int:
    return offset - 2 * 127 - q.format.element.frac_bits - m.format.element.frac_bits


def _why_too_wide(q: Quantize, m: MatMul, bias: np.ndarray, width: int) -> str:
    """What makes the accumulator wider than it may be: the bias, the ranges of scales or the formats."""
    offset = q.code_min + int(m.scale_codes.min())
    needs = f"needs {width} bits, at most {fixedpoint.MAX_WIDTH} are exact"
    products = max(_largest(q, m, offset))
    if products.bit_length() < fixedpoint.MAX_WIDTH:
        row = int(np.abs(bias).argmax())
        largest = float(np.ldexp(float(products), _lsb_exp(q, m, offset)))
        return (
            f"its bias reaches {abs(bias[row]):.4g} (output {row}) where the products reach {largest:.4g}: an exact "
            f"accumulator {needs}. Scale the layer so that bias and products have like magnitudes, or add the bias on "
            "the host"
        )
    formats = f"{q.format.name} activations (scale codes {q.code_min}..{q.code_max}) and {m.format.name} weights "
    formats += f"(scale codes {m.scale_codes.min()}..{m.scale_codes.max()})"
    ranges = int(m.scale_codes.max()) - int(m.scale_codes.min()), q.code_max - q.code_min
    if products.bit_length() - sum(ranges) >= fixedpoint.MAX_WIDTH:
        remedy = "The formats alone are too wide; use one with fewer exponent bits"
    elif ranges[0] > ranges[1]:
        remedy = f"The groups of its weight range over 2**{ranges[0]}: equalize its rows, or use fewer exponent bits"
    else:
        remedy = "Use a format with fewer exponent bits, or calibration inputs with a smaller range"
    return f"an exact accumulator of {formats} {needs}. {remedy}"


def _largest(q: Quantize, m: MatMul, offset: int) -> np.ndarray:
    """Largest magnitude each accumulator can reach (Python integers), from the actual weights."""
    w = fixedpoint.element_parameters(m.format.element)
    w_table = fixedpoint.linear_table(w["exponent_bits"], w["mantissa_bits"])
    x_max = int(np.ldexp(q.format.element.max_val, q.format.element.frac_bits))
    weight = np.abs(w_table[m.codes])
    group_size, rows = m.format.group_size, len(weight)
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % group_size)))
    sums = padded.reshape(rows, -1, group_size).sum(axis=2)
    shifts = m.scale_codes.astype(int) + q.code_max - offset
    return np.array(
        [sum(int(s) * x_max << int(k) for s, k in zip(sums[o], shifts[o], strict=True)) for o in range(rows)], object
    )


# --- the graph ------------------------------------------------------------------------------------------------


def build_graph(layers: list[Layer], name: str = "dataflow") -> ir.Model:
    """The dataflow graph of `layers`; fills in each layer's dataflow tensor names."""
    source = layers[0].source
    first = _value("input", ir.DataType.INT64, (_BATCH, source.length))
    _declare(first, source)
    stream, nodes, initializers = first, [], []
    for layer in layers:
        layer.input_tensors = (layer.input_tensors[0], stream.name)
        quantize = _quantize_node(layer, stream)
        constants = _constants(layer)
        matmul = _matmul_node(layer, quantize.outputs, constants)
        nodes += [quantize, matmul]
        initializers += constants
        stream = matmul.outputs[0]
        if layer.relu:
            relu = _eltwise_node(layer, stream)
            nodes.append(relu)
            stream = relu.outputs[0]
        layer.output_tensors = (layer.output_tensors[0], stream.name)
    model_graph = ir.Graph(
        [first],
        [stream],
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": OPSET, DOMAIN: VERSION},
        name=name,
    )
    model = ir.Model(model_graph, ir_version=10, producer_name="mxexport")
    graph.attach_functions(model)
    return model


def _value(name: str, dtype: ir.DataType, shape) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _declare(value: ir.Value, stream: Stream) -> None:
    """Write the fixed-point type of a stream where readers of the graph see it."""
    value.metadata_props["width"] = str(stream.width)
    value.metadata_props["lsb_exp"] = str(stream.lsb_exp)


def _node(op_type: str, layer: Layer, suffix: str, inputs, outputs, attributes, doc: str) -> ir.Node:
    name = f"{layer.name}.{suffix}"
    return ir.node(op_type, inputs, attributes, domain=DOMAIN, outputs=outputs, name=name, doc_string=doc)


def _quantize_node(layer: Layer, stream: ir.Value) -> ir.Node:
    q = layer.quantizer
    outputs = [
        _value(f"{layer.name}.codes", ir.DataType.UINT8, (_BATCH, layer.source.length)),
        _value(f"{layer.name}.scale_codes", ir.DataType.UINT8, (_BATCH, layer.blocks)),
    ]
    attributes = {
        "axis": 1,
        "group_size": layer.group_size,
        "width": layer.source.width,
        "lsb_exp": layer.source.lsb_exp,
        "exponent_bits": q.exponent_bits,
        "mantissa_bits": q.mantissa_bits,
        "exponent_bias": q.exponent_bias,
        "max_code": q.max_code,
        "emax": q.emax,
        "round_bias": q.round_bias,
        "code_min": q.code_min,
        "code_max": q.code_max,
    }
    doc = f"{layer.x_format} blocks; all-zero blocks carry the lowest code {q.code_min}."
    node = _node("MXQuantize", layer, "quantize", [stream], outputs, attributes, doc)
    node.metadata_props[graph.FORMAT_KEY] = layer.x_format
    return node


def _constants(layer: Layer) -> list[ir.Value]:
    arrays = {"weight_codes": layer.codes, "weight_scale_codes": layer.scale_codes, "bias": layer.bias}
    made = []
    for suffix, array in arrays.items():
        tensor = ir.tensor(np.ascontiguousarray(array), name=f"{layer.name}.{suffix}")
        made.append(
            ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        )
    return made


def _matmul_node(layer: Layer, blocks, constants) -> ir.Node:
    output = _value(f"{layer.name}.wide", ir.DataType.INT64, (_BATCH, layer.rows))
    _declare(output, layer.result)
    w = _element_bits(layer.w_format)
    attributes = {
        "group_size": layer.group_size,
        "x_exponent_bits": layer.quantizer.exponent_bits,
        "x_mantissa_bits": layer.quantizer.mantissa_bits,
        "w_exponent_bits": w["exponent_bits"],
        "w_mantissa_bits": w["mantissa_bits"],
        "scale_offset": layer.scale_offset,
        "width": layer.result.width,
        "lsb_exp": layer.result.lsb_exp,
    }
    doc = (
        f"{layer.x_format} x {layer.w_format}; exact accumulator of {layer.result.width} bits, one unit is "
        f"2**{layer.result.lsb_exp}."
    )
    node = _node("MXMatMul", layer, "matmul", [*blocks, *constants], [output], attributes, doc)
    node.metadata_props[graph.FORMAT_KEY] = layer.w_format
    return node


def _element_bits(format_name: str) -> dict[str, int]:
    return fixedpoint.element_parameters(get_format(format_name).element)


def _eltwise_node(layer: Layer, stream: ir.Value) -> ir.Node:
    output = _value(f"{layer.name}.relu", ir.DataType.INT64, (_BATCH, layer.rows))
    _declare(output, layer.result)
    attributes = {"relu": 1, "width": layer.result.width, "lsb_exp": layer.result.lsb_exp}
    return _node("Eltwise", layer, "relu", [stream], [output], attributes, "ReLU on the wide integers, exact.")
