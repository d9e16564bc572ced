"""Inputs and comparisons that several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import onnx
import pytest
from onnx import helper

from mxexport import ops
from mxexport.fpga import library
from mxexport.fpga.tools.verilator import WAIVED, find_tools
from mxexport.native.building import SWITCH
from mxexport.numbers import bits
from mxexport.running import executors

FULL = bool(os.environ.get("MXEXPORT_FULL"))
"""make test-full: all cases of tests that say much the same of each."""


in_full = pytest.mark.skipif(not FULL, reason="make test-full runs it: others say most of the same in less time")


def every(step: int, cases: Iterable) -> list:
    """All of them in make test-full; else every so-manieth, from the first on."""
    return list(cases) if FULL else list(cases)[::step]


ALL_FORMATS = (
    "mxfp8_e4m3",
    "mxfp8_e5m2",
    "mxfp6_e3m2",
    "mxfp6_e2m3",
    "mxfp4_e2m1",
    "mxint8",
    "mxint4",
    "mxint2_g16",
    "int4_g16",
    "uint4_g16",
    "uint8_g7",
    "float_e3m2_g8",
    "float_ocp_e5m2_g32",
    "float_fnuz_e4m3_g32",
    "mxfloat_e4m3",
    "mxfloat_fnuz_e4m3_g16",
)


def edge_values(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Float32 rows that hurt: zeros, -0, NaN, Inf, subnormals, just below 2**k, huge, and every magnitude between."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * np.exp2(rng.integers(-140, 120, (shape[0], 1)))).astype(np.float32)
    powers = np.exp2(rng.integers(-126, 127, shape[1])).astype(np.float32)
    rows = [
        np.zeros(shape[1]),
        np.full(shape[1], -0.0),
        np.where(np.arange(shape[1]) == 3, np.nan, 1.0),
        np.where(np.arange(shape[1]) == 4, np.inf, 1.0),
        np.full(shape[1], 1e-44),
        np.full(shape[1], -3.4e38),
        np.nextafter(powers, np.float32(0)),
        powers,
        np.full(shape[1], 2.0**-126),
        np.full(shape[1], 1.1754942e-38),
        (np.arange(shape[1]) - shape[1] // 2) / 8 + 1 / 16,  # ties
    ]
    x[: len(rows)] = np.array(rows, np.float32)
    return x


def run_python(script: str, **environment: str) -> str:
    """What a script prints in a process of its own, which must end well."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def run_bodies(model, inputs, outputs: list[str] | None = None) -> dict[str, np.ndarray]:
    """`mx.run` by the function bodies, where it would take compiled kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        return executors.run(model, inputs, outputs)


def assert_equal_bits(actual: np.ndarray, expected: np.ndarray, context: object = "") -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype, (actual.shape, expected.shape, context)
    same = bits.equal_bits(actual, expected)
    if not same.all():
        where = np.argwhere(~same)[:3].tolist()
        raise AssertionError(
            f"{context}: {int((~same).sum())} values differ, first at {where}: "
            f"{actual[~same][:3]} expected {expected[~same][:3]}"
        )


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def assert_equal_up_to_turned_codes(actual: np.ndarray, expected: np.ndarray, limit: float | None = None) -> None:
    """Root mean square of the difference at most `limit` (1% of the expected values, if not given).

    Processors and libraries add float32 products in different orders. A sum near a rounding point then turns over to
    the neighbouring code, and with attention behind it one code moves a row. How many do is a matter of the machine;
    how much they change is not: noise of four units in the last place on every sum of the networks tested here stays
    at 0.4% or below, where quantization itself makes 1% to 7%.
    """
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    limit = 0.01 * rms(expected) if limit is None else limit
    found = rms(actual.astype(np.float64) - expected)
    assert found <= limit, f"differs by {found:.3g} (root mean square), at most {limit:.3g} expected"


def single_node_model(op_type: str, arrays: list, attributes: dict, opset: int = 18) -> onnx.ModelProto:
    """A model of one operator of ours, its function body attached; None leaves an optional input out."""
    cls = ops.OPERATORS[op_type]
    given = [(name, a) for name, a in zip(cls.inputs, arrays, strict=False) if a is not None]
    node = helper.make_node(
        op_type, [n for n, _ in given], list(cls.outputs), domain=ops.DOMAIN, name="n", **attributes
    )
    shapes = cls.infer_shapes([a.shape for _, a in given], attributes)
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.DataType.Value(port.dtype.upper()), list(shape))
        for (name, port), shape in zip(cls.outputs.items(), shapes, strict=True)
    ]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)) for n, a in given
    ]
    return helper.make_model(
        helper.make_graph([node], "g", inputs, outputs),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(ops.DOMAIN, ops.VERSION)],
        functions=ops.functions_for([node], opset),
        ir_version=10,
    )


def lint(design, cells: bool = False, top: str = "mx_top", more: tuple = ()) -> str:
    """What Verilator says of a design's RTL with -Wall, but for the waivers of `tools/verilator.py`; `cells`: with the
    vendor's cells by name; `top`: a module of the files `more` instead of mx_top."""
    tools, rtl = find_tools(), design.path / "rtl"
    sources = [*sorted(rtl.glob("*_pkg.sv")), *sorted(rtl.glob("*[!g].sv")), *(library.primitives() if cells else [])]
    options = [f"-Wno-{name}" for name in WAIVED] + ["-DMX_LUT6_2", "-DMX_DSP48E2"] * cells
    command = [tools.verilator, "--lint-only", "-Wall", *options, "--no-timing", "--top-module", top]
    environment = os.environ | {"VERILATOR_ROOT": str(tools.root)}
    done = subprocess.run(
        [*command, *map(str, (*sources, *more))],
        cwd=design.path / "mem",
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.stderr if done.returncode else ""
