"""The page of a compiled design, from its report.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mxexport.fpga.reports.stored_report import AREA
from mxexport.reporting.charts import Box, Flow
from mxexport.reporting.page import Drawing, Facts, Finding, Findings, Page, Picture, Section, Table

_GLUE = ("mx_fifo", "mx_fork", "mx_lanes", "mx_skid")
"""Cells between units; drawn as words on the lines."""


def design_page(report: Mapping, extra: Sequence[Section] = ()) -> Page:
    """`extra`: sections behind the tables of units, such as how stages answer."""
    subtitle = f"A dataflow design for {report['part']}, by mxexport {report['version']}, of {report['model']['path']}"
    sections: list[Section] = [
        _facts(report),
        Findings("Worth knowing", _findings(report), "The design fits its part and its clock; nothing was clipped."),
        _drawing(report["cells"]),
        _layers(report),
        _units(report["cells"]),
        *([_synthesis(report["synthesis"])] if "synthesis" in report else []),
        *extra,
        _ports(report),
        _comparison(report["comparison"]),
        _provenance(report),
    ]
    return Page(report["path"], subtitle, sections)


def pareto(svg: str) -> Picture:
    return Picture("Other foldings: designs that no other beats", svg)


def _synthesis(units: Mapping[str, Mapping]) -> Table:
    """What Yosys counted, and the longest path of every unit in words, the slowest first."""
    columns = ("unit", *AREA.values(), "MHz", "longest path")
    slow = sorted(units.items(), key=lambda item: item[1]["fmax_mhz"])
    rows = [(n, *(row[key] for key in AREA), round(row["fmax_mhz"]), row["longest_path"]) for n, row in slow]
    note = "Counted in the netlist of Yosys; the clock by static timing analysis of it. Nothing was placed and routed."
    return Table("Synthesis", columns, rows, note)


def _facts(report: Mapping) -> Facts:
    pairs = {
        "frames a second": round(report["frames_per_second"]),
        "clock, MHz": report["clock_mhz"],
        "cycles a frame": report["cycles_per_frame"],
        "latency, cycles": report["latency_cycles"],
        "latency, us": report["latency_us"],
        "limited by": report["limited_by"],
    }
    used = report.get("utilization_percent") or {}
    for kind, name in AREA.items():
        value = report["estimate"].get(kind)
        pairs[f"{name}, estimate"] = (
            f"{value:,.6g}" + (f" ({used[kind]:g}%)" if kind in used else "") if value else value
        )
    return Facts("At a glance", pairs)


def _findings(report: Mapping) -> list[Finding]:
    found = []
    if report.get("limit"):
        found.append(Finding("speed", str(report["limit"])))
    for kind, share in (report.get("utilization_percent") or {}).items():
        if share > 100:
            found.append(
                Finding("area", f"{share:g}% of the {kind} of {report['part']}", "name a budget or a larger part")
            )
    if saturated := report["calibration"]["saturated_inputs"]:
        what = f"{saturated:,} calibration inputs lie beyond the input's fixed point and take its end"
        found.append(Finding("input", what, "raise margin, or calibrate with inputs of the full range"))
    for row in report["layers"]:
        if row["padding_percent"] >= 50:
            what = f"{row['padding_percent']:g}% of what its blocks hold is padding"
            found.append(Finding(row["name"], what, "narrow inputs fill no block of 32"))
    step = report.get("next_step")
    if step:
        more = ", ".join(f"{n:,.0f} {AREA.get(kind, kind)}" for kind, n in step["more"].items() if n)
        what = f"{step['layer_frames_per_second']:,.0f} frames a second for {more or 'nothing'} more"
        found.append(Finding("next step", what, "by the estimates; set target_fps to it"))
    return found


def _drawing(cells: Sequence[Mapping]) -> Drawing:
    """Units as boxes; what stands between them as words on the lines."""
    by_name = {cell["name"]: cell for cell in cells}
    boxes, index, labels = [], {}, {}
    for cell in cells:
        if cell["module"] in _GLUE:
            continue
        sources = [_behind(by_name, source) for source in cell["sources"]]
        known = [(index[name], words) for name, words in sources if name in index]
        labels |= {(source, len(boxes)): words for source, words in known if words}
        index[cell["name"]] = len(boxes)
        boxes.append(Box(_words(cell), tuple(dict.fromkeys(source for source, _ in known)), _accent(cell)))
    note = "Units in the order of the data; on the lines, the FIFOs and their depths. Blue: units with weights."
    return Drawing("The pipeline", Flow(tuple(boxes), labels), note)


def _behind(cells: Mapping[str, Mapping], name: str) -> tuple[str, str]:
    """The unit that feeds a cell through others, and the FIFOs on the way in words."""
    words, seen = [], set()
    while name in cells and cells[name]["module"] in _GLUE and cells[name]["sources"] and name not in seen:
        seen.add(name)
        if cells[name].get("depth"):
            words.append(f"FIFO {cells[name]['depth']}")
        name = cells[name]["sources"][0]
    return name, ", ".join(words)


def _words(cell: Mapping) -> tuple[str, ...]:
    area = ", ".join(f"{n:,.0f} {AREA[k]}" for k, n in cell["estimate"].items() if k in AREA and n)
    second = ", ".join(str(part) for part in (cell["module"], cell.get("folding")) if part)
    third = ", ".join(filter(None, [f"{cell['cycles']} cycles" if cell.get("cycles") else "", area]))
    return tuple(filter(None, (cell["name"], second, third)))


def _accent(cell: Mapping) -> int:
    return {"mx_matmul": 1, "mx_depthwise": 1, "mx_product": 1, "mx_quantize": 2}.get(cell["module"], 0)


def _layers(report: Mapping) -> Table:
    keys = ("name", "inputs", "outputs", "activation", "weight", "macs", "pe", "simd", "taps", "pixels", "cycles")
    columns = ("layer", "inputs", "outputs", "activation", "weight", "MACs", "PE", "SIMD", "taps", "pixels", "cycles")
    more = ("accumulator_bits", "padding_percent")
    rows = [[row.get(key) for key in (*keys, *more)] for row in report["layers"]]
    note = (
        "Folding: PE outputs and SIMD inputs at once, of so many taps and pixels. Edit folding.yaml to choose others."
    )
    return Table("Layers", (*columns, "accumulator bits", "padding %"), rows, note)


def _units(cells: Sequence[Mapping]) -> Table:
    columns = ("cell", "module", "layer", "folding", "cycles", "FIFO depth", *AREA.values())
    keys = ("name", "module", "layer", "folding", "cycles", "depth")
    rows = [[*(c.get(key) for key in keys), *(c["estimate"].get(kind, 0) for kind in AREA)] for c in cells]
    return Table("Units", columns, rows, "Area by the fitted model (docs/hardware.md); mxexport synth counts.")


def _ports(report: Mapping) -> Table:
    columns = ("port", "tensor", "values a frame", "value", "lanes", "bus bits", "beats a frame")
    rows = []
    for side, key in (("s_axis", "inputs"), ("m_axis", "outputs")):
        for i, (name, end) in enumerate(report[key].items()):
            kind = f"int{end['width']} x 2^{end['lsb_exp']}"
            rows.append((f"{side}_{i}", name, end["length"], kind, end["lanes"], end["bus_bits"], end["beats"]))
    margin = report["calibration"]["margin"]
    note = f"AXI4-Stream; every value in a slot of whole bytes. Calibrated with a margin of {margin} codes."
    return Table("Interfaces", columns, rows, note)


def _comparison(compared: Mapping) -> Table:
    rows = [(c["layer"], c["codes"], c["flipped_codes"], c["error"]) for c in compared["layers"]]
    note = (
        f"Calibrated QONNX graph against dataflow graph on {compared['frames']} frames: "
        f"{100 * compared['same_predictions']:.2f}% same predictions, {compared['flip_rate']:.2e} of all codes differ "
        "end to end, because float32 products round and the hardware's do not. Given equal input, quantizers are equal."
    )
    return Table("Against the model", ("layer", "codes", "differ", "product error / bound"), rows, note)


def _provenance(report: Mapping) -> Table:
    source = report["model"]
    rows = [("model", source["path"]), ("SHA-256", source["sha256"])]
    rows += [("calibration frames", str(report["calibration"]["frames"]))]
    return Table("Made of", ("what", "which"), [*rows, ("files", "README.md beside this page says what is where")])
