"""The published vectors: every executor gives their outputs bit for bit, and the script still makes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mxexport import ops
from mxexport.running import executors
from tests.helpers import assert_equal_bits, run_bodies

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted((ROOT / "ops").glob("*/vectors/*/model.onnx"))


def load(path: Path, side: str) -> list[np.ndarray]:
    """The tensors of a case as ONNX's node tests read them: by number."""
    count = len(list(path.parent.glob(f"test_data_set_0/{side}_*.pb")))
    files = [path.parent / "test_data_set_0" / f"{side}_{i}.pb" for i in range(count)]
    return [numpy_helper.to_array(onnx.TensorProto.FromString(f.read_bytes())) for f in files]


@pytest.mark.parametrize("path", MODELS, ids=lambda p: f"{p.parts[-4]}-{p.parent.name}")
def test_every_executor_gives_the_published_outputs(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inputs, expected = load(path, "input"), load(path, "output")
    assert len(inputs) == len(model.graph.input) and len(expected) == len(model.graph.output)
    node = model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    results = {"numpy": ops.OPERATORS[node.op_type].reference(*inputs, **attributes)}
    for name, execute in executors.EXECUTORS.items():
        results[name] = list(execute(model, tuple(inputs)).values())
    results["bodies in onnxruntime"] = list(run_bodies(model, tuple(inputs)).values())
    for name, actual in results.items():
        for a, e in zip(actual, expected, strict=True):
            assert_equal_bits(np.asarray(a), e, name)


def test_every_operator_has_vectors():
    assert {path.parts[-4] for path in MODELS} == set(ops.OPERATORS)


def test_the_files_are_what_the_script_writes(tmp_path):
    spec = importlib.util.spec_from_file_location("update_vectors", ROOT / "docs" / "update_vectors.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write(tmp_path)
    written, kept = (
        {p.relative_to(root): p.read_bytes() for p in root.glob("*/vectors/**/*") if p.is_file()}
        for root in (tmp_path, ROOT / "ops")
    )
    assert sorted(written) == sorted(kept)
    assert [p for p in written if written[p] != kept[p]] == [], "run python docs/update_vectors.py"


def test_onnx_backend_runner_loads_and_passes_them():
    """The road of `onnx.backend.test`: its loader finds the cases, its comparison accepts what onnxruntime gives."""
    from onnx.backend.test.loader import load_model_tests
    from onnx.backend.test.runner import Runner

    found = 0
    for op_type in ops.OPERATORS:
        for case in load_model_tests(data_dir=str(ROOT / "ops" / op_type), kind="vectors"):
            model = onnx.load(f"{case.model_dir}/model.onnx")
            inputs, outputs = (load(Path(case.model_dir) / "model.onnx", side) for side in ("input", "output"))
            given = dict(zip([i.name for i in model.graph.input], inputs, strict=True))
            with np.errstate(all="ignore"):  # it subtracts infinities
                Runner.assert_similar_outputs(outputs, list(executors.run(model, given).values()), rtol=0, atol=0)
            found += 1
    assert found == len(MODELS)
