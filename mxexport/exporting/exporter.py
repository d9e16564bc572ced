"""torch -> QONNX: one file whose quantizers are nodes of `mxexport.ops` with contracted scales."""

from __future__ import annotations

import os
import warnings
from typing import Any

import onnx_ir as ir
import torch

import mxexport
from mxexport.errors import OptionError, UnsupportedError
from mxexport.exporting.bypassed import bypassed_layers
from mxexport.exporting.computed import computed_weights_held
from mxexport.exporting.half import NOTE, carry_in_float32
from mxexport.exporting.inputs import bind, name_open_dimensions, open_batch, widen
from mxexport.exporting.naming import check_given_names, check_names, name_everything
from mxexport.exporting.not_finite import not_finite
from mxexport.exporting.report import ExportReport
from mxexport.exporting.trace import trace
from mxexport.exporting.unchanged_model import eval_mode
from mxexport.exporting.weight_scales import fold_weight_scales
from mxexport.exporting.weights import restore_transposed_weights, tell_apart
from mxexport.frontends.brevitas import from_brevitas, is_brevitas
from mxexport.frontends.live import from_fake_quantized, is_fake_quantized
from mxexport.frontends.torchao.reading import from_torchao, is_torchao
from mxexport.model import graph, rewriting
from mxexport.model.writer import writable, write_model
from mxexport.passes.fold.fold_weights import fold_weights
from mxexport.quant import QuantLayer
from mxexport.reporting.layers import LayerReport, describe_layers
from mxexport.running.acceptance import check_result

__all__ = ["ExportReport", "LayerReport", "export"]

LOWEST_OPSET, DEFAULT_OPSET, HIGHEST_OPSET = 18, 20, 26
_TOLD = 3  # notes that a warning spells out
_PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)


def export(
    model: torch.nn.Module,
    args: Any,
    path: str | os.PathLike,
    *,
    kwargs: dict[str, Any] | None = None,
    opset: int = DEFAULT_OPSET,
    dynamic_batch: bool = True,
    dynamic_shapes: Any = None,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    external_data: bool | None = None,
    weights: str = "float",
    keep_initializers: bool = False,
) -> ExportReport:
    """Write `model` as QONNX to `path` and report every quantizer.

    The model is exported in eval mode and left as it was, whatever happens; the file appears whole or not at all.
    Models of half precision are carried in float32, rounded with Casts after every operation, so quantizers return the
    bits they return in torch; float16 inputs and outputs stay, bfloat16 ones become float32. Layers whose weight the
    model's own code reads (`F.linear(x, self.qkv.weight)`) are not quantized there; notes and a warning name them, and
    every parameter that holds NaN or Inf.

    Args:
        model: mxexport, Brevitas or torchao model, or one that another tool has quantized (`from_fake_quantized`).
            Outputs that are None are left out, and so are objects that are no tensors (the cache of a decoder), with a
            warning.
        args: example inputs: a tuple as for `forward`, one tensor, or a dict of keyword inputs.
        kwargs: more example inputs, by keyword.
        opset: 18 to 26.
        dynamic_batch: the first dimension of every tensor input stays open.
        dynamic_shapes: which dimensions stay open, in the form of `torch.onnx.export`, for example
            `{"tokens": {0: "batch", 1: "sequence"}}`; takes the place of `dynamic_batch`.
        input_names: names in the file, in order.
        output_names: the same.
        external_data: keep tensors in `<name>.data` beside the file; None does so above 100 MB.
        weights: "float" keeps trained values before their quantizers; "packed" stores element codes and one scale per
            group (see `passes.fold_weights`; the same bits when run), and notes name every weight that stays float.
        keep_initializers: list parameters among the inputs of the graph, too, as old tools expect; whoever runs the
            file may replace them. `mx.clean` takes them out again.

    Raises:
        UnsupportedError: no quantized layer, parameters that are neither float32 nor half precision, an operator
            torch cannot export, or a `forward` that returns numbers, strings or no tensor.
        InputFileError: the directory of `path` does not exist, or `path` cannot be written.
        OptionError: `opset` outside 18 .. 26, example inputs that `forward` does not take, names that are too many or
            taken, or `weights` neither "float" nor "packed".
    """
    path = writable(path)
    if type(opset) is not int or not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise OptionError(f"opset {opset!r}: expected {LOWEST_OPSET} to {HIGHEST_OPSET}")
    if weights not in ("float", "packed"):
        raise OptionError(f"weights {weights!r}: expected 'float' or 'packed'")
    check_names(input_names, "input_names")
    check_names(output_names, "output_names")
    model = _converted(getattr(model, "_orig_mod", model), args, kwargs)  # torch.compile's wrapper left off
    _check(model)
    damaged = not_finite(model)
    _warn("NaN or Inf in the model", damaged)
    bound = bind(model, args, kwargs)
    if dynamic_shapes is None and dynamic_batch:
        dynamic_shapes = open_batch(bound)
    if dynamic_shapes is not None:
        widen(bound, dynamic_shapes)
    with eval_mode(model), computed_weights_held(model, bound):
        ir_model, left_out = trace(model, bound, dynamic_shapes, opset, input_names, output_names)
    check_given_names(ir_model.graph, input_names, output_names)
    if dynamic_shapes is not None:
        name_open_dimensions(ir_model, bound, dynamic_shapes)
    restore_transposed_weights(ir_model, model)
    tell_apart(ir_model)
    _warn("left out", left_out)
    carried = carry_in_float32(ir_model)
    fold_weight_scales(ir_model)
    bypassed = bypassed_layers(ir_model, model)  # behind the folding: what finds the scale of a weight reads it, too
    _warn("not quantized where it is used", bypassed)
    name_everything(ir_model)
    random = _warn_of_dropout(ir_model)
    graph.attach_standard_functions(ir_model)
    layers = describe_layers(ir_model)
    unpacked = _pack_weights(ir_model) if weights == "packed" else []
    ir_model.producer_name, ir_model.producer_version = "mxexport", mxexport.__version__
    ir_model.doc_string = _description(layers)
    graph.attach_functions(ir_model)
    if keep_initializers:
        ir_model.graph.inputs.extend(ir_model.graph.initializers.values())
    check_result(ir_model, f"export: {path}")
    data_path = write_model(ir_model, path, external_data)
    notes = damaged + ([("model", NOTE)] if carried else []) + left_out + bypassed + random
    notes += [n for m in model.modules() if isinstance(m, QuantLayer) for n in getattr(m, "notes", ())]
    notes += unpacked
    return ExportReport(str(path), opset, layers, notes, None if data_path is None else str(data_path))


