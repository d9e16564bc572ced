"""torch -> onnx-ir: torch's exporter, with our operators kept as bare nodes."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.values import Opset

from mxexport.errors import MXExportError, UnsupportedError
from mxexport.exporting.forward_results import plain_outputs
from mxexport.exporting.half import HALF
from mxexport.exporting.outputs import name_inputs_again, name_outputs
from mxexport.exporting.pairs import pair_translation, split_pairs
from mxexport.exporting.torch_tables import read_once
from mxexport.exporting.while_tracing import as_graphs_hold, masks_not_looked_into
from mxexport.ops import DOMAIN, OPERATORS, VERSION, qonnx_general
from mxexport.quant.folding.own_code import place_of
from mxexport.quant.kernels.exported import QUANTIZER_OF
from mxexport.quant.kernels.qonnx_general import TORCH_OPS as STANDARD_OPS

_TORCH_OPS = (
    "mx_scale",
    "nvfp4_scale",
    "mx_float_quant",
    "groupwise_scale",
    "groupwise_zero_point",
    "groupwise_quant",
)
_ONNX_NAME = {op.lower(): op for op in OPERATORS}

_TALKATIVE = (
    "torch.onnx._internal.exporter._core",  # outputs that are None are left out
    "torch.onnx._internal.exporter._registration",
    "onnxscript.optimizer._constant_folding",
    "torch._subclasses.fake_tensor",
    "torch.export._trace",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript.version_converter",
)
_HIGHEST_OF_TORCH = 25


def trace(
    model: torch.nn.Module,
    bound: inspect.BoundArguments,
    dynamic_shapes: Any,
    opset: int,
    input_names: list[str] | None,
    output_names: list[str] | None,
) -> tuple[ir.Model, list[tuple[str, str]]]:
    """The model's graph, and (output, why) for outputs that are left out.

    Raises UnsupportedError with torch's reason when torch cannot export it.
    """
    table = {getattr(torch.ops.mxexport, name).default: _translation(name) for name in _TORCH_OPS}
    table |= {
        getattr(torch.ops.mxexport, name).default: pair_translation(name, _arguments(name)[0]) for name in QUANTIZER_OF
    }
    table |= {getattr(torch.ops.mxexport, name).default: _standard_translation(name) for name in STANDARD_OPS}
    try:
        with (
            _quiet(),
            plain_outputs(model) as left_out,
            masks_not_looked_into(model),
            torch.no_grad(),
            as_graphs_hold(model),
            read_once(),
        ):
            program = torch.onnx.export(
                model,
                (*bound.args, {}) if _ends_in_a_dict(bound) else bound.args,
                kwargs=bound.kwargs,
                dynamo=True,
                verbose=False,
                opset_version=min(opset, _HIGHEST_OF_TORCH),
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=dynamic_shapes,
                custom_translation_table=table,
            )
    except Exception as error:  # torch raises many types; the user needs the reason, not its stack
        raise UnsupportedError(_trace_failure(model, error)) from error
    _set_opset(program.model, opset)
    split_pairs(program.model)
    if not input_names:
        name_inputs_again(program.model)
    if not output_names:
        name_outputs(program.model, program.exported_program)
    return program.model, left_out


def _ends_in_a_dict(bound: inspect.BoundArguments) -> bool:
    """Where there are no keyword inputs, torch takes a dict at the end for them."""
    return not bound.kwargs and bool(bound.args) and isinstance(bound.args[-1], dict)


def _set_opset(model: ir.Model, opset: int) -> None:
    """Opset 26 only adds operators to 25. Where torch could not convert its graph, it left another opset."""
    found = model.opset_imports[""]
    if found != min(opset, _HIGHEST_OF_TORCH):
        raise UnsupportedError(
            f"export: torch cannot write an operator of this model at opset {opset}; leave the default or lower opset"
        )
    model.opset_imports[""] = opset


def _translation(name: str):
    """A function that emits the bare node: tensors first, then every attribute by name."""
    operator = OPERATORS[_ONNX_NAME[name.replace("_", "")]]
    emit = getattr(Opset(DOMAIN, VERSION), operator.op_type())
    names, tensors = _arguments(name)
    kinds = {attr: int if a.kind == "i" else float for attr, a in operator.attributes.items()}

    def translate(*values, **keywords):
        given = dict(zip(names, values, strict=False)) | keywords
        inputs = [given[t] for t in tensors]
        while inputs and inputs[-1] is None:
            inputs.pop()
        return emit(*inputs, **{attr: kind(given[attr]) for attr, kind in kinds.items()})

    return translate


def _arguments(name: str) -> tuple[list[str], list[str]]:
    """Names of all arguments of a torch op, and of those that are tensors."""
    arguments = getattr(torch.ops.mxexport, name).default._schema.arguments
    return [a.name for a in arguments], [a.name for a in arguments if "Tensor" in str(a.type)]


def _standard_translation(name: str):
    """The same for QONNX's own operators, whose tensors come first and whose attributes follow in order."""
    op_type = STANDARD_OPS[name]
    emit = getattr(Opset(qonnx_general.DOMAIN, qonnx_general.VERSION), op_type)
    kinds = {"i": int, "s": str}
    attributes = qonnx_general.ATTRIBUTES[op_type]
    names, _ = _arguments(name)

    def translate(*values, **keywords):
        given = dict(zip(names, values, strict=False)) | keywords
        tensors = [given[n] for n in names if n not in attributes]
        if tensors[0].dtype in HALF:
            raise UnsupportedError(
                f"QONNX's {op_type} takes float32, found {tensors[0].dtype.name}; call model.float() before export"
            )
        return emit(*tensors, **{n: kinds[kind](given[n]) for n, kind in attributes.items()})

    return translate


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter and its optimizer report missing torchvision operators, nodes left as they are and their own
    deprecations; none concerns the user. What goes wrong is raised as well."""
    logs = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            warnings.simplefilter("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", "# The axis name: .* will not be used")  # all inputs share it
            warnings.filterwarnings("ignore", "The tensor attribute.* assigned during export")  # put back afterwards
            warnings.filterwarnings("ignore", "# ONNX model has different number of inputs")  # we name dimensions then
            warnings.filterwarnings("ignore", "While compiling, we found certain side effects")  # our own hook's
            with contextlib.redirect_stderr(_WithoutGraphs(sys.stderr)):
                yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


class _WithoutGraphs(io.TextIOBase):
    """An error stream without the graph that torch prints, before it raises, as far as it was traced."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> int:
        shown = text.lstrip().startswith(("def forward(self", "class GraphModule("))
        return len(text) if shown else self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


def _trace_failure(model: torch.nn.Module, error: Exception) -> str:
    causes, cause = [], error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    own = next((cause for cause in causes if isinstance(cause, MXExportError)), None)
    if own is not None:
        return f"export: {type(model).__name__} cannot be exported: {own}"
    kind = type(causes[-1]).__name__
    lines = [line.strip() for line in str(causes[-1]).splitlines() if line.strip()]
    reason = lines[0] if lines else kind
    if reason.endswith(":"):  # an introduction
        reason = " ".join(lines[:2])
    hint = "; a branch of Python depends on values: use torch.where or torch.cond" if "DataDependent" in kind else ""
    place = place_of(model, causes[-1]) if isinstance(causes[-1], (AssertionError, AttributeError)) else None
    return f"export: torch cannot export {type(model).__name__}: {kind}: {reason}{hint}" + (
        f"; in {place}" if place else ""
    )
