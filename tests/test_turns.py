"""Layers that repeat as one piece of hardware: every stage computes what the dataflow graph says, which states every
turn; cycles are as claimed; what cannot take turns is refused by name."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import OptionError, UnsupportedError
from mxexport.fpga import open_design
from mxexport.fpga.areas.area import Area
from mxexport.fpga.folding import budgets, estimate, fold_turns
from mxexport.fpga.lowering import repeats
from mxexport.fpga.lowering.turns import TURN_OF, WIDTH, made_alike
from mxexport.fpga.scheduling import loops, schedule
from mxexport.fpga.streams.types import Wide
from mxexport.fpga.units import Affine, Clip, MatMul, Norm, Offset
from mxexport.model import graph
from tests.helpers import FULL
from tests.transformer_networks import Block, Eager

X = np.random.default_rng(0).standard_normal((16, 8, 8)).astype(np.float32)
PADDED = X, (np.arange(8) < np.random.default_rng(2).integers(3, 9, (16, 1))).astype(np.float32)
"""Tokens, and a mask of those that take part."""


class Encoder(nn.Module):
    """Blocks alike, between a layer before and one behind; every norm has gains of its own."""

    def __init__(self, blocks: int = 3, width: int = 32, pre: bool = True, ends: bool = True):
        super().__init__()
        self.embed, self.head = (nn.Linear(8, width), nn.Linear(width, 5)) if ends else (nn.Identity(), None)
        self.blocks = nn.Sequential(*[Block(Eager(width, 2), width, pre=pre) for _ in range(blocks)])
        for name, parameter in self.blocks.named_parameters():
            if "norm" in name:
                parameter.data += 0.3 * torch.randn_like(parameter)

    def forward(self, x):
        x = self.blocks(self.embed(x))
        return x if self.head is None else self.head(x.mean(1))


class Masked(nn.Module):
    """`fused`: one product makes queries, keys and values."""

    def __init__(self, width: int, heads: int = 2, fused: bool = False):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs = nn.ModuleList(
            [nn.Linear(width, 3 * width)] if fused else [nn.Linear(width, width) for _ in "qkv"]
        )
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, hidden):
        y = self.norm1(x)
        parts = [p(y) for p in self.inputs] if len(self.inputs) == 3 else self.inputs[0](y).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        joined = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
        x = x + self.out(joined.transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Padded(nn.Module):
    """Every block reads the mask; those of other `ends`, before and behind, cannot take turns with the rest."""

    def __init__(self, width: int = 32, ends: bool = True):
        super().__init__()
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 5)
        self.blocks = nn.ModuleList(
            Masked(width, heads, not ends) for heads in ([4, 2, 2, 2, 1] if ends else [2, 2, 2])
        )

    def forward(self, x, mask):
        hidden = (1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, hidden)
        return self.head(x.mean(1))


class Perceptron(nn.Module):
    """Without attention: frames follow each other closely."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm.weight.data += 0.3 * torch.randn(width)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(self.norm(x))))


class Light(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.embed, self.head = nn.Linear(8, width), nn.Linear(width, 5)
        self.blocks = nn.Sequential(*[Perceptron(width) for _ in range(3)])

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)))


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return torch.relu(x + self.two(torch.relu(self.one(x))))


class Images(nn.Module):
    def __init__(self, channels: int = 8):
        super().__init__()
        self.first, self.head = nn.Conv2d(1, channels, 3, padding=1), nn.Linear(channels, 4)
        self.blocks = nn.Sequential(*[Residual(channels) for _ in range(3)])

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.first(x))).mean((2, 3)))


IMAGES = np.random.default_rng(1).standard_normal((16, 1, 6, 6)).astype(np.float32)
NETWORKS = {
    "light": (Light, X[:, :6], ("mxint8", "mxint8"), {"memory": {"blocks.0.one_1": "stream:3"}, "target_fps": 2e5}),
    "post": (functools.partial(Encoder, pre=False), X, ("mxint8", "mxint8"), {}),
    "pre": (functools.partial(Encoder, pre=True), X, ("mxint8", "mxint8"), {"target_fps": 5e4}),
    "two": (functools.partial(Encoder, blocks=2), X, ("mxfp6_e2m3", "mxint8"), {"budget": 0.12}),
    "streamed": (functools.partial(Encoder, pre=False), X, ("mxfp4_e2m1", "mxfp8_e4m3"), {"memory": "stream"}),
    "alone": (functools.partial(Encoder, width=8, pre=False, ends=False), X, ("mxint8", "mxint8"), {}),
    "padded": (Padded, PADDED, ("mxint8", "mxint8"), {}),
    "hidden": (functools.partial(Padded, ends=False), PADDED, ("mxint8", "mxint8"), {"target_fps": 5e4}),
    "images": (Images, IMAGES, ("mxint8", "mxint8"), {}),
}  # fmt: skip
"""Name -> (network, inputs, formats, options)."""


