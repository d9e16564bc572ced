"""How a tensor shows what a stream brings: its axes, taken apart into those of the stream.

Attention splits channels into heads, exchanges axes and joins them again. None of that moves a value in hardware: the
stream stays, and the view says where its axes are. Units ask for the order that they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.fpga.unit import Refused


@dataclass(frozen=True, order=True)
class Atom:
    """A part of an axis that is never taken apart further: atoms of a frame in the order of the stream are sorted by
    `place`. `size` 0: the batch, whose place is before all others. A place of -2: the tensor repeats so often what the
    stream brings once."""

    place: tuple[int, ...]
    size: int

    def split(self, outer: int) -> tuple[Atom, Atom]:
        return Atom((*self.place, 0), outer), Atom((*self.place, 1), self.size // outer)

    @property
    def repeated(self) -> bool:
        return self.place[0] == -2


BATCH = Atom((-1,), 0)
Axis = tuple[Atom, ...]


@dataclass(frozen=True)
class View:
    """`axes` of the tensor, each its atoms from the outermost in; an axis of length one has none."""

    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, sizes: Sequence[int], order: Sequence[int] | None = None) -> View:
        """A tensor [batch, ...] of frames that come as `sizes`, its axes behind the batch in that `order` of them."""
        atoms = [() if n == 1 else (Atom((i,), n),) for i, n in enumerate(sizes)]
        return cls(((BATCH,), *(atoms[i] for i in (range(len(sizes)) if order is None else order))))

    @classmethod
    def of_image(cls, frame: tuple[int, ...], shape: ir.Shape) -> View:
        """A tensor of `shape`, channels first, of frames [H, W, C] or vectors."""
        return (cls.of(frame) if len(frame) == 1 else cls.of(frame, (2, 0, 1))).reshaped(shape)

    @property
    def atoms(self) -> Axis:
        """All of a frame, in the order of the stream."""
        return tuple(sorted(a for axis in self.axes for a in axis if a != BATCH and not a.repeated))

    def transposed(self, perm: Sequence[int]) -> View:
        return View(tuple(self.axes[i] for i in perm))

    def reshaped(self, shape: ir.Shape | Sequence | None) -> View:
        """As a tensor of `shape`, one length of which may be open: that of the batch. Raises Refused where a new axis
        holds parts that are no whole atoms and cannot be made so."""
        if shape is None:
            raise Refused("its output has no known shape; run mx.clean")
        sizes = [d if isinstance(d, int) else None for d in shape]
        found = self._fixed(sizes) if None not in sizes else self._open(sizes)
        if found is None or sum(BATCH in axis for axis in found) != 1:
            raise Refused(f"output shape is {list(shape)}; expected whole parts of {self}")
        return View(tuple(found))

    def _open(self, sizes: list[int | None]) -> list[Axis] | None:
        """The axis of open length takes what the known ones before and behind it leave."""
        if sizes.count(None) != 1:
            return None
        flat = self._joined(self.axes)
        at, middle = flat.index(BATCH), sizes.index(None)
        before, behind = flat[:at], flat[at + 1 :][::-1]
        first = [_taken(before, n, last=False) for n in sizes[:middle]]
        last = [_taken(behind, n, last=True) for n in sizes[:middle:-1]]
        return None if None in first or None in last else [*first, (*before, BATCH, *behind[::-1]), *last[::-1]]

    def _fixed(self, sizes: list[int]) -> list[Axis] | None:
        """Where the batch has a known length it stays the first axis."""
        if not self.axes or self.axes[0] != (BATCH,):
            return None
        flat = self._joined(self.axes[1:])
        found = [_taken(flat, n, last=False) for n in sizes[1:]]
        return None if None in found or flat else [(BATCH,), *found]

    def _joined(self, axes: Sequence[Axis]) -> list[Atom]:
        """All atoms of `axes`; those that stand side by side there and in the stream are one, and can be cut anew."""
        following = dict(zip(self.atoms, self.atoms[1:], strict=False))
        found: list[Atom] = []
        last = None
        for atom in (a for axis in axes for a in axis):
            if last is not None and following.get(last) == atom:
                found[-1] = Atom(found[-1].place, found[-1].size * atom.size)
            else:
                found.append(atom)
            last = atom
        return found

    def trailing(self, axis: int) -> bool:
        """Whether an axis is the last that the stream brings: one vector after the other runs along it."""
        own = self.axes[axis]
        return own == self.atoms[len(self.atoms) - len(own) :]

    def leading(self, axis: int) -> bool:
        """Whether an axis is the first that the stream brings."""
        return self.axes[axis] == self.atoms[: len(self.axes[axis])]

    def groups(self) -> list[Axis]:
        """Atoms of a frame in the order of the stream; those that stand together there and in the tensor are one
        group."""
        found: list[Axis] = []
        for atom in self.atoms:
            if found and any(_follow(axis, found[-1][-1], atom) for axis in self.axes):
                found[-1] = (*found[-1], atom)
            else:
                found.append((atom,))
        return found

    def sizes(self) -> tuple[int, ...]:
        """Lengths of these groups."""
        return tuple(size_of(group) for group in self.groups()) or (1,)

    def around(self, *axes: int) -> tuple[int, int, int]:
        """How many values of a frame come before axes, along them and inside of them. Raises Refused where their atoms
        do not come side by side."""
        own, atoms = tuple(sorted(a for axis in axes for a in self.axes[axis])), self.atoms
        shown = f"axis {axes[0]}" if len(axes) == 1 else f"axes {list(axes)}"
        if not own or own[0] == BATCH or any(a.repeated for a in own):
            raise Refused(f"it looks at {shown} of {self}; expected one of several entries, and not the batch")
        first, mixed = atoms.index(own[0]), any(self.axes[i] != tuple(sorted(self.axes[i])) for i in axes)
        if mixed or own != atoms[first : first + len(own)]:
            apart = "other axes come between its parts; expected a frame that is turned as a whole"
            raise Refused(f"{shown} of {self} does not come in one piece: {apart}")
        return size_of(atoms[:first]), size_of(own), size_of(atoms[first + len(own) :])

    def with_last(self, axis: int, size: int) -> View:
        """An axis that the stream brings last has another length."""
        first = [a for a in self.atoms if a not in self.axes[axis]]
        place = (max((a.place[0] for a in first), default=-1) + 1,)
        new = (Atom(place, size),) if size > 1 else ()
        return View(tuple(new if i == axis % len(self.axes) else own for i, own in enumerate(self.axes)))

    def with_first(self, axis: int, size: int) -> View:
        """An axis that the stream brings first has another length."""
        rest = [a for a in self.atoms if a not in self.axes[axis]]
        places = {old: Atom((i + 1,), old.size) for i, old in enumerate(rest)} | {BATCH: BATCH}
        own = (Atom((0,), size),) if size > 1 else ()
        return View(
            tuple(own if i == axis else tuple(places.get(a, a) for a in other) for i, other in enumerate(self.axes))
        )

    def cut(self, axis: int, size: int) -> View:
        """An axis has so many entries, neighbours or sums of its own."""
        own = self.axes[axis]
        new = (Atom(own[0].place, size),) if size > 1 else ()
        return View(tuple(new if i == axis % len(self.axes) else other for i, other in enumerate(self.axes)))

    def without(self, axis: int) -> View:
        """An axis is gone, such as one that was summed over."""
        axis %= len(self.axes)
        return View((*self.axes[:axis], *self.axes[axis + 1 :]))

    def reordered(self, order: Sequence[Atom]) -> View:
        """The same tensor of a stream that brings its atoms in another order."""
        places = {old: Atom((i,), old.size) for i, old in enumerate(order)} | {BATCH: BATCH}
        return View(tuple(tuple(places.get(a, a) for a in axis) for axis in self.axes))

    def repeated(self, axis: int, count: int) -> View:
        """An axis of one entry has so many, all alike. Raises Refused where another one does already."""
        if self.axes[axis] or any(a.repeated for own in self.axes for a in own):
            raise Refused(f"it repeats axis {axis} of {self}; expected an axis of one entry, and no other repeated")
        return View(tuple((Atom((-2,), count),) if i == axis else own for i, own in enumerate(self.axes)))

    def turned(self, axis: int) -> View:
        """The same tensor of a stream that brings an axis last: what comes behind it now comes first."""
        self.around(axis)
        return self.rotated(self.atoms.index(self.axes[axis][-1]) + 1)

    def rotated(self, first: int) -> View:
        """The same tensor of a stream that brings its first atoms last."""
        return self.reordered([*self.atoms[first:], *self.atoms[:first]])

    def same(self, other: View) -> bool:
        """Whether two tensors of one shape come in the same order."""
        mine, theirs = ([[size_of(g) for g in v._axis_groups(i)] for i in range(len(v.axes))] for v in (self, other))
        repeats = [[[a.size for a in axis if a.repeated] for axis in v.axes] for v in (self, other)]
        if len(self.axes) != len(other.axes) or mine != theirs or repeats[0] != repeats[1]:
            return False
        return [self._home(g) for g in self.groups()] == [other._home(g) for g in other.groups()]

    def _axis_groups(self, axis: int) -> list[Axis]:
        return [g for g in [(BATCH,), *self.groups()] if g[0] in self.axes[axis]]

    def _home(self, group: Axis) -> tuple[int, int]:
        """Where a group stands in the tensor: its axis, and its place there."""
        return next((i, axis.index(group[0])) for i, axis in enumerate(self.axes) if group[0] in axis)

    def to_stream(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor -> frames [N, *shape]."""
        every = [a for axis in self.axes for a in axis]
        spread = x.reshape([a.size or -1 for a in every])[tuple(0 if a.repeated else slice(None) for a in every)]
        return spread.transpose(self._places()).reshape(-1, *shape)

    def to_tensor(self, y: np.ndarray) -> np.ndarray:
        """The inverse: frames [N, ...] -> a tensor."""
        spread = y.reshape(-1, *(a.size for a in self.atoms)).transpose(np.argsort(self._places()))
        every = [a for axis in self.axes for a in axis]
        spread = spread[tuple(None if a.repeated else slice(None) for a in every)]
        whole = np.broadcast_to(spread, [a.size or len(y) for a in every])
        return whole.reshape([math.prod(a.size or len(y) for a in axis) for axis in self.axes])

    def _places(self) -> list[int]:
        """Where each atom of (batch, *atoms) stands among those of the tensor."""
        flat = [a for axis in self.axes for a in axis if not a.repeated]
        return [flat.index(a) for a in (BATCH, *self.atoms)]

    def text(self) -> str:
        """For report.json: every axis as `place:size` of its atoms, `batch`, or `1`."""
        known = self.reordered(self.atoms)
        names = [["batch" if a == BATCH else f"{a.place[0]}:{a.size}" for a in axis] for axis in known.axes]
        return " ".join(",".join(axis) or "1" for axis in names)

    @classmethod
    def read(cls, text: str) -> View:
        """The inverse. Raises ValueError for anything else."""
        axes = []
        for axis in text.split(" "):
            pairs = [] if axis == "1" else [p.split(":") if p != "batch" else None for p in axis.split(",")]
            axes.append(tuple(BATCH if p is None else Atom((int(p[0]),), int(p[1])) for p in pairs))
        return cls(tuple(axes))

    def __str__(self) -> str:
        return " x ".join("·".join(str(a.size or "batch") for a in axis) or "1" for axis in self.axes)


def size_of(atoms: Axis) -> int:
    return math.prod(a.size for a in atoms)


def _taken(rest: list[Atom], size: int, last: bool) -> Axis | None:
    """The first of `rest` whose lengths multiply to `size`, one of them cut where it must be; they leave it. `last`:
    `rest` begins with the innermost. None where no cut gives that."""
    found: list[Atom] = []
    while size > 1:
        atom = rest.pop(0) if rest and rest[0] != BATCH else None
        if atom is None:
            return None
        if size % atom.size:
            if atom.size % size:
                return None
            outer, inner = atom.split(atom.size // size if last else size)
            atom, other = (inner, outer) if last else (outer, inner)
            rest.insert(0, other)
        found.append(atom)
        size //= atom.size
    return tuple(found[::-1] if last else found)


def _follow(axis: Axis, first: Atom, second: Atom) -> bool:
    """Whether two atoms stand side by side in an axis."""
    return any(a == first and b == second for a, b in zip(axis, axis[1:], strict=False))
