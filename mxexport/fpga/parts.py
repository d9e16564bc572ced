"""A network cut into parts that stand alone: one matrix layer each, with all that belongs to it, as units of another
toolflow. Between them travel wide integers as they are; whoever joins them says where frames end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx
import onnx_ir as ir

from mxexport.fpga.areas.area import Area, total
from mxexport.fpga.network import Instance, Network, read
from mxexport.fpga.reports import report
from mxexport.fpga.scheduling import copies
from mxexport.fpga.scheduling.schedule import path
from mxexport.fpga.scheduling.timing import cycles_per_unit, fifo_depths, latency
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding
from mxexport.fpga.units import OF_OPERATOR
from mxexport.fpga.writing import emit
from mxexport.fpga.writing.emit import Link, Placer
from mxexport.model import graph

_QUANTIZE = OF_OPERATOR["MXQuantize"]


@dataclass(frozen=True, eq=False)
class Part:
    """`name`: of its layers; `model`: its own dataflow graph, of which `network` is read; `lanes` of its inputs and
    outputs outside, divisors of a vector or several whole vectors."""

    name: str
    model: ir.Model
    network: Network
    foldings: dict[str, Folding]
    lanes: dict[str, int] = field(default_factory=dict)

    @cached_property
    def design(self) -> emit.Design:
        """Its cells; ports carry values of their own width, in `lanes`."""
        return _PartPlacer(self).design()

    @property
    def cycles(self) -> int:
        """Of a frame: those of its slowest unit or port."""
        ends = [self.network.streams[s].beats(n) for s, n in self.lanes.items()]
        return max(*cycles_per_unit(self.network, self.foldings).values(), *ends)

    @property
    def latency(self) -> int:
        """Cycles from its first input beat to its last output beat, about."""
        return latency(self.network, self.foldings)

    @property
    def slowest(self) -> Instance:
        """Of its products, the one that takes the most cycles."""
        return max(self.network.products(), key=lambda p: copies.cycles(p.unit, self.foldings[p.name]))

    def estimate(self) -> Area:
        """Without synthesis, as `Design.estimate`."""
        return total(report.estimate(self.design).values())


def cut(model: ir.Model, network: Network, foldings: Mapping[str, Folding]) -> list[Part]:
    """The parts of a dataflow graph, in order: what one gives is all that the next one takes.

    It is cut where one stream of wide integers holds all that is on its way, and a quantizer reads it: a residual block
    stays whole, and so does a network that is nowhere so narrow.
    """
    instances = network.instances
    ends = [*_narrow_places(network), len(instances)]
    proto, found, begin, names = graph.to_proto(model), [], 0, list(network.inputs)
    lanes = _outer_lanes(network, foldings, [instances[end - 1].result for end in ends[:-1]])
    for end in ends:
        inner = instances[begin:end]
        results = list(network.outputs) if end == len(instances) else [inner[-1].result]
        part = _extracted(proto, network, names, results)
        own = {i.name: foldings[i.name] for i in inner}
        found.append(Part(_name(inner), part, read(part), own, {s: lanes[s] for s in (*names, *results)}))
        begin, names = end, results
    return found


def _narrow_places(network: Network) -> list[int]:
    """Numbers of instances behind which one wide stream alone passes on, to a quantizer that begins a matrix layer, or
    to several; both sides have a product."""
    instances, products = network.instances, {p.name for p in network.products()}
    with_product = [i for i, instance in enumerate(instances) if instance.name in products]
    last_read = {s: i for i, instance in enumerate(instances) for s in instance.sources}
    last_read |= dict.fromkeys(network.outputs, len(instances))
    alive, found = set(network.inputs), []
    for i, instance in enumerate(instances):
        alive = {s for s in (*alive, instance.result) if last_read.get(s, -1) > i}
        if alive != {instance.result} or not isinstance(instance.unit.result, Wide):
            continue
        quantized = any(isinstance(r.unit, _QUANTIZE) for r in network.readers(instance.result))
        if quantized and with_product[0] <= i < with_product[-1]:
            found.append(i + 1)
    return found


def _name(inner: tuple[Instance, ...]) -> str:
    layers = list(dict.fromkeys(i.layer for i in inner if i.unit.constants()))
    layers = layers or [inner[0].layer]
    return layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"


def _extracted(proto: onnx.ModelProto, network: Network, sources: list[str], results: list[str]) -> ir.Model:
    """The graph between some streams; what its inputs are stands beside them."""
    part = ir.serde.deserialize_model(onnx.utils.Extractor(proto).extract_model(sources, results))
    for value in part.graph.inputs:
        stream = network.streams[value.name]
        value.metadata_props.update(width=str(stream.width), lsb_exp=str(stream.lsb_exp))
        if stream.nonnegative:
            value.metadata_props["nonnegative"] = "1"
    return part


# --- lanes and converters at the ports -----------------------------------------------------------------------------


def _outer_lanes(network: Network, foldings: Mapping[str, Folding], between: list[str]) -> dict[str, int]:
    """Lanes of every stream that comes or goes outside: as fast as the network, with few converters, then narrow."""
    pace, found = max(cycles_per_unit(network, foldings).values()), {}
    for stream in (*network.inputs, *between, *network.outputs):
        kind = network.streams[stream]
        costs = {
            lanes: (max(kind.beats(lanes), pace), _converters(network, foldings, stream, lanes), lanes)
            for lanes in _candidates(kind)
        }
        found[stream] = min(costs, key=costs.__getitem__)
    return found


def _converters(network: Network, foldings: Mapping[str, Folding], stream: str, lanes: int) -> int:
    """Lane converters around a stream that travels in `lanes` outside."""
    kind, taken, given = network.streams[stream], _taken(network, foldings, stream), _given(network, foldings, stream)
    return len(path(kind, lanes, taken or lanes)) + len(path(kind, given or lanes, lanes))


def _taken(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Lanes that its readers take at most; 0: none reads it."""
    readers = network.readers(stream)
    return max((copies.lanes(r.unit, foldings[r.name])[0] for r in readers), default=0)


