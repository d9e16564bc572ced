"""`mxexport export`: the user's own model to a QONNX file."""

from __future__ import annotations

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
    one_target,
    print_path,
    stages,
)
from mxexport.errors import OptionError


def export(
    model: user_models.UserModel,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            help="Shape of an example input, batch first: 1,784. Other types than float32 stand in front: int64:1,32. "
            "Repeat it for every input of forward.",
        ),
    ],
    out: OutFile = None,
    out_option: OutOption = None,
    weights_file: user_models.WeightsFile = None,
    checkpoint: user_models.CheckpointFolder = None,
    weight: Annotated[str | None, typer.Option(help="Format of weights (default mxint8; none: float).")] = None,
    activation: Annotated[str | None, typer.Option(help="Format of activations (default mxint8; none: float).")] = None,
    exclude: user_models.Exclude = None,
    recipe: user_models.Recipe = "robust",
    opset: user_models.Opset = 20,
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the first dimension of every input open.")] = True,
    external_data: Annotated[
        bool | None, typer.Option(help="Keep tensors in <out>.data; by default above 100 MB.")
    ] = None,
    weights: user_models.Weights = "float",
    keep_initializers: Annotated[bool, typer.Option(help="List parameters among the graph's inputs, too.")] = False,
    html: pages.HtmlFile = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Quantize a PyTorch model of yours and write it as QONNX.

    A model that holds quantized layers already (mxexport, Brevitas, torchao, Quark, ModelOpt) is written as it is,
    unless formats are given; --checkpoint reads weights and formats that another tool stored. Files are never
    unpickled. Static scales and formats by layer: `mxexport quantize`.
    """
    path = one_target(out, out_option, user_models.file_name(model))
    check_target(path, force)
    pages.check_page(html, force)
    if checkpoint is not None and (weights_file or weight or activation or exclude):
        raise OptionError(
            "--checkpoint has its own weights and formats: leave out --weights-file, --weight, --activation, --exclude"
        )
    from mxexport.exporting.exporter import export as write
    from mxexport.frontends.checkpoints import from_checkpoint

    with stages() as stage:
        stage("loading the model")
        examples = tuple(user_models.example(text) for text in inputs)
        module = user_models.load(model, weights_file)
        stage("quantizing" if checkpoint is None else "reading the checkpoint")
        if checkpoint is not None:
            module = from_checkpoint(module, checkpoint)
        module = _quantized(module, weight, activation, exclude or [], None if recipe == "none" else recipe)
        stage("exporting")
        report = write(
            module,
            examples,
            path,
            opset=opset,
            dynamic_batch=dynamic_batch,
            external_data=external_data,
            weights=weights,
            keep_initializers=keep_initializers,
        )
    if as_json:
        print(report.to_json())
    else:
        made = user_models.conversion(module)
        lines = [str(report), *map(str, made.changed if made else ())]
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
        print_path(path)
    if html is not None:
        pages.write_page(pages.export_page(report, user_models.conversion(module)), html, quiet=as_json)


def _quantized(module, weight: str | None, activation: str | None, exclude: list[str], recipe: str | None):
    """`module` quantized; as it is when it holds quantized layers and no formats are asked for."""
    from mxexport.quant import quantize_model

    if user_models.is_quantized(module) and weight is None and activation is None and not exclude:
        return module
    weight, activation = (user_models.format_of(f or "mxint8") for f in (weight, activation))
    return quantize_model(module, weight, activation, exclude=exclude, recipe=recipe)
