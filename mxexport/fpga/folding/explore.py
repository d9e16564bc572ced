"""Area against throughput: the designs of a network that no other one beats, from the estimates alone."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from mxexport import cluster as clusters
from mxexport.errors import OptionError
from mxexport.fpga.areas.area import Area
from mxexport.fpga.folding import fold_turns
from mxexport.fpga.folding.estimate import whole
from mxexport.fpga.network import Network
from mxexport.fpga.scheduling.timing import cycles_per_unit
from mxexport.fpga.unit import Folding
from mxexport.reporting.plots import ACROSS, COLORS, UP, LogAxis, plot_frame

_MOST_TARGETS = 24  # numbers of cycles that are tried, spread over all that foldings give


@dataclass(frozen=True)
class Point:
    """A design: its rate, what its products are made of, its area by the estimate and the folding of every layer."""

    cycles_per_frame: int
    frames_per_second: float
    resources: str
    area: Area
    foldings: dict[str, Folding]

    def table(self) -> dict:
        """As plain data; `folding` is what `compile` takes."""
        layers = {name: list(asdict(f).values()) for name, f in self.foldings.items()}
        row = {"cycles_per_frame": self.cycles_per_frame, "frames_per_second": self.frames_per_second}
        return row | {"resources": self.resources} | self.area.table() | {"folding": layers}


def front(
    network: Network, clock_mhz: float, most: Area | None = None, cluster: object = None, slices: str = "dsp"
) -> list[Point]:
    """Slowest first: for products in DSP slices and in LUTs, the smallest design for each of up to 24 rates. A design
    is left out where it needs more than `most`, or another one is as fast and needs no more of anything. `cluster`: who
    folds, see `mxexport.cluster.connected`. `slices`: what DSP slices make, one of `schedule.Kinds`."""
    wanted = [(kind, target) for kind in (slices, "lut") for target in _spread(fold_turns.cycle_counts(network))]
    found: dict[tuple, Point] = {}
    with clusters.connected(cluster) as runner:
        for point in runner.map(_point, wanted, shared=(network, clock_mhz)):
            if most is None or not point.area.beyond(most):
                found.setdefault((point.cycles_per_frame, point.area), point)
    points = sorted(found.values(), key=lambda p: (-p.cycles_per_frame, p.area.lut))
    return [p for p in points if not any(_beats(other, p) for other in points if other is not p)]


def _point(network: Network, clock_mhz: float, wanted: tuple[str, int]) -> Point:
    """The smallest design whose frames take so many cycles."""
    kind, target = wanted
    foldings, name = fold_turns.fold(network, target, {}, kind), "lut" if kind == "lut" else "dsp"
    cycles = max(cycles_per_unit(network, foldings).values())
    layers = {p.layer: foldings[p.name] for p in network.products()}
    return Point(cycles, clock_mhz * 1e6 / cycles, name, whole(network, foldings), layers)


def _spread(counts: list[int]) -> list[int]:
    """The ends and what lies evenly between, by ratio."""
    if len(counts) <= _MOST_TARGETS:
        return counts
    low, high = math.log(counts[0]), math.log(counts[-1])
    wanted = [math.exp(low + (high - low) * i / (_MOST_TARGETS - 1)) for i in range(_MOST_TARGETS)]
    return sorted({min(counts, key=lambda c: abs(math.log(c) - math.log(w))) for w in wanted})


def _beats(a: Point, b: Point) -> bool:
    no_worse = a.cycles_per_frame <= b.cycles_per_frame and not a.area.beyond(b.area)
    return no_worse and (a.cycles_per_frame, a.area) != (b.cycles_per_frame, b.area)


def svg(fronts: Mapping[str, Iterable[Point]]) -> str:
    """The fronts as one drawing, a line each: LUTs by the estimate against frames per second, both by ratio; what is in
    DSP slices filled, what is in LUTs hollow.

    Raises:
        OptionError: no point at all.
    """
    lines = {name: sorted(points, key=lambda p: p.frames_per_second) for name, points in fronts.items()}
    every = [p for points in lines.values() for p in points]
    if not every:
        raise OptionError("explore: there is no design to draw")
    x = LogAxis([p.frames_per_second for p in every], *ACROSS)
    y = LogAxis([max(p.area.lut, 1) for p in every], *UP)
    parts = plot_frame(x, y, "frames per second (estimate)", "LUT (estimate)")
    for i, (name, points) in enumerate(lines.items()):
        color = COLORS[i % len(COLORS)]
        for kind, fill in (("dsp", color), ("lut", "none")):
            own = [p for p in points if p.resources == kind]
            at = [(x.place(p.frames_per_second), y.place(max(p.area.lut, 1))) for p in own]
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-opacity="0.5"/>')
            for p, (a, b) in zip(own, at, strict=True):
                needs = ", ".join(f"{n:,.0f} {k}" for k, n in p.area.table().items() if n)
                title = f"<title>{p.frames_per_second:,.0f} frames/s: {needs}</title>"
                dot = f'cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{fill}" stroke="{color}"'
                parts.append(f"<circle {dot}>{title}</circle>")
        parts.append(f'<text x="80" y="{46 + 16 * i}" style="fill:{color}">{html.escape(name, quote=False)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
