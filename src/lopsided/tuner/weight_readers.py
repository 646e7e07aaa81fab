"""Code that computes with a layer's weight without calling the layer, where an adapter would be left out.

An adapter acts in its layer's forward. Three kinds of code never call it:

    READERS            classes known to read a child's weight, from a search of transformers 5.23 for every `.weight`
                       of another module's linear layer; they are refused by name when adapting
    TransformerEncoder torch's fused path reads every weight of a layer in evaluation; it is kept off that path, since
                       the path has a slow twin that calls each layer
    everything else    is met at run time: see `past_forward`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


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
    """Do nothing: see `keep_off_fused_path`."""
