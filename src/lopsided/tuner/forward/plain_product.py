"""Whether a layer computes the product with its weight and nothing else: one rule for merges, chains and exports.

W0 + ΔW in the weight of such a layer computes x·W0ᵀ + x·ΔWᵀ, or what a convolution or a look-up has for it. A subclass
with a forward of its own may compute x·(g·W)ᵀ, quantize its input, or anything else, and there a merged ΔW is not what
the adapter computes next to it.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from accelerate.hooks import AlignDevicesHook, CpuOffload, ModelHook, SequentialHook, UserCpuOffloadHook
from torch import nn
from torch.nn.utils import parametrize

from lopsided.tuner.kinds import KINDS
from lopsided.tuner.kinds.parameter import MatrixKind

# The forwards of the layers that are adapted, as they were when this module was imported.
PRODUCTS: tuple[Callable[..., Any], ...] = tuple(
    forward for kind in (*KINDS, MatrixKind()) for forward in kind.forwards
)
# Forwards of other classes that were read and found to be the product, by module and name. FalconLinear's rounds once
# before it adds its bias; a test holds it to F.linear.
SAME_PRODUCTS = (("transformers.models.falcon.modeling_falcon", "FalconLinear.forward"),)


def why_no_product(layer: nn.Module) -> str | None:
    """Return why a merge into the layer's weight may change more or less than the adapter does; None if it cannot.

    What is decided is which code runs, not what it returns for an example: a probe would miss what depends on the
    input, the mode or the device.
    """
    kind = type(layer).__name__
    if parametrize.is_parametrized(layer):
        return "its parameters are parametrized, that is, computed again at each access"
    if type(layer).__call__ is not nn.Module.__call__:
        return f"{kind} has a __call__ of its own"
    if not _is_product(_forward(layer)):
        return f"{kind} has a forward of its own, which may compute something else than x·Wᵀ + b"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has forward hooks, which may change what it computes"
    return None


def _is_product(forward: Any) -> bool:
    if forward in PRODUCTS:
        return True
    return isinstance(forward, types.FunctionType) and (forward.__module__, forward.__qualname__) in SAME_PRODUCTS


def _forward(layer: nn.Module) -> Any:
    """Return the function that a call of the layer runs."""
    own = vars(layer)
    if "forward" not in own:
        return type(layer).forward
    # accelerate replaces the method on the instance, to move weights and inputs around the original one.
    if "_hf_hook" in own and _only_moves(own["_hf_hook"]):
        original = own["_old_forward"]
        return original.__func__ if isinstance(original, types.MethodType) else original
    return own["forward"]


def _only_moves(hook: ModelHook) -> bool:
    if type(hook) is SequentialHook:
        return all(_only_moves(inner) for inner in hook.hooks)
    return type(hook) in (AlignDevicesHook, CpuOffload, UserCpuOffloadHook)
