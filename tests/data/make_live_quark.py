"""Makes tests/data/live/quark-*.npz: what models that amd-quark 0.13 has quantized compute, on the CPU.

pip install --no-deps amd-quark==0.13 … (see make_quark)
QUARK_DISABLE_COMPILE=1 python -m tests.data.make_live_quark
"""

from __future__ import annotations

import torch
from quark.torch import ModelQuantizer
from quark.torch.quantization.config import config as specs
from torch import nn

from tests.checkpoint_network import edge_inputs
from tests.live_network import inputs, network, record

SPECS = {
    "mxfp4": specs.OCP_MXFP4Spec,
    "mxfp6-e2m3": specs.OCP_MXFP6E2M3Spec,
    "mxfp6-e3m2": specs.OCP_MXFP6E3M2Spec,
    "mxfp8-e4m3": specs.OCP_MXFP8E4M3Spec,
    "mxfp8-e5m2": specs.OCP_MXFP8E5M2Spec,
    "mxint8": specs.OCP_MXINT8Spec,
}
READ = ("dtype", "mx_element_dtype", "qscheme", "group_size", "ch_axis", "scale_format", "scale_calculation_mode",
        "is_scale_quant")  # fmt: skip
ATTRIBUTES = ("frozen_params", "is_fake_quant_enabled", "scale", *(f"quant_spec.{name}" for name in READ))
QUANTIZERS = tuple(f"_{what}_quantizer" for what in ("input", "weight", "output", "bias"))


def quantized(spec, mode: str = "even", frozen: bool = False, outputs: bool = False) -> nn.Module:
    """The network behind ModelQuantizer. `outputs`: results of layers are quantized, too."""

    def layer(axis: int) -> specs.QLayerConfig:
        def made(dynamic: bool):
            return spec(ch_axis=axis, is_dynamic=dynamic, scale_calculation_mode=mode).to_quantization_spec()

        return specs.QLayerConfig(
            weight=made(False), input_tensors=made(True), output_tensors=made(True) if outputs else None
        )

    config = specs.QConfig(
        global_quant_config=layer(-1), layer_type_quant_config={nn.Conv2d: layer(1)}, exclude=["last"]
    )
    quantizer = ModelQuantizer(config)
    model = quantizer.quantize_model(network(), [inputs()])
    return quantizer.freeze(model) if frozen else model


@torch.no_grad()
def main() -> None:
    chosen = [(name, "even", False, False) for name in SPECS]
    chosen += [("mxfp6-e3m2", "even", True, False), ("mxfp4", "ceil", True, False)]
    chosen += [("mxfp4", "even", True, True), ("mxint8", "even", False, True)]
    for name, mode, frozen, outputs in chosen:
        model = quantized(SPECS[name], mode, frozen, outputs)
        weights = {
            f"{x}.weight": getattr(model, x).get_quant_weight(getattr(model, x).weight) for x in ("conv", "wide")
        }
        words = (
            "quark",
            name,
            mode if mode != "even" else "",
            "frozen" if frozen else "",
            "outputs" if outputs else "",
        )
        arrays = {"edges": model.wide._input_quantizer(edge_inputs()), "output": model(inputs()), **weights}
        if outputs:
            arrays["conv.output_edges"] = model.conv._output_quantizer(edge_inputs()[..., None, None])
        record("-".join(filter(None, words)), model, QUANTIZERS, ATTRIBUTES, **arrays)


if __name__ == "__main__":
    main()
