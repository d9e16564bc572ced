"""What a checkpoint's config says of its layers, whichever tool wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from mxexport.errors import UnsupportedError
from mxexport.frontends.inputs import ToolInput, Zeros
from mxexport.numbers.formats import ScaleRule, get_format
from mxexport.quant import Quantizer, QuantLayer

MakeInput = Callable[[Mapping[str, Tensor]], Quantizer | None]
"""The tensors of a layer -> the quantizer of its input. Raises UnsupportedError."""


@dataclass(frozen=True)
class LayerPlan:
    """`quantized`: whether the layer's weight should be; None where the config does not say. `six_bits`: the format of
    codes of 6 bits."""

    quantized: bool | None
    make_input: MakeInput = lambda tensors: None
    six_bits: str | None = None


class Plan(Protocol):
    tool: str

    def layer(self, name: str, module: nn.Module) -> LayerPlan:
        """Raises UnsupportedError for what is not carried."""


FLOAT = LayerPlan(False)


def dynamic_input(fmt: str, rule: ScaleRule, zeros: Zeros = "kept") -> MakeInput:
    """Groups along the last axis under power-of-two scales found at run time."""
    return lambda tensors: ToolInput(get_format(fmt), QuantLayer.input_axis, rule, zeros=zeros)


def table(config: Mapping, key: str, where: str) -> Mapping:
    """The table `config[key]`. Raises UnsupportedError."""
    found = config.get(key)
    if not isinstance(found, Mapping):
        raise UnsupportedError(f"{where}: {key!r} is {short(found)}; expected a table")
    return found


def names(config: Mapping, key: str, where: str) -> list[str]:
    """The list of strings `config[key]`; none where there is none. Raises UnsupportedError."""
    found = config.get(key)
    found = [] if found is None else found
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UnsupportedError(f"{where}: {key!r} is {short(found)}; expected a list of names")
    return found


def refuse_set(config: Mapping, keys: Mapping[str, str], where: str) -> None:
    """Raise UnsupportedError where one of `keys` (key -> what it would do) is set to anything."""
    for key, what in keys.items():
        if config.get(key):
            raise UnsupportedError(f"{where}: {key!r} is set, which {what}; that is not carried")


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


_LONGEST, _MOST_REPEATS = 500, 8


def matches_regex(pattern: str, name: str) -> bool:
    """`re.match`, for patterns of somebody else's: not for those that may take forever.

    Raises:
        UnsupportedError: no regular expression, or one that repeats what repeats itself, or repeats very often.
    """
    repeats = re.findall(r"(?<!\\)(?:\\\\)*[*+{]", pattern)
    nested = re.search(r"[*+{][^()]*\)\s*[*+{]", pattern)
    if len(pattern) > _LONGEST or len(repeats) > _MOST_REPEATS or nested:
        raise UnsupportedError(f"the pattern {short(pattern)} could take forever to match; name the layers instead")
    try:
        return re.match(pattern, name) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise UnsupportedError(f"{short(pattern)} is no regular expression: {error}") from error
