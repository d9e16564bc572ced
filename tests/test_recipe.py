"""recipe="robust": 8-bit layers, rules, folded norms, corrected biases, and what it leaves as it was asked for."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import mxexport as mx
from mxexport.errors import FormatError, UnsupportedError
from mxexport.quant import QuantSpec
from mxexport.quant.post_training import recipe_formats
from mxexport.quant.post_training.bias_correction import mean_response
from mxexport.quant.post_training.moments import input_means

E4M3, E2M1 = "mxfp8_e4m3", "mxfp4_e2m1"


class Depthwise(nn.Module):
    """Stem, two inverted residuals and a classifier, with gains that differ from channel to channel."""

    def __init__(self, width: int = 64):
        super().__init__()

        def unit(i, o, k=1, groups=1, act=True):
            conv = nn.Conv2d(i, o, k, padding=k // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU6() if act else nn.Identity())

        self.stem = unit(3, 32, 3)
        self.expand, self.depthwise = unit(32, width), unit(width, width, 3, groups=width)
        self.project, self.last = unit(width, 32, act=False), unit(32, width)
        self.pool, self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.head(self.pool(self.last(x)))


def depthwise(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A network with statistics of its own data and spread gains, as training leaves them, and inputs."""
    torch.manual_seed(seed)
    model, x = Depthwise(), torch.randn(16, 3, 12, 12)
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.momentum = None
        with torch.no_grad():
            norm.weight.copy_(torch.exp(1.5 * torch.randn(norm.num_features)))
            norm.bias.copy_(torch.randn(norm.num_features))
    model.train()
    with torch.no_grad():
        model(x)
    return model.eval(), x


def sqnr(expected: torch.Tensor, found: torch.Tensor) -> float:
    return float(10 * torch.log10((expected**2).sum() / ((expected - found) ** 2).sum()).detach())


@pytest.mark.parametrize(("weight", "activation"), [(E4M3, E4M3), ("mxfp6_e2m3", "mxfp6_e2m3"), (E2M1, E4M3)])
def test_recipe_is_nearer_to_float_than_the_formats_alone(weight, activation):
    model, x = depthwise()
    expected = model(x)
    plain = mx.quantize_model(model, weight, activation, fold_batch_norm=True)
    robust = mx.quantize_model(model, weight, activation, recipe="robust")
    assert sqnr(expected, robust(x)) > sqnr(expected, plain(x)) + 3


def test_recipe_leaves_the_model_given_and_its_modes_alone():
    model, x = depthwise()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    quantized = mx.quantize_model(model, E4M3, E4M3, recipe="robust", calibration=x)
    assert model.training and quantized.training and type(model.stem[1]) is nn.BatchNorm2d
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# --- formats and rules ----------------------------------------------------------------------------------------


def formats_of(layer: nn.Module) -> tuple[str, str]:
    return layer.weight_quant.format.name, layer.input_quant.format.name


def test_stem_depthwise_and_small_layers_take_8_bits():
    torch.manual_seed(0)
    stem, depthwise, expand = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 512, 1)
    model = nn.Sequential(stem, depthwise, expand, nn.Conv2d(512, 512, 1), nn.Flatten(), nn.Linear(512, 2))
    quantized = mx.quantize_model(model, E2M1, E4M3, recipe="robust")
    assert [formats_of(quantized[i]) for i in (0, 1, 5)] == [("mxint8", "mxint8")] * 3
    assert [formats_of(quantized[i]) for i in (2, 3)] == [(E2M1, E4M3)] * 2
    reasons = {c.layer: c.reason for c in mx.conversion_report(quantized).changed if c.what == "weight"}
    weights = 27 * 64 + 9 * 64 + 64 * 512 + 512 * 512 + 1024
    assert reasons == {"0": "reads 3 channels", "1": "depthwise", "5": f"holds {1024 / weights:.2%} of the weights"}


def test_equal_layers_are_none_of_them_small():
    layers = {str(i): nn.Linear(16, 16) for i in range(300)}
    assert recipe_formats.eight_bit_layers(layers) == {}
    assert list(recipe_formats.eight_bit_layers({**layers, "head": nn.Linear(16, 2)})) == ["head"]


