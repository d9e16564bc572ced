"""Arrays that commands write: whole under their name, or what stood there before."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mxexport.cli import _common
from mxexport.cli.files import _write
from mxexport.errors import InputFileError
from mxexport.model import staging

RESULTS = {"a/b": np.arange(3.0), "file": np.ones(2, ml_dtypes.bfloat16)}
TARGETS = [("y.npz", None), ("y.npy", None), ("y", None), ("unused", "many")]


def write(folder: Path, out: str, directory: str | None) -> list[Path]:
    paths = _write(RESULTS, folder / out, directory and folder / directory)
    return [Path(p) for p in dict.fromkeys(paths.values()) if p]


@pytest.mark.parametrize(("out", "directory"), TARGETS)
def test_every_form_reads_back(tmp_path, out, directory):
    written = write(tmp_path, out, directory)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(written)
    found = _common.load_inputs(written[0])
    np.testing.assert_array_equal(found["a/b"] if isinstance(found, dict) else found, RESULTS["a/b"])
    if out.endswith("npz"):
        assert found["file"].dtype == np.float32


@pytest.mark.parametrize(("out", "directory"), TARGETS)
@pytest.mark.parametrize("failing", ["_write_array", "replace_files"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, out, directory, failing):
    before = {p: p.write_bytes(b"before") for p in write(tmp_path, out, directory)}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_common if failing == "_write_array" else staging, failing, full)
    with pytest.raises(InputFileError, match=f"cannot write {tmp_path}.*: No space left on device"):
        write(tmp_path, out, directory)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(before)
    assert all(p.read_bytes() == b"before" for p in before)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputFileError, match=r"cannot write .*absent/y\.npy: No such file or directory"):
        write(tmp_path, "absent/y.npy", None)
