"""Which modules can be adapted, and why others cannot."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from lopsided.errors import LopsidedError
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.kinds import KINDS, kind_of
from lopsided.tuner.kinds.linear import TransposedKind
from lopsided.tuner.weight_readers import reader_of

_NAMES = [name for kind in KINDS for name in kind.names]
SUPPORTED = f"{', '.join(_NAMES[:-1])} and {_NAMES[-1]}"

# Subclasses of nn.Linear whose output is not (..., out_features), so that no ΔW·x can be added to it.
OTHER_OUTPUTS = {
    "Llama4Router": "returns scores and logits",
    "PhimoeTopKRouter": "returns logits, weights and choices",
    "DeepseekV4GroupedLinear": "multiplies blocks of its weight with groups of its input",
    "IdeficsDecoupledLinear": "appends the features of a second layer",
}


def why_unsupported(target: nn.Module, child: str, parent: nn.Module) -> str | None:
    """Return what about `target` forbids an adapter, as the rest of a sentence that its name begins; None if nothing.

    Args:
        child: its name in `parent`.
    """
    kind = type(target).__name__
    if parametrize.is_parametrized(target, "weight"):
        return (
            "has a parametrized weight, which is computed again at each access; expected a plain one; call "
            "torch.nn.utils.parametrize.remove_parametrizations, or add the module to exclude_modules"
        )
    ending = f"supported: {SUPPORTED}; narrow target_modules or add it to exclude_modules"
    layers = kind_of(target)
    if layers is None:
        return f"is a {kind}, which can't be adapted; {ending}"
    if isinstance(target.weight, UninitializedParameter):
        return f"is a {kind} that has no shape yet; expected one that has seen an input; run the model once"
    if hasattr(target.weight, "ds_id"):
        return (
            "is partitioned by DeepSpeed's ZeRO-3; expected its weight in memory; use ZeRO-2 with a model that is "
            "adapted before DeepSpeed takes it, or FSDP2"
        )
    reader = reader_of(parent, child)
    # Of a subclass of MultiheadAttention under any name, too.
    if reader is None and isinstance(target, nn.modules.linear.NonDynamicallyQuantizableLinear):
        reader = "nn.MultiheadAttention reads its weight"
    if reader is not None:
        return f"is a {kind}, but {reader} without calling it, so an adapter would do nothing; {ending}"
    for cls in type(target).__mro__:
        if cls.__name__ in OTHER_OUTPUTS:
            return f"is a {kind}, which {OTHER_OUTPUTS[cls.__name__]}, so it can't be adapted; {ending}"
    reason = layers.why_not(target)
    return reason and f"{reason}, so it can't be adapted; {ending}"


def check_supported(target: nn.Module, child: str, parent: nn.Module, key: str) -> None:
    """Raise if a module cannot be adapted.

    Raises:
        LopsidedError: naming it by `key`, with the reason.
    """
    if isinstance(target, BaseTunerLayer):
        raise LopsidedError(
            f"{key} already has a {type(target).__module__}.{type(target).__name__} adapter; expected a plain "
            "layer; unload the other tuner first"
        )
    reason = why_unsupported(target, child, parent)
    if reason is not None:
        raise LopsidedError(f"{key} {reason}")
    # accelerate brings the weights of a module in for its own forward, and knows no layer around it.
    if target.weight.is_meta and "_hf_hook" in vars(target):
        raise LopsidedError(
            f"{key} is offloaded by accelerate; expected its weight in memory; load the base without offloading"
        )


def check_layout(target: nn.Module, key: str, config: LopsidedConfig) -> None:
    """Raise if `fan_in_fan_out=True` was said of a layer whose weight is stored as (d_out, d_in).

    A `Conv1D` stores (d_in, d_out) and is adapted so, whatever was said.
    """
    if config.fan_in_fan_out and not isinstance(kind_of(target), TransposedKind):
        raise LopsidedError(
            f"fan_in_fan_out=True says that weights are stored as (d_in, d_out), as in a Conv1D; {key} is a "
            f"{type(target).__name__}, which stores (d_out, d_in); leave fan_in_fan_out out"
        )
