"""quantize_model: formats by layer, ties and names kept, batch norm folded on demand, every layer left is named."""

from __future__ import annotations

import copy
import json
import sys
import threading
import types
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import mxexport as mx
from mxexport.errors import FormatError, InputFileError, UnsupportedError
from mxexport.quant import QUANT_LAYERS
from tests.helpers import assert_equal_up_to_turned_codes


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(64, 4, batch_first=True)
        self.norm = nn.LayerNorm(64)
        self.fc1, self.fc2 = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x):
        x = x + self.attn(x, x, x)[0]
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x))))


class Language(nn.Module):
    """Embedding tied to the head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def formats_of(model: nn.Module) -> dict[str, tuple]:
    return {c.name: (c.weight, c.activation, c.scale_rule) for c in mx.conversion_report(model).converted}


@pytest.mark.parametrize("kind", QUANT_LAYERS)
def test_every_kind_of_layer_is_converted(kind):
    made = kind(64, 4) if kind in (nn.Linear, nn.Embedding, nn.MultiheadAttention) else kind(64, 4, 3)
    quantized = mx.quantize_model(nn.Sequential(made))
    assert type(quantized[0]) is QUANT_LAYERS[kind] and type(made) is kind
    assert type(mx.quantize_model(made)) is QUANT_LAYERS[kind]


class Conv1D(nn.Module):
    """The linear layer of GPT-2 in transformers, which is not needed here."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) / 8), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(x.size()[:-1] + (self.nf,))


def test_linear_layers_of_gpt2_are_converted(monkeypatch, tmp_path):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="left in float: 0: Conv1D uses parameters of its own"):
        mx.quantize_model(nn.Sequential(Conv1D(4, 8), nn.Linear(4, 4)))
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", types.SimpleNamespace(Conv1D=Conv1D))
    model, x = nn.Sequential(Conv1D(48, 64), nn.GELU(), Conv1D(10, 48)), torch.randn(2, 5, 64)
    quantized, report = mx.quantize_model(model, "mxfp6_e2m3", "mxfp8_e4m3", return_report=True)
    assert not report.left and report.converted[1].padding_percent == 25
    assert quantized.state_dict().keys() == model.state_dict().keys()
    linear = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 10))
    linear.load_state_dict({n: p.T if p.ndim == 2 else p for n, p in model.state_dict().items()})
    with torch.no_grad():
        found, expected = quantized(x), mx.quantize_model(linear, "mxfp6_e2m3", "mxfp8_e4m3")(x)
    assert_equal_up_to_turned_codes(found.numpy(), expected.numpy())
    mx.export(quantized, (x,), tmp_path / "m.onnx")
    (exported,) = mx.run(tmp_path / "m.onnx", x.numpy()).values()
    assert_equal_up_to_turned_codes(exported, found.numpy())
    quantized(x).sum().backward()
    assert quantized[0].weight.grad.abs().sum() > 0


class Depthwise(nn.Conv2d):
    """As MobileNet and EfficientNet of some libraries name theirs."""

    version = 2

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, groups=channels)

    @staticmethod
    def stride_of(kernel: int) -> int:
        return kernel // 2


def test_subclasses_that_compute_the_same_are_converted():
    torch.manual_seed(0)
    model, x = nn.Sequential(Depthwise(4), nn.Flatten(), nn.Linear(36, 2)).eval(), torch.randn(2, 4, 5, 5)
    plain = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(36, 2)).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(mx.quantize_model(model)(x), mx.quantize_model(plain)(x))


class Vision(nn.Module):
    """Parameters of its own as vision transformers and ConvNeXt have them."""

    def __init__(self):
        super().__init__()
        self.class_token, self.positions = nn.Parameter(torch.randn(1, 1, 64)), nn.Parameter(torch.randn(1, 6, 64))
        self.layer_scale, self.fc = nn.Parameter(torch.ones(6, 1)), nn.Linear(64, 4)

    def forward(self, x):
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.fc(x * self.layer_scale)


def test_tokens_positions_and_layer_scales_are_no_matrices_to_warn_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = mx.quantize_model(Vision(), return_report=True)[1]
    (left,) = report.left
    assert left.expected and left.reason == "positions of Vision is one for the whole batch"
    assert str(report).endswith(
        "the model itself: Vision left as it is: positions of Vision is one for the whole batch"
    )
    mixing = type("Mixing", (nn.Module,), {})()
    mixing.table, mixing.fc = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 4)
    with pytest.warns(UserWarning, match="left in float: the model itself: Mixing uses parameters of its own .table.;"):
        mx.quantize_model(mixing)


