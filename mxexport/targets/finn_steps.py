"""Builder steps for FINN+ that keep the values of files written by `mxexport convert --to finn`, and residual networks.

FINN's default steps round ties half up where QONNX rounds them to even, and cannot streamline a network whose branches
join again. `build_steps()` gives the list of steps with two of them replaced. This file needs FINN, qonnx and numpy
only: it is imported in FINN's environment (torch and the rest of mxexport are not), or run there:

    python finn_steps.py model.onnx build/ [--part xczu3eg-sbva484-1-e] [--fps 2000] [--check inputs.npz]

which goes as far as the estimate reports and prints one JSON object. `--check` executes the model after every step on
the arrays `x` and `y` of a .npz file and counts the values of `y` that differ; "largest" is the largest difference in
parts of the largest value.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

DEFAULT_PART, DEFAULT_CLOCK_NS = "xczu3eg-sbva484-1-e", 5.0
LAST_MODEL = "estimated.onnx"
_AFTER_PARTITION = "step_create_dataflow_partition"


def build_steps() -> list:
    """FINN's estimate-only steps, as `DataflowBuildConfig(steps=...)` takes them, with the two of this file."""
    from finn.builder.build_dataflow_config import estimate_only_dataflow_steps

    own = {"step_qonnx_to_finn": step_qonnx_to_finn_exact, "step_streamline": step_streamline_residual}
    return [own.get(name, name) for name in estimate_only_dataflow_steps]


# --- thresholds that round as QONNX does ------------------------------------------------------------------------


def step_qonnx_to_finn_exact(model, cfg):
    """FINN's `step_qonnx_to_finn`; then every threshold is the least float32 number that QONNX gives the next code.

    FINN puts thresholds in the middle of two codes, and a number on one gets the upper code. QONNX rounds ties to even:
    where the lower code is even, the number in the middle is still its.
    """
    from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
    from finn.transformation.qonnx.quant_act_to_multithreshold import default_filter_function_generator
    from qonnx.util.cleanup import cleanup_model

    model = cleanup_model(model)
    quantizers = {n.output[0]: _read_quantizer(model, n) for n in model.get_nodes_by_op_type("Quant")}
    chosen = default_filter_function_generator(max_multithreshold_bit_width=cfg.max_multithreshold_bit_width)
    model = model.transform(ConvertQONNXtoFINN(filter_function=chosen))
    for output, (scale, lowest) in quantizers.items():
        node = _threshold_node(model, output)
        if node is not None:
            thresholds = model.get_initializer(node.input[1])
            model.set_initializer(node.input[1], exact_thresholds(thresholds, scale, lowest))
    return model


def _read_quantizer(model, node) -> tuple[np.ndarray, int]:
    """The scale [channels or 1] and the lowest code of a Quant node."""
    from qonnx.custom_op.registry import getCustomOp

    made, bits = getCustomOp(node), int(model.get_initializer(node.input[3]))
    lowest = made.get_nodeattr("narrow") - 2 ** (bits - 1) if made.get_nodeattr("signed") else 0
    scale = model.get_initializer(node.input[1])
    return np.asarray(scale, np.float32).reshape(-1), int(lowest)


def _threshold_node(model, output: str):
    """The MultiThreshold that a Quant with this output became; Add and Mul stand between the two."""
    node = model.find_producer(output)
    while node is not None and node.op_type in ("Add", "Mul"):
        node = model.find_producer(node.input[0])
    return node if node is not None and node.op_type == "MultiThreshold" else None


def exact_thresholds(thresholds: np.ndarray, scale: np.ndarray, lowest: int) -> np.ndarray:
    """The least float32 x with rint(x / scale) >= lowest + 1 + i for threshold i, as QONNX's Quant computes it.

    Args:
        thresholds: [channels or 1, n], FINN's, within a few units in the last place.
        scale: [channels or 1], positive.
        lowest: the least code.
    """
    found = np.asarray(thresholds, np.float32)
    codes = np.float32(lowest + 1) + np.arange(found.shape[1], dtype=np.float32)
    steps = np.asarray(scale, np.float32).reshape(-1, 1)

    def reached(x):
        return np.rint(x / steps) >= codes

    up, down = np.float32(np.inf), np.float32(-np.inf)
    while not (enough := reached(found)).all():
        found = np.where(enough, found, np.nextafter(found, up))
    while (enough := reached(before := np.nextafter(found, down))).any():
        found = np.where(enough, before, found)
    return found


# --- branches that join again -----------------------------------------------------------------------------------


def step_streamline_residual(model, cfg):
    """FINN's `step_streamline` where no branches join; else scales and transposes move past forks and joins, too."""
    from finn.builder.build_dataflow_steps import step_streamline
    from finn.transformation.streamline import Streamline, absorb, reorder
    from qonnx.transformation.general import RemoveUnusedTensors
    from qonnx.transformation.infer_data_layouts import InferDataLayouts
    from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul

    if not _joins(model):
        return step_streamline(model, cfg)
    steps = (
        Streamline(),
        reorder.MoveLinearPastFork(),
        reorder.MoveScalarLinearPastInvariants(),
        reorder.MoveLinearPastEltwiseAdd(),
        Streamline(),
        LowerConvsToMatMul(),
        reorder.MakeMaxPoolNHWC(),
        absorb.AbsorbTransposeIntoMultiThreshold(),
        reorder.MoveTransposePastFork(),
        reorder.MoveTransposePastJoinAdd(),
        reorder.MakeMaxPoolNHWC(),
        absorb.AbsorbTransposeIntoMultiThreshold(),
        absorb.AbsorbConsecutiveTransposes(),
        Streamline(),
        absorb.AbsorbScalarMulAddIntoTopK(),
        InferDataLayouts(),
        RemoveUnusedTensors(),
    )
    for step in steps:
        model = model.transform(step)
    return model


