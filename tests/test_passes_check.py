"""`check` names everything a target cannot take, at once; `mxexport clean` prints what was done."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from mxexport.errors import OptionError, UnsupportedError
from mxexport.model import graph
from mxexport.passes import clean
from mxexport.targets.check import require as check
from tests.pass_helpers import model

RNG = np.random.default_rng(3)
SCALE = "mxexport.ops.MXScale<axis=1, group_size=32, emax=0, round_bias=0, frac_bits=6, code_min=0, code_max=254>"
QUANT = "mxexport.ops.GroupwiseQuant<axis={}, group_size=32, bit_width=8, signed=1, narrow=1>"


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def linear(after: str = "y = Relu(a)", **arrays) -> ir.Model:
    """One MX layer and what follows it."""
    body = f"""[s] s = {SCALE}(x)  [q] q = {QUANT.format(1)}(x, s)  [w] qw = {QUANT.format(0)}(w, ws)
      [fc] m = MatMul(q, qw)  [bias] a = Add(m, b)  {after}"""
    return model(
        body, "float[batch,40] x", "float[batch,8] y", w=normal(40, 8), ws=np.full((2, 8), 2.0**-6, np.float32),
        b=normal(8), **arrays,
    )  # fmt: skip


def problems(made: ir.Model, target: str) -> dict[str, str]:
    with pytest.raises(UnsupportedError) as caught:
        check(made, target)
    assert str(caught.value).startswith(f"{target} cannot take this model: {len(caught.value.problems)} problems")
    return dict(caught.value.problems)


def test_dataflow_takes_a_linear_network_and_lists_every_other_node():
    check(linear(), "dataflow")
    found = problems(linear("[p] p = LogSoftmax(a)  [t] t = Erf(p)  y = Neg(t)"), "dataflow")
    assert "apply it on the host" in found["node 'p' (LogSoftmax)"]
    assert "no hardware unit" in found["node 't' (Erf)"]


def test_hls4ml_and_finn_name_operator_reason_and_suggestion():
    made = linear("[g] g = Gemm(a, v)  [d] d = Dropout(g)  [e] e = Erf(d)  y = LayerNormalization(e, one)",
                  v=normal(8, 8), one=np.ones(8, np.float32))  # fmt: skip
    found = problems(made, "hls4ml")
    assert "node 'g' (Gemm)" not in found and "node 'd' (Dropout)" not in found  # the conversion takes them
    assert (
        "found at run time" in found["node 's' (MXScale)"] and "hls4ml has no such operator" in found["node 'e' (Erf)"]
    )
    finn = problems(made, "finn")
    assert "remove_identities" in finn["node 'd' (Dropout)"]
    assert "node 'g' (Gemm)" not in finn and "node 'w' (GroupwiseQuant)" not in finn
    assert "found at run time and FINN needs constants" in finn["node 's' (MXScale)"]
    plain = 'y = qonnx.custom_op.general.Quant<signed=1, narrow=1, rounding_mode="ROUND">(x, s, z, b)'
    check(model(plain, s=np.float32(1), z=np.float32(0), b=np.float32(4)), "finn")
    found = problems(model(plain, s=np.float32(1), z=np.float32(3), b=np.float32(4)), "finn")
    assert "zero points of 0 only" in next(iter(found.values()))
    found = problems(model("y = Relu(x)", "float[n,m] x", "float[n,m] y"), "hls4ml")
    assert "open beyond the batch; fix it with --shapes" in found["input 'x'"]


def test_trunc_is_named_with_what_it_drops():
    body = """[pool] p = AveragePool<kernel_shape=[2, 2]>(x)
      [t] y = qonnx.custom_op.general.Trunc<rounding_mode="FLOOR">(p, s, z, ten, s2, eight)"""
    numbers = {"s": 0.125, "z": 0, "ten": 10, "s2": 0.5, "eight": 8}
    arrays = {name: np.float32(number) for name, number in numbers.items()}
    made = model(body, "float[1,1,4,4] x", "float[1,1,3,3] y", **arrays)
    for target in ("hls4ml", "finn"):
        found = problems(made, target)
        assert "turns 10-bit integers times 0.125 into 8-bit ones times 0.5 (FLOOR)" in found["t"]
        assert "end the model before the pooling" in found["t"] and "AveragePool" in found["pool"]


def test_qdq():
    check(linear(), "qdq")
    check(model("y = qonnx.custom_op.general.BipolarQuant(x, s)", s=np.float32(1)), "qdq")  # has a standard form
    trunc = 'y = qonnx.custom_op.general.Trunc<rounding_mode="FLOOR">(x, s, z, b, s, b)'
    found = problems(model(trunc, s=np.float32(1), z=np.float32(0), b=np.float32(4)), "qdq")
    assert "standard ONNX has no such quantizer" in next(iter(found.values()))


def test_unknown_target():
    with pytest.raises(OptionError, match="unknown target 'vitis'; expected one of dataflow, hls4ml, finn, qdq"):
        check(linear(), "vitis")


# --- the command ----------------------------------------------------------------------------------------------


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mxexport.cli", "clean", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("clean") / "model.onnx"
    graph.save(linear("[i] i = Identity(a)  [p] y = LogSoftmax(i)"), path)
    return path


def test_command_shows_before_and_after(file, tmp_path):
    result = run(file, tmp_path / "c.onnx", "--verify", "--save-stages", tmp_path / "stages", "--shapes", "batch=1")
    assert result.returncode == 0, result.stderr
    assert "Identity" in result.stdout and "verified remove_identities: equal bits" in result.stdout
    assert f"written: {tmp_path / 'c.onnx'}" in result.stdout and list((tmp_path / "stages").iterdir())
    assert graph.load(tmp_path / "c.onnx").graph.inputs[0].shape == (1, 40)


def test_command_gives_json_and_checks(file, tmp_path):
    result = run(file, tmp_path / "c.onnx", "--float-weights", "--json", "--check", "dataflow")
    assert result.returncode == 3 and "node 'p' (LogSoftmax)" in result.stderr
    report = json.loads(result.stdout)
    assert report["before"]["operators"]["Identity"] == 1 and report["after"]["nodes"] == report["before"]["nodes"] - 1


def test_command_packs_weights(file, tmp_path):
    report = json.loads(run(file, tmp_path / "c.onnx", "--json").stdout)
    assert report["changed"]["fold_weights"] >= 1 and report["after"]["bytes"] < 0.5 * report["before"]["bytes"]


def test_command_explains_mistakes(file, tmp_path):
    for arguments, code, message in (
        (("missing.onnx", tmp_path / "c.onnx"), 2, "no such file: missing.onnx"),
        ((file, tmp_path / "c.onnx", "--shapes", "batch"), 2, "expected batch=1 or input=1x3x224x224"),
        ((file, tmp_path / "c.onnx", "--check", "vitis"), 2, "expected one of dataflow"),
    ):
        result = run(*arguments)
        assert result.returncode == code and message in result.stderr and "Traceback" not in result.stderr, (
            result.stderr
        )


def test_report_lists_what_was_declined(tmp_path):
    report = clean(model("y = Identity(x)"), tmp_path / "c.onnx")
    assert report.declined == [
        (
            "remove_identities",
            "identity",
            "it makes the graph output 'y' from an input, an initializer or an outer graph's tensor",
        )
    ]
