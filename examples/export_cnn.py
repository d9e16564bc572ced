"""Train a small CNN on 8x8 digits with MX weights and activations, export it to QONNX, run it in onnxruntime.

    python examples/export_cnn.py [directory for cnn.onnx]

Needs scikit-learn for the data; takes about ten seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import nn

import mxexport as mx

torch.manual_seed(0)
torch.set_num_threads(1)  # such small layers are faster without a thread pool

digits = load_digits()  # 1,797 images, 8x8, pixels 0 .. 16
order = torch.randperm(len(digits.target))
x = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)[order]
y = torch.tensor(digits.target)[order]
x_train, y_train, x_test, y_test = x[:1437], y[:1437], x[1437:], y[1437:]


def train(model: nn.Module, epochs: int, rate: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(x_train)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x_train[batch]), y_train[batch]).backward()
            optimizer.step()


def accuracy(logits: torch.Tensor) -> str:
    return f"{100 * (logits.argmax(1) == y_test).float().mean():.1f}%"


# Groups of a convolution run along its input channels, one set for each kernel tap: 64 channels are two groups.
model = nn.Sequential(
    nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(128, 10),
)  # fmt: skip
train(model, epochs=8, rate=2e-3)

# The first layer has one input channel, 31 of 32 places in its groups would be padding: it stays in float.
qmodel = mx.quantize_model(model, weight="mxfp4_e2m1", activation="mxfp6_e2m3", exclude=["0"])
train(qmodel, epochs=2, rate=5e-4)
qmodel.eval()

path = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "cnn.onnx"
report = mx.export(qmodel, (x_test[:1],), path, input_names=["image"], output_names=["logits"])
print(f"{'quantizer':<18}{'format':<12}{'values':<20}{'scales (contracted)':<22}SQNR of the weights")
for layer in report.layers:
    sqnr = "" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB"
    print(f"{layer.name:<18}{layer.format:<12}{layer.shape!s:<20}{layer.scale_shape!s:<22}{sqnr}")

session = onnxruntime.InferenceSession(path)  # plain onnxruntime: the operators' meaning is inside the file
(logits,) = session.run(["logits"], {"image": x_test.numpy()})
with torch.no_grad():
    print(f"float        {accuracy(model(x_test))}")
    print(f"quantized    {accuracy(qmodel(x_test))}")
print(f"onnxruntime  {accuracy(torch.from_numpy(logits))}   {path}")
