"""Parts of the suite are disjoint and together the whole, whatever their number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import parts

ROOT = Path(__file__).resolve().parents[1]
FEW = """import pytest

@pytest.mark.parametrize("n", range(20))
def test_many(n):
    assert n >= 0

def test_one():
    assert True
"""


def collected(folder: Path, *options: str) -> tuple[int, list[str], str]:
    """Exit status, ids of tests that passed, and what pytest said."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.parts", "-p", "no:cacheprovider", "-vv"]
    command += [f"--rootdir={folder}", *options, str(folder)]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # other plugins take seconds to load
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=alone)
    lines = done.stdout.splitlines()
    return done.returncode, [line.split()[0] for line in lines if " PASSED" in line], done.stdout + done.stderr


def test_parts_run_every_test_once(tmp_path):
    (tmp_path / "test_few.py").write_text(FEW)
    whole = collected(tmp_path)[1]
    found = [collected(tmp_path, f"--part={k}/2")[1] for k in (1, 2)]
    assert len(whole) == 21 and all(found)
    assert sorted(name for part in found for name in part) == sorted(whole)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_parts_are_about_as_large_as_each_other(n):
    names = [f"tests/test_a.py::test_b[{i}]" for i in range(4000)]
    held = [[name for name in names if parts.holds(k, n, name)] for k in range(1, n + 1)]
    assert sorted(name for part in held for name in part) == sorted(names)
    assert all(abs(len(part) - 4000 / n) < 0.2 * 4000 / n for part in held)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", ""])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(parts.argparse.ArgumentTypeError, match="expected k/n with 1 <= k <= n, such as 2/5"):
        parts.part(text)


def test_pytest_says_what_a_part_is(tmp_path):
    status, _, said = collected(tmp_path, "--part=4/3")
    assert status == pytest.ExitCode.USAGE_ERROR and "argument --part: is '4/3'; expected k/n" in said
