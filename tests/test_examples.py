"""The examples run, the notebook executes cell by cell, the accuracy table is whole and keeps its promise."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from mxexport.numbers.formats import MX_FORMATS

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"


def run_python(*arguments, cwd: Path) -> str:
    """Standard output of a fresh Python that finds this checkout's package."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def percentages(text: str) -> dict[str, float]:
    """`name  97.5%` at the start of a line -> {name: 97.5}."""
    return {name: float(value) for name, value in re.findall(r"^(\w+):? +([\d.]+)%", text, re.MULTILINE)}


def test_export_cnn_runs(tmp_path):
    found = percentages(run_python(EXAMPLES / "export_cnn.py", tmp_path, cwd=tmp_path))
    assert found["float"] > 95 and abs(found["quantized"] - found["onnxruntime"]) <= 0.5
    assert found["quantized"] > found["float"] - 2
    model = onnx.load(tmp_path / "cnn.onnx")
    shapes = {i.name: list(i.dims) for i in model.graph.initializer}
    assert shapes["3.weight_scale"] == [32, 2, 3, 3]


def test_compile_mlp_runs_and_the_rtl_equals_its_graph(tmp_path):
    output = run_python(EXAMPLES / "compile_mlp.py", tmp_path / "build", cwd=tmp_path)
    found = percentages(output)
    assert found["torch"] > 92 and found["RTL"] == found["dataflow"]
    assert "equal to the dataflow graph in all 3600 outputs" in output
    assert list((tmp_path / "build" / "fpga" / "rtl").glob("*.sv"))


# --- notebook ---------------------------------------------------------------------------------------------------


def code_cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def execute_notebook(tmp_path: Path) -> str:
    """Printed output of all cells: in a Jupyter kernel where one is installed, else as one script."""
    if not all(map(importlib.util.find_spec, ("nbclient", "ipykernel"))):
        script = tmp_path / "notebook.py"
        script.write_text("\n\n".join("".join(cell["source"]) for cell in code_cells()))
        return run_python(script, cwd=tmp_path)
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


def test_quickstart_notebook_executes(tmp_path):
    output = execute_notebook(tmp_path)
    found = percentages(output)
    assert found["float"] > 93 and found["onnxruntime"] > 93
    assert "contracted: value_ (48, 2, 32)  scale_ (48, 2, 1)" in output
    assert "contracted (10, 2, 32) expanded (10, 48)" in output
    assert re.search(r"0\.weight_quant +mxfp4_e2m1 +\[48, 64\] +scale \[48, 2\]", output)


def test_quickstart_notebook_is_stored_executed_without_errors_or_local_paths():
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"stream", "execute_result"}
    assert not re.search(r"/(tmp|home|work|root)/", NOTEBOOK.read_text())
    (differences,) = [o["data"]["text/plain"] for o in cells[-1]["outputs"]]
    assert re.findall(r": (\d+)", "".join(differences)) == ["0"] * 6


# --- accuracy ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "benchmarks" / "accuracy.py")
    module = sys.modules["accuracy"] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "benchmarks"))  # where it finds what benchmarks share
    spec.loader.exec_module(module)
    sys.path.pop(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as its main does
    yield module
    torch.set_num_threads(threads)
    del sys.modules["accuracy"]


def documented_rows(benchmark) -> list[list[str]]:
    inside = benchmark.DOCUMENT.read_text().split(benchmark.MARKERS[0])[1].split(benchmark.MARKERS[1])[0]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in inside.strip().splitlines()[2:]]


def test_documented_accuracy_covers_every_format_and_recipe(benchmark):
    rows = documented_rows(benchmark)
    expected = [(r.title, f) for r in benchmark.RECIPES for f in (benchmark.FLOAT, *MX_FORMATS)]
    assert [(row[0], row[1]) for row in rows] == expected


def test_documented_8_and_6_bit_formats_are_within_half_a_point_of_float(benchmark):
    rows = documented_rows(benchmark)
    reference = {row[0]: float(row[3]) for row in rows if row[1] == benchmark.FLOAT}
    checked = [row for row in rows if row[1] in MX_FORMATS and row[1] != "mxfp4_e2m1"]
    assert len(checked) == 10
    for row in checked:
        for after in (5, 7):  # PTQ that does not saturate, and QAT
            assert float(row[after]) >= reference[row[0]] - 0.5, row
            assert float(row[after + 1]) == pytest.approx(float(row[after]) - reference[row[0]], abs=0.01)


def test_the_benchmark_measures_and_writes_its_table(benchmark, tmp_path):
    train_set, test = benchmark.load_digits()
    few = [benchmark.Digits(d.x[:640], d.y[:640]) for d in (train_set, test)]
    recipe = benchmark.Recipe(benchmark.MLP, "MLP", epochs=8, qat_epochs=1)
    rows = benchmark.measure(recipe, *few, formats=("mxint8",))
    assert [(row.network, row.format) for row in rows] == [("MLP", "float32"), ("MLP", "mxint8")]
    assert all(row.ptq > 60 for row in rows) and abs(rows[0].ptq - rows[1].ptq) < 3
    document = tmp_path / "accuracy.md"
    document.write_text(f"before\n{benchmark.MARKERS[0]}\nold\n{benchmark.MARKERS[1]}\nafter\n")
    benchmark.write(benchmark.table(rows), document, benchmark.MARKERS)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert f"| MLP | `mxint8` | 8.25 | {rows[1].ptq:.1f} |" in text


def test_the_cnn_has_the_documented_size(benchmark):
    assert sum(p.numel() for p in benchmark.DigitCNN().parameters()) == 93_234
