"""Smooth activation functions in hardware: how far they are off, which graphs are read as them, and whole networks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.fpga import open_design
from mxexport.fpga.datapaths.curves import FUNCTIONS, elu, function_of, hard_sigmoid, silu, softplus
from mxexport.fpga.lowering.composed import composed
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.unit import Refused
from mxexport.fpga.units import Activation
from mxexport.numbers import quantized
from mxexport.quant import QuantSpec, freeze_scales
from mxexport.running import executors
from tests import hardware_networks as networks

TYPES = [(24, -16), (28, -18), (30, -28), (18, -8), (6, 0)]
"""Width and lsb_exp of inputs."""
NAMES = [*FUNCTIONS, silu(1.702), elu(1.0, 1.0), elu(0.5, 0.5), softplus(2.0), hard_sigmoid(1 / 6, 0.5)]
SPREADS = (0.1, 1.0, 4.0)
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "hardware.md"


def computed(unit: Activation, x: np.ndarray) -> np.ndarray:
    """Real numbers (float64) for wide integers."""
    (y,) = unit.operator.reference(x, *unit.constants().values(), **unit.attributes())
    return np.ldexp(y.astype(np.float64), unit.result.lsb_exp)


def sqnr(found: np.ndarray, wanted: np.ndarray) -> float:
    """In dB."""
    return float(10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()))


@pytest.mark.parametrize("width, lsb_exp", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_errors_stay_within_what_is_claimed(name, width, lsb_exp):
    """On all inputs, or a hundred thousand of them at any distance from 0."""
    unit, top = Activation.of(Wide((1,), width, lsb_exp), name), 1 << (width - 1)
    spread = np.unique(np.rint(np.geomspace(1, top - 1, 100_000)).astype(np.int64))
    x = np.arange(-top, top) if width <= 18 else np.concatenate([-spread, spread, [0, -top, top - 1]])
    real = np.ldexp(x.astype(np.float64), lsb_exp)
    off = np.abs(computed(unit, x) - function_of(name)(real))
    rounding = 2.0 ** (lsb_exp - 1) * (unit.shift < 0) + 2.0**-17
    assert off.max() <= function_of(name).error + rounding
    assert (off <= unit.bound(real)).all()


@pytest.mark.parametrize("name", NAMES)
def test_ends_and_the_middle_are_exact(name):
    unit = Activation.of(Wide((1,), 40, -20), name)
    x = np.array([0, 2**39 - 1, -(2**39), 20 << 20, -(20 << 20)])
    wanted = {
        "sigmoid": [0.5, 1, 0, 1, 0],
        "tanh": [0, 1, -1, 1, -1],
        "softplus": [round(math.log(2) * 2**18) / 2**18, 2.0**19, 0, 20, 0],
        softplus(2.0): [round(math.log(2) * 2**17) / 2**18, 2.0**19, 0, 20, 0],
        elu(1.0, 1.0): [0, 2.0**19, -1, 20, -1],
        elu(0.5, 0.5): [0, 2.0**19, -0.5, 20, -0.5],
        hard_sigmoid(1 / 6, 0.5): [0.5, 1, 0, 1, 0],
    }.get(name, [0, 2.0**19, 0, 20, 0])
    np.testing.assert_array_equal(computed(unit, x), wanted)


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_symmetry_is_exact(name):
    unit, x = Activation.of(Wide((1,), 20, -16), name), np.arange(2**19)
    np.testing.assert_array_equal(computed(unit, x) + computed(unit, -x), 2 * function_of(name).offset)


@pytest.mark.parametrize("name", NAMES)
def test_results_fill_their_width_and_never_pass_it(name):
    for width, lsb_exp in TYPES:
        unit, top = Activation.of(Wide((1,), width, lsb_exp), name), 1 << (width - 1)
        x = np.concatenate([np.linspace(-top, top - 1, 200_001).astype(np.int64), np.arange(-(1 << 5), 1 << 5)])
        (y,) = unit.operator.reference(x, *unit.constants().values(), **unit.attributes())
        grid = unit.result.grid
        assert grid.low <= y.min() and y.max() <= grid.high
        assert not unit.result.nonnegative or y.min() >= 0


@pytest.mark.parametrize("width, lsb_exp", [(20, 1), (60, 0), (9, -30)])
def test_inputs_that_no_result_fits_are_refused(width, lsb_exp):
    with pytest.raises(Refused, match=f"its input has {width} bits of 2\\*\\*{lsb_exp}; quantize before it"):
        Activation.of(Wide((1,), width, lsb_exp), "gelu")


def test_the_documentation_says_how_far_they_are_off():
    """And rounding to MX int8 behind them is at least 20 dB louder, at any spread of inputs."""
    rows, rng = [], np.random.default_rng(0)
    for name in NAMES:
        function = function_of(name)
        unit, columns = Activation.of(Wide((1,), 32, -24), name), []
        for spread in SPREADS:
            x = np.rint(rng.normal(0, spread, 32_000) * 2.0**24).astype(np.int64)
            wanted = function(np.ldexp(x.astype(np.float64), -24))
            rounded = quantized.quantize(wanted.reshape(-1, 32), "mxint8").dequantize().reshape(-1)
            ours, neighbour = sqnr(computed(unit, x), wanted), sqnr(rounded, wanted)
            assert ours >= neighbour + 20
            columns.append(f"{ours:.0f} dB ({neighbour:.0f})")
        rows.append(f"| {function.words} | {function.error:.1e} | {' | '.join(columns)} |")
    assert "\n".join(rows) in DOCUMENT.read_text(), "\n".join(rows)


# --- graphs -----------------------------------------------------------------------------------------------------------

ERF = "r = Div(x, root) e = Erf(r) p = Add(e, one)"
CUBE = "c = Pow(x, three) s = Mul(a, c) t = Add(x, s) k = Mul(t, factor) h = Tanh(k)"
SOFT = "p = Softplus(x) g = Greater(x, twenty)"
TREES = {
    "silu": ("silu", 0, "s = Sigmoid(x) y = Mul(x, s)"),
    "silu turned": ("silu", 0, "s = Sigmoid(x) y = Mul(s, x)"),
    "silu doubled": ("silu", 1, "s = Sigmoid(x) m = Mul(x, s) y = Mul(m, two)"),
    "quick GELU": ("silu(2.0)", 0, "t = Mul(x, two) s = Sigmoid(t) y = Mul(x, s)"),
    "softplus": ("softplus", 0, f"{SOFT} y = Where(g, x, p)"),
    "softplus of more": (
        "softplus(2.0)", 0,
        "t = Mul(x, two) p = Softplus(t) q = Mul(p, half) g = Greater(t, twenty) y = Where(g, x, q)",
    ),
    "Mish": ("mish", 0, "p = Softplus(x) h = Tanh(p) y = Mul(h, x)"),
    "Mish with a threshold": ("mish", 0, f"{SOFT} w = Where(g, x, p) h = Tanh(w) y = Mul(x, h)"),
    "erf": ("gelu", 0, f"{ERF} q = Mul(half, p) y = Mul(x, q)"),
    "erf, half last": ("gelu", 0, f"{ERF} m = Mul(x, p) y = Mul(m, half)"),
    "erf, half first": ("gelu", 0, f"n = Mul(x, half) {ERF} y = Mul(n, p)"),
    "erf without half": ("gelu", 1, f"{ERF} y = Mul(x, p)"),
    "erf by a factor": ("gelu", 1, "r = Mul(inverse, x) e = Erf(r) p = Add(one, e) y = Mul(p, x)"),
    "tanh": ("gelu_tanh", 0, f"{CUBE} p = Add(h, one) q = Mul(half, p) y = Mul(x, q)"),
    "tanh by products": (
        "gelu_tanh", 1,
        "z = Mul(x, x) c = Mul(z, x) s = Mul(c, a) t = Add(s, x) k = Mul(factor, t) h = Tanh(k) p = Add(one, h) "
        "y = Mul(p, x)",
    ),
    "tanh, x outside": (
        "gelu_tanh", 1,
        "z = Mul(x, x) s = Mul(z, a) t = Add(s, one) u = Mul(x, t) k = Mul(factor, u) h = Tanh(k) p = Add(one, h) "
        "y = Mul(p, x)",
    ),
}  # fmt: skip
OTHERS = {
    "a negative gate": "v = Mul(x, minus) s = Sigmoid(v) y = Mul(x, s)",
    "a gate that is moved": "v = Add(x, one) s = Sigmoid(v) y = Mul(x, s)",
    "softplus where it is far from its argument": "p = Softplus(x) g = Greater(x, three) y = Where(g, x, p)",
    "softplus of one factor and another": "t = Mul(x, two) p = Softplus(t) g = Greater(x, twenty) y = Where(g, x, p)",
    "softplus that is not divided": "t = Mul(x, two) p = Softplus(t) g = Greater(t, twenty) y = Where(g, x, p)",
    "a choice of something else": f"{SOFT} y = Where(g, p, x)",
    "Tanh of something else": "p = Softplus(x) q = Mul(p, two) h = Tanh(q) y = Mul(x, h)",
    "the gate of another tensor": "v = Neg(x) s = Sigmoid(v) y = Mul(x, s)",
    "a gate that is read elsewhere": "s = Sigmoid(x) m = Mul(x, s) y = Add(m, s)",
    "another constant": "r = Div(x, two) e = Erf(r) p = Add(e, one) y = Mul(x, p)",
    "another sum": "r = Div(x, root) e = Erf(r) p = Add(e, half) y = Mul(x, p)",
    "a factor that is no power of two": f"{ERF} n = Mul(p, three) y = Mul(x, n)",
    "a negative factor": f"{ERF} n = Mul(p, minus) y = Mul(x, n)",
    "another power": f"{CUBE.replace('three', 'two')} p = Add(h, one) y = Mul(x, p)",
    "a square": "y = Mul(x, x)",
    "no gate": "s = Sigmoid(x) y = Mul(s, three)",
}
CONSTANTS = (
    "float root = {1.4142135}, float inverse = {0.70710677}, float one = {1.0}, float half = {0.5}, float two = {2.0}, "
    "float three = {3.0}, float twenty = {20.0}, float minus = {-1.0}, float a = {0.044715}, float factor = {0.7978846}"
)


def tree(text: str, more: str = "") -> ir.Graph:
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    return ir.from_onnx_text(f"{header} g (float[2,4] x) => (float[2,4] y{more}) <{CONSTANTS}> {{ {text} }}").graph


@pytest.mark.parametrize("name", TREES)
def test_functions_of_several_nodes_are_found(name):
    function, power, text = TREES[name]
    g = tree(text)
    ((last, found),) = composed(g).items()
    assert last is g.outputs[0].producer() and found.source is g.inputs[0]
    assert (found.function, found.power) == (function, power)
    assert found.inner == {node for node in g if node is not last}
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (2, 4)).astype(np.float32)
    (y,) = executors.run(ir.Model(g, ir_version=10), {"x": x}).values()
    np.testing.assert_allclose(y, 2.0**power * function_of(function)(x), atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_left_alone(name):
    assert composed(tree(OTHERS[name])) == {}


def test_a_value_inside_that_is_an_output_keeps_its_node():
    text = "s = Sigmoid(x) y = Mul(x, s)"
    assert len(composed(tree(text))) == 1 and composed(tree(text, ", float[2,4] s")) == {}


def test_a_long_chain_of_products_and_sums_ends():
    """2**200 ways lead through the sums."""
    text = " ".join(f"x{i + 1} = Add(x{i}, x{i})" for i in range(200)).replace("x0", "x")
    text += " h = Tanh(x200) p = Add(h, one) m0 = Mul(x, p) "
    text += " ".join(f"m{i + 1} = Mul(m{i}, one)" for i in range(2000)) + " y = Neg(m2000)"
    assert composed(tree(text)) == {}


# --- networks ---------------------------------------------------------------------------------------------------------


class Smooth(nn.Module):
    """Every function once, one of them of a sum."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.pool = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2)
        self.three, self.four, self.five = nn.Conv2d(8, 6, 1), nn.Linear(24, 12), nn.Linear(12, 5)
        for layer in (self.one, self.two, self.three, self.four, self.five):  # inputs beyond the straight parts
            nn.init.normal_(layer.weight, std=4 * layer.weight[0].numel() ** -0.5)

    def forward(self, x):
        x = nn.functional.silu(self.one(x))
        x = self.pool(nn.functional.gelu(x + self.two(x)))
        x = nn.functional.gelu(self.three(x), approximate="tanh")
        return torch.sigmoid(self.five(torch.tanh(self.four(x.flatten(1)))))


