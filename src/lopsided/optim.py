"""Optimizers that know which factor is which."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lopsided.errors import LopsidedError
from lopsided.tuner import SPLIT_LAYERS, LopsidedLinear, layers_of


def param_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """The model's trainable parameters, grouped by what they are.

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
    """(A, B, lr_ratio) of every adapter whose factors want different learning rates."""
    for layer in layers_of(model).values():
        yield from _split_factors(layer)


def _split_factors(layer: LopsidedLinear) -> Iterable[tuple[Tensor, Tensor, float]]:
    for name, adapter in layer.adapters.items():
        if adapter.method.lr_ratio != 1.0:
            yield layer.lopsided_A[name], layer.lopsided_B[name], adapter.method.lr_ratio


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


def reset_state(optimizer: Any, parameters: Iterable[Tensor], *, prune: float = 1.0) -> None:
    """Forget, in place, what the optimizer has gathered about some parameters.

    Every tensor of their state keeps its identity, so accelerate, schedulers and DDP notice nothing.

    Args:
        optimizer: a torch optimizer, or accelerate's wrapper of one.
        parameters: the redrawn factors.
        prune: share of the moments' entries that is set to zero, those with the smallest first moment. 1.0 also
            sets the step count to zero, which makes the state a new one.

    Raises:
        LopsidedError: if the optimizer does not hold the parameters, as one with master copies does not.
    """
    state, held = optimizer.state, {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = list(parameters)
    for parameter in parameters:
        if id(parameter) not in held:
            raise LopsidedError(
                "the optimizer does not hold the adapter's own factor: expected one built on the model's parameters, "
                f"got {type(optimizer).__name__}, which was built before the adapter or keeps master copies (ZeRO); "
                "chain with an optimizer that updates the parameters themselves"
            )
    for parameter in parameters:
        if prune == 1.0:
            _forget(state.get(parameter, {}))
        else:
            _prune([v for v in state.get(parameter, {}).values() if _is_moment(v, parameter)], prune)


def _forget(state: dict[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor):
            value.zero_()
        elif isinstance(value, (int, float)):
            state[name] = type(value)(0)


def _is_moment(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _prune(moments: list[Tensor], share: float) -> None:
    # One mask for all moments, by the size of the first: a first moment that outlives its second one would
    # divide by almost nothing at the next step.
    if moments:
        smallest = moments[0].abs().flatten().topk(int(share * moments[0].numel()), largest=False).indices
        for moment in moments:
            moment.view(-1)[smallest] = 0.0


# A Trainer that was not told about factors builds one group for both. The first step of such an optimizer is
# stopped here, whether or not a callback of ours is in the Trainer.
_checked: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def _check_first_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer not in _checked:
        check_split(optimizer, (factors for layer in SPLIT_LAYERS for factors in _split_factors(layer)))
        if any(group["lr"] for group in optimizer.param_groups):
            _checked.add(optimizer)


register_optimizer_step_pre_hook(_check_first_step)
