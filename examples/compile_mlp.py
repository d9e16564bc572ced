"""Train an MLP on 8x8 digits in MX int8, compile it to SystemVerilog and simulate the test set in Verilator.

    python examples/compile_mlp.py [build directory]

Needs scikit-learn for the data and `pip install 'mxexport[fpga]'`; takes about half a minute, most of it the
simulator's build.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import mxexport as mx

torch.manual_seed(0)
torch.set_num_threads(1)  # such small layers are faster without a thread pool

digits = load_digits()  # 1,797 images, 8x8, pixels 0 .. 16: 64 inputs are two groups of 32
order = torch.randperm(len(digits.target))
x, y = torch.tensor(digits.data / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]
x_train, y_train, x_test, y_test = x[:1437], y[:1437], x[1437:], y[1437:]

model = mx.quantize_model(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), "mxint8", "mxint8")
optimizer = torch.optim.Adam(model.parameters(), 5e-3)
for _ in range(20):
    for batch in torch.randperm(len(x_train)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x_train[batch]), y_train[batch]).backward()
        optimizer.step()
model.eval()

build = Path(sys.argv[1] if len(sys.argv) > 1 else "build/mlp")
build.mkdir(parents=True, exist_ok=True)
mx.export(model, (x_test[:1],), build / "mlp.onnx", input_names=["pixels"], output_names=["logits"])

# Calibration fixes each layer's range of shared scales, which makes the accumulators exact and finite.
design = mx.compile(build / "mlp.onnx", build / "fpga", calibration=x_train, margin=1)
expected = design.run_dataflow(x_test.numpy())  # what the hardware computes, as an ONNX graph
simulated = design.simulate(x_test.numpy())  # the same from the SystemVerilog
if not (simulated.raw == expected.raw).all():
    raise SystemExit("the RTL differs from its dataflow graph")


def accuracy(logits) -> str:
    return f"{100 * (torch.as_tensor(logits).argmax(1) == y_test).float().mean():.1f}%"


with torch.no_grad():
    print(f"torch     {accuracy(model(x_test))}")
print(f"dataflow  {accuracy(expected.values)}")
print(f"RTL       {accuracy(simulated.values)}, equal to the dataflow graph in all {simulated.raw.size} outputs")
print(f"{simulated.cycles / len(x_test):.1f} cycles per image; sources in {build / 'fpga' / 'rtl'}")
