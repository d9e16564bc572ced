"""Two models on the same inputs: what differs is found, placed and measured; what does not is said to be equal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import mxexport as mx
from mxexport.errors import InputFileError, OptionError, ShapeError, UnsupportedError, VerificationError
from mxexport.numbers.bits import equal_bits
from mxexport.running.comparison import compare
from mxexport.running.drawing import random_inputs
from mxexport.running.verification import Tolerance, verify


def chain(weight: np.ndarray, shift: float = 0.0, names=("x", "y")) -> onnx.ModelProto:
    """y = (x * weight + shift) * 2, the tensors between called `product` and `sum`."""
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Mul", [names[0], "w"], ["product"]),
                helper.make_node("Add", ["product", "shift"], ["sum"]),
                helper.make_node("Mul", ["sum", "two"], [names[1]]),
            ],
            "g",
            [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, ["n", len(weight)])],
            [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ["n", len(weight)])],
            [
                numpy_helper.from_array(a, n)
                for n, a in {"w": weight, "shift": np.float32([shift]), "two": np.float32([2])}.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


WEIGHT = np.float32([1, 2, 3, 4])
X = np.float32([[1, 1, 1, 1], [2, 2, 2, 2]])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`a` and `same` are one model twice, `other` differs in one weight of layer 2."""
    folder = tmp_path_factory.mktemp("verify")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 4))
    for name in ("a", "same", "other"):
        if name == "other":
            with torch.no_grad():
                model[2].weight[1, 2] = 3 * model[2].weight.abs().max()
        mx.export(mx.quantize_model(model, "mxfp4_e2m1", "mxint8"), (torch.zeros(1, 40),), folder / f"{name}.onnx")
    return folder


@pytest.mark.parametrize("executor", ["onnxruntime", "qonnx", "reference"])
def test_a_model_equals_its_copy_and_the_first_change_is_found(files, executor):
    result = mx.verify(files / "a.onnx", files / "same.onnx", executor=executor)
    assert result and result.equal and result.first_difference is None
    assert str(result).startswith("equal")
    assert {"0.weight_quant", "2.weight_quant"} < {t.name for t in result.tensors}
    result = mx.verify(files / "a.onnx", files / "other.onnx", executor=executor)
    assert not result and result.first_difference.name == "2.weight_quant"
    assert "'2.weight_quant'" in str(result).splitlines()[1]
    with pytest.raises(VerificationError, match=r"2\.weight_quant"):
        result.raise_if_different()


def test_processes_of_their_own_find_the_same(files):
    together = mx.verify(files / "a.onnx", files / "other.onnx")
    apart = mx.verify(files / "a.onnx", files / "other.onnx", isolate=True)
    assert apart.tensors == together.tensors
    assert set(apart.peak_bytes) == {"a", "b"} and not together.peak_bytes


def test_an_error_in_the_other_process_is_ours(files, tmp_path):
    proto = onnx.load(files / "a.onnx")
    proto.graph.node[0].op_type = "NoSuchOperator"
    proto.graph.node[0].domain = ""
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(UnsupportedError, match="NoSuchOperator"):
        verify(files / "a.onnx", tmp_path / "bad.onnx", isolate=True, tensors="outputs")
    with pytest.raises(InputFileError, match="no such file"):
        verify(files / "a.onnx", tmp_path / "none.onnx")


def test_place_size_and_order_of_a_difference():
    changed = WEIGHT.copy()
    changed[2] = np.nextafter(np.float32(3), np.float32(4))
    result = verify(chain(WEIGHT), chain(changed), X)
    assert [t.name for t in result.tensors] == ["product", "sum", "y"]
    first = result.first_difference
    assert (first.name, first.index, first.outside, first.values, first.max_ulp) == ("product", [0, 2], 2, 8, 1)
    assert first.max_abs == float(changed[2] - 3) * 2
    signal, noise = float((np.outer([1, 2], WEIGHT) ** 2).sum()), 5 * float(changed[2] - 3) ** 2
    assert first.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)
    data = json.loads(result.to_json())
    assert data["equal"] is False and data["first_difference"] == "product" and len(data["tensors"]) == 3


def test_tolerances_let_small_differences_pass_and_still_count_them():
    changed = np.nextafter(WEIGHT, np.float32(9))
    for tolerance in (Tolerance(max_ulp=1), Tolerance(rtol=1e-6), Tolerance(atol=1e-5)):
        result = verify(chain(WEIGHT), chain(changed), X, tolerance=tolerance)
        assert result and result.tensors[0].differing == 8
    for tolerance in (None, Tolerance(rtol=1e-9), Tolerance(atol=1e-9)):
        assert not verify(chain(WEIGHT), chain(changed), X, tolerance=tolerance)
    assert not verify(chain(WEIGHT), chain(np.nextafter(changed, np.float32(9))), X, tolerance=Tolerance(max_ulp=1))


