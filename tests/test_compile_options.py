"""What `compile` and a design are given: options, inputs, and what of them does not fit."""

from __future__ import annotations

import json
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

import mxexport as mx
from mxexport.errors import InputFileError, OptionError, ShapeError
from mxexport.fpga import open_design
from mxexport.fpga.areas.devices import DEVICES, check_part
from mxexport.numbers import fixedpoint, quantized

CALIBRATION = (np.random.default_rng(0).integers(-256, 257, (32, 40)) / 256).astype(np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("options") / "m.onnx"
    model = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 4))
    mx.export(mx.quantize_model(model, "mxint8", "mxint8").eval(), (torch.zeros(1, 40),), path)
    return path


@pytest.fixture(scope="module")
def design(exported):
    return mx.compile(exported, exported.parent / "fpga", calibration=CALIBRATION)


# --- options --------------------------------------------------------------------------------------------------

NO_NUMBERS = [0, -1, float("nan"), float("inf"), -float("inf"), True, "200", None, 1j, [200]]


@pytest.mark.parametrize("clock", [*NO_NUMBERS, 1e9], ids=repr)
def test_a_clock_that_is_none_is_refused_before_any_work(tmp_path, clock):
    with pytest.raises(OptionError, match=r"clock_mhz is .*; expected a positive number of MHz up to 10000"):
        mx.compile(tmp_path / "absent.onnx", tmp_path / "fpga", calibration=CALIBRATION, clock_mhz=clock)


@pytest.mark.parametrize("fps", [n for n in NO_NUMBERS if n is not None], ids=repr)
def test_a_frame_rate_that_is_none_is_refused_before_any_work(tmp_path, fps):
    with pytest.raises(OptionError, match=r"target_fps is .*; expected a positive number of frames per second"):
        mx.compile(tmp_path / "absent.onnx", tmp_path / "fpga", calibration=CALIBRATION, target_fps=fps)


@pytest.mark.parametrize("margin", [-1, 1.0, True, "1", None], ids=repr)
def test_a_margin_is_a_whole_number(tmp_path, margin):
    with pytest.raises(OptionError, match="margin is .*; expected a whole number, 0 or more"):
        mx.compile(tmp_path / "absent.onnx", tmp_path / "fpga", calibration=CALIBRATION, margin=margin)


@pytest.mark.parametrize("folding", [[("0", (1, 1))], {"0": 4}, {"0": (1,)}, {"0": (1.0, 2)}, {"0": "12"}, {0: (1, 1)}])
def test_a_folding_is_a_pair_of_whole_numbers_by_layer(tmp_path, folding):
    with pytest.raises(OptionError, match="folding .*; expected"):
        mx.compile(tmp_path / "absent.onnx", tmp_path / "fpga", calibration=CALIBRATION, folding=folding)


@pytest.mark.parametrize(
    "part", ["xczu7ev", "XCZU7EV-ffvc1156-2-e", "xc7z020clg400-1", "xcvu9p-flga2104-2L-e", "xck26"]
)
def test_devices_are_known_with_and_without_package(part):
    assert check_part(part) == part


@pytest.mark.parametrize(
    "part", ["", "xczu7", "xczu7evx", "xczu99ev", "zynq", "xcku5p ", None, 7, "xczu7ev-", "ep4ce6"]
)
def test_other_parts_are_refused(tmp_path, part):
    with pytest.raises(OptionError, match="^part"):
        mx.compile(tmp_path / "absent.onnx", tmp_path / "fpga", calibration=CALIBRATION, part=part)


def test_a_part_written_wrong_is_answered_with_those_alike():
    with pytest.raises(OptionError, match="did you mean .*xczu7ev"):
        check_part("xczu7evs-2-e")
    assert all(check_part(device) == device for device in DEVICES)


@pytest.mark.parametrize("stall", [{"stall_in": 1}, {"stall_out": -0.1}, {"stall_in": np.nan}, {"stall_out": "0.5"}])
def test_stalls_are_probabilities_below_one(design, stall):
    with pytest.raises(OptionError, match="expected a probability from 0 up to, not including, 1"):
        design.simulate(CALIBRATION, **stall)
    with pytest.raises(OptionError, match="seed is 1.5; expected a whole number"):
        design.simulate(CALIBRATION, seed=1.5)


# --- frame rates ----------------------------------------------------------------------------------------------


