"""Parameter groups for optimizers that know which factor is which, and checks of those that should."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lopsided.errors import LopsidedError
from lopsided.tuner import LIVE_LAYERS, LopsidedLinear, layers_of


def param_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Group the model's trainable parameters by what they are.

    B-factors learn at lr_ratio·lr and everything else at lr, where lr_ratio is the method's lr_B / lr_A
    (16 for LoRA+, 1 otherwise). Biases and norms, which are vectors, are not decayed.

    Args:
        model: a model with or without adapters.
        lr: learning rate of A-factors, heads and base weights.
        weight_decay: for matrices.

    Returns:
        Groups for any torch optimizer, each with a `name`.

    Source:
        Hayou et al. 2024, arXiv:2402.12354: the ratio, not two rates multiplied and divided by it.

    Example:
        >>> import torch, lopsided
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> model = lopsided.adapt(net, "lora_plus", r=2, target_modules="all-linear")
        >>> [group["name"] for group in param_groups(model, lr=1e-3)]
        ['lr x 1', 'lr x 16']
    """
    ratios = {id(B): ratio for _, B, ratio in split_factors(model)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((ratios.get(id(parameter), 1.0), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * ratio,
            "weight_decay": weight_decay if is_matrix else 0.0,
            "name": f"lr x {ratio:g}" + ("" if is_matrix else ", not decayed"),
        }
        for (ratio, is_matrix), parameters in groups.items()
    ]


def split_factors(model: nn.Module) -> Iterable[tuple[Tensor, Tensor, float]]:
    """Yield (A, B, lr_ratio) of every adapter whose factors want different learning rates."""
    for layer in layers_of(model).values():
        yield from _split_factors(layer)


def _split_factors(layer: LopsidedLinear) -> Iterable[tuple[Tensor, Tensor, float]]:
    for name, adapter in layer.adapters.items():
        if adapter.method.lr_ratio != 1.0:
            factors = layer.trained(name)
            yield factors["A"], factors["B"], adapter.method.lr_ratio


def check_split(optimizer: Optimizer, factors: Iterable[tuple[Tensor, Tensor, float]]) -> None:
    """Raise if an optimizer that holds both factors gives them one learning rate.

    Raises:
        LopsidedError: naming the ratio that the method wants.
    """
    rates = {id(p): g.get("initial_lr", g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    for A, B, ratio in factors:
        trained = A.requires_grad and B.requires_grad and id(A) in rates and id(B) in rates
        # A rate of zero says nothing yet: it is a warm-up's.
        if trained and rates[id(A)] == rates[id(B)] != 0.0:
            raise LopsidedError(
                f"this method wants lr_B / lr_A = {ratio:g}, got one learning rate {rates[id(A)]:g} for both; pass "
                "the optimizer torch.optim.AdamW(lopsided.param_groups(model, lr=...)), for Trainer as "
                "optimizers=(optimizer, None)"
            )


def check_held(optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
    """Raise if some of the parameters are not the optimizer's, as with one that keeps master copies.

    Raises:
        LopsidedError: naming the optimizer.
    """
    ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(id(parameter) not in ids for parameter in parameters):
        raise LopsidedError(
            "the optimizer does not hold the adapter's own factor: expected one built on the model's parameters, "
            f"got {type(optimizer).__name__}, which was built before the adapter or keeps master copies (ZeRO); "
            "chain with an optimizer that updates the parameters themselves"
        )


# Optimizers whose learning rates were seen and are right.
_checked: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def check_first_step(optimizer: Optimizer) -> None:
    """Raise before an optimizer's first step if it gives one learning rate to factors that want two.

    A Trainer that was not told about factors builds one group for both. It is stopped here, whether or not it has a
    callback of ours.

    Raises:
        LopsidedError: from `check_split`.
    """
    if optimizer not in _checked:
        check_split(optimizer, (factors for layer in LIVE_LAYERS for factors in _split_factors(layer)))
        if any(group["lr"] for group in optimizer.param_groups):
            _checked.add(optimizer)
