"""Published integer designs as hardware (benchmarks/integer_hardware.py): each module equals its definition."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from mxexport.errors import MXExportError
from tests.helpers import FULL

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")
NAMES = (
    *(("softmax", name) for name in ("I-BERT", "I-ViT", "SOLE", "ITA")),
    *(("LayerNorm", name) for name in ("I-BERT", "SOLE")),
    *(("GELU", name) for name in ("I-BERT", "I-ViT")),
    *(("softmax", f"{name}, 16 bits out") for name in ("I-BERT", "I-ViT", "SOLE")),
)
SHARED = "common", "integer_designs", "integer_hardware"


@pytest.fixture(scope="module")
def hardware():
    sys.path.insert(0, BENCHMARKS)
    yield importlib.import_module("integer_hardware")
    sys.path.remove(BENCHMARKS)
    for name in SHARED:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def edges(hardware) -> np.ndarray:
    """Rows of every spread, one of equal values, one with the largest and the smallest, one of small ones."""
    few = np.concatenate([hardware.rows(spread, 1) for spread in hardware.SPREADS])
    largest = np.where(np.arange(hardware.LENGTH) % 2, 2**19 - 1, -(2**19))
    small = (np.arange(hardware.LENGTH) % 5 - 2) * 85
    return np.stack([*few, np.full(hardware.LENGTH, -777), largest, small, few[1]])


@pytest.mark.parametrize("kind, name", NAMES if FULL else NAMES[:8])
def test_modules_equal_their_definitions(hardware, edges, kind, name):
    design = hardware.designs(hardware.SPREAD)[kind][1][name]
    given = np.delete(edges, 3, 0) if design.module == "root_norm" else edges  # no root of a row of equal values
    hardware.compared(kind, name, design, given, stall=0.3)
    assert hardware.compared(kind, name, design, given) == hardware.LENGTH


def test_a_difference_is_named(hardware, edges):
    design = hardware.designs(hardware.SPREAD)["softmax"][1]["SOLE"]
    wrong = hardware.Design(
        lambda q: design.compute(q) + (q == q[0, 5]), 1.0, design.module, 8, design.parameters, False
    )
    with pytest.raises(MXExportError, match=r"sole_softmax differs .* first in row 0, place 5"):
        hardware.compared("softmax", "SOLE", wrong, edges[:2])
