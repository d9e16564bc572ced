"""DistributedDataParallel: two processes train what one trains on the whole batch."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import data_parallel_worker as worker

LIMIT = 120  # seconds for both processes; some sandboxes let them wait for each other for ever


def run_both(directory: Path, kind: str) -> str | None:
    """Both processes from start to end; what went wrong, None if nothing did."""
    directory.mkdir()
    commands = [[sys.executable, "-m", worker.__name__, str(rank), str(directory), kind] for rank in range(2)]
    logs = [directory / f"log.{rank}" for rank in range(2)]
    processes = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("w") as file:
                processes.append(subprocess.Popen(command, stdout=file, stderr=file, cwd=Path(__file__).parent.parent))
        end = time.monotonic() + LIMIT
        for process, log in zip(processes, logs, strict=True):
            if process.wait(timeout=max(0, end - time.monotonic())):
                return (log.read_text().strip().splitlines() or [f"status {process.returncode}"])[-1]
        return None
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT} s"
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_training_in_two_processes_equals_training_on_the_whole_batch(tmp_path):
    if problem := run_both(tmp_path / "float", "float"):
        pytest.skip(f"two processes cannot train even a float model together on this machine: {problem}")
    assert run_both(tmp_path / "quantized", "quantized") is None
    states = [torch.load(tmp_path / "quantized" / f"state.{rank}") for rank in range(2)]
    model = worker.build(quantized=True)
    worker.train(model, slice(None))
    for name, value in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], value, rtol=1e-4, atol=1e-5)
