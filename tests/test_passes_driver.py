"""The driver: fixed point, verification that names what differs, stages, models left as they were."""

from __future__ import annotations

import functools
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import mxexport as mx
from mxexport.errors import InputFileError, OptionError, ShapeError, UnsupportedError, VerificationError
from mxexport.model import graph
from mxexport.passes import (
    PIPELINE,
    TIDY,
    Outcome,
    approximate,
    bound_of,
    clean,
    fold_constants,
    remove_identities,
    run_passes,
    split_gemm,
)
from mxexport.running import execution, executors
from tests.helpers import assert_equal_bits
from tests.pass_helpers import model, op_types

RNG = np.random.default_rng(1)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def small() -> ir.Model:
    return model(
        "[a] r = Relu(x)  [b] i = Identity(r)  [c] m = MatMul(i, w)  [d] y = Add(m, k)", w=normal(4, 4), k=normal(4)
    )


def test_approximate_passes_are_named_with_their_bound_without_verification(tmp_path):
    report = clean(approximated(), tmp_path / "c.onnx")
    (named,) = [found for found in report.approximate if found.name == "merge_affines"]
    assert named.changes == report.changed["merge_affines"] and named.ulp == 256 and "rounds once" in named.reason
    assert json.loads(report.to_json())["approximate"][0]["name"] == report.approximate[0].name


def test_exact_leaves_every_approximate_pass_out(tmp_path):
    report = clean(approximated(), tmp_path / "c.onnx", exact=True, verify=True)
    assert not report.approximate and {result for _, result in report.verified} <= {"equal bits"}
    assert not {f.__name__ for f in PIPELINE if bound_of(f)} & set(report.changed)


def approximated() -> ir.Model:
    """Three factors that one factor nearly is."""
    return model("[a] s = Mul(x, k)  [b] t = Mul(s, k)  [c] y = Mul(t, k)", k=normal(4))


def test_equal_outputs_are_not_equal_bits_where_a_tensor_inside_moved():
    """A rounding in front of the output hides what an approximate pass did."""
    made = model("[a] m = Add(x, k)  [b] y = Floor(m)", k=np.full(4, 0.25, np.float32))
    record = run_passes(made, [nudge_within_bound], verify=np.full((2, 4), 2.125, np.float32))
    assert record.steps[0].verified.startswith("1 tensors within 4 ulp")


@approximate(ulp=4, reason="a test")
def nudge_within_bound(made: ir.Model) -> Outcome:
    value = made.graph.initializers["k"]
    if value.const_value.numpy()[0] != 0.25:
        return Outcome()
    value.const_value = ir.tensor(np.full(4, 0.25 + 2**-21, np.float32))
    return Outcome(["k: nudged"])


def shift_bias(made: ir.Model) -> Outcome:
    """A wrong pass: adds 1 to every bias, once."""
    value = made.graph.initializers["k"]
    if "shifted" in made.metadata_props:
        return Outcome()
    made.metadata_props["shifted"] = "1"
    value.const_value = ir.tensor(value.const_value.numpy() + np.float32(1))
    return Outcome(["k: shifted"])


def nudge_bias(made: ir.Model) -> Outcome:
    value = made.graph.initializers["k"]
    if "nudged" in made.metadata_props:
        return Outcome()
    made.metadata_props["nudged"] = "1"
    value.const_value = ir.tensor(np.nextafter(value.const_value.numpy(), np.float32(9)))
    return Outcome(["k: nudged"])


# --- the driver -----------------------------------------------------------------------------------------------


def test_runs_to_a_fixed_point_and_leaves_the_callers_model():
    given_model = small()
    record = run_passes(given_model, [remove_identities, fold_constants])
    assert op_types(given_model) == ["Relu", "Identity", "MatMul", "Add"]
    assert op_types(record.model) == ["Relu", "MatMul", "Add"]
    assert record.changed == {"remove_identities": 1}
    assert [step["name"] for step in json.loads(record.to_json())][:2] == ["remove_identities", "fold_constants"]
    shared = given_model.graph.initializers["w"].const_value
    assert record.model.graph.initializers["w"].const_value is shared


