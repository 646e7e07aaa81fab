"""Generalization after an update, from spectral norms: Theorem 1 of Beyond LoRA.

Notation: a network of L layers x -> σ_k(W_k·x), where σ_k is s_k-Lipschitz with ‖σ_k(0)‖ = z_k. w_k and d_k are the
spectral norms of W0_k and of its update ΔW_k, C bounds the norm of an input, and the loss is L_ℓ-Lipschitz. G(·) is the
gap between expected and training loss. Then

    G(W0 + ΔW) <= min( G(W0) + Φ_ΔW,  G(ΔW) + Φ_W0 )

    Φ_ΔW = 2·L_ℓ·[ C·∏s·(∏(w+d) - ∏w) + Σ_{k<L} z_k·∏_{j>k} s_j·(∏_{j>k}(w_j+d_j) - ∏_{j>k} w_j) ]

and Φ_W0 is the same with ∏d in the place of the subtracted ∏w. The paper prints both as sums over 2^L subsets of
layers, one for each way to choose W0 or ΔW in every layer; those sums are products, so that L steps do.

Three of the paper's printed indices are slips, and are corrected here: the exponent of its set P must be L - j, the
parity in its H is swapped, and the index a begins at 0 in Φ_W0. As printed, Φ_ΔW would not vanish with ΔW.

Source: Cadenhead et al. 2026, arXiv:2606.13767, Theorem 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lopsided.errors import LopsidedError
from lopsided.theory.checks import check_not_negative, check_positive


@dataclass(frozen=True, kw_only=True)
class LayerNorms:
    """The norms of one layer in Theorem 1.

    Args:
        base: w = ‖W0‖₂, in units of output per unit of input.
        update: d = ‖ΔW‖₂, in the same units.
        lipschitz: s, of the activation that follows the layer: 1 for ReLU, tanh and none.
        offset: z = ‖σ(0)‖: 0 for ReLU, tanh and GELU; √width/2 for the sigmoid.
    """

    base: float
    update: float
    lipschitz: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative(base=self.base, update=self.update, lipschitz=self.lipschitz, offset=self.offset)


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """The two corrections of Theorem 1, in the loss's units.

    Args:
        update: Φ_ΔW, the most by which the gap exceeds that of the base model; 0 if nothing is updated.
        base: Φ_W0, the most by which the gap exceeds that of a network of the updates alone.
    """

    update: float
    base: float


def spectral_corrections(layers: Sequence[LayerNorms], *, input_bound: float, loss_lipschitz: float) -> Corrections:
    """Return Φ_ΔW and Φ_W0, in a number of steps that grows with L, not with 2^L.

    The differences of products are summed layer by layer, ∏(w+d) - ∏w = d_k·∏_{j>k} w_j + (w_k+d_k)·(the difference
    after k), so that no digits cancel for small updates. A product too large for a float gives infinity.

    Args:
        layers: in the order in which an input passes them.
        input_bound: C, the largest norm of an input.
        loss_lipschitz: L_ℓ, in loss per unit of the network's output.

    Units:
        The loss's own: L_ℓ in loss per output, times inputs and norms.

    Source:
        Cadenhead et al. 2026, arXiv:2606.13767, Theorem 1, with three indices corrected (see above).

    Raises:
        LopsidedError: without layers, or for negative or infinite numbers.

    Example:
        >>> one = [LayerNorms(base=2.0, update=0.5)]
        >>> spectral_corrections(one, input_bound=1.0, loss_lipschitz=1.0)
        Corrections(update=1.0, base=4.0)
    """
    check_positive(input_bound=input_bound, loss_lipschitz=loss_lipschitz)
    if not layers:
        raise LopsidedError("expected at least one layer's norms, got none; list the layers of the network")
    return Corrections(
        update=_correction([(n.base, n.update) for n in layers], layers, input_bound, loss_lipschitz),
        base=_correction([(n.update, n.base) for n in layers], layers, input_bound, loss_lipschitz),
    )


def _correction(
    norms: Sequence[tuple[float, float]], layers: Sequence[LayerNorms], input_bound: float, loss_lipschitz: float
) -> float:
    """2·L_ℓ·[C·∏s·(∏(kept + other) - ∏kept) + the offsets' share], with norms = [(kept, other), ...]."""
    total = 0.0
    # From the last layer to the first. Of the layers after k: ∏s, ∏kept, and ∏(kept + other) - ∏kept.
    lipschitz, kept_product, difference = 1.0, 1.0, 0.0
    for (kept, other), layer in zip(reversed(norms), reversed(layers), strict=True):
        total += _product(layer.offset, lipschitz, difference)
        difference = other * kept_product + (kept + other) * difference
        kept_product *= kept
        lipschitz *= layer.lipschitz
    return 2.0 * loss_lipschitz * (total + _product(input_bound, lipschitz, difference))


def _product(*factors: float) -> float:
    """The product of the factors, where zero times infinity is zero."""
    return 0.0 if 0.0 in factors else math.prod(factors)
