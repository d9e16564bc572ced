"""A copy of a model with some of its modules replaced."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from mxexport.errors import UnsupportedError


def assemble(model: nn.Module, replacements: Mapping[str, nn.Module], caller: str) -> nn.Module:
    """A float32 eval copy of `model` with modules replaced by name; modules that are one module stay one.

    Raises:
        UnsupportedError: a model that cannot be copied; `caller` begins the message.
    """
    # The copy takes the new module wherever it meets the old one, so a tool's own objects are never copied.
    memo = {id(model.get_submodule(name)): new for name, new in replacements.items()}
    try:
        return copy.deepcopy(model, memo).float().eval()
    except Exception as error:  # deepcopy fails in as many ways as there are attributes
        raise UnsupportedError(f"{caller}: {type(model).__name__} cannot be copied: {error}") from error