@pytest.mark.parametrize("verify", [True, {"x": normal(2, 4)}, (normal(2, 4),), normal(2, 4)])
def test_verification_names_pass_node_and_tensor(verify):
    with pytest.raises(VerificationError, match=r"pass shift_bias: tensor 'y' of node 'd' should be bit-equal: 8 of 8"):
        run_passes(small(), [shift_bias], verify=verify)
    assert run_passes(small(), [shift_bias]).changed == {"shift_bias": 1}


def test_a_stated_bound_is_held():
    loose = approximate(ulp=4, reason="rounds once more")(functools.wraps(nudge_bias)(lambda m: nudge_bias(m)))
    record = run_passes(small(), [loose], verify=True)
    assert record.steps[0].verified.startswith("1 tensors within 4 ulp")
    with pytest.raises(VerificationError, match=r"tensor 'y' of node 'd' should be bit-equal"):
        run_passes(small(), [nudge_bias], verify=True)
    far = approximate(ulp=4, reason="rounds once more")(functools.wraps(shift_bias)(lambda m: shift_bias(m)))
    with pytest.raises(VerificationError, match=r"within 4 ulp \(rounds once more\)"):
        run_passes(small(), [far], verify=True)


def drop_output(made: ir.Model) -> Outcome:
    made.graph.outputs.pop()
    return Outcome(["z: gone"])


def rename_and_shift(made: ir.Model) -> Outcome:
    made.graph.outputs[0].name = "y_new"
    made.graph.initializers["k"].const_value = ir.tensor(np.full(4, 9, np.float32))
    return Outcome(["k: 9"])


