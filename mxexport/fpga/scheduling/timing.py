"""When every vector of a few frames passes every stream: cycles per frame, latency, and how many beats wait in FIFOs.

Arrivals are found unit by unit from `Timing` alone, so a network of fifty units takes milliseconds. Nothing stalls in
this model; frames enter no faster than the slowest unit takes them, which is how they flow once all buffers are full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mxexport.fpga.network import Instance, Network
from mxexport.fpga.scheduling import copies, memory
from mxexport.fpga.scheduling.loops import apart
from mxexport.fpga.scheduling.schedule import handover, relays, stream_lanes
from mxexport.fpga.streams.words import power_of_two
from mxexport.fpga.unit import Folding, Held, Timing

TURNS = "turns"
"""Among cycles: what a frame takes to go around."""
_FRAMES = 3
_SLACK = 8  # beats on top of what the model finds: registers between units, lane converters


def cycles_per_unit(network: Network, foldings: Mapping[str, Folding]) -> dict[str, int]:
    """Instance -> cycles that a frame occupies it; inputs under their streams' names, the bus on which weights are read
    as `memory.READS`. Where frames go around: those of a turn, and of all turns together as `TURNS`."""
    if network.loop is not None:
        return _cycles_of_turns(network, foldings)
    found = {name: network.streams[name].beats(stream_lanes(network, foldings, name)) for name in network.inputs}
    for i in network.instances:
        handed_on = math.ceil(cadence(network, foldings, i) * i.unit.result.vectors)
        found[i.name] = max(copies.cycles(i.unit, foldings[i.name]), handed_on, _turned(network, foldings, i))
    if reads := memory.reads(network, foldings):
        found[memory.READS] = reads
    return found


def _turned(network: Network, foldings: Mapping[str, Folding], instance: Instance) -> int:
    """Cycles a frame for which the places last that a unit has for whole frames: a frame comes in, in the lanes of its
    maker, and stays until its last output vector."""
    timing, found = copies.timing(instance.unit, foldings[instance.name]), 0
    wanted = copies.lanes(instance.unit, foldings[instance.name])[0]
    used = cadence(network, foldings, instance) * (instance.unit.result.vectors - 1)
    for held, stream in zip(timing.held, instance.sources[len(instance.sources) - len(timing.held) :], strict=True):
        come = network.streams[stream].beats(min(stream_lanes(network, foldings, stream), wanted))
        found = max(found, math.ceil((come + held.latency + used) / held.frames))
    return found


def cadence(network: Network, foldings: Mapping[str, Folding], instance: Instance) -> float:
    """Cycles from one vector of a unit to the next, lane converters behind it included."""
    return _handed_on(network, foldings, instance, copies.timing(instance.unit, foldings[instance.name]).cadence)


def _handed_on(network: Network, foldings: Mapping[str, Folding], instance: Instance, own: float) -> float:
    """The same of a unit that makes one every `own` cycles."""
    kind = instance.unit.result
    lanes = copies.lanes(instance.unit, foldings[instance.name])[1]
    taken = [copies.lanes(r.unit, foldings[r.name])[0] for r in network.readers(instance.result)]
    return max([own, *(handover(kind, lanes, wanted, own) for wanted in taken)])


def arrivals(
    network: Network,
    foldings: Mapping[str, Folding],
    frames: int = _FRAMES,
    paced: bool = True,
    given: Mapping[str, np.ndarray] | None = None,
    idle: bool = False,
) -> dict[str, np.ndarray]:
    """Stream -> cycle in which each vector of `frames` frames has come. `paced`: the input comes evenly, at the rate
    of the slowest unit; else as fast as its lanes carry it. `given`: the same of inputs, where it is known.
    `idle`: units have done nothing for a while before each frame."""
    cycles, found = cycles_per_unit(network, foldings), dict(given or {})
    for name in network.inputs:
        if name in found:
            continue
        vectors = network.streams[name].vectors
        step = (max(cycles.values()) if paced else cycles[name]) / vectors
        found[name] = (np.arange(vectors * frames) + 1) * step
    registers = relays(network, foldings)
    for instance in network.instances:
        timing = copies.timing(instance.unit, foldings[instance.name])
        late = [found[s] + conversion(network, foldings, s, instance) + (s in registers) for s in instance.sources]
        first = late[: len(late) - len(timing.held)]
        ready = np.max([_wanted(times, timing, frames) for times in first], axis=0) + timing.latency
        if np.min(timing.share) < 1:
            early = (1 - np.broadcast_to(timing.share, len(timing.needs))) * _span(
                network, foldings, instance.sources[0]
            )
            ready = ready - np.tile(early, frames)
        for held, times in zip(timing.held, late[len(first) :], strict=True):
            whole = times.reshape(frames, -1)[:, -1] + held.latency
            ready = np.maximum(ready, whole.repeat(len(ready) // frames))
        pace = np.arange(len(ready)) * cadence(network, foldings, instance)
        if idle and timing.tile > 1:
            tile, within = timing.tile, _handed_on(network, foldings, instance, timing.within)
            pace = pace - (np.arange(len(ready)) % tile) * (cadence(network, foldings, instance) - within)
        found[instance.result] = np.maximum.accumulate(ready - pace) + pace
    return found


def conversion(network: Network, foldings: Mapping[str, Folding], stream: str, reader: Instance) -> int:
    """Cycles by which a lane converter lets the end of a vector come later."""
    lanes, wanted = stream_lanes(network, foldings, stream), copies.lanes(reader.unit, foldings[reader.name])[0]
    kind, span, found = network.streams[stream], _span(network, foldings, stream), 0
    for c in kind.conversions(lanes, wanted):
        if c.cuts or c.lanes < c.wanted:
            found += not c.cuts
            continue
        beats = -(-c.count // c.wanted)
        last = -(-((c.count - 1) % c.lanes + 1) // c.wanted)  # beats that the last beat becomes
        found += max(last, beats - span)
        span = max(span, beats)
    return found


def _span(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Cycles in which the beats of a vector come."""
    maker = network.maker(stream)
    if maker is None:
        return 1
    own = max(copies.cycles(maker.unit, foldings[maker.name]) // network.streams[stream].vectors, 1)
    source = maker.sources[0]
    before, joined = network.maker(source), network.streams[source].vectors // network.streams[stream].vectors
    if before is None or joined < 2 or not maker.unit.through(foldings[maker.name]):
        return own
    others = (joined - 1) * cadence(network, foldings, before)  # a beat goes through as it comes
    return max(own, math.ceil(others) + _span(network, foldings, source))


def _wanted(times: np.ndarray, timing: Timing, frames: int) -> np.ndarray:
    """When the vector that each output vector waits for has come, or would have: none comes behind the last frame."""
    places = (np.arange(frames)[:, None] * (len(times) // frames) + timing.needs).ravel()
    beyond = np.maximum(places - (len(times) - 1), 0)
    return times[places - beyond] + beyond * timing.beyond


def latency(network: Network, foldings: Mapping[str, Folding]) -> int:
    """Cycles from the first input beat of the first frame to its last output beat; at least those that bring its
    weights from memory."""
    if network.loop is not None:
        return _latency_of_turns(network, foldings)
    times = arrivals(network, foldings, 1, paced=False)
    return max(int(np.ceil(max(times[name][-1] for name in network.outputs))), memory.reads(network, foldings))


def fifo_depths(network: Network, foldings: Mapping[str, Folding]) -> dict[tuple[str, str], int]:
    """(stream, reader) -> beats of the FIFO in front of the reader, a power of two: wherever streams meet, and a small
    one wherever a stream has several readers. Readers are called `instance/input`."""
    if network.loop is not None:
        return _depths_of_turns(network, foldings)
    frames = _frames(network, foldings)
    return _depths(network, foldings, arrivals(network, foldings, frames), frames)


def _depths(
    network: Network, foldings: Mapping[str, Folding], times: Mapping[str, np.ndarray], frames: int
) -> dict[tuple[str, str], int]:
    """The same for frames that come and pass at those times."""
    found = {}
    for stream, kind in network.streams.items():
        readers = network.uses(stream)
        forks = len(readers) + (stream in network.outputs) > 1
        for reader, i in readers:
            if not forks and len(reader.sources) == 1:
                continue
            beats = kind.beats(stream_lanes(network, foldings, stream)) / kind.vectors
            held = copies.timing(reader.unit, foldings[reader.name]).held
            taken = _taken(times, reader, held, i, frames)
            waiting = math.ceil(_most_waiting(times[stream], taken) * beats) + _SLACK
            found[stream, f"{reader.name}/{i}"] = power_of_two(waiting)
    return found


def _frames(network: Network, foldings: Mapping[str, Folding]) -> int:
    """How many frames show all that waits: more where units hold whole ones, of which others then wait."""
    if not any(copies.timing(i.unit, foldings[i.name]).held for i in network.instances):
        return _FRAMES
    return _FRAMES + latency(network, foldings) // max(cycles_per_unit(network, foldings).values())


def _taken(
    times: Mapping[str, np.ndarray], reader: Instance, held: tuple[Held, ...], i: int, frames: int
) -> np.ndarray:
    """When each vector of input i leaves its FIFO, at the latest. A unit takes vectors of all inputs at once; where it
    holds frames of one, that comes in as it is there while a place is free, and vectors of the others wait for it."""
    own, made = times[reader.sources[i]], times[reader.result]
    first = len(reader.sources) - len(held)
    if i >= first:
        done = made.reshape(frames, -1)[:, -1]  # its place is free for a later frame
        free = np.concatenate([np.zeros(held[i - first].frames), done])[:frames]
        return np.maximum(own, free.repeat(len(own) // frames))
    if held:
        return np.maximum(own, made[-(-np.arange(1, len(own) + 1) * len(made) // len(own)) - 1])
    return np.max([times[s] for s in reader.sources if len(times[s]) == len(own)], axis=0)


def _most_waiting(come: np.ndarray, taken: np.ndarray) -> int:
    """Vectors that have come and are not taken yet, at most."""
    return int((np.searchsorted(come, taken, side="right") - np.arange(len(come))).max())


# --- frames that go around ----------------------------------------------------------------------------------------

_STEADY = 3  # turns, behind which they are alike
_WAY_BACK = 4  # cycles: two of the FIFO, a register before the body, one behind the lane converter


def _cycles_of_turns(network: Network, foldings: Mapping[str, Folding]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in apart(network):
        found |= cycles_per_unit(part, foldings) if part.instances else {}
    found.pop(memory.READS, None)
    found[TURNS] = cycles_of_turns(network, foldings)
    if reads := memory.reads(network, foldings):
        found[memory.READS] = reads
    return found


def turn_cycles(network: Network, foldings: Mapping[str, Folding]) -> int:
    """Those that a turn occupies the slowest unit of the body."""
    cycles = cycles_per_unit(apart(network)[1], foldings)
    return max(n for name, n in cycles.items() if name != memory.READS)


def cycles_of_turns(network: Network, foldings: Mapping[str, Folding]) -> int:
    """Those of a frame, from foldings of the body alone. A turn begins when the one before has brought back its first
    vector, and no sooner than the slowest unit is free; the first turn of the next frame follows the last."""
    turn = turn_cycles(network, foldings)
    apart_by = max(turn, _apart_by(apart(network)[1], foldings))
    return math.ceil((network.loop.count - 1) * apart_by + turn)


def _apart_by(body: Network, foldings: Mapping[str, Folding]) -> float:
    """Cycles from the first vector of a turn to that of the next, once every turn takes as long as the one before."""
    sides = dict.fromkeys(body.inputs[1:], np.zeros(1))
    entered, _ = _entering(body, foldings, sides | {body.inputs[0]: _as_lanes(body, foldings, body.inputs[0])}, _STEADY)
    return entered[-1][0] - entered[-2][0]


def _entering(
    body: Network, foldings: Mapping[str, Folding], came: Mapping[str, np.ndarray], count: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """When the vectors of turns enter the body, the first as they `came`, each other as the one before leaves; and when
    those of the last of `count` turns leave. What all turns read besides is there again when a turn begins."""
    (entry, *sides), (exit_,) = body.inputs, body.outputs
    entered = [came[entry]]
    for turn in range(1, count + 1):
        given = {entry: np.concatenate(entered)}
        for side in sides:
            first = np.broadcast_to(came[side], body.streams[side].vectors)
            given[side] = np.concatenate([first, *(np.full(len(first), later[0]) for later in entered[1:])])
        times = arrivals(body, foldings, turn, paced=False, given=given, idle=True)
        left = times[exit_].reshape(turn, -1)[-1]
        entered.append(_one_by_one(np.maximum(left + _WAY_BACK, entered[-1][-1]), _step(body, foldings, entry)))
    return entered, left


def _latency_of_turns(network: Network, foldings: Mapping[str, Folding]) -> int:
    """As `latency`, turn by turn: each comes in as the one before comes out."""
    _, times = _first_frame(network, foldings)
    return max(math.ceil(max(times[name][-1] for name in network.outputs)), memory.reads(network, foldings))


def _first_frame(
    network: Network, foldings: Mapping[str, Folding]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """When the vectors of the first frame come: of what enters the body, and of what leaves it or is outside."""
    before, body, behind = apart(network)
    (exit_,) = body.outputs
    times = arrivals(before, foldings, 1, paced=False, idle=True) if before.instances else {}
    for part in (body, behind):
        missing = [name for name in part.inputs if name not in times and name != exit_]
        times |= {name: _as_lanes(network, foldings, name) for name in missing}
    came = {name: times[name] + 1 for name in body.inputs}
    _, left = _entering(body, foldings, came, network.loop.count)
    times[exit_] = left + 1
    if behind.instances:
        given = {name: times[name] for name in behind.inputs}
        times |= arrivals(behind, foldings, 1, paced=False, given=given, idle=True)
    return came, times


def _step(network: Network, foldings: Mapping[str, Folding], stream: str) -> float:
    """Cycles in which a vector of a stream comes in."""
    kind = network.streams[stream]
    return kind.beats(stream_lanes(network, foldings, stream)) / kind.vectors


def _as_lanes(network: Network, foldings: Mapping[str, Folding], stream: str) -> np.ndarray:
    return (np.arange(network.streams[stream].vectors) + 1) * _step(network, foldings, stream)


def _one_by_one(times: np.ndarray, step: float) -> np.ndarray:
    """The same vectors, none sooner than `step` behind the one before."""
    pace = np.arange(len(times)) * step
    return np.maximum.accumulate(times - pace) + pace


def _depths_of_turns(network: Network, foldings: Mapping[str, Folding]) -> dict[tuple[str, str], int]:
    """As `fifo_depths`. In the body, for turns that follow each other as frames do, and for one that comes as fast as
    it can; it holds two at most, the last turn of a frame and the first of the next."""
    before, body, behind = apart(network)
    found: dict[tuple[str, str], int] = {}
    for part in (before, behind):
        found |= fifo_depths(part, foldings) if part.instances else {}
    at_once = _depths(body, foldings, arrivals(body, foldings, 1, paced=False, idle=True), 1)
    for (stream, reader), depth in fifo_depths(body, foldings).items():
        most = 2 * body.streams[stream].beats(stream_lanes(body, foldings, stream)) + _SLACK
        found[stream, reader] = min(max(depth, at_once[stream, reader]), power_of_two(most))
    found |= {(stream, TURNS): depth for stream, depth in _whole_frames(network, foldings).items()}
    return found | _beside(network, foldings, behind)


def _whole_frames(network: Network, foldings: Mapping[str, Folding]) -> dict[str, int]:
    """Beats of a frame, as a power of two, in front of the body and behind it, where units there work on one frame for
    longer than a turn takes."""
    before, _, behind = apart(network)
    turn, found = turn_cycles(network, foldings), {}
    for part, stream in ((before, network.loop.entry), (behind, network.loop.exit)):
        maker = network.maker(stream)
        if maker is not None and part.instances and max(cycles_per_unit(part, foldings).values()) > turn:
            beats = network.streams[stream].beats(copies.lanes(maker.unit, foldings[maker.name])[1])
            found[stream] = power_of_two(max(beats, 2))
    return found


def _beside(network: Network, foldings: Mapping[str, Folding], behind: Network) -> dict[tuple[str, str], int]:
    """Of what comes once and is read in every turn, or only behind them: the beats that wait while the frames that they
    belong to are on their way. Two frames wait where turns read them (mx_turns_beside)."""
    passing = [stream for stream in behind.inputs if stream != network.loop.exit]
    if not network.loop.sides and not passing:
        return {}
    came, times = _first_frame(network, foldings)
    cycles, found = max(cycles_per_unit(network, foldings).values()), {}

    def frames(stream: str, used: float) -> int:
        return math.ceil(max(used - times[stream][0], 0) / cycles)

    def beats(stream: str) -> int:
        return network.streams[stream].beats(stream_lanes(network, foldings, stream))

    for stream in network.loop.sides:
        outside = [f"{r.name}/{i}" for r, i in network.uses(stream) if not network.is_inner(r)]
        found |= {(stream, reader): _SLACK for reader in outside}
        waiting = (frames(stream, came[network.loop.entry][0]) - 1) * beats(stream)
        found[stream, TURNS] = power_of_two(max(waiting, 0) + _SLACK) if waiting > 0 or outside else 0
    for stream in passing:
        for reader, i in behind.uses(stream):
            waiting = (frames(stream, times[reader.result][0]) + 1) * beats(stream) + _SLACK
            found[stream, f"{reader.name}/{i}"] = power_of_two(waiting)
    return found
