"""Softmax of what a second stream leaves: sequences that are shorter than others."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, ram
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Folding, Held, Timing
from mxexport.fpga.units.softmax import Softmax
from mxexport.model import graph

_BANKS = 2  # frames of keys that mx_masked_softmax holds


@dataclass(frozen=True, eq=False)
class MaskedSoftmax(Softmax):
    """`keys`: (entries,), one vector a frame: an entry takes part where its key is above zero (`keep`: 1), or is not
    (0)."""

    operator = ops.WideMaskedSoftmax
    module = "mx_masked_softmax"
    status = {"error_o": 1}
    lowers = ()  # part of a Softmax whose mask comes from outside

    keys: Wide | None = None
    keep: int = 1

    @classmethod
    def masked(cls, source: Wide, keys: Wide, scale: float, mask: np.ndarray | None, keep: int) -> MaskedSoftmax:
        """As `Softmax.of`."""
        return cls._with_keys(Softmax.of(source, scale, mask), keys, keep)

    @classmethod
    def _with_keys(cls, plain: Softmax, keys: Wide, keep: int) -> MaskedSoftmax:
        return cls(**{f.name: getattr(plain, f.name) for f in fields(plain)}, keys=keys, keep=keep)

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> MaskedSoftmax:
        source, keys = sources
        plain = cls._read(node, source, node.inputs[2:])
        return cls(
            **{f.name: getattr(plain, f.name) for f in fields(plain)}, keys=keys, keep=graph.attributes(node)["keep"]
        )

    @property
    def sources(self) -> tuple:
        return (self.source, self.keys)

    def attributes(self) -> dict:
        return super().attributes() | {"keep": self.keep}

    def parameters(self, folding: Folding) -> dict[str, int]:
        return super().parameters(folding) | {"KeyWidth": self.keys.width, "Vectors": self.source.vectors}

    def timing(self, folding: Folding) -> Timing:
        own, beats = super().timing(folding), self._beats(folding.simd)
        return Timing(own.needs, own.cadence, own.latency, held=(Held(own.latency + beats + 2, _BANKS),))

    def parts(self, folding: Folding) -> Parts:
        beats, lanes = self._beats(folding.simd), folding.simd
        return super().parts(folding) | {
            "keys": ram(2 * (1 << max((beats - 1).bit_length(), 1)), lanes),
            "key_lanes": each(lanes * self.keys.width),
            "key_places": each(2 * beats.bit_length() + self.source.vectors.bit_length() + 12),
        }

    def bound(self, x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        kept = ((keys > 0) == bool(self.keep)).reshape(len(keys), *[1] * (x.ndim - 2), keys.shape[-1])
        return self._bound(x, np.broadcast_to(self.mask != 0, self.source.shape) & kept)
