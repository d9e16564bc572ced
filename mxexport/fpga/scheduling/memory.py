"""Where weights lie: in the bitstream, in memory that is filled once through a port, or outside, read for every frame.

The choice is made for each product and changes no result; a product whose weights come from outside is another unit of
hardware (units/fed_matmul.py), and what sends them stands before it in the top level (emit.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mxexport.errors import OptionError
from mxexport.fpga.areas.devices import resources
from mxexport.fpga.datapaths.stacked import turns_of
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.unit import Folding, Unit
from mxexport.fpga.units.fed_matmul import FedMatMul
from mxexport.fpga.units.matmul import MatMul

BUS = 128
"""Bits of a beat of weights: what a high performance port of a Zynq has."""
_TILE = 8  # vectors, at most, that a load serves where nothing else is asked for


@dataclass(frozen=True)
class Place:
    """`kind`: "rom" constants of the bitstream, "load" memory that is filled once, "stream" read from outside for every
    `tile` vectors (0: as `_tile` finds)."""

    kind: str = "rom"
    tile: int = 0


def choose(network: Network, memory: Mapping[str, Place] | Place) -> dict[str, Place]:
    """Layer -> where its weights lie, for every layer that has a place of its own.

    Raises:
        OptionError: a layer that is no product with weights, or a tile that does not divide its vectors.
    """
    products = {i.layer: i for i in network.products() if isinstance(i.unit, MatMul)}
    if isinstance(memory, Place):
        memory = dict.fromkeys(products, memory)
    if unknown := sorted(set(memory) - set(products)):
        raise OptionError(
            f"memory: no matrix product called {', '.join(unknown)}; those that take weights through a port: "
            f"{', '.join(products)}"
        )
    return {layer: _fitting(products[layer], place) for layer, place in memory.items() if place.kind != "rom"}


def _fitting(product: Instance, place: Place) -> Place:
    vectors = product.unit.source.vectors
    if place.kind == "load":
        if product.turns:
            raise OptionError(
                f"memory of {product.layer}: load; layers in turn have their weights in rom or stream: a memory "
                "that is filled once holds those of one layer"
            )
        return place
    if place.tile and vectors % place.tile:
        raise OptionError(
            f"memory of {product.layer}: stream:{place.tile}; expected a divisor of the {vectors} vectors of its frames"
        )
    return place if place.tile else replace(place, tile=max(n for n in range(1, _TILE + 1) if vectors % n == 0))


def placed(network: Network, places: Mapping[str, Place], bus: int, part: str) -> Network:
    """The network with the units that these places ask for, and UltraRAM where the part has it."""
    held = resources(part)
    ultra = held is not None and held.uram > 0
    units = {i.name: FedMatMul.of(i.unit, bus, places[i.layer].tile, ultra) for i in _of(network, places)}
    found = tuple(replace(i, unit=units.get(i.name, i.unit)) for i in network.instances)
    return replace(network, instances=found, ultra=ultra)


def _of(network: Network, places: Mapping[str, Place]) -> list[Instance]:
    return [i for i in network.products() if i.layer in places and isinstance(i.unit, MatMul)]


def loaded(network: Network) -> list[Instance]:
    """The units whose weights are sent once, in the order in which they come."""
    return [i for i in network.instances if isinstance(i.unit, FedMatMul) and not i.unit.loads]


def streamed(network: Network) -> list[Instance]:
    """The units whose weights are read for every frame."""
    return [i for i in network.instances if isinstance(i.unit, FedMatMul) and i.unit.loads]


def beats(instances: list[Instance], foldings: Mapping[str, Folding]) -> list[int]:
    """Of a load of each."""
    return [i.unit.load_beats(foldings[i.name]) for i in instances]


BURST = 16
"""Beats of a read; each region begins at a multiple of it."""


READS = "weights read from memory"


def reads(network: Network, foldings: Mapping[str, Folding]) -> int:
    """Beats of weights that a frame reads from memory, in all its turns."""
    return sum(len(i.unrolled) * i.unit.loads * i.unit.load_beats(foldings[i.name]) for i in streamed(network))


def regions(instances: list[Instance], foldings: Mapping[str, Folding]) -> np.ndarray:
    """First beat and beats of each load in memory, int64 [units, 2]. Where layers take turns: of all loads of each
    unit, and how often one comes before the next, int64 [units * turns, 3]; those of others come again and again."""
    count = layers(instances)
    counts = np.array([n for i, n in zip(instances, beats(instances, foldings), strict=True) for _ in i.unrolled])
    whole = -(-counts // BURST) * BURST
    found = np.stack([np.cumsum(whole) - whole, counts], 1)
    if count == 1:
        return found
    times = np.array([i.unit.loads if i.turns else 1 for i in instances for _ in i.unrolled])
    rows = np.repeat(np.arange(len(found)), [1 if i.turns else count for i in instances for _ in i.unrolled])
    return np.column_stack([found, times])[rows]


def layers(instances: list[Instance]) -> int:
    """Loads of a unit that come one after the other, at most."""
    return max(len(i.unrolled) for i in instances)


def image(instances: list[Instance], foldings: Mapping[str, Folding]) -> np.ndarray:
    """What lies in memory: their loads, each from its region's first beat on; uint8 [beats, bus/8]."""
    loads = [i.unit.load(foldings[i.name], turn) for i in instances for turn, _ in enumerate(i.unrolled)]
    return np.concatenate([np.pad(load, ((0, -len(load) % BURST), (0, 0))) for load in loads])


def image_beats(instances: list[Instance], foldings: Mapping[str, Folding]) -> int:
    """Beats of `image`."""
    first, count = regions(instances, foldings)[-1][:2]
    return int(first + count + -count % BURST)


def words(instances: list[Instance], foldings: Mapping[str, Folding]) -> np.ndarray:
    """The beats of their loads, one after the other: uint8 [beats, bus/8]."""
    return np.concatenate([i.unit.load(foldings[i.name]) for i in instances])


def sent(unit: Unit, folding: Folding, frames: int) -> tuple[np.ndarray, int] | None:
    """(the beats that bring a unit its weights for so many frames, turns among them, beats of a load); None where none
    come."""
    if not isinstance(unit, FedMatMul):
        return None
    turns = len(turns_of(unit))
    of_frame = [np.tile(unit.load(folding, turn), (unit.loads or 1, 1)) for turn in range(turns)]
    return np.tile(np.concatenate(of_frame), (frames // turns if unit.loads else 1, 1)), unit.load_beats(folding)


def table(network: Network, foldings: Mapping[str, Folding], places: Mapping[str, Place]) -> list[dict]:
    """What report.json says of every product with weights from outside: beats of a load, loads of a frame in all turns,
    and bits of the codes and scales of a load beside those that travel."""
    found = []
    for i in (*loaded(network), *streamed(network)):
        count, weight = i.unit.load_beats(foldings[i.name]), i.unit.weight
        found.append(
            {
                "layer": i.layer,
                "kind": places[i.layer].kind,
                "tile": places[i.layer].tile,
                "loads_per_frame": i.unit.loads * len(i.unrolled),
                "beats": count,
                "bits": int(weight.codes.size * weight.format.element.bits + 8 * weight.scale_codes.size),
                "bits_sent": count * i.unit.bus,
            }
        )
    return found
