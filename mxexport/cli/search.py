"""`mxexport search`: formats by layer for a trained float model, found by measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mxexport.cli import user_models
from mxexport.cli._common import AsJson, console, load_inputs, print_json, print_path, stages
from mxexport.cli.hardware import budget_of
from mxexport.errors import OptionError

_LABELS = "labels"

Workers = Annotated[int | None, typer.Option(help="Processes on this machine that measure; without it, this one.")]
Scheduler = Annotated[str | None, typer.Option(help="A dask scheduler whose workers measure: tcp://host:8786.")]


def search(
    model: user_models.UserModel,
    data: Annotated[
        Path, typer.Option(help=f"Inputs, batch first: .npy, or .npz by name; with `{_LABELS}` for accuracy.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the result.")] = Path("build/search"),
    weights_file: user_models.WeightsFile = None,
    metric: Annotated[
        str, typer.Option(help="accuracy, agreement (with the float model), or module:function of (model, data).")
    ] = "accuracy",
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="What a layer may get: mxint8, mxint4/mxint8 (weight/activation), float; repeatable. The "
            "first is the reference.",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="bytes; or, of the compiled design, lut, ff, dsp, bram36, uram, frames_per_second."),
    ] = None,
    within: Annotated[float, typer.Option(help="How much of the metric may be lost.")] = 0.5,
    evaluations: Annotated[int, typer.Option(help="Most networks that are measured.")] = 64,
    target_fps: Annotated[float | None, typer.Option(help="Of every design: see compile.")] = None,
    clock_mhz: Annotated[float | None, typer.Option(help="Of every design.")] = None,
    part: Annotated[str | None, typer.Option(help="Of every design.")] = None,
    budget: Annotated[str | None, typer.Option(help="Of every design.")] = None,
    resources: Annotated[str | None, typer.Option(help="Of every design: auto, dsp or lut.")] = None,
    exclude: user_models.Exclude = None,
    scale_rule: Annotated[str | None, typer.Option(help="floor, ceil, even or rceil.")] = None,
    attention: Annotated[bool, typer.Option("--attention", help="Also products of two activations.")] = False,
    recipe: user_models.Recipe = "robust",
    finetune: Annotated[
        str | None,
        typer.Option(help="module:function of (model): trains every network on before it is measured."),
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Keeps what is measured, and goes on with it; by default in --out.")
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    at_once: Annotated[int, typer.Option(help="Networks chosen before the next are measured.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the random changes at the end.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find formats for every layer: the cheapest networks at every value of a metric. Writes formats.yaml for quantize.

    Called again, it goes on with what its journal has.
    """
    import mxexport as mx
    from mxexport.searching.finding import FORMATS

    if workers is not None and scheduler is not None:
        raise OptionError("--workers and --scheduler: expected one of them")
    asked = {"target_fps": target_fps, "clock_mhz": clock_mhz, "part": part, "resources": resources}
    target = {name: value for name, value in (asked | {"budget": budget_of(budget)}).items() if value is not None}
    with stages() as stage:
        stage("loading the model")
        module = user_models.load(model, weights_file)
        if user_models.is_quantized(module):
            raise OptionError(f"{model} is quantized already; give the float model")
        result = mx.search(
            module,
            _data(data),
            metric if metric in ("accuracy", "agreement") else user_models.function(metric),
            formats or list(FORMATS),
            objective=objective,
            target=target or None,
            within=within,
            evaluations=evaluations,
            exclude=exclude or [],
            scale_rule=scale_rule,
            recipe=None if recipe == "none" else recipe,
            attention=attention,
            finetune=None if finetune is None else user_models.function(finetune),
            journal=journal or out / "journal.jsonl",
            cluster=_by_value(workers or scheduler, model, metric, *filter(None, [finetune])),
            at_once=at_once,
            seed=seed,
            progress=stage,
        )
    paths = result.write(out)
    if as_json:
        import json

        print_json(json.loads(result.to_json()))
        return
    console.print(repr(result), highlight=False, markup=False, soft_wrap=True)
    console.print(result)
    if result.kept:
        console.print(f"{result.kept} measurements were in the journal", highlight=False)
    for path in paths:
        print_path(path)


def _data(path: Path) -> Any:
    """(inputs, labels), or inputs alone: a tensor, or tensors by name."""
    import torch

    loaded = load_inputs(path)
    if not isinstance(loaded, dict):
        return torch.as_tensor(loaded)
    tensors = {name: torch.as_tensor(array) for name, array in loaded.items()}
    labels = tensors.pop(_LABELS, None)
    inputs = next(iter(tensors.values())) if len(tensors) == 1 else tensors
    return inputs if labels is None else (inputs, labels)


def _by_value(where: int | str | None, *names: str) -> int | str | None:
    """Workers need not find the user's modules: what is in them is sent as it is."""
    if where is not None:
        import sys

        import cloudpickle

        for name in names:
            if (module := sys.modules.get(user_models.module_name(name))) is not None:
                cloudpickle.register_pickle_by_value(module)
    return where
