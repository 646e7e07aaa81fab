"""The layer's own product and its adapter's in one operation of autograd.

Notation: y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ with W of (d_out, d_in) frozen, x of (..., d_in), h = x·Aᵀ of (..., r) and g the
gradient of y. What is needed is

    ∂x = g·W + (s·g·B)·A      ∂B = s·gᵀ·h      ∂A = (s·g·B)ᵀ·x

so training B keeps h for backward and training A keeps x. There are two operations:

    beside    the low-rank products are added into W's own, in place: no sum is a pass of its own. So are those of
              past links that stand next to W
    patched   a selector's r columns (or rows) of W hold W0 + s·B (or s·A) during the product, and there is no
              second product at all: for float32, since 16 bits would round small updates away

`beside` computes in W's dtype. Where that has 16 bits, trained factors are float32 masters: s·B and A are rounded to 16
bits for the products, which accumulate in float32, and so are the factors' gradients before they become float32. Stock
PEFT with 16-bit factors computes the same, but also rounds the layer's own product and the scaled one.

Second derivatives are right: with `create_graph=True` the backward is computed from the formulas above by autograd's
own operations. For that, h enters as an input with a history of its own wherever x is not kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from transformers.pytorch_utils import Conv1D

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def can_fuse(x: Tensor) -> bool:
    """Return whether these operations apply to an input: eager, no transform of functions."""
    return not (
        torch.compiler.is_compiling()
        or x.dtype not in DTYPES
        or type(x) not in (Tensor, nn.Parameter)
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def product_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """Return what x·Wᵀ is computed in, by autocast or by both; None if they differ."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if x.dtype == weight.dtype else None


def is_bare(layer: Any) -> bool:
    """Return whether a layer's own product can be one operation with an adapter's.

    It is a frozen product, and nothing runs around it: no hook, and no forward on the instance, where accelerate's
    offloading puts one.
    """
    weight = layer.weight
    return (
        weight.dtype in DTYPES
        and type(weight) is nn.Parameter
        and not weight.requires_grad
        and type(layer) in (nn.Linear, Conv1D)
        and not (layer.bias is not None and (layer.bias.requires_grad or layer.bias.dtype != weight.dtype))
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and "forward" not in vars(layer)
    )
