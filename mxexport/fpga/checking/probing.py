"""Looking into a running simulation: the words of streams, stalls at FIFOs, and who waits for whom in a standstill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mxexport.errors import OptionError
from mxexport.fpga.network import Instance
from mxexport.fpga.scheduling import copies
from mxexport.fpga.streams.types import Blocks
from mxexport.fpga.tools.simulator import Seen
from mxexport.fpga.writing.emit import Cell, Design


def probed(design: Design, names: Iterable[str]) -> list[Instance]:
    """The units that `names` mean: layers (all their units) or single units such as `conv1.quantize`.

    Raises:
        OptionError: a name that is neither.
    """
    instances, found = design.network.instances, []
    for name in names:
        meant = [i for i in instances if name in (i.name, i.layer)]
        if not meant:
            known = ", ".join(dict.fromkeys(i.layer for i in instances))
            raise OptionError(f"probe: no layer or unit called {name!r}; layers: {known}")
        found += [i for i in meant if i not in found]
    return found


def beats_of(design: Design, instance: Instance, frames: int) -> int:
    """Of so many frames, in all turns of each."""
    lanes = copies.lanes(instance.unit, design.foldings[instance.name])[1]
    return len(instance.unrolled) * frames * instance.unit.result.beats(lanes)


def words_of(design: Design, instance: Instance, seen: Seen) -> dict[str, np.ndarray]:
    """What a unit put out, by the values of its node in dataflow.onnx: wide integers, or codes and scale codes. Whole
    frames alone: a simulation ends with the last output, which may not wait for all that is on its way."""
    kind, lanes = instance.unit.result, copies.lanes(instance.unit, design.foldings[instance.name])[1]
    whole = len(seen.beats) - len(seen.beats) % kind.beats(lanes)
    found = kind.unpack(seen.beats[:whole], lanes)
    return dict(zip(instance.values, found if isinstance(kind, Blocks) else (found,), strict=True))


def first_difference(
    found: Mapping[str, Mapping[str, np.ndarray]], expected: Mapping[str, np.ndarray]
) -> tuple[str, str] | None:
    """(unit, what differs) of the first unit in stream order whose words are not those of the dataflow graph."""
    for unit, words in found.items():
        for value, array in words.items():
            wanted = expected[value][: len(array)]
            if (differ := array != wanted).any():
                where = tuple(int(i) for i in np.argwhere(differ)[0])
                text = f"{value!r} at {where}: RTL {array[where]}, dataflow {wanted[where]}; {int(differ.sum())} differ"
                return unit, text
    return None


def watched(design: Design) -> list[str]:
    """The links in front of FIFOs."""
    return [cell.sources[0].name for cell in design.cells if cell.name in design.fifos]


def stalls(design: Design, seen: Mapping[str, Seen]) -> dict[str, int]:
    """FIFO -> cycles in which it was full while a beat waited."""
    return {cell.name: seen[cell.sources[0].name].stalled for cell in design.cells if cell.name in design.fifos}


def who_waits(design: Design, seen: Mapping[str, Seen]) -> str:
    """The units that wait for each other in a standstill, in words; those on a circle where there is one."""
    maker = {link.name: cell for cell in design.cells for link in (*cell.sinks, *cell.verdicts) if not link.port}
    reasons: dict[str, list[tuple[str, str]]] = {}
    for cell in design.cells:
        for link in cell.sources:
            state = seen.get(link.name)
            if state is None or (state.valid and state.ready):
                continue
            other = maker[link.name]
            if not state.valid:
                reasons.setdefault(cell.name, []).append((other.name, f"{_called(cell)} waits for {_called(other)}"))
            else:
                text = f"{_called(other)} holds a beat that {_called(cell)} does not take"
                reasons.setdefault(other.name, []).append((cell.name, text))
    circle = _circle({name: [other for other, _ in found] for name, found in reasons.items()})
    texts = [text for name, found in reasons.items() for other, text in found if not circle or {name, other} <= circle]
    return "; ".join(texts) or "no unit holds a beat: the input has ended"


def _called(cell: Cell) -> str:
    depth = f" of {cell.parameters['Depth']}" if cell.module == "mx_fifo" else ""
    return f"{cell.name} ({cell.module}{depth})"


def _circle(graph: Mapping[str, list[str]]) -> set[str]:
    """Nodes of the first circle found, if any."""
    done: set[str] = set()

    def search(path: list[str]) -> list[str]:
        for other in graph.get(path[-1], []):
            if other in path:
                return path[path.index(other) :]
            if other not in done and (found := search([*path, other])):
                return found
        done.add(path[-1])
        return []

    return next((set(found) for start in graph if start not in done and (found := search([start]))), set())
