"""SIGKILL at random moments, and several writers of one place: nothing half-written, the next run is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import FULL

WORKER = Path(__file__).with_name("killed_worker.py")
KILLS = 100 if FULL else 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_commands_that_are_killed_leave_nothing_half_written(tmp_path):
    seed = int.from_bytes(os.urandom(4), "little")
    own = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(WORKER.parent.parent)}
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, WORKER, str(KILLS), str(seed)], cwd=tmp_path / "work", env=own, capture_output=True, text=True
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    told = json.loads(done.stdout)
    killed = {name: count["killed"] for name, count in told["counts"].items()}
    assert sum(count["killed"] + count["ended"] for count in told["counts"].values()) == KILLS
    assert all(killed.values()) if FULL else any(killed.values()), killed  # few may all come too late on a busy machine
    assert told["left_after_next_run"] == []


def test_several_compile_into_one_folder_at_once(tmp_path):
    """Each writes whole or waits; what stands there in the end is one of the designs, with its own files."""
    import numpy as np
    import torch
    from torch import nn

    import mxexport as mx

    x = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    formats = ("mxint8", "mxfp4_e2m1", "mxfp6_e2m3", "mxint8")
    for i, fmt in enumerate(formats):
        torch.manual_seed(i)
        net = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
        mx.export(mx.quantize_model(net, fmt, "mxint8"), (torch.zeros(1, 32),), tmp_path / f"{i}.onnx")

    def run(i: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "mxexport.cli", "compile", f"{i}.onnx", "design", "--calibration", "x.npy"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    with ThreadPoolExecutor(len(formats)) as pool:
        done = list(pool.map(run, range(len(formats))))
    assert [d.returncode for d in done] == [0] * len(formats), [d.stderr for d in done]
    design = mx.open_design(tmp_path / "design")
    assert (design.simulate(x).raw == design.run_dataflow(x).raw).all()  # RTL, memories and graph belong together
    name = design.report["model"]["path"]
    alone = mx.compile(tmp_path / name, tmp_path / "alone", calibration=x)
    for file in (alone.path / "mem").iterdir():
        assert (design.path / "mem" / file.name).read_bytes() == file.read_bytes()
    assert not list(tmp_path.glob(".*.tmp"))
