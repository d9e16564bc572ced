"""The contract of a hardware unit: everything the compiler asks of one, stated in its class in `units/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from mxexport.fpga.streams.types import Blocks, Stream
from mxexport.ops import Operator

if TYPE_CHECKING:
    from mxexport.fpga.areas.area import Parts
    from mxexport.fpga.datapaths.windows import Window
    from mxexport.fpga.lowering.lowering import Lowering


UnitT = TypeVar("UnitT")


class Refused(Exception):
    """One node cannot be taken; carries the reason and what to do. `node`: which, if not the one asked about."""

    def __init__(self, reason: str, node: ir.Node | None = None):
        super().__init__(reason)
        self.node = node


@dataclass(frozen=True)
class Folding:
    """How much of a unit works at once: `simd` lanes come in, `pe` lanes go out per cycle, of each of `pixels` vectors
    side by side. `taps`: of its windows; with several, or several pixels, whole vectors come in. `luts`: 1 where
    products that could take DSP slices are made of LUTs. `threes`: 1 where a slice makes three products of integers,
    as those of Versal parts can."""

    pe: int
    simd: int
    taps: int = 1
    pixels: int = 1
    luts: int = 0
    threes: int = 0

    def __str__(self) -> str:
        more = [f"{name}={n}" for name, n in (("taps", self.taps), ("pixels", self.pixels)) if n > 1]
        return ", ".join(
            [f"pe={self.pe}", f"simd={self.simd}", *more, *["in LUTs"] * self.luts, *["in threes"] * self.threes]
        )

    @property
    def at_once(self) -> int:
        """Pixels that windows take with all of their taps (parameter Pixels); 0: one tap after the other."""
        return self.pixels if self.taps > 1 else 0

    @property
    def work(self) -> int:
        """What is done at once, to compare foldings of one unit."""
        return self.pe * self.simd * self.taps * self.pixels


_TOGETHER = 32  # lanes to whose multiple vectors are filled up: elements of an MX block


def lane_counts(most: int) -> list[int]:
    """Numbers of lanes for vectors of `most`: powers of two up to the first that holds all; whole blocks that do."""
    powers = [1 << i for i in range((most - 1).bit_length() + 1)]
    return sorted({*powers, min(powers[-1], -(-most // _TOGETHER) * _TOGETHER)})


def equal_parts(length: int) -> list[int]:
    """Powers of two that divide a row of `length` vectors: how many may go side by side."""
    return [n for n in (1 << i for i in range(length.bit_length())) if length % n == 0]


def lane_foldings(most: int) -> list[Folding]:
    """Of a unit whose lanes go in and out alike."""
    return [Folding(n, n) for n in lane_counts(most)]


def block_foldings(source: Blocks) -> list[Folding]:
    """The same of one that takes blocks: parts of one, or so many whole ones that all beats of a vector are full."""
    across = [n for n in range(2, source.blocks + 1) if source.blocks % n == 0]
    return [f for f in lane_foldings(source.group_size) if f.simd <= source.group_size] + [
        Folding(n * source.group_size, n * source.group_size) for n in across
    ]


@dataclass(frozen=True)
class Memory:
    """Content of one ROM: integers [words, fields], `width` bits a field."""

    fields: np.ndarray
    width: int


@dataclass(frozen=True)
class Held:
    """An input of which a unit holds `frames` whole frames: an output vector comes `latency` cycles behind the last
    vector of its frame at the earliest, and a frame leaves with its last output vector."""

    latency: int
    frames: int


@dataclass(frozen=True)
class Timing:
    """When vectors come out, where nothing stalls: vector j at the later of `latency` cycles behind the arrival of
    input vector `needs[j]` (of every input, counted inside a frame; those beyond it are of the next one) and `cadence`
    cycles behind vector j - 1."""

    needs: np.ndarray
    cadence: float
    latency: int
    window: tuple[Window, tuple[int, ...]] | None = None
    """The windows that hold input back in a line buffer, and the shape of a frame that comes."""
    share: float | np.ndarray = 1.0
    """Of the last vector that is needed, what must have come: for all vectors that come out, or of each."""
    beyond: float = 1.0
    """Cycles for each input vector that is waited for behind the last frame, where none comes."""
    held: tuple[Held, ...] = ()
    """The inputs behind the first, where whole frames of them are held: `needs` then speaks of the first alone."""
    tile: int = 1
    """Vectors that come out together where the unit was idle before, `within` cycles apart, not `cadence`."""
    within: float = 0.0


class Unit(Protocol):
    """A unit with all its numbers: one node of the dataflow graph, one instance of `module` in the top level.

    Attributes of the class:
        operator: its node in the dataflow graph; schema, golden model and ONNX body stand there.
        module: its SystemVerilog module.
        clocked: whether the module has `aclk` and `aresetn`.
        status: outputs besides the streams -> bits: `error_o` (sticky), counters.
        vectorwise: whether an output vector depends on the input vectors at its place alone, and takes as long as any.
        memory_kinds: the ROMs it may have; the module reads `weight` from the file that its parameter WeightFile names.
        lowers: operators of QONNX graphs that `lower` is asked about, as (domain, op_type).
    """

    operator: ClassVar[type[Operator]]
    module: ClassVar[str]
    clocked: ClassVar[bool]
    status: ClassVar[Mapping[str, int]]
    memory_kinds: ClassVar[tuple[str, ...]]
    vectorwise: ClassVar[bool]
    lowers: ClassVar[tuple[tuple[str, str], ...]]

    @classmethod
    def lower(cls, node: ir.Node, low: Lowering) -> bool:
        """Add the units that compute a node of a QONNX graph; False: it is for another unit. Raises Refused with the
        reason and what to do."""

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple[Stream, ...]) -> Unit:
        """The unit that a node of a dataflow graph stands for: the inverse of `attributes`."""

    @property
    def sources(self) -> tuple[Stream, ...]:
        """What it takes in."""

    @property
    def result(self) -> Stream:
        """What it puts out, with exact widths."""

    def attributes(self) -> dict[str, int | list[int]]:
        """Of its node; every attribute that the operator declares."""

    def constants(self) -> dict[str, np.ndarray]:
        """Inputs of its node behind its streams, by the end of their names."""

    def metadata(self) -> dict[str, str]:
        """Of its node: formats in words."""

    def describe(self) -> str:
        """Of its node, in words."""

    def comment(self, layer: str, folding: Folding) -> str:
        """Above its instance, in words."""

    def foldings(self) -> list[Folding]:
        """Every legal one, slowest first; among equals the one with less logic around the multipliers. Copies side by
        side (`scheduling/copies.py`) come on top where it is `vectorwise`; others state what they make of several
        pixels."""

    def lanes(self, folding: Folding) -> tuple[int, int]:
        """Lanes of its input streams and of its output stream."""

    def parameters(self, folding: Folding) -> dict[str, int]:
        """SystemVerilog parameters that no attribute states (see `parameters_of`)."""

    def memories(self, folding: Folding) -> dict[str, Memory]:
        """Contents of its ROMs by kind; an unused one is left out."""

    def cycles(self, folding: Folding) -> int:
        """Cycles that a frame occupies it."""

    def timing(self, folding: Folding) -> Timing:
        """How a frame passes through it."""

    def through(self, folding: Folding) -> bool:
        """Whether its s_axis_tready depends on m_axis_tready in the same cycle: a register stands before it then, or
        clock enables would ripple from unit to unit."""

    def parts(self, folding: Folding) -> Parts:
        """What its module is made of, by kinds that the area model weighs (`area.fitted`)."""

    def bound(self, *inputs: np.ndarray) -> np.ndarray | None:
        """How far the QONNX graph, which computes in float32, may be off for these inputs (real numbers, float64);
        None: not at all, the results are equal as float32."""


def in_width(unit: UnitT, width: int) -> UnitT:
    """The unit, whose field `width` says how wide its result is at least, with that of its node."""
    return unit if width <= unit.result.width else replace(unit, width=width)


def parameters_of(unit: Unit, folding: Folding, files: Mapping[str, str]) -> dict[str, int | str]:
    """All SystemVerilog parameters of an instance: those that attributes of its node state, under the names that stand
    on the operator's declaration; those of its folding; and its memory files by kind."""
    declared, values = unit.operator.attributes, unit.attributes()
    named: dict[str, int | str] = {}
    for name, attribute in declared.items():
        numbers = values[name] if attribute.kind == "ints" else [values[name]]
        named |= dict(zip(attribute.rtl.split(), numbers, strict=False))
    return named | unit.parameters(folding) | {f"{kind.capitalize()}File": file for kind, file in files.items()}