def shift_output(made: ir.Model) -> Outcome:
    made.graph.initializers["k"].const_value = ir.tensor(np.full(4, 9, np.float32))
    return Outcome(["k: 9"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (drop_output, "tensor 'z' of node 'n' .* the graph had the outputs y, k, z, now y, k"),
        (rename_and_shift, r"tensor 'y_new' of node 'm' should be within 4 ulp"),
        (shift_output, "tensor 'k' of node '' .* 4 of 4 values differ"),
    ],
)
def test_a_bound_excuses_no_output_that_is_gone_renamed_or_no_node_s(function, message):
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[2,4] x) => (float[2,4] y, float[4] k, float[2,4] z)
      <float[4] k = {1, 2, 3, 4}> { BODY [n] z = Relu(x) }"""
    body = "[r] y = Relu(x)" if function is shift_output else "[m] y = Mul(x, k)"
    made = ir.from_onnx_text(text.replace("BODY", body))
    loose = approximate(ulp=4, reason="rounds once more")(functools.wraps(function)(lambda m: function(m)))
    with pytest.raises(VerificationError, match=message):
        run_passes(made, [loose], verify=np.ones((2, 4), np.float32))


def test_a_code_that_moves_behind_a_bounded_change_is_counted_not_refused():
    body = """m = Add(x, k)
      s = mxexport.ops.MXScale<axis=1, group_size=32, emax=2, round_bias=0, frac_bits=0, code_min=0, code_max=254>(m)
      q = mxexport.ops.MXFloatQuant<axis=1, group_size=32, exponent_bits=2, mantissa_bits=1,
      exponent_bias=1, max_val=6.0, signed=1, signed_zero=1>(m, s)  y = Relu(q)"""
    half = np.array([[1.0, 4.0, 1.25, 1.75]] * 2, np.float32)  # the last two lie on ties
    loose = approximate(ulp=4, reason="rounds once more")(functools.wraps(nudge_bias)(lambda m: nudge_bias(m)))
    k = np.full(4, 1.0, np.float32)
    record = run_passes(model(body, k=k), [loose], verify={"x": half - k})
    assert record.steps[0].verified == "1 tensors within 4 ulp of their largest magnitude; 2 behind a rounding"


def test_the_sign_of_zero_counts_where_a_pass_is_exact():
    def negate_zero(made: ir.Model) -> Outcome:
        value = made.graph.initializers["k"]
        if np.signbit(value.const_value.numpy()).all():
            return Outcome()
        value.const_value = ir.tensor(np.full(4, -0.0, np.float32))
        return Outcome(["k: -0"])

    made, x = model("[m] y = Mul(x, k)", k=np.zeros(4, np.float32)), np.ones((2, 4), np.float32)
    with pytest.raises(VerificationError, match=r"tensor 'y' of node 'm' .* 0.0 before, -0.0 after"):
        run_passes(made, [negate_zero], verify=x)
    loose = approximate(ulp=0, reason="the sign of zero is lost")(
        functools.wraps(negate_zero)(lambda m: negate_zero(m))
    )
    assert run_passes(made, [loose], verify=x).steps[0].verified.startswith("1 tensors within 0 ulp")


def test_a_failing_pass_is_named_and_undone():
    def break_graph(made: ir.Model) -> Outcome:
        made.graph.remove(list(made.graph)[-1], safe=False)
        raise KeyError("no such thing")

    given_model = small()
    with pytest.raises(UnsupportedError, match="pass break_graph failed: KeyError: 'no such thing'"):
        run_passes(given_model, [break_graph])
    assert op_types(given_model) == ["Relu", "Identity", "MatMul", "Add"]
    with pytest.raises(UnsupportedError, match="returned NoneType; expected an Outcome"):
        run_passes(small(), [lambda made: None])


def test_a_pass_that_breaks_the_graph_is_a_verification_error():
    def wrong_shape(made: ir.Model) -> Outcome:
        made.graph.initializers["w"].const_value = ir.tensor(normal(3, 3))
        return Outcome(["w: cut"])

    with pytest.raises(
        VerificationError, match="pass wrong_shape: the model before it executes, the one after it does not"
    ):
        run_passes(small(), [wrong_shape], verify=True)


def test_passes_that_undo_each_other_are_named():
    def flip(made: ir.Model) -> Outcome:
        return Outcome(["graph: flipped"])

    with pytest.raises(UnsupportedError, match="no fixed point after 20 rounds; .* among flip"):
        run_passes(small(), [flip])


def test_inputs_that_do_not_fit_are_refused():
    for inputs in ({"z": normal(2, 4)}, (normal(2, 4), normal(2, 4))):
        with pytest.raises(ShapeError, match="the graph takes"):
            run_passes(small(), [remove_identities], verify=inputs)
    with pytest.raises(UnsupportedError, match="onnxruntime cannot execute the model"):
        run_passes(small(), [remove_identities], verify=normal(2, 5))
    noisy = model("r = RandomNormalLike(x)  y = Identity(r)")
    with pytest.raises(OptionError, match="random_normal_like give|RandomNormalLike -> r give"):
        run_passes(noisy, [remove_identities], verify=True)
    text = model("y = Identity(x)", "string[2] x", "string[2] y")
    with pytest.raises(OptionError, match="give inputs yourself"):
        run_passes(text, [remove_identities], verify=True)


def test_stages_are_whole_files_that_run(tmp_path):
    record = run_passes(small(), TIDY, save_stages=tmp_path / "stages")
    stages = sorted((tmp_path / "stages").iterdir())
    assert [s.name for s in stages] == ["01_infer_shapes.onnx", "02_remove_identities.onnx"]
    assert [s.stage for s in record.steps if s.stage] == [str(s) for s in stages]
    x = normal(2, 4)
    assert_equal_bits(executors.run(stages[-1], x)["y"], executors.run(stages[0], x)["y"])


# --- graphs of all kinds --------------------------------------------------------------------------------------


def test_functions_loops_branches_forks_and_several_outputs():
    body = """[l] a, s = Loop(n, , x) <body = b (int64 i, bool c, float[2,4] v) => (bool d, float[2,4] o, float[2,4] e)
        { d = Identity(c)  k = Constant<value = float {2.0}>()  j = Neg(k)  t = Mul(v, j)
          o = Identity(t)  e = Relu(t) }>
      [f] g = own.Twice(a)  h = Identity(g)  y = Relu(h)  z = Neg(h)"""
    text = f"""<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
      g (float[2,4] x, int64 n) => (float[2,4] y, float[2,4] z, float[u,2,4] s) {{ {body} }}
      <domain: "own", opset_import: ["" : 20]> Twice (v) => (w) {{ i = Identity(v)  w = Add(i, i) }}"""
    record = run_passes(ir.from_onnx_text(text), PIPELINE, verify={"x": normal(2, 4), "n": np.array(3)})
    assert [n.op_type for n in record.model.graph] == ["Loop", "Twice", "Relu", "Neg"]
    loop = [n.op_type for n in record.model.graph[0].attributes["body"].as_graph()]
    assert "Constant" not in loop and "Neg" not in loop
    assert ("own", "Twice", "") in record.model.functions


def test_tensors_beside_the_file(tmp_path):
    made = model(
        "[a] i = Identity(x)  [b] y = Gemm<transB=1>(i, w)", "float[2,64] x", "float[2,512] y", w=normal(512, 64)
    )
    ir.save(made, tmp_path / "big.onnx", external_data="big.data")
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "elsewhere" / "clean.onnx"
    clean(tmp_path / "big.onnx", out, verify=True, save_stages=tmp_path / "stages")
    x = normal(2, 64)
    np.testing.assert_allclose(executors.run(out, x)["y"], execution.execute(made, {"x": x})["y"], rtol=1e-4, atol=1e-4)
    assert not list((tmp_path / "elsewhere").glob("*.data"))


def test_large_models_are_executed_from_a_folder(monkeypatch):
    monkeypatch.setattr(execution, "_IN_MEMORY", 0)
    made, x = small(), normal(2, 4)
    assert_equal_bits(execution.execute(made, {"x": x})["y"], executors.run(made, x)["y"])


def test_split_gemm_is_the_only_rounding_change_of_an_exported_network(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(288, 10)
    )
    mx.export(mx.quantize_model(net, "mxfp4_e2m1", "mxint8"), (torch.zeros(1, 3, 8, 8),), tmp_path / "a.onnx")
    exact = clean(tmp_path / "a.onnx", tmp_path / "tidy.onnx", passes=TIDY, verify=True)
    assert all(result == "equal bits" for _, result in exact.verified)
    report = clean(tmp_path / "a.onnx", tmp_path / "b.onnx", verify=True, shapes={"batch": 1})
    assert report.changed["fix_shapes"] == 1 and report.changed["split_gemm"] == 1
    assert "Gemm" in report.before.operators and "Gemm" not in report.after.operators
    cleaned = graph.load(tmp_path / "b.onnx")
    assert cleaned.graph.inputs[0].shape == (1, 3, 8, 8) and cleaned.graph.outputs[0].shape == (1, 10)
    onnx.checker.check_model(str(tmp_path / "b.onnx"), full_check=True)
    again = clean(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert again.changed == {} and (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()
    assert json.loads(report.to_json())["path"] == str(tmp_path / "b.onnx")


def test_clean_takes_files_protos_and_models_and_leaves_them(tmp_path):
    made = small()
    proto = ir.to_proto(made)
    before = proto.SerializeToString()
    for source in (made, proto):
        assert clean(source, tmp_path / "c.onnx").after.nodes == 3
    assert proto.SerializeToString() == before and len(made.graph) == 4
    with pytest.raises(InputFileError, match="no such file"):
        clean(tmp_path / "missing.onnx", tmp_path / "c.onnx")
    with pytest.raises(InputFileError, match="no such directory"):
        clean(made, tmp_path / "nowhere" / "c.onnx")
    with pytest.raises(VerificationError):
        clean(small(), tmp_path / "wrong.onnx", passes=[shift_bias], verify=True)
    assert not (tmp_path / "wrong.onnx").exists()


# --- graphs nobody wrote --------------------------------------------------------------------------------------

_UNARY = ["Relu", "Neg", "Abs", "Identity", "Dropout", "Transpose", "Flip", "Quant", "Reshape", "Times1", "Const"]


@st.composite
def graphs(draw):
    """Chains with forks over [4,4] tensors, constants to fold and quantizers."""
    lines, names = [], ["x"]
    arrays: dict[str, np.ndarray] = {}
    for i in range(draw(st.integers(2, 9))):
        kind, source = draw(st.sampled_from([*_UNARY, "Add", "Gemm", "If"])), draw(st.sampled_from(names))
        other, out = draw(st.sampled_from(names)), f"t{i}"
        arrays |= {
            "one": np.float32(1),
            "shape": np.array([4, 4]),
            f"s{i}": np.exp2(np.full((4, 1), draw(st.integers(-3, 1)))).astype(np.float32),
        }
        seed = np.random.default_rng(draw(st.integers(0, 3)))
        arrays |= {f"w{i}": seed.standard_normal((4, 4)).astype(np.float32)}
        quant = "mxexport.ops.GroupwiseQuant<axis=1, group_size=4, bit_width=4, signed=1, narrow=1>"
        lines += {
            "Flip": [f"{out} = Transpose<perm=[1,0]>({source})"],
            "Transpose": [f"{out} = Transpose<perm=[0,1]>({source})"],
            "Quant": [f"{out} = {quant}({source}, s{i})"],
            "Reshape": [f"{out} = Reshape({source}, shape)"],
            "Times1": [f"{out} = Mul({source}, one)"],
            "Const": [f"c{i} = Neg(w{i})", f"d{i} = Transpose<perm=[1,0]>(c{i})", f"{out} = Mul({source}, d{i})"],
            "Add": [f"{out} = Add({source}, {other})"],
            "Gemm": [f"q{i} = {quant}(w{i}, s{i})", f"v{i} = Transpose<perm=[1,0]>(q{i})",
                     f"{out} = MatMul({source}, v{i})"],
            "If": [f"{out} = If(flag) <then_branch = a{i} () => (float[4,4] a{i}) "
                   f"{{ k{i} = Neg(w{i}) a{i} = Add({source}, k{i}) }}, "
                   f"else_branch = b{i} () => (float[4,4] b{i}) {{ b{i} = Identity({other}) }}>"],
        }.get(kind, [f"{out} = {kind}({source})"])  # fmt: skip
        names.append(out)
    outputs = draw(st.lists(st.sampled_from(names[1:]), min_size=1, max_size=2, unique=True))
    used = {
        name: array
        for name, array in arrays.items()
        if any(f"{name})" in line or f" {name}," in line or f"({name}," in line for line in lines)
    }
    shown = ", ".join(f"float[4,4] {name}" for name in outputs)
    return model("  ".join(lines), "float[4,4] x, bool flag", shown, **used)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(graphs())
def test_exact_passes_keep_every_bit_of_any_graph(made):
    assert all(bound_of(function) is None for function in TIDY)
    record = run_passes(made, TIDY, verify=True)
    assert {s.verified for s in record.steps if s.changed} <= {"equal bits"}
    assert [v.name for v in record.model.graph.outputs] == [v.name for v in made.graph.outputs]
    assert not run_passes(record.model, TIDY).changed
    onnx.checker.check_model(graph.to_proto(execution._with_bodies(record.model)))


def test_only_named_passes_round():
    assert {f.__name__ for f in PIPELINE if bound_of(f)} >= {"split_gemm", "extract_conv_bias", "lower_batch_norm"}
    assert bound_of(functools.partial(split_gemm)) is bound_of(split_gemm)
