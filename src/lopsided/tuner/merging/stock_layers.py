"""Stock PEFT's LoRA layers: which merge exactly, and what each adds to which parameter of its base.

Notation: a parameter of the base layer, as it is stored, is one or more matrices M_i of shape (m, n). An adapter adds
s·B_i·A_i to M_i, with A_i of (r, n) and B_i of (m, r); with DoRA, M becomes g ⊙ (M + s·B·A).

    nn.Linear           M = W                        A, B
    Conv1D, Embedding   M = W, stored transposed     A = Bᵀ, B = Aᵀ of the layer
    convolutions        M = W as (d_out, d_in·k)     A with its kernel flattened alike, B of kernel 1
    parameters          M_i = W[i], one per expert   A_i, B_i, transposed where the layer computes x·W[i]
    a bias              M = b as (d_out, 1)          A = 1, B = the bias of lora_B

`STOCK_KINDS` is the table. A kind that is not in it is refused, and so are the variants of LoRA that are not in `PLAIN`
or `DORA`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.lora import layer as lora
from peft.tuners.lora import variants
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.tuner.adapter import CPU
from lopsided.tuner.forward.compute import Term
from lopsided.tuner.weight.delta import Part
from lopsided.tuner.weight.exact_product import in_single_precision
from lopsided.tuner.weight.sharded import gathered
from lopsided.tuner.weight.weight_change import norms

BIAS = "bias"

# What a merge of these adds is s·B·A, as without them.
PLAIN = (
    variants.MiCALinearVariant,
    variants.MiCAEmbeddingVariant,
    variants.VeloraLinearVariant,
    variants.MontecloraLinearVariant,
    variants.BdLoraLinearVariant,
)
DORA = (
    variants.DoraLinearVariant,
    variants.DoraEmbeddingVariant,
    variants.DoraConv1dVariant,
    variants.DoraConv2dVariant,
    variants.DoraConv3dVariant,
)
# Why the others are refused; a variant of a later PEFT gets OTHER_VARIANT.
REFUSED_VARIANTS: Mapping[type, str] = {
    variants.ALoraLinearVariant: "aLoRA acts on some tokens only, which no single weight does",
    variants.ArrowLinearVariant: "Arrow chooses among adapters per token, which no single weight does",
    variants.KasaLinearVariant: "KaSA rewrites the base weight itself when it is first used",
    variants.QALoraLinearVariant: "QALoRA adapts quantized weights, which do not hold W0 + ΔW",
}
OTHER_VARIANT = "what it adds to the weight is not known here"

Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class StockKind:
    """How one class of PEFT's layers adds to the parameters of its base.

    Args:
        parameters: (layer) -> the names of the parameters that it can add to.
        matrices: (parameter) -> its matrices M_i, views of it.
        pairs: (layer, adapter, parameter) -> (A_i, B_i) for each matrix.
        norm_dim: (layer) -> the dimension of M that DoRA's norm runs over: 1 for the layer's input.
    """

    parameters: Callable[[Any], tuple[str, ...]]
    matrices: Callable[[Tensor], list[Tensor]]
    pairs: Callable[[Any, str, Tensor], Pairs]
    norm_dim: Callable[[Any], int]


# -- the parts of the table --------------------------------------------------------------------------------------


def _weight_and_bias(layer: Any) -> tuple[str, ...]:
    return ("weight", BIAS) if layer.get_base_layer().bias is not None else ("weight",)


def _itself(parameter: Tensor) -> list[Tensor]:
    return [parameter]


def as_column(parameter: Tensor) -> list[Tensor]:
    """Return a bias as a matrix of one column."""
    return [parameter[:, None]]


def _factor(module: Any) -> Tensor:
    whole = gathered(module.weight)
    if isinstance(module, variants.BlockDiagonalLinear):
        return torch.block_diag(*whole.chunk(module.nblocks, dim=0))
    return whole


def _linear_pairs(layer: Any, adapter: str, parameter: Tensor) -> Pairs:
    A, B = _factor(layer.lora_A[adapter]), _factor(layer.lora_B[adapter])
    return [(B.T, A.T)] if layer.fan_in_fan_out else [(A, B)]


def _embedding_pairs(layer: Any, adapter: str, parameter: Tensor) -> Pairs:
    A, B = gathered(layer.lora_embedding_A[adapter]), gathered(layer.lora_embedding_B[adapter])
    return [(B.T, A.T)]


def _as_they_lie(kernels: Tensor, like: Tensor) -> Tensor:
    """Return kernels with their dimensions in the order in which those of another tensor lie in memory."""
    order = sorted(range(1, like.ndim), key=like.stride, reverse=True)
    return kernels.permute(0, *order)


def _kernels(parameter: Tensor) -> list[Tensor]:
    # A view, in channels_last as well: a copy would be written to in vain, so `why_no_matrices` comes first.
    return [_as_they_lie(parameter, parameter).view(len(parameter), -1)]


def _conv_pairs(layer: Any, adapter: str, parameter: Tensor) -> Pairs:
    A, B = gathered(layer.lora_A[adapter].weight), gathered(layer.lora_B[adapter].weight)
    return [(_as_they_lie(A, parameter).reshape(len(A), -1), B.flatten(1))]


def _experts(parameter: Tensor) -> list[Tensor]:
    return [parameter] if parameter.ndim == 2 else list(parameter.unbind())


def _expert_pairs(layer: Any, adapter: str, parameter: Tensor) -> Pairs:
    A, B = gathered(layer.lora_A[adapter].weight), gathered(layer.lora_B[adapter].weight)
    if parameter.ndim == 2:
        return [(A, B)]
    n = layer.num_experts
    # PEFT keeps A expert by expert, and B with the experts innermost.
    pairs = zip(A.reshape(n, -1, A.shape[-1]), B.reshape(len(B), -1, n).permute(2, 0, 1))
    return [(A, B) if layer._did_swap_in_out_features else (B.T, A.T) for A, B in pairs]


CONVOLUTIONS = (lora.Conv1d, lora.Conv2d, lora.Conv3d)
_CONV = StockKind(parameters=_weight_and_bias, matrices=_kernels, pairs=_conv_pairs, norm_dim=lambda layer: 1)
STOCK_KINDS: Mapping[type, StockKind] = {
    lora.Linear: StockKind(
        parameters=_weight_and_bias,
        matrices=_itself,
        pairs=_linear_pairs,
        norm_dim=lambda layer: 0 if layer.fan_in_fan_out else 1,
    ),
    lora.Embedding: StockKind(
        parameters=lambda layer: ("weight",), matrices=_itself, pairs=_embedding_pairs, norm_dim=lambda layer: 0
    ),
    **dict.fromkeys(CONVOLUTIONS, _CONV),
    lora.ParamWrapper: StockKind(
        parameters=lambda layer: (layer.parameter_name,),
        matrices=_experts,
        pairs=_expert_pairs,
        norm_dim=lambda layer: 1,
    ),
}
# Why the others are refused, by the name of their class; all of them get OTHER_KIND otherwise.
REFUSED_KINDS = {
    "MultiheadAttention": "its own forward merges and unmerges by subtraction in every training step",
    "LoraParallelLinear": "its weight is one process's share of a Megatron layer",
    "SVDLinear": "AdaLoRA's ranks are masked as training goes on; export it as LoRA first",
}
# Modules of PEFT, each with the layers of one library of quantized weights.
QUANTIZED = {f"peft.tuners.lora.{name}" for name in ("aqlm", "awq", "bnb", "eetq", "gptq", "hqq", "inc", "torchao")}
OTHER_KIND = "it is no layer of LoRA whose merge is known to be W0 + s·B·A"


# -- what is asked -----------------------------------------------------------------------------------------------


def adapters_of(layer: Any) -> list[str]:
    """Return the names of a stock layer's adapters."""
    return [*layer.lora_A, *layer.lora_embedding_A]


