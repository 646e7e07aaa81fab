"""Whether what an adapter adds to a weight is finite, before anything is written.

Notation: ΔW = s·Σ_t B_t·A_t over the links t of one adapter, W0 is the base weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.tuner.forward.compute import Selected, Term
from lopsided.tuner.weight.delta import delta_weight

ADVICE = "go back to the last good checkpoint, and lower the learning rate"


def check_factors(module: str, factors: Mapping[str, Tensor]) -> None:
    """Raise if a trained factor holds NaN or Inf.

    Args:
        module: the layer's name, for the error.
        factors: by their letter.
    """
    for letter, factor in factors.items():
        if not all(map(torch.isfinite, torch.aminmax(factor.detach()))):
            raise LopsidedError(f"{module}: factor {letter} holds NaN or Inf, so its link is not merged; {ADVICE}")


@torch.no_grad()
def check_sum(
    module: str,
    terms: Sequence[Term],
    scaling: float,
    *,
    dtype: torch.dtype,
    device: torch.device,
    original: Callable[[], Tensor] | None,
) -> None:
    """Raise if an entry of ΔW, or of W0 + ΔW, is too large for its dtype, though every factor is finite.

    |ΔW| is at most s·Σ_t r·max|B_t|·max|A_t|. A change of less than half a unit in the last place of the largest
    number of the dtype can't carry any W0 past that number, so almost every layer is done without ΔW.

    Args:
        terms: all links, with finite factors.
        dtype: the weight's where ΔW is written into it, float32 where ΔW is computed next to it.
        device: where to compute ΔW, if it comes to that.
        original: gives W0 as (d_out, d_in), where ΔW is written into it; what is not finite in it is left out.
    """
    largest = torch.finfo(dtype).max
    bound = scaling * sum(_width(term) * _largest(term.A) * _largest(term.B) for term in terms)
    if bound < (largest if original is None else largest * torch.finfo(dtype).eps / 4):
        return
    total = delta_weight(terms, scaling, device)
    counted = torch.ones((), dtype=torch.bool, device=device)
    if original is not None:
        W0 = original().to(device)
        counted, wide = W0.isfinite(), torch.promote_types(dtype, torch.float32)
        total = (W0.to(wide) + total.to(wide)).to(dtype)
    broken = counted & ~total.isfinite()
    if broken.any():
        what = "ΔW" if original is None else "W0 + ΔW"
        raise LopsidedError(
            f"{module}: {int(broken.sum())} entries of {what} overflow {dtype}, so nothing is merged; expected "
            f"finite ones; {ADVICE}"
        )


def _width(term: Term) -> int:
    return len(term.A.indices) if isinstance(term.A, Selected) else len(term.A)


def _largest(factor: Tensor | Selected) -> float:
    return 1.0 if isinstance(factor, Selected) else max(abs(float(end)) for end in torch.aminmax(factor))
