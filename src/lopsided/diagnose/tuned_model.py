"""The linear layers of a tuned model: their weights before training, and what training added.

Notation: a layer maps d_in to d_out; W0 is (d_out, d_in), whichever way round its module holds it. ΔW = Σ_t Δ_t over
the links t of a chain, oldest first. Δ_t = left·right with left of (d_out, r), which has the scale s in it, and right
of (r, d_in).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
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
        """Return Δ_t: (d_out, d_in), float64."""
        return self.left.double() if self.right is None else self.left.double() @ self.right.double()

    def energy(self) -> float:
        """Return ‖Δ_t‖_F² = tr(leftᵀ·left · right·rightᵀ)."""
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
        """What layers of one role share: the name after its last number, such as `attention.self.query`."""
        parts = self.module.split(".")
        numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
        return ".".join(parts[numbers[-1] + 1 :] if numbers else parts[-1:])

    @property
    def is_dense(self) -> bool:
        """Whether the whole matrix moved, so that ΔW has no factors."""
        return any(link.right is None for link in self.links)

    @property
    def fault(self) -> str:
        """Why nothing can be computed of the layer; empty if its weight and its update are finite."""
        parts = [part for link in self.links for part in (link.left, link.right) if part is not None]
        if not all_finite(self.weight):
            return f"{self.module}: the weight holds NaN or Inf"
        return "" if all_finite(*parts) else f"{self.module}: the update holds NaN or Inf"

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return L and R with ΔW = L·R, of all links together: (d_out, Σr), (Σr, d_in), float64."""
        pairs = [(link.left, link.right) for link in self.links if link.right is not None]
        assert len(pairs) == len(self.links), "a dense update has no factors"
        return torch.cat([L for L, _ in pairs], dim=1).double(), torch.cat([R for _, R in pairs], dim=0).double()

    def delta(self) -> Tensor:
        """Return ΔW: (d_out, d_in), float64."""
        if self.is_dense:
            return torch.stack([link.dense() for link in self.links]).sum(0)
        left, right = self.factors()
        return left @ right


@dataclass(frozen=True, eq=False, kw_only=True)
class TunedModel:
    """A tuned model, as the sections see it.

    Args:
        name: of the run's or the adapter's folder.
        id: the first 12 hexadecimal digits of the SHA-256 of `run.json`, or of the adapter's weights.
        layers: what was tuned, in the model's order.
        factors: A of (r, d_in) and B of (d_out, r) by letter and module, without the scale, of a chain's last link that
            learned; a selector is written out as a matrix. Empty for full fine-tuning.
    """

    name: str
    id: str
    layers: tuple[Layer, ...]
    factors: Factors


def check_computable(layers: Sequence[Layer]) -> None:
    """Raise if there are layers and every one of them holds NaN or Inf."""
    faults = [layer.fault for layer in layers]
    if faults and all(faults):
        raise LopsidedError(
            f"{faults[0]}, and so do all {len(faults)} layers; expected finite numbers; go back to a good checkpoint"
        )


@torch.no_grad()
def moved_layers(base: nn.Module, tuned: nn.Module) -> tuple[Layer, ...]:
    """Return the linear layers of a model that was trained whole; a head has nothing to be compared with."""
    layers = []
    for name, module in linear_maps(base):
        before, after = _matrix(module), _matrix(tuned.get_submodule(name))
        layers.append(Layer(name, before, (Update(after - before),)))
    return tuple(layers)


@torch.no_grad()
def adapted_layers(model: PeftModel, adapter: str = "default") -> tuple[tuple[Layer, ...], Factors]:
    """Return the layers with an adapter, of PEFT or of ours, and the factors of the last link that learned.

    Other methods of PEFT than LoRA have no factors, and a dense ΔW.

    Where a weight is float32 on the CPU, the layer holds the model's own tensor and no copy.
    """
    layers: list[Layer] = []
    factors: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LopsidedLinear):
            weight, scaling = module.base_weight.original().float(), module.scaling[adapter]
            terms = [term.dense() for term in module.terms(adapter, torch.device("cpu"))]
        elif isinstance(module, BaseTunerLayer) and not _is_plain_lora(module):
            layers.append(_dense_layer(name, module))
            continue
        elif isinstance(module, LoraLinear) and adapter in module.lora_A:
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
    return tuple(layers), factors if factors["A"] else NO_FACTORS


def _is_plain_lora(module: BaseTunerLayer) -> bool:
    # DoRA is a variant.
    return isinstance(module, LoraLinear) and not module.lora_variant


def _dense_layer(name: str, module: BaseTunerLayer) -> Layer:
    """Return the layer of a method of PEFT that is no plain LoRA: what merging it would add."""
    twin = copy.deepcopy(module)
    twin.merge()
    before, after = _matrix(module.get_base_layer()), _matrix(twin.get_base_layer())
    return Layer(name, before, (Update(after - before),))


def _matrix(module: nn.Module) -> Tensor:
    """A linear module's weight as (d_out, d_in), float32, on the CPU."""
    assert isinstance(module.weight, Tensor)
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    return _plain(weight)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()
