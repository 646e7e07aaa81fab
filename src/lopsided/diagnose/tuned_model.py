"""What is looked at: the linear layers of a tuned model, before training and what training added.

Notation: a layer maps d_in to d_out; W0 is (d_out, d_in), whichever way round its module holds it. ΔW = Σ_t Δ_t over
the links t of a chain, oldest first. Δ_t = left·right with left of (d_out, r), which has the scale s in it, and right
of (r, d_in).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.diagnose.saved_adapter import load_adapter
from lopsided.errors import LopsidedError
from lopsided.files.atomic import file_hash
from lopsided.files.untrusted import weights_in
from lopsided.method import method_from_parts
from lopsided.runs.directory import ID_DIGITS, run_id
from lopsided.runs.reload import base_of, finished_run, reload
from lopsided.theory.dims import linear_maps
from lopsided.tuner import LopsidedLinear

# By letter ("A", "B"), then by module.
Factors = Mapping[str, Mapping[str, Tensor]]
NO_FACTORS: Factors = {}


@dataclass(frozen=True, eq=False)
class Update:
    """What one link added: left·right, or left alone where full fine-tuning moved the whole matrix.

    Shapes:
        left: (d_out, r), the scale in it; right: (r, d_in). Without right, left is (d_out, d_in).
    """

    left: Tensor
    right: Tensor | None = None

    def dense(self) -> Tensor:
        """Δ_t: (d_out, d_in), float64."""
        return self.left.double() if self.right is None else self.left.double() @ self.right.double()

    def energy(self) -> float:
        """‖Δ_t‖_F² = tr(leftᵀ·left · right·rightᵀ)."""
        left = self.left.double()
        if self.right is None:
            return float(left.square().sum())
        right = self.right.double()
        energy = float(((left.T @ left) * (right @ right.T)).sum())
        # Rounding may take it below zero. Not by `max`, which would make a zero of NaN as well.
        return 0.0 if energy < 0 else energy


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear layer.

    Args:
        module: its name in the base model.
        weight: W0 as (d_out, d_in), float32.
        links: the Δ_t, oldest first; one for a method without a chain.
    """

    module: str
    weight: Tensor
    links: tuple[Update, ...]

    @property
    def kind(self) -> str:
        """What layers of one role share: the part of the name after the last number, such as `attention.self.query`."""
        parts = self.module.split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
        return ".".join(parts[numbers[-1] + 1 :] if numbers else parts[-1:])

    @property
    def is_dense(self) -> bool:
        return any(link.right is None for link in self.links)

    @property
    def fault(self) -> str:
        """Why nothing can be computed of the layer; empty if its weight and its update are finite."""
        parts = [part for link in self.links for part in (link.left, link.right) if part is not None]
        if not bool(torch.isfinite(self.weight).all()):
            return f"{self.module}: the weight holds NaN or Inf"
        return (
            "" if all(bool(torch.isfinite(p).all()) for p in parts) else f"{self.module}: the update holds NaN or Inf"
        )

    def factors(self) -> tuple[Tensor, Tensor]:
        """ΔW = L·R of all links together: (d_out, Σr), (Σr, d_in), float64."""
        pairs = [(link.left, link.right) for link in self.links if link.right is not None]
        assert len(pairs) == len(self.links), "a dense update has no factors"
        return torch.cat([L for L, _ in pairs], dim=1).double(), torch.cat([R for _, R in pairs], dim=0).double()

    def delta(self) -> Tensor:
        """ΔW: (d_out, d_in), float64."""
        if self.is_dense:
            return torch.stack([link.dense() for link in self.links]).sum(0)
        left, right = self.factors()
        return left @ right