def test_the_given_model_is_left_as_it_was():
    model = Language()
    modules, state = {n: type(m) for n, m in model.named_modules()}, copy.deepcopy(model.state_dict())
    quantized = mx.quantize_model(model, fold_batch_norm=True)
    for parameter in quantized.parameters():
        parameter.data.zero_()
    assert {n: type(m) for n, m in model.named_modules()} == modules
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    with pytest.raises(UnsupportedError, match="does not come from mxexport.quantize_model"):
        mx.conversion_report(model)


def test_float_state_dicts_load_and_mean_the_same():
    trained, quantized = Language().eval(), mx.quantize_model(Language()).eval()
    quantized.load_state_dict(trained.state_dict(), strict=True)
    tokens = torch.randint(0, 50, (2, 7))
    assert torch.equal(quantized(tokens), mx.quantize_model(trained)(tokens))
    trained.load_state_dict(quantized.state_dict(), strict=True)


def test_tied_weights_stay_tied_and_learn_as_one():
    quantized = mx.quantize_model(Language())
    assert type(quantized.embed) is mx.QuantEmbedding and type(quantized.head) is mx.QuantLinear
    assert quantized.embed.weight is quantized.head.weight
    assert len(list(quantized.parameters())) == len(list(Language().parameters()))
    quantized(torch.randint(0, 50, (2, 7))).sum().backward()
    assert quantized.embed.weight.grad.abs().sum() > 0


def test_a_module_under_two_names_is_converted_once():
    shared = nn.Linear(8, 8)
    quantized = mx.quantize_model(nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU())}))
    assert quantized["a"] is quantized["b"][0] and type(quantized["a"]) is mx.QuantLinear
    with pytest.raises(UnsupportedError, match="no layer to quantize"):
        mx.quantize_model(nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)}), exclude=["b.0"])


def test_layers_already_quantized_keep_their_formats():
    model = nn.Sequential(mx.QuantLinear(8, 8, weight="mxint4"), nn.Linear(8, 8))
    quantized = mx.quantize_model(model, "mxfp8_e4m3")
    assert [layer.weight_quant.format.name for layer in quantized] == ["mxint4", "mxfp8_e4m3"]
    (kept,) = mx.conversion_report(quantized).left
    assert (kept.name, kept.reason, kept.expected) == ("0", "is quantized already", True)
    with pytest.raises(UnsupportedError, match="no layer to quantize(?s:.*)1: is quantized already"):
        mx.quantize_model(quantized)


# --- formats by layer -----------------------------------------------------------------------------------------

TABLE = {
    "blocks.*": {"weight": "mxfp4_e2m1"},
    "blocks.*.fc2": {"activation": "mxfp8_e5m2", "scale_rule": "even"},
    "blocks.1.fc2": {"weight": "mxint4"},
    "embed": "mxfp8_e4m3",
}
YAML = """
blocks.*: {weight: mxfp4_e2m1}
blocks.*.fc2:
  activation: mxfp8_e5m2
  scale_rule: even
blocks.1.fc2: {weight: mxint4}
embed: mxfp8_e4m3
"""


def test_later_entries_override_the_keys_they_name():
    found = formats_of(mx.quantize_model(Language(), "mxint8", "mxint8", formats=TABLE))
    assert found["head"] == ("mxint8", "mxint8", "floor")
    assert found["blocks.0.fc1"] == found["blocks.0.attn"] == found["blocks.0.attn.out_proj"]
    assert found["blocks.0.fc1"] == ("mxfp4_e2m1", "mxint8", "floor")
    assert found["blocks.0.fc2"] == ("mxfp4_e2m1", "mxfp8_e5m2", "even")
    assert found["blocks.1.fc2"] == ("mxint4", "mxfp8_e5m2", "even")
    assert found["embed"] == ("mxfp8_e4m3", None, "floor")
    turned = dict(reversed(TABLE.items()))
    assert formats_of(mx.quantize_model(Language(), formats=turned))["blocks.1.fc2"][0] == "mxfp4_e2m1"


def test_a_yaml_file_says_the_same_as_a_dict(tmp_path):
    (tmp_path / "formats.yaml").write_text(YAML)
    for path in (tmp_path / "formats.yaml", str(tmp_path / "formats.yaml")):
        assert formats_of(mx.quantize_model(Language(), formats=path)) == formats_of(
            mx.quantize_model(Language(), formats=TABLE)
        )


def test_formats_reach_the_layers_themselves():
    quantized = mx.quantize_model(Language(), formats=TABLE)
    fc2, attn = quantized.blocks[1].fc2, quantized.blocks[0].attn
    assert (fc2.weight_quant.format.name, fc2.weight_quant.scale_rule) == ("mxint4", "even")
    assert fc2.input_quant.format.name == "mxfp8_e5m2"
    assert {q.format.name for q in attn.scores.quantizers().values()} == {"mxint8"}
    assert {q.format.name for name, q in attn.quantizers().items() if "weight" in name} == {"mxfp4_e2m1"}


