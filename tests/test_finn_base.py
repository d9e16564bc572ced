"""finn-base as an executor: equal bits with numpy for every operator; its packing and device figures."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import mxexport as mx
from mxexport import ops
from mxexport.errors import MissingToolError, OptionError, UnsupportedError
from mxexport.fpga.streams.words import write_mem
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.numbers import fixedpoint, groups, quantized
from mxexport.numbers.formats import MX_FORMATS, SCALE_RULES, get_format, round_bias
from mxexport.running import executors
from mxexport.targets import finn_base
from tests.helpers import ALL_FORMATS, assert_equal_bits, edge_values, single_node_model
from tests.test_ops import quant_node, scale_attributes

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
needs_finn_base = pytest.mark.skipif(
    not finn_base.is_installed(), reason="finn-base is not installed; .ci/install-finn-base <bin> installs it"
)


def check(op_type: str, arrays: list, attributes: dict) -> np.ndarray:
    (expected, *_) = ops.OPERATORS[op_type].reference(*arrays, **attributes)
    model = single_node_model(op_type, arrays, attributes)
    given = {v.name: a for v, a in zip(model.graph.input, [a for a in arrays if a is not None], strict=True)}
    name = model.graph.output[0].name
    actual = finn_base.run_finn_base(model, given)[name]
    assert_equal_bits(actual, expected, f"{op_type} in finn-base against numpy")
    assert_equal_bits(actual, executors.run(model, given)[name], f"{op_type} in finn-base against onnxruntime")
    return expected


@needs_finn_base
@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", MX_FORMATS)
def test_mx_scales_and_quantizers_equal_on_edge_values(name, rule):
    fmt, x = get_format(name), edge_values((64, 70))
    scale = check("MXScale", [x], scale_attributes(fmt, rule))
    op_type, attributes = quant_node(fmt)
    check(op_type, [x, scale], attributes)


@needs_finn_base
@pytest.mark.parametrize("name", [n for n in ALL_FORMATS if not get_format(n).is_mx])
def test_float_scaled_quantizers_equal_on_edge_values(name):
    fmt, x = get_format(name), edge_values((64, 70))
    common = {"axis": 0, "group_size": fmt.group_size, "levels": float(fmt.element.max_val)}
    scale = check("GroupwiseScale", [x], common | {"asymmetric": int(fmt.asymmetric)})
    zero = [check("GroupwiseZeroPoint", [x, scale], common)] if fmt.asymmetric else []
    op_type, attributes = quant_node(fmt, axis=0)
    check(op_type, [x, scale, *zero], attributes)


@needs_finn_base
def test_dataflow_operators_equal():
    rng, fmt = np.random.default_rng(0), get_format("mxint8")
    v = rng.integers(-(2**40), 2**40, (6, 70))
    attributes = {"axis": 1, "group_size": 32, "width": 63, "lsb_exp": -40, "code_min": 100, "code_max": 140}
    attributes |= fixedpoint.element_parameters(fmt.element) | {
        "emax": fmt.element.emax,
        "round_bias": round_bias(fmt.element, "floor"),
    }
    check("MXQuantize", [v], attributes)
    check("Eltwise", [v], {"relu": 1, "width": 64, "lsb_exp": -3})
    arrays, parameters = [], {"group_size": 32, "width": 60, "lsb_exp": 0}
    for side, rows in (("x", 6), ("w", 5)):
        q = quantized.quantize(rng.standard_normal((rows, 70)), fmt)
        arrays += [groups.from_groups(q.codes, 1, 70).view(np.uint8), q.scale_codes]
        element = fixedpoint.element_parameters(fmt.element)
        parameters |= {f"{side}_{key}": element[key] for key in ("exponent_bits", "mantissa_bits")}
    parameters["scale_offset"] = int(arrays[1].min()) + int(arrays[3].min())
    check("MXMatMul", [*arrays, rng.integers(-1000, 1000, 5)], parameters)


@needs_finn_base
def test_exported_network_equals_onnxruntime_at_every_quantizer(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    x = torch.randn(2, 3, 8, 8)
    mx.export(mx.quantize_model(model, weight="mxfp6_e3m2", activation="mxint8"), (x,), tmp_path / "m.onnx")
    loaded = graph.load(tmp_path / "m.onnx")
    nodes = [n for n in loaded.graph if graph.is_ours(n, graph.QUANTIZERS | graph.SCALES)]
    seen = finn_base.run_finn_base(tmp_path / "m.onnx", x.numpy(), [n.outputs[0].name for n in nodes])
    seen |= {"input": x.numpy()} | {v.name: constant(v) for v in loaded.graph.initializers.values()}
    sources = [v.name for n in nodes for v in n.inputs if v.name not in seen]
    seen |= finn_base.run_finn_base(tmp_path / "m.onnx", x.numpy(), sources)
    for node in nodes:
        given = [seen[v.name] for v in node.inputs]
        (expected,) = ops.OPERATORS[node.op_type].reference(*given, **graph.attributes(node))
        assert_equal_bits(seen[node.outputs[0].name], expected, node.name)
    (actual,) = finn_base.run_finn_base(tmp_path / "m.onnx", x.numpy()).values()
    (wanted,) = executors.run(tmp_path / "m.onnx", x.numpy()).values()
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


@needs_finn_base
@pytest.mark.parametrize(
    "bits, fields, signed", [(4, 8, True), (5, 3, True), (8, 4, False), (6, 7, False), (8, 1, True)]
)
def test_memory_images_equal_those_of_finn_base(tmp_path, bits, fields, signed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    words = np.random.default_rng(bits).integers(low, high, (20, fields))
    words[0], words[1] = low, high - 1
    write_mem(tmp_path / "rom.mem", words, bits)
    assert (tmp_path / "rom.mem").read_text().split() == finn_base.hex_words(words, bits, signed=signed)


@needs_finn_base
@pytest.mark.parametrize(
    "part, sheet",  # AMD's product tables: LUT, BRAM18, URAM, DSP
    [("xczu7ev-ffvc1156-2-e", (230400, 624, 96, 1728)), ("XC7Z020", (53200, 280, 0, 220))],
)
def test_device_budget_is_at_most_that_of_the_data_sheet(part, sheet):
    budget = finn_base.device_budget(part)
    for name, listed in zip(("LUT", "BRAM_18K", "URAM", "DSP"), sheet, strict=True):
        assert 0.95 * listed <= budget[name] <= listed, name
    usable = finn_base.device_budget(part, usable=True)
    assert usable["LUT"] == int(budget["LUT"] * 0.7) and usable["DSP"] == int(budget["DSP"] * 0.8)


def test_an_unknown_part_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match="'xc7k325t'.*xczu7ev"):
        finn_base.device_budget("xc7k325t")


def test_a_missing_finn_base_is_named(monkeypatch):
    monkeypatch.setattr(finn_base, "find_spec", lambda name: None)
    model = single_node_model("MXScale", [np.ones((1, 32), np.float32)], scale_attributes(get_format("mxint8")))
    with pytest.raises(MissingToolError, match="install-finn-base"):
        finn_base.run_finn_base(model, np.ones((1, 32), np.float32))


def test_orders_in_metadata_and_foreign_domains_do_not_reach_finn_base():
    model = single_node_model("MXScale", [np.ones((1, 32), np.float32)], scale_attributes(get_format("mxint8")))
    helper.set_model_props(model, {"exec_mode": "remote_pynq"})
    adapted = finn_base.to_finn_base(model)
    assert not adapted.metadata_props and not adapted.functions and adapted.opset_import[0].domain == ""
    assert [n.domain for n in adapted.graph.node] == [finn_base.FINN_DOMAIN]
    foreign = onnx.ModelProto()
    foreign.CopyFrom(model)
    foreign.graph.node[0].domain = "finn.somewhere"
    with pytest.raises(UnsupportedError, match="finn-base has no MXScale of finn.somewhere"):
        finn_base.to_finn_base(foreign)