UNITS = ["silu", "gelu", "gelu_tanh", "tanh", "sigmoid"]


def check_network(model: nn.Module, frame: tuple[int, ...], folder: Path, **options) -> list[Activation]:
    """RTL equals the dataflow graph, which is close to torch; gives the units of smooth functions."""
    design, quantized_model, x = networks.compiled(model, frame, ("mxint8", "mxint8"), folder, **options)
    expected = design.run_dataflow(x)
    for stalls in ({}, {"stall_in": 0.4, "stall_out": 0.4, "seed": 3}):
        np.testing.assert_array_equal(design.simulate(x[:8], **stalls).raw, expected.raw[:8])
    with torch.no_grad():
        wanted = quantized_model(torch.from_numpy(x)).numpy()
    assert np.median(np.abs(expected.values - wanted)) <= 1e-3 and np.ptp(wanted) > 0.4
    assert open_design(design.path).network.streams == design.network.streams
    return [i.unit for i in design.network.instances if isinstance(i.unit, Activation)]


def test_a_network_is_exact_in_rtl_and_as_close_as_claimed(tmp_path):
    torch.manual_seed(0)
    units = check_network(Smooth(), (2, 4, 4), tmp_path)
    assert sorted(unit.function for unit in units) == sorted(UNITS)


def test_two_pixels_a_cycle(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.SiLU(), nn.Conv2d(3, 2, 1), nn.Tanh())
    units = check_network(model, (2, 4, 8), tmp_path, target_fps=200e6 / 16)
    assert [unit.function for unit in units] == ["silu", "tanh"]
    assert open_design(tmp_path / "fpga").report["cycles_per_frame"] <= 16


