"""AMD devices by name: what `part` may be, and what the usual ones hold."""

from __future__ import annotations

import difflib
import re

from mxexport.errors import OptionError
from mxexport.fpga.areas.area import Area

_FAMILIES = {  # prefix of the names and what follows it
    "xc7z": "007s 010 012s 014s 015 020 030 035 045 100",
    "xc7s": "6 15 25 50 75 100",
    "xc7a": "12t 15t 25t 35t 50t 75t 100t 200t",
    "xc7k": "70t 160t 325t 355t 410t 420t 480t",
    "xc7v": "585t 2000t x330t x415t x485t x550t x690t x980t x1140t h580t h870t",
    "xcku": "025 035 040 060 085 095 115 3p 5p 9p 11p 13p 15p 19p",
    "xcvu": "065 080 095 125 160 190 440 3p 5p 7p 9p 11p 13p 19p 23p 27p 29p 31p 33p 35p 37p 45p 47p 57p",
    "xcau": "7p 10p 15p 20p 25p",
    "xcsu": "10p 25p 35p 50p 55p 65p 100p 150p 200p",
    "xczu": "1cg 1eg 2cg 2eg 3cg 3eg 3tcg 3teg 4cg 4eg 4ev 5cg 5eg 5ev 6cg 6eg 7cg 7eg 7ev 9cg 9eg 11eg 15eg 17eg 19eg "
    "21dr 25dr 27dr 28dr 29dr 39dr 42dr 43dr 46dr 47dr 48dr 49dr 63dr 64dr 65dr 67dr",
    "xcu": "25 26 30 50 55c 55n 200 250 280",
    "xck": "24 26",
    "xcvc": "1502 1702 1802 1902 2602 2802",
    "xcve": "1752 2002 2102 2202 2302 2602 2802",
    "xcvm": "1102 1302 1402 1502 1802 2202 2302 2502 2902",
    "xcvp": "1002 1052 1102 1202 1402 1502 1552 1702 1802 1902 2502 2802",
    "xcvh": "1522 1542 1582 1742 1782",
}
# LUT, FF, DSP, BRAM36, URAM as the vendor's data sheets state them; boards: where they are found.
_HOLDS = {
    "xc7z020": (53_200, 106_400, 220, 140, 0, "DS190; PYNQ-Z1, PYNQ-Z2"),
    "xc7a100t": (63_400, 126_800, 240, 135, 0, "DS180; Arty A7-100"),
    "xczu3eg": (70_560, 141_120, 360, 216, 0, "DS891; Ultra96, AUP-ZU3"),
    "xczu7ev": (230_400, 460_800, 1_728, 312, 96, "DS891; ZCU104"),
    "xczu9eg": (274_080, 548_160, 2_520, 912, 0, "DS891; ZCU102"),
    "xczu28dr": (425_280, 850_560, 4_272, 1_080, 80, "DS889; ZCU111, RFSoC2x2"),
    "xck26": (117_120, 234_240, 1_248, 144, 64, "DS987; KV260, KR260"),
    "xcu50": (871_680, 1_743_360, 5_952, 1_344, 640, "DS965; Alveo U50"),
    "xcu55c": (1_303_680, 2_607_360, 9_024, 2_016, 960, "DS978; Alveo U55C"),
    "xcu200": (1_182_240, 2_364_480, 6_840, 2_160, 960, "DS962; Alveo U200"),
    "xcu250": (1_728_000, 3_456_000, 12_288, 2_688, 1_280, "DS962; Alveo U250"),
    "xcu280": (1_303_680, 2_607_360, 9_024, 2_016, 960, "DS963; Alveo U280"),
    "xcvc1902": (899_840, 1_799_680, 1_968, 967, 463, "DS950; VCK190"),
    "xcv80": (2_574_208, 5_148_416, 10_848, 3_741, 1_925, "DS1013; Alveo V80"),
}
DEVICES = frozenset(prefix + end for prefix, ends in _FAMILIES.items() for end in ends.split()) | set(_HOLDS)
# Behind the device come package, speed grade and temperature range; xa and xq are automotive and defense grades.
_ORDER = re.compile(r"([a-z]{2,4}\d{2,4})?(-[a-z0-9]+)*")


def check_part(part: str) -> str:
    """`part` as given when it names an AMD device, such as `xczu7ev`, `xczu7ev-ffvc1156-2-e` or `xc7z020clg400-1`.

    Raises:
        OptionError: an unknown device; the message names those that are written alike.
    """
    if not isinstance(part, str):
        raise OptionError(f"part is {part!r}; expected the name of an AMD device, such as 'xczu7ev'")
    name = re.sub("^x[aq]", "xc", part.lower())
    if not any(name.startswith(device) and _ORDER.fullmatch(name[len(device) :]) for device in DEVICES):
        alike = difflib.get_close_matches(name.split("-")[0], sorted(DEVICES), 3, 0.6)
        hint = f"did you mean {' or '.join(alike)}?" if alike else "expected one such as xczu7ev, xc7z020 or xcu250"
        raise OptionError(f"part {part!r} is no AMD device that is known; {hint}")
    return part


def device_of(part: str) -> str:
    """The device that a part number names: `xczu7ev` of `xczu7ev-ffvc1156-2-e`."""
    name = re.sub("^x[aq]", "xc", check_part(part).lower())
    return max((device for device in DEVICES if name.startswith(device)), key=len)


def resources(part: str) -> Area | None:
    """What the device of a part holds; None where the table does not say. Raises OptionError as `check_part`."""
    found = _HOLDS.get(device_of(part))
    return None if found is None else Area(*found[:5])


CLOCK_MHZ, SERIES_7_MHZ = 300.0, 150.0
"""What every unit reaches on UltraScale+ and 7 series by the timing estimate (`tools/sta.py`, held by
tests/test_areas.py)."""


def family(part: str) -> str:
    """ "7 series", "UltraScale+", "Versal", or "" for others. Of Versal and the others no delays are known here."""
    device = device_of(part)
    if device.startswith("xc7"):
        return "7 series"
    if device.startswith(("xcvc", "xcve", "xcvm", "xcvp", "xcvh", "xcv80")):
        return "Versal"
    plus = device.startswith(("xczu", "xcau", "xcu", "xck2")) or re.fullmatch("xc[kv]u\\d+p", device)
    return "UltraScale+" if plus else ""


def makes_threes(part: str) -> bool:
    """Whether a DSP slice of the part makes three products of integers of 9 by 8 bits: the INT8 mode of Versal's."""
    return family(part) == "Versal"


def clock_limit(part: str) -> float | None:
    """MHz that the timing estimate supports on a part; None for families of which it has no delays."""
    return {"7 series": SERIES_7_MHZ, "UltraScale+": CLOCK_MHZ}.get(family(part))


def known_resources() -> dict[str, tuple[Area, str]]:
    """Device -> what it holds, and the data sheet that says so with boards that carry it."""
    return {device: (Area(*numbers[:5]), numbers[5]) for device, numbers in _HOLDS.items()}
