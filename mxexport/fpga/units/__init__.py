"""One file per hardware unit; the list is what the compiler knows."""

from mxexport.fpga.unit import Unit
from mxexport.fpga.units.activation import Activation
from mxexport.fpga.units.add import Add
from mxexport.fpga.units.affine import Affine
from mxexport.fpga.units.arg_max import ArgMax
from mxexport.fpga.units.average_pool import AveragePool
from mxexport.fpga.units.clip import Clip
from mxexport.fpga.units.concat import Concat
from mxexport.fpga.units.depthwise import Depthwise
from mxexport.fpga.units.dequantize import Dequantize
from mxexport.fpga.units.embedding import Embedding
from mxexport.fpga.units.gain import Gain
from mxexport.fpga.units.hard_swish import HardSwish
from mxexport.fpga.units.insert import Insert
from mxexport.fpga.units.keep import Keep
from mxexport.fpga.units.leaky_relu import LeakyRelu
from mxexport.fpga.units.masked_softmax import MaskedSoftmax
from mxexport.fpga.units.matmul import MatMul
from mxexport.fpga.units.max_pool import MaxPool
from mxexport.fpga.units.multiply import Multiply
from mxexport.fpga.units.norm import Norm
from mxexport.fpga.units.offset import Offset
from mxexport.fpga.units.pad import Pad
from mxexport.fpga.units.product import Product
from mxexport.fpga.units.quantize import Quantize
from mxexport.fpga.units.quantize_tokens import QuantizeTokens
from mxexport.fpga.units.relu import Relu
from mxexport.fpga.units.reorder import Reorder
from mxexport.fpga.units.reshape import Reshape
from mxexport.fpga.units.slice import Slice
from mxexport.fpga.units.softmax import Softmax
from mxexport.fpga.units.upsample import Upsample
from mxexport.fpga.units.window import MXWindow

UNITS: tuple[type[Unit], ...] = (
    QuantizeTokens,  # before Quantize: groups along what comes first
    Quantize,
    Dequantize,
    MXWindow,
    Product,  # before MatMul: neither operand is a weight
    MatMul,
    Depthwise,
    Relu,
    MaxPool,
    Norm,  # before AveragePool: a mean of channels may begin one
    AveragePool,
    Add,
    Activation,
    Multiply,  # behind Norm and Activation, which have products of their own; before Affine
    Gain,  # before Affine, as Offset
    Offset,  # before Affine and Concat: constants that differ from place to place
    Affine,
    Concat,
    Clip,
    LeakyRelu,
    HardSwish,
    ArgMax,
    Upsample,
    Pad,
    Embedding,  # before Slice: what is gathered from a constant
    Slice,
    Insert,
    Keep,
    Softmax,
    MaskedSoftmax,
    Reorder,
    Reshape,
)
LOWERS = {op: [unit for unit in UNITS if op in unit.lowers] for kind in UNITS for op in kind.lowers}
"""Operator of a QONNX graph (domain, op_type) -> the units that are asked to lower it, in turn."""
OF_OPERATOR = {unit.operator.op_type(): unit for unit in UNITS}
"""Operator of a dataflow graph -> the unit its nodes stand for."""