def test_nodes_of_older_opsets_become_the_same_units(tmp_path):
    """Exported at opset 18, GELU is Div, Erf, Add, Mul and Mul; cleaning carries the last factor on."""
    torch.manual_seed(0)
    model = mx.quantize_model(Smooth().eval(), "mxint8", "mxint8")
    x = np.random.default_rng(0).normal(0, 1, (8, 2, 4, 4)).astype(np.float32)
    mx.export(model, (torch.from_numpy(x),), tmp_path / "m.onnx", opset=18)
    mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx")
    for name, power in (("m.onnx", 0), ("c.onnx", 1)):
        design = mx.compile(tmp_path / name, tmp_path / "d", calibration=x)
        units = {i.unit.function: i.unit for i in design.network.instances if isinstance(i.unit, Activation)}
        assert set(units) == set(UNITS) and units["gelu_tanh"].power == power
        with torch.no_grad():
            wanted = model(torch.from_numpy(x)).numpy()
        assert np.median(np.abs(design.run_dataflow(x).values - wanted)) <= 1e-3


class Rows(nn.Module):
    """The same without convolutions."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))
        for layer in self.layers:
            nn.init.normal_(layer.weight)

    def forward(self, x):
        x = nn.functional.silu(self.layers[0](x))
        x = nn.functional.gelu(self.layers[1](x))
        x = nn.functional.gelu(self.layers[2](x), approximate="tanh")
        return torch.sigmoid(self.layers[4](torch.tanh(self.layers[3](x))))


@pytest.mark.parametrize("opset", [18, 20])
def test_integer_networks_keep_their_functions(opset, tmp_path):
    """One float scale for each tensor: factors stand around every function, and merge with none of its own."""
    torch.manual_seed(0)
    spec = QuantSpec("int8", source="static", scaling_per_output="tensor")
    model = mx.quantize_model(Rows(), weight=QuantSpec("int8", scaling_per_output="channel"), activation=spec)
    x = torch.randn(64, 8)
    model(x)
    freeze_scales(model)
    mx.export(model.eval(), (x[:2],), tmp_path / "m.onnx", opset=opset)
    mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx")
    for name in ("m.onnx", "c.onnx"):
        design = mx.compile(tmp_path / name, tmp_path / "d", calibration=x.numpy())
        assert {i.unit.function for i in design.network.instances if isinstance(i.unit, Activation)} == set(UNITS)
        with torch.no_grad():
            wanted = model(x).numpy()
        assert np.median(np.abs(design.run_dataflow(x.numpy()).values - wanted)) <= 1e-3


class Others(nn.Module):
    """Functions with numbers of their own, and such as torch spells out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(8))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.7)

    def forward(self, x):
        f = nn.functional
        functions = (Gated(1.702), f.mish, f.elu, f.selu, f.softplus, f.hardsigmoid, nn.CELU(0.5))
        for layer, function in zip(self.layers[:-1], functions, strict=True):
            x = function(layer(x))
        return self.layers[-1](x * torch.tanh(f.softplus(x)))