def _joins(model) -> bool:
    """Whether an Add has two inputs that are computed."""
    return any(
        all(model.get_initializer(name) is None for name in node.input) for node in model.get_nodes_by_op_type("Add")
    )


# --- all steps, watched -----------------------------------------------------------------------------------------


def run_steps(path: str, out: str, part: str, fps: int, arrays: dict | None = None) -> dict:
    """Run the steps on the file `path` into the directory `out`.

    Returns `steps` (name -> differences, None without `arrays`), `outside` (operators that are not in the partition),
    `units` (name -> operator, weight and accumulator type), `resources` and `performance` as FINN
    estimates them; `error` where a step failed. The last model is kept as LAST_MODEL.
    """
    builder, config = _import_builder()
    from qonnx.core.modelwrapper import ModelWrapper

    cfg = config.DataflowBuildConfig(
        output_dir=out,
        synth_clk_period_ns=DEFAULT_CLOCK_NS,
        fpga_part=part,
        target_fps=fps,
        standalone_thresholds=True,
        generate_outputs=[config.DataflowOutputType.ESTIMATE_REPORTS],
        steps=build_steps(),
    )
    model, found, parent = ModelWrapper(path), {"steps": {}, "outside": [], "units": {}}, None
    for step in build_steps():
        name = step if isinstance(step, str) else step.__name__
        try:
            model = (builder.build_dataflow_step_lookup[step] if isinstance(step, str) else step)(model, cfg)
            if name == _AFTER_PARTITION:
                parent = ModelWrapper(str(Path(out) / "intermediate_models" / "dataflow_parent.onnx"))
                found["outside"] = [n.op_type for n in parent.graph.node if n.op_type != "StreamingDataflowPartition"]
            found["steps"][name] = None if arrays is None else _differences(model, parent, arrays)
        except Exception as error:  # FINN raises assertions, its own types and whatever numpy does
            reason = (str(error).strip().splitlines() or [""])[0]
            return found | {"error": f"{name}: {type(error).__name__}: {reason}"}
    found["units"] = {node.name: _describe(node) for node in model.graph.node}
    model.save(str(Path(out) / LAST_MODEL))
    reports = Path(out) / "report"
    found["resources"] = json.loads((reports / "estimate_layer_resources.json").read_text())["total"]
    found["performance"] = json.loads((reports / "estimate_network_performance.json").read_text())
    return found


def _import_builder():
    """FINN's builder. Without Vivado its simulator cannot be imported; no step here asks for it."""
    import finn.xsi

    for name in finn.xsi._LAZY_NAMES:
        setattr(finn.xsi, name, None)
    import finn.builder.build_dataflow_config as config
    import finn.builder.build_dataflow_steps as builder

    return builder, config


def _describe(node) -> dict:
    attributes = {a.name: a for a in node.attribute}
    wanted = {"weights": "weightDataType", "accumulator": "accDataType"}
    types = {key: attributes[name].s.decode() for key, name in wanted.items() if name in attributes}
    return {"operator": node.op_type} | types


def _differences(model, parent, arrays: dict) -> dict:
    """How `y` differs from what the model computes of `x`, sample by sample."""
    with tempfile.TemporaryDirectory() as folder:
        whole = model if parent is None else _put_together(model, parent, Path(folder))
        found = np.stack([_execute(whole, x[None]).reshape(-1) for x in arrays["x"]])
    expected = arrays["y"].reshape(found.shape)
    largest = float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    return {"differing": int((found != expected).sum()), "values": found.size, "largest": largest}


def _execute(model, x: np.ndarray) -> np.ndarray:
    from finn.core.onnx_exec import execute_onnx

    ins, outs = model.graph.input[0].name, model.graph.output[0].name
    return execute_onnx(model, {ins: x.astype(np.float32)})[outs]


def _put_together(model, parent, folder: Path):
    """The parent graph with `model` in its partition; units by what they compute, their RTL is not simulated."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.custom_op.registry import getCustomOp

    child = ModelWrapper(model.model, make_deepcopy=True)
    for node in child.graph.node:
        for kind in ("_hls", "_rtl"):
            node.op_type = node.op_type.removesuffix(kind)
            node.domain = node.domain.removesuffix(kind.replace("_", "."))
    child.save(str(folder / "child.onnx"))
    whole = ModelWrapper(parent.model, make_deepcopy=True)
    getCustomOp(whole.get_nodes_by_op_type("StreamingDataflowPartition")[0]).set_nodeattr(
        "model", str(folder / "child.onnx")
    )
    return whole


def main() -> int:
    """The command; exit code 1 where a step failed or values differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--part", default=DEFAULT_PART)
    parser.add_argument("--fps", type=int, default=2000)
    parser.add_argument("--check", help="a .npz file with x [N, ...] and y [N, ...]")
    given = parser.parse_args()
    arrays = None if given.check is None else dict(np.load(given.check))
    found = run_steps(given.model, given.out, given.part, given.fps, arrays)
    print(json.dumps(found))
    return exit_code(found)


def exit_code(found: dict) -> int:
    """1 where a step failed or values differ, else 0."""
    return int("error" in found or any(step and step["differing"] for step in found["steps"].values()))


if __name__ == "__main__":
    here = Path(__file__).resolve().parent  # a script's own directory comes first, and here it has a finn.py
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    sys.exit(main())
