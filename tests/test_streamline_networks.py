"""Networks shaped like ResNet, MobileNetV2 and BERT, exported, folded and streamlined: what is left, operator by
operator, and that the exact passes keep every bit of the output.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.model import graph
from mxexport.model.rewriting import constant
from mxexport.passes.fold.contract_scales import contract_scales
from mxexport.passes.fold.fold_reshapes import fold_reshapes
from mxexport.passes.fold.fold_transposes import fold_transposes
from mxexport.passes.fold.merge_quantizers import merge_quantizers
from mxexport.passes.fold.merge_residual_quantizers import merge_residual_quantizers
from mxexport.passes.fold.remove_requantization import remove_requantization
from mxexport.passes.streamline.absorb_affines import absorb_affines
from mxexport.passes.streamline.absorb_scales import absorb_scales
from mxexport.passes.streamline.merge_affines import merge_affines
from mxexport.passes.streamline.move_scales import move_scales
from mxexport.passes.streamline.normalize_affines import normalize_affines
from tests.pass_helpers import infer, outputs_of, same_bits

FOLD = [
    merge_quantizers, contract_scales, fold_transposes, fold_reshapes, merge_residual_quantizers, remove_requantization,
]  # fmt: skip
STREAMLINE = [normalize_affines, move_scales, absorb_scales, merge_affines, absorb_affines]


def block(i, o, k, act=nn.ReLU, bias=False, **options):
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, bias=bias, **options), nn.BatchNorm2d(o), act())


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.pool = block(3, 16, 3, bias=True), nn.MaxPool2d(2)
        self.conv1, self.conv2 = block(16, 16, 3), block(16, 16, 3, nn.Identity)
        self.down, self.conv3 = block(16, 40, 1, nn.Identity, stride=2), block(16, 40, 3, nn.Identity, stride=2)
        self.relu, self.fc = nn.ReLU(), nn.Linear(40, 10)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = self.relu(x + self.conv2(self.conv1(x)))
        x = self.relu(self.down(x) + self.conv3(x))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.expand = block(3, 8, 3, nn.ReLU6, stride=2), block(8, 48, 1, nn.ReLU6)
        self.depthwise, self.project = block(48, 48, 3, nn.ReLU6, groups=48), block(48, 8, 1, nn.Identity)
        self.head, self.fc = block(8, 40, 1, nn.ReLU6), nn.Linear(40, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.fc(self.head(x).mean([2, 3]))


class Bert(nn.Module):
    def __init__(self, d=64, heads=4, words=50):
        super().__init__()
        self.heads, self.embed = heads, nn.Embedding(words, d)
        self.position, self.norm = nn.Embedding(12, d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.out = (nn.Linear(d, d) for _ in range(4))
        self.scores, self.context = mx.QuantMatMul("mxfp8_e4m3"), mx.QuantMatMul("mxfp8_e4m3")
        self.norm1, self.fc1, self.gelu = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU()
        self.fc2, self.norm2, self.head = nn.Linear(2 * d, d), nn.LayerNorm(d), nn.Linear(d, 3)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, tokens):
        x = self.norm(self.embed(tokens) + self.position(torch.arange(12)))
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        attention = torch.softmax(self.scores(q, k.transpose(-1, -2)) / 4, -1)
        x = self.norm1(x + self.out(self.context(attention, v).transpose(1, 2).flatten(2)))
        x = self.norm2(x + self.fc2(self.gelu(self.fc1(x))))
        return self.head(x[:, 0])


def cleaned(model: ir.Model) -> ir.Model:
    """What the cleaning passes leave: batch norm as Mul and Add, Gemm as MatMul and Add, bias outside Conv."""
    g = model.graph

    def const(name, array):
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT),
                         const_value=ir.tensor(np.ascontiguousarray(array)))  # fmt: skip
        g.register_initializer(value)
        return value

    def instead(node, *steps):
        x = node.inputs[0]
        for i, (op_type, operand, attributes) in enumerate(steps):
            made = ir.node(op_type, [x, operand], attributes, name=f"{node.name}.{op_type.lower()}{i}")
            made.outputs[0].name, made.outputs[0].type = made.name, node.outputs[0].type
            g.insert_before(node, made)
            x = made.outputs[0]
        node.outputs[0].replace_all_uses_with(x, replace_graph_outputs=True)
        g.remove(node, safe=True)

    for node in list(g):
        arrays = [constant(v) for v in node.inputs]
        if node.op_type == "BatchNormalization":
            scale = arrays[1] / np.sqrt(arrays[4] + np.float32(node.attributes["epsilon"].value))
            shift, shape = arrays[2] - arrays[3] * scale, (1, -1, 1, 1)
            instead(node, ("Mul", const(f"{node.name}.s", scale.reshape(shape)), {}),
                    ("Add", const(f"{node.name}.b", shift.reshape(shape)), {}))  # fmt: skip
        elif node.op_type == "Gemm":
            transposed = ir.node("Transpose", [node.inputs[1]], {"perm": [1, 0]}, name=f"{node.name}.t")
            transposed.outputs[0].name = transposed.name
            g.insert_before(node, transposed)
            instead(node, ("MatMul", transposed.outputs[0], {}), ("Add", node.inputs[2], {}))
        elif node.op_type == "Conv" and len(arrays) > 2:
            bias = const(f"{node.name}.shift", arrays[2].reshape(1, -1, 1, 1))
            instead(node, ("Conv", node.inputs[1], dict(node.attributes)), ("Add", bias, {}))
    return infer(model)


def streamlined(network: nn.Module, example: torch.Tensor, path) -> tuple[ir.Model, list[str]]:
    """The model after all passes, at a fixed point, and the passes that rounded; all others kept every bit."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.uniform_(0.5, 2)
    qmodel = mx.quantize_model(network.eval(), weight="mxfp4_e2m1", activation="mxfp8_e4m3")
    mx.export(qmodel, (example,), path)
    model = cleaned(graph.load(path))
    inputs = {model.graph.inputs[0].name: example.numpy()}
    rounded, before, again = [], outputs_of(model, inputs), True
    while again:
        again = False
        for function in FOLD + STREAMLINE:
            if not function(model).changed:
                continue
            again, after = True, outputs_of(model, inputs)
            if function in (merge_affines, absorb_affines):
                rounded.append(function.__name__)
            else:
                same_bits(before, after)
            before = after
    return model, rounded


IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
QUANTIZED = {"MXScale", "MXFloatQuant"}
LEFT = {
    "ResNet": (ResNet, IMAGE, ["merge_affines"],
               {"Conv": 5, "Mul": 5, "Add": 8, "Relu": 4, "MaxPool": 1, "ReduceMean": 1, "Reshape": 1, "MatMul": 1}),
    "MobileNet": (MobileNet, IMAGE, [],
                  {"Conv": 5, "Mul": 5, "Add": 7, "Clip": 4, "ReduceMean": 1, "MatMul": 1}),
    "Bert": (Bert, torch.arange(24).reshape(2, 12), [],
             {"Gather": 3, "Add": 10, "LayerNormalization": 3, "MatMul": 9, "Reshape": 4, "Transpose": 4, "Mul": 1,
              "Softmax": 1, "Gelu": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left(name, tmp_path):
    network, example, rounded, expected = LEFT[name]
    model, found = streamlined(network(), example, tmp_path / "model.onnx")
    kinds = Counter(node.op_type for node in model.graph)
    assert {k: n for k, n in kinds.items() if k not in QUANTIZED} == expected
    assert found == rounded
    for node in model.graph:
        if node.op_type in ("MatMul", "Conv"):
            assert all(graph.is_ours(v.producer(), graph.QUANTIZERS) for v in node.inputs[:2]), node.name
        if node.op_type == "Mul":  # the one affine behind a product
            assert node.inputs[0].producer().op_type in ("MatMul", "Conv"), node.name