def why_no_kind(layer: BaseTunerLayer) -> str:
    """Return why no adapter of a stock layer merges exactly; empty if its kind is in the table."""
    cls = type(layer)
    if layer.quantization_backend is not None or cls.__module__ in QUANTIZED:
        return "its base weight is quantized, and a grid does not hold W0 + ΔW; load the base unquantized to merge"
    if cls not in STOCK_KINDS:
        return REFUSED_KINDS.get(cls.__name__, OTHER_KIND)
    if isinstance(layer, CONVOLUTIONS) and layer.get_base_layer().groups > 1:
        return "a grouped convolution's update is no s·B·A over all channels, and PEFT does not merge it either"
    return ""


def why_not_exact(layer: Any, adapter: str) -> str:
    """Return why one adapter of a layer whose kind is known does not merge exactly; empty if it does."""
    variant = layer.lora_variant.get(adapter)
    if variant is not None and type(variant) not in (*PLAIN, *DORA):
        return f"{type(variant).__name__}: {REFUSED_VARIANTS.get(type(variant), OTHER_VARIANT)}"
    if adds_to_bias(layer, adapter) and layer.get_base_layer().bias is None:
        return "lora_bias=True next to a base layer without a bias; there is nothing to merge it into"
    return ""


def adds_to_bias(layer: Any, adapter: str) -> bool:
    """Return whether an adapter has a bias that a merge adds to the base layer's."""
    return bool(layer.lora_bias.get(adapter))


