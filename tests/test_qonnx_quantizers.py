"""QONNX's own quantizers: every rounding mode and one-bit case computes what the installed qonnx does, everywhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from qonnx.custom_op.general.intquant import int_quant

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.ops import qonnx_general
from mxexport.quant.kernels import qonnx_general as in_torch
from mxexport.running import executors
from tests.helpers import assert_equal_bits

MODES = ("ROUND", "HALF_EVEN", "HALF_UP", "HALF_DOWN", "UP", "DOWN", "CEIL", "FLOOR")
DOMAINS = (qonnx_general.DOMAIN, *qonnx_general.FORMER_DOMAINS, "")
TIES = np.concatenate([np.arange(-40, 41) / 8, [-0.0, 0.3, -0.3, 1e9, -1e9, 1e-40]]).astype(np.float32)


def quant_file(path, modes, *, bits=4, signed=1, narrow=0, scale=0.5, zero=0.0, domain=DOMAINS[0], opset=20):
    """One Quant for each mode, all of the input `x`; outputs y0, y1, ..."""
    constants = {"s": np.float32(scale), "z": np.float32(zero), "b": np.float32(bits)}
    nodes, outputs = [], []
    for i, mode in enumerate(modes):
        given = {"signed": signed, "narrow": narrow} | ({} if mode is None else {"rounding_mode": mode})
        nodes.append(helper.make_node("Quant", ["x", *constants], [f"y{i}"], name=f"q{i}", domain=domain, **given))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [1, TIES.size]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, TIES.size])
    tensors = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    graph = helper.make_graph(nodes, "g", [x], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def expected(mode, *, bits=4, signed=1, narrow=0, scale=0.5, zero=0.0) -> np.ndarray:
    """By qonnx itself."""
    constants = (np.float32(scale), np.float32(zero), np.float32(bits))
    return int_quant(TIES[None], *constants, signed, narrow, mode or "ROUND").astype(np.float32)


def every_way(path, tmp_path):
    """(how, outputs by name) of the file, of the cleaned and of the converted one."""
    x = TIES[None]
    for name in ("onnxruntime", "reference", "qonnx"):
        yield name, executors.find_executor(name)(path, x)
    mx.clean(path, tmp_path / "clean.onnx", verify=x)
    yield "cleaned", mx.run(tmp_path / "clean.onnx", x)
    for to, options in (("qdq", {}), ("qdq", {"functions": False}), ("mxexport", {})):
        assert mx.convert(path, tmp_path / f"{to}.onnx", to=to, verify=x, **options).verified == "equal bits"
        yield to, mx.run(tmp_path / f"{to}.onnx", x)


@pytest.mark.parametrize("mode", [*MODES, "round", "Half_Up", None])
@pytest.mark.parametrize("signed", [0, 1])
def test_every_rounding_mode_is_that_of_qonnx(mode, signed, tmp_path):
    path = quant_file(tmp_path / "m.onnx", [mode], signed=signed)
    for how, found in every_way(path, tmp_path):
        assert_equal_bits(found["y0"], expected(mode, signed=signed), (how, mode))


def test_modes_stand_side_by_side_in_one_file(tmp_path):
    modes = (*MODES, "floor", None)
    path = quant_file(tmp_path / "m.onnx", modes, zero=1.0)
    for how, found in every_way(path, tmp_path):
        for i, mode in enumerate(modes):
            assert_equal_bits(found[f"y{i}"], expected(mode, zero=1.0), (how, mode))


@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("zero", [0.0, 0.5])
def test_one_signed_bit_is_bipolar(narrow, zero, tmp_path):
    path = quant_file(tmp_path / "m.onnx", ["ROUND", "FLOOR"], bits=1, narrow=narrow, zero=zero)
    wanted = expected("ROUND", bits=1, narrow=narrow, zero=zero)
    assert set(np.unique(wanted)) == {np.float32((s - zero) / 2) for s in (-1, 1)}
    for how, found in every_way(path, tmp_path):
        for array in found.values():
            assert_equal_bits(array, wanted, how)
    tensors = map(torch.tensor, (TIES[None], np.float32(0.5), np.float32(zero), np.float32(1)))
    assert_equal_bits(in_torch.quant(*tensors, True, bool(narrow), "ROUND").numpy(), wanted)


def test_one_unsigned_bit_is_zero_and_one(tmp_path):
    path = quant_file(tmp_path / "m.onnx", ["ROUND"], bits=1, signed=0)
    for how, found in every_way(path, tmp_path):
        assert set(np.unique(found["y0"])) == {0, 0.5}, how
        assert_equal_bits(found["y0"], expected("ROUND", bits=1, signed=0), how)


@pytest.mark.parametrize("mode", ["ROUND_TO_ZERO", "nearest", ""])
def test_a_mode_that_qonnx_has_not_is_refused_by_node_and_mode(mode, tmp_path):
    path = quant_file(tmp_path / "m.onnx", [mode])
    message = f"node 'q0': rounding mode '{mode}', expected one of ROUND, CEIL.*HALF_EVEN"
    for attempt in (
        lambda: mx.run(path, TIES[None]),
        lambda: mx.clean(path, tmp_path / "c.onnx"),
        lambda: mx.convert(path, tmp_path / "c.onnx", to="qdq"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            attempt()
    assert not (tmp_path / "c.onnx").exists()


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20])
@pytest.mark.parametrize("domain", DOMAINS)
def test_former_domains_and_opsets_compute_the_same(domain, opset, tmp_path):
    path = quant_file(tmp_path / "m.onnx", ["ROUND"], domain=domain, opset=opset)
    for how, found in every_way(path, tmp_path):
        assert_equal_bits(found["y0"], expected("ROUND"), how)
    written = onnx.load(tmp_path / "qdq.onnx")
    assert {node.domain for node in written.graph.node} == {""} and [i.domain for i in written.opset_import] == [""]
    finn = onnx.load(mx.convert(path, tmp_path / "finn.onnx", to="finn").path)
    assert {node.domain for node in finn.graph.node} == {qonnx_general.DOMAIN}


@pytest.mark.parametrize("mode", MODES)
def test_minifloats_round_negative_numbers_as_qonnx_does(mode):
    """Values away from powers of two, where qonnx's float32 logarithm misjudges an exponent."""
    constants = [np.float32(v) for v in (0.5, 4, 3, 7, 448)]
    x = np.float32([[-3.3, -1.06, -0.31, 0.31, 1.06, 3.3, 500, -500, 0.001, -0.001]])
    names = ["s", "e", "m", "b", "top"]
    node = helper.make_node(
        "FloatQuant", ["x", *names], ["y"], name="q", domain=qonnx_general.DOMAIN, has_inf=0, has_nan=1,
        has_subnormal=1, saturation=1, rounding_mode=mode,
    )  # fmt: skip
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n in "xy"]
    tensors = [numpy_helper.from_array(a, n) for n, a in zip(names, constants, strict=True)]
    graph = helper.make_graph([node], "g", infos[:1], infos[1:], tensors)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(qonnx_general.DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    wanted = executors.run_qonnx(proto, x)["y"]
    assert_equal_bits(executors.run(proto, x)["y"], wanted, mode)
    if mode in in_torch._ROUND:
        tensors = map(torch.tensor, (x, *constants))
        assert_equal_bits(in_torch.float_quant(*tensors, False, True, True, True, mode).numpy(), wanted, mode)
