"""Batches in which every row has its adapter."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.tuner.forward.rows import unmerged_links
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.model_queries import layers_of
from lopsided.tuner.parameters.adapted_parameters import AdaptedParameters

BASE = "__base__"


@contextmanager
def mixed_batch(
    model: Any, adapter_names: list[str], *, num_beams: int | None, known: Collection[str]
) -> Iterator[None]:
    """Compute row i of every adapted layer's input with the i-th adapter name, inside the context.

    Args:
        adapter_names: one name per row of the batch; "__base__" for the model without adapters.
        num_beams: of a beam search, which repeats every row so many times, but not in an encoder.
        known: names of the model's adapters.

    Raises:
        LopsidedError: in training mode, or for an unknown adapter.
    """
    if model.training:
        raise LopsidedError("adapter_names is for inference, got a model in training mode; call model.eval()")
    if not isinstance(adapter_names, (list, tuple)):
        raise LopsidedError(f"adapter_names must be a list with one name per row, got {type(adapter_names).__name__}")
    for name in adapter_names:
        if name != BASE and name not in known:
            raise LopsidedError(f"no adapter is named {name!r}; expected {', '.join(known)} or {BASE}")
    if any(isinstance(module, AdaptedParameters) for module in model.modules()):
        raise LopsidedError(
            "adapter_names gives every row an adapter, and experts and routers with adapters see tokens without rows; "
            "expected a model whose layers alone are adapted; run the rows of each adapter by themselves"
        )
    repeated = [name for name in adapter_names for _ in range(num_beams or 1)]
    encoder = model.get_encoder() if num_beams and model.config.is_encoder_decoder else None
    unrepeated = set(encoder.modules()) if encoder is not None else set()
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (LopsidedLinear, AuxiliaryTrainingWrapper)):
                names = list(adapter_names) if module in unrepeated else repeated
                handle = module.register_forward_pre_hook(_naming(names), with_kwargs=True)
                stack.callback(handle.remove)
        for layer in layers_of(model).values():
            stack.enter_context(unmerged_links(layer))
        yield


def _naming(names: list[str]) -> Any:
    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return args, {**kwargs, "adapter_names": names}

    return add
