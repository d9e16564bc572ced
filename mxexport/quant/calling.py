"""Running a user's model on inputs given as examples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mxexport.errors import MXExportError, UnsupportedError


def calls(inputs: object) -> list[tuple[tuple, dict]]:
    """Arguments of every call: a tensor is one, a tuple is the positional ones, a dict those by name, a list holds
    several calls of these kinds.

    Raises:
        UnsupportedError: anything else, or no call at all.
    """
    found = [_arguments(each) for each in (inputs if isinstance(inputs, list) else [inputs])]
    if not found:
        raise UnsupportedError("inputs: an empty list; give at least one tensor, tuple or dict of arguments")
    return found


def _arguments(each: object) -> tuple[tuple, dict]:
    if isinstance(each, Tensor):
        return (each,), {}
    if isinstance(each, tuple):
        return each, {}
    if isinstance(each, Mapping):
        return (), dict(each)
    raise UnsupportedError(
        f"inputs: found {type(each).__name__}; expected a tensor, a tuple of arguments, a dict of them by name, or a "
        "list of these"
    )


@torch.no_grad()
def call_in_eval(model: nn.Module, inputs: object) -> list[list[Tensor]]:
    """The floating tensors that the model returns for every call, in eval mode; modes are as before afterwards.

    Raises:
        UnsupportedError: inputs that `calls` refuses, or that the model does not run on.
    """
    modes, arguments = {module: module.training for module in model.modules()}, calls(inputs)
    model.eval()
    try:
        return [floats(model(*args, **kwargs)) for args, kwargs in arguments]
    except MXExportError:
        raise
    except Exception as error:  # any code of the user's may run here
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnsupportedError(f"{type(model).__name__} does not run on the inputs given: {first}") from error
    finally:
        for module, training in modes.items():
            module.training = training


def floats(outputs: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