def test_a_name_includes_all_inside_it_and_exclusion_comes_last():
    quantized = mx.quantize_model(Language(), formats={"blocks.1.fc1": "mxint4"}, exclude=["blocks.1", "head"])
    assert type(quantized.blocks[1].fc1) is nn.Linear and type(quantized.blocks[1].attn) is nn.MultiheadAttention
    assert type(quantized.head) is nn.Linear and type(quantized.blocks[0].fc1) is mx.QuantLinear
    left = {f.name: f.reason for f in mx.conversion_report(quantized).left}
    assert left["blocks.1.fc1"] == "excluded by 'blocks.1'" and left["head"] == "excluded by 'head'"


def test_a_part_of_attention_can_be_chosen_alone():
    model = Block()
    quantized = mx.quantize_model(model, exclude="attn.out_proj", formats={"attn": {"weight": "mxint4"}})
    assert type(quantized.attn) is mx.QuantMultiheadAttention
    assert type(quantized.attn.out_proj) is type(model.attn.out_proj)
    quantized = mx.quantize_model(model, formats={"attn.out_proj": {"weight": "mxfp6_e2m3"}})
    assert quantized.attn.out_proj.weight_quant.format.name == "mxfp6_e2m3"
    assert quantized.attn.weight_quant.format.name == "mxint8"


def test_null_keeps_a_side_or_a_layer_in_float():
    quantized = mx.quantize_model(Block(), formats={"fc1": {"activation": None}, "fc2": None})
    assert quantized.fc1.input_quant is None and quantized.fc1.weight_quant is not None
    assert type(quantized.fc2) is nn.Linear
    assert [f.reason for f in mx.conversion_report(quantized).left if f.name == "fc2"] == ["no format"]


@pytest.mark.parametrize(
    "formats, error, message",
    [
        ({"fc9": "mxint8"}, UnsupportedError, "formats: 'fc9' matches no module; modules: .*fc1"),
        ({"fc1": {"weights": "mxint8"}}, FormatError, "'fc1': unknown key 'weights'; expected weight, activation"),
        ({"fc1": {"weight": "mxint88"}}, FormatError, "'fc1': .*mxint88"),
        ({"fc1": {"scale_rule": "up"}}, FormatError, "'fc1': unknown scale rule 'up'"),
        ({"fc1": ["mxint8"]}, FormatError, "'fc1': found .'mxint8'.; expected a format name or a table"),
        ({"fc1": {"weight": "int4_g16", "scale_rule": "ceil"}}, FormatError, "fc1: .*needs power-of-two scales"),
        ({"fc1": {0: "mxint8"}}, FormatError, "'fc1': unknown key '0'"),
        ({"fc1": {"weight": {"format": "int8", 1: 2}}}, FormatError, "'fc1': unknown key '1'; expected format, source"),
        ({1: "mxint8"}, FormatError, r"formats: 1 is no module name or pattern; .* write it in quotes \('1'\)"),
        (
            {"fc1": {"weight": {"format": "int8", "source": ["mse"]}}},
            FormatError,
            "'fc1': unknown scale source .'mse'.",
        ),
        (
            {"fc1": {"activation": {"format": "uint8", "signed": "no"}}},
            FormatError,
            "'fc1': signed 'no': expected True",
        ),
        ([("fc1", "mxint8")], FormatError, "expected a table of module names or patterns, or a path"),
        ("absent.yaml", InputFileError, "no such file: absent.yaml"),
    ],
)
def test_mistakes_in_formats_are_named(formats, error, message):
    with pytest.raises(error, match=message):
        mx.quantize_model(Block(), formats=formats)


def test_a_spec_alone_means_weight_and_activation():
    layer = mx.quantize_model(Block(), formats={"fc1": mx.QuantSpec("mxint4", scale_rule="ceil")}).fc1
    assert [(q.format.name, q.scale_rule) for q in (layer.weight_quant, layer.input_quant)] == [("mxint4", "ceil")] * 2


@pytest.mark.parametrize(
    "model, exclude, error", [("net", (), UnsupportedError), (Block(), [1], FormatError), (Block(), None, FormatError)]
)
def test_other_arguments_are_refused(model, exclude, error):
    with pytest.raises(error, match="(quantize_model: expected|exclude: )"):
        mx.quantize_model(model, exclude=exclude)


