"""Run in FINN's environment: HDL of every MX layer of a graph as FINN asks for it, and words as FINN packs them.

    python generate_units.py PLUGIN FOLDER MODEL OUT PART GIVEN.npz

MODEL is what the steps gave; GIVEN holds whole numbers [N, ...] for every input of the folder's graph. Writes
OUT/<node>/ with the HDL, and OUT/<node>.json: the files in order, Tcl, bits of the ports, for every input the words of
N frames, and those that must come out (hexadecimal).
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def words(values, stream, packed):
    """FINN's own packing, but where it is wrong: it goes through float32."""
    from finn.util.data_packing import npy_to_rtlsim_input

    datatype, folded, bits = stream
    ours = packed(values.ravel(), folded[-1], datatype.bitwidth())
    floats = values.reshape(folded).astype(np.float32)
    if np.array_equal(floats.astype(np.int64), values.reshape(folded)):
        assert ours == [int(word) for word in npy_to_rtlsim_input(floats, datatype, bits)]
    return [f"{word:x}" for word in ours]


def golden(folder, layer, values):
    """What the dataflow graph of a unit gives, in onnxruntime alone."""
    file = Path(folder) / "units" / layer.get_nodeattr("unit") / "dataflow.onnx"
    session = onnxruntime.InferenceSession(str(file))
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, values, strict=True)))[0]


def plain(model):
    """The graph with layers that compute in Python: FINN simulates HLS and RTL with tools of vendors alone."""
    from qonnx.core.modelwrapper import ModelWrapper

    copy = ModelWrapper(model.model, make_deepcopy=True)
    for node in copy.graph.node:
        for kind in ("_hls", "_rtl"):
            node.op_type, node.domain = node.op_type.removesuffix(kind), node.domain.removesuffix(f".{kind[1:]}")
    return copy


def streams(layer):
    """(datatype, folded shape, bits) of every input, and of the output."""
    ins = [(layer.get_input_datatype(i), layer.get_folded_input_shape(i), layer.get_instream_width(i))
           for i in range(len(layer.onnx_node.input))]  # fmt: skip
    return ins, (layer.get_output_datatype(), layer.get_folded_output_shape(), layer.get_outstream_width())


def main() -> None:
    name, folder, model_file, out, part, given = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("finn_plugin", name)
    plugin = importlib.util.module_from_spec(spec)
    sys.modules["finn_plugin"] = plugin
    spec.loader.exec_module(plugin)
    plugin.register(folder)
    from finn.core.onnx_exec import execute_onnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.custom_op.registry import getCustomOp

    model, out, packed = ModelWrapper(model_file), Path(out), plugin.finn_wrapper.packed
    out.mkdir(exist_ok=True)
    arrays = [a.astype(np.float32) for a in np.load(given).values()]
    inputs = [value.name for value in model.graph.input]
    seen = [execute_onnx(plain(model), {n: a[None] for n, a in zip(inputs, frame, strict=True)}, True)
            for frame in zip(*arrays, strict=True)]  # fmt: skip
    for node in model.graph.node:
        if node.op_type != "MxLayer_rtl":
            continue
        layer, target = getCustomOp(node), out / node.name
        target.mkdir()
        layer.set_nodeattr("code_gen_dir_ipgen", str(target))
        layer.code_generation_ipgen(model, part, 5.0)
        fed = [[context[tensor].astype(np.int64) for tensor in node.input] for context in seen]
        expected = [golden(folder, layer, values) for values in fed]
        for context, values in zip(seen, expected, strict=True):  # float32 where others read it
            assert np.array_equal(context[node.output[0]], values.astype(context[node.output[0]].dtype))
        taken, gives = streams(layer)
        sides = {"in": [[word for values in fed for word in words(values[i], stream, packed)]
                        for i, stream in enumerate(taken)],
                 "out": [[word for values in expected for word in words(values, gives, packed)]]}  # fmt: skip
        ports = layer.get_verilog_top_module_intf_names()
        found = {"files": layer.get_rtl_file_list(abspath=True), "tcl": layer.code_generation_ipi(), "words": sides}
        found |= {"in_bits": [bits for _, bits in ports["s_axis"]], "out_bits": ports["m_axis"][0][1]}
        (out / f"{node.name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
