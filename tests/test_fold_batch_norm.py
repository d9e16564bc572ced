"""Batch norms are folded where it is proved to change nothing; every other one is named with the reason."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import mxexport as mx
from mxexport.errors import UnsupportedError
from mxexport.quant.folding import batch_norm
from mxexport.quant.folding.proof import plan_folds


def with_statistics(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


PAIRS = {
    "linear": ((nn.Linear(8, 6), nn.BatchNorm1d(6)), (3, 8)),
    "no_bias": ((nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6, affine=False)), (3, 8)),
    "conv1d": ((nn.Conv1d(8, 6, 3), nn.BatchNorm1d(6)), (3, 8, 9)),
    "conv2d": ((nn.Conv2d(8, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)), (3, 8, 5, 5)),
    "conv3d": ((nn.Conv3d(8, 6, 2), nn.BatchNorm3d(6)), (3, 8, 4, 4, 4)),
    "transposed": ((nn.ConvTranspose2d(8, 6, 3), nn.BatchNorm2d(6)), (3, 8, 4, 4)),
    "transposed_grouped": ((nn.ConvTranspose1d(8, 6, 3, groups=2), nn.BatchNorm1d(6)), (3, 8, 4)),
    "synchronized": ((nn.Conv2d(8, 6, 3), nn.SyncBatchNorm(6)), (3, 8, 5, 5)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_folding_leaves_the_function_as_it_was(name):
    layers, shape = PAIRS[name]
    model, x = with_statistics(nn.Sequential(*copy.deepcopy(layers))), torch.randn(shape)
    expected = model(x)
    assert plan_folds(model, x).pairs == [("0", "1")]
    batch_norm.fold_pair(model, "0", "1")
    assert type(model[1]) is nn.Identity
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x, mask=None):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)) + x
        z = self.conv3(y)
        return self.bn3(z) + z  # the norm is not the only reader


@pytest.mark.filterwarnings("ignore:batch norms not folded")
def test_batch_norm_is_folded_only_when_asked_and_only_where_it_may():
    model = with_statistics(Residual())
    assert type(mx.quantize_model(model).bn1) is nn.BatchNorm2d
    quantized, report = mx.quantize_model(model, exclude=["conv2"], fold_batch_norm=True, return_report=True)
    assert report.folded == [("bn1", "conv1")] and "bn1: folded into conv1" in str(report)
    assert type(quantized.bn1) is nn.Identity and quantized.conv1.bias is not None
    assert type(quantized.bn2) is type(quantized.bn3) is nn.BatchNorm2d
    assert dict(report.not_folded)["bn2"] == "conv2 stays in float: excluded by 'conv2'"
    assert "bn3: not folded: the output of conv3 is not read by this norm alone (add)" in str(report)
    quantized, x = mx.quantize_model(model, fold_batch_norm=True), torch.randn(2, 8, 6, 6)
    assert [norm for norm, _ in mx.conversion_report(quantized).folded] == ["bn1", "bn2"]
    error = (quantized(x) - model(x)).std() / model(x).std()
    assert error < 0.03


# --- pairs in all sorts of code ----------------------------------------------------------------------------------


class Pair(nn.Module):
    """A convolution and its norm; `prepare` lets tests give them whatever a user might."""

    def __init__(self, prepare=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        if prepare:
            prepare(self)

    def forward(self, x):
        return self.norm(self.conv(x))


class ReadsWeight(Pair):
    def forward(self, x):
        return super().forward(x) + F.conv2d(x, self.conv.weight, padding=1)


class TransposesWeight(Pair):
    def forward(self, x):
        return super().forward(x) + (self.conv.weight.flatten(1).t() @ self.conv.weight.flatten(1)).sum()


class KeptWeight(Pair):
    def __init__(self):
        super().__init__()
        self.kept = [self.conv.weight]

    def forward(self, x):
        return super().forward(x) + self.kept[0].abs().sum()


class AllParameters(Pair):
    def forward(self, x):
        return super().forward(x) + sum(p.sum() for p in self.parameters())


class NormFunction(Pair):
    def forward(self, x):
        return super().forward(F.batch_norm(x, self.norm.running_mean, self.norm.running_var))


class DirectForward(Pair):
    def forward(self, x):
        return self.norm(self.conv.forward(x))


class Peer(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.peer[0].weight, self.bias, padding=1)


class ReadByAnotherLayer(Pair):
    def __init__(self):
        super().__init__()
        self.other = Peer(4, 4, 3)
        self.other.peer = [self.conv]

    def forward(self, x):
        return self.other(super().forward(x))


class Twice(Pair):
    def forward(self, x):
        return self.norm(self.conv(self.conv(x)))


class WithoutNorm(Pair):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(x)


class AlsoReturned(Pair):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y), y


class ReturnedOnRequest(Pair):
    def forward(self, x, features=False):
        y = self.conv(x)
        return y if features else self.norm(y)


class OptionalMask(Pair):
    def forward(self, x, mask=None):
        y = self.conv(x)
        return self.norm(y) if mask is None else y * mask


class OnlyInEval(Pair):
    def forward(self, x):
        return self.conv(x) if self.training else self.norm(self.conv(x))


class AnotherMethod(Pair):
    def embed(self, x):
        return self.conv(x)


class UntracedMethod(Pair):
    def embed(self, x):
        return self.conv(x) if float(x.sum()) > 0 else x


class Branching(Pair):
    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else self.conv(x)


class Untraced(Pair):
    def forward(self, x):
        return self.norm(self.conv(x)) if float(x.sum()) > 0 else x


class Kept(Pair):
    def forward(self, x):
        self.features = self.conv(x)
        return self.norm(self.features)


class Counted(Pair):
    def forward(self, x):
        while x.sum() > 0:
            x = self.norm(self.conv(x))
        return x


class Watching(Pair):
    """Its own hook calls the layer."""

    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda module, inputs, output: output + module.conv(inputs[0]))


class Normed(nn.Conv2d):
    """As detectron2's, which holds its norm."""

    def __init__(self):
        super().__init__(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(F.conv2d(x, self.weight, self.bias))


class ReachesIn(nn.Module):
    """Cannot be traced, and takes what it likes out of its child."""

    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        return self.pair(x) if float(x.sum()) > 0 else self.pair.conv(x)


class ReachesByList(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()
        self.kept = [self.pair.conv]

    def forward(self, x):
        return self.pair(x) if float(x.sum()) > 0 else self.kept[0](x)


class HandsOn(ReachesIn):
    def forward(self, x):
        return nothing_known(self, x) if float(x.sum()) > 0 else x


def nothing_known(model, x):
    return model.pair.conv(x)


class AlwaysTraining(Pair):
    def forward(self, x):
        self.norm.train()
        return super().forward(x)


class NormOfTwo(Pair):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm(self.other(x))


class ByTensor(Pair):
    def forward(self, x):
        y = self.conv(x)
        return y if isinstance(x, torch.Tensor) else self.norm(y)


def hooked(name: str, register: str):
    def prepare(pair):
        getattr(getattr(pair, name), register)(lambda *args: None)

    return prepare


def replaced(pair):
    pair.conv.forward = lambda x: x


def tied(pair):
    pair.other = nn.Conv2d(4, 4, 3)
    pair.other.weight = pair.conv.weight


LEFT = {
    "weight_read": (ReadsWeight, "weight of conv is also read by the code of ReadsWeight"),
    "weight_transposed": (TransposesWeight, "weight of conv is also read by the code of TransposesWeight"),
    "weight_kept": (KeptWeight, "weight of conv is also read by the code of KeptWeight"),
    "all_parameters": (AllParameters, "weight of conv is also read by the code of AllParameters"),
    "norm_read": (NormFunction, "running_mean of norm is also read by the code of NormFunction"),
    "direct_forward": (DirectForward, "its input is not the output of a convolution or a linear layer (conv2d)"),
    "read_by_layer": (ReadByAnotherLayer, "weight of conv is also read by the code of Peer"),
    "twice": (Twice, "the output of conv is not read by this norm alone (Conv2d)"),
    "without_norm": (WithoutNorm, "the output of conv is not read by this norm alone (add)"),
    "returned": (AlsoReturned, "the output of conv is not read by this norm alone (it is also an output)"),
    "flag": (ReturnedOnRequest, "the output of conv is not read by this norm alone (it is also an output)"),
    "mask": (OptionalMask, "the output of conv is not read by this norm alone (mul)"),
    "training": (OnlyInEval, "the output of conv is not read by this norm alone (it is also an output)"),
    "method": (AnotherMethod, "the output of conv is not read by this norm alone (it is also an output)"),
    "untraced_method": (UntracedMethod, "UntracedMethod.embed, which cannot be traced"),
    "branching": (Branching, "the output of conv is not read by this norm alone (it is also an output)"),
    "untraced": (Untraced, "Untraced.forward, which cannot be traced (float() argument must be"),
    "inside": (lambda: nn.Sequential(Normed()), "Normed, a layer with a forward of its own, calls it inside"),
    "kept": (Kept, "the output of conv is kept in an attribute"),
    "counted": (Counted, "Counted.forward, which cannot be traced"),
    "own_hook": (Watching, "the output of conv is not read by this norm alone (add)"),
    "reaches_in": (ReachesIn, "ReachesIn.forward, which cannot be traced"),
    "reaches_by_list": (ReachesByList, "ReachesByList.forward, which cannot be traced"),
    "hands_on": (HandsOn, "HandsOn.forward, which cannot be traced"),
    "always_training": (AlwaysTraining, "norm is in training mode when the model is in eval mode"),
    "norm_of_two": (NormOfTwo, "it is called behind several layers"),
    "by_tensor": (ByTensor, "forward does not call it"),
    "hook": (lambda: Pair(hooked("conv", "register_forward_hook")), "conv has forward hooks"),
    "pre_hook": (lambda: Pair(hooked("norm", "register_forward_pre_hook")), "norm has forward hooks"),
    "parametrized": (lambda: Pair(lambda p: parametrizations.weight_norm(p.conv)), "conv is parametrized"),
    "replaced": (lambda: Pair(replaced), "the forward of conv was replaced"),
    "tied": (lambda: Pair(tied), "weight of conv is also that of other"),
    "lopsided": (
        lambda: Pair(lambda p: p.norm.running_var.fill_(-1.0)),
        "its statistics or its weights give no",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_norms_that_may_not_be_folded_stay_with_the_reason(name):
    make, reason = LEFT[name]
    plan = plan_folds(make())
    assert not plan.pairs and len(plan.left) == 1
    assert next(iter(plan.left.values())).startswith(reason)


def test_a_hook_between_the_two_keeps_them_apart():
    model = nn.Sequential(nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
    assert plan_folds(model).pairs == [("0.1", "1")]
    model[0].register_forward_hook(lambda module, inputs, output: None)
    assert plan_folds(model).left == {"1": "0 has forward hooks, which would see other values"}
    model[0]._forward_hooks.clear()
    model.register_forward_hook(lambda module, inputs, output: None)
    assert plan_folds(model).pairs == [("0.1", "1")]


def test_norms_without_a_layer_or_statistics_of_their_own_are_named():
    found = plan_folds(
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    )
    assert found.left == {
        "0": "its input is not the output of a convolution or a linear layer (an input)",
        "2": "has no running statistics: it takes those of every batch",
    }
    found = plan_folds(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5)), None)
    assert found.left == {"1": "it has 5 features, and 0 6 outputs"}
    norm = type("Own", (nn.BatchNorm2d,), {})(4)
    mine = type("Mine", (nn.Conv2d,), {"forward": lambda self, x: x})(4, 4, 1)
    found = plan_folds(nn.Sequential(nn.Conv2d(4, 4, 1), norm, mine, nn.BatchNorm2d(4)))
    assert found.left == {
        "1": "Own is a subclass of BatchNorm2d and may compute otherwise",
        "3": "2 (Mine) is a subclass of Conv2d and may compute otherwise",
    }


class CalledInPairs(Pair):
    def forward(self, x):
        return self.norm(self.conv(self.norm(self.conv(x.to(self.conv.weight.dtype)))))


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Pair(), Pair()])
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        for i in range(2):
            x = self.layers[i](x)
        return x


class OnlyCalls(Listed):
    """Its own forward cannot be traced; the blocks that it only calls can."""

    def forward(self, x):
        if float(x.sum()) > 0:
            x = -x
        for block in self.blocks:
            x = block(x)
        return self.layers[0](x)


class BranchesAround(Pair):
    def forward(self, x, skip=None):
        assert x.shape[1] == 4, "expected 4 channels"
        if x.ndim != 4:
            raise ValueError("expected images")
        y = self.norm(self.conv(x))
        if y.shape[2:] != x.shape[2:]:
            y = F.interpolate(y, size=x.shape[2:])
        return y if x.mean() > 0 else x + y.view(y.shape)


class ShapeAsked(Pair):
    def forward(self, x):
        y = self.conv(x)
        n, c, h, w = y.shape
        return self.norm(input=y).view(n, c, h * w)


class TwoNames(Pair):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(self.conv, self.norm)

    def forward(self, x):
        return self.stem(x)


class Checkpointed(ReachesIn):
    def forward(self, x):
        return checkpoint(self.pair, x, use_reentrant=False)


class BothMethods(Pair):
    def embed(self, x):
        return self.norm(self.conv(x)).mean([2, 3])


class ReturnsTable(Pair):
    def forward(self, x, as_table=None):
        y = super().forward(x)
        return {"y": y} if as_table else (y,)


class Pointwise(nn.Conv2d):
    """Only constructs otherwise."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 1)


FOLDED = {
    "constructed": (lambda: nn.Sequential(Pointwise(3, 4), nn.BatchNorm2d(4)), ["1"]),
    "padded": (lambda: nn.Sequential(nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)), ["1"]),
    "identity": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.BatchNorm2d(4)), ["2"]),
    "called_in_pairs": (CalledInPairs, ["norm"]),
    "listed": (Listed, ["blocks.0.norm", "blocks.1.norm", "layers.1"]),
    "only_calls": (OnlyCalls, ["blocks.0.norm", "blocks.1.norm"]),
    "branches_around": (BranchesAround, ["norm"]),
    "blocks_with_branches": (
        lambda: nn.Sequential(*(BranchesAround() for _ in range(8))),
        [f"{i}.norm" for i in range(8)],
    ),
    "shape_asked": (ShapeAsked, ["norm"]),
    "checkpointed": (Checkpointed, ["pair.norm"]),
    "two_names": (TwoNames, ["norm"]),
    "both_methods": (BothMethods, ["norm"]),
    "returns_table": (ReturnsTable, ["norm"]),
    "parallel": (lambda: nn.DataParallel(Pair()), ["module.norm"]),
    "parallel_inside": (lambda: nn.Sequential(nn.DataParallel(Pair()), nn.ReLU()), ["0.module.norm"]),
}


@pytest.mark.parametrize("name", FOLDED)
def test_pairs_are_found_through_containers_and_code(name):
    make, norms = FOLDED[name]
    model = make()
    assert [norm for _, norm in plan_folds(model).pairs] == norms


def test_a_norm_with_two_names_is_replaced_under_both():
    model, x = with_statistics(TwoNames()), torch.randn(2, 4, 5, 5)
    quantized = mx.quantize_model(model, "mxint8", None, fold_batch_norm=True)
    assert type(quantized.norm) is nn.Identity and quantized.stem[1] is quantized.norm
    assert (quantized(x) - model(x)).std() / model(x).std() < 0.02


def padded(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Sequential(nn.ZeroPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False))
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class Inverted(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        wide = 2 * channels
        self.body = nn.Sequential(
            padded(channels, wide, 1),
            padded(wide, wide, 3, wide),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return x + self.body(x)


def test_every_norm_of_a_mobile_network_with_padded_convolutions_is_folded():
    model = with_statistics(nn.Sequential(padded(3, 8, 3), *(Inverted(8) for _ in range(16))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "16 depthwise layers take")
        quantized, report = mx.quantize_model(model, "mxint8", None, fold_batch_norm=True, return_report=True)
    assert len(report.folded) == 49 and not report.not_folded
    x = torch.randn(1, 3, 8, 8)
    assert (quantized(x) - model(x)).std() / model(x).std() < 0.2
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quantized.modules())


# --- the axis of BatchNorm1d -------------------------------------------------------------------------------------


def tower(*widths: int) -> list[nn.Module]:
    layers = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return layers


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm2d = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.fc, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.fc(self.norm2d(self.conv(x)).relu().mean([2, 3])))


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.fc(x.view(x.shape[0], -1)))


PROVED = {
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.BatchNorm1d(8)), 1),
    "pooled": (Pooled, 2),
    "viewed": (Viewed, 1),
    "two_widths": (lambda: nn.Sequential(*tower(16, 8, 8, 4), nn.Linear(4, 2)), 3),
    "conv1d_head": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 2)
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", PROVED)
def test_the_rank_is_proved_from_what_comes_before_and_behind(name):
    make, count = PROVED[name]
    plan = plan_folds(make())
    assert len(plan.pairs) == count and not plan.left


OPEN = {
    "one_width": (tower(16, 8), (3, 16), (3, 8, 16)),
    "conv1d": ([nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)], (2, 4, 8), (4, 8)),
    "transposed1d": ([nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6)], (2, 4, 8), (4, 4)),
}


@pytest.mark.parametrize("name", OPEN)
def test_an_axis_that_depends_on_the_input_is_settled_by_example_inputs(name):
    layers, good, bad = OPEN[name]
    model = with_statistics(nn.Sequential(*layers))
    (reason,) = plan_folds(model).left.values()
    assert reason.startswith("whether it runs along the outputs of 0 depends on the input")
    assert reason.endswith("give quantize_model example_inputs, which settle it")
    assert (
        plan_folds(model, torch.zeros(good)).pairs
        == plan_folds(model, {"input": torch.zeros(good)}).pairs
        == [("0", "1")]
    )
    (reason,) = plan_folds(model, (torch.zeros(bad),)).left.values()
    assert reason.startswith(f"of inputs of rank {len(bad)} it takes axis 1, and the outputs of")


def test_a_sequence_as_long_as_its_features_keeps_its_norm():
    model, x = with_statistics(nn.Sequential(*tower(32, 16), nn.Linear(16, 4))), torch.randn(3, 16, 32)
    for options in ({}, {"example_inputs": x}):
        with pytest.warns(UserWarning, match="batch norms not folded: 1: "):
            quantized = mx.quantize_model(model, "mxint8", None, fold_batch_norm=True, **options)
        assert torch.equal(quantized(x), mx.quantize_model(model, "mxint8", None)(x))
        assert not mx.conversion_report(quantized).folded


def test_example_inputs_that_do_not_fit_are_refused():
    model = nn.Sequential(*tower(16, 8))
    with pytest.raises(UnsupportedError, match="quantize_model: forward fails on example_inputs: "):
        mx.quantize_model(model, fold_batch_norm=True, example_inputs=torch.zeros(3, 5))


def test_the_warning_names_three_norms_and_counts_the_rest():
    model = nn.Sequential(
        *(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(5))
    )
    with pytest.warns(UserWarning, match=r"not folded: 0\.0: .*; 1\.0: .*; 2\.0: [^;]*; and 2 more, see") as caught:
        quantized = mx.quantize_model(model, fold_batch_norm=True)
    assert "3.0" not in str(caught[0].message)
    assert [norm for norm, _ in mx.conversion_report(quantized).not_folded] == ["0.0", "1.0", "2.0", "3.0", "4.0"]


def test_planning_leaves_the_model_as_it_was():
    model = Listed().train()
    state, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    plan_folds(model, torch.randn(2, 4, 5, 5))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
