"""README.md is true: its tables are generated, its first example runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mxexport.ops import OPERATORS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_format_table_is_current():
    assert script("update_readme").format_table() in README, "run: python docs/update_readme.py"


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_specification_is_current(name):
    text = (ROOT / "ops" / name / "README.md").read_text()
    assert text == script("update_ops").specification(OPERATORS[name]), "run: python docs/update_ops.py"


def test_first_example_runs(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[:2])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([8, 10])" in done.stdout or "(8, 10)" in done.stdout


PRELUDE = """
import torch, mxexport as mx
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(40, 64), torch.nn.Linear(64, 40)
    def forward(self, x):
        return x + self.fc2(torch.relu(self.fc1(x)))
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = torch.nn.ModuleList([Block(), Block()]), torch.nn.Linear(40, 5)
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)
model, example = Net(), torch.randn(3, 40)
inputs = example.numpy()
"""


def test_examples_of_quantizers_and_files_run(tmp_path):
    sections = [README.split(f"## {name}\n")[1].split("\n## ")[0] for name in ("Quantizers", "Files and passes")]
    specs, files = (re.search(r"```python\n(.*?)```", section, re.DOTALL)[1] for section in sections)
    calibrate, check = "qmodel(example)\nmx.freeze_scales(qmodel)", "print(mx.verify('model.onnx', 'qdq.onnx'))"
    code = "\n".join([PRELUDE, specs, calibrate, files, check])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equal"), done.stdout
    assert {"model.onnx", "clean.onnx", "qdq.onnx"} <= {path.name for path in tmp_path.iterdir()}


def test_the_map_names_every_room_and_nothing_else():
    table = README.split("## The files in reading order")[1].split("More:")[0]
    named = set()
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        names = re.findall(r"`([^`]+)`", cell)
        for name in names:
            path = ROOT / name if name.startswith(("mxexport/", "ops/")) else ROOT / "mxexport" / name
            assert path.exists(), name
            named.add(path.name)
    package = ROOT / "mxexport"
    rooms = {p.name for p in package.iterdir() if (p.is_dir() and (p / "__init__.py").exists()) or p.suffix == ".py"}
    assert rooms - {"__init__.py"} == named - {"ops"} | {"ops"}


@pytest.mark.parametrize("what", ["format", "pass", "unit"])
def test_what_extending_says_runs(what, tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text()
    code = re.search(rf"<!-- {what} -->\n```python\n(.*?)```", text, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
