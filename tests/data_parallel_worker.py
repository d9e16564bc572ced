"""One process of two that train together: `python -m tests.data_parallel_worker RANK DIRECTORY KIND`."""

from __future__ import annotations

import os
import socket
import sys

import torch
from torch import nn

import mxexport as mx
from mxexport.quant import QuantSpec, freeze_scales

FORMATS = {
    "dynamic": ("mxfp8_e4m3", "mxint8"),
    "learned": (QuantSpec("mxint8", source="learned"), QuantSpec("uint8_g8", source="learned")),
    "static": ("mxint8", QuantSpec("int8", source="static", scaling_per_output="channel")),
}
"""Kind -> formats of weights and activations; `float` has none."""


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 4))
    return model if kind == "float" else mx.quantize_model(model, *FORMATS[kind])


def train(model: nn.Module, rows: slice) -> None:
    """Three steps on the given rows of each batch."""
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        x, y = torch.randn(8, 40, generator=generator), torch.randn(8, 4, generator=generator)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    freeze_scales(model)


def main(rank: int, directory: str, kind: str) -> None:
    torch.set_num_threads(1)
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:  # the machine's own name may resolve to an address that nothing reaches
        os.environ["GLOO_SOCKET_IFNAME"] = loopback[0]
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    model = build(kind)
    train(nn.parallel.DistributedDataParallel(model), slice(rank, None, 2))
    torch.save(model.state_dict(), f"{directory}/state.{rank}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