def _description(layers: list[LayerReport]) -> str:
    """Of the model, for viewers."""
    formats = ", ".join(dict.fromkeys(layer.format for layer in layers))
    return (
        f"A quantized network ({formats}). Scales are contracted: one for each group. Operators of the domain "
        "mxexport.ops carry bodies of standard ONNX operators, so any ONNX runtime executes them."
    )


def _converted(model: torch.nn.Module, args: Any, kwargs: dict[str, Any] | None) -> torch.nn.Module:
    """The mxexport model of a model that another tool has quantized; others as they are."""
    if is_brevitas(model):
        bound = bind(model, args, kwargs)
        if bound.kwargs:
            raise OptionError(f"export: a Brevitas model takes inputs by position, found {', '.join(bound.kwargs)}")
        return from_brevitas(model, bound.args)
    if is_fake_quantized(model):
        return from_fake_quantized(model)
    return from_torchao(model) if is_torchao(model) else model


def _check(model: torch.nn.Module) -> None:
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedError(f"export: expected a torch.nn.Module, found {type(model).__name__}")
    if not any(isinstance(m, QuantLayer) for m in model.modules()):
        raise UnsupportedError(
            "export: the model has no quantized layer; convert it first with mxexport.quantize_model(model, ...)"
        )
    wrong = [
        (name, f"is {p.dtype}, expected torch.float32, float16 or bfloat16; call model.float() before export")
        for name, p in model.named_parameters()
        if p.is_floating_point() and p.dtype not in _PRECISIONS
    ]
    if wrong:
        raise UnsupportedError("export: parameters of an unsupported dtype", wrong)


def _warn(heading: str, notes: list[tuple[str, str]]) -> None:
    if notes:
        more = [f"and {len(notes) - _TOLD} more, see the report's notes"] if len(notes) > _TOLD else []
        told = [f"{name}: {why}" for name, why in notes[:_TOLD]] + more
        warnings.warn(f"{heading}: " + "; ".join(told), stacklevel=3)


def _warn_of_dropout(model: ir.Model) -> list[tuple[str, str]]:
    """Dropout that a model asks for in eval mode, too; said in a warning as well."""
    nodes = [node for node in model.graph if rewriting.is_op(node, "Dropout") and rewriting.is_random(node)]
    why = "drops other values each time, in eval mode, too: write functional.dropout(x, p, training=self.training)"
    if nodes:
        warnings.warn(f"{', '.join(node.name for node in nodes)} {why}", stacklevel=3)
    return [(node.name, why) for node in nodes]


def _pack_weights(model: ir.Model) -> list[tuple[str, str]]:
    """Weights as packed codes; those that stay float, each with the reason."""
    weights = {node.name for node in model.graph if graph.is_quantized_constant(node)}
    return [(name, f"weight stays float: {why}") for name, why in fold_weights(model).declined if name in weights]
