"""The reset of an optimizer's state, in place.

At an advance the redrawn factors start afresh, and so must what the optimizer has gathered about them, while the rest
of its state goes on. Optimizers differ in what they keep, so each entry of a state is known by name, and an optimizer
with an unknown one is refused: a state that is half reset would train wrongly and say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lopsided.errors import LopsidedError
from lopsided.optim.groups import check_held
from lopsided.tuner.weight.sharded import gathered, overwrite

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


def reset_state(optimizer: Optimizer, parameters: Iterable[Tensor], *, prune: float = 1.0) -> None:
    """Reset, in place, the optimizer's state of some parameters.

    Every tensor of their state keeps its identity, so accelerate, schedulers and DDP notice nothing.

    Args:
        optimizer: a torch optimizer, or a wrapper of one.
        parameters: the redrawn factors.
        prune: share of the moments' entries that is set to zero, those with the smallest first moment. 1.0 makes
            the whole state, step count included, that of an optimizer that has not made a step; 0.0 keeps all of
            it, of whatever optimizer.

    Raises:
        LopsidedError: if the optimizer does not hold the parameters, as one with master copies does not, or keeps
            a state that this function can't start afresh. Nothing has changed then.
    """
    parameters = list(parameters)
    check_held(optimizer, parameters)
    if prune == 0.0:
        return
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    holders = _holders(optimizer)
    for holder in holders:
        for state in holder.state.values():
            _check_names(holder, state)
    states = [(p, h.state[p], groups[id(p)]) for p in parameters for h in holders if p in h.state]
    # Every check comes before the first change.
    for parameter, state, group in states:
        _check_forgettable(holders[-1], parameter, state, group, prune)
    for parameter, state, group in states:
        if prune == 1.0:
            _forget(state, group)
        else:
            _prune(_moments(state, parameter), prune)


def _holders(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers, of this one and those inside it, that have a state of their own, the innermost last.

    Accelerate's wrapper shows the state of what it wraps; ZeroRedundancyOptimizer does not.
    """
    optimizers = [optimizer]
    for outer in optimizers:
        values = (value if isinstance(value, (list, tuple)) else [value] for value in vars(outer).values())
        inside = [value for value in chain.from_iterable(values) if isinstance(value, Optimizer)]
        optimizers += [inner for inner in inside if inner not in optimizers]
    return list({id(holder.state): holder for holder in optimizers}.values())


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