def test_rules_follow_the_elements_of_each_side():
    model = mx.quantize_model(nn.Sequential(nn.Linear(64, 64)), E2M1, E4M3, recipe="robust")
    assert model[0].weight_quant.scale_rule == "even" and model[0].input_quant.scale_rule == "rceil"
    assert mx.conversion_report(model).converted[0].scale_rule == "even/rceil"
    model = mx.quantize_model(nn.Sequential(nn.Linear(64, 64)), E4M3, E4M3, recipe="robust")
    assert mx.conversion_report(model).converted[0].scale_rule == "rceil"
    changes = {(c.what, c.before, c.after) for c in mx.conversion_report(model).changed}
    assert changes == {("weight rule", "floor", "rceil"), ("activation rule", "floor", "rceil")}


def test_what_is_asked_for_by_name_stays():
    model, _ = depthwise()
    asked = {"depthwise.0": {"weight": E2M1, "scale_rule": "ceil"}, "stem": E4M3}
    quantized = mx.quantize_model(model, E4M3, E4M3, formats=asked, exclude="head", recipe="robust")
    assert formats_of(quantized.depthwise[0]) == (E2M1, "mxint8") and formats_of(quantized.stem[0]) == (E4M3, E4M3)
    assert quantized.depthwise[0].weight_quant.scale_rule == quantized.depthwise[0].input_quant.scale_rule == "ceil"
    assert type(quantized.head) is nn.Linear and torch.equal(quantized.head.bias, model.head.bias)
    assert quantized.stem[0].weight_quant.scale_rule == "rceil"  # a format was asked for, no rule


def test_a_scale_rule_asked_for_is_the_rule_of_every_layer():
    model, _ = depthwise()
    quantized = mx.quantize_model(model, E4M3, QuantSpec(E4M3, scale_rule="ceil"), scale_rule="floor", recipe="robust")
    rules = {
        (m.weight_quant.scale_rule, m.input_quant.scale_rule) for m in quantized.modules() if hasattr(m, "input_quant")
    }
    assert rules == {("floor", "ceil")}


@pytest.mark.parametrize(
    ("given", "wide"),
    [
        ("mxfp4_e2m1", "mxint8"),
        ("mxfp4_e2m1_g16", "mxint8_g16"),
        ("mxint4", "mxint8"),
        ("int4_g16", "int8_g16"),
        ("uint4_g16", "uint8_g16"),
        ("mxint8", "mxint8"),
        ("nvfp4", "mxint8_g16"),
        ("float_ocp_e4m3", "int8"),
        ("float_e2m1_g8", "int8_g8"),
        ("int4_g32_s6x8", "int8_g32_s6x8"),
    ],
)
def test_eight_bits_keep_groups_and_families(given, wide):
    assert recipe_formats.eight_bits(mx.get_format(given)).name == wide


def test_eight_bits_of_a_spec_keep_its_scales():
    spec = recipe_formats.eight_bits(QuantSpec("mxfp4_e2m1", source="static", signed=False))
    assert (spec.name, spec.source, spec.signed) == ("mxint8", "static", True)
    assert recipe_formats.eight_bits(None) is None


# --- biases ---------------------------------------------------------------------------------------------------


