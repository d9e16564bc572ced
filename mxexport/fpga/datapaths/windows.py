"""Windows over pixels, as ONNX's convolutions and pools describe them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport.fpga.areas.area import Area, Parts, each, ram
from mxexport.fpga.streams.layouts import is_turned
from mxexport.fpga.streams.types import Stream, Wide
from mxexport.fpga.unit import Folding, Refused, Timing, equal_parts, lane_foldings
from mxexport.model.rewriting import reduced_axes
from mxexport.numbers.groups import group_count
from mxexport.numbers.spatial import output_size


@dataclass(frozen=True)
class Window:
    """Down and across; pads: top, left, bottom, right. Sequences are images of one column."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        more = f", dilation {list(self.dilations)}" if self.dilations != (1, 1) else ""
        return f"{list(self.kernel)}, stride {list(self.strides)}, pads {list(self.pads)}{more}"

    @property
    def moves_only(self) -> bool:
        """Whether every output pixel is one input pixel."""
        return (*self.kernel, *self.strides) == (1, 1, 1, 1) and not any(self.pads)

    def output(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of what windows over a frame [H, W, C] make."""
        return tuple(
            output_size(shape[i], self.kernel[i], self.strides[i], self.pads[i], self.pads[i + 2], self.dilations[i])
            for i in (0, 1)
        )

    def cycles(self, shape: tuple[int, ...], beats: int) -> int:
        """Cycles that a frame [H, W, C] of `beats` beats a pixel occupies mx_line_buffer: its taps come out one beat at
        a time; behind the last row of a frame, the next one's first rows are waited for where they found no room."""
        height, width = self.output(shape)
        taps, pixels = self.kernel[0] * self.kernel[1], shape[0] * shape[1]
        span = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        held = shape[0] - max(0, (height - 1) * self.strides[0] - self.pads[0])
        room = span[0] + self.strides[0] - held
        rows, columns = min(shape[0], span[0] - self.pads[0]), min(shape[1], span[1] - self.pads[1])
        waiting = ((rows - 1 - room) * shape[1] + columns) * beats if rows > room else 0
        return max(pixels * beats, height * width * taps * beats + waiting)

    @functools.lru_cache(maxsize=4096)  # noqa: B019  frozen, and folding asks again and again
    def fed(self, shape: tuple[int, ...], pixel: float, vector: float) -> float:
        """Cycles from frame to frame where input pixels come `pixel` cycles apart and outputs leave `vector` apart, row
        by row: rows come while there is room for them, also those of the next frame."""
        height, width = self.output(shape)
        span = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        stride, pad, rows = self.strides[0], self.pads[0], shape[0]
        row, first = shape[1] * pixel, min(shape[1], span[1] - self.pads[1]) * pixel  # a row, and its first window
        freed: list[float] = []  # row (of all frames) -> when it is read no more
        come: list[float] = []  # row -> when it is there
        end, ends = 0.0, []
        for frame in range(3):
            for y in range(height):
                last = frame * rows + min(y * stride - pad + span[0] - 1, rows - 1)
                while len(come) <= last:
                    k = len(come) - (span[0] + stride)
                    come.append(max(come[-1] if come else 0.0, freed[k] if k >= 0 else 0.0) + row)
                end = max(max(end, come[last] - row + first) + width * vector, come[last] + vector)
                gone = frame * rows + (rows if y == height - 1 else max((y + 1) * stride - pad, 0))
                freed += [end] * (gone - len(freed))
            ends.append(end)
        return ends[2] - ends[1]

    def line_parts(self, source: Stream, lanes: int) -> Parts:
        """Of mx_line_buffer: the rows that a window spans, and as many as it moves down."""
        span = (self.kernel[0] - 1) * self.dilations[0] + 1
        beats, bits = source.beats(lanes) // source.vectors, source.beat_bits(lanes)
        depth = (span + self.strides[0]) * source.shape[1] * beats
        places = [*source.shape[:2], *self.output(source.shape), *self.kernel, beats]
        return {
            "lines": each(50),
            "addresses": each(6 * (depth - 1).bit_length()),
            "places": each(2 * sum((n - 1).bit_length() for n in places)),
            "beats": each(bits),
            "rows": ram(depth, bits),
        }

    def pool_parts(self, source: Stream, lanes: int) -> Parts:
        """The same of a pool, which keeps one value of every channel where its window is the frame."""
        if not self.is_frame(source.shape):
            return self.line_parts(source, lanes)
        beats, pixels = source.beats(lanes) // source.vectors, source.vectors
        counted = (beats - 1).bit_length() + (pixels - 1).bit_length()
        kept = {"kept": ram(beats, source.beat_bits(lanes)), "frame_values": each(source.beat_bits(lanes))}
        return {"frame": each(20), "frame_places": each(counted)} | kept

    def needs(self, shape: tuple[int, ...]) -> np.ndarray:
        """The last pixel, counted row by row, that every output pixel waits for."""
        last = [
            np.minimum(np.arange(n) * s - before + (k - 1) * d, size - 1)
            for n, s, before, k, d, size in zip(
                self.output(shape), self.strides, self.pads[:2], self.kernel, self.dilations, shape[:2], strict=True
            )
        ]
        return (last[0][:, None] * shape[1] + last[1]).ravel()

    def made_at_once(self, pixels: int) -> int:
        """Windows that mx_taps makes of so many pixels."""
        return max(pixels // self.strides[1], 1)

    def pixels_at_once(self, shape: tuple[int, ...]) -> list[int]:
        """How many pixels of a frame mx_taps can take at once; none where windows begin behind the frame."""
        (height, width), (rows, columns) = self.output(shape), shape[:2]
        inside = (height - 1) * self.strides[0] < rows and (width - 1) * self.strides[1] < columns
        if self.kernel == (1, 1) or not inside or self._lag(columns, 1) >= rows * columns:
            return []
        stride = self.strides[1]
        return [
            n
            for n in equal_parts(columns)
            if width % self.made_at_once(n) == 0 and (n % stride == 0 or stride % n == 0)
        ]

    def _lag(self, columns: int, pixels: int) -> int:
        """mx_pkg::taps_lag."""
        down, right = ((k - 1) * d - p for k, d, p in zip(self.kernel, self.dilations, self.pads[:2], strict=True))
        return -(-(down * columns + right) // pixels)

    def at_once(self, shape: tuple[int, ...], pixels: int, latency: int) -> Timing:
        """Of mx_taps, with `latency` cycles from it on."""
        (height, width), columns = self.output(shape), shape[1]
        first = np.arange(height)[:, None] * self.strides[0] * columns + np.arange(width) * self.strides[1]
        beat = first.ravel() // pixels + self._lag(columns, pixels)
        return Timing((beat + 1) * pixels - 1, 1 / self.made_at_once(pixels), latency, beyond=1 / pixels)

    def taps_parts(self, shape: tuple[int, ...], bits: int, pixels: int) -> Parts:
        """Of mx_taps over pixels of `bits` bits: rows in a memory, columns in registers."""
        beats = self.dilations[0] * shape[1] // pixels
        held = self.kernel[0] * ((self.kernel[1] - 1) * self.dilations[1] + 2 * pixels - 1) * bits
        places = sum((n - 1).bit_length() for n in (*shape[:2], *self.output(shape)))
        return {
            "taps": each(60),
            "tap_places": each(places),
            "held": each(held),
            "tap_rows": ram(beats, (self.kernel[0] - 1) * pixels * bits) if self.kernel[0] > 1 else Area(),
            "rows_written": each((self.kernel[0] - 1) * pixels * bits),
        }

    def pool_foldings(self, source: Wide) -> list[Folding]:
        """Of a pool: some channels of one tap after the other, or all taps of some pixels."""
        plain = lane_foldings(source.channels)
        if self.is_frame(source.shape):
            return plain
        taps = self.kernel[0] * self.kernel[1]
        widths = {f.simd for f in plain if f.simd >= source.channels}
        at_once = [
            Folding(n, n, taps, pixels)
            for pixels in self.pixels_at_once(source.shape)
            for n in sorted(widths if pixels == 1 else {source.channels})
        ]
        return plain + at_once

    def lanes(self, folding: Folding) -> tuple[int, int]:
        """Of the input and output streams of a unit whose windows these are."""
        return folding.simd * folding.pixels, folding.pe * self.made_at_once(folding.pixels)

    def pool_parameters(self, source: Wide, folding: Folding) -> dict[str, int]:
        return self.sizes(source.shape) | {"K": source.channels, "Lanes": folding.simd, "Pixels": folding.at_once}

    def pool_cycles(self, source: Wide, folding: Folding) -> int:
        if folding.taps > 1:
            return source.vectors // folding.pixels
        if self.is_frame(source.shape):
            return source.beats(folding.simd)
        return self.cycles(source.shape, group_count(source.channels, folding.simd))

    def pooled(self, source: Wide, folding: Folding, latency: int) -> Timing:
        """Of a pool: `latency` cycles behind the last tap."""
        if folding.taps > 1:
            return self.at_once(source.shape, folding.pixels, 1 + latency)
        beats = group_count(source.channels, folding.simd)
        if self.is_frame(source.shape):
            return Timing(np.array([source.vectors - 1]), beats, latency)
        taps = self.kernel[0] * self.kernel[1] * beats
        return Timing(self.needs(source.shape), taps, taps + 2 + latency, (self, source.shape))

    def is_frame(self, shape: tuple[int, ...]) -> bool:
        """Whether the one window is the frame."""
        return self.kernel == tuple(shape[:2]) and not any(self.pads)

    def attributes(self) -> dict[str, list[int]]:
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
        }

    @classmethod
    def of_attributes(cls, a: dict) -> Window:
        """The inverse of `attributes`."""
        names = ("kernel_shape", "strides", "pads", "dilations")
        return cls(*(tuple(a.get(name, (1, 1))) for name in names))

    def sizes(self, shape: tuple[int, ...]) -> dict[str, int]:
        """SystemVerilog parameters of the frames that come and go."""
        height, width = self.output(shape)
        return {"H": shape[0], "W": shape[1], "OutH": height, "OutW": width}

    @classmethod
    def of_node(cls, node: ir.Node, kernel: tuple[int, ...], frame: tuple[int, ...] | None) -> Window:
        """The window of an ONNX Conv or pool over one or two spatial dimensions; `frame`: [H, W, C] of the stream
        that brings its input.

        Raises:
            Refused: automatic padding, more than two dimensions, padding as long as the window.
        """
        a = {name: attribute.value for name, attribute in node.attributes.items()}
        rank = len(kernel)
        if rank not in (1, 2):
            raise Refused(f"it runs over {rank} dimensions; units run over one or two")
        if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise Refused(f"auto_pad is {a['auto_pad']}; run mx.clean, or export with pads written out")
        for name, wanted in (("strides", rank), ("dilations", rank), ("pads", 2 * rank)):
            if len(a.get(name, (0,) * wanted)) != wanted:
                raise Refused(f"{name} {list(a[name])} do not fit its kernel {list(kernel)}")
        pads = tuple(a.get("pads", (0,) * 2 * rank)) if a.get("auto_pad", "NOTSET") == "NOTSET" else (0,) * 2 * rank
        found = cls(
            kernel=_both(kernel),
            strides=_both(tuple(a.get("strides", (1,) * rank))),
            pads=pads if rank == 2 else (pads[0], 0, pads[1], 0),
            dilations=_both(tuple(a.get("dilations", (1,) * rank))),
        )
        x = node.inputs[0]
        if a.get("ceil_mode") and x.shape is not None and all(isinstance(d, int) for d in x.shape[2:]):
            found = found._rounded_up((*x.shape[2:], 1)[:2])
        spans = [(k - 1) * d + 1 for k, d in zip(found.kernel, found.dilations, strict=True)]
        if any(max(found.pads[i], found.pads[i + 2]) >= spans[i] for i in (0, 1)):
            raise Refused(f"pads {list(found.pads)} reach beyond windows that span {spans}; expected less than a span")
        return found._turned() if is_turned(x, frame) else found

    def _turned(self) -> Window:
        """The same on images whose one row is a column. Raises Refused for taps that then stand in another order."""
        if min(self.kernel) > 1:
            raise Refused(f"its kernel {list(self.kernel)} runs over images of one row; use one of height 1")
        top, left, bottom, right = self.pads
        return Window(self.kernel[::-1], self.strides[::-1], (left, top, right, bottom), self.dilations[::-1])

    def _rounded_up(self, shape: tuple[int, ...]) -> Window:
        """ceil_mode: more padding behind, so that the last window, which begins inside the frame, fits."""
        pads = list(self.pads)
        for i in (0, 1):
            span, stride = (self.kernel[i] - 1) * self.dilations[i] + 1, self.strides[i]
            left = (shape[i] + pads[i] + pads[i + 2] - span) % stride
            starts = shape[i] + pads[i] + pads[i + 2] - span - left + stride  # of the window that does not fit
            if left and starts < shape[i] + pads[i]:
                pads[i + 2] += stride - left
        return Window(self.kernel, self.strides, tuple(pads), self.dilations)


def _both(numbers: tuple[int, ...]) -> tuple[int, int]:
    return numbers if len(numbers) == 2 else (*numbers, 1)


def check_whole_image(node: ir.Node) -> None:
    """Raise Refused unless a ReduceMean or ReduceMax looks at whole images."""
    rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    axes = reduced_axes(node)
    found = None if axes is None or rank is None else sorted(a % rank for a in axes)
    if rank is None or found != list(range(2, rank)):
        raise Refused(f"it looks at axes {found}; units pool height and width of [batch, channels, height, width]")