def test_a_folding_is_written_and_read_back_as_yaml(exported, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 40)).astype(np.float32) / 256
    first = mx.compile(exported, tmp_path / "a", calibration=x, folding={"0": (2, 4)})
    text = (tmp_path / "a" / "folding.yaml").read_text()
    assert "pe: 2\n  simd: 4" in text and first.files()["folding"].endswith("folding.yaml")
    again = mx.compile(exported, tmp_path / "b", calibration=x, folding=tmp_path / "a" / "folding.yaml")
    assert again.foldings == first.foldings
    for content, message in (
        ("- 1", "holds list"),
        ("'0': 4", "expected {pe"),
        ("'0': {pe: 3, simd: 4}", "pe=3, simd=4; expected pe of 1, 2, 4, 8, simd of 1, 2, 4, 8, 16, 32, 64"),
    ):
        (tmp_path / "f.yaml").write_text(content)
        with pytest.raises(OptionError, match=message):
            mx.compile(exported, tmp_path / "c", calibration=x, folding=tmp_path / "f.yaml")
    with pytest.raises(InputFileError, match="no folding can be read"):
        mx.compile(exported, tmp_path / "c", calibration=x, folding=tmp_path / "none.yaml")


def compile_quietly(exported, tmp_path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return mx.compile(exported, tmp_path / "fpga", calibration=CALIBRATION, **options)


def test_a_frame_rate_that_is_reached_is_no_warning(exported, tmp_path):
    report = compile_quietly(exported, tmp_path, target_fps=100e6).report
    assert report["frames_per_second"] == 100e6 == report["target_fps"] and report["limit"] is None
    assert report["limited_by"] == "0"
    report = compile_quietly(exported, tmp_path, target_fps=np.float32(1e-300 + 1e-30), clock_mhz=np.int64(300)).report
    assert report["layers"][0]["pe"] == report["layers"][0]["simd"] == 1 and report["clock_mhz"] == 300.0


def test_a_frame_rate_that_is_not_reached_is_said_with_what_limits_it(exported, tmp_path):
    told = r"target_fps 1e\+09 is not reached: 2e\+08 frames per second at 200 MHz; layer '0' takes 1 cycles per frame "
    with pytest.warns(
        UserWarning, match=told + "at pe=8, simd=64, its largest folding; raise clock_mhz or ask for less"
    ):
        built = mx.compile(exported, tmp_path / "fpga", calibration=CALIBRATION, target_fps=1e9)
    assert built.report["limit"].startswith("target_fps 1e+09") and built.report["limited_by"] == "0"
    asked = "layer '2' takes 8 cycles per frame at pe=1, simd=4, as folding asks; up to pe=4"
    with pytest.warns(UserWarning, match=asked):
        mx.compile(exported, tmp_path / "fpga", calibration=CALIBRATION, target_fps=1e8, folding={"2": (1, 4)})


def test_the_report_is_strict_json(design):
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    text = (design.path / "report.json").read_text()
    assert json.loads(text, parse_constant=refuse) == design.report


# --- inputs ---------------------------------------------------------------------------------------------------

NO_REAL = [
    (CALIBRATION + 1j, "complex64 values; their imaginary part would be lost"),
    (torch.complex(torch.ones(2, 40), torch.ones(2, 40)), "complex64 values"),
    (np.full((2, 40), "1"), "expected real numbers"),
    (np.full((2, 40), None), "expected real numbers"),
    ([[1.0], [1.0, 2.0]], "makes no array"),
    (1.5, "a single number"),
    (None, "expected real numbers"),
    ({"wrong": CALIBRATION}, "wrong given; the network takes"),
]


@pytest.mark.parametrize("x, message", NO_REAL, ids=lambda p: p if isinstance(p, str) else type(p).__name__)
def test_what_is_no_real_array_is_refused_wherever_inputs_are_taken(exported, design, tmp_path, x, message):
    for take in (design.simulate, design.run_dataflow, design.compare_stages):
        with pytest.raises(ShapeError, match=f"inputs: .*{message}"):
            take(x)
    with pytest.raises(ShapeError, match=f"calibration: .*{message}"):
        mx.compile(exported, tmp_path / "fpga", calibration=x)


def test_complex_inputs_are_refused_by_executors_and_by_the_reference(exported):
    x = CALIBRATION + 1j
    from mxexport.running.executors import run_qonnx, run_reference

    for execute in (mx.run, run_qonnx, run_reference, lambda m, v: mx.verify(m, m, v)):
        with pytest.raises(ShapeError, match="complex64 that is not all float32"):
            execute(exported, x)
    for bad in (x, np.full((2, 40), "1")):
        with pytest.raises(ShapeError, match="expected real numbers"):
            quantized.quantize(bad, "mxint8")


def test_tensors_of_torch_are_taken_as_they_are(exported, design):
    x = torch.from_numpy(CALIBRATION[:4].copy())
    expected, wanted = design.run_dataflow(x.numpy()).raw, mx.run(exported, x.numpy())
    for given_ in (x.clone().requires_grad_(), x.to(torch.float64), nn.Parameter(x)):
        np.testing.assert_array_equal(design.run_dataflow(given_).raw, expected)
        np.testing.assert_array_equal(*[next(iter(r.values())) for r in (mx.run(exported, given_), wanted)])
    coarse = x.bfloat16()
    np.testing.assert_array_equal(design.run_dataflow(coarse).raw, design.run_dataflow(coarse.float()).raw)


def test_inputs_beyond_the_range_saturate_and_are_counted(design):
    source = design.network.source
    x, top = CALIBRATION[:6].copy(), 2.0 ** (source.width - 1 + source.lsb_exp)
    assert design.report["calibration"] == {"frames": 32, "margin": 1, "saturated_inputs": 0}
    assert design.run_dataflow(x).saturated_inputs == 0
    x[0, :3], x[5, 7], x[2, 2] = 1e30, -1e5, -top  # the last is the lowest value the input holds
    simulated, ran = design.simulate(x), design.run_dataflow(x)
    assert simulated.saturated_inputs == ran.saturated_inputs == 4
    np.testing.assert_array_equal(simulated.raw, ran.raw)
    x[0, :3], x[5, 7] = top, -top
    np.testing.assert_array_equal(design.run_dataflow(x).raw, ran.raw)


def test_no_frames_give_no_outputs(design):
    x = CALIBRATION[:0]
    assert design.run_dataflow(x).raw.shape == (0, 4) and design.simulate(x).raw.shape == (0, 4)
    with pytest.raises(ShapeError, match=r"shape \(4, 0\) have 0 features"):
        design.run_dataflow(np.zeros((4, 0)))


def test_an_opened_design_counts_too(design):
    assert open_design(design.path).run_dataflow(CALIBRATION * 1e6).saturated_inputs > 0


@given(
    st.integers(-(2**63) + 1, 2**63 - 1)
    | st.builds(lambda m, e: m << e, st.integers(-(2**26), 2**26), st.integers(0, 36))
)
def test_outputs_are_rounded_to_float32_once(v):
    for lsb_exp in (-40, 0, -190):
        exact = Fraction(v) * Fraction(2) ** lsb_exp
        found = fixedpoint.to_float32(np.array([v]), lsb_exp)[0]
        neighbours = [np.nextafter(found, np.float32(side)) for side in (-np.inf, np.inf)]
        error = abs(Fraction(float(found)) - exact)
        for other in neighbours:
            distance = abs(Fraction(float(other)) - exact)
            even = np.float32(found).view(np.int32) % 2 == 0
            assert error < distance or (error == distance and even)


def test_rates_are_promised_at_clocks_that_the_timing_estimate_supports(exported, tmp_path):
    slow = mx.compile(exported, tmp_path / "a", calibration=CALIBRATION, clock_mhz=300).report
    assert slow["clock_limit_mhz"] == 300 and slow["limit"] is None
    with pytest.warns(UserWarning, match="clock_mhz 450 is more than the 300 MHz that the timing estimate supports"):
        fast = mx.compile(exported, tmp_path / "b", calibration=CALIBRATION, clock_mhz=450).report
    assert fast["frames_per_second"] == slow["frames_per_second"] and fast["clock_mhz"] == 450
    other = mx.compile(exported, tmp_path / "c", calibration=CALIBRATION, clock_mhz=450, part="xcvc1902").report
    assert other["clock_limit_mhz"] is None and other["frames_per_second"] == 1.5 * slow["frames_per_second"]
    older = mx.compile(exported, tmp_path / "d", calibration=CALIBRATION, clock_mhz=150, part="xc7z020").report
    assert older["clock_limit_mhz"] == 150 and older["frames_per_second"] == slow["frames_per_second"] / 2
