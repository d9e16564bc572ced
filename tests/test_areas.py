"""No unit grows, slows or gets deeper unnoticed: Yosys against the table in data/areas.json."""

from __future__ import annotations

import faulthandler
import json
import sys

import pytest

from mxexport.fpga.areas import devices
from tests.areas import TABLE, cells, measure, measured, worse
from tests.helpers import FULL

KEPT = json.loads(TABLE.read_text())
QUICK = ["relu, pe=2, simd=2", "add, pe=2, simd=2", "quantize-mxfp8_e4m3, pe=4, simd=4", "window-mxint8, pe=8, simd=8",
         "matmul-mxint8-short, pe=2, simd=4", "mx_lanes (8, 2, 20, 64)"]  # fmt: skip


@pytest.mark.parametrize("name", KEPT if FULL else QUICK)
def test_no_unit_is_worse_than_the_table(name):
    if "hundreds" in name:  # Yosys may take a quarter of an hour where others want the machine, too
        faulthandler.dump_traceback_later(1800, exit=True, file=sys.__stderr__)
    found = worse(measure(name), KEPT[name])
    assert not found, f"{'; '.join(found)}; if that is meant, run python -m tests.areas"


def test_the_table_has_every_unit():
    assert set(KEPT) == {*measured(), *cells()}


def test_every_unit_reaches_the_clock_that_reports_promise():
    slow = {name: n["path"] for name, n in KEPT.items() if n["fmax_mhz"] < devices.CLOCK_MHZ}
    assert not slow
    assert {name for name, n in KEPT.items() if n["series_7_mhz"] < devices.SERIES_7_MHZ} == set()


def test_worse_by_more_than_two_percent_is_said():
    kept = KEPT["matmul-mxfp4_e2m1, pe=4, simd=8"]
    assert worse(kept, kept) == []
    assert worse(kept | {"lut": kept["lut"] * 1.01}, kept) == []
    (text,) = worse(kept | {"lut": round(kept["lut"] * 1.1)}, kept)
    assert text.startswith("lut")
    assert "MHz instead of" in worse(kept | {"fmax_mhz": kept["fmax_mhz"] * 0.9}, kept)[0]
