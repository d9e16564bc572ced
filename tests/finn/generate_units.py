"""Run in FINN's environment: HDL of every MX layer of a graph as FINN asks for it, and words as FINN packs them.

    python generate_units.py PLUGIN FOLDER MODEL OUT PART X.npy

MODEL is what the steps gave; X [N, ...] frames of its input. Writes OUT/<node>/ with the HDL, and OUT/<node>.json: the
files in order, Tcl, bits of the ports, the words of N frames that go in and that must come out (hexadecimal).
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def words(values, datatype, folded, bits, packed):
    """FINN's own packing, but where it is wrong: it goes through float32."""
    from finn.util.data_packing import npy_to_rtlsim_input

    ours = packed(values.ravel(), folded[-1], datatype.bitwidth())
    floats = values.reshape(folded).astype(np.float32)
    if np.array_equal(floats.astype(np.int64), values.reshape(folded)):
        assert ours == [int(word) for word in npy_to_rtlsim_input(floats, datatype, bits)]
    return [f"{word:x}" for word in ours]


def golden(folder, layer, values):
    """What the dataflow graph of a unit gives, in onnxruntime alone."""
    file = Path(folder) / "units" / layer.get_nodeattr("unit") / "dataflow.onnx"
    session = onnxruntime.InferenceSession(str(file))
    return session.run(None, {session.get_inputs()[0].name: values})[0]


def main() -> None:
    plugin, folder, model_file, out, part, x = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("finn_plugin", plugin)
    made = importlib.util.module_from_spec(spec)
    sys.modules["finn_plugin"] = made
    spec.loader.exec_module(made)
    made.register(folder)
    from finn.core.onnx_exec import execute_onnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.custom_op.registry import getCustomOp

    model, out = ModelWrapper(model_file), Path(out)
    out.mkdir(exist_ok=True)
    plain = ModelWrapper(model.model, make_deepcopy=True)  # FINN's own layers compute in Python, not in HLS
    for node in plain.graph.node:
        for kind in ("_hls", "_rtl"):
            node.op_type, node.domain = node.op_type.removesuffix(kind), node.domain.removesuffix(f".{kind[1:]}")
    seen = [execute_onnx(plain, {plain.graph.input[0].name: frame[None]}, True) for frame in np.load(x)]
    for node in model.graph.node:
        if node.op_type != "MxLayer_rtl":
            continue
        layer, target = getCustomOp(node), out / node.name
        target.mkdir()
        layer.set_nodeattr("code_gen_dir_ipgen", str(target))
        layer.code_generation_ipgen(model, part, 5.0)
        read = layer.get_input_datatype(), layer.get_folded_input_shape(), layer.get_instream_width()
        given = layer.get_output_datatype(), layer.get_folded_output_shape(), layer.get_outstream_width()
        fed = [context[node.input[0]].astype(np.int64) for context in seen]
        expected = [golden(folder, layer, values) for values in fed]
        for context, values in zip(seen, expected, strict=True):  # float32 where others read it
            assert np.array_equal(context[node.output[0]], values.astype(context[node.output[0]].dtype))
        sides = {
            side: [word for values in frames for word in words(values, *stream, made.finn_wrapper.packed)]
            for side, frames, stream in (("in", fed, read), ("out", expected, given))
        }
        ports = layer.get_verilog_top_module_intf_names()
        found = {"files": layer.get_rtl_file_list(abspath=True), "tcl": layer.code_generation_ipi(), "words": sides}
        found |= {"in_bits": ports["s_axis"][0][1], "out_bits": ports["m_axis"][0][1], "cycles": layer.get_exp_cycles()}
        (out / f"{node.name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
