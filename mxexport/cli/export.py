"""`mxexport export`: the user's own model to a QONNX file."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mxexport.cli._common import AsJson, Force, check_target, console
from mxexport.errors import InputFileError, MXExportError, OptionError, UnsupportedError

_DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "bool")


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="A torch.nn.Module in a module of yours, or a function without arguments that returns one. "
            "The module is imported from the current directory: THIS RUNS ITS CODE.",
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            help="Shape of an example input, batch first: 1,784. Other types than float32 stand in front: int64:1,32. "
            "Repeat it for every input of forward.",
        ),
    ],
    weights_file: Annotated[
        Path | None,
        typer.Option(help="Trained parameters for the float model: .safetensors, or a state_dict that torch saved."),
    ] = None,
    weight: Annotated[str | None, typer.Option(help="Format of weights (default mxint8; none: float).")] = None,
    activation: Annotated[str | None, typer.Option(help="Format of activations (default mxint8; none: float).")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Layer or pattern that stays in float; repeatable.")] = None,
    recipe: Annotated[
        str, typer.Option(help="How formats are applied: robust (see quantize_model), or none: exactly as asked.")
    ] = "robust",
    opset: Annotated[int, typer.Option(help="ONNX opset, 18 to 26.")] = 20,
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the first dimension of every input open.")] = True,
    external_data: Annotated[
        bool | None, typer.Option(help="Keep tensors in <out>.data; by default above 100 MB.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="float (QONNX style), or packed: codes and one scale per group.")
    ] = "float",
    keep_initializers: Annotated[bool, typer.Option(help="List parameters among the graph's inputs, too.")] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Quantize a PyTorch model of yours and write it as QONNX.

    A model that holds quantized layers already (mxexport, Brevitas, torchao) is written as it is, unless formats are
    given. Checkpoints are never unpickled.
    """
    check_target(out, force)
    from mxexport.exporting.exporter import export as write

    examples = tuple(_example(text) for text in inputs)
    module = _load(model)
    if weights_file is not None:
        _load_weights(module, weights_file)
    module = _quantized(module, weight, activation, exclude or [], None if recipe == "none" else recipe)
    report = write(
        module,
        examples,
        out,
        opset=opset,
        dynamic_batch=dynamic_batch,
        external_data=external_data,
        weights=weights,
        keep_initializers=keep_initializers,
    )
    if as_json:
        print(report.to_json())
    else:
        console.print("\n".join([str(report), *_changes(module)]), highlight=False, markup=False, soft_wrap=True)


def _changes(module) -> list[str]:
    """What the recipe changed, one line per layer and change."""
    from mxexport.quant import conversion_report

    try:
        return [str(change) for change in conversion_report(module).changed]
    except UnsupportedError:  # quantized elsewhere
        return []


def _example(text: str):
    """`int64:1,32` -> a tensor: small random numbers, zeros for indices."""
    import torch

    kind, _, dims = text.rpartition(":")
    kind = kind or "float32"
    if kind not in _DTYPES:
        raise OptionError(f"--input {text}: unknown type {kind!r}; expected one of {', '.join(_DTYPES)}")
    try:
        shape = [int(d) for d in dims.split(",")] if dims else []
    except ValueError:
        raise OptionError(f"--input {text}: expected whole numbers with commas, such as 1,3,32,32") from None
    if any(d < 1 for d in shape):
        raise OptionError(f"--input {text}: sizes must be at least 1")
    dtype = getattr(torch, kind)
    try:
        return torch.rand(shape).to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise OptionError(f"--input {text}: torch cannot make it: {_first_line(error)}") from error


def _load(where: str):
    """The torch.nn.Module behind `package.module:name`."""
    import torch

    module_name, _, name = where.partition(":")
    if not (module_name and name):
        raise OptionError(f"{where!r}: expected package.module:name, for example mynet.model:build")
    found = _import(module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            raise OptionError(f"{where!r}: {module_name} has no {name!r}")
        found = getattr(found, part)
    if callable(found) and not isinstance(found, torch.nn.Module):
        found = _call(found, where)
    if not isinstance(found, torch.nn.Module):
        raise OptionError(f"{where!r}: expected a torch.nn.Module, found {type(found).__name__}")
    return found


def _import(name: str):
    """A module, looked for in the current directory first."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputFileError(f"no module {name!r} in {os.getcwd()} or among the installed packages") from None
        raise OptionError(f"importing {name} failed: {error}") from error
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise OptionError(f"importing {name} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())


def _call(factory, where: str):
    try:
        return factory()
    except MXExportError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise OptionError(f"{where} failed, called without arguments: {type(error).__name__}: {error}") from error


def _load_weights(module, path: Path) -> None:
    """Put the parameters of a file into `module`; names must match. Nothing in the file is executed."""
    state = _read_state(path)
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputFileError(
            f"{path} does not fit {type(module).__name__}:\n  " + "\n  ".join(lines[1:] or lines)
        ) from None


def _read_state(path: Path) -> dict:
    import torch

    if not path.is_file():
        raise InputFileError(f"no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, weights_only=True, map_location="cpu")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # damaged files raise many types
        raise InputFileError(
            f"{path} holds no plain tensors that can be read without running code in it: {_first_line(error)}"
        ) from error
    if not isinstance(state, dict):
        raise InputFileError(f"{path}: expected a state_dict, found {type(state).__name__}; save model.state_dict()")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _quantized(module, weight: str | None, activation: str | None, exclude: list[str], recipe: str | None):
    """`module` quantized; as it is when it holds quantized layers and no formats are asked for."""
    from mxexport.frontends.brevitas import is_brevitas
    from mxexport.frontends.torchao.reading import is_torchao
    from mxexport.quant import QuantLayer, quantize_model

    ready = any(isinstance(m, QuantLayer) for m in module.modules()) or is_brevitas(module) or is_torchao(module)
    if ready and weight is None and activation is None and not exclude:
        return module
    weight, activation = (None if f == "none" else f or "mxint8" for f in (weight, activation))
    return quantize_model(module, weight, activation, exclude=exclude, recipe=recipe)
