"""The network of the hardware where layers take turns: the units of the first turn, which a frame passes again and
again, between what comes before and behind; and its three parts apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mxexport.errors import InputFileError
from mxexport.fpga.datapaths.stacked import stacked
from mxexport.fpga.network import Instance, Loop, Network


def in_hardware(network: Network) -> Network:
    """`network`, as dataflow.onnx states it, with one instance for all turns. It gives what the last turn gives under
    that one's name, so that all behind it stays as it is.

    Raises:
        InputFileError: turns that do not follow each other.
    """
    turns: dict[str, list[Instance]] = {}
    for instance in network.instances:
        if instance.turn_of:
            turns.setdefault(instance.turn_of, []).append(instance)
    if not turns:
        return network
    counts = {tuple(i.turn for i in same) for same in turns.values()}
    (numbers,) = counts if len(counts) == 1 else ((),)
    if len(numbers) < 2 or numbers != tuple(range(len(numbers))):
        raise InputFileError("dataflow graph: not every unit takes all turns, one behind the other; compile it again")
    entry, exit_, sides = _ends(network, list(turns.values()), len(numbers))
    outside = [i for i in network.instances if not i.turn_of]
    exit_of = {same[0].result: exit_ for same in turns.values() if same[-1].result == exit_}
    found = [_joined(i, turns, exit_of) for i in network.instances if i in outside or i.turn == 0]
    names = dict.fromkeys([*network.inputs, *(i.result for i in found)])
    streams = {name: network.streams[name] for name in names}
    loop = Loop(len(numbers), frozenset(turns), entry, exit_, sides)
    return replace(network, instances=tuple(found), streams=streams, loop=loop)


def _ends(network: Network, turns: list[list[Instance]], count: int) -> tuple[str, str, tuple[str, ...]]:
    """The stream that enters the first turn, the one that leaves the last, and those that all read besides."""
    crossing = [_crossing(network, [same[turn] for same in turns]) for turn in range(count)]
    sides = set.intersection(*(entering for entering, _ in crossing))
    for turn, (entering, leaving) in enumerate(crossing):
        own = entering - sides
        if len(own) != 1 or len(leaving) != 1 or (turn and own != crossing[turn - 1][1]):
            found = f"{len(own)} streams enter turn {turn}, {len(leaving)} leave it"
            raise InputFileError(
                f"dataflow graph: {found}; expected one each, from the turn before to the next; compile it again"
            )
    (entry,), (exit_,) = crossing[0][0] - sides, crossing[-1][1]
    return entry, exit_, tuple(name for name in network.streams if name in sides)


def _crossing(network: Network, own: list[Instance]) -> tuple[set[str], set[str]]:
    """The streams that enter the instances of a turn, and those that leave them."""
    inside = {i.result for i in own}
    elsewhere = {s for i in network.instances if i not in own for s in i.sources} | set(network.outputs)
    return {s for i in own for s in i.sources} - inside, inside & elsewhere


def _joined(instance: Instance, turns: Mapping[str, list[Instance]], exit_of: Mapping[str, str]) -> Instance:
    if not instance.turn_of:
        return instance
    same = turns[instance.turn_of]
    result = exit_of.get(instance.result, instance.result)
    values = same[-1].values if result != instance.result else instance.values
    unit = stacked([i.unit for i in same])
    return replace(instance, unit=unit, result=result, values=values, turns=tuple(same))


def apart(network: Network) -> tuple[Network, Network, Network]:
    """What comes before the loop, its body, and what comes behind, each a network of its own; either end may hold
    nothing."""
    loop, instances = network.loop, network.instances
    body = [i for i in instances if network.is_inner(i)]
    behind = _behind(network)
    first = [i for i in instances if i not in body and i.result not in behind]
    last = [i for i in instances if i not in body and i.result in behind]
    passing = _read(last) - {loop.exit, *(i.result for i in last)}
    handed = [s for s in network.streams if s in {loop.entry, *loop.sides, *passing}]
    return (
        _part(network, first, _in(network.inputs, _read(first)), _in(handed, {i.result for i in first})),
        _part(network, body, (loop.entry, *loop.sides), (loop.exit,)),
        _part(network, last, (loop.exit, *_in(handed, passing)), network.outputs),
    )


def _read(instances: list[Instance]) -> set[str]:
    return {s for i in instances for s in i.sources}


def _in(names: Iterable[str], wanted: set[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in wanted)


def _behind(network: Network) -> set[str]:
    """Streams that come from the end of the loop."""
    found = {network.loop.exit}
    for i in network.instances:
        if i.name not in network.loop.body and found & set(i.sources):
            found.add(i.result)
    return found


def _part(network: Network, instances: list[Instance], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Network:
    names = dict.fromkeys([*inputs, *(i.result for i in instances)])
    streams = {name: network.streams[name] for name in names}
    ends = {s: streams[s].shape for s in (*inputs, *outputs)}
    named = {s: network.tensors.get(s, s) for s in ends}
    return Network(tuple(instances), streams, inputs, outputs, ends, named, network.ultra)


def unrolled(instances: Iterable[Instance]) -> list[Instance]:
    """The instances of dataflow.onnx that these stand for."""
    return [turn for i in instances for turn in i.unrolled]


def values_of(instances: Iterable[Instance]) -> list[str]:
    """The values of the dataflow graph that these give, in all turns."""
    return list(dict.fromkeys(v for i in unrolled(instances) for v in i.values))


def of_all_turns(instances: Iterable[Instance], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of the dataflow graph [N, ...] as the hardware of these instances gives them, by its own names: frame by
    frame, and of each the turns, one behind the other [N * turns, ...]."""
    found: dict[str, np.ndarray] = {}
    for i in instances:
        for place, value in enumerate(i.values):
            found[value] = in_order([arrays[turn.values[place]] for turn in i.unrolled])
    return found


def in_order(turns: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays [N, ...] of every turn as they pass: [N * turns, ...]."""
    return np.stack(turns, 1).reshape(-1, *turns[0].shape[1:])
