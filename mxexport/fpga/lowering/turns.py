"""Layers that repeat, prepared to become one piece of hardware that a frame passes several times: equal ranges, one
fixed-point type between turns, units alike in all but their constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from mxexport.errors import UnsupportedError
from mxexport.fpga.lowering import repeats
from mxexport.fpga.lowering.calibrate import is_range, set_range
from mxexport.fpga.streams.types import Stream
from mxexport.fpga.unit import Unit
from mxexport.model import graph
from mxexport.model.editing import Editor, bypass
from mxexport.model.rewriting import constant
from mxexport.numbers import spatial
from mxexport.running import executors

WIDTH = 26
"""Bits of the values that go around: float32 knows 24 of the largest."""
TURN, TURN_OF = "turn", "turn_of"
"""Keys of metadata of dataflow nodes: the number of the turn, and the node of the first turn in whose hardware it is
computed."""


@dataclass(frozen=True)
class Turns:
    """`places`: node -> (turn, place in it), those at one place alike; `ends`: Clip nodes behind which the tensors of
    turns have `lsb_exp` and `WIDTH` bits."""

    count: int
    places: dict[ir.Node, tuple[int, int]]
    ends: frozenset[ir.Node]
    lsb_exp: int


def prepare(model: ir.Model, inputs: Mapping[str, np.ndarray], margin: int = 1) -> Turns:
    """Find the layers of a calibrated graph that repeat, and give them equal ranges: scale codes, and limits of what
    norms read, become those of all turns together; every tensor between two turns is clipped to one power of two,
    `margin` bits above what `inputs` (by name) bring about.

    Raises:
        OptionError: no layers repeat.
        UnsupportedError: what goes around is no finite number other than 0.
    """
    found = repeats.find(model)
    for same in zip(*found.turns, strict=True):
        _give_one_range(same)
    top = _top(model, found.ends, inputs) + margin
    clips = _clip_ends(model, found.ends, top)
    places: dict[ir.Node, tuple[int, int]] = {}
    for turn, nodes in enumerate(found.turns):
        kept = [n for n in nodes if n.graph is not None]
        places |= {node: (turn, place) for place, node in enumerate([*kept, clips[turn + 1]])}
    return Turns(len(found.turns), places, frozenset(clips), top - (WIDTH - 1))


def _give_one_range(same: tuple[ir.Node, ...]) -> None:
    """To nodes of one place, where calibration gave each its own."""
    if graph.is_ours(same[0], {"MXScale"}):
        low, high = (f(n.attributes[k].value for n in same) for f, k in ((min, "code_min"), (max, "code_max")))
        for node in same:
            set_range(node, low, high)
    if is_range(same[0]):
        for i, f in ((1, min), (2, max)):
            end = np.array(f(float(constant(n.inputs[i])) for n in same), np.float32)
            for node in same:
                node.inputs[i].const_value = ir.tensor(end, name=node.inputs[i].name)


def _top(model: ir.Model, ends: tuple[ir.Value, ...], inputs: Mapping[str, np.ndarray]) -> int:
    """The exponent of the smallest power of two that none of these tensors passes."""
    names = [v.name for v in ends if not v.is_graph_input()]
    arrays = executors.run(model, inputs, names) | {v.name: inputs[v.name] for v in ends if v.is_graph_input()}
    largest = max(float(np.abs(arrays[v.name]).max()) for v in ends)
    if not 0 < largest < np.inf:
        raise UnsupportedError(f"in_turn: what goes around reaches {largest}; expected finite numbers other than 0")
    mantissa, exponent = math.frexp(largest)
    return exponent - (mantissa == 0.5)


def _clip_ends(model: ir.Model, ends: tuple[ir.Value, ...], top: int) -> list[ir.Node]:
    """A Clip behind each tensor, for all that read it, in place of one that calibration put there."""
    editor, found = Editor(model), []
    limits = [
        editor.constant(f"turns_{name}", np.float32(s * 2.0**top)) for name, s in (("lowest", -1), ("highest", 1))
    ]
    for value in ends:
        readers = [use.node for use in value.uses()]
        where = {"before": readers[0]} if value.producer() is None else {"after": value.producer()}
        clipped = editor.node("Clip", [value, *limits], name=f"{value.name}.turn", like=value, **where)
        node = clipped.producer()
        if value.is_graph_output():
            bypass(value, clipped)
        else:
            value.replace_all_uses_with(clipped)
        node.replace_input_with(0, value)
        for reader in readers:
            if is_range(reader) and not reader.outputs[0].is_graph_output():
                reader.outputs[0].replace_all_uses_with(clipped)
                editor.drop(reader)
        found.append(node)
    editor.finish()
    return found


# --- units alike ------------------------------------------------------------------------------------------------------

Make = Callable[..., Unit]
_Key = tuple[int, str, int]  # place of the node, kind of unit, how manieth


@dataclass
class Alike:
    """Makes the units of all turns together where the first turn is lowered. What each turn would make is learnt from
    the lowering before (`makes`): the first one only learns."""

    turns: Turns
    makes: Mapping[tuple[int, _Key], Make] = field(default_factory=dict)
    learnt: dict[tuple[int, _Key], Make] = field(default_factory=dict)
    units: dict[_Key, list[Unit]] = field(default_factory=dict)
    names: dict[_Key, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Nodes whose units are not known to be alike yet."""
    _counts: dict[tuple[ir.Node, str], int] = field(default_factory=dict)

    def unit(
        self, make: Make, types: tuple[Stream, ...], node: ir.Node, kind: str
    ) -> tuple[Unit, tuple[int, _Key] | None]:
        """The unit of a node, and which it is where it is part of a turn."""
        if node not in self.turns.places:
            return make(*types), None
        turn, place = self.turns.places[node]
        number = self._counts[node, kind] = self._counts.get((node, kind), -1) + 1
        key = (place, kind, number)
        self.learnt[turn, key] = make
        if turn == 0:
            return self._first(make, types, node, key), (0, key)
        same = self.units.get(key)
        if same is None or len(same) <= turn or same[turn].sources != types:
            self.missing.append(node.name)
            return make(*types), (turn, key)
        return same[turn], (turn, key)

    def _first(self, make: Make, types: tuple[Stream, ...], node: ir.Node, key: _Key) -> Unit:
        makes = [make, *(self.makes.get((t, key)) for t in range(1, self.turns.count))]
        if None in makes:
            self.missing.append(node.name)
            makes = [make]
        self.units[key] = made_alike(node.name, [f(*types) for f in makes])
        return self.units[key][0]

    def marks(self, which: tuple[int, _Key] | None, name: str) -> dict[str, str]:
        """Metadata of the dataflow node called `name`."""
        if which is None:
            return {}
        turn, key = which
        self.names.setdefault(key, name)
        return {TURN: str(turn), TURN_OF: self.names[key]}

    def again(self) -> Alike:
        """For the next lowering."""
        return Alike(self.turns, self.learnt)


