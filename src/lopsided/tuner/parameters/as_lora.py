"""Adapters of parameters as stock PEFT's LoRA holds them.

PEFT wraps a module once for each of its adapted parameters, the first one innermost, and stacks the experts' factors:
lora_A of (E·r, ·) holds one expert after the other, and the columns of lora_B, (·, r·E), take the experts in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lopsided.tuner.kinds.parameter import MatrixKind
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.parameters.adapted_parameters import AdaptedParameters

Factors = Callable[[LopsidedLinear], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ParameterUpdate:
    """ΔW of a parameter in PEFT's form.

    Args:
        tensors: lora_A and lora_B, by their whole names.
        rank: of each matrix.
    """

    tensors: Mapping[str, Tensor]
    rank: int


def parameters_as_lora(model: nn.Module, adapter: str, factors_of: Factors) -> dict[str, ParameterUpdate]:
    """Return what an adapter adds to parameters, by the parameters' names in the model.

    Args:
        factors_of: gives A of (r, d_in) and B of (d_out, r) of one matrix, with the scale in one of them.
    """
    found: dict[str, ParameterUpdate] = {}
    for name, module in model.named_modules():
        if not isinstance(module, AdaptedParameters):
            continue
        stored = [parameter for parameter, _ in module.base_layer.named_parameters(recurse=False)]
        adapted = [p for p in stored if p in module.names and adapter in module.layers(p)[0].adapters]
        for depth, parameter in enumerate(reversed(adapted)):
            inside = ".base_layer" * depth
            pairs = [_stored(layer, *factors_of(layer)) for layer in module.layers(parameter)]
            lora = _stacked(pairs, turned=bool(vars(module.base_layer).get("is_transposed", False)) and len(pairs) > 1)
            tensors = {f"{name}{inside}.lora_{letter}.weight": tensor for letter, tensor in zip("AB", lora)}
            found[f"{name}.{parameter}"] = ParameterUpdate(tensors, len(pairs[0][1]))
    return found


def _stored(layer: LopsidedLinear, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return L and R with ΔW = L·R as the matrix is stored."""
    assert isinstance(layer.kind, MatrixKind)
    return (A.T, B.T) if layer.kind.transposed else (B, A)


def _stacked(pairs: list[tuple[Tensor, Tensor]], *, turned: bool) -> tuple[Tensor, Tensor]:
    """Return lora_A and lora_B of a stack.

    Args:
        turned: whether PEFT, too, takes the stack for (E, d_in, d_out).
    """
    rows = [(L.T, R.T) if turned else (R, L) for L, R in pairs]
    return torch.cat([A for A, _ in rows]), torch.stack([B for _, B in rows], dim=-1).flatten(1)
