"""A guard in the place of a layer's weight, which raises where other code would compute without the adapter.

An adapter acts in its layer's forward. Code that multiplies by `layer.weight` itself would leave it out, and nothing
would say so. While adapters are active, `layer.weight` is therefore a `PastForward`, which answers whatever W0 answers
and raises in a product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lopsided.errors import LopsidedError

# By name, since a product has several functions: torch.matmul, Tensor.matmul and Tensor.__matmul__, for example. A
# look-up is a product with a one-hot matrix.
PRODUCTS = frozenset(
    (
        *("linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "vdot", "inner"),
        *("addmm", "addmm_", "addmv", "addmv_", "addbmm", "baddbmm", "einsum", "tensordot", "chain_matmul"),
        *("multi_dot", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("embedding", "embedding_bag", "index_select", "gather", "take", "multi_head_attention_forward"),
    )
)
# What still is the weight, seen or scaled in another way, and still must not be multiplied with.
SAME_WEIGHT = frozenset(
    (
        *("__getitem__", "t", "transpose", "permute", "swapaxes", "movedim", "view", "view_as", "reshape", "flatten"),
        *("squeeze", "unsqueeze", "expand", "contiguous", "chunk", "split", "unbind", "narrow", "select"),
        *("cat", "stack", "to", "type", "type_as", "float", "double", "half", "bfloat16", "clone"),
        *("detach", "mul", "__mul__", "__rmul__", "multiply", "div", "__truediv__", "true_divide", "add", "__add__"),
        *("__radd__", "sub", "__sub__", "neg", "clamp", "clip", "normalize"),
    )
)
# Methods that a parameter has instead of a tensor's, and that come here as the tensor's.
OF_PARAMETERS = frozenset(("__deepcopy__", "__reduce_ex__"))
# Properties that still are the weight; they have no names of their own.
SAME_PROPERTIES = tuple(vars(torch._C.TensorBase)[name].__get__ for name in ("T", "mT", "data"))


class PastForward(Tensor):
    """The weight of an adapted layer, as code sees it that reads it past the layer's forward.

    It holds no numbers of its own: each function of torch gets the real weight in its place, so that asking for a
    dtype or a norm and writing to it are what they were. Products raise. A kernel that looks past torch's functions
    finds a tensor on the meta device, and fails.
    """

    # Set by `weight_of`.
    original: Tensor
    module: str

    @classmethod
    def around(cls, original: Tensor, module: str) -> PastForward:
        """Return the guard of a weight.

        Args:
            module: the layer's name, for errors.
        """
        guard = torch.empty_like(original, device="meta").as_subclass(cls)
        guard.original, guard.module = original, module
        # What isinstance(..., nn.Parameter) looks at.
        guard._is_param = isinstance(original, nn.Parameter)
        return guard

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = (args, kwargs or {})
        name = func.__name__
        module = next(_modules_in(inputs))
        is_look_up = name == "__getitem__" and _has_tensors(args[1])
        if name in PRODUCTS or is_look_up:
            raise LopsidedError(
                f"{module}: torch's {name} got this layer's weight itself, past the adapter in its forward; expected a "
                "call of the layer; add the module to exclude_modules or merge the adapter, and for W0 take "
                "get_base_layer().weight"
            )
        args, kwargs = tree_map_only(PastForward, lambda guard: guard.original, inputs)
        if name in OF_PARAMETERS and isinstance(args[0], nn.Parameter):
            func = getattr(nn.Parameter, name)
        result = func(*args, **kwargs)
        if name in SAME_WEIGHT or func in SAME_PROPERTIES:
            return tree_map_only(Tensor, lambda part: cls.around(part, module), result)
        return result


def _has_tensors(index: Any) -> bool:
    return any(isinstance(part, Tensor) for part in (index if isinstance(index, tuple) else (index,)))


def _modules_in(inputs: Any) -> Iterator[str]:
    modules: list[str] = []
    tree_map_only(PastForward, lambda guard: modules.append(guard.module), inputs)
    yield from modules


def weight_of(layer: Any) -> Tensor:
    """Return an adapted layer's weight as `layer.weight` shows it: plain where the layer computes with it alone.

    Args:
        layer: a `LopsidedLinear`.
    """
    weight: Tensor = layer.get_base_layer().weight
    active = [name for name in layer.active_adapters if name in layer.adapters]
    # Compiled code cannot hold such a tensor. Quantized weights are other classes, which their own kernels read.
    if not active or layer.disable_adapters or layer.merged or torch.compiler.is_compiling():
        return weight
    return PastForward.around(weight, layer.adapters[active[0]].module) if type(weight) is nn.Parameter else weight
