"""mx.search: what it finds is measured, is taken by quantize_model and compile, and is the same wherever it ran."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from typer.testing import CliRunner

import mxexport as mx
from mxexport import cluster
from mxexport.cli import app
from mxexport.errors import FormatError, InputFileError, OptionError, UnsupportedError
from mxexport.searching import contents, finetuned
from mxexport.searching.choices import format_table
from mxexport.searching.ladder import Space, spread
from mxexport.searching.problem import one_thread
from tests.helpers import in_full
from tests.search_metrics import Digits, accuracy, deadly_accuracy, train_on

FORMATS = ["mxint8", "mxint5", ("mxint4", "mxint8"), "mxint3"]
HOW = {"evaluations": 24, "within": 1.0}


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32), torch.tensor(y)


@pytest.fixture(scope="module")
def trained():
    """(network, validation data); accuracy 95% and more."""
    x, y = digits()
    torch.manual_seed(0)
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    with one_thread():
        for batch in torch.cat([torch.randperm(1200) for _ in range(12)]).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model, (x[1200:], y[1200:])


@pytest.fixture(scope="module")
def found(trained, tmp_path_factory):
    journal = tmp_path_factory.mktemp("search") / "journal.jsonl"
    return mx.search(*trained, formats=FORMATS, journal=journal, **HOW), journal


def same(a, b) -> bool:
    """All but seconds and what a journal had."""

    def rows(result):
        return [(e.formats, e.metric, e.costs, e.refused) for e in (result.best, *result.evaluations)]

    return rows(a) == rows(b)


def test_the_best_is_within_and_smaller_and_its_yaml_gives_it_again(trained, found, tmp_path):
    model, data = trained
    result, _ = found
    assert accuracy(model, data) > 90 and result.reference.formats == dict.fromkeys(result.best.formats, "mxint8")
    assert result.best.metric >= result.reference.metric - 1 and result.saved_percent > 25
    assert len(set(result.best.formats.values())) > 1 and len(result.evaluations) == 24
    paths = result.write(tmp_path)
    assert [p.name for p in paths] == ["formats.yaml", "search.json", "search.html"] and all(p.exists() for p in paths)
    again = mx.quantize_model(model, formats=tmp_path / "formats.yaml")
    assert math.isclose(accuracy(again, data), result.best.metric)
    layers = {c.name: f"{c.weight}/{c.activation}" for c in mx.conversion_report(again).converted}
    wanted = {n: text if "/" in text else f"{text}/{text}" for n, text in result.best.formats.items()}
    assert layers == wanted


def test_bytes_are_those_of_the_packed_file(trained, found, tmp_path):
    result, _ = found
    model = mx.quantize_model(trained[0], formats=result.formats())
    mx.export(model, (trained[1][0][:1],), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx")
    from mxexport.model import graph
    from mxexport.reporting.layers import describe_packed

    packed = sum(layer.bytes for layer in describe_packed(graph.load(tmp_path / "c.onnx")))
    biases = sum(4 * p.numel() for n, p in trained[0].named_parameters() if n.endswith("bias"))
    assert result.best.costs["bytes"] == packed + biases


def test_no_network_of_the_front_beats_another(found):
    result, _ = found
    points = [(e.costs["bytes"], e.metric) for e in result.front()]
    assert points == sorted(points, reverse=True) and len({m for _, m in points}) == len(points) > 2
    for e in result.evaluations:
        assert any(cost <= e.costs["bytes"] and metric >= e.metric for cost, metric in points)
    assert result.best in result.front()


def test_it_is_shown_as_table_json_and_page(found):
    result, _ = found
    shown = json.loads(result.to_json(), parse_constant=pytest.fail)
    assert shown["best"]["formats"] == result.best.formats and len(shown["evaluations"]) == 24
    text, page = str(result), result.to_html()
    assert "best" in text and f"{result.saved_percent:.0f}% fewer bytes" in text
    assert "Networks that no other beats" in page and "conv2" in page and "<table" in result._repr_html_()


def test_the_page_draws_every_network_and_the_front(found):
    result, _ = found
    drawing = ElementTree.fromstring(result.to_svg())
    circles = [c for c in drawing.iter("{http://www.w3.org/2000/svg}circle") if len(c)]
    assert len(circles) == sum(e.metric is not None for e in result.evaluations)
    line = next(drawing.iter("{http://www.w3.org/2000/svg}polyline")).get("points").split()
    assert len(line) == len(result.front()) > 2
    places = [tuple(map(float, point.split(","))) for point in line]
    assert places == sorted(places) and [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    texts = [t.text for t in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"bytes", "metric", "best", "reference"} <= set(texts)
    assert result.to_svg() in result.to_html()


def test_networks_are_trained_on_before_they_are_measured(trained, found):
    model, data = trained
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    how = {"formats": ["mxint8", ("mxint3", "mxint8")], "evaluations": 2}
    train = functools.partial(train_on, digits=(digits()[0][:1200], digits()[1][:1200]))
    plain, result = mx.search(*trained, **how), mx.search(*trained, finetune=train, **how)
    assert [e.costs for e in result.evaluations] == [e.costs for e in plain.evaluations]
    assert result.evaluations[1].metric > plain.evaluations[1].metric + 1
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    quantized = mx.quantize_model(model, formats=format_table(result.evaluations[1].formats))
    again = finetuned(quantized, train)
    assert math.isclose(accuracy(again, data), result.evaluations[1].metric) and not again.training


def test_a_search_that_was_killed_goes_on(trained, found, tmp_path):
    whole, journal = found
    lines = journal.read_text().splitlines(keepends=True)
    part = tmp_path / "part.jsonl"
    part.write_text("".join(lines[:12]) + lines[12][:40])  # half a line, as a killed process leaves it
    result = mx.search(*trained, formats=FORMATS, journal=part, **HOW)
    assert result.kept == 11 and same(result, whole)
    assert sorted(part.read_text().splitlines())[0] and len(part.read_text().splitlines()) == len(lines)
    model, (x, y) = trained
    fewer = {"formats": FORMATS[:2], "evaluations": 2}
    assert mx.search(model, (x[:-1], y[:-1]), journal=part, **fewer).kept == 0
    assert mx.search(model, (x, y), journal=part, **fewer).kept == 4  # two of them sensitivities
    with torch.no_grad():
        model.fc2.bias[0] += 1e-3
        assert mx.search(model, (x, y), journal=part, **fewer).kept == 0
        model.fc2.bias[0] -= 1e-3


@in_full
def test_two_processes_of_which_one_is_killed_find_the_same(trained, tmp_path, monkeypatch):
    few = {"formats": FORMATS, "evaluations": 10}
    alone = mx.search(*trained, deadly_accuracy, **few)
    monkeypatch.setenv("MXEXPORT_TEST_MARKER", str(tmp_path / "died"))
    with cluster.connected(2) as runner:
        both = mx.search(*trained, deadly_accuracy, cluster=runner, **few)
    assert (tmp_path / "died").exists() and same(alone, both)


def test_designs_are_compiled_and_the_best_is_compiled_again_from_its_files(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(64, 32)
    model = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10))
    target = {"resources": "lut", "target_fps": 4e6}
    formats = ["mxint8", "mxint4", None]
    result = mx.search(model, x, "agreement", formats, objective="lut", target=target, within=20, evaluations=4)
    refused = [e for e in result.evaluations if e.refused]
    assert refused and all("float" in e.formats.values() for e in refused)
    assert result.best.costs["lut"] < 0.9 * result.reference.costs["lut"] and "folding.yaml" in str(
        result.write(tmp_path)
    )
    quantized = mx.quantize_model(model, formats=tmp_path / "formats.yaml")
    mx.export(quantized, (x[:2],), tmp_path / "m.onnx")
    mx.clean(tmp_path / "m.onnx", tmp_path / "c.onnx")
    design = mx.compile(
        tmp_path / "c.onnx", tmp_path / "d", calibration=x.numpy(), folding=tmp_path / "folding.yaml", **target
    )
    assert design.estimate()["total"]["lut"] == result.best.costs["lut"]
    assert design.report["frames_per_second"] == result.best.costs["frames_per_second"] >= 4e6


class Threshold:
    def __init__(self, share: float):
        self.share = share

    def __call__(self, model, data):
        return self.share

    def method(self, model, data):
        return self.share


def test_a_metric_is_known_by_what_it_computes_with():
    from functools import partial

    def closing(share):
        return lambda model, data: share

    for make in (Threshold, lambda n: Threshold(n).method, lambda n: partial(accuracy, data=n), closing):
        keys = [contents.metric_key(make(n)) for n in (1, 1, 2)]
        assert keys[0] == keys[1] != keys[2]
    x = torch.zeros(2, 3)
    assert contents.data_key(x) == contents.data_key(x.clone()) != contents.data_key(x.reshape(3, 2))
    assert contents.data_key([x, x]) != contents.data_key((x, x)) != contents.data_key((x, x.double()))


def test_products_of_attention_are_layers_of_the_search():
    from tests.transformer_networks import Block, Eager, Sequence

    torch.manual_seed(0)
    model, x = Sequence(Block(Eager(32, 2), 32), 32), torch.randn(16, 9, 8)
    result = mx.search(model, x, "agreement", ["mxint8", "mxint4"], attention=True, evaluations=6, within=100)
    assert {"block.attention.product_1", "block.attention.product_2"} < set(result.best.formats)
    quantized = mx.quantize_model(model, formats=result.formats(), attention=True, example_inputs=x)
    shown = {c.name: c.activation for c in mx.conversion_report(quantized).converted}
    assert shown == result.best.formats


def test_the_ladder_takes_the_step_that_saves_most_for_its_noise():
    noise = {"a": {"8": 0.0, "4": 4.0, "2": 5.0}, "b": {"8": 0.0, "4": 1.0, "2": 9.0}}
    cost = {"a": {"8": 8.0, "4": 4.0, "2": 2.0}, "b": {"8": 80.0, "4": 40.0, "2": 20.0}}
    rungs = Space(noise, cost).ladder()
    assert rungs == [
        {"a": "8", "b": "8"},
        {"a": "8", "b": "4"},
        {"a": "8", "b": "2"},
        {"a": "2", "b": "2"},  # what lies above the line from 8 to 2 is passed over
    ]
    assert Space(noise, cost).lower({"a": "4", "b": "4"}) == [{"a": "4", "b": "2"}, {"a": "2", "b": "4"}]
    assert spread(0, 9, 2) == [3, 6] and spread(0, 3, 8) == [1, 2] and spread(4, 5, 3) == []


X, Y = torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    "changed, error, words",
    [
        ({"formats": ["mxint8"]}, FormatError, "formats: found mxint8; expected two or more"),
        ({"formats": ["mxint8", "mxint8"]}, FormatError, "each once"),
        ({"formats": "mxint8"}, FormatError, "expected a list such as"),
        ({"formats": ["mxint8", 4]}, FormatError, "found 4; expected a format name"),
        ({"formats": [None, "mxint8"]}, FormatError, "the first is float"),
        ({"metric": "f1"}, OptionError, "metric is 'f1'"),
        ({"metric": lambda m, d: math.nan}, OptionError, "metric gave nan"),
        ({"data": X}, OptionError, "expected data="),
        ({"objective": "watts"}, OptionError, "objective is 'watts'; expected one of bytes, lut"),
        ({"within": -1}, OptionError, "within is -1"),
        ({"evaluations": 0}, OptionError, "evaluations is 0"),
        ({"cluster": True}, OptionError, "cluster is True"),
        ({"finetune": 3}, OptionError, "finetune is 3; expected a function"),
        ({"target": {"target_fps": -1}}, OptionError, "target_fps is -1"),
        ({"model": nn.Linear(8, 4)}, UnsupportedError, "put it into an nn.Sequential"),
        ({"model": nn.ReLU()}, UnsupportedError, "no layer to quantize"),
        ({"data": (X, Y[:3])}, UnsupportedError, "3 labels for 4 answers"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_words(changed, error, words):
    given = {"model": nn.Sequential(nn.Linear(8, 4)), "data": (X, Y), "metric": "accuracy", "evaluations": 2}
    with pytest.raises(error, match=words):
        mx.search(**given | changed)


HEAD = '{"journal": "mxexport search", "version": 1}\n'


@pytest.mark.parametrize("text", ["[1]\n", "{}\n", "words\n", HEAD + '{"a": 1}\n', HEAD + "words\n"])
def test_a_file_that_is_no_journal_is_refused_and_kept(text, tmp_path):
    (tmp_path / "j").write_text(text)
    with pytest.raises(InputFileError, match="journal|no JSON"):
        mx.search(nn.Sequential(nn.Linear(8, 4)), (X, Y), journal=tmp_path / "j")
    assert (tmp_path / "j").read_text() == text


NET = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))

def margin(model, data):
    return float(model(data).sort(1).values.diff(dim=1)[:, -1].mean())
"""


