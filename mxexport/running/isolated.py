"""Runs one model in a process of its own: `python -m mxexport.running.isolated JOB_DIRECTORY`.

The directory holds `job.json` and inputs; outputs and `done.json` (dtypes, peak memory, or the error) are written into
it. Arrays travel as .npy files of plain numbers, never as pickles.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from mxexport import errors
from mxexport.errors import MXExportError, UnsupportedError

_RAW = {1: np.uint8, 2: np.uint16}


def run_isolated(model: Path, fed: dict[str, np.ndarray], outputs: list[str], executor: str, directory: Path):
    """Execute the file `model` in a process that ends before this returns.

    Returns (output name -> array mapped from `directory`, peak resident bytes of the process). The caller removes the
    directory. Raises what the executor raises.
    """
    directory.mkdir()
    job = {"model": str(model.absolute()), "executor": executor, "outputs": outputs}
    job["inputs"] = [_store(directory / f"in{i}.npy", name, array) for i, (name, array) in enumerate(fed.items())]
    (directory / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "mxexport.running.isolated", str(directory)],
        capture_output=True,
        text=True,
        env=_environment(),
    )
    try:
        result = json.loads((directory / "done.json").read_text())
    except (OSError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnsupportedError(
            f"{model}: the process that ran it ended with status {done.returncode} (out of memory?): {last}"
        ) from None
    if "error" in result:
        raise getattr(errors, result["type"], UnsupportedError)(result["error"])
    return {entry["name"]: _fetch(entry) for entry in result["outputs"]}, result["peak_bytes"]


def _environment() -> dict[str, str]:
    """The child imports this very package, wherever it was found."""
    here = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}


def _store(path: Path, name: str, array: np.ndarray) -> dict:
    """.npy knows numpy's own types only: others go as their bits, the type beside them."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    own = array.dtype.kind in "biufcSU"
    np.save(path, array if own else array.view(_RAW[array.dtype.itemsize]), allow_pickle=False)
    dtype = None if own else int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    return {"path": str(path), "name": name, "dtype": dtype}


def _fetch(entry: dict) -> np.ndarray:
    array = np.load(entry["path"], mmap_mode="r" if os.path.getsize(entry["path"]) > 1 << 20 else None)
    return array if entry["dtype"] is None else array.view(onnx.helper.tensor_dtype_to_np_dtype(entry["dtype"]))


def _work(directory: Path) -> None:
    from mxexport.running import executors

    job = json.loads((directory / "job.json").read_text())
    try:
        fed = {entry["name"]: _fetch(entry) for entry in job["inputs"]}
        arrays = executors.find_executor(job["executor"])(Path(job["model"]), fed, job["outputs"])
        stored = [_store(directory / f"out{i}.npy", name, array) for i, (name, array) in enumerate(arrays.items())]
        result = {"outputs": stored, "peak_bytes": peak_bytes()}
    except MXExportError as error:
        result = {"error": str(error), "type": type(error).__name__}
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as file:
        json.dump(result, file)
    os.replace(file.name, directory / "done.json")


def peak_bytes() -> int:
    """Most resident bytes this process has had (0 where the system does not say)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
