"""mx.sensitivity: ratios per layer, tables, and formats that follow from them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import FormatError, UnsupportedError
from mxexport.quant import QuantLayer, Sensitivity
from mxexport.quant.post_training.sensitivity import LayerSensitivity

E2M1 = "mxfp4_e2m1"


class Net(nn.Module):
    """Three layers; the second has one weight in every group that leaves nothing for the others."""

    def __init__(self):
        super().__init__()
        self.first, self.bad, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)
        with torch.no_grad():
            self.bad.weight[:, ::32] *= 200

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = y * (torch.arange(64) % 32 > 0)  # what meets the large weights is zero
        return {"logits": self.last(torch.relu(self.bad(y)))}


def net() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Net(), torch.randn(32, 64)


def test_a_bad_layer_comes_first():
    model, x = net()
    table = mx.sensitivity(model, x, E2M1, "mxint8")
    assert [layer.name for layer in table.layers] == ["first", "bad", "last"]
    assert table.worst()[0].name == "bad" and table.worst()[0].layer_sqnr < 6 < table.layers[0].layer_sqnr


def test_ratios_are_those_of_the_model_with_one_layer_quantized():
    model, x = net()
    table, expected = mx.sensitivity(model, x, E2M1, "mxint8"), model(x)["logits"]

    @torch.no_grad()
    def ratio(exact, found):
        return 10 * math.log10(float((exact.double() ** 2).sum() / ((exact.double() - found.double()) ** 2).sum()))

    alone = mx.quantize_model(model, E2M1, "mxint8", exclude=["first", "last"])
    assert table.layers[1].output_sqnr == pytest.approx(ratio(expected, alone(x)["logits"]), rel=1e-6)
    assert table.output_sqnr == pytest.approx(ratio(expected, mx.quantize_model(model, E2M1, "mxint8")(x)["logits"]))
    layer = mx.quantize_model(model.first, E2M1, "mxint8")
    assert table.layers[0].layer_sqnr == pytest.approx(ratio(model.first(x), layer(x)), rel=1e-6)


def test_the_model_given_stays_as_it_is():
    model, x = net()
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    mx.sensitivity(model, x)
    assert model.training and not any(isinstance(m, QuantLayer) for m in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_suggestions_are_formats_that_quantize_model_takes():
    model, x = net()
    table = mx.sensitivity(model, x, E2M1, "mxint8")
    formats = table.suggest("mxint8", count=1, share=1)
    assert formats == {"bad": "mxint8"}
    better = mx.quantize_model(model, E2M1, "mxint8", formats=formats)
    assert better.bad.weight_quant.format.name == "mxint8" and better.first.weight_quant.format.name == E2M1
    assert mx.sensitivity(model, x, E2M1, "mxint8", formats=formats).output_sqnr > table.output_sqnr + 3
    spec = mx.QuantSpec("mxint8", scale_rule="rceil")
    quantized = mx.quantize_model(model, E2M1, "mxint8", formats=table.suggest(spec, share=1))
    assert all(layer.weight_quant.scale_rule == "rceil" for layer in (quantized.first, quantized.bad, quantized.last))
    assert type(mx.quantize_model(model, formats=table.suggest(None, count=1, share=1)).bad) is nn.Linear


def layers(*rows: tuple[str, int, float]) -> Sensitivity:
    return Sensitivity([LayerSensitivity(n, "QuantLinear", E2M1, E2M1, w, 20.0, db) for n, w, db in rows], 9.0)


def test_suggestions_keep_to_the_share_and_end_at_the_target():
    table = layers(("a", 100, 30.0), ("b", 800, 10.0), ("c", 50, 20.0), ("d", 50, math.inf), ("e", 0, math.nan))
    assert list(table.suggest()) == ["c"]
    assert list(table.suggest(share=0.15)) == ["c", "a"]
    assert list(table.suggest(share=1)) == ["b", "c", "a"]
    assert list(table.suggest(share=1, target=15)) == ["b"]
    assert list(table.suggest(share=1, target=25)) == ["b", "c"]
    assert table.suggest(share=1, target=5) == {}
    with pytest.raises(FormatError, match="share is 7"):
        table.suggest(share=7)
    with pytest.raises(FormatError, match="mxint9"):
        table.suggest("mxint9")


def test_table_and_json_hold_every_layer_and_no_infinity():
    table = layers(("a", 100, 30.0), ("d", 50, math.inf), ("e", 0, math.nan))
    assert "a  " in str(table) and "30.0" in str(table) and str(table).endswith("all of them: 9.0 dB")
    found = json.loads(table.to_json(), parse_constant=pytest.fail)
    assert [row["output_sqnr"] for row in found["layers"]] == [30.0, "inf", None] and found["output_sqnr"] == 9.0


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Embedding(10, 32), nn.MultiheadAttention(32, 2, batch_first=True)
        self.unused = nn.Linear(4, 4)

    def forward(self, tokens, mask=None):
        x = self.embed(tokens)
        return self.attention(x, x, x, attn_mask=mask)[0]


def test_attention_counts_its_inner_products_and_unused_layers_have_no_ratio():
    torch.manual_seed(0)
    model, tokens = Attention(), torch.randint(0, 10, (2, 6))
    table = mx.sensitivity(model, [{"tokens": tokens}, (tokens[:1],)], "mxint8", E2M1)
    by_name = {layer.name: layer for layer in table.layers}
    assert set(by_name) == {"embed", "attention", "attention.out_proj", "unused"}
    assert math.isnan(by_name["unused"].output_sqnr) and by_name["unused"] not in table.worst()
    only = mx.quantize_model(model, "mxint8", E2M1, exclude=["embed", "attention.out_proj"])
    exact = torch.cat([model(tokens), model(tokens[:1])])
    error = exact - torch.cat([only(tokens), only(tokens[:1])])
    expected = 10 * math.log10(float((exact**2).sum() / (error**2).sum()))
    assert by_name["attention"].output_sqnr == pytest.approx(expected, rel=1e-4)


def test_inputs_that_are_none_and_models_without_floats_are_refused():
    model, x = net()
    with pytest.raises(UnsupportedError, match="found str; expected a tensor"):
        mx.sensitivity(model, "x")
    with pytest.raises(UnsupportedError, match="an empty list"):
        mx.sensitivity(model, [])
    with pytest.raises(UnsupportedError, match="Net does not run on the inputs given: mat1 and mat2"):
        mx.sensitivity(model, x[:, :5])
    whole = nn.Sequential(nn.Linear(4, 4))
    whole.forward = lambda x: whole[0](x).argmax(-1)
    with pytest.raises(UnsupportedError, match="returns no floating-point tensor"):
        mx.sensitivity(whole, torch.randn(2, 4))


def test_a_layer_that_is_the_whole_model_has_a_table_and_suggestions():
    torch.manual_seed(0)
    model, x = nn.MultiheadAttention(32, 2, batch_first=True).eval(), torch.randn(2, 5, 32)
    table = mx.sensitivity(model, (x, x, x), E2M1, E2M1)
    assert [layer.name for layer in table.layers] == ["", "out_proj"]
    formats = {"out_proj": table.suggest(share=1)["out_proj"]}
    assert mx.quantize_model(model, E2M1, E2M1, formats=formats).out_proj.weight_quant.format.name == "mxint8"