def is_dora(layer: Any, adapter: str) -> bool:
    """Return whether an adapter rescales the merged weight."""
    return type(layer.lora_variant.get(adapter)) in DORA


def parts_of(kind: StockKind, layer: Any, adapter: str, name: str, parameter: Tensor) -> tuple[tuple[Part, ...], ...]:
    """Return what an adapter makes of a parameter: the parts of each matrix, in copies that nobody changes.

    Args:
        kind: the layer's.
        name: the parameter's.
        parameter: W0, whole, for DoRA; otherwise anything of its shape and strides.

    Raises:
        LopsidedError: if the factors do not fit the parameter, as where it is in pieces.
    """
    if name == BIAS:
        bias = gathered(layer.lora_B[adapter].bias)
        pairs, matrices = [(bias.new_ones(1, 1), bias[:, None])], as_column(parameter)
    elif parameter.ndim < 2:
        raise _misfit(layer, adapter, parameter)
    else:
        pairs, matrices = kind.pairs(layer, adapter, parameter), kind.matrices(parameter)
    if [(len(B), A.shape[1]) for A, B in pairs] != [tuple(M.shape) for M in matrices]:
        raise _misfit(layer, adapter, parameter)
    parts = tuple(_copied(A, B, layer.scaling[adapter]) for A, B in pairs)
    if is_dora(layer, adapter) and name != BIAS:
        magnitude = gathered(layer.lora_magnitude_vector[adapter].weight).detach()
        dim = kind.norm_dim(layer)
        parts = tuple(_with_gain(part, M, magnitude, dim) for part, M in zip(parts, matrices))
    return parts


def _misfit(layer: Any, adapter: str, parameter: Tensor) -> LopsidedError:
    # Shards of ZeRO-3 and FSDP1 are flat or empty, and stand in the place of the parameter.
    return LopsidedError(
        f"a parameter of shape {tuple(parameter.shape)} does not fit the factors of adapter {adapter!r}; expected all "
        f"of a layer from {layer.in_features} to {layer.out_features}; gather it for the merge (ZeRO-3: "
        "GatheredParameters, FSDP1: summon_full_params)"
    )


def _copied(A: Tensor, B: Tensor, scaling: float) -> tuple[Part, ...]:
    # On the CPU, where the way back is kept: training may go on in the factors, and the undo needs them as merged.
    A, B = (factor.detach().to(CPU, copy=True) for factor in (A, B))
    return tuple(Part((Term(a, b),), scaling, a.nbytes + b.nbytes) for b, a in in_single_precision(B, A))


def _with_gain(parts: tuple[Part, ...], W0: Tensor, magnitude: Tensor, dim: int) -> tuple[Part, ...]:
    """Return a matrix's parts with DoRA's gain g = m / ‖W0 + Δ‖ at the last one.

    Source:
        DoRA: Liu et al. 2024, arXiv:2402.09353, equation 5.
    """
    norm = norms(W0, parts, dim)
    wide = torch.promote_types(W0.dtype, torch.float32)
    gain = (magnitude.to(norm.device, torch.float64).view_as(norm) / norm).to(CPU, wide)
    return (*parts[:-1], replace(parts[-1], gain=gain, copied=parts[-1].copied + gain.nbytes))


def why_no_matrices(kind: StockKind, parameter: Tensor) -> str:
    """Return why a parameter cannot be seen as matrices; empty if it can."""
    if kind.matrices is _kernels and not _as_they_lie(parameter, parameter).is_contiguous():
        return "its kernels do not lie one after the other in memory; call .contiguous() on it"
    return ""


def merged_names(layer: Any, names: Sequence[str] | None) -> list[str]:
    """Return which adapters of a layer a call asks for: those named, or the active ones, that the layer has."""
    requested = layer.active_adapters if names is None else names
    known = adapters_of(layer)
    return [name for name in dict.fromkeys(requested) if name in known]
