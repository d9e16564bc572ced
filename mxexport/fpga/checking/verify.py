"""Compares the QONNX graph with the dataflow graph: unit by unit with the same input, and end to end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from mxexport.errors import UnsupportedError, VerificationError
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.streams.types import Blocks, Wide, from_stream, to_stream
from mxexport.fpga.streams.views import View
from mxexport.numbers import fixedpoint, groups, numerics
from mxexport.running import executors

_FLOAT32_BITS = 24


@dataclass(frozen=True)
class LayerComparison:
    """`flipped_codes` of `codes` element codes differ end to end; `error`: largest product error over its bound."""

    layer: str
    codes: int
    flipped_codes: int
    error: float


@dataclass(frozen=True)
class StageComparison:
    layers: list[LayerComparison]
    flip_rate: float
    same_predictions: float
    frames: int


def joined(parts: list[StageComparison]) -> StageComparison:
    """One comparison of all frames."""
    if len(parts) == 1:
        return parts[0]
    layers = [
        LayerComparison(same[0].layer, sum(c.codes for c in same), sum(c.flipped_codes for c in same),
                        max(c.error for c in same))
        for same in zip(*(part.layers for part in parts), strict=True)
    ]  # fmt: skip
    frames = sum(part.frames for part in parts)
    predictions = sum(part.same_predictions * part.frames for part in parts) / frames
    flips = sum(c.flipped_codes for c in layers) / sum(c.codes for c in layers)
    return StageComparison(layers, flips, predictions, frames)


_AT_A_TIME = 1 << 30
"""Bytes of all int64 streams together; windows and their shifted products are some times as much."""


def frame_bytes(network: Network) -> int:
    """Of all streams of a frame, int64 each."""
    return 8 * sum(
        kind.length if isinstance(kind, Wide) else math.prod(kind.shape) for kind in network.streams.values()
    )


def portions(network: Network, arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Arrays by name, so many frames at a time that what both graphs compute stays small in memory."""
    count, frames = max(_AT_A_TIME // (8 * frame_bytes(network)), 1), len(next(iter(arrays.values())))
    for start in range(0, max(frames, 1), count):
        yield {name: array[start : start + count] for name, array in arrays.items()}


def compare(
    qonnx: ir.Model,
    dataflow: ir.Model,
    network: Network,
    tensors: Mapping[str, str],
    views: Mapping[str, View],
    x: Mapping[str, np.ndarray],
    fixed: Mapping[str, np.ndarray],
) -> StageComparison:
    """Run both graphs on `x` (float, by inputs of the QONNX graph) and `fixed` (the same in int64, by streams).
    `tensors`: stream of `network` -> tensor of the QONNX graph that it carries; `views`: how those lie there that are
    neither vectors nor images with channels first.

    With the same input injected, quantizer outputs must be equal wherever float32 holds the input exactly, products
    must stay within the bound of their unit, and all else must be equal as float32.

    Raises:
        VerificationError: names the first layer and tensor that differ.
    """
    proto = executors.load_proto(qonnx)
    values = _Values(dataflow, network, fixed)
    quantized = [i for i in network.instances if isinstance(i.unit.result, Blocks) and i.result in tensors]
    wanted = [*(i.result for i in quantized), *network.outputs]
    free = executors.run(proto, dict(x), list(dict.fromkeys(tensors[stream] for stream in wanted)))
    carried = _Carried(network, tensors, views)
    errors = _check_units(proto, carried, values, x)
    compared = []
    for instance in quantized:
        ours = values.floats(instance.result)
        flips = int((carried.to_stream(instance.result, free[tensors[instance.result]]) != ours).sum())
        compared.append(LayerComparison(instance.layer, ours.size, flips, errors.get(instance.layer, 0.0)))
    same = min(
        _same_predictions(carried.to_stream(output, free[tensors[output]]), values.arrays[output])
        for output in network.outputs
    )
    total = sum(c.codes for c in compared)
    frames = len(next(iter(x.values())))
    return StageComparison(compared, sum(c.flipped_codes for c in compared) / total, same, frames)


def _same_predictions(theirs: np.ndarray, ours: np.ndarray) -> float:
    """How often the largest value stands at the same place."""
    return float((theirs.argmax(-1) == ours.argmax(-1)).mean())


_ALIKE, _TURNED = 1e-4, 0.02


def check_rewritten(given: ir.Model, rewritten: ir.Model, x: Mapping[str, np.ndarray]) -> None:
    """Raises VerificationError unless the outputs of both graphs agree on `x`: within 1e-4 of the largest value, but
    for 2% of them, behind codes that turned because a value lay on the border of two."""
    wanted, found = (executors.run(model, x) for model in (given, rewritten))
    for name, a in wanted.items():
        far = np.abs(found[name] - a) > _ALIKE * np.abs(a).max(initial=0)
        if far.mean() > _TURNED:
            where = tuple(int(i) for i in np.argwhere(far)[0])
            raise VerificationError(
                f"output {name!r} of the graph with scales taken out of its quantizers differs at {where}: "
                f"{found[name][where]!r}, before {a[where]!r} ({int(far.sum())} of {far.size} values)"
            )


class _Values:
    """What the dataflow graph computes, stream by stream."""

    def __init__(self, dataflow: ir.Model, network: Network, fixed: Mapping[str, np.ndarray]):
        self._network = network
        self._scales = {node.outputs[0].name: node.outputs[1].name for node in dataflow.graph if len(node.outputs) > 1}
        names = [i.result for i in network.instances]
        wanted = list(dict.fromkeys([*names, *(self._scales[n] for n in names if n in self._scales)]))
        self.arrays = executors.run(dataflow, dict(fixed), wanted) | dict(fixed)

    def floats(self, stream: str) -> np.ndarray:
        """The stream as real numbers: float32 of blocks (exact), float64 of wide integers."""
        kind, array = self._network.streams[stream], self.arrays[stream]
        if isinstance(kind, Wide):
            return np.ldexp(array.astype(np.float64), kind.lsb_exp)
        parameters = fixedpoint.element_parameters(kind.element)
        table = fixedpoint.linear_table(parameters["exponent_bits"], parameters["mantissa_bits"])
        values = np.ldexp(table[array].astype(np.float32), -kind.element.frac_bits)
        scale = numerics.scale_from_codes(self.arrays[self._scales[stream]])
        return values * groups.expand(scale, -1, kind.group_size, kind.channels)


class _Carried:
    """Which tensor of the QONNX graph a stream carries, and how."""

    def __init__(self, network: Network, tensors: Mapping[str, str], views: Mapping[str, View]):
        self.network, self.tensors, self._views = network, tensors, views

    def to_stream(self, stream: str, x: np.ndarray) -> np.ndarray:
        """What the QONNX graph computes, as frames of the stream."""
        shape = self.network.streams[stream].shape
        view = self._views.get(self.tensors[stream])
        return to_stream(x, shape) if view is None else view.to_stream(x, shape)

    def to_graph(self, stream: str, y: np.ndarray, shape: list[int]) -> np.ndarray:
        """Frames of the stream as the QONNX graph takes them, where it says that its tensor has that shape."""
        tensor = self.tensors[stream]
        if math.prod(shape[1:]) * len(y) != y.size and tensor not in self._views:
            frame = list(y.shape[1:])
            raise UnsupportedError(
                f"compile: the file says tensor {tensor!r} has shape {shape[1:]}; its frames are {frame}"
            )
        view = self._views.get(tensor)
        return (from_stream(y, shape[1:]) if view is None else view.to_tensor(y)).astype(np.float32)

    def origins(self, stream: str) -> list[str]:
        """The streams that `stream` comes from and that carry tensors of the QONNX graph."""
        if stream in self.tensors:
            return [stream]
        return [s for source in self.network.maker(stream).sources for s in self.origins(source)]


def _check_units(proto, carried: _Carried, values: _Values, x: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Layer -> largest error over its bound, of units that have one."""
    found: dict[str, float] = {}
    network, tensors = carried.network, carried.tensors
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in _typed(proto)}
    for instance in network.instances:
        if instance.result not in tensors:
            continue
        starts = dict.fromkeys(s for source in instance.sources for s in carried.origins(source))
        feeds = {tensors[s]: carried.to_graph(s, values.floats(s), shapes[tensors[s]]) for s in starts}
        ours = values.floats(instance.result)
        theirs = carried.to_stream(instance.result, _run_between(proto, dict(x) | feeds, tensors[instance.result]))
        bound = instance.unit.bound(*(values.floats(stream) for stream in instance.sources))
        if bound is None:
            _check_equal(instance, tensors[instance.result], theirs, ours, _exact(network, instance, values))
        else:
            ratio = np.abs(ours - theirs) / bound
            _check_within(instance, tensors[instance.result], theirs, ours, ratio)
            found[instance.layer] = float(ratio.max())
    return found


def _exact(network: Network, instance: Instance, values: _Values) -> np.ndarray | bool:
    """Where float32 holds everything that a value of the result depends on."""
    kind = instance.unit.result
    if not isinstance(kind, Blocks):
        return True
    source = np.abs(values.arrays[instance.sources[0]])
    if source.shape[1:] != kind.shape:  # groups run along the first axis that comes, and become vectors
        source = source.transpose(0, *range(source.ndim - 1, 0, -1))
    exact = groups.to_groups(source, -1, kind.group_size).max(axis=-1) < 2**_FLOAT32_BITS
    return groups.expand(exact, -1, kind.group_size, kind.channels)


def _check_equal(instance: Instance, tensor: str, theirs: np.ndarray, ours: np.ndarray, exact) -> None:
    ours = ours.astype(np.float32)
    differ = (ours != theirs) & exact
    if differ.any():
        where = tuple(int(i) for i in np.argwhere(differ)[0])
        raise VerificationError(
            f"layer {instance.layer}: tensor {tensor!r} differs at {where}: QONNX {theirs[where]!r}, dataflow "
            f"{ours[where]!r} ({int(differ.sum())} of {differ.size} values)"
        )


def _check_within(instance: Instance, tensor: str, theirs: np.ndarray, ours: np.ndarray, ratio: np.ndarray) -> None:
    worst = float(ratio.max())
    if worst > 1:
        where = tuple(int(i) for i in np.unravel_index(ratio.argmax(), ratio.shape))
        raise VerificationError(
            f"layer {instance.layer}: tensor {tensor!r} differs at {where} by {worst:.3g} times the "
            f"float32 rounding bound: QONNX {theirs[where]!r}, dataflow {ours[where]!r}"
        )


def _typed(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]


def _run_between(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], end: str) -> np.ndarray:
    """The part of the graph from the tensors given to tensor `end`. Inputs of the graph are among them: shapes of
    static scales are found from the first one."""
    try:
        part = onnx.utils.Extractor(proto).extract_model(list(feeds), [end])
    except ValueError as error:  # a tensor whose type nobody knows, nor can find out
        raise UnsupportedError(
            f"compile: {error}; expected tensors of known shape: mxexport clean finds them"
        ) from None
    return executors.run(part, feeds, [end])[end]
