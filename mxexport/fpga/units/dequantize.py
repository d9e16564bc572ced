"""MX blocks -> wide integers, exact: where quantized values are added, pooled or put out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mxexport import ops
from mxexport.fpga.areas.area import Parts, each, shift_left
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.unit import Folding, Memory, Timing, block_foldings
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import E8M0_BIAS


@dataclass(frozen=True)
class Dequantize:
    operator = ops.MXDequantize
    module = "mx_dequantize"
    clocked = True
    status = {}
    memory_kinds = ()
    vectorwise = True
    lowers = ()  # put in wherever a unit takes wide integers

    source: Blocks

    @classmethod
    def from_node(cls, node: ir.Node, sources: tuple) -> Dequantize:
        return cls(*sources)

    @property
    def sources(self) -> tuple:
        return (self.source,)

    @property
    def result(self) -> Wide:
        element = self.source.element
        largest = self.source.largest << (self.source.code_max - self.source.code_min)
        lsb_exp = self.source.code_min - E8M0_BIAS - element.frac_bits
        return Wide(self.source.shape, largest.bit_length() + 1, lsb_exp)

    def attributes(self) -> dict:
        parameters = fixedpoint.element_parameters(self.source.element)
        return {
            "axis": len(self.source.shape),
            "group_size": self.source.group_size,
            "exponent_bits": parameters["exponent_bits"],
            "mantissa_bits": parameters["mantissa_bits"],
            "scale_offset": self.source.code_min,
            "width": self.result.width,
            "lsb_exp": self.result.lsb_exp,
        }

    def constants(self) -> dict:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}

    def describe(self) -> str:
        return f"{self.source.format} blocks as wide integers, exact."

    def comment(self, layer: str, folding: Folding) -> str:
        return f"{layer}: {self.source.format} blocks to wide integers"

    def foldings(self) -> list[Folding]:
        return block_foldings(self.source)

    def lanes(self, folding: Folding) -> tuple[int, int]:
        return folding.simd, folding.simd

    def parameters(self, folding: Folding) -> dict[str, int]:
        shift = self.source.code_max - self.source.code_min
        return {"K": self.source.channels, "Lanes": folding.simd, "ShiftMax": shift}

    def memories(self, folding: Folding) -> dict[str, Memory]:
        return {}

    def cycles(self, folding: Folding) -> int:
        return self.source.beats(folding.simd)

    def timing(self, folding: Folding) -> Timing:
        return Timing(np.arange(self.source.vectors), self.source.beats(folding.simd) // self.source.vectors, 2)

    def through(self, folding: Folding) -> bool:
        return True

    def parts(self, folding: Folding) -> Parts:
        p, width, lanes = fixedpoint.element_parameters(self.source.element), self.result.width, folding.simd
        exponent, mantissa = p["exponent_bits"], p["mantissa_bits"] + 2
        span = self.source.code_max - self.source.code_min + (2**exponent - 2 if exponent else 0)
        bits = span.bit_length()
        moved = shift_left(mantissa, width, bits)
        return {
            "unit": each(10),
            ("moved" if exponent else "shifted"): each(lanes * moved),
            ("fractions" if exponent else "mantissas"): each(lanes * mantissa),
            ("exponents" if exponent else "shifts"): each((lanes if exponent else self.source.across(lanes)) * bits),
            "values": each(lanes * width),
        }

    def bound(self, x: np.ndarray) -> None:
        return None
