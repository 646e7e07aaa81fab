"""A weighted sum of adapters as one more adapter, by concatenation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from lopsided.errors import LopsidedError, UnknownArgument
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.model_queries import layers_of
from lopsided.tuner.weight.sharded import overwrite


@torch.no_grad()
def add_weighted(
    tuner: Any,
    adapters: Sequence[str],
    weights: Sequence[float],
    name: str,
    combination: str,
    others: Mapping[str, Any],
) -> None:
    """Add an adapter of method "lora" whose ΔW is Σ w_i·ΔW_i, exactly.

    Its factors are A = [A_1; …; A_k] and B = [w_1·s_1·B_1 … w_k·s_k·B_k] over all adapters and the links of their
    chains, its scale is 1. Where Σ r_i exceeds d_in, A is the identity and B is ΔW.

    Args:
        tuner: the `LopsidedModel`.
        combination: "cat"; PEFT's other ways approximate, prune or draw at random.
        others: PEFT's options for those other ways.

    Raises:
        LopsidedError: for an unknown adapter, a number of weights other than that of the adapters, another
            combination, or adapters that train a head, for which no exact sum exists.
    """
    _check(tuner.peft_config, adapters, weights, name, combination)
    if others:
        raise UnknownArgument(
            f"{', '.join(others)} is for approximate combinations, and changes nothing here; expected none of PEFT's "
            "options for them; leave it out"
        )
    layers = {n: layer for n, layer in layers_of(tuner.model).items() if layer.adapters.keys() & set(adapters)}
    factors = {n: _factors(layer, adapters, weights) for n, layer in layers.items()}
    [(r, _)] = Counter(len(A) for A, _ in factors.values()).most_common(1)
    # Anchored: PEFT reads these keys as ends of regular expressions.
    ranks = {f"^{n}": len(A) for n, (A, _) in factors.items() if len(A) != r}
    first = tuner.peft_config[adapters[0]]
    tuner.peft_config[name] = LopsidedConfig(
        method="lora",
        r=r,
        alpha=r,
        rank_pattern=ranks,
        alpha_pattern={key: float(rank) for key, rank in ranks.items()},
        target_modules=sorted(layers),
        seed=first.seed,
        task_type=first.task_type,
        base_model_name_or_path=first.base_model_name_or_path,
    )
    with ExitStack() as undo:
        undo.callback(tuner.peft_config.pop, name, None)
        tuner.inject_adapter(tuner.model, name)
        undo.pop_all()
    for n, (A, B) in factors.items():
        trained = layers[n].trained(name)
        overwrite(trained["A"], A)
        overwrite(trained["B"], B)


def _check(
    configs: Mapping[str, LopsidedConfig],
    adapters: Sequence[str],
    weights: Sequence[float],
    name: str,
    combination: str,
) -> None:
    if combination != "cat":
        raise LopsidedError(
            f"combination_type={combination!r} is not exact for adapters of lopsided; expected 'cat', the sum by "
            "concatenation; pass combination_type='cat', or export with to_lora and combine the LoRA adapters"
        )
    if unknown := [adapter for adapter in adapters if adapter not in configs]:
        raise LopsidedError(f"no adapter is named {unknown[0]!r}; expected some of {', '.join(configs)}; correct it")
    if not adapters or len(adapters) != len(weights):
        raise LopsidedError(f"expected one weight per adapter, got {len(weights)} for {len(adapters)}; correct them")
    if name in configs:
        raise LopsidedError(f"the model has an adapter {name!r} already; expected a free name; choose another one")
    for adapter in adapters:
        if heads := configs[adapter].modules_to_save:
            raise LopsidedError(
                f"adapter {adapter!r} trains {sorted(set(heads))}, and a weighted sum of heads is not the head of the "
                "summed adapters; expected adapters without modules_to_save; combine only those"
            )


def _factors(layer: LopsidedLinear, adapters: Sequence[str], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return (A, B) of one layer: (r, d_in) and (d_out, r), float32."""
    device = layer.base_weight.tensor.device
    parts = [
        (*term.dense(), weight * layer.scaling[adapter])
        for adapter, weight in zip(adapters, weights, strict=True)
        if adapter in layer.adapters
        for term in layer.terms(adapter, device)
    ]
    A = torch.cat([A.float() for A, _, _ in parts])
    B = torch.cat([B.float() * scale for _, B, scale in parts], dim=1)
    if len(A) > layer.in_features:
        return torch.eye(layer.in_features, device=device), (B.double() @ A.double()).float()
    return A, B
