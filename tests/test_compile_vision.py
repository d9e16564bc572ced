"""What other vision encoders are made of, in hardware: every layer is what the QONNX graph says, and every word of the
RTL what the dataflow graph says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mxexport.errors import UnsupportedError
from tests.helpers import FULL
from tests.test_compile_transformers import assert_computes_what_torch_does, compiled
from tests.vision_networks import NETWORKS


@pytest.mark.parametrize("name", NETWORKS if FULL else ["learned query", "interleaved", "flattened"])
def test_hardware_computes_what_torch_does(name, tmp_path):
    assert_computes_what_torch_does(*NETWORKS[name], tmp_path, 10**-3, FULL)


class Strided(nn.Module):
    """Entries of an axis, some left out."""

    def __init__(self, axis: int, kept: slice):
        super().__init__()
        self.one, self.kept = nn.Linear(8, 16), [slice(None)] * axis + [kept]
        self.two = nn.Linear(16 if axis < 2 else len(range(*kept.indices(16))), 4)

    def forward(self, x):
        return self.two(self.one(x)[tuple(self.kept)])


STRIDES = [(1, slice(1, None, 3)), (2, slice(3, None, 2)), (1, slice(2, 9, 4)), (2, slice(1, 14, 4))]


@pytest.mark.parametrize("axis, kept", STRIDES if FULL else STRIDES[:2])
def test_every_so_manieth_entry(axis, kept, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(8, 10, 8)
    design, quantized = compiled(Strided(axis, kept), {"x": x}, ("mxint8",) * 2, tmp_path)
    found = design.run_dataflow(x.numpy()).values
    np.testing.assert_allclose(found, quantized(x).detach().numpy(), atol=1e-5)


def test_channels_that_hold_no_whole_parts_are_refused(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(
        UnsupportedError, match="4 entries from 0 on, 5 apart, of the 16 of axis 2.*whole number of parts"
    ):
        compiled(Strided(2, slice(None, None, 5)), {"x": torch.randn(8, 10, 8)}, ("mxint8",) * 2, tmp_path)


def test_groups_that_cut_blocks_with_two_scales_are_refused(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 96, 1), nn.ReLU(), nn.Conv2d(96, 96, 1, groups=2), nn.ReLU())
    with pytest.raises(UnsupportedError, match="2 groups of 48 channels cut blocks of 32.*a multiple of 32"):
        compiled(network, {"x": torch.randn(4, 3, 4, 4)}, ("mxint8",) * 2, tmp_path)


def test_norms_of_several_groups_are_refused(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 1), nn.GroupNorm(4, 32), nn.Conv2d(32, 8, 1))
    with pytest.raises(UnsupportedError, match="it normalizes 4 groups, each over its channels and places"):
        compiled(network, {"x": torch.randn(4, 3, 4, 4)}, ("mxint8",) * 2, tmp_path)


class Sums(nn.Module):
    """A sum of numbers and others far below them, and its mean: more bits than 63, if they were exact."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head((self.one(x) + self.two(x) * 2.0**-36).mean(1))


def test_sums_and_means_of_too_many_bits_are_rounded(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(8, 33, 8)
    design, quantized = compiled(Sums(), {"x": x}, ("mxint8",) * 2, tmp_path)
    rounded = [i for i in design.network.instances if ".round" in i.name or "round" in i.result]
    assert len(rounded) == 2, [i.name for i in design.network.instances]
    np.testing.assert_allclose(design.run_dataflow(x.numpy()).values, quantized(x).detach().numpy(), atol=1e-5)