def test_the_command_writes_what_quantize_takes_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("search_net.py").write_text(NET)
    x = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    np.savez("data.npz", inputs=x, labels=np.arange(64) % 4)
    np.save("x.npy", x)

    def call(*arguments: str):
        done = CliRunner().invoke(app, ["search", "search_net.py:build", *arguments])
        assert done.exit_code == 0, done.output + repr(done.exception)
        return done.stdout

    own = ["--data", "data.npz", "-o", "out", "--evaluations", "6", "--format", "mxint8", "--format", "mxint4/mxint8"]
    first = call(*own)
    assert "best" in first and "out/formats.yaml" in first
    told = json.loads(call(*own, "--json"))
    assert told["kept"] >= 4 and told["best"]["metric"] >= told["reference"]["metric"] - 0.5
    done = CliRunner().invoke(
        app, ["quantize", "search_net.py:build", "-o", "q.onnx", "--input", "1,32", "--formats", "out/formats.yaml"]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(call("--data", "x.npy", "--metric", "search_net.py:margin", "--evaluations", "4", "--json"))
    assert told["kept"] == 0 and len(told["evaluations"]) == 4
    wrong = CliRunner().invoke(app, ["search", "search_net.py:build", "--data", "x.npy"])
    assert isinstance(wrong.exception, OptionError) and "labels" in str(wrong.exception)