class Gated(nn.Module):
    """x * sigmoid(factor * x)."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * torch.sigmoid(self.factor * x)


def test_other_functions_are_exact_in_rtl_and_as_close_as_claimed(tmp_path):
    torch.manual_seed(0)
    kinds = sorted(unit.function.partition("(")[0] for unit in check_network(Others(), (8,), tmp_path))
    assert kinds == sorted(["silu", "mish", "mish", "elu", "elu", "elu", "softplus", "hard_sigmoid"])


@pytest.mark.parametrize(
    "function, words",
    [
        (nn.CELU(20.0), r"need a curve up to 2\*\*9; at most 2\*\*6 has a table"),
        (nn.ELU(-1.0), "it is an ELU with -1, 1; expected positive numbers"),
    ],
)
def test_numbers_that_no_table_holds_are_refused_by_name(function, words, tmp_path):
    torch.manual_seed(0)
    with pytest.raises(UnsupportedError, match=words):
        check_network(nn.Sequential(nn.Linear(8, 8), function, nn.Linear(8, 4)), (8,), tmp_path)


class Divided(nn.Module):
    def forward(self, x):
        return x / torch.sigmoid(x)


def test_a_quotient_that_is_no_known_function_is_refused_by_name(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 8), Divided(), nn.Linear(8, 4)).eval()
    model = mx.quantize_model(model, "mxint8", "mxint8")
    mx.export(model, (torch.zeros(1, 32),), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as caught:
        mx.compile(tmp_path / "m.onnx", tmp_path / "d", calibration=np.ones((4, 32), np.float32))
    ((where, why),) = caught.value.problems
    assert where.endswith("(Div)") and "is computed; expected a constant, or one count for a frame" in why
    assert mx.check(tmp_path / "m.onnx", target="fpga") == [(where, why)]
