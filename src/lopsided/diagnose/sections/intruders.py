"""Intruder dimensions: singular vectors of a tuned weight that none of the pretrained ones resembles.

Notation: W0 is (d_out, d_in) with left singular vectors u_i⁰, W = W0 + ΔW with u_j, each m = min(d_out, d_in) of them
from the largest singular value. u_j is an intruder at ε if max_i |⟨u_j, u_i⁰⟩| < ε.

Source: Shuttleworth et al. 2024, arXiv:2410.21228, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lopsided.diagnose.base_svd import BaseSVD, base_svd
from lopsided.diagnose.leading_vectors import leading
from lopsided.diagnose.sections.layers import check_computable
from lopsided.diagnose.tuned_model import Layer, Subject
from lopsided.errors import LopsidedError
from lopsided.files.strict_json import WHY

EPSILONS = tuple(round(0.05 * step, 2) for step in range(1, 21))
# Singular vectors in float32 have length 1 within about this: a vector that stayed is no intruder at ε = 1.
ROUNDING = 1e-5


def intruders(
    subject: Subject,
    *,
    epsilons: Sequence[float] = EPSILONS,
    top: int = 10,
    all_vectors: bool = True,
    cache: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """How many intruders each layer has at each ε, among all its singular vectors and among the first `top`.

    Args:
        top: k; a narrower layer has all its vectors counted.
        all_vectors: count among all of them as well, which decomposes every tuned weight.
        cache: where the base's singular vectors are kept; see `base_svd`.
        note: tells a person how far the work is.

    Returns:
        `epsilons`, `top`, and `all` (or None) and `top_k`, each with `mean` (counts per ε, mean over layers), `by_kind`
        (the same over layers of one kind) and `by_layer` (counts). `layers` says how many layers are counted, of how
        many; one that holds NaN or Inf has None, and `why` names it.

    Raises:
        LopsidedError: for an ε outside (0, 1], a `top` below 1, a subject without layers, or NaN or Inf in all of them.
    """
    if not epsilons or not all(0 < epsilon <= 1 for epsilon in epsilons):
        raise LopsidedError(f"expected every epsilon in (0, 1], got {list(epsilons)}; correct them")
    if top < 1:
        raise LopsidedError(f"top must be at least 1, got {top}; raise it")
    if not subject.layers:
        raise LopsidedError(f"{subject.name} has no tuned linear layer; expected at least one; choose another")
    check_computable(subject.layers)
    first: dict[str, list[int] | None] = {}
    whole: dict[str, list[int] | None] = {}
    faults = {layer.module: fault for layer in subject.layers if (fault := layer.fault)}
    for number, layer in enumerate(subject.layers, start=1):
        note(f"intruders: layer {number} of {len(subject.layers)}")
        if layer.module in faults:
            first[layer.module] = whole[layer.module] = None
            continue
        base = base_svd(layer.weight, cache)
        likeness = closest(layer, base, None if all_vectors else top)
        first[layer.module] = count(likeness[:top], epsilons)
        whole[layer.module] = count(likeness, epsilons)
    kinds = {layer.module: layer.kind for layer in subject.layers}
    return {
        "epsilons": list(epsilons),
        "top": top,
        "all": summary(whole, kinds) if all_vectors else None,
        "top_k": summary(first, kinds),
        "layers": {"counted": len(first) - len(faults), "of": len(first)},
        **({WHY: {f"by_layer.{module}": fault for module, fault in faults.items()}} if faults else {}),
    }


def count(likeness: np.ndarray, epsilons: Sequence[float]) -> list[int]:
    """How many vectors are intruders at each ε, from their max_i |⟨u_j, u_i⁰⟩|.

    Example:
        >>> count(np.array([1.0, 0.3, 0.97]), [0.2, 0.5, 1.0])
        [0, 1, 2]
    """
    return [int(np.sum(likeness < epsilon - ROUNDING)) for epsilon in epsilons]


def summary(counts: Mapping[str, Sequence[int] | None], kinds: Mapping[str, str]) -> dict[str, Any]:
    """Counts by layer, with their means over all layers and over those of each kind, of the layers that have counts.

    A kind without such a layer has no mean, and is absent.
    """
    known = {module: list(found) for module, found in counts.items() if found is not None}
    by_kind = {
        kind: np.mean([known[module] for module in known if kinds[module] == kind], axis=0).tolist()
        for kind in dict.fromkeys(kinds[module] for module in known)
    }
    mean = np.mean(list(known.values()), axis=0).tolist()
    return {"mean": mean, "by_kind": by_kind, "by_layer": {module: known.get(module) for module in counts}}


@torch.no_grad()
def closest(layer: Layer, base: BaseSVD, top: int | None = None) -> np.ndarray:
    """max_i |⟨u_j, u_i⁰⟩| of the tuned weight's singular vectors, from the largest singular value.

    The first few are searched for (`leading`); where that can't be certified, and for all, W0 + ΔW is decomposed.

    Args:
        base: of the layer's weight.
        top: how many vectors; None for all.

    Shapes:
        (min(top, m),), between 0 and 1.
    """
    m = len(base.values)
    k = m if top is None else min(top, m)
    # Where singular values are tied, another decomposition of the same weight may turn their vectors.
    if all(link.energy() == 0.0 for link in layer.links):
        return np.ones(k)
    coordinates = None
    if top is not None and not layer.is_dense:
        coordinates = leading(base, layer.weight, *layer.factors(), k)
    if coordinates is None:
        tuned = torch.linalg.svd(layer.weight.double() + layer.delta(), full_matrices=False)[0]
        coordinates = base.left.double().T @ tuned[:, :k]
    return coordinates[:m].abs().amax(0).clamp(max=1.0).numpy()
