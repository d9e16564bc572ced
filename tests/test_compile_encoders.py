"""Encoders as libraries write them, in hardware: masks in every form, one key and value for all heads, positions that a
model makes for the size of its batch."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import mxexport as mx
from mxexport.errors import ShapeError
from tests.helpers import FULL
from tests.test_compile_transformers import compiled

TOKENS = 9


def check(network: nn.Module, inputs: dict[str, Tensor], folder, formats=("mxint8", "mxint8"), simulate=False):
    """The compiled network, after its results were compared with torch's (and, where asked for, its RTL's)."""
    design, quantized = compiled(network, inputs, formats, folder)
    given = {name: x.numpy() for name, x in inputs.items()}
    with torch.no_grad():
        wanted = quantized(*inputs.values()).numpy()
    found = design.run_dataflow(given).values
    noise = float(((found - wanted) ** 2).sum() / (wanted**2).sum())
    assert found.shape == wanted.shape and noise < 10**-2.5, noise  # codes turn where values lie on the border of two
    if simulate or FULL:
        two = {name: x[:2] for name, x in given.items()}
        assert (design.simulate(two, stall_in=0.2, stall_out=0.3).raw == design.run_dataflow(two).raw).all()
    return design


class Shared(nn.Module):
    """Embeddings, positions for every frame of the batch, one key and value for four heads; `way`: what becomes of the
    mask. One that scaled_dot_product_attention gets has a bias beside it (T5, ALiBi)."""

    def __init__(self, way: str, width: int = 32):
        super().__init__()
        self.words, self.places = nn.Embedding(20, width), nn.Embedding(TOKENS, width)
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, width // 2), nn.Linear(width, 4)
        self.way, self.bias = way, nn.Parameter(torch.randn(4, TOKENS, TOKENS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(TOKENS).expand(ids.shape[0], -1)
        x = self.words(ids) + self.places(places)
        q = self.q(x).unflatten(-1, (4, -1)).transpose(1, 2)
        k, v = (y[:, None] for y in self.kv(x).chunk(2, -1))
        if self.way == "sdpa":
            y = functional.scaled_dot_product_attention(q, k, v, mask[:, None, None] + self.bias, enable_gqa=True)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) * 8**-0.5 + mask, -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def masked(lowest: float, shape: tuple[int, ...]) -> dict[str, Tensor]:
    kept = torch.arange(TOKENS) < torch.randint(3, TOKENS, (16, 1))
    return {"ids": torch.randint(0, 20, (16, TOKENS)), "mask": torch.where(kept, 0.0, lowest).reshape(16, *shape)}


MASKS = {
    "infinite": ("sdpa", float("-inf"), (TOKENS,)),
    "lowest": ("added", torch.finfo(torch.float32).min, (1, 1, TOKENS)),
    "low": ("added", -1e9, (1, 1, TOKENS)),
}


@pytest.mark.parametrize("name", MASKS if FULL else ["infinite"])
def test_masks_of_floats(name, tmp_path):
    way, lowest, shape = MASKS[name]
    torch.manual_seed(0)
    inputs = masked(lowest, shape)
    design = check(Shared(way), inputs, tmp_path)
    given = {key: x.numpy() for key, x in inputs.items()}
    deeper = given | {"mask": np.where(given["mask"] < 0, np.float32(-2e5), 0)}  # all that hides is alike
    assert (design.run_dataflow(deeper).raw == design.run_dataflow(given).raw).all()
    assert design.report["calibration"]["saturated_inputs"] == 0
    with pytest.raises(ShapeError, match="NaN or Inf"):
        design.run_dataflow(given | {"mask": -given["mask"]})


class Sentence(nn.Module):
    """Positions that are counted from padding (RoBERTa), cosines as scores, the mean of what a mask leaves, of length
    one."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.words, self.places = nn.Embedding(20, width), nn.Embedding(TOKENS + 2, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        kept = ids.ne(1).int()
        x = self.words(ids) + self.places((torch.cumsum(kept, 1) * kept).long() + 1)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-1, -2)
        kept = mask[:, None, None].gt(0) & torch.ones(TOKENS, 1, dtype=torch.bool)
        hidden = torch.where(kept, 0.0, torch.finfo(torch.float32).min)
        x = x + self.out((torch.softmax(8 * scores + hidden, -1) @ v).transpose(1, 2).flatten(2))
        each = mask[..., None].expand(x.shape).float()
        return functional.normalize((x * each).sum(1) / each.sum(1).clamp(min=1e-9), dim=1)


def test_sentences(tmp_path):
    torch.manual_seed(0)
    mask = (torch.arange(TOKENS) < torch.randint(3, TOKENS, (16, 1))).long()
    ids = torch.where(mask > 0, torch.randint(2, 20, (16, TOKENS)), 1)
    check(Sentence(), {"ids": ids, "mask": mask}, tmp_path)


class Pools(nn.Module):
    """Tokens by their weights, their largest values and their sum; what a frame says of all of its tokens; a softmax
    over tokens inside of heads."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.embed, self.weight, self.gate = nn.Linear(8, width), nn.Linear(width, 1), nn.Linear(width, width)
        self.key, self.out = nn.Linear(width, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        heads = torch.softmax(self.key(x).unflatten(-1, (2, -1)).transpose(1, 2), 2).transpose(1, 2).flatten(2)
        x = x * torch.sigmoid(self.gate(x.sum(1)))[:, None] + functional.logsigmoid(self.key(heads))
        return self.out((torch.softmax(self.weight(x), 1) * x).sum(1) + x.amax(1))


def test_pools(tmp_path):
    torch.manual_seed(0)
    check(Pools(), {"x": torch.randn(16, TOKENS, 8)}, tmp_path)


def test_positions_of_a_batch_are_constants(tmp_path):
    """What the size of the batch determines is the same for every frame; what differs among frames is left alone."""
    from mxexport.fpga.lowering.settled import settle
    from mxexport.model import graph

    torch.manual_seed(0)
    inputs = masked(0.0, (TOKENS,))
    network = mx.quantize_model(Shared("sdpa").eval(), "mxint8", "mxint8", attention=True).eval()
    mx.export(network, tuple(x[:2] for x in inputs.values()), tmp_path / "m.onnx", input_names=list(inputs))
    mx.clean(tmp_path / "m.onnx", tmp_path / "clean.onnx")
    before = graph.load(tmp_path / "clean.onnx")
    model = before.clone()
    assert settle(model) and not settle(model)
    gathers = [[n.op_type for n in m.graph].count("Gather") for m in (before, model)]
    assert gathers[1] == gathers[0] - 1
    given = {name: x.numpy()[:3] for name, x in inputs.items()}
    (wanted,), (found,) = (mx.run(m, given).values() for m in (before, model))
    assert (wanted == found).all()
    onnx.checker.check_model(graph.to_proto(model))


def test_frames_that_differ_stay():
    """x + Range(batch): another number for every frame."""
    from onnx import TensorProto, helper

    from mxexport.fpga.lowering.settled import settle

    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Squeeze", ["size"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["each"]),
        helper.make_node("Cast", ["each"], ["floats"], to=1),
        helper.make_node("Unsqueeze", ["floats", "last"], ["column"]),
        helper.make_node("Add", ["x", "column"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    constants = {"zero": np.array(0), "one": np.array(1), "last": np.array([1])}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    proto = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors), ir_version=10)
    proto.opset_import[0].version = 18
    assert not settle(onnx_ir.from_proto(proto))
