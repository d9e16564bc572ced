"""Products of two streams of MX blocks: what they compute, how wide they are, networks that fork into both sides."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mxexport import ops
from mxexport.errors import ShapeError, UnsupportedError
from mxexport.fpga import library
from mxexport.fpga.network import Instance, Network
from mxexport.fpga.scheduling.schedule import fold
from mxexport.fpga.scheduling.timing import cycles_per_unit, fifo_depths, latency
from mxexport.fpga.streams.types import Blocks, Wide
from mxexport.fpga.tools import verilator
from mxexport.fpga.tools.simulator import Feed, StandstillError
from mxexport.fpga.unit import Folding, Refused
from mxexport.fpga.units import Product, Relu
from mxexport.fpga.writing import emit
from mxexport.numbers import fixedpoint
from tests.helpers import every
from tests.test_hardware_units import arrays_of, build, folding_of, golden, pack, quantize
from tests.test_ops import check_all_executors

FLOATS = {
    "mxfp8_e4m3": ml_dtypes.float8_e4m3fn,
    "mxfp8_e5m2": ml_dtypes.float8_e5m2,
    "mxfp6_e2m3": ml_dtypes.float6_e2m3fn,
    "mxfp6_e3m2": ml_dtypes.float6_e3m2fn,
    "mxfp4_e2m1": ml_dtypes.float4_e2m1fn,
}


def blocks(shape: tuple[int, ...], name: str, low: int = 100, high: int = 104, group_size: int = 32) -> Blocks:
    return Blocks(shape, name, group_size, low, high)


def real(codes: np.ndarray, scales: np.ndarray, stream: Blocks) -> np.ndarray:
    """float64 values of a stream, by ml_dtypes; integers of MX as the standard has them."""
    values = (
        codes.view(np.int8) / 64.0
        if stream.format == "mxint8"
        else codes.view(FLOATS[stream.format]).astype(np.float64)
    )
    each = scales.astype(np.int64).repeat(stream.group_size, -1)[..., : stream.channels]
    return np.ldexp(values, each - 127)


def attention(
    a: tuple[int, ...], b: tuple[int, ...], names: tuple[str, str], low: int = 100, high: int = 104
) -> Product:
    return Product.of("scores", blocks(a, names[0], low, high), blocks(b, names[1], low, high))


@pytest.mark.parametrize("opset", [18, 21, 23])
@pytest.mark.parametrize(
    "names", [("mxfp8_e4m3", "mxfp8_e4m3"), ("mxint8", "mxfp4_e2m1"), ("mxfp6_e3m2", "mxfp6_e2m3")]
)
def test_reference_and_onnx_body_are_the_product_of_real_numbers(names, opset):
    """Exactly: float64 holds every sum of 40 products where scales range over 2**2."""
    unit, rng = attention((3, 4, 40), (5, 2, 40), names, 100, 101), np.random.default_rng(opset)
    a, b = (arrays_of(s, rng, 2) for s in unit.sources)
    (found,) = check_all_executors("MXProduct", [*a, *b], unit.attributes(), opset)
    left, right = real(*a, unit.a), real(*b, unit.b).repeat(2, 2)
    wanted = np.einsum("nthk,nrhk->nthr", left, right)
    np.testing.assert_array_equal(np.ldexp(found.astype(np.float64), unit.lsb_exp), wanted)


@pytest.mark.parametrize(
    ("names", "span"), [(("mxfp8_e4m3", "mxfp8_e4m3"), 10), (("mxint8", "mxint8"), 20), (("uint8", "int8"), 19)]
)
def test_sums_beyond_53_bits_are_exact(names, span):
    """onnxruntime's ReduceSum would not be; Python integers say what is right."""
    unit = attention((2, 64), (3, 64), names, 100, 100 + span)
    a, b = (arrays_of(s, np.random.default_rng(3), 2) for s in unit.sources)
    for side, stream in ((a, unit.a), (b, unit.b)):  # one vector of the largest scales
        side[1][:, 0] = stream.code_max
    (found,) = check_all_executors("MXProduct", [*a, *b], unit.attributes())
    assert np.abs(found).max() > 2**54
    tables = [fixedpoint.linear_table(*fixedpoint_bits(s)) for s in unit.sources]
    for n, t, r in np.ndindex(found.shape):
        shifts = a[1][n, t].astype(int) + b[1][n, r].astype(int) - unit.scale_offset
        products = tables[0][a[0][n, t]] * tables[1][b[0][n, r]]
        assert found[n, t, r] == sum(int(p) << int(shifts[i // 32]) for i, p in enumerate(products))


def fixedpoint_bits(stream: Blocks) -> tuple[int, int]:
    parameters = fixedpoint.element_parameters(stream.element)
    return parameters["exponent_bits"], parameters["mantissa_bits"]


@given(
    st.sampled_from(["mxint8", "mxfp8_e4m3", "mxfp4_e2m1", "mxfp6_e2m3", "uint8", "mxint4"]),
    st.sampled_from(["mxint8", "mxfp8_e4m3", "mxfp4_e2m1", "mxfp6_e3m2", "int8"]),
    st.integers(1, 70),
    st.integers(0, 4),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_largest_operands_fit_the_width_and_no_narrower_one(x, w, length, a_range, b_range):
    a, b = blocks((1, length), x, 100, 100 + a_range), blocks((2, length), w, 90, 90 + b_range)
    unit = Product.of("largest", a, b)
    largest = [codes_of(s, sign) for s, sign in ((a, 1), (b, 1), (b, -1))]
    scales = [np.full((1, *s.shape[:-1], s.blocks), s.code_max, np.uint8) for s in (a, b)]
    rows = np.stack([np.full(length, largest[1]), np.full(length, largest[2])])[None].astype(np.uint8)
    (found,) = golden(unit, [np.full((1, 1, length), largest[0], np.uint8), scales[0], rows, scales[1]])
    magnitude = int(np.abs(found).max())
    assert magnitude == length * a.largest * b.largest << (a_range + b_range)
    assert unit.width == max(magnitude.bit_length() + 1, 2)


def codes_of(stream: Blocks, sign: int) -> int:
    """The code of the largest element of that sign; integers that are plain reach one step further down."""
    table = fixedpoint.linear_table(*fixedpoint_bits(stream))
    (places,) = np.nonzero(np.abs(table) == stream.largest)
    signed = [i for i in places if table[i] * sign > 0]
    return int((signed or list(places))[0])


def test_what_cannot_be_multiplied_is_refused():
    with pytest.raises(Refused, match="vectors of 32 and 40 elements"):
        attention((3, 32), (3, 40), ("mxint8", "mxint8"))
    with pytest.raises(Refused, match="3 heads with 2"):
        attention((3, 3, 32), (3, 2, 32), ("mxint8", "mxint8"))
    with pytest.raises(Refused, match="with heads on the first side where the second has some"):
        attention((3, 32), (3, 3, 32), ("mxint8", "mxint8"))
    with pytest.raises(Refused, match="elements of 9 bits"):
        attention((3, 32), (3, 32), ("mxint8", "uint8"))
    with pytest.raises(Refused, match="groups of 32 and 16"):
        Product.of("x", blocks((3, 32), "mxint8"), blocks((3, 32), "mxint8", group_size=16))
    with pytest.raises(UnsupportedError, match="range over 2\\*\\*20: use a smaller range"):
        Product.of("x", blocks((3, 32), "mxfp8_e4m3", 100, 120), blocks((3, 32), "mxfp8_e4m3"))
    with pytest.raises(UnsupportedError, match="formats alone are too wide"):
        attention((3, 32), (3, 32), ("mxfp8_e5m2", "mxfp8_e5m2"))
    unit = attention((3, 4, 32), (5, 2, 32), ("mxint8", "mxint8"))
    a, b = (arrays_of(s, np.random.default_rng(0), 1) for s in unit.sources)
    with pytest.raises(ShapeError, match="4 heads, B 3"):
        ops.MXProduct.reference(*a, b[0].repeat(3, 2)[:, :, :3], b[1].repeat(3, 2)[:, :, :3], **unit.attributes())
    with pytest.raises(ShapeError, match="B_codes"):
        ops.MXProduct.reference(*a, b[0][..., :31], b[1], **unit.attributes())


@pytest.mark.parametrize("side", [0, 1])
def test_a_misplaced_last_of_either_input_is_flagged(side, tmp_path):
    unit = attention((3, 32), (3, 32), ("mxint8", "mxint8"))
    arrays = [a for s in unit.sources for a in arrays_of(s, np.random.default_rng(0), 2)]
    folding = folding_of((2, 32))
    beats, last = pack(unit, arrays, 32)
    place = np.flatnonzero(last)[side]
    run = build(unit, folding, tmp_path).run(
        beats, 2 * unit.result.beats(2), last=last & (np.arange(len(last)) != place)
    )
    assert run.error


@pytest.mark.parametrize("folding", every(3, [Folding(2, 32), Folding(4, 32), Folding(1, 8), Folding(8, 64)]))
def test_frames_follow_each_other_as_fast_as_it_claims(folding, tmp_path):
    """Where a frame of a takes longer than both inputs need to come one after the other, and in one beat more where it
    does not: the next frame of b comes meanwhile."""
    unit = attention((24, 1, 40), (8, 1, 40), ("mxint8", "mxint8"))
    arrays = [a for s in unit.sources for a in arrays_of(s, np.random.default_rng(1), 6)]
    beats, last = pack(unit, arrays, folding.simd)
    run = build(unit, folding, tmp_path).run(beats, 6 * unit.result.beats(folding.pe), last=last)
    both = sum(s.beats(folding.simd) for s in unit.sources)
    claimed = max(unit.cycles(folding), both)
    assert abs(int(run.frame_cycles[2:].max()) - claimed) <= 0.02 * claimed + 2, (run.frame_cycles, claimed)
    np.testing.assert_array_equal(unit.result.unpack(run.beats, folding.pe), golden(unit, arrays)[0])


# --- networks -------------------------------------------------------------------------------------------------


def forked(tokens: int, heads: int, channels: int, name: str, lanes_apart: bool) -> Network:
    """Both operands of the first product are quantized from one input, whose tokens all wait for each other; its
    result is quantized and multiplied with a third branch, which waits longer."""
    x = Wide((tokens, heads, channels), 14, -9)
    streams, instances = {"x": x}, []

    def add(unit_name: str, unit, *sources: str) -> None:
        result = f"{unit_name}.out"
        streams[result] = unit.result
        instances.append(Instance(f"{unit_name}.unit", unit, sources, result, (result,)))

    def quantized(unit_name: str, source: str, fmt: str, span: int = 4) -> None:
        unit = quantize(streams[source], fmt, span=span)
        add(unit_name, unit, source)

    quantized("q", "x", name)
    source = "x"
    if lanes_apart:
        add("relu", Relu(x), "x")
        source = "relu.out"
    quantized("k", source, name)
    add("scores", Product.of("scores", streams["q.out"], streams["k.out"]), "q.out", "k.out")
    quantized("p", "scores.out", name, 2)
    quantized("v", "x", "mxfp4_e2m1", 2)
    add("context", Product.of("context", streams["p.out"], streams["v.out"]), "p.out", "v.out")
    ends = ("x", "context.out")
    return Network(
        tuple(instances), streams, ("x",), ("context.out",), {e: streams[e].shape for e in ends}, {e: e for e in ends}
    )


def by_reference(network: Network, x: np.ndarray) -> np.ndarray:
    values = {"x": (x,)}
    for i in network.instances:
        values[i.result] = golden(i.unit, [a for s in i.sources for a in values[s]])
    return values[network.outputs[0]][0]


class Built:
    """A network as RTL, without borders of its own beyond those of any design."""

    def __init__(self, network: Network, foldings: dict, directory, depths: dict | None = None):
        self.network = network
        placer = emit.Placer(network, foldings, depths or fifo_depths(network, foldings))
        self.design = placer.design()
        (directory / "mx_top.sv").write_text(emit.top_level(self.design))
        sources = [*library.rtl_sources(), directory / "mx_top.sv"]
        self.simulator = verilator.build(emit.TOP, sources, memory_dir=directory, quick=True)

    def run(self, x: np.ndarray, stall: float = 0.0, seed: int = 1):
        """(int64 [N, *shape], cycle of each frame's end)."""
        result, lanes = self.network.result, self.design.lanes(self.network.outputs[0])
        feed = Feed(*self.network.source.at_border().pack(x, self.design.lanes("x")), stall)
        run = self.simulator.run_streams([feed], [len(x) * result.beats(lanes)], stall_out=stall, seed=seed)
        assert not any(run.status["error_o"])
        (out,) = run.outputs
        return result.at_border().unpack(out.beats, lanes), out.cycles.reshape(len(x), -1)[:, -1]


@pytest.mark.parametrize(("tokens", "heads", "relu", "target"), [(40, 2, False, 4000), (12, 1, True, 200)])
def test_both_sides_of_one_fork_never_wait_for_each_other(tokens, heads, relu, target, tmp_path):
    """Vectors of the first operand wait in a FIFO for the last row of the second, and frames overlap."""
    network = forked(tokens, heads, tokens, "mxint8", relu)
    foldings = fold(network, target)
    built = Built(network, foldings, tmp_path)
    x = np.random.default_rng(0).integers(-(2**13), 2**13, (8, *network.source.shape))
    expected = by_reference(network, x)
    found, ends = built.run(x)
    np.testing.assert_array_equal(found, expected)
    cycles, delay = max(cycles_per_unit(network, foldings).values()), latency(network, foldings)
    assert abs((ends[-1] - ends[1]) / 6 - cycles) <= 0.02 * cycles + 3, (ends, cycles)
    assert abs(ends[0] - delay) <= 0.02 * delay + 10, (ends, delay)
    for seed, stall in enumerate((0.3, 0.7)):
        found, _ = built.run(x, stall, seed)
        np.testing.assert_array_equal(found, expected)


def test_a_shorter_fifo_before_the_first_operand_stands_still(tmp_path):
    """What the depth is for: without room for most of a frame, the first operand stops the second one's last rows."""
    network = forked(12, 1, 12, "mxint8", False)
    foldings = fold(network, 200)
    depths = fifo_depths(network, foldings)
    short = depths["q.out", "scores.unit/0"] // 4
    built = Built(network, foldings, tmp_path, depths | {("q.out", "scores.unit/0"): short})
    with pytest.raises(StandstillError):
        built.run(np.zeros((4, *network.source.shape), np.int64))


def test_products_are_layers_whose_folding_can_be_asked_for():
    network = forked(12, 1, 12, "mxfp8_e4m3", False)
    assert [p.layer for p in network.products()] == ["scores", "context"]
    asked = fold(network, 500, {"scores": (4, 16)})
    assert asked["scores.unit"] == Folding(4, 16)
    slow, fast = (fold(network, n)["scores.unit"].work for n in (2000, 100))
    assert slow < fast
