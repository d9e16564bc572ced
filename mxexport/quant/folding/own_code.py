"""Where in a model's own code an error came up."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from types import FrameType

from torch import nn

_NOT_OWN = {"torch", "mxexport", "brevitas", "torchao", "onnxscript"}


def place_of(model: nn.Module, error: BaseException) -> str | None:
    """`head (Head), net.py line 12: assert isinstance(x, QuantTensor)`; None where no module's own code failed."""
    names = {id(module): name for name, module in model.named_modules()}
    frames = [frame for frame in traceback.walk_tb(error.__traceback__) if _is_own(frame[0])]
    inside = [module for frame, _ in frames if id(module := _itself(frame)) in names]
    if not inside:
        return None
    file, line, text = _line(*frames[-1])
    name = names[id(inside[-1])] or "the model itself"
    return f"{name} ({type(inside[-1]).__name__}), {file} line {line}: {text}"


def _itself(frame: FrameType):
    """What a method calls `self`."""
    arguments = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return frame.f_locals.get(arguments[0]) if arguments else None


def _is_own(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_OWN


def _line(frame: FrameType, line: int) -> tuple[str, int, str]:
    path = frame.f_code.co_filename
    return Path(path).name, line, linecache.getline(path, line).strip()
