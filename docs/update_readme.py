"""Rewrites the generated tables of README.md: `python docs/update_readme.py`.

The format table comes from mxexport.numbers.formats, the demo table from what benchmarks/hardware.py left in build/.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mxexport.numbers.formats import MX_FORMATS, get_format

ROOT = Path(__file__).resolve().parent.parent
DEMO_STAGES = ("float", "torch", "onnxruntime", "qonnx", "dataflow", "rtl")


def format_table() -> str:
    rows = ["| name | element | group | scale | bits per element |", "|---|---|---|---|---|"]
    for name in (*MX_FORMATS, "nvfp4"):
        fmt = get_format(name)
        scale = {"e8m0": "E8M0", "nvfp4": "E4M3, and one float32 per tensor"}[fmt.scale]
        element = f"{fmt.element.name}, largest {fmt.element.max_val:g}"
        rows.append(f"| `{name}` | {element} | {fmt.group_size} | {scale} | {fmt.bits_per_element:g} |")
    return "\n".join(rows)


def demo_table(results: list[dict]) -> str:
    head = "| network | format | " + " | ".join(DEMO_STAGES) + " | cycles per image | LUT | DSP | BRAM36 |"
    rows = [head, "|---" * (len(DEMO_STAGES) + 6) + "|"]
    for result in results:
        accuracy = " | ".join(f"{result['accuracy'][stage]:.1f}" for stage in DEMO_STAGES)
        total = result["area"]["total"]
        area = f"{total['lut']:,} | {total['dsp']} | {total['bram36']:g}"
        rows.append(
            f"| {result['network']} | `{result['format']}` | {accuracy} | {result['cycles_per_image']:,.0f} | {area} |"
        )
    return "\n".join(rows)


def replace(text: str, marker: str, table: str) -> str:
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)


def main() -> None:
    readme = ROOT / "README.md"
    text = replace(readme.read_text(), "formats", format_table())
    results = [json.loads(p.read_text()) for p in sorted(ROOT.glob("build/hardware/*/demo.json"))]
    if results:
        text = replace(text, "demo-table", demo_table(results))
    readme.write_text(text)


if __name__ == "__main__":
    main()
