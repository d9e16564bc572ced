"""Number formats: one line each; every other quantity is derived.

Sources: OCP Microscaling Formats (MX) v1.0 sections 5.1 to 5.3 and 6 (elements, E8M0, block formats);
OCP 8-bit Floating Point v1.0 (E4M3, E5M2 special values); NVFP4 as published by NVIDIA.

A *group format* is an element format, a group size and the kind of scale the group shares. Without a group size
(`int8`, `float_ocp_e4m3`) one scale serves a channel or the whole tensor; once the tensor is known that is a group as
long as the axis (`with_group_size`). To add one format, add one line to `_NAMED` (or one family to `_FAMILIES`);
codecs, fake quantization, ONNX attributes and hardware parameters all follow from the properties below.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from mxexport.errors import FormatError

Specials = Literal["none", "nan", "ieee", "fnuz"]
ScaleKind = Literal["e8m0", "float32", "nvfp4", "nested"]
SCALING_PER_OUTPUT = ("tensor", "channel", "group")

E8M0_BIAS = 127
E8M0_NAN = 255
E8M0_MAX = 254
SCALE_RULES = ("floor", "ceil", "even", "rceil")
ScaleRule = str | int
"""One of `SCALE_RULES`, or the integer R that it adds (see `round_bias`)."""
MAX_ROUND_BIAS = 0x7FFFFF


def ocp_specials(exponent_bits: int, mantissa_bits: int) -> Specials:
    """Special values of an OCP element: they follow from the bit widths alone."""
    return {(4, 3): "nan", (5, 2): "ieee"}.get((exponent_bits, mantissa_bits), "none")


@dataclass(frozen=True)
class FloatElement:
    """A sign-magnitude minifloat with subnormals.

    `specials`: `none` (every code is finite), `nan` (all-ones magnitude is NaN, OCP E4M3), `ieee` (top exponent
    holds Inf and NaN, OCP E5M2), `fnuz` (no -0: its code is NaN, bias one larger).
    """

    exponent_bits: int
    mantissa_bits: int
    specials: Specials = "none"

    signed = True

    @property
    def name(self) -> str:
        return f"e{self.exponent_bits}m{self.mantissa_bits}"

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        return 2 ** (self.exponent_bits - 1) - (0 if self.specials == "fnuz" else 1)

    @property
    def signed_zero(self) -> bool:
        return self.specials != "fnuz"

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number, and of every subnormal."""
        return 1 - self.bias

    @property
    def max_code(self) -> int:
        """Magnitude code of the largest finite value."""
        top = 2 ** (self.bits - 1) - 1
        return {"nan": top - 1, "ieee": top - 2**self.mantissa_bits}.get(self.specials, top)

    @property
    def inf_code(self) -> int | None:
        return self.max_code + 1 if self.specials == "ieee" else None

    @property
    def nan_code(self) -> int | None:
        """The NaN an encoder emits (positive where there is a choice); None if the format has none."""
        top = 2 ** (self.bits - 1) - 1
        return {"nan": top, "ieee": top, "fnuz": top + 1}.get(self.specials)

    @property
    def max_val(self) -> float:
        field, mantissa = divmod(self.max_code, 2**self.mantissa_bits)
        if field == 0:
            return mantissa * 2.0 ** (self.emin - self.mantissa_bits)
        return (1 + mantissa / 2**self.mantissa_bits) * 2.0 ** (field - self.bias)

    @property
    def emax(self) -> int:
        """Exponent of the largest normal number (the amount the shared exponent is lowered by)."""
        return self.max_code // 2**self.mantissa_bits - self.bias

    @property
    def frac_bits(self) -> int:
        """Every finite value is a whole multiple of 2**-frac_bits."""
        return self.mantissa_bits - self.emin

    @property
    def linear_bits(self) -> int:
        """Bits of the signed integer value * 2**frac_bits."""
        return int(self.max_val * 2**self.frac_bits).bit_length() + 1