@pytest.mark.parametrize(
    "text, message", [("- fc1", "found list"), ("a: [", "not readable YAML"), ("", "NoneType"), ("\xff", "YAML")]
)
def test_files_that_are_no_table_are_refused(tmp_path, text, message):
    (tmp_path / "f.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(InputFileError, match=message):
        mx.quantize_model(Block(), formats=tmp_path / "f.yaml")


# --- what stays in float --------------------------------------------------------------------------------------


class Products(nn.Linear):
    def forward(self, x):
        return x @ self.weight.t()


class Looked(nn.Embedding):
    def forward(self, x):
        return 2 * super().forward(x)


def replaced(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x
    return layer


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4))


LEFT = {
    "subclass": (Products(4, 4), "Products is a subclass of Linear, and its weight meets the input in matmul"),
    "embedding": (Looked(4, 4), "Looked is a subclass of Embedding and may compute otherwise; use Embedding itself"),
    "replaced": (replaced(nn.Linear(4, 4)), "its forward was replaced on this object"),
    "no_form": (nn.LSTMCell(4, 4), "LSTMCell has no quantized form yet"),
    "custom": (Own(), r"Own uses parameters of its own \(table\)"),
    "parametrized": (parametrizations.weight_norm(nn.Linear(4, 4)), "is parametrized; call torch.nn.utils"),
    "parametrized_no_bias": (parametrizations.orthogonal(nn.Linear(4, 4, bias=False)), "is parametrized"),
    "lazy": (nn.LazyLinear(4), "has no shape yet"),
    "complex": (nn.Linear(4, 4, dtype=torch.complex64), "has parameters that are no real floating-point numbers"),
    "scripted": (torch.jit.script(nn.Linear(4, 4)), "RecursiveScriptModule is TorchScript; convert the Python module"),
    "renormalized": (nn.Embedding(4, 4, max_norm=1.0), "max_norm rescales the table"),
}


@pytest.mark.parametrize("name", LEFT)
def test_weights_left_in_float_are_reported_and_warned_about(name):
    module, reason = LEFT[name]
    with pytest.warns(UserWarning, match=f"1: {reason}"):
        quantized, report = mx.quantize_model(nn.Sequential(nn.Linear(4, 4), module), return_report=True)
    (left,) = report.left
    assert left.name == "1" and not left.expected and type(quantized[1]) is type(module)


def test_report_accounts_for_every_module_with_parameters(recwarn):
    quantized, report = mx.quantize_model(Language(), exclude=["head"], return_report=True)
    named = {c.name for c in report.converted} | {f.name for f in report.left}
    assert named == {name for name, module in Language().named_modules() if module._parameters}
    assert {f.name: f.reason for f in report.left}["blocks.0.norm"] == "LayerNorm has no product of matrices"
    assert not recwarn.list and report is mx.conversion_report(quantized)
    assert json.loads(report.to_json())["left"][0]["kind"] == "LayerNorm"
    assert "blocks.0.fc1: QuantLinear weight=mxint8 activation=mxint8 (floor)" in str(report)
    assert "head: Linear left as it is: excluded by 'head'" in str(report)


def test_report_counts_padding_and_names_groups_that_do_not_line_up():
    model = nn.Sequential(
        nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(48, 48, 1, groups=2), nn.Linear(40, 4)
    )
    found = mx.conversion_report(mx.quantize_model(model)).converted
    assert [c.padding_percent for c in found] == [0.0, 96.88, 25.0, 37.5]
    assert [c.note for c in found] == ["", "", found[2].note, ""]
    assert found[2].note == "groups of 32 input channels cross the borders of its 2 convolution groups of 24"
    assert "97% of the weight is padding" in str(mx.conversion_report(mx.quantize_model(model)))


def test_a_model_that_cannot_be_copied_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    model.kept = model(torch.ones(1, 4))
    with pytest.raises(UnsupportedError, match="Sequential cannot be copied: Only Tensors created explicitly"):
        mx.quantize_model(model)
    model.kept = threading.Lock()
    with pytest.raises(UnsupportedError, match="Sequential cannot be copied: cannot pickle"):
        mx.quantize_model(model)


# --- what cannot be copied ---------------------------------------------------------------------------------------


def test_weight_norms_of_the_old_kind_are_named():
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(UnsupportedError, match="cannot be copied: its weight norms .*remove_weight_norm.layer. first"):
        mx.quantize_model(model)


def test_pruned_weights_are_named():
    model = nn.Sequential(nn.Linear(4, 4))
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(UnsupportedError, match="its pruned weights .*prune.remove.layer, name. first"):
        mx.quantize_model(model)
    prune.remove(model[0], "weight")
    assert (mx.quantize_model(model)[0].weight == model[0].weight).all()
