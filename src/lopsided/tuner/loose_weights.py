"""Weights in no layer that can be adapted, which a user may take for a linear layer's: experts, routers, attention's
joint projection, recurrent layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.pytorch_utils import Conv1D

from lopsided.tuner.parameters.adapted_parameters import AdaptedParameters

# What is joined in checkpoints themselves, which transformers' own table of conversions therefore does not say.
JOINED = {"gate_up_proj": ("gate_proj", "up_proj")}
# Names of matrices: `weight`, `in_proj_weight`, `weight_ih_l0`, `gate_up_proj`, `w1`, `kernel`, and XLNet's letters.
MATRIX = re.compile(r"(.*_)?(weight|proj|projection|kernel|fn|[wv]\d+)(_.*)?|[wqkvor]")
# A stack of matrices may have any name but that of a table, a token, a bias or a state.
NO_STACK = re.compile(
    r".*(embed|emb_|_emb|pos|token|bias|scale|shift|table|log|quer|latent|prompt|mask|cls|mix|alpha|beta|gamma|norm|probe).*"
)
# Their weights are known not to be a linear layer's. Layers of other tuners are not looked into.
OTHER_MODULES = (nn.Embedding, nn.EmbeddingBag, nn.modules.conv._ConvNd, BaseTunerLayer, AuxiliaryTrainingWrapper)


@dataclass(frozen=True)
class LooseWeight:
    """A matrix, or a stack of them, that a module multiplies with and that is in no layer that can be adapted.

    Args:
        key: its name in the model.
        owner: the class of the module that holds it.
    """

    key: str
    owner: str


def loose_weights(model: nn.Module) -> Iterator[LooseWeight]:
    """Yield the matrices in no linear layer: experts, routers, attention's joint projection, recurrent layers.

    Names and shapes decide, since nothing in a parameter says what is done with it: an embedding, a table of positions
    or a state matrix is none. The output head is none either, as in "all-linear".
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    stack = [("", model)]
    while stack:
        prefix, module = stack.pop()
        if isinstance(module, AdaptedParameters):
            stack.append((prefix, module.base_layer))
            continue
        if module is head or isinstance(module, OTHER_MODULES) or parametrize.is_parametrized(module):
            continue
        stack += [(f"{prefix}{name}.", child) for name, child in reversed(list(module.named_children()))]
        owner = type(module).__name__
        if isinstance(module, (nn.Linear, Conv1D)) or "Embedding" in owner or "Norm" in owner:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if _is_matrix(name, parameter):
                yield LooseWeight(prefix + name, owner)


def _is_matrix(name: str, parameter: Tensor) -> bool:
    if parameter.ndim not in (2, 3) or min(parameter.shape) < 2 or name.endswith("bias"):
        return False
    if MATRIX.fullmatch(name):
        return True
    return parameter.ndim == 3 and NO_STACK.fullmatch(name.lower()) is None


# -- under the names of a checkpoint ---------------------------------------------------------------------------------


def loose_names(model: nn.Module) -> Iterator[tuple[str, LooseWeight]]:
    """Yield each loose weight under its own name, and under those that a checkpoint of the model gives to its parts.

    transformers 5 joins the experts of a checkpoint, say `experts.0.w1` and `experts.0.w3`, into one parameter; users
    and PEFT's older adapters still name the parts.
    """
    joined = joined_parts(model)
    for weight in loose_weights(model):
        yield weight.key, weight
        owner, _, name = weight.key.rpartition(".")
        for part in sorted(frozenset().union(*joined.get(name, ()))):
            yield f"{owner}.{part}", weight


def joined_parts(model: nn.Module) -> dict[str, tuple[frozenset[str], ...]]:
    """Return, by a parameter's last name, the sets of a checkpoint's last names that are joined into it.

    There may be several sets, for checkpoints of several origins.
    """
    joined = {name: {frozenset(parts)} for name, parts in JOINED.items()}
    if isinstance(model, PreTrainedModel):
        for conversion in get_model_conversion_mapping(model):
            if isinstance(conversion, WeightConverter):
                parts = {_last(pattern) for pattern in conversion.source_patterns}
                for target in map(_last, conversion.target_patterns):
                    joined.setdefault(target, set()).add(frozenset(parts - {target}))
    return {name: tuple(families) for name, families in joined.items()}


def _last(pattern: str) -> str:
    """Return the last name of a pattern such as `.experts.*.w1.weight`."""
    return re.sub(r"[^\w.]", "", pattern).removesuffix(".weight").rpartition(".")[2]