@dataclass(frozen=True, eq=False)
class Subject:
    """A tuned model, as the diagnostics see it.

    Args:
        name: of the run's or the adapter's folder.
        id: the first 12 hexadecimal digits of the SHA-256 of `run.json`, or of the adapter's weights.
        layers: what was tuned, in the model's order.
        factors: A of (r, d_in) and B of (d_out, r) by letter and module, without the scale, of a chain's last link that
            learned; a selector is written out as a matrix. Empty for full fine-tuning.
        load: makes the tuned model.
    """

    name: str
    id: str
    layers: tuple[Layer, ...]
    factors: Factors
    load: Callable[[], nn.Module]

    def merged(self) -> nn.Module:
        """The tuned model as a plain module in evaluation mode, W0 + ΔW in its weights; loaded anew at each call."""
        model = self.load()
        if isinstance(model, PeftModel):
            model = model.merge_and_unload()
        return model.eval()


def subject_of_run(folder: str | Path) -> Subject:
    """A finished run of `lopsided train` or `compare`.

    Raises:
        LopsidedError: if the folder holds no finished run, or the run trained a head alone.
    """
    folder = Path(folder)
    record = finished_run(folder)
    method = method_from_parts(record["method"])
    if method.side.head_alone:
        raise LopsidedError(
            f"{folder}: method {method.name!r} trains a head alone; expected a run that changes linear layers; choose "
            "a run of another method"
        )
    tuned: Any = reload(folder)
    layers, factors = _adapted(tuned) if method.is_adapter else (_moved(base_of(record), tuned), NO_FACTORS)
    return Subject(folder.resolve().name, run_id(folder), layers, factors, lambda: reload(folder))


def subject_of_adapter(folder: str | Path, base: str, *, allow_base_mismatch: bool = False) -> Subject:
    """A saved LoRA adapter of PEFT, or one of Lopsided's, on its base.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        base: `embedded`, `smollm2`, a folder or a Hugging Face name.
        allow_base_mismatch: for Lopsided's adapters, which know the base that they were trained on.

    Raises:
        LopsidedError: if there is no such adapter or base, if they don't fit, or if the adapter does anything but add a
            low-rank product to linear layers.
    """
    folder = Path(folder)

    def load() -> PeftModel:
        return load_adapter(folder, base, allow_base_mismatch=allow_base_mismatch)

    layers, factors = _adapted(load())
    return Subject(folder.resolve().name, file_hash(weights_in(folder))[:ID_DIGITS], layers, factors, load)


@torch.no_grad()
def _moved(base: nn.Module, tuned: nn.Module) -> tuple[Layer, ...]:
    """The linear layers of a model that was trained whole; a head has nothing to be compared with."""
    layers = []
    for name, module in linear_maps(base):
        before, after = _matrix(module), _matrix(tuned.get_submodule(name))
        layers.append(Layer(name, before, (Update(after - before),)))
    return tuple(layers)


@torch.no_grad()
def _adapted(model: PeftModel, adapter: str = "default") -> tuple[tuple[Layer, ...], Factors]:
    """The layers with an adapter, of PEFT's LoRA or of ours."""
    layers: list[Layer] = []
    factors: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LopsidedLinear):
            weight, scaling = module.base_weight.original().float(), module.scaling[adapter]
            terms = [term.dense() for term in module.terms(adapter, torch.device("cpu"))]
        elif "lora_A" in dict(module.named_children()) and adapter in module.lora_A:
            assert isinstance(module.base_layer, nn.Module)
            weight, scaling = _matrix(module.base_layer), module.scaling[adapter]
            terms = [(module.lora_A[adapter].weight, module.lora_B[adapter].weight)]
        else:
            continue
        pairs = [(_plain(A), _plain(B)) for A, B in terms]
        layers.append(Layer(name, weight, tuple(Update(scaling * B, A) for A, B in pairs)))
        # A link that has only begun has learned nothing that could be compared.
        learned = [pair for pair in pairs if all(bool(factor.any()) for factor in pair)]
        factors["A"][name], factors["B"][name] = (learned or pairs)[-1]
    return tuple(layers), factors


def _matrix(module: nn.Module) -> Tensor:
    """A linear module's weight as (d_out, d_in), float32, on the CPU."""
    assert isinstance(module.weight, Tensor)
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    return _plain(weight)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()