def constant_net(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """Norm and ReLU in front of the layer; the norm's gain is 0, so that the layer reads exactly relu(beta)."""
    torch.manual_seed(1)
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.normal_()
    before = nn.Linear(40, 40) if isinstance(layer, nn.Linear) else nn.Identity()  # whose features the norm is of
    return nn.Sequential(before, norm, nn.ReLU(), layer).eval()


LAYERS = {
    "linear": (nn.Linear(40, 6), nn.BatchNorm1d(40), (3, 40)),
    "conv": (nn.Conv2d(40, 6, 3), nn.BatchNorm2d(40), (2, 40, 5, 5)),
    "grouped": (nn.Conv2d(40, 8, 3, groups=4, bias=False), nn.BatchNorm2d(40), (2, 40, 5, 5)),
    "depthwise": (nn.Conv1d(40, 80, 3, groups=40), nn.BatchNorm1d(40), (2, 40, 5)),
    "transposed": (nn.ConvTranspose2d(40, 6, 2, stride=2), nn.BatchNorm2d(40), (2, 40, 4, 4)),
    "transposed_grouped": (nn.ConvTranspose1d(40, 8, 3, stride=3, groups=4), nn.BatchNorm1d(40), (2, 40, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_error_of_rounded_weights_is_gone(name):
    layer, norm, shape = LAYERS[name]
    norm.running_mean.normal_()
    model, x = constant_net(layer, norm), torch.randn(shape)
    asked = {"3": {"weight": E2M1, "activation": None, "scale_rule": "floor"}}
    expected = model(x)
    given = {"formats": asked, "example_inputs": x}  # which tell that the norm runs along the features
    plain, robust = (mx.quantize_model(model, E2M1, None, recipe=r, **given)(x) for r in (None, "robust"))
    channels = [d for d in range(expected.ndim) if d != 1]
    assert (plain - expected).mean(channels).abs().max() > 0.01
    torch.testing.assert_close(robust.mean(channels), expected.mean(channels), atol=2e-5, rtol=0)


def test_means_are_those_of_clipped_gaussians():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    with torch.no_grad():
        norm.weight.normal_(0, 3)
        norm.bias.normal_(2, 3)
    model = nn.Sequential(norm, nn.ReLU6(), nn.ZeroPad2d(1), nn.Conv2d(8, 4, 3))
    mean, std = norm.bias.detach().double(), norm.weight.detach().double().abs()
    normal = torch.distributions.Normal(0.0, 1.0)
    low, high = (0 - mean) / std, (6 - mean) / std
    inside = mean * (normal.cdf(high) - normal.cdf(low)) + std * (
        normal.log_prob(low).exp() - normal.log_prob(high).exp()
    )
    torch.testing.assert_close(input_means(model)["3"], inside + 6 * (1 - normal.cdf(high)), atol=1e-5, rtol=0)


class Branches(nn.Module):
    """Two norms that are added, concatenated, averaged and flattened before layers read them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm1d(6)
        self.conv, self.both, self.fc = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1), nn.Linear(8, 6)
        self.flat, self.after, self.unknown = nn.Linear(16, 3), nn.Linear(6, 2), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a, b = self.a(x), nn.functional.relu(self.b(x), inplace=True)
        joined = torch.cat([a, b], 1)
        y = self.after(torch.relu(self.bn(self.fc(joined.mean([2, 3])))))
        return self.conv(a + b), self.both(joined), self.flat(b.flatten(1)), y, self.unknown(a * b)


def test_means_go_through_sums_concatenations_averages_and_flattening():
    torch.manual_seed(0)
    model = Branches()
    for norm in (model.a, model.b, model.bn):
        nn.init.normal_(norm.bias)
    means, a = input_means(model), model.a.bias.double()
    half = torch.exp(-(model.b.bias.double() ** 2) / 2) / math.sqrt(2 * math.pi)
    b = model.b.bias.double() * torch.distributions.Normal(0.0, 1.0).cdf(model.b.bias.double()) + half
    expected = {"conv": a + b, "both": torch.cat([a, b]), "fc": torch.cat([a, b]), "flat": b.repeat_interleave(4)}
    for name, mean in expected.items():
        torch.testing.assert_close(means[name], mean.detach(), atol=1e-5, rtol=0)
    assert means["after"].shape == (6,) and "unknown" not in means


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.inner = (
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)),
        )

    def forward(self, x):
        x = self.conv(self.norm(x))
        return self.inner(x) if x.sum() > 0 else x


def test_code_that_cannot_be_traced_hides_only_what_it_calls_itself():
    assert list(input_means(Untraceable())) == ["inner.1"]


class Odd(nn.Module):
    """Calls with arguments that are not known, and a forward that keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x, limit):
        self.seen = self.norm(x)
        y = self.conv(torch.clamp(self.seen, limit, limit * 2))
        return self.last(input=self.seen.mean([2, limit], keepdim=True)) + y


def test_unknown_arguments_end_what_is_known():
    model = Odd()
    assert input_means(model) == {} and not hasattr(model, "seen")


def test_embeddings_and_layers_called_by_keyword_are_calibrated_or_passed_by():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc = nn.Embedding(8, 32), nn.Linear(32, 8, bias=False)

        def forward(self, tokens):
            return self.fc(input=self.embed(tokens))

    torch.manual_seed(0)
    quantized = mx.quantize_model(Tokens(), E2M1, None, recipe="robust", calibration={"tokens": torch.arange(8)[None]})
    bias = [change for change in mx.conversion_report(quantized).changed if change.what == "bias"]
    assert [(change.layer, change.before) for change in bias] == [("fc", "none")] and quantized.fc.bias.shape == (8,)


def test_calibration_inputs_serve_layers_without_a_norm_before_them():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 8)), torch.rand(256, 64) + 1
    asked = {"*": {"activation": None}}
    plain = mx.quantize_model(model, E2M1, None, formats=asked, recipe="robust")
    assert not [c for c in mx.conversion_report(plain).changed if c.what == "bias"]
    tuned = mx.quantize_model(model, E2M1, None, formats=asked, recipe="robust", calibration=[x[:100], (x[100:],)])
    errors = [(m[0](x) - model[0](x)).mean(0).abs().max() for m in (plain, tuned)]
    assert errors[0] > 0.05 and errors[1] < 1e-4
    changed = {c.layer: c for c in mx.conversion_report(tuned).changed if c.what == "bias"}
    assert list(changed) == ["0", "2"] and changed["0"].reason == "mean of the calibration inputs"


def test_mean_response_of_a_transposed_linear_layer_is_its_product():
    weight, mean = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    layer = mx.QuantLinear(5, 3)
    torch.testing.assert_close(mean_response(layer, weight.T, mean), weight.T @ mean)


# --- report, refusals, warnings -------------------------------------------------------------------------------


def test_report_lists_every_layer_the_recipe_changed():
    model, _ = depthwise()
    _, report = mx.quantize_model(model, E4M3, E4M3, recipe="robust", return_report=True)
    layers = {c.name for c in report.converted}
    corrected = {c.layer for c in report.changed if c.what == "bias"}
    assert corrected == layers - {"stem.0"} and {c.layer for c in report.changed} == layers
    assert len(report.folded) == 5
    assert "depthwise.0: weight mxfp8_e4m3 -> mxint8 (recipe: depthwise)" in str(report)
    assert len(json.loads(report.to_json())["changed"]) == len(report.changed)
    assert mx.quantize_model(model, return_report=True, exclude="depthwise")[1].changed == []


def test_unknown_recipes_and_calibration_without_one_are_refused():
    with pytest.raises(FormatError, match="unknown recipe 'rubust'; expected None or one of 'robust'"):
        mx.quantize_model(nn.Linear(4, 4), recipe="rubust")
    with pytest.raises(FormatError, match="calibration: only a recipe uses it"):
        mx.quantize_model(nn.Linear(4, 4), calibration=torch.ones(1, 4))
    with pytest.raises(UnsupportedError, match="found int; expected a tensor"):
        mx.quantize_model(nn.Linear(4, 4), recipe="robust", calibration=3)


def test_depthwise_layers_without_the_recipe_are_named_with_what_they_cost():
    model, _ = depthwise()
    with pytest.warns(UserWarning) as caught:
        mx.quantize_model(model, E4M3, E4M3)
    (text,) = (str(w.message) for w in caught)
    assert text.startswith("1 depthwise layer takes mxfp8_e4m3/mxfp8_e4m3 (depthwise.0): ")
    assert "25% and more" in text and 'recipe="robust"' in text and "\n" not in text


@pytest.mark.parametrize(
    "options", [{"recipe": "robust"}, {"exclude": "depthwise"}, {"formats": {"depthwise": E4M3}}], ids=str
)
def test_no_warning_where_the_depthwise_layers_were_thought_of(options):
    model, _ = depthwise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mx.quantize_model(model, E4M3, E4M3, **options)


def test_without_a_recipe_every_layer_takes_what_is_asked():
    model, _ = depthwise()
    with pytest.warns(UserWarning, match="depthwise"):
        quantized = mx.quantize_model(model, E2M1, E4M3)
    found = [(m.weight_quant, m.input_quant) for m in quantized.modules() if hasattr(m, "input_quant")]
    assert {(w.format.name, x.format.name, w.scale_rule, x.scale_rule) for w, x in found} == {
        (E2M1, E4M3, "floor", "floor")
    }
    assert torch.equal(quantized.head.bias, model.head.bias) and type(quantized.stem[1]) is nn.BatchNorm2d


def test_a_model_from_the_recipe_exports_with_equal_bits_of_weights(tmp_path):
    model, x = depthwise()
    quantized = mx.quantize_model(model, E2M1, E4M3, recipe="robust")
    mx.export(quantized, (x[:2],), tmp_path / "m.onnx")
    found = next(iter(mx.run(tmp_path / "m.onnx", x[:2].numpy()).values()))
    assert sqnr(quantized(x[:2]), torch.from_numpy(np.array(found))) > 30
