"""Area of the pieces that products are made of, counted as the RTL builds them; the sum is held to Yosys by tests."""

from __future__ import annotations

import math

from mxexport.fpga.areas.area import Area, Parts, exponent_bits
from mxexport.fpga.datapaths import latencies
from mxexport.numbers.formats import Element

DSP_BITS = 32  # of both factors, multiplied: Yosys makes smaller products of LUTs
_ENTANGLED = 1.06  # LUTs of products by Yosys for one that is counted


def tree(terms: int, width: int, pending: bool = False) -> Area:
    """mx_tree: one LUT per bit of every adder, a register behind it; a term left over passes by unless its sign is
    pending."""
    lut, ff, added = 0, 0, 1
    for level, (come, step) in enumerate(latencies.tree(terms, pending)):
        sums, alone = math.ceil(come / step), come % step == 1 and not (pending and level == 0)
        added *= step
        bits = width + (min(added, terms) - 1).bit_length()
        lut += (sums - alone) * bits
        ff += sums * (bits + 1)
    return Area(lut=lut, ff=ff)


def dot(a: Element, w: Element, lanes: int, luts: bool = False) -> Parts:
    """mx_dot of so many lanes; `luts`: integers without DSP slices."""
    if not (exponent_bits(a) or exponent_bits(w)):
        if luts:
            return {"booth": _booth(a.bits, w.bits, lanes)}
        width = a.linear_bits + w.linear_bits
        return {"integers": Area(ff=width, dsp=1) * lanes, "signed_trees": tree(lanes, width, pending=True)}
    width, pending = a.linear_bits + w.linear_bits - 1, latencies.sign_pending(a, w)
    trees = "signed_trees" if pending else "trees"
    return {f"products_{_kind(a, w)}": multiplier(a, w) * lanes, trees: tree(lanes, width, pending)}


def _kind(a: Element, w: Element) -> str:
    """How mx_mul makes a product: its kinds are weighed on their own."""
    (x, _), (y, _) = (latencies.parts(e) for e in (a, w))
    if not (x and y):
        return "mixed" if x or y else "integers"
    if latencies.fits_table(a, w):
        return "table"
    return "linear" if x == y == 2 else f"shifted_{latencies.exponent_sum_bits(x, y)}"


def multiplier(a: Element, w: Element) -> Area:
    """mx_mul without DSP slices: a product with the registers of its steps."""
    (x, m), (y, n) = (latencies.parts(e) for e in (a, w))
    width = a.linear_bits + w.linear_bits - 1
    if not (x and y):
        return _mixed(a, w)
    if latencies.fits_table(a, w):
        return Area(lut=width, ff=width)
    mant = m + n + 2
    table = mant if mant <= 6 else {8: 13, 7: 10}.get(mant, 2 * mant)
    if x == y == 2:
        lut, ff = table + 2 + (mant + 2) + (mant + 4) + 1, mant + 4 + 1 + width + 1
    else:
        bits = latencies.exponent_sum_bits(x, y)
        middle = mant + 15 if bits == 6 else 0
        lut = table + 2 + max(x, y) + (mant + 3) + middle + width + 1
        ff = mant + bits + 1 + width + 1 + (middle + 3 if middle else 0)
    return Area(lut=lut * _ENTANGLED, ff=ff)


def product(a: Element, w: Element) -> Parts:
    """mx_mul alone, in a DSP slice where it is given integers that are worth one."""
    if exponent_bits(a) or exponent_bits(w):
        return {f"products_{_kind(a, w)}": multiplier(a, w)}
    if a.bits * w.bits >= DSP_BITS:
        return {"integers": Area(lut=16, ff=14, dsp=1)}
    return {"products_integers": Area(lut=1.4 * a.bits * w.bits, ff=a.bits + w.bits)}


def _mixed(a: Element, w: Element) -> Area:
    """mx_mixed_mul."""
    integer, minifloat = (a, w) if exponent_bits(w) else (w, a)
    x, m = latencies.parts(minifloat)
    digits, width = math.ceil((m + 1) / 2), a.linear_bits + w.linear_bits - 1
    rows, total = digits * (integer.bits + 2), integer.bits + 2 * digits
    shifts = 1 if x <= 2 else math.ceil(x / 2) * 0.8
    lut = rows + (digits - 1) * total + shifts * width + x
    return Area(lut=lut, ff=rows + x + 1 + width + 1 + (total + x + 1 if x > 2 else 0))


def _booth(a_bits: int, w_bits: int, lanes: int) -> Area:
    """mx_dot_booth."""
    digits, length = math.ceil(w_bits / 2), min(lanes, 4)
    row = a_bits + 1 + (length - 1).bit_length()
    rows = sum(a_bits + 1 + i.bit_length() for i in range(length)) * digits * (lanes // length)
    chain = row + 1 + (row + 2 if length > 2 else 0)
    late = (lanes // length) * max(length - 2, 0) * (a_bits + w_bits)
    found = Area(lut=rows, ff=chain * digits * (lanes // length) + late) + tree(lanes // length, row) * digits
    joined = a_bits + w_bits + (lanes - 1).bit_length()
    return found + Area(lut=(digits > 1) * joined + (digits > 3) * joined * 0.7, ff=(digits > 1) * joined * 2)


def pair(a_bits: int, w_bits: int, lanes: int) -> Area:
    """mx_dot_pair: two rows."""
    field = min(lanes, latencies.pair_field(a_bits, w_bits))
    length = min(lanes, 4)
    chains, fields = field // length, lanes // field
    bits = a_bits + w_bits - 1 + (field - 1).bit_length()
    packed = 17 + bits
    late = sum(i - 1 for i in range(2, length)) * (a_bits + 2 * w_bits) * chains
    sums = {1: Area(), 2: Area(lut=packed, ff=packed), 4: Area(lut=2 * packed, ff=3 * packed)}[chains]
    return Area(dsp=lanes) + (Area(ff=late) + sums) * fields + tree(fields, bits) * 2


def three(a_bits: int, w_bits: int, lanes: int) -> Area:
    """mx_dot_three: a row."""
    chains = latencies.three_chains(lanes)
    late = sum(i - 1 for length in chains for i in range(2, length)) * 3 * (a_bits + w_bits)
    bits = a_bits + w_bits + (min(3 * chains[0], lanes) - 1).bit_length()
    waits = (chains[0] - chains[-1]) * bits
    return Area(dsp=sum(chains), ff=late + waits) + tree(len(chains), bits)


def wide(a_bits: int, b_bits: int, signed: bool = True) -> Area:
    """mx_wide_mul: products of digits, then their sum; `signed`: whether a factor may be negative."""
    steps = latencies.wide_steps(a_bits, b_bits)
    a, b = latencies.wide_digits(a_bits, steps[0]), latencies.wide_digits(b_bits, steps[1])

    def in_slices(bits: int, digits: int, step: int) -> int:
        last = bits - (digits - 1) * step  # a sign that is never set and one more bit need no slice
        return digits - (not signed and digits > 1 and last <= 2)

    dsp = in_slices(a_bits, a, steps[0]) * in_slices(b_bits, b, steps[1])
    return Area(ff=a * b_bits + b * a_bits, dsp=dsp) + tree(a * b, a_bits + b_bits)
