"""What a layer may be given: formats of weight and activation, or float; and a whole network's choice as a table."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mxexport.errors import FormatError
from mxexport.numbers.formats import get_format

FLOAT = "float"

Assignment = Mapping[str, str]
"""Layer -> text of a choice."""


@dataclass(frozen=True)
class Choice:
    """Names of formats; None keeps that side in float."""

    weight: str | None
    activation: str | None

    @property
    def text(self) -> str:
        """ "mxint8" where both sides have it, "mxfp4_e2m1/mxint8" for weight and activation, "float"."""
        sides = [FLOAT if side is None else side for side in (self.weight, self.activation)]
        return sides[0] if sides[0] == sides[1] else "/".join(sides)

    @classmethod
    def of(cls, text: str) -> Choice:
        weight, _, activation = text.partition("/")
        sides = [None if side == FLOAT else get_format(side).name for side in (weight, activation or weight)]
        return cls(*sides)

    def entry(self) -> str | None | dict[str, str | None]:
        """What `formats=` of `quantize_model` takes for a layer."""
        if self.weight == self.activation:
            return self.weight
        return {"weight": self.weight, "activation": self.activation}


def choices_of(formats: Iterable[object]) -> tuple[Choice, ...]:
    """The choices that `formats` of `search` names, in its order, the first of which is the reference.

    Raises:
        FormatError: an unknown format, something else than a name, a pair or None, one given twice, or fewer than two.
    """
    if isinstance(formats, (str, Mapping)) or not isinstance(formats, Iterable):
        raise FormatError(f"formats is {formats!r}; expected a list such as ['mxint8', ('mxfp4_e2m1', 'mxint8')]")
    found = tuple(_choice(value) for value in formats)
    texts = [choice.text for choice in found]
    if len(set(texts)) < max(len(texts), 2):
        raise FormatError(f"formats: found {', '.join(texts) or 'none'}; expected two or more, each once")
    if found[0].text == FLOAT:
        raise FormatError("formats: the first is float; expected a format there: others are measured against it")
    return found


def _choice(value: object) -> Choice:
    if value is None:
        return Choice(None, None)
    if isinstance(value, str):
        return Choice.of(value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(s is None or isinstance(s, str) for s in value):
        return Choice.of("/".join(FLOAT if side is None else side for side in value))
    raise FormatError(
        f"formats: found {value!r}; expected a format name, a pair of them (weight, activation), or None for float"
    )


def format_table(assignment: Assignment) -> dict[str, str | None | dict[str, str | None]]:
    """What `quantize_model` takes as `formats=`: an entry for every layer."""
    return {glob.escape(layer): Choice.of(text).entry() for layer, text in assignment.items()}
