"""A network and metrics of test_search.py, for worker processes, which import them: nothing else stands here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import nn


class Digits(nn.Module):
    """For the 8 x 8 digits of scikit-learn."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 32, 3, 2, 1)
        self.fc1, self.fc2 = nn.Linear(128, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x)))).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


def accuracy(model: nn.Module, data) -> float:
    with torch.no_grad():
        return 100 * float((model.eval()(data[0]).argmax(1) == data[1]).double().mean())


def deadly_accuracy(model: nn.Module, data) -> float:
    """The first process that measures a network with three bits dies of it."""
    marker = os.environ.get("MXEXPORT_TEST_MARKER")
    if model.conv1.weight_quant.format.name == "mxint3" and marker and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return accuracy(model, data)


def train_on(model: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Two epochs."""
    x, y = digits
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for batch in torch.cat([torch.randperm(len(x)) for _ in range(2)]).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
