"""Options of `compile` and `simulate`, checked before any work."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from numbers import Integral, Real
from pathlib import Path

from mxexport.errors import InputFileError, OptionError
from mxexport.fpga.areas.area import Area
from mxexport.fpga.areas.devices import known_resources, makes_threes, resources
from mxexport.fpga.scheduling import schedule
from mxexport.fpga.scheduling.memory import Place
from mxexport.fpga.unit import Folding
from mxexport.model.yaml_tables import read_yaml

_NUMBERS = tuple(field.name for field in fields(Folding))
_SWITCHES = ("luts", "threes")  # of these numbers, 0 or 1; all others count from 1
_BUSES = (32, 64, 128, 256, 512, 1024)
_FASTEST_CLOCK = 10_000.0  # MHz; beyond it somebody meant Hz


def positive(name: str, value, unit: str, most: float = math.inf) -> float:
    """A finite number above 0 (and up to `most`) as a float. Raises OptionError for anything else."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and 0 < number <= most):
        upper = f" up to {most:g}" if most < math.inf else ""
        raise OptionError(f"{name} is {value!r}; expected a positive number of {unit}{upper}")
    return number


def whole(name: str, value, least: int = 0) -> int:
    """A whole number from `least` on. Raises OptionError for anything else."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} is {value!r}; expected a whole number, {least} or more")
    return int(value)


def clock(value) -> float:
    """`clock_mhz`. Raises OptionError."""
    return positive("clock_mhz", value, "MHz", _FASTEST_CLOCK)


def cycles_per_frame(target_fps, clock_mhz: float) -> int | None:
    """Most cycles that a frame may take; None where no frame rate is asked for. Raises OptionError."""
    if target_fps is None:
        return None
    return max(int(min(clock_mhz * 1e6 / positive("target_fps", target_fps, "frames per second"), 2.0**62)), 1)


def limits(budget, part: str) -> Area | None:
    """`budget`: a table of lut, ff, dsp, bram36, uram, or the share of the part's. None: no limit.

    Raises:
        OptionError: anything else, or a share of a part whose resources are not known.
    """
    if budget is None:
        return None
    names = [field.name for field in fields(Area)]
    if isinstance(budget, Mapping):
        if unknown := [str(name) for name in budget if name not in names]:
            raise OptionError(f"budget: unknown {', '.join(unknown)}; expected some of {', '.join(names)}")
        for name, number in budget.items():
            if not isinstance(number, Real) or isinstance(number, bool) or not 0 <= number < math.inf:
                raise OptionError(f"budget: {name} is {number!r}; expected a number, 0 or more")
        return Area(**dict.fromkeys(names, math.inf) | {name: float(n) for name, n in budget.items()})
    share = positive("budget", budget, "shares of the part", 1)
    held = resources(part)
    if held is None:
        known = ", ".join(known_resources())
        raise OptionError(f"budget: what {part} holds is not known; name numbers, or one of {known}")
    return held * share


def kinds(resources, part: str) -> schedule.Kinds:
    """`resources`: what products are made of, in the order in which it is tried; slices of Versal parts make three
    products of integers. Raises OptionError."""
    known = {"auto": schedule.AUTO, "dsp": schedule.DSP, "lut": schedule.LUTS}
    if resources not in known:
        raise OptionError(f"resources is {resources!r}; expected one of {', '.join(known)}")
    slices = "threes" if makes_threes(part) else "dsp"
    return tuple(slices if kind == "dsp" else kind for kind in known[resources])


def memory(value) -> dict[str, Place] | Place:
    """`memory`: "rom", "load", "stream" or "stream:N" (vectors that a load serves), or a table of layers with these.

    Raises:
        OptionError: anything else.
    """
    if isinstance(value, Mapping):
        return {str(layer): _place(f"memory of {layer!r}", kind) for layer, kind in value.items()}
    return _place("memory", value)


def _place(name: str, value) -> Place:
    kind, _, tile = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind in ("rom", "load") and not tile or kind == "stream" and (not tile or tile.isdecimal() and int(tile) > 0):
        return Place(kind, int(tile or 0))
    raise OptionError(f"{name} is {value!r}; expected rom, load, stream, or stream:N with a number of vectors")


def bus(value) -> int:
    """`memory_bits`: of a beat of weights. Raises OptionError for anything but a power of two from 32 to 1024."""
    if whole("memory_bits", value, 1) not in _BUSES:
        raise OptionError(f"memory_bits is {value}; expected one of {', '.join(map(str, _BUSES))}")
    return int(value)


def probability(name: str, value) -> float:
    """A number from 0 up to, not including, 1. Raises OptionError for anything else."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not 0 <= number < 1:
        raise OptionError(f"{name} is {value!r}; expected a probability from 0 up to, not including, 1")
    return number


def foldings(value, part: str) -> dict[str, tuple[int, ...]]:
    """`folding`: layer name -> (pe, simd), then taps, pixels, luts (1: no DSP slices) and threes (1: three
    products in a slice of Versal parts), or the path of a YAML file that holds it: `conv1: {pe: 4, simd: 8}`, as
    `compile` writes it to folding.yaml.

    Raises:
        OptionError: anything else.
        InputFileError: a file that cannot be read.
    """
    if value is None:
        return {}
    if isinstance(value, (str, os.PathLike)):
        value = _read_foldings(Path(value))
    if not isinstance(value, Mapping):
        raise OptionError(f"folding is {value!r}; expected a dict of layer name -> (pe, simd)")
    for name, pair in value.items():
        pair = tuple(pair) if isinstance(pair, list) else pair
        fits = isinstance(pair, (tuple, list)) and 2 <= len(pair) <= len(_NUMBERS)
        if (
            not isinstance(name, str)
            or not fits
            or not all(map(_is_whole, pair[:4]))
            or not all(n in (0, 1) for n in pair[4:])
        ):
            raise OptionError(f"folding of {name!r} is {pair!r}; expected two whole numbers, (pe, simd)")
    found = {name: tuple(int(n) for n in pair) for name, pair in value.items()}
    in_threes = [name for name, pair in found.items() if Folding(*pair).threes]
    if in_threes and not makes_threes(part):
        one = f"folding of {in_threes[0]!r} has three products in a slice"
        raise OptionError(f"{one}; those of {part} make two: leave `threes` out, or name a Versal part")
    return found


def _read_foldings(path: Path) -> dict:
    try:
        found = read_yaml(path)
    except InputFileError as error:
        raise InputFileError(f"{path}: no folding can be read from it: {error}") from None
    if not isinstance(found, dict):
        raise OptionError(f"{path} holds {type(found).__name__}; expected a table of layer: {{pe: …, simd: …}}")
    pairs = {}
    for name, entry in found.items():
        if not isinstance(entry, dict) or not {"pe", "simd"} <= set(entry) <= set(_NUMBERS):
            raise OptionError(f"{path}: folding of {name!r} is {entry!r}; expected {{pe: …, simd: …}}")
        pairs[str(name)] = tuple(entry.get(number, int(number not in _SWITCHES)) for number in _NUMBERS)
    return pairs


def folding_text(layers: Mapping[str, Folding]) -> str:
    """What `foldings` reads."""
    import yaml

    numbers = {layer: asdict(f) for layer, f in layers.items()}
    table = {
        layer: {k: n for k, n in row.items() if k in ("pe", "simd") or n > (k not in _SWITCHES)}
        for layer, row in numbers.items()
    }
    return yaml.safe_dump(table, sort_keys=False, allow_unicode=True)


def _is_whole(n) -> bool:
    return isinstance(n, Integral) and not isinstance(n, bool) and n > 0
