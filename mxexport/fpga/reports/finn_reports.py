"""What a design takes under the file and key names of FINN's estimate reports, for scripts that read those."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def texts(report: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, str]:
    """Relative path -> text. `report`: report.json; `seconds`: what every stage of compile took.

    Meanings are FINN's: cycles of one frame, latency of one frame, BRAM_18K in halves of block RAMs. Keys whose meaning
    has no counterpart here (BRAM_efficiency, URAM_efficiency) are left out.
    """
    units = [cell for cell in report["cells"] if cell["cycles"] is not None]
    slowest = max(units, key=lambda cell: cell["cycles"], default=None)
    performance = {
        "critical_path_cycles": report["latency_cycles"],
        "max_cycles": report["cycles_per_frame"],
        "max_cycles_node_name": report["limited_by"] if slowest is None else slowest["name"],
        "estimated_throughput_fps": report["frames_per_second"],
        "estimated_latency_ns": 1000 * report["latency_us"],
    }
    resources = {cell["name"]: _resources(cell["estimate"]) for cell in report["cells"]}
    tables = {
        "report/estimate_layer_cycles.json": {cell["name"]: cell["cycles"] for cell in units},
        "report/estimate_layer_resources.json": resources | {"total": _resources(report["estimate"])},
        "report/estimate_network_performance.json": performance,
        "report/op_and_param_counts.json": counts(report["layers"]),
        "time_per_step.json": {stage: round(taken, 4) for stage, taken in seconds.items()},
    }
    return {path: json.dumps(table, indent=2) + "\n" for path, table in tables.items()}


def _resources(area: Mapping[str, float]) -> dict[str, float]:
    names = {"LUT": area["lut"], "DSP": area["dsp"], "URAM": area.get("uram", 0)}
    return {"BRAM_18K": 2 * area["bram36"]} | names


def counts(layers: list[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Multiplications and weights by their formats, of every layer and in total."""
    found: dict[str, dict[str, int]] = {}
    total: dict[str, int] = {}
    for row in layers:
        own = {
            f"op_mac_{row['activation']}_x_{row['weight']}": row["macs"],
            f"param_weight_{row['weight']}": row["weights"],
        }
        found[row["name"]] = own
        for key, count in own.items():
            total[key] = total.get(key, 0) + count
    return found | {"total": total}