def made_alike(name: str, units: list[Unit]) -> list[Unit]:
    """Units of one place with equal results and attributes, made so by their class where constants decide these.

    Raises:
        UnsupportedError: they differ in something else; says in what.
    """
    kind = type(units[0])
    if len({type(u) for u in units}) == 1 and hasattr(kind, "alike"):
        units = kind.alike(units)
    first = _told(units[0])
    for turn, unit in enumerate(units):
        other = _told(unit)
        if other != first:
            key = next(k for k in first if first[k] != other.get(k))
            found = f"turn {turn} of {name!r} has the {key} {other.get(key)}, turn 0 {first[key]}"
            raise UnsupportedError(f"in_turn: {found}; layers in turn may differ in weights, biases, gains and offsets")
    return units


def _told(unit: Unit) -> dict:
    """What units of one place must have alike: constants, too, where their class does not hold several."""
    held = hasattr(type(unit), "alike")
    constants = {} if held else {k: (a.shape, a.tobytes()) for k, a in unit.constants().items()}
    return {"unit": type(unit).__name__, "result": unit.result} | unit.attributes() | constants


def widest(units: list[Unit]) -> list[Unit]:
    """Units whose results differ in width alone, all with the largest."""
    width = max(u.result.width for u in units)
    return [replace(u, width=width) for u in units]


def in_coarsest_step(units: list[Unit], *constants: str) -> list[Unit]:
    """Units with these constants in the coarsest step (`lsb_exp`) that one of them has, rounded; results as wide as the
    widest."""
    lsb_exp = max(u.lsb_exp for u in units)

    def coarser(unit: Unit) -> dict[str, np.ndarray]:
        step = 1 << (lsb_exp - unit.lsb_exp)
        return {name: spatial.divide(getattr(unit, name), step) for name in constants}

    return widest([replace(u, lsb_exp=lsb_exp, **coarser(u)) for u in units])
