"""Stock PEFT LoRA models over every kind of layer that merges exactly, small, with factors that are not zero."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import BdLoraConfig, MontecloraConfig, VeloraConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.tuner.weight.undo_records import INTEGERS

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Net(nn.Module):
    """One layer, a tanh, and a head that no adapter is on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.other = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


class Experts(nn.Module):
    """Three experts, each x·W[e], or W[e]·x where the weights are not transposed."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.is_transposed = transposed
        self.up = nn.Parameter(torch.randn(3, 6, 5) if transposed else torch.randn(3, 5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,eio->...eo" if self.is_transposed else "...i,eoi->...eo", x, self.up)


class Flat(nn.Module):
    """A matrix that is a parameter of no nn.Linear, as routers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.up.T


class Tied(nn.Module):
    """An embedding and a head with one weight, and a layer in between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.between = nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.between(self.embed(x))))


def channels_last() -> nn.Module:
    return nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 5),
    "large linear": lambda: nn.Linear(300, 400),
    "Conv1D": lambda: Conv1D(5, 6),
    "embedding": lambda: nn.Embedding(9, 6),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, (3, 2)),
    "conv2d 1x1": lambda: nn.Conv2d(4, 6, 1),
    "conv2d channels_last": channels_last,
    "conv3d": lambda: nn.Conv3d(2, 4, 2),
    "experts": lambda: Experts(False),
    "transposed experts": lambda: Experts(True),
    "flat parameter": Flat,
}
PARAMETERS = ("experts", "transposed experts", "flat parameter")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"layer": 3}, "alpha_pattern": {"layer": 7}},
    "bias": {"lora_bias": True},
    "dora": {"use_dora": True},
    "mica": {"init_lora_weights": "mica"},
    "velora": {"velora_config": VeloraConfig(num_groups=2)},
    "monteclora": {"monteclora_config": MontecloraConfig()},
    "bdlora": {"use_bdlora": BdLoraConfig(target_modules_bd_a=["layer"], nblocks=2)},
}
CASES = [
    *((layer, "plain") for layer in LAYERS),
    *(("linear", option) for option in OPTIONS if option != "plain"),
    *((layer, "rslora") for layer in ("Conv1D", "embedding", "conv2d", "experts")),
    *((layer, "dora") for layer in ("large linear", "Conv1D", "embedding", "conv1d", "conv2d channels_last", "conv3d")),
    *((layer, "bias") for layer in ("Conv1D", "conv2d")),
    ("embedding", "mica"),
]


def cases(dtypes: tuple[torch.dtype, ...] = DTYPES) -> list[tuple[str, str, torch.dtype]]:
    """Every case in every dtype; PEFT starts MiCA in no float64."""
    return [(*case, dtype) for case in CASES for dtype in dtypes if (case[1], dtype) != ("mica", torch.float64)]


def config(layer: str, option: str = "plain", **more: Any) -> LoraConfig:
    targets: dict[str, Any] = {"target_modules": ["layer"]}
    if layer in PARAMETERS:
        targets = {"target_modules": [], "target_parameters": ["layer.up"]}
    options = {"r": 2, "lora_alpha": 6, "init_lora_weights": False, **targets, **OPTIONS[option], **more}
    return LoraConfig(**options)


def stirred(model: nn.Module, seed: int = 0) -> nn.Module:
    """Noise in every trained number of every adapter, as training leaves it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                # Magnitudes near their norms, factors of the size that training gives them.
                parameter.mul_(1 + 0.1 * noise) if "magnitude" in name else parameter.add_(noise, alpha=0.1)
    return model


def lora(layer: str, option: str = "plain", dtype: torch.dtype = torch.float32, **more: Any) -> PeftModel:
    """A model with one adapter, "default"."""
    torch.manual_seed(0)
    net = Net(LAYERS[layer]()).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(net, config(layer, option, **more))
    return stirred(model).eval()


def tied(dtype: torch.dtype = torch.float32, targets: tuple[str, ...] = ("embed", "between", "head")) -> PeftModel:
    torch.manual_seed(0)
    options = {"r": 2, "init_lora_weights": False, "target_modules": list(targets)}
    return stirred(get_peft_model(Tied().to(dtype), LoraConfig(**options))).eval()


def three_layers(dtype: torch.dtype = torch.bfloat16, **options: Any) -> PeftModel:
    """Three linear layers, of several tiles the first one."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(400, 300), nn.Tanh(), nn.Linear(300, 40), nn.Tanh(), nn.Linear(40, 3)).to(dtype)
    options = {"r": 2, "init_lora_weights": False, "target_modules": ["0", "2", "4"], **options}
    return stirred(get_peft_model(net, LoraConfig(**options))).eval()


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of every parameter of the base model, by its name there."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if "lora_" not in name and "lopsided_" not in name
    }


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and not changed(one, other)


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, int]:
    """How many weights have other bits, by name, where any have."""
    counts = {name: int((bits(one[name]) != bits(other[name])).sum()) for name in one}
    return {name: count for name, count in counts.items() if count}


def bits(weight: Tensor) -> Tensor:
    return weight.contiguous().view(INTEGERS[weight.dtype])