def _given(network: Network, foldings: Mapping[str, Folding], stream: str) -> int:
    """Lanes in which its unit gives it; 0: it comes from outside."""
    maker = network.maker(stream)
    return 0 if maker is None else copies.lanes(maker.unit, foldings[maker.name])[1]


def _candidates(kind: Wide) -> list[int]:
    """Divisors of a vector, and whole vectors of a row: no beat is partly empty."""
    row = kind.shape[-2] if len(kind.shape) > 1 else 1
    divisors = [n for n in range(1, kind.channels + 1) if kind.channels % n == 0]
    return divisors + [n * kind.channels for n in range(2, row + 1) if row % n == 0]


class _PartPlacer(Placer):
    """No slots and no guard at the border: a lane converter where lanes differ, and a register behind the last unit."""

    def __init__(self, part: Part):
        super().__init__(part.network, part.foldings, fifo_depths(part.network, part.foldings))
        self._part = part

    def design(self) -> emit.Design:
        """Every cell, and the lanes of the ports."""
        made = super().design()
        ends = [self._outer(stream) for stream in (*self._network.inputs, *self._network.outputs)]
        return replace(made, ports=tuple(ends), border=self._part.lanes)

    def _outer(self, stream: str) -> Link:
        bits = self._network.streams[stream].beat_bits(self._part.lanes[stream])
        return Link(self._end(stream, "s_axis", "m_axis"), bits, port=True)

    def _enter(self, stream: str) -> None:
        kind, lanes = self._network.streams[stream], self._part.lanes[stream]
        wanted = _taken(self._network, self._foldings, stream) or lanes
        self._spread(stream, self._chain(self._outer(stream), path(kind, lanes, wanted), self._ends[stream]), wanted)

    def _leaving_lanes(self, stream: str) -> int:
        return _given(self._network, self._foldings, stream) or self._part.lanes[stream]

    def _leave(self, stream: str, verdicts: tuple[Link, ...]) -> None:
        kind, lanes = self._network.streams[stream], self._part.lanes[stream]
        ready = self._ready[stream, ""]
        link = self._chain(ready, path(kind, self._leaving_lanes(stream), lanes), self._ends[stream])
        port = self._outer(stream)
        comment = f"{self._network.tensors[stream]}: behind it nobody waits for this network's logic"
        self._append(emit.Cell(self._ends[stream], "mx_skid", {"Width": port.bits}, (link,), (port,), comment))
