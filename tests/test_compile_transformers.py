"""Transformers in hardware: every layer is what the QONNX graph says, and every word of the RTL what the dataflow graph
says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import UnsupportedError
from tests.helpers import FULL, every
from tests.random_transformers import drawn
from tests.transformer_networks import NETWORKS, Block, Eager, Sequence

SIMULATED = list(NETWORKS) if FULL else ["padded", "decoder", "hidden"]


def compiled(network: nn.Module, inputs: dict[str, torch.Tensor], formats: tuple[str, str], folder, **options):
    """(design, quantized network)."""
    quantized = mx.quantize_model(network.eval(), *formats, attention=True).eval()
    few = tuple(x[:2] for x in inputs.values())
    mx.export(quantized, few, folder / "model.onnx", input_names=list(inputs))
    mx.clean(folder / "model.onnx", folder / "clean.onnx")
    given = {name: x.numpy() for name, x in inputs.items()}
    return mx.compile(folder / "clean.onnx", folder / "fpga", calibration=given, **options), quantized


@pytest.mark.parametrize("name", dict.fromkeys([*SIMULATED, *every(3, NETWORKS)]))
def test_hardware_computes_what_torch_does(name, tmp_path):
    assert_computes_what_torch_does(*NETWORKS[name], tmp_path, 10**-2.5, name in SIMULATED)


def assert_computes_what_torch_does(make, inputs, formats, folder, most: float, simulated: bool):
    """`most`: noise over signal, as codes turn where values lie on the border of two."""
    torch.manual_seed(0)
    network, given = make(), inputs()
    design, quantized = compiled(network, given, formats, folder)
    arrays = {key: x.numpy() for key, x in given.items()}
    found = design.run_dataflow(arrays).values
    with torch.no_grad():
        wanted = quantized(*given.values()).numpy()
    noise = float(((found - wanted) ** 2).sum() / (wanted**2).sum())
    assert found.shape == wanted.shape and noise < most, noise
    design.compare_stages({key: x[8:] for key, x in arrays.items()})
    if simulated:
        two = {key: x[:2] for key, x in arrays.items()}
        run = design.simulate(two, stall_in=0.2, stall_out=0.3)
        assert (run.raw == design.run_dataflow(two).raw).all()


@pytest.mark.parametrize("seed", range(40) if FULL else (1,))
def test_random_transformers(seed, tmp_path):
    """What compile compares layer by layer, on other frames as well; of some the RTL, too."""
    network, inputs, formats = drawn(seed)
    design, _ = compiled(network, inputs, formats, tmp_path)
    arrays = {key: x.numpy() for key, x in inputs.items()}
    others = {key: x if key == "kept" else 0.7 * x[:, ::-1] for key, x in arrays.items()}
    design.compare_stages(others)
    if FULL and seed % 4 == 0:
        two = {key: x[:2] for key, x in others.items()}
        assert (design.simulate(two, stall_in=0.3, stall_out=0.3).raw == design.run_dataflow(two).raw).all()


def test_several_foldings_give_the_same_words(tmp_path):
    torch.manual_seed(1)
    inputs = {"x": torch.randn(8, 12, 8)}
    fast, _ = compiled(Sequence(Block(Eager(32, 2), 32), 32), inputs, ("mxint8", "mxint8"), tmp_path)
    x = inputs["x"].numpy()
    slow = mx.compile(tmp_path / "clean.onnx", tmp_path / "slow", calibration=x, target_fps=5e4, clock_mhz=200)
    assert slow.report["cycles_per_frame"] > 2 * fast.report["cycles_per_frame"]
    assert (slow.simulate(x[:3]).raw == fast.run_dataflow(x[:3]).raw).all()


def test_weights_of_attention_have_ranges_by_design(tmp_path):
    """From the code of 1 down by log2(T) + 2 codes."""
    from mxexport.fpga.units import Product

    torch.manual_seed(2)
    design, _ = compiled(Sequence(Block(Eager(32, 2), 32), 32), {"x": torch.randn(8, 12, 8)}, ("mxint8",) * 2, tmp_path)
    products = [i.unit for i in design.network.instances if isinstance(i.unit, Product)]
    assert (products[1].a.code_max, products[1].a.code_min) == (127, 127 - 6)


class Windows(nn.Module):
    """Attention inside of windows, which stand in the batch (Swin)."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        y = self.one(x).reshape(-1, 6, 16)
        return self.two((torch.softmax(y @ y.transpose(-1, -2), -1) @ y).reshape(-1, 12, 16))


def test_windows_in_the_batch_are_refused_by_name(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(UnsupportedError, match=r"batch·2 x 6 x 16: parts of a frame \(windows\) stand in the batch"):
        compiled(Windows(), {"x": torch.randn(4, 12, 8)}, ("mxint8", "mxint8"), tmp_path)


def test_a_token_stream_is_put_out_as_it_comes(tmp_path):
    torch.manual_seed(3)
    x = torch.randn(8, 6, 8)
    design, quantized = compiled(
        nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 5)), {"x": x}, ("mxint8",) * 2, tmp_path
    )
    found = design.run_dataflow(x.numpy())
    assert found.values.shape == (8, 6, 5) and design.network.source.shape == (6, 8)
    np.testing.assert_allclose(found.values, quantized(x).detach().numpy(), atol=0.05)
