"""The user's own model: the module in a Python file, its trained parameters, example inputs."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from mxexport.errors import InputFileError, MXExportError, OptionError, UnsupportedError

_DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "bool")

UserModel = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:NAME",
        help="A torch.nn.Module in a module of yours (net:model or net.py:model), or a function without arguments that "
        "returns one. The module is imported from the current directory: THIS RUNS ITS CODE.",
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(help="Trained parameters for the float model: .safetensors, or a state_dict that torch saved."),
]
CheckpointFolder = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Folder of a quantized checkpoint (compressed-tensors, ModelOpt, Quark, gpt-oss) for the float model.",
    ),
]
Exclude = Annotated[list[str] | None, typer.Option(help="Layer or pattern that stays in float; repeatable.")]
Recipe = Annotated[
    str, typer.Option(help="How formats are applied: robust (see quantize_model), or none: exactly as asked.")
]
Opset = Annotated[int, typer.Option(help="ONNX opset, 18 to 26.")]
Weights = Annotated[str, typer.Option(help="float (QONNX style), or packed: codes and one scale per group.")]


def conversion(module):
    """The report of the quantize_model call that made `module`; None where it was quantized elsewhere."""
    from mxexport.quant import conversion_report

    try:
        return conversion_report(module)
    except UnsupportedError:
        return None


def example(text: str):
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


def file_name(where: str) -> str:
    """What the file of the model behind `net.py:build` is called where no name is given."""
    return f"{_split(where)[1].rpartition('.')[2]}.onnx"


def format_of(text: str) -> str | None:
    return None if text == "none" else text


def rule_of(text: str | None) -> str | int | None:
    """`0x200000` is the addend of a scale rule; anything else is for `quantize_model` to know."""
    if text is None or not text[:1].isdigit():
        return text
    try:
        return int(text, 0)
    except ValueError:
        raise OptionError(f"--scale-rule {text}: expected a name or an integer, such as 0x200000") from None


def is_quantized(module) -> bool:
    """Whether it holds quantized layers of mxexport or of a tool whose models are taken as they are."""
    from mxexport.frontends.brevitas import is_brevitas
    from mxexport.frontends.live import is_fake_quantized
    from mxexport.frontends.torchao.reading import is_torchao
    from mxexport.quant import QuantLayer

    ours = any(isinstance(m, QuantLayer) for m in module.modules())
    return ours or is_brevitas(module) or is_torchao(module) or is_fake_quantized(module)


def load(where: str, weights: Path | None = None):
    """The torch.nn.Module behind `package.module:name` or `file.py:name`, with the parameters of `weights`."""
    module = _build(where)
    if weights is not None:
        _load_weights(module, weights)
    return module


def _split(where: str) -> tuple[str, str]:
    """`nets/small.py:build` -> ("nets.small", "build")."""
    module_name, _, name = where.rpartition(":")
    if not (module_name and name):
        raise OptionError(f"{where!r}: expected package.module:name, for example mynet.model:build")
    if module_name.endswith(".py"):
        path = Path(module_name)
        if path.is_absolute() or ".." in path.parts:
            raise OptionError(f"{where!r}: name the file from the current directory, which must be above it")
        module_name = ".".join(path.with_suffix("").parts)
    return module_name, name


def module_name(where: str) -> str:
    """`nets/small.py:build` -> "nets.small"; of what names no module, itself."""
    return _split(where)[0] if ":" in where else where


def function(where: str):
    """The function behind `package.module:name` or `file.py:name`."""
    found = _named(where)
    if not callable(found):
        raise OptionError(f"{where!r}: expected a function, found {type(found).__name__}")
    return found


def _named(where: str):
    module_name, name = _split(where)
    found = _import(module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            raise OptionError(f"{where!r}: {module_name} has no {name!r}")
        found = getattr(found, part)
    return found


def _build(where: str):
    import torch

    found = _named(where)
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
            f"{path} holds no plain tensors that can be read without running code in it{_why_unread(error)}; save them "
            "anew with safetensors.torch.save_file(model.state_dict(), …) or torch.save(model.state_dict(), …)"
        ) from error
    if not isinstance(state, dict):
        raise InputFileError(f"{path}: expected a state_dict, found {type(state).__name__}; save model.state_dict()")
    return state


def _why_unread(error: Exception) -> str:
    """In torch's words, without its advice to unpickle the file all the same."""
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f" (it asks for {named[1]})" if named else ""
    return f" ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
