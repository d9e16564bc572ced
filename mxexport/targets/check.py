"""One early report of everything a target cannot take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import onnx_ir as ir

from mxexport.errors import MXExportError, OptionError, UnsupportedError
from mxexport.fpga.lowering.prepared import complete, prepare
from mxexport.fpga.lowering.walk import SUGGESTIONS, read_frames
from mxexport.model import graph, rewriting as rw
from mxexport.model.graph import QUANTIZERS, SCALES, is_ours
from mxexport.model.rewriting import constant
from mxexport.ops import DOMAIN, of_role
from mxexport.targets.conversion import convert_model

Problem = tuple[str, str]

_TAKEN = {
    "hls4ml": "Add AveragePool BatchNormalization Clip Concat Constant Conv Div Dropout Elu Flatten Gemm "
    "GlobalAveragePool GlobalMaxPool HardSigmoid Identity LeakyRelu MatMul MaxPool Mul Pad PRelu Relu Reshape Resize "
    "Selu Sigmoid Softmax Softplus Softsign Sub Tanh Transpose",
    "FINN": "Add AveragePool BatchNormalization Concat Constant Conv Div Flatten Gemm GlobalAveragePool Identity "
    "MatMul MaxPool Mul Pad Relu Reshape Resize Split Sub TopK Transpose Upsample",
}
"""The standard operators that a tool takes."""
_SUGGESTIONS = SUGGESTIONS | {
    "Dropout": "run the remove_identities pass (mxexport clean)",
    "Shape": "fix the input shapes (--shapes batch=1) and clean the file",
    "If": "export the branch that is taken; fold its condition with fixed shapes (--shapes)",
    "Loop": "export the model with the loop unrolled",
    "Scan": "export the model with the loop unrolled",
    "ConvTranspose": "replace it by an upsampling and a convolution",
    "QuantizeLinear": "convert the file to QONNX first (mxexport convert --to mxexport, or qonnx's QCDQToQuant)",
    "DequantizeLinear": "convert the file to QONNX first (mxexport convert --to mxexport, or qonnx's QCDQToQuant)",
}


def check(model: ir.Model | str | os.PathLike, target: str = "fpga") -> list[Problem]:
    """Every node that `target` cannot take, as (node, reason and what to do); empty where it takes them all.

    Targets: "fpga" (`mxexport.compile`), "hls4ml", "finn" and "qdq" (`mxexport.convert`). `model`: a path or a model.

    Raises:
        OptionError: an unknown target.
        InputFileError: a file that cannot be read.
    """
    if target not in TARGETS:
        raise OptionError(f"check: unknown target {target!r}; expected one of {', '.join(TARGETS)}")
    return list(TARGETS[target](model if isinstance(model, ir.Model) else graph.load(model)))


def require(model: ir.Model, target: str) -> None:
    """Raise UnsupportedError, whose `problems` are those of `check`, unless there are none."""
    if problems := check(model, target):
        raise UnsupportedError(f"{target} cannot take this model: {len(problems)} problems", problems)


def _where(node: ir.Node) -> str:
    return f"node {rw.label(node)!r} ({node.op_type})"


def _dataflow(model: ir.Model) -> Iterator[Problem]:
    """The compiler's own reading of the graph, so that both say the same."""
    copy = model.clone()
    complete(copy)
    prepare(copy)
    try:
        read_frames(copy)
    except UnsupportedError as error:
        yield from error.problems or [("graph", str(error))]


def _standard(model: ir.Model, tool: str) -> Iterator[Problem]:
    """Standard operators that `tool` does not take, node by node, but for those that only find the shape of a scale."""
    taken, beside = _TAKEN[tool].split(), rw.nodes_of_scales(model.graph)
    for node in model.graph.all_nodes():
        if node in beside or rw.is_op(node, *taken) or rw.is_qonnx(node) or node.domain == DOMAIN:
            continue
        if node.domain in rw.STANDARD_DOMAINS:
            advice = _SUGGESTIONS.get(node.op_type)
            yield _where(node), f"{tool} has no such operator" + (f"; {advice}" if advice else "")
        else:
            yield _where(node), f"domain {node.domain!r} is unknown to {tool}; inline or replace it"


def _shapes(model: ir.Model, tool: str) -> Iterator[Problem]:
    for value in model.graph.inputs:
        if value.shape is None:
            yield f"input {value.name!r}", f"its shape is not known; {tool} needs it: --shapes"
        elif any(not isinstance(d, int) for d in list(value.shape)[1:]):
            yield f"input {value.name!r}", f"shape {value.shape} is open beyond the batch; fix it with --shapes"


def _hls4ml(model: ir.Model) -> Iterator[Problem]:
    yield from _shapes(model, "hls4ml")
    yield from _refused(model, "hls4ml", [*_standard(model, "hls4ml"), *_ours(model, "hls4ml")])


def _finn(model: ir.Model) -> Iterator[Problem]:
    yield from _shapes(model, "FINN")
    listed = [*_standard(model, "FINN"), *_ours(model, "FINN"), *_zero_points(model)]
    yield from _refused(model, "finn", listed)


def _zero_points(model: ir.Model) -> Iterator[Problem]:
    for node in model.graph.all_nodes():
        if rw.is_qonnx(node) and node.op_type == "Quant":
            zero = constant(node.inputs[2])
            if zero is not None and zero.any():
                yield _where(node), "FINN takes zero points of 0 only; quantize symmetrically"


def _ours(model: ir.Model, tool: str) -> Iterator[Problem]:
    """Groupwise quantizers that no conversion can express."""
    for node in model.graph.all_nodes():
        if node.domain != DOMAIN:
            continue
        if is_ours(node, SCALES) and constant(node.inputs[0]) is None:
            yield (
                _where(node),
                f"the scale is found at run time and {tool} needs constants; use a static activation format",
            )
        elif _is_dataflow(node):
            yield _where(node), f"a dataflow operator; {tool} takes the QONNX file it was made from"


def _is_dataflow(node: ir.Node) -> bool:
    """An integer unit of the dataflow graph."""
    return node.op_type in of_role("dataflow")


def _refused(model: ir.Model, target: str, listed: list[Problem]) -> Iterator[Problem]:
    """Nothing where the conversion takes the model. Else `listed`, and what it refuses beyond: widths, values, ..."""
    try:
        convert_model(model, target)
    except UnsupportedError as error:
        named = tuple(where for where, _ in listed)
        yield from listed
        for where, why in error.problems or [("graph", str(error))]:
            if not any(known.startswith(f"node {where!r} (") for known in named):
                yield where, why


def _qdq(model: ir.Model) -> Iterator[Problem]:
    yield from _refused(model, "qdq", list(_not_standard(model)))


def _not_standard(model: ir.Model) -> Iterator[Problem]:
    """Standard ONNX takes every operator but the integer units of the dataflow graph and QONNX's Trunc."""
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN and _is_dataflow(node):
            yield _where(node), "a dataflow operator; convert the QONNX file it was made from"
        elif is_ours(node, QUANTIZERS):
            yield from _incomplete(node)
        elif rw.is_qonnx(node) and node.op_type == "Trunc":
            yield _where(node), "standard ONNX has no such quantizer; train with an integer format"


def _incomplete(node: ir.Node) -> Iterator[Problem]:
    try:
        graph.attributes(node)
    except MXExportError as error:
        yield _where(node), str(error)


TARGETS: dict[str, Callable[[ir.Model], Iterator[Problem]]] = {
    "dataflow": _dataflow,
    "hls4ml": _hls4ml,
    "finn": _finn,
    "qdq": _qdq,
    "fpga": _dataflow,
}
