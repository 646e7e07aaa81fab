"""The layers of a model that a method would adapt, and the numbers that it would train without adapters.

Notation: a layer maps d_in to d_out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel, TaskType
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers, check_target_module_exists
from torch import nn
from transformers.pytorch_utils import Conv1D

from lopsided.errors import LopsidedError
from lopsided.models.heads import is_inside, task_heads
from lopsided.tuner import LopsidedConfig, LopsidedLinear

OF_ADAPTERS = (".lopsided_", ".lora_", ".modules_to_save.")


@dataclass(frozen=True, kw_only=True)
class LayerDims:
    """One adapted layer: its module's name and its widths."""

    module: str
    d_out: int
    d_in: int

    def __post_init__(self) -> None:
        if self.d_out < 1 or self.d_in < 1:
            raise LopsidedError(
                f"layer {self.module!r} maps {self.d_in} to {self.d_out} numbers; expected widths of at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class ModelNumbers:
    """The numbers of a model that a bound counts.

    Args:
        layers: those with an adapter, or those that would get one.
        whole: every number of the model, embeddings, norms, biases and a head included; None where only its layers are
            known.
        head: the numbers of a task's head; None where the model has none, or only its layers are known.
    """

    layers: tuple[LayerDims, ...]
    whole: int | None = None
    head: int | None = None


def model_numbers(
    model: nn.Module | Iterable[LayerDims] | Iterable[tuple[int, int]],
    target_modules: str | Sequence[str] = "all-linear",
) -> ModelNumbers:
    """Count a model for a bound: the layers of `layer_dims`, and of a model all of its numbers and its head's.

    Args:
        model: as it is trained, with its task's head: a backbone alone may have a pooler that the class of the task
            lacks. Or layers that are already listed.
        target_modules: as for `layer_dims`.

    Units:
        Numbers, each counted once.

    Source:
        The numbers for which `lopsided train` computes gradients.

    Raises:
        LopsidedError: as `layer_dims` does.
    """
    layers = tuple(layer_dims(model, target_modules))
    if not isinstance(model, nn.Module):
        return ModelNumbers(layers=layers)
    root = model.get_base_model() if isinstance(model, PeftModel) else model
    heads = task_heads(root)
    # The model without its adapters: their own factors, and the copies of a head that PEFT trains.
    sizes = {n: p.numel() for n, p in root.named_parameters() if not any(mark in n for mark in OF_ADAPTERS)}
    head = sum(size for name, size in sizes.items() if is_inside(name, heads))
    return ModelNumbers(layers=layers, whole=sum(sizes.values()), head=head if heads else None)


def layer_dims(
    layers: nn.Module | Iterable[LayerDims] | Iterable[tuple[int, int]],
    target_modules: str | Sequence[str] = "all-linear",
) -> list[LayerDims]:
    """List the layers that have an adapter, or would get one.

    Args:
        layers: a model; or layers that are already listed, as `LayerDims` or as pairs (d_out, d_in).
        target_modules: for a model without Lopsided adapters, which of its linear layers: their names' ends, a regular
            expression, or "all-linear" for all but a head. A model that has adapters is read as it is.

    Units:
        Numbers of inputs and outputs.

    Source:
        The widths m_i and n_i of Cadenhead et al. 2026, arXiv:2606.13767, Table 1.

    Raises:
        LopsidedError: if the model has no such layer, or a layer's widths cannot be read.
    """
    if not isinstance(layers, nn.Module):
        entries: list[LayerDims | tuple[int, int]] = list(layers)
        listed = [
            entry if isinstance(entry, LayerDims) else LayerDims(module=str(i), d_out=entry[0], d_in=entry[1])
            for i, entry in enumerate(entries)
        ]
        if not listed:
            raise LopsidedError("expected at least one layer, got none; pass a model, or pairs (d_out, d_in)")
        return listed
    adapted = [
        LayerDims(module=name, d_out=module.out_features, d_in=module.in_features)
        for name, module in layers.named_modules()
        if isinstance(module, LopsidedLinear)
    ]
    listed = adapted or [_dims(name, module) for name, module in linear_maps(layers, target_modules)]
    if not listed:
        kinds = sorted({type(m).__name__ for m in layers.modules() if any(True for _ in m.parameters(recurse=False))})
        raise LopsidedError(
            f"expected linear layers named {target_modules!r}, found none; the model is made of {', '.join(kinds)}; "
            "name other target_modules, or pass pairs (d_out, d_in)"
        )
    return listed


def linear_maps(
    model: nn.Module, target_modules: str | Sequence[str] = "all-linear"
) -> list[tuple[str, nn.Linear | Conv1D]]:
    """List the linear layers of a model that `lopsided.adapt` would adapt, by name, in the model's own order."""
    heads = task_heads(model)
    config = LopsidedConfig(
        method="cla",
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        task_type=TaskType.SEQ_CLS if heads else None,
    )
    config = _maybe_include_all_linear_layers(config, model)
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and not is_inside(name, heads)
        and check_target_module_exists(config, name)
    ]


def _dims(name: str, module: nn.Linear | Conv1D) -> LayerDims:
    """The widths of a layer, read off its weight, which Conv1D keeps transposed."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    if weight.dim() != 2:
        raise LopsidedError(
            f"the widths of {name} can't be read from a weight of shape {tuple(weight.shape)}; expected a matrix; "
            "pass pairs (d_out, d_in)"
        )
    d_out, d_in = weight.shape if isinstance(module, nn.Linear) else weight.shape[::-1]
    return LayerDims(module=name, d_out=d_out, d_in=d_in)
