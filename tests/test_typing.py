"""Types of the public names: a user's code passes a strict checker, and names of the package are those that it sees."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mxexport as mx

ROOT = Path(__file__).resolve().parent.parent
STRICT = [
    *(
        "__init__.py",
        "errors.py",
        "cache.py",
        "exporting/report.py",
        "fpga/__init__.py",
        "fpga/reports/finn_reports.py",
    ),
    *("fpga/reports/stored_report.py", "frontends/torchao/__init__.py", "model/staging.py", "model/writer.py"),
    *("running/sessions.py", "targets/__init__.py"),
]
"""Modules without a word to say against them; more may join."""


def test_a_users_code_and_public_modules_pass_a_strict_checker(tmp_path):
    """In one run, as it reads torch's types; a file that is wrong shows that it looks."""
    (tmp_path / "wrong.py").write_text("import mxexport as mx\n\nmx.Session(3)\nmx.run('m.onnx')\n")
    files = [ROOT / "tests" / "typing_user.py", tmp_path / "wrong.py", *(ROOT / "mxexport" / name for name in STRICT)]
    options = ["--strict", "--ignore-missing-imports", "--follow-imports=silent", "--cache-dir=/dev/null"]
    done = subprocess.run([sys.executable, "-m", "mypy", *options, *files], cwd=ROOT, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line.split(":")[1] for line in said] == ["3", "4"], done.stdout + done.stderr
    assert all("wrong.py" in line for line in said)


@pytest.mark.parametrize("package", ["", "fpga"])
def test_names_for_checkers_are_those_of_the_package(package):
    path = ROOT / "mxexport" / package / "__init__.py"
    declared = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mxexport")
        for alias in node.names
    }
    module = mx if not package else __import__("mxexport.fpga").fpga
    assert declared == module._HOME
    assert (ROOT / "mxexport" / "py.typed").exists()