def first(x, count: int):
    """So many frames of every input."""
    return tuple(array[:count] for array in x) if isinstance(x, tuple) else x[:count]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name -> its folder and design, compiled once."""

    @functools.cache
    def of(name: str):
        make, x, formats, options = NETWORKS[name]
        folder = tmp_path_factory.mktemp(name)
        clean(make, x, formats, folder)
        return folder, mx.compile(folder / "clean.onnx", folder / "fpga", calibration=x, in_turn=True, **options)

    return of


def clean(make, x, formats, folder):
    torch.manual_seed(0)
    quantized = mx.quantize_model(make().eval(), *formats, attention=True).eval()
    some = first(x if isinstance(x, tuple) else (x,), 2)
    mx.export(quantized, tuple(map(torch.tensor, some)), folder / "model.onnx")
    mx.clean(folder / "model.onnx", folder / "clean.onnx")


@pytest.mark.parametrize("name", NETWORKS if FULL else ["light"])
def test_hardware_computes_what_every_turn_states(made, name):
    """Whole frames under stalls, and the words of every unit, turn by turn; cycles without stalls."""
    _, design = made(name)
    x = first(NETWORKS[name][1], 6)
    expected = design.run_dataflow(x).raw
    names = [i.name for i in design.hardware.instances]
    run = design.simulate(first(x, 2), stall_in=0.3, stall_out=0.4, probe=names)
    np.testing.assert_array_equal(run.raw, expected[:2])
    assert run.difference is None
    inner = next(i for i in design.hardware.instances if i.turns)
    assert len(run.probes[inner.name][inner.result]) == 2 * len(inner.turns)
    one, three, six = (design.simulate(first(x, n), probe=names) for n in (1, 3, 6))  # one simulator for all
    np.testing.assert_array_equal(six.raw, expected)
    near = 0.05 if "memory" in NETWORKS[name][3] else 0.02  # tiles of streamed layers wait a little for each other
    assert (six.cycles - three.cycles) / 3 == pytest.approx(design.report["cycles_per_frame"], rel=near)
    assert one.cycles == pytest.approx(design.report["latency_cycles"], rel=near)


@pytest.mark.parametrize("name", NETWORKS if FULL else ["light"])
def test_turns_are_alike_but_for_constants_and_stand_once(made, name):
    folder, design = made(name)
    stated, hardware = design.network, design.hardware
    count, body = hardware.loop.count, hardware.loop.body
    assert count == (2 if name == "two" else 3)
    assert len(stated.instances) == len(hardware.instances) + (count - 1) * len(body)
    going = [stated.streams[s] for s in (hardware.loop.entry, hardware.loop.exit)]
    assert going[0] == going[1] and going[0].width == WIDTH
    for instance in hardware.instances:
        assert len({(str(t.unit.attributes()), t.unit.result) for t in instance.turns}) <= 1
    nodes = {node.name: node.metadata_props.get(TURN_OF) for node in graph.load(folder / "fpga/dataflow.onnx").graph}
    assert sum(v in body for v in nodes.values()) == count * len(body)
    top = (design.path / "rtl" / "mx_top.sv").read_text()
    assert top.count("mx_turns_in #(") == top.count("mx_turns_out #(") == 1
    assert sum(cell["module"].startswith("mx_matmul") for cell in design.report["cells"]) == sum(
        isinstance(i.unit, MatMul) for i in hardware.instances
    )
    assert open_design(design.path).hardware.loop == hardware.loop


def test_products_stand_once_and_results_stay(made, tmp_path):
    """The clip and the rounding of what goes around change less than quantization does."""
    folder, design = made("light")
    x = NETWORKS["light"][1]
    plain = mx.compile(folder / "clean.onnx", tmp_path / "plain", calibration=x)
    assert design.report["in_turn"]["turns"] == 3 and "in_turn" not in plain.report
    assert set(design.report["in_turn"]["body"]) == design.hardware.loop.body
    assert len(design.hardware.products()) == 4 and len(plain.hardware.products()) == 8
    np.testing.assert_allclose(design.run_dataflow(x).values, plain.run_dataflow(x).values, atol=0.05)


def test_foldings_of_the_body_follow_a_rate_and_a_budget(made):
    """Faster where more is asked for, and the fastest that a budget allows; both by the same estimates."""
    hardware = made("light")[1].hardware
    found = [budgets.fold_within(hardware, target, None, {}, schedule.DSP) for target in (3000, 1200)]
    cycles = [fold_turns.cycles_of(hardware, f) for f in found]
    assert cycles[1] <= 1200 < cycles[0] <= 3000
    most = Area(0.9 * estimate.whole(hardware, found[1]).lut, *[np.inf] * 4)
    within = budgets.fold_within(hardware, None, most, {}, schedule.DSP)
    assert not estimate.whole(hardware, within).beyond(most)
    assert cycles[1] < fold_turns.cycles_of(hardware, within) < cycles[0] * 2


class Different(nn.Module):
    """Layers that do not repeat: each is wider than the one before."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 32))

    def forward(self, x):
        return self.layers(x)


