"""Optimizers that know which factor is which."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lopsided.errors import LopsidedError
from lopsided.tuner import LIVE_LAYERS, LopsidedLinear, layers_of
from lopsided.tuner.weight.sharded import gathered, overwrite


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


def reset_state(optimizer: Optimizer, parameters: Iterable[Tensor], *, prune: float = 1.0) -> None:
    """Forget, in place, what the optimizer has gathered about some parameters.

    Every tensor of their state keeps its identity, so accelerate, schedulers and DDP notice nothing.

    Args:
        optimizer: a torch optimizer, or a wrapper of one.
        parameters: the redrawn factors.
        prune: share of the moments' entries that is set to zero, those with the smallest first moment. 1.0 makes
            the whole state, step count included, that of an optimizer that has not made a step.

    Raises:
        LopsidedError: if the optimizer does not hold the parameters, as one with master copies does not, or keeps
            a state that this function can't start afresh. Nothing has changed then.
    """
    parameters = list(parameters)
    check_held(optimizer, parameters)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    holders = _holders(optimizer)
    for holder in holders:
        for state in holder.state.values():
            _check_names(holder, state)
    found = [(p, h.state[p], groups[id(p)]) for p in parameters for h in holders if p in h.state]
    for parameter, state, group in found:
        _check_forgettable(holders[-1], parameter, state, group, prune)
    for parameter, state, group in found:
        if prune == 1.0:
            _forget(state, group)
        else:
            _prune(_moments(state, parameter), prune)


def check_held(optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
    """Raise if some of the parameters are not the optimizer's, as with one that keeps master copies.

    Raises:
        LopsidedError: naming the optimizer.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(id(parameter) not in held for parameter in parameters):
        raise LopsidedError(
            "the optimizer does not hold the adapter's own factor: expected one built on the model's parameters, "
            f"got {type(optimizer).__name__}, which was built before the adapter or keeps master copies (ZeRO); "
            "chain with an optimizer that updates the parameters themselves"
        )


# What each part of a state holds before the first step, by its name in the optimizers of torch, transformers and
# bitsandbytes. Zero for most; `qmap` is the code book of an 8-bit state, and never changes.
FRESH: dict[str, Callable[[dict[str, Any]], float]] = {
    **dict.fromkeys(("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer"), lambda group: 0),
    **dict.fromkeys(("square_avg", "grad_avg", "acc_delta", "prev", "ax"), lambda group: 0),
    **dict.fromkeys(("row_var", "col_var", "variance", "exp_avg_sq_row", "exp_avg_sq_col", "RMS"), lambda group: 0),
    **dict.fromkeys(("state1", "state2", "absmax1", "absmax2"), lambda group: 0),
    "mu_product": lambda group: 1,
    "mu": lambda group: 1,
    "eta": lambda group: group["lr"],
    "step_size": lambda group: group["lr"],
    "sum": lambda group: group["initial_accumulator_value"],
}
KEPT = ("qmap1", "qmap2")


def _holders(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers, of this one and those inside it, that have a state of their own, the innermost last.

    Accelerate's wrapper shows the state of what it wraps; ZeroRedundancyOptimizer does not.
    """
    found = [optimizer]
    for outer in found:
        values = (value if isinstance(value, (list, tuple)) else [value] for value in vars(outer).values())
        found += [inner for inner in chain.from_iterable(values) if isinstance(inner, Optimizer) and inner not in found]
    return list({id(holder.state): holder for holder in found}.values())


def _check_names(optimizer: Optimizer, state: dict[str, Any]) -> None:
    # Of every parameter: LBFGS keeps what it knows about all of them with the first one.
    unknown = sorted(state.keys() - FRESH.keys() - set(KEPT))
    if unknown:
        raise _not_fresh(optimizer, f"its state holds {', '.join(unknown)}")


def _check_forgettable(
    optimizer: Optimizer, parameter: Tensor, state: dict[str, Any], group: dict[str, Any], prune: float
) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor) and type(value) not in (Tensor, type(parameter.data)):
            raise _not_fresh(optimizer, f"{name} of its state is a {type(value).__name__}")
    if "step" in group:
        raise _not_fresh(optimizer, "it counts the steps of all parameters together")
    if group.get("relative_step"):
        raise _not_fresh(optimizer, "relative_step=True takes the learning rate from the step count")
    if group.get("dampening"):
        raise _not_fresh(optimizer, f"dampening={group['dampening']} treats its first step apart")
    large = [value for value in state.values() if isinstance(value, Tensor) and value.numel() > 1]
    if prune != 1.0 and state and not (large and len(large) == len(_moments(state, parameter))):
        raise _not_fresh(optimizer, f"its state is not all moments of the factor's shape, to prune (prune={prune})")


def _not_fresh(optimizer: Optimizer, why: str) -> LopsidedError:
    return LopsidedError(
        f"{type(optimizer).__name__} can't forget one factor and go on with the rest: {why}; expected an optimizer "
        "such as torch.optim.AdamW; or call advance_chain without an optimizer, and build a new one for the next link"
    )


def _forget(state: dict[str, Any], group: dict[str, Any]) -> None:
    for name in state.keys() - set(KEPT):
        value, fresh = state[name], FRESH[name](group)
        if isinstance(value, Tensor):
            value.fill_(fresh)
        else:
            state[name] = type(value)(fresh)


def _moments(state: dict[str, Any], parameter: Tensor) -> list[Tensor]:
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return [tensor for tensor in tensors if tensor.shape == parameter.shape]


def _prune(moments: list[Tensor], share: float) -> None:
    # One mask for all moments, by the size of the first: a first moment that outlives its second one would
    # divide by almost nothing at the next step.
    if moments:
        first = gathered(moments[0])
        smallest = first.abs().flatten().topk(int(share * first.numel()), largest=False).indices
        for moment in moments:
            pruned = gathered(moment)
            pruned.view(-1)[smallest] = 0.0
            if pruned is not moment:
                overwrite(moment, pruned)


# A Trainer that was not told about factors builds one group for both. The first step of such an optimizer is
# stopped here, whether or not a callback of ours is in the Trainer.
_checked: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def _check_first_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer not in _checked:
        check_split(optimizer, (factors for layer in LIVE_LAYERS for factors in _split_factors(layer)))
        if any(group["lr"] for group in optimizer.param_groups):
            _checked.add(optimizer)


register_optimizer_step_pre_hook(_check_first_step)
