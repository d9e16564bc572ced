"""DistributedDataParallel: two processes train what one trains on the whole batch."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import data_parallel_worker as worker
from tests.helpers import every

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


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    if problem := run_both(tmp_path_factory.mktemp("parallel") / "float", "float"):
        pytest.skip(f"two processes cannot train even a float model together on this machine: {problem}")


@pytest.mark.parametrize("kind", every(2, worker.FORMATS))
def test_two_processes_train_one_model(works, tmp_path, kind):
    assert run_both(tmp_path / kind, kind) is None
    states = [torch.load(tmp_path / kind / f"state.{rank}") for rank in range(2)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    if kind == "dynamic":  # scales of groups do not ask how large the batch is: learned ones do in their gradient
        model = worker.build(kind)
        worker.train(model, slice(None))
        for name, value in model.state_dict().items():
            torch.testing.assert_close(states[0][name], value, rtol=1e-4, atol=1e-5)