def test_what_does_not_repeat_is_refused_and_says_where_it_ends(tmp_path):
    clean(Different, X[:, 0], ("mxint8", "mxint8"), tmp_path)
    with pytest.raises(OptionError, match="in_turn: no layers repeat .* no product is like another one behind it"):
        mx.compile(tmp_path / "clean.onnx", tmp_path / "fpga", calibration=X[:, 0], in_turn=True)


def test_weights_that_are_loaded_once_cannot_take_turns(made):
    folder, _ = made("light")
    with pytest.raises(OptionError, match=r"blocks.*load; layers in turn have their weights in rom or stream"):
        mx.compile(folder / "clean.onnx", folder / "no", calibration=NETWORKS["light"][1], in_turn=True, memory="load")


def norms(*gains: float) -> list[Norm]:
    source, ones = Wide((4, 6), 18, -12), np.ones(6)
    return [Norm.of(source, True, 1e-5, g * ones, 0.3 * g * ones) for g in gains]


def affines(*gains: float) -> list[Affine]:
    return [Affine._of(Wide((6,), 20, -12), g * np.arange(1, 7), np.full(6, -g)) for g in gains]


def offsets(*values: float) -> list[Offset]:
    return [Offset.of(Wide((4, 6), 18, -12), v * np.arange(24).reshape(4, 6)) for v in values]


@pytest.mark.parametrize("make", [norms, affines, offsets])
def test_units_alike_keep_what_they_compute(make):
    """Within a step of the coarsest: constants far apart share one exponent."""
    rng = np.random.default_rng(0)
    before, after = make(0.1, 3.0, 1.0), made_alike("n", make(0.1, 3.0, 1.0))
    assert len({(u.result, str(u.attributes())) for u in after}) == 1
    x = rng.integers(-1000, 1000, (5, *before[0].source.shape))
    for one, other in zip(before, after, strict=True):
        (a,), (b,) = ([run(u, x)] for u in (one, other))
        a, b = np.ldexp(a.astype(float), one.result.lsb_exp), np.ldexp(b.astype(float), other.result.lsb_exp)
        step = 2.0 ** max(one.result.lsb_exp, other.result.lsb_exp)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2 * step)


def run(unit, x):
    return unit.operator.reference(x, *unit.constants().values(), **unit.attributes())[0]


def test_units_that_differ_in_more_are_refused_by_name():
    source = Wide((4, 6), 18, -12)
    with pytest.raises(UnsupportedError, match=r"turn 1 of 'clip' has the high 7, turn 0 5; layers in turn may differ"):
        made_alike("clip", [Clip(source, -5, 5), Clip(source, -5, 7)])


def test_the_period_that_saves_most_is_found(made):
    folder, _ = made("light")
    found = repeats.find(graph.load(folder / "clean.onnx"))
    assert len(found.turns) == 3 and len(found.ends) == 4
    assert all(len(nodes) == len(found.turns[0]) for nodes in found.turns)
    kinds = {tuple(node.op_type for node in nodes) for nodes in found.turns}
    assert len(kinds) == 1 and next(iter(kinds)).count("MatMul") == 2


def test_a_file_whose_turns_do_not_fit_is_refused(made, tmp_path):
    folder, _ = made("light")
    model = graph.load(folder / "fpga/dataflow.onnx")
    node: ir.Node = next(n for n in model.graph if n.metadata_props.get("turn") == "2")
    node.metadata_props["turn"] = "1"
    from mxexport.fpga.network import read

    with pytest.raises(mx.errors.InputFileError, match="not every unit takes all turns"):
        loops.in_hardware(read(model))
