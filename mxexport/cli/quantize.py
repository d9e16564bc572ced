"""`mxexport quantize`: a trained float model to a quantized QONNX file, without a line of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli import pages, user_models
from mxexport.cli._common import (
    AsJson,
    Force,
    OutFile,
    OutOption,
    check_target,
    console,
    load_inputs,
    one_target,
    print_json,
    print_path,
    stages,
)
from mxexport.errors import InputFileError, OptionError

_AT_A_TIME = 64
"""Frames of the calibration that run through the model at once."""


def quantize(
    model: user_models.UserModel,
    out: OutFile = None,
    out_option: OutOption = None,
    weights_file: user_models.WeightsFile = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="Shape of an example input, batch first, as for export; --calibration has them."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Typical inputs: .npy, or .npz of the arguments of forward by name; batch first."),
    ] = None,
    weight: Annotated[str, typer.Option(help="Format of weights; none: float.")] = "mxint8",
    activation: Annotated[str, typer.Option(help="Format of activations; none: float.")] = "mxint8",
    static: Annotated[
        bool, typer.Option("--static", help="One constant scale per activation, as hls4ml and FINN take it.")
    ] = False,
    formats: Annotated[
        Path | None, typer.Option(help="YAML: layer name or pattern: {weight: …, activation: …, scale_rule: …}.")
    ] = None,
    exclude: user_models.Exclude = None,
    scale_rule: Annotated[str | None, typer.Option(help="floor, ceil, even, rceil or its R (0x200000).")] = None,
    bias: Annotated[str, typer.Option(help="float, or int32 (with --static).")] = "float",
    attention: Annotated[
        bool,
        typer.Option("--attention", help="Also products of two activations in the model's own code (attention)."),
    ] = False,
    recipe: user_models.Recipe = "robust",
    opset: user_models.Opset = 20,
    weights: user_models.Weights = "float",
    html: pages.HtmlFile = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Quantize a trained float model and write it as QONNX, with what became of every layer.

    With --calibration the robust recipe corrects biases, and --static finds its scales. Then: mxexport clean, convert,
    compile.
    """
    path = one_target(out, out_option, user_models.file_name(model))
    check_target(path, force)
    pages.check_page(html, force)
    if calibration is None and static:
        raise OptionError("--static: constant scales are found from typical inputs; give --calibration x.npy")
    if calibration is None and not inputs:
        raise OptionError("give --input 1,3,32,32 (the shape of an example), or --calibration x.npy")
    import mxexport as mx
    from mxexport.quant import conversion_report

    with stages() as stage:
        stage("loading the model")
        module = user_models.load(model, weights_file)
        if user_models.is_quantized(module):
            raise OptionError(f"{model} is quantized already; write it with mxexport export")
        calls = _calls(calibration) if calibration else []
        stage("quantizing")
        activations = user_models.format_of(activation)
        if static and activations is not None:
            activations = mx.QuantSpec(activations, source="static", scaling_per_output="tensor")
        quantized = mx.quantize_model(
            module,
            user_models.format_of(weight),
            activations,
            exclude=exclude or [],
            scale_rule=user_models.rule_of(scale_rule),
            bias_format=bias,
            formats=formats,
            recipe=None if recipe == "none" else recipe,
            calibration=calls if calls and recipe != "none" else None,
            attention=attention,
            example_inputs=_first(calls, inputs) if attention else None,
        )
        stage("calibrating")
        _calibrate(quantized, calls)
        stage("exporting")
        args, kwargs = _example(calls[0]) if calls else (tuple(user_models.example(text) for text in inputs), {})
        report = mx.export(quantized, args, path, kwargs=kwargs, opset=opset, weights=weights)
    became = conversion_report(quantized)
    if as_json:
        import json

        print_json(json.loads(report.to_json()) | {"conversion": json.loads(became.to_json())})
    else:
        console.print(f"{became}\n{report}", highlight=False, markup=False, soft_wrap=True)
        print_path(path)
    if html is not None:
        pages.write_page(pages.export_page(report, became), html, quiet=as_json)


def _calls(path: Path) -> list:
    """The inputs of a file as arguments of forward, so many frames at a time: tensors, or dicts by name."""
    import numpy as np
    import torch

    loaded = load_inputs(path)
    arrays = loaded if isinstance(loaded, dict) else {"": loaded}
    if not arrays or any(array.ndim == 0 or array.size == 0 for array in arrays.values()):
        raise InputFileError(f"{path}: expected arrays with the batch first and at least one frame")
    frames = {name: len(array) for name, array in arrays.items()}
    if len(set(frames.values())) > 1:
        found = ", ".join(f"{name}: {size}" for name, size in frames.items())
        raise InputFileError(f"{path}: arrays of different numbers of frames ({found})")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise InputFileError(f"{path}: {name or 'it'} holds {array.dtype}; expected real numbers")
    arrays = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    starts = range(0, next(iter(frames.values())), _AT_A_TIME)
    parts = [
        {n: torch.from_numpy(np.ascontiguousarray(a[s : s + _AT_A_TIME])) for n, a in arrays.items()} for s in starts
    ]
    return parts if isinstance(loaded, dict) else [part[""] for part in parts]


def _first(calls: list, inputs: list[str] | None):
    """Inputs that show what the model multiplies, as `quantize_model` takes them."""
    if not calls:
        return tuple(user_models.example(text) for text in inputs)
    args, kwargs = _example(calls[0])
    return kwargs or args


def _example(call) -> tuple[tuple, dict]:
    """One frame of a call, as (positional, by name)."""
    return ((), {name: tensor[:1] for name, tensor in call.items()}) if isinstance(call, dict) else ((call[:1],), {})


def _calibrate(model, calls: list) -> None:
    """Run the calibration through static scales, in eval mode, and freeze them."""
    from mxexport.quant import freeze_scales
    from mxexport.quant.calling import call_in_eval
    from mxexport.quant.quantizers.sources import StaticScale

    if not any(isinstance(m, StaticScale) for m in model.modules()):
        return
    if not calls:
        raise OptionError("formats ask for static scales; give --calibration x.npy")
    call_in_eval(model, calls)
    freeze_scales(model)