@dataclass(frozen=True)
class IntElement:
    """A two's complement (or unsigned) integer, read as a multiple of 2**-frac_bits.

    Signed codes stay within +-(2**(bits-1) - 1); the most negative code is never produced but is decoded.
    """

    bits: int
    signed: bool = True
    frac_bits: int = 0

    signed_zero = False
    emax = 0
    nan_code = None

    @property
    def name(self) -> str:
        return f"{'int' if self.signed else 'uint'}{self.bits}"

    @property
    def mantissa_bits(self) -> int:
        return self.frac_bits

    @property
    def code_hi(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def code_lo(self) -> int:
        return -self.code_hi if self.signed else 0

    @property
    def max_val(self) -> float:
        return self.code_hi / 2**self.frac_bits

    @property
    def linear_bits(self) -> int:
        return self.bits if self.signed else self.bits + 1


Element = FloatElement | IntElement


@dataclass(frozen=True)
class GroupFormat:
    """`group_size` consecutive elements along one axis share one scale.

    `group_size` None: one scale for each channel or for the tensor. Scale kind `nested` (as in the K-quants of GGUF):
    scales are unsigned integers of `scale_bits` times one float32 for every `super_size` groups along the axis.
    """

    name: str
    element: Element
    group_size: int | None
    scale: ScaleKind
    scale_bits: int = 0
    super_size: int = 0

    @property
    def is_mx(self) -> bool:
        """True where the shared scale is a power of two stored as E8M0."""
        return self.scale == "e8m0"

    @property
    def is_float(self) -> bool:
        return isinstance(self.element, FloatElement)

    @property
    def asymmetric(self) -> bool:
        return not self.element.signed

    @property
    def step_frac_bits(self) -> int:
        """What a power-of-two scale tensor is lowered by: integer formats store the step of one integer."""
        return 0 if self.is_float else self.element.frac_bits

    @property
    def bits_per_element(self) -> float:
        """Storage per element with the group's own scale (and zero point) included."""
        if self.group_size is None:
            return float(self.element.bits)  # one scale for so many elements does not count
        nested = self.scale_bits + 32 / self.super_size if self.super_size else 0
        overhead = {"e8m0": 8, "nvfp4": 8, "float32": 32, "nested": nested}[self.scale] + 8 * self.asymmetric
        return self.element.bits + overhead / self.group_size

    def describe(self) -> str:
        """The format in words, for doc strings and reports."""
        kind = {
            "e8m0": "power-of-two (E8M0)",
            "float32": "float32",
            "nvfp4": "E4M3 (times one float32 per tensor)",
            "nested": f"{self.scale_bits}-bit (times one float32 per {self.super_size} groups)",
        }
        zero = " and a zero point" if self.asymmetric else ""
        who = f"groups of {self.group_size}" if self.group_size else "those of a channel or of the tensor"
        return f"{self.element.bits}-bit {self.element.name} elements, {who} share one {kind[self.scale]} scale{zero}"


_NAMED: dict[str, GroupFormat] = {
    fmt.name: fmt
    for fmt in (
        GroupFormat("mxfp8_e4m3", FloatElement(4, 3, "nan"), 32, "e8m0"),
        GroupFormat("mxfp8_e5m2", FloatElement(5, 2, "ieee"), 32, "e8m0"),
        GroupFormat("mxfp6_e3m2", FloatElement(3, 2), 32, "e8m0"),
        GroupFormat("mxfp6_e2m3", FloatElement(2, 3), 32, "e8m0"),
        GroupFormat("mxfp4_e2m1", FloatElement(2, 1), 32, "e8m0"),
        GroupFormat("mxint8", IntElement(8, frac_bits=6), 32, "e8m0"),
        GroupFormat("nvfp4", FloatElement(2, 1), 16, "nvfp4"),
    )
}
MX_FORMATS = tuple(name for name, fmt in _NAMED.items() if fmt.is_mx)


def _int_family(name: str, kind: str, bits: str, group: str | None) -> GroupFormat:
    return GroupFormat(name, IntElement(int(bits), signed=kind == "int"), _size(group), "float32")


def _nested_family(name: str, kind: str, bits: str, group: str, scale_bits: str, super_size: str) -> GroupFormat:
    element = IntElement(int(bits), signed=kind == "int")
    return GroupFormat(name, element, int(group), "nested", int(scale_bits), int(super_size))


def _size(group: str | None) -> int | None:
    return None if group is None else int(group)


def _float_family(name: str, kind: str | None, exponent: str, mantissa: str, group: str | None) -> GroupFormat:
    return GroupFormat(name, _float_element(name, kind, exponent, mantissa), _size(group), "float32")


def _mxfloat_family(name: str, kind: str | None, exponent: str, mantissa: str, group: str | None) -> GroupFormat:
    return find_format(_float_element(name, kind, exponent, mantissa), int(group or 32), "e8m0")


def _float_element(name: str, kind: str | None, exponent: str, mantissa: str) -> FloatElement:
    e, m = int(exponent), int(mantissa)
    if e < 1 or not 2 <= 1 + e + m <= 8:
        raise FormatError(
            f"format {name!r}: 1 sign + {e} exponent + {m} mantissa bits; expected at least one exponent bit "
            "and at most 8 bits in all"
        )
    specials = {None: "none", "ocp": ocp_specials(e, m), "fnuz": "fnuz"}[kind]
    return FloatElement(e, m, specials)


def _mxint_family(name: str, bits: str, group: str | None) -> GroupFormat:
    b, g = int(bits), int(group or 32)
    return GroupFormat(_mx_name(f"mxint{b}", g), IntElement(b, frac_bits=b - 2), g, "e8m0")


def _mx_name(stem: str, group_size: int) -> str:
    return stem if group_size == 32 else f"{stem}_g{group_size}"


def _regrouped_mx(name: str, base: str, group: str) -> GroupFormat:
    fmt = _NAMED[base]
    if int(group) == fmt.group_size:
        return fmt
    return GroupFormat(f"{base}_g{int(group)}", fmt.element, int(group), fmt.scale)


_GROUP = r"_g([1-9]\d{0,5})"
_FAMILIES = (
    (re.compile(r"(u?int)([2-8])(?:" + _GROUP + ")?"), _int_family),
    (re.compile(r"(u?int)([2-8])" + _GROUP + r"_s([2-8])x([1-9]\d{0,3})"), _nested_family),
    (re.compile(r"float_(?:(ocp|fnuz)_)?e(\d)m(\d)(?:" + _GROUP + ")?"), _float_family),
    (re.compile(r"mxfloat_(?:(ocp|fnuz)_)?e(\d)m(\d)(?:" + _GROUP + ")?"), _mxfloat_family),
    (re.compile(r"mxint([2-8])(?:" + _GROUP + ")?"), _mxint_family),
    (re.compile("(" + "|".join(MX_FORMATS) + ")" + _GROUP), _regrouped_mx),
)


@cache
def _parse(name: str) -> GroupFormat | None:
    if name in _NAMED:
        return _NAMED[name]
    for pattern, build in _FAMILIES:
        if match := pattern.fullmatch(name):
            return build(name, *match.groups())
    return None


def get_format(name: str | GroupFormat) -> GroupFormat:
    """The group format called `name` (a `GroupFormat` is returned as it is).

    Raises:
        FormatError: no such format; the message lists the names and families and the nearest match.
    """
    if isinstance(name, GroupFormat):
        return name
    fmt = _parse(name) if isinstance(name, str) else None
    if fmt is None:
        near = [known for known in _NAMED if name and known.startswith(str(name))]  # mxfp4 means mxfp4_e2m1
        near = near or difflib.get_close_matches(str(name), list(_NAMED), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FormatError(
            f"unknown format {name!r}.{hint} Named formats: {', '.join(_NAMED)}; families: mxint{{2..8}}, "
            "int{2..8}_g{N}, uint{2..8}_g{N}, float_e{E}m{M}_g{N}, float_ocp_e{E}m{M}_g{N}, "
            "float_fnuz_e{E}m{M}_g{N} (without _g{N}: one scale per channel or tensor), "
            "u?int{2..8}_g{N}_s{2..8}x{M} (nested scales), mxfloat_[ocp_|fnuz_]e{E}m{M} (power-of-two scales); any MX "
            "format takes another group size as ..._g{N}"
        )
    return fmt


def with_group_size(fmt: GroupFormat, group_size: int) -> GroupFormat:
    """The format with the elements and scales of `fmt` and another group size."""
    if fmt.group_size == group_size:
        return fmt
    if fmt.scale == "nested":
        return get_format(f"{fmt.element.name}_g{group_size}_s{fmt.scale_bits}x{fmt.super_size}")
    return find_format(fmt.element, group_size, fmt.scale)


def check_rule(rule: ScaleRule) -> ScaleRule:
    """`rule` itself, or FormatError if it is neither one of `SCALE_RULES` nor an addend R."""
    if type(rule) is int and 0 <= rule <= MAX_ROUND_BIAS:
        return rule
    if rule not in SCALE_RULES:
        raise FormatError(
            f"unknown scale rule {rule!r}; expected one of {', '.join(SCALE_RULES)}, or its addend R, an integer of 0 "
            f"to {MAX_ROUND_BIAS:#x} (see round_bias)"
        )
    return rule


def rule_name(rule: ScaleRule) -> str:
    """The rule in a word: its name, or its addend as R=0x…"""
    return f"R={rule:#x}" if type(rule) is int else rule


def round_bias(element: Element, rule: ScaleRule) -> int:
    """R of `rule`: what is added to the float32 bits of the group's largest magnitude before its exponent is read.

    floor (OCP MX v1.0 section 6.3) adds nothing; ceil rounds any fraction up; even rounds to the element's
    mantissa first; rceil takes ceil(log2(amax / max_val)). A rule given as an integer is R itself: tools exist whose
    rule is none of the four.
    """
    if type(check_rule(rule)) is int:
        return rule
    max_fraction = int((element.max_val / 2.0**element.emax - 1) * 2**23)
    return {
        "floor": 0,
        "ceil": 0x7FFFFF,
        "even": 1 << (22 - element.mantissa_bits),
        "rceil": 0x7FFFFF - max_fraction,
    }[rule]


def find_format(element: Element, group_size: int, scale: ScaleKind) -> GroupFormat:
    """The group format with these parts, under its canonical name (the inverse of `get_format`).

    Raises:
        FormatError: scales of nvfp4 in groups of another size than its own.
    """
    for fmt in _NAMED.values():
        if fmt.element == element and fmt.scale == scale:
            if group_size == fmt.group_size:
                return fmt
            if not fmt.is_mx:
                raise FormatError(f"format {fmt.name} has groups of {fmt.group_size}; there is none of {group_size}")
            return GroupFormat(f"{fmt.name}_g{group_size}", element, group_size, scale)
    if scale == "e8m0" and isinstance(element, IntElement):
        return get_format(f"mx{element.name}_g{group_size}")
    kind = {"fnuz": "fnuz_", "nan": "ocp_", "ieee": "ocp_"}.get(getattr(element, "specials", "none"), "")
    stem = f"float_{kind}{element.name}" if isinstance(element, FloatElement) else element.name
    if scale == "e8m0":
        return GroupFormat(_mx_name(f"mx{stem}", group_size), element, group_size, scale)
    return GroupFormat(f"{stem}_g{group_size}", element, group_size, scale)
