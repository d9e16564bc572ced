"""Which layer gets which formats: defaults, entries by name or shell pattern, exclusions; from a dict or a file."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from mxexport.errors import FormatError, UnsupportedError
from mxexport.model.yaml_tables import read_table
from mxexport.numbers.formats import GroupFormat, ScaleRule, check_rule, get_format
from mxexport.quant.layers.bias import check_bias_format
from mxexport.quant.layers.recurrent import AS_ACTIVATION
from mxexport.quant.quantizers.spec import Format, QuantSpec

KEYS = ("weight", "activation", "scale_rule", "bias_format", "hidden", "cell")


@dataclass(frozen=True)
class LayerFormats:
    """Formats of one layer; None keeps that side in float.

    `hidden`, `cell`: of the states of a recurrent layer, which other layers have not.
    """

    weight: GroupFormat | QuantSpec | None
    activation: GroupFormat | QuantSpec | None
    scale_rule: ScaleRule = "floor"
    bias_format: str = "float"
    hidden: GroupFormat | QuantSpec | str | None = AS_ACTIVATION
    cell: GroupFormat | QuantSpec | None = None


@dataclass(frozen=True)
class FormatTable:
    """Defaults, then entries in order (a later one overrides the keys it names), then exclusions.

    A pattern matches a module when it matches its dotted name or that of a module around it: "encoder" means all of
    the encoder.
    """

    defaults: LayerFormats
    entries: tuple[tuple[str, dict], ...] = ()
    exclude: tuple[str, ...] = ()

    def formats_of(self, names: Sequence[str]) -> LayerFormats:
        """Formats of a module that goes by `names` (several where it is shared)."""
        chosen = self.defaults
        for keys in self.entries_of(names):
            chosen = replace(chosen, **keys)
        return chosen

    def entries_of(self, names: Sequence[str]) -> list[dict]:
        """The entries for a module that goes by `names`, in order."""
        return [keys for pattern, keys in self.entries if matches(pattern, names)]

    def excluding_pattern(self, names: Sequence[str]) -> str | None:
        """The pattern that excludes this module, or None."""
        return next((pattern for pattern in self.exclude if matches(pattern, names)), None)

    def check_patterns(self, model: nn.Module, to_come: Sequence[str] = ()) -> None:
        """Raise UnsupportedError when a pattern matches no module of `model`: most likely a misspelt name.

        `to_come`: names of children that modules will get, with a number behind ("product": product_1, product_2).
        """
        known = [name for name, _ in model.named_modules(remove_duplicate=False)]
        for what, patterns in (("exclude", self.exclude), ("formats", [pattern for pattern, _ in self.entries])):
            for pattern in patterns:
                holder, _, child = pattern.rpartition(".")
                told = holder if child.rpartition("_")[0] in to_come else pattern
                if not fnmatch.filter(known, told):
                    shown = ", ".join(filter(None, known))
                    raise UnsupportedError(f"{what}: {pattern!r} matches no module; modules: {shown}")


def matches(pattern: str, names: Sequence[str]) -> bool:
    """Whether `pattern` matches one of `names` or a module around it."""
    around = {name.rsplit(".", cut)[0] for name in names for cut in range(name.count(".") + 1)}
    return any(fnmatch.fnmatchcase(name, pattern) for name in around)


def format_table(
    weight: Format,
    activation: Format,
    scale_rule: ScaleRule,
    bias_format: str,
    exclude: str | Sequence[str],
    formats: Mapping | str | os.PathLike | None,
) -> FormatTable:
    """The table that the arguments of `quantize_model` describe.

    Raises:
        FormatError: unknown format, scale rule or key.
        InputFileError: a file that is missing or is not a table of patterns.
    """
    where = "formats"
    if isinstance(formats, (str, os.PathLike)):
        formats, where = _read(Path(formats)), str(formats)
    defaults = LayerFormats(
        **_checked(
            {"weight": weight, "activation": activation, "scale_rule": scale_rule, "bias_format": bias_format}, ""
        )
    )
    if formats is not None and not isinstance(formats, Mapping):
        raise FormatError(f"formats: expected a table of module names or patterns, or a path, found {formats!r}")
    entries = tuple((_name(key, where), _entry(value, f"{where}: {key!r}: ")) for key, value in (formats or {}).items())
    if not isinstance(exclude, (str, Sequence, Set)):
        raise FormatError(f"exclude: expected module names or patterns, found {exclude!r}")
    exclude = tuple(_name(name, "exclude") for name in ((exclude,) if isinstance(exclude, str) else exclude))
    return FormatTable(defaults, entries, exclude)


def _name(key, where: str) -> str:
    if not isinstance(key, str):
        raise FormatError(f"{where}: {key!r} is no module name or pattern; if it is one, write it in quotes ('{key}')")
    return key


def _entry(value, where: str) -> dict:
    """Any subset of `KEYS`; a format or `QuantSpec` alone, or null, means weight and activation."""
    if value is None or isinstance(value, (str, GroupFormat, QuantSpec)):
        value = {"weight": value, "activation": value}
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}found {value!r}; expected a format name or a table of {', '.join(KEYS)}")
    if unknown := sorted(set(map(str, value)) - set(KEYS)):
        raise FormatError(f"{where}unknown key {unknown[0]!r}; expected {', '.join(KEYS)}")
    return _checked(dict(value), where)


def _checked(keys: dict, where: str) -> dict:
    try:
        for side in ("weight", "activation", "hidden", "cell"):
            if keys.get(side) == AS_ACTIVATION and side == "hidden":
                continue
            if isinstance(keys.get(side), Mapping):
                keys[side] = QuantSpec.from_mapping(keys[side])
            elif keys.get(side) is not None and not isinstance(keys[side], QuantSpec):
                keys[side] = get_format(keys[side])
        if "scale_rule" in keys:
            check_rule(keys["scale_rule"])
        if "bias_format" in keys:
            check_bias_format(keys["bias_format"])
    except FormatError as error:
        raise FormatError(f"{where}{error}") from None
    return keys


def _read(path: Path) -> Mapping:
    return read_table(path, "module names or patterns")
