"""torch -> QONNX: one file whose quantizers are nodes of `mxexport.ops` with contracted scales."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnxscript.values import Opset

import mxexport
from mxexport import graph, groups
from mxexport.errors import InputFileError, OptionError, UnsupportedError
from mxexport.frontends.brevitas import from_brevitas, is_brevitas
from mxexport.frontends.torchao import from_torchao, is_torchao
from mxexport.ops import DOMAIN, OPERATORS, VERSION, qonnx_general
from mxexport.passes.fold_weights import fold_weights
from mxexport.quant import QuantLayer
from mxexport.quant.qonnx_general import TORCH_OPS as STANDARD_OPS

LOWEST_OPSET, DEFAULT_OPSET, HIGHEST_OPSET = 18, 20, 26
_TORCH_OPS = (
    "mx_scale",
    "nvfp4_scale",
    "mx_float_quant",
    "groupwise_scale",
    "groupwise_zero_point",
    "groupwise_quant",
)
_ONNX_NAME = {op.lower(): op for op in OPERATORS}


@dataclass(frozen=True)
class LayerReport:
    """One quantizer of the exported file. `sqnr_db` and `bytes` only for weights (None at run time).

    Quantizers without groups (QONNX's own) have no axis and no figures.
    """

    name: str
    format: str
    axis: int | None
    shape: list[int | str]
    scale_shape: list[int | str]
    bytes: int | None = None
    sqnr_db: float | None = None
    padding_percent: float = 0.0


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote. `notes`: (layer, what differs from or surprises in the model it came from)."""

    path: str
    opset: int
    layers: list[LayerReport] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def export(
    model: torch.nn.Module,
    args: tuple,
    path: str | os.PathLike,
    *,
    opset: int = DEFAULT_OPSET,
    dynamic_batch: bool = True,
    input_names: list[str] | None = None,
    output_names: list[str] | None = None,
    weights: str = "float",
) -> ExportReport:
    """Write `model` as QONNX to `path` and report every quantizer.

    `args`: example inputs, batch first; with `dynamic_batch` the first dimension of every tensor input stays open.
    `weights`: "float" keeps trained values before their quantizers; "packed" stores element codes and one scale per
    group (see `passes.fold_weights`; the same bits when run), and notes name every weight that stays float.
    The model is exported in eval mode and left as it was, whatever happens; the file appears whole or not at all.

    Raises:
        UnsupportedError: no quantized layer, parameters that are not float32, or an operator torch cannot export.
        InputFileError: the directory of `path` does not exist.
        OptionError: `opset` outside 18 .. 26, or `weights` neither "float" nor "packed".
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputFileError(f"cannot write {path}: no such directory: {path.parent}")
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        raise OptionError(f"opset {opset}: expected {LOWEST_OPSET} to {HIGHEST_OPSET}")
    if weights not in ("float", "packed"):
        raise OptionError(f"weights {weights!r}: expected 'float' or 'packed'")
    args = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    model = from_brevitas(model, args) if is_brevitas(model) else model
    model = from_torchao(model) if is_torchao(model) else model
    _check(model)
    with _eval_mode(model):
        ir_model = _trace(model, args, opset, dynamic_batch, input_names, output_names)
    _fold_weight_scales(ir_model)
    _strip_torch_metadata_and_name(ir_model)
    graph.attach_standard_functions(ir_model)
    layers = [_describe(node) for node in ir_model.graph if graph.is_ours(node, graph.QUANTIZERS)]
    layers += [_describe_standard(node) for node in ir_model.graph if node.domain == qonnx_general.DOMAIN]
    unpacked = _pack_weights(ir_model) if weights == "packed" else []
    ir_model.producer_name, ir_model.producer_version = "mxexport", mxexport.__version__
    graph.save(ir_model, path)
    notes = [n for m in model.modules() if isinstance(m, QuantLayer) for n in getattr(m, "notes", ())] + unpacked
    return ExportReport(str(path), opset, layers, notes)


def _check(model: torch.nn.Module) -> None:
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedError(f"export: expected a torch.nn.Module, found {type(model).__name__}")
    if not any(isinstance(m, QuantLayer) for m in model.modules()):
        raise UnsupportedError(
            "export: the model has no quantized layer; convert it first with mxexport.quantize_model(model, ...)"
        )
    wrong = [
        (name, f"is {p.dtype}, expected torch.float32; call model.float() before export")
        for name, p in model.named_parameters()
        if p.is_floating_point() and p.dtype != torch.float32
    ]
    if wrong:
        raise UnsupportedError("export: parameters of an unsupported dtype", wrong)
    refused = [
        (name, quantizer.not_exportable)
        for name, m in model.named_modules()
        if isinstance(m, QuantLayer)
        for quantizer in m.quantizers().values()
        if getattr(quantizer, "not_exportable", None)
    ]
    if refused:
        raise UnsupportedError("export: quantizers without an operator", refused)


@contextlib.contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


# --- torch -> onnx-ir -----------------------------------------------------------------------------------------


def _translation(name: str):
    """A function that emits the bare node: tensors first, then every attribute by name."""
    operator = OPERATORS[_ONNX_NAME[name.replace("_", "")]]
    emit = getattr(Opset(DOMAIN, VERSION), operator.op_type())
    schema = getattr(torch.ops.mxexport, name).default._schema
    names = [a.name for a in schema.arguments]
    tensors = [a.name for a in schema.arguments if "Tensor" in str(a.type)]
    kinds = {attr: int if a.kind == "i" else float for attr, a in operator.attributes.items()}

    def translate(*values, **keywords):
        given = dict(zip(names, values, strict=False)) | keywords
        inputs = [given[t] for t in tensors]
        while inputs and inputs[-1] is None:
            inputs.pop()
        return emit(*inputs, **{attr: kind(given[attr]) for attr, kind in kinds.items()})

    return translate


def _standard_translation(name: str):
    """The same for QONNX's own operators, whose tensors come first and whose attributes follow in order."""
    op_type = STANDARD_OPS[name]
    emit = getattr(Opset(qonnx_general.DOMAIN, qonnx_general.VERSION), op_type)
    kinds = {"i": int, "s": str}
    attributes = qonnx_general.ATTRIBUTES[op_type]
    names = [a.name for a in getattr(torch.ops.mxexport, name).default._schema.arguments]

    def translate(*values, **keywords):
        given = dict(zip(names, values, strict=False)) | keywords
        tensors = [given[n] for n in names if n not in attributes]
        return emit(*tensors, **{n: kinds[kind](given[n]) for n, kind in attributes.items()})

    return translate


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter and its optimizer report missing torchvision operators, nodes left as they are and their own
    deprecations; none concerns the user."""
    names = ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding")
    logs = [logging.getLogger(name) for name in names]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            warnings.simplefilter("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used")  # all inputs share it
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _trace(model, args, opset, dynamic_batch, input_names, output_names) -> ir.Model:
    dynamic_shapes = None
    if dynamic_batch:
        args = _widen_batch(args)
        dynamic_shapes = tuple({0: "batch"} if isinstance(a, torch.Tensor) and a.ndim else None for a in args)
    table = {getattr(torch.ops.mxexport, name).default: _translation(name) for name in _TORCH_OPS}
    table |= {getattr(torch.ops.mxexport, name).default: _standard_translation(name) for name in STANDARD_OPS}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                args,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=dynamic_shapes,
                custom_translation_table=table,
            )
    except Exception as error:  # torch raises many types; the user needs the reason, not its stack
        raise UnsupportedError(_trace_failure(model, error)) from error
    return program.model


def _widen_batch(args: tuple) -> tuple:
    """A batch of one would be taken for a constant; two copies keep it open."""
    return tuple(torch.cat([a, a]) if isinstance(a, torch.Tensor) and a.ndim and a.shape[0] == 1 else a for a in args)


def _trace_failure(model: torch.nn.Module, error: Exception) -> str:
    causes, cause = [], error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    lines = [line.strip() for line in str(causes[-1]).splitlines() if line.strip()]
    reason = lines[0] if lines else type(causes[-1]).__name__
    return f"export: torch cannot export {type(model).__name__}: {type(causes[-1]).__name__}: {reason}"


# --- after tracing --------------------------------------------------------------------------------------------


def _fold_weight_scales(model: ir.Model) -> None:
    """MXScale(initializer) -> initializer: weight scales and zero points become constants of the file."""
    g = model.graph
    taken = {value.name for value in (*g.inputs, *g.outputs, *g.initializers.values())}
    for node in list(g):
        if node.domain != DOMAIN or node.op_type in graph.QUANTIZERS:
            continue
        arrays = [graph.constant(value) for value in node.inputs]
        if any(array is None for array in arrays):
            continue
        (folded,) = OPERATORS[node.op_type].reference(*arrays, **graph.attributes(node))
        suffix = "zero_point" if node.op_type == "GroupwiseZeroPoint" else "scale"
        if node.op_type == "NVFP4Scale":
            for quantizer, _ in node.outputs[0].uses():
                quantizer.meta[graph.FORMAT_KEY] = "nvfp4"
        value = ir.Value(
            name=_unique(f"{node.inputs[0].name}_{suffix}", taken),  # a tied weight may have scales of two formats
            shape=ir.Shape(folded.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(folded),
        )
        g.register_initializer(value)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        g.remove(node, safe=True)


def _pack_weights(model: ir.Model) -> list[tuple[str, str]]:
    """Weights as packed codes; those that stay float, each with the reason."""
    weights = {node.name for node in model.graph if graph.is_quantized_constant(node)}
    return [(name, f"weight stays float: {why}") for name, why in fold_weights(model).declined if name in weights]


def _strip_torch_metadata_and_name(model: ir.Model) -> None:
    """Names from the module path, no local paths, and the format in words on every quantizer."""
    g = model.graph
    taken = {value.name for value in (*g.inputs, *g.outputs, *g.initializers.values())}
    formal = {name for op in OPERATORS.values() for name in (*op.inputs, *op.outputs)}
    for value in list(g.initializers.values()):
        if value.name in formal:  # inlining a body would confuse the two
            value.name = _unique(f"{value.name}_", taken)
    node_names: set[str] = set()
    for node in g:
        node.name = _unique(_node_name(node), node_names)
    for node in g:
        fixed = {value.name for value in g.outputs}
        for i, value in enumerate(node.outputs):
            if value.name not in fixed:
                value.name = _unique(node.name if i == 0 else f"{node.name}.{i}", taken)
            value.metadata_props.clear()
        node.metadata_props.clear()
        node.doc_string = None
    for item in (model, g, *g.inputs, *g.initializers.values()):
        item.metadata_props.clear()
    for node in g:
        if graph.is_ours(node, graph.QUANTIZERS):
            _annotate(node)


def _module_path(node: ir.Node) -> str:
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    # A list of strings written by torch; JSON reads it once the quotes are double.
    names = json.loads(scopes.replace("'", '"')) if scopes else []
    return names[-2] if len(names) > 1 else ""


def _node_name(node: ir.Node) -> str:
    """`fc1.weight_quant`, `fc1.input_scale`, `fc1`: what a reader of the PyTorch module would call it."""
    path = _module_path(node)
    if node.domain in (DOMAIN, qonnx_general.DOMAIN):
        if graph.constant(node.inputs[0]) is not None:
            return f"{node.inputs[0].name}_quant"
        suffix = {"GroupwiseZeroPoint": "zero_point"}.get(node.op_type, "scale")
        suffix = "quant" if node.op_type in {*graph.QUANTIZERS, *qonnx_general.OPERATORS} else suffix
        if path.endswith("_quant"):  # a quantizer that is a module: `fc1.output_quant`
            return f"{path.removesuffix('quant')}{suffix}"
        return ".".join(filter(None, (path, f"input_{suffix}")))
    return path or node.op_type.lower()


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    taken.add(candidate)
    return candidate


def _annotate(node: ir.Node) -> None:
    fmt = graph.quantizer_format(node)
    axis = node.attributes["axis"].value
    node.metadata_props[graph.FORMAT_KEY] = fmt.name
    node.doc_string = f"{fmt.name} along axis {axis}: {fmt.describe()}."


def _dims(value: ir.Value) -> list[int | str]:
    return [d if isinstance(d, int) else str(d) for d in value.shape] if value.shape is not None else []


def _describe(node: ir.Node) -> LayerReport:
    fmt, axis = graph.quantizer_format(node), node.attributes["axis"].value
    shape = _dims(node.inputs[0])
    length = shape[axis] if shape else 0
    padded = groups.group_count(length, fmt.group_size) * fmt.group_size if isinstance(length, int) and length else 0
    report = {
        "name": node.name,
        "format": fmt.name,
        "axis": axis,
        "shape": shape,
        "scale_shape": _dims(node.inputs[1]),
        "padding_percent": 100 * (padded - length) / padded if padded else 0.0,
    }
    weight, scale = graph.constant(node.inputs[0]), graph.constant(node.inputs[1])
    if weight is not None and scale is not None:
        zero = graph.constant(node.inputs[2]) if len(node.inputs) > 2 else None
        inputs = (weight, scale, zero) if node.op_type == "GroupwiseQuant" else (weight, scale)
        (quantized,) = OPERATORS[node.op_type].reference(*inputs, **graph.attributes(node))
        scale_bytes = scale.size * 4 if fmt.scale == "float32" else scale.size + 4 * (fmt.scale == "nvfp4")
        report["bytes"] = -(-weight.size * fmt.element.bits // 8) + scale_bytes
        report["sqnr_db"] = _sqnr(weight, quantized)
    return LayerReport(**report)


def _describe_standard(node: ir.Node) -> LayerReport:
    widths = [graph.constant(v) for v in node.inputs[2:]]
    fmt = {
        "Quant": lambda: f"{'int' if node.attributes['signed'].value else 'uint'}{int(widths[1])}",
        "FloatQuant": lambda: f"float_e{int(widths[0])}m{int(widths[1])}",
        "BipolarQuant": lambda: "bipolar",
    }[node.op_type]()
    return LayerReport(node.name, fmt, None, _dims(node.inputs[0]), _dims(node.inputs[1]))


def _sqnr(x: np.ndarray, y: np.ndarray) -> float | None:
    """10 log10(sum x^2 / sum (x - y)^2); None where it is not finite (no error, or zeros)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    noise, signal = float(((x - y) ** 2).sum()), float((x**2).sum())
    return round(10 * float(np.log10(signal / noise)), 2) if noise > 0 and signal > 0 else None
