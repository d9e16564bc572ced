"""What `convert --to finn` writes reaches the estimate reports of FINN+, with the values of the file it came from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mxexport as mx
from tests.finn import matrix
from tests.helpers import every

PYTHON = os.environ.get("MXEXPORT_FINN", "")
pytestmark = pytest.mark.skipif(
    not Path(PYTHON).is_file(), reason="FINN+ is not installed: make test-finn builds its environment from PyPI"
)


@pytest.mark.parametrize("case", every(3, matrix.CASES), ids=str)
def test_every_step_is_reached_with_equal_values(case):
    row = matrix.run(case)
    assert row.error is None and row.reached == matrix.STEPS
    assert row.differing == 0 if case.exact else row.worst <= matrix.ROUNDING
    assert str(row) in matrix.DOCUMENT.read_text(), f"python -m tests.finn.matrix; now {row}"


@pytest.mark.parametrize("network", matrix.REFUSED)
def test_what_finn_cannot_take_is_refused_before(network, tmp_path):
    assert matrix.REFUSED[network] in str(matrix.refusal(network, "mxint4", tmp_path))
    assert not (tmp_path / "finn.onnx").exists()


def test_the_report_says_what_finn_expects(tmp_path, monkeypatch):
    source, target, _ = matrix.converted(matrix.Case("MLP", "mxint4"), tmp_path)
    (note,) = [text for where, text in mx.convert(source, target, to="finn").notes if where == "FINN"]
    assert " LUT" in note and "frames a second on xczu3eg" in note
    monkeypatch.setenv("MXEXPORT_FINN", sys.executable)
    (note,) = [text for where, text in mx.convert(source, target, to="finn").notes if where == "FINN"]
    assert "its steps could not be run" in note


def test_thresholds_of_finn_alone_turn_ties(tmp_path):
    """Why the steps are needed: FINN's own step gives other codes at numbers in the middle of two."""
    source, target, x = matrix.converted(matrix.Case("MLP", "mxint8"), tmp_path)
    script = """
import sys, numpy as np
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model
from qonnx.core.onnx_exec import execute_onnx
from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
model = cleanup_model(ModelWrapper(sys.argv[1]))
before = {n.output[0]: float(model.get_initializer(n.input[1]).flat[0]) for n in model.get_nodes_by_op_type("Quant")}
first = model.graph.node[0]
scale = before[first.output[0]]
x = ((np.arange(70) - 35 + 0.5) * scale).astype(np.float32)[None]
codes = []
for m in (model, model.transform(ConvertQONNXtoFINN())):
    codes.append(execute_onnx(m, {m.graph.input[0].name: x}, True)[first.output[0]])
print(int((codes[0] != codes[1]).sum()))
"""
    done = subprocess.run([PYTHON, "-c", script, str(target)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.strip().splitlines()[-1]) == 35 == np.size(x[0]) // 2
