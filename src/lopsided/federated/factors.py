"""What clients and the server send each other of a model: the trained factors of a link, and what trains with them.

Notation: in link t a layer computes W_t·x + s·B·A·x, where one factor trains and the other one is a sketch S of (r, d)
that the seed, the layer's name and t decide. A row of the sketch belongs to a column of B, or to a row of A. Everybody
who stands at the same link with the same seed has the same S, so only the trained factor is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from peft import PeftModel
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
from lopsided.models.heads import is_inside, task_heads
from lopsided.optim.advance import advance_chain
from lopsided.tuner.arrivals import check_loaded, check_unmerged
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.model_queries import layers_of, layers_with
from lopsided.tuner.state_modules import without_wrappers
from lopsided.tuner.weight.sharded import gathered, overwrite

# Of B a row of the sketch is a column; a coin's C holds Bᵀ or A, so that there it is a row either way.
ROW_AXES = {"A": 0, "B": 1, "C": 0}
_FACTOR = re.compile(r"\.lopsided_([ABC])\.[^.]+\.weight$")


def row_axis(name: str) -> int | None:
    """Return the axis of a trained factor that counts the sketch's rows, by its live name; None for other tensors.

    Example:
        >>> row_axis("query.lopsided_B.default.weight"), row_axis("query.lopsided_A.default.weight")
        (1, 0)
        >>> row_axis("classifier.weight") is None
        True
    """
    factor = _FACTOR.search(name)
    return None if factor is None else ROW_AXES[factor[1]]


def trained_tensors(model: nn.Module, adapter: str = "default") -> dict[str, Tensor]:
    """Return copies of everything that trains, by live names: factors of the link in training, heads, other weights.

    Buffers, as running means, are no part of it: each model keeps its own.

    Args:
        model: from `lopsided.adapt`, or any other model: of that all parameters that require gradients.
        adapter: which Lopsided adapter, where the model has any.

    Shapes:
        each as it is in the model; float32 on the CPU.

    Raises:
        LopsidedError: if nothing trains, the model has Lopsided adapters but not this one, or they are merged.
    """
    return {
        name: gathered(parameter.detach()).to("cpu", torch.float32, copy=True)
        for name, parameter in trained_parameters(model, adapter).items()
    }


def load_trained(model: nn.Module, tensors: Mapping[str, Tensor], adapter: str = "default") -> None:
    """Set everything that trains to these tensors, in place.

    Args:
        model, adapter: as for `trained_tensors`.
        tensors: floating-point ones, by the names that `trained_tensors` gives.

    Raises:
        LopsidedError: for a missing or unexpected name, another shape or dtype, or NaN or Inf. Nothing has
            changed then.
    """
    live = trained_parameters(model, adapter)
    check_names(tensors, live, "the tensors to load")
    for name, parameter in live.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape or not tensor.is_floating_point():
            raise LopsidedError(
                f"{name}: expected floating-point numbers of shape {list(parameter.shape)}, got {tensor.dtype} of "
                f"{list(tensor.shape)}; load tensors of the same model, method and rank"
            )
        if not all_finite(tensor):
            raise LopsidedError(f"{name} holds NaN or Inf; expected finite numbers; leave out the client that sent it")
    for name, parameter in live.items():
        overwrite(parameter, tensors[name].to(parameter.dtype))


def check_names(names: Iterable[str], expected: Iterable[str], what: str) -> None:
    """Raise unless two sets of names are equal.

    Raises:
        LopsidedError: naming the first missing or unexpected tensor.
    """
    if problem := difference_of_names(names, expected):
        raise LopsidedError(
            f"{what}: {problem}; expected those of this model, method and heads; load tensors of the same run"
        )


def difference_of_names(names: Iterable[str], expected: Iterable[str], what: str = "tensors") -> str:
    """Return how two sets of names differ, in words, or "".

    Args:
        what: the names' owners, in words.

    Example:
        >>> difference_of_names(["a", "c"], ["a", "b"])
        "1 of 2 tensors missing ('b'), 1 foreign ('c')"
        >>> difference_of_names(["b", "a"], ["a", "b"])
        ''
    """
    present, wanted = set(names), set(expected)
    missing, foreign = sorted(wanted - present), sorted(present - wanted)
    parts = [f"{len(missing)} of {len(wanted)} {what} missing ({missing[0]!r:.100})"] if missing else []
    # A foreign name is somebody else's text: it is shown as a literal, and not at any length.
    parts += [f"{len(foreign)} foreign ({foreign[0]!r:.100})"] if foreign else []
    return ", ".join(parts)


def head_names(model: nn.Module, adapter: str = "default") -> list[str]:
    """Return those names of `trained_tensors` that belong to the task's head, whose bytes are counted apart."""
    heads = [] if isinstance(model, PeftModel) else task_heads(model)
    names = trained_parameters(model, adapter)
    return [name for name in names if ".modules_to_save." in name or is_inside(name, heads)]


def link_of(model: nn.Module, adapter: str = "default") -> int:
    """Return the link that the adapter stands at, from 0; 0 for a model without Lopsided adapters."""
    layers = _adapted(model, adapter)
    return next(iter(layers.values())).adapters[adapter].link if layers else 0


def advance_to(model: nn.Module, link: int, adapter: str = "default") -> None:
    """End links until the adapter stands at `link`: what trains is merged, and the next sketch drawn from the seed.

    Args:
        model, adapter: as for `trained_tensors`.
        link: where the adapter is to stand; its present link changes nothing.

    Raises:
        LopsidedError: if the adapter has passed that link already, or the method has no chain.
    """
    present = link_of(model, adapter)
    if link < present:
        raise LopsidedError(
            f"the adapter stands at link {present}, and link {link} is past; expected a later one; begin with the base "
            "model and replay the log of rounds"
        )
    if link > present and not _adapted(model, adapter):
        raise LopsidedError(f"link {link} needs a method with a chain; the model has no Lopsided adapter; use link 0")
    for _ in range(link - present):
        advance_chain(model, adapter_name=adapter)


def trained_parameters(model: nn.Module, adapter: str = "default") -> dict[str, nn.Parameter]:
    """Return the parameters that train by their live names, without what wrappers put into these.

    Raises:
        LopsidedError: as `trained_tensors` does.
    """
    for layer in _adapted(model, adapter).values():
        # A merged layer computes with a base weight that would not follow a new factor.
        check_unmerged(layer, adapter)
        check_loaded(layer, adapter)
    parameters = {without_wrappers(name): p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise LopsidedError(
            f"nothing of {type(model).__name__} trains; expected trained factors or weights; adapt it, and leave "
            "inference_mode off"
        )
    return parameters


def _adapted(model: nn.Module, adapter: str) -> dict[str, LopsidedLinear]:
    """Return the layers with the adapter; none where the model has no Lopsided adapter at all."""
    return layers_with(model, adapter) if layers_of(model) else {}
