"""Code that computes with a layer's weight without calling the layer, where an adapter would be passed by.

An adapter acts in its layer's forward. Three kinds of code never call it:

    READERS            classes known to read a child's weight, from a search of transformers 5.23 for every `.weight`
                       of another module's linear layer; they are refused by name when adapting
    TransformerEncoder torch's fused path reads every weight of a layer in evaluation; it is kept off that path, since
                       the path has a slow twin that calls each layer
    everything else    is met at run time: while adapters are active, `layer.weight` is a `PastForward`, which answers
                       whatever W0 answers and raises in a product
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lopsided.errors import LopsidedError


@dataclass(frozen=True)
class Reader:
    """Classes that read their children's weights.

    Args:
        classes: names of the classes, in whatever package; their subclasses read as well.
        children: the children whose weights are read.
        where: what reads them.
        when: for one module of the class, whether it does; None for always.
    """

    classes: tuple[str, ...]
    children: tuple[str, ...]
    where: str
    when: Callable[[Any], bool] | None = None


def _rescales(module: Any) -> bool:
    return bool(module.config.rescale_every > 0)


def _sums_slices(module: Any) -> bool:
    return bool(module.pretraining_tp > 1 and module.slow_but_exact)


ATTENTION, SCAN = "F.multi_head_attention_forward", "its scan or the fused kernel of it"
KERNEL = "the fused kernel for training on an accelerator"
RESCALING, SLICES = "its rescaling for inference (rescale_every)", "its exact sum over slices (pretraining_tp)"
READERS = (
    # torch's has no children of the last three names; fairseq's and ESM's have.
    Reader(("MultiheadAttention",), ("out_proj", "q_proj", "k_proj", "v_proj"), ATTENTION),
    Reader(("WavLMAttention",), ("q_proj", "k_proj", "v_proj", "out_proj"), ATTENTION),
    # OpenAI's CLIP.
    Reader(("AttentionPool2d",), ("q_proj", "k_proj", "v_proj", "c_proj"), ATTENTION),
    Reader(("Mamba2Mixer", "BambaMixer", "FalconH1Mixer", "GraniteMoeHybridMambaLayer"), ("out_proj",), KERNEL),
    Reader(("NemotronHMamba2Mixer", "Zamba2MambaMixer"), ("out_proj",), KERNEL),
    Reader(("MambaMixer", "FalconMambaMixer"), ("dt_proj", "x_proj", "out_proj"), SCAN),
    Reader(("JambaMambaMixer",), ("dt_proj",), SCAN),
    # The package mamba_ssm.
    Reader(("Mamba",), ("in_proj", "dt_proj", "x_proj", "out_proj"), SCAN),
    Reader(("Mamba2",), ("out_proj",), KERNEL),
    Reader(("DetrMHAttentionMap", "ConditionalDetrMHAttentionMap"), ("k_proj",), "a 1x1 convolution"),
    Reader(("MaskFormerDetrMHAttentionMap",), ("k_proj",), "a 1x1 convolution"),
    Reader(("DabDetrMHAttentionMap",), ("k_linear",), "a 1x1 convolution"),
    Reader(("TDNNLayer",), ("kernel",), "a convolution"),
    Reader(
        ("LayoutLMv2Encoder", "LayoutLMv3Encoder", "PPDocLayoutV2ReadingOrderEncoder"),
        ("rel_pos_bias", "rel_pos_x_bias", "rel_pos_y_bias"),
        "a look-up of positions",
    ),
    Reader(("LongcatFlashTopkRouter",), ("classifier",), "a product in float32"),
    Reader(("MobileBertLMPredictionHead",), ("decoder", "dense"), "a product with both weights joined"),
    Reader(("NeoMMEForMaskedLM",), ("unembedding_projection",), "a product with the weight's transpose"),
    Reader(("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM"), ("lm_head",), "masked_embedding"),
    Reader(("LSHSelfAttention",), ("query_key", "value"), "its cached generation"),
    Reader(
        ("Gemma3nTextAltUp",),
        ("correction_coefs", "prediction_coefs"),
        "its clipping in training (altup_coef_clip)",
        lambda module: module.config.altup_coef_clip is not None,
    ),
    Reader(("RwkvSelfAttention",), ("output",), RESCALING, _rescales),
    Reader(("RwkvFeedForward",), ("value",), RESCALING, _rescales),
    Reader(("BloomAttention",), ("dense",), SLICES, _sums_slices),
    Reader(("BloomMLP",), ("dense_4h_to_h",), SLICES, _sums_slices),
)


def reader_of(parent: nn.Module, child: str) -> str | None:
    """Return which code of `parent` reads the weight of its child of that name past the child's forward, if any.

    Example:
        >>> reader_of(nn.MultiheadAttention(4, 2), "out_proj")
        'MultiheadAttention reads its weight in F.multi_head_attention_forward'
    """
    names = {cls.__name__ for cls in type(parent).__mro__}
    for reader in READERS:
        if child in reader.children and names & set(reader.classes) and (reader.when is None or reader.when(parent)):
            return f"{type(parent).__name__} reads its weight in {reader.where}"
    return None


def keep_off_fused_path(parent: nn.Module, layer: nn.Module) -> None:
    """Make a `nn.TransformerEncoderLayer` call its layers in evaluation, too.

    Its fused path is for modules without hooks, as its forward checks. The hook does nothing else, goes wherever the
    layer goes (copies, pickles) and ends with it.
    """
    if isinstance(parent, nn.TransformerEncoderLayer):
        layer.register_forward_pre_hook(_called)


def _called(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Be there; see `keep_off_fused_path`."""


# -- the rest, at run time ---------------------------------------------------------------------------------------

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
        seen = torch.empty_like(original, device="meta").as_subclass(cls)
        seen.original, seen.module = original, module
        # What isinstance(..., nn.Parameter) looks at.
        seen._is_param = isinstance(original, nn.Parameter)
        return seen

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = (args, kwargs or {})
        name = func.__name__
        module = next(_modules_in(inputs))
        looked_up = name == "__getitem__" and _has_tensors(args[1])
        if name in PRODUCTS or looked_up:
            raise LopsidedError(
                f"{module}: torch's {name} got this layer's weight itself, past the adapter in its forward; expected a "
                "call of the layer; add the module to exclude_modules or merge the adapter, and for W0 take "
                "get_base_layer().weight"
            )
        args, kwargs = tree_map_only(PastForward, lambda seen: seen.original, inputs)
        if name in OF_PARAMETERS and isinstance(args[0], nn.Parameter):
            func = getattr(nn.Parameter, name)
        result = func(*args, **kwargs)
        if name in SAME_WEIGHT or func in SAME_PROPERTIES:
            return tree_map_only(Tensor, lambda part: cls.around(part, module), result)
        return result


def _has_tensors(index: Any) -> bool:
    return any(isinstance(part, Tensor) for part in (index if isinstance(index, tuple) else (index,)))


def _modules_in(inputs: Any) -> Iterator[str]:
    found: list[str] = []
    tree_map_only(PastForward, lambda seen: found.append(seen.module), inputs)
    yield from found


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
