"""A model and a method make a `peft.PeftModel`."""

from __future__ import annotations

from typing import Any

from peft import NoMatchingPeftModuleError, PeftModel, get_peft_model
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.method import Method
from lopsided.models.heads import modules_to_save, task_type
from lopsided.tuner import LopsidedConfig
from lopsided.tuner.targets import linear_names


def adapt(
    model: nn.Module,
    method: str | Method,
    *,
    r: int = 8,
    alpha: float | None = None,
    target_modules: list[str] | str | None = None,
    links: int | None = None,
    every: int | None = None,
    seed: int = 0,
    adapter_name: str = "default",
    **options: Any,
) -> PeftModel:
    """Put an adapter of one method on a model, in place.

    Each targeted layer then computes W0·x + (alpha/r)·B·A·x. The task type is read off the model's class, and
    a task's head is trained along, as PEFT does. A model that takes something other than token ids (sound, images,
    series) gets no task type, so that its own arguments reach its forward and generate.

    Args:
        model: any module; a transformers model of a known task trains its head, too.
        method: a registered method's name, or a `Method`.
        r: rank.
        alpha: the scale's numerator; None takes 2r.
        target_modules: names, a regular expression, "all-linear", or None for the architecture's default.
        links: number of links of a chained method. every: steps in a link. None keeps the method's own.
        seed: from which every layer's sketch is derived.
        adapter_name: the adapter's name on the model.
        options: further fields of `LopsidedConfig`, and `task_type`.

    Returns:
        The `peft.PeftModel`.

    Raises:
        LopsidedError: for an unknown method, a rank above a layer's width, links without a chain, a layer of
            an unsupported type, a name in target_modules that nothing is adapted for, a head with parameters outside
            any module.

    Example:
        >>> import torch, lopsided
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> lopsided.adapt(net, "cla", r=2, target_modules="all-linear").get_nb_trainable_parameters()
        (8, 44)
    """
    if isinstance(model, PeftModel):
        raise LopsidedError(
            "the model has adapters already; expected a plain model; add another adapter with "
            "model.add_adapter(name, lopsided.LopsidedConfig(...))"
        )
    options.setdefault("task_type", task_type(model))
    if "modules_to_save" not in options:
        options["modules_to_save"] = modules_to_save(model) or None
    config = LopsidedConfig(
        method=method,
        r=r,
        alpha=alpha,
        target_modules=target_modules,
        links=links,
        every=every,
        seed=seed,
        **options,
    )
    try:
        return get_peft_model(model, config, adapter_name=adapter_name)
    except NoMatchingPeftModuleError as error:
        raise LopsidedError(
            f"no module matches target_modules={target_modules!r}; expected names of linear layers, such as "
            f"{', '.join(linear_names(model)[:8]) or 'none here'}, a regular expression, or 'all-linear'; correct "
            "target_modules, exclude_modules or layers_to_transform"
        ) from error
