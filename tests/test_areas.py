"""No unit grows, slows or gets deeper unnoticed: Yosys against the table in data/areas.json."""

from __future__ import annotations

import json
import os

import pytest

from tests.areas import TABLE, gated, measure, worse

FULL = bool(os.environ.get("MXEXPORT_FULL"))
KEPT = json.loads(TABLE.read_text())
QUICK = ["relu", "add", "quantize-mxfp8_e4m3", "matmul-mxint8-short", "window-mxint8"]
CLOCK_MHZ = 300
"""What every unit reaches by the timing estimate: UltraScale+, 300 ps a connection."""


@pytest.mark.parametrize("name", gated() if FULL else QUICK)
def test_no_unit_is_worse_than_the_table(name):
    found = worse(measure(name), KEPT[name])
    assert not found, f"{'; '.join(found)}; if that is meant, run python -m tests.areas"


def test_the_table_has_every_unit():
    assert set(KEPT) == set(gated())


def test_every_unit_reaches_the_clock_that_reports_promise():
    slow = {name: n["path"] for name, n in KEPT.items() if n["fmax_mhz"] < CLOCK_MHZ}
    assert not slow


def test_worse_by_more_than_two_percent_is_said():
    kept = KEPT["matmul-mxfp4_e2m1"]
    assert worse(kept, kept) == []
    assert worse(kept | {"lut": kept["lut"] * 1.01}, kept) == []
    (text,) = worse(kept | {"lut": round(kept["lut"] * 1.1)}, kept)
    assert text.startswith("lut")
    assert "MHz instead of" in worse(kept | {"fmax_mhz": kept["fmax_mhz"] * 0.9}, kept)[0]
