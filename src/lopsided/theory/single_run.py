"""A bound for one run with a frozen Gaussian factor, over the draw of A and of the samples.

Notation: layer l computes σ_l((W_l + B_l·A_l)·x), with A_l of (r, d_in) drawn once, i.i.d. N(0, ς²), and B_l of
(d_out, r) trained with entries in [-M, M]; p = r·Σd_out numbers are trained. The loss lies in [0, 1] and is
L_ℓ-Lipschitz, inputs have norm at most C, and N samples are seen. σ_l is s_l-Lipschitz with ‖σ_l(0)‖ = z_l. With
q_l = √(d_out·r)·‖A_l‖₂, H_0 = C, e_0 = 0 and

    H_l = s_l·(‖W_l‖ + M·q_l)·H_{l-1} + z_l          how large an activation can be
    e_l = s_l·[(‖W_l‖ + M·q_l)·e_{l-1} + q_l·H_{l-1}]  how far it moves as B moves by 1 in every entry

the function is Λ = e_L-Lipschitz in B, and a grid over B gives: with probability at least 1 - δ over the samples,

    sup_B |risk - empirical risk| <= 1/√N + √( (p·ln⌈2·M·L_ℓ·Λ·√N⌉ + ln(2/δ)) / (2N) ).

Kratsios et al. 2025 (arXiv:2506.14530) show that the rate is √(r/N) up to logarithms, and that no bound can be better
than of order 1/√N; their constants are not used here. This explicit form has the same shape, is derived for this
library, and is loose: some 25 times the measured gap at r=1 and N=2048. It belongs next to a measured gap, and does not
replace one. It is for Gaussian A alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lopsided.errors import LopsidedError
from lopsided.method import Method
from lopsided.method.dense import Gaussian
from lopsided.theory.checks import check_not_negative, check_positive, check_probability


@dataclass(frozen=True, kw_only=True)
class FrozenLayer:
    """One layer with a frozen Gaussian A.

    Args:
        d_out, d_in, r: shapes.
        norm: ‖W‖₂ of the frozen weight.
        norm_A: ‖A‖₂ of the actual draw; None bounds it for (1 - δ/2) of the draws.
        std: ς, the standard deviation of an entry of A.
        lipschitz, offset: s and z, of the activation after the layer.
    """

    d_out: int
    d_in: int
    r: int
    norm: float
    std: float
    norm_A: float | None = None
    lipschitz: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        check_positive(d_out=self.d_out, d_in=self.d_in, r=self.r, std=self.std)
        check_not_negative(norm=self.norm, lipschitz=self.lipschitz, offset=self.offset)
        if self.norm_A is not None:
            check_positive(norm_A=self.norm_A)


@dataclass(frozen=True, kw_only=True)
class SingleRunBound:
    """The bound of one run, in units of a loss in [0, 1].

    Args:
        value: of the supremum over B of |risk - empirical risk|; above 1 it says nothing.
        lower: 1/√N, the order below which no bound of this kind can fall.
        probability: with which it holds, over the samples and, where ‖A‖ was not given, over the draw of A.
        lipschitz: Λ, of the function in B.
        trained: p.
    """

    value: float
    lower: float
    probability: float
    lipschitz: float
    trained: int


def covers(method: Method) -> bool:
    """Return whether the bound is for a method: it trains B, in one link, with A drawn from a Gaussian.

    Units:
        None: yes or no.

    Source:
        The setting of Kratsios et al. 2025, arXiv:2506.14530.
    """
    return method.side.freezes_A and method.chain is None and isinstance(method.sketch, Gaussian)


def check_covers(method: Method) -> None:
    """Raise if the bound is not for a method."""
    if not covers(method):
        raise LopsidedError(
            f"method {method.name!r} is not covered by the single-run bound; expected one link that trains B next to "
            f"a Gaussian A, got train={method.train!r}, sketch={method.sketch}, chain={method.chain}; leave it out"
        )


def norm_of_gaussian(d_in: int, r: int, std: float, failure: float) -> float:
    """Return ς·(√r + √d_in + t), which ‖A‖₂ exceeds with probability at most e^{-t²/2} = failure.

    Units:
        Those of ς, the standard deviation of A's entries.

    Source:
        Davidson and Szarek 2001, Theorem II.13.
    """
    check_positive(d_in=d_in, r=r, std=std)
    check_probability(failure=failure)
    return std * (math.sqrt(r) + math.sqrt(d_in) + math.sqrt(2 * math.log(1 / failure)))


def single_run_bound(
    layers: Sequence[FrozenLayer],
    *,
    n: int,
    entry_bound: float,
    input_bound: float,
    loss_lipschitz: float,
    delta: float = 0.05,
) -> SingleRunBound:
    """Return 1/√N + √((p·ln⌈2·M·L_ℓ·Λ·√N⌉ + ln(2/δ')) / (2N)).

    Args:
        layers: in the order in which an input passes them.
        n: N, the samples.
        entry_bound: M, the largest absolute entry of any B.
        input_bound: C, the largest norm of an input.
        loss_lipschitz: L_ℓ, in loss per unit of the network's output.
        delta: δ. Where a layer's ‖A‖ is not given, half of it is for the draws of A and δ' = δ/2; else δ' = δ.

    Units:
        The loss's, which lies in [0, 1].

    Source:
        The rate √(r/N): Kratsios et al. 2025, arXiv:2506.14530. The constants are derived for this library.

    Raises:
        LopsidedError: without layers, or for numbers out of their range.
    """
    check_positive(n=n, entry_bound=entry_bound, input_bound=input_bound, loss_lipschitz=loss_lipschitz)
    check_probability(delta=delta)
    if not layers:
        raise LopsidedError("expected at least one layer, got none; list the layers of the network")
    unknown = sum(layer.norm_A is None for layer in layers)
    for_samples = delta / 2 if unknown else delta
    # H and e of the notation, layer by layer; at the end, `moved` is Λ.
    height, moved = input_bound, 0.0
    for layer in layers:
        norm_A = layer.norm_A
        if norm_A is None:
            norm_A = norm_of_gaussian(layer.d_in, layer.r, layer.std, (delta - for_samples) / unknown)
        q = math.sqrt(layer.d_out * layer.r) * norm_A
        whole = layer.norm + entry_bound * q
        moved = layer.lipschitz * (whole * moved + q * height)
        height = layer.lipschitz * whole * height + layer.offset
    trained = sum(layer.r * layer.d_out for layer in layers)
    points = max(1.0, 2 * entry_bound * loss_lipschitz * moved * math.sqrt(n))
    # Past 2^53 a ceiling changes nothing.
    per_number = math.log(math.ceil(points)) if points < 2**53 else math.log(points)
    value = 1 / math.sqrt(n) + math.sqrt((trained * per_number + math.log(2 / for_samples)) / (2 * n))
    return SingleRunBound(value=value, lower=1 / math.sqrt(n), probability=1 - delta, lipschitz=moved, trained=trained)
