"""DistributedDataParallel: two processes train what one trains on the whole batch."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessException

import mxexport as mx

LIMIT = 120  # seconds for both processes; some sandboxes let them wait for each other for ever
LOOPBACK = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)


def _model(quantized: bool) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 4))
    return mx.quantize_model(model, "mxfp8_e4m3", "mxint8") if quantized else model


def _batches():
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(8, 40, generator=generator), torch.randn(8, 4, generator=generator)) for _ in range(3)]


def _train(model: nn.Module, rows: slice) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x, y in _batches():
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
        optimizer.step()


def _work(rank: int, directory: str, quantized: bool) -> None:
    torch.set_num_threads(1)
    if LOOPBACK:  # the machine's own name may resolve to an address that nothing reaches
        os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    store = f"file://{directory}/store"
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=LIMIT)
    )
    model = _model(quantized)
    _train(nn.parallel.DistributedDataParallel(model), slice(rank, None, 2))
    torch.save(model.state_dict(), f"{directory}/state.{rank}")
    torch.distributed.destroy_process_group()


def _run(directory: Path, quantized: bool) -> None:
    """Both processes, from start to end. Raises TimeoutError when they do not end, else what they raise."""
    directory.mkdir()
    context = torch.multiprocessing.spawn(_work, (str(directory), quantized), nprocs=2, join=False)
    deadline = time.monotonic() + LIMIT
    try:
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                raise TimeoutError(f"two processes were not done after {LIMIT} s")
    finally:
        for process in context.processes:
            process.kill()


def test_training_in_two_processes_equals_training_on_the_whole_batch(tmp_path):
    try:
        _run(tmp_path / "float", quantized=False)
    except (TimeoutError, ProcessException) as error:
        why = str(error).strip().splitlines()[-1]
        pytest.skip(f"two processes cannot train even a float model together on this machine: {why}")
    _run(tmp_path / "quantized", quantized=True)
    states = [torch.load(tmp_path / "quantized" / f"state.{rank}") for rank in range(2)]
    model = _model(quantized=True)
    _train(model, slice(None))
    for name, value in model.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], value, rtol=1e-4, atol=1e-5)