def test_differently_named_inputs_and_outputs_pair_in_order():
    result = verify(chain(WEIGHT), chain(WEIGHT, names=("in", "out")), X)
    assert result and [t.name for t in result.tensors] == ["product", "sum", "y"]


def test_tensors_can_be_chosen():
    other = chain(WEIGHT, shift=1.0)
    assert [t.name for t in verify(chain(WEIGHT), other, X, tensors="outputs").tensors] == ["y"]
    found = verify(chain(WEIGHT), other, X, tensors=["product"])
    assert [(t.name, t.equal) for t in found.tensors] == [("product", True), ("y", False)]
    for tensors in (["nothing"], "everything"):
        with pytest.raises(OptionError, match="tensors"):
            verify(chain(WEIGHT), other, X, tensors=tensors)
    with pytest.raises(OptionError, match="isolate"):
        verify(chain(WEIGHT), other, X, isolate=True)
    with pytest.raises(OptionError, match="executor"):
        verify(chain(WEIGHT), other, X, executor="tvm")


def test_a_tensor_that_became_a_constant_is_still_compared():
    folded = chain(WEIGHT)
    folded.graph.initializer.append(numpy_helper.from_array(np.float32([[1, 2, 3, 5]]), "product"))
    del folded.graph.node[0]
    folded.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert verify(chain(WEIGHT), folded, X[:1]).first_difference.name == "product"


def test_random_inputs_are_seeded_and_fit():
    proto = chain(WEIGHT)
    first, second = random_inputs(proto, 1)["x"], random_inputs(proto, 1)["x"]
    assert first.shape == (2, 4) and (first == second).all() and (first != random_inputs(proto, 2)["x"]).any()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ShapeError, match="'x'"):
        random_inputs(proto)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_bits_of_every_float_type(dtype):
    a = np.array([0.0, np.nan, 1.0, np.inf], dtype)
    b = np.array([-0.0, np.nan, 1.0, np.inf], dtype)
    assert equal_bits(a, b).tolist() == [False, True, True, True]
    found = compare("t", a, b)
    assert (found.differing, found.index, found.max_ulp) == (1, [0], 1)


def test_comparison_of_what_is_not_alike():
    assert "second" in compare("t", np.zeros(3), np.zeros(4)).problem
    assert not compare("t", np.zeros(3, np.float32), np.zeros(3)).equal
    assert compare("t", np.int64([1, 5]), np.int64([1, 9])).max_abs == 4
    nan = compare("t", np.float32([1, np.nan]), np.float32([1, 2]), Tolerance(rtol=1, max_ulp=1000))
    assert nan.outside == 1 and nan.index == [1] and nan.max_ulp is None
    far = compare("t", np.zeros(3_000_000, np.uint8), np.eye(1, 3_000_000, 2_500_000, dtype=np.uint8)[0])
    assert far.index == [2_500_000]  # beyond the first block


def command(*arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "mxexport.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})


def test_the_command_returns_1_on_a_difference(files, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 40), np.float32))
    same = command("verify", files / "a.onnx", files / "same.onnx", "--inputs", tmp_path / "x.npy", "--json")
    assert same.returncode == 0 and json.loads(same.stdout)["equal"] is True, same.stderr
    other = command("verify", files / "a.onnx", files / "other.onnx")
    assert other.returncode == 1 and "2.weight_quant" in other.stdout and "differ" in other.stderr
    assert "Traceback" not in other.stderr


def test_run_takes_npz_and_writes_chosen_outputs(files, tmp_path):
    proto = onnx.load(files / "a.onnx")
    name, out = proto.graph.input[0].name, proto.graph.output[0].name
    np.savez(tmp_path / "x.npz", **{name: np.ones((3, 40), np.float32)})
    chosen = f"{out},2.weight_quant"
    done = command(
        "run", files / "a.onnx", tmp_path / "x.npz", "--outputs", chosen, "--out", tmp_path / "y.npz", "--json"
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "y.npz") as found:
        assert found[out].shape == (3, 4) and found["2.weight_quant"].shape[0] in (4, 8)
    done = command("run", files / "a.onnx", tmp_path / "x.npz", "--outputs", chosen, "--output-dir", tmp_path / "many")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "many").glob("*.npy"))) == 2


def test_differences_of_integers_are_told_in_words():
    """They have no ulp."""
    from mxexport.running.comparison import Tolerance, compare
    from mxexport.running.verification import Verification

    for a, b in ((np.array([1, 2]), np.array([1, 3])), (np.array([True]), np.array([False]))):
        found = compare("codes", a, b, Tolerance())
        text = str(Verification("a", "b", "onnxruntime", Tolerance(), [found]))
        assert "DIFFERENT" in text and f"'codes': 1 of {a.size} values" in text and "ulp" not in text.splitlines()[1]
