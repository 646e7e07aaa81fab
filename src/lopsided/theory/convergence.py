"""How fast a chain of random sketches converges: the rates of RAC-LoRA.

Notation: f is L-smooth, with f* its least value and gap = f(W⁰) - f*. Each link draws a fresh sketch S of (r, d), and
H = Sᵀ(S·Sᵀ)⁺S is the projection onto its rows. With the exact step of size γ <= 1/L, a link is W ← W - γ·∇f(W)·H
(training B) or W ← W - γ·H·∇f(W) (training A). λ_min and λ_max are the extreme eigenvalues of E[H]; a fixed selector
has λ_min = 0, and then there is no rate.

    GD, non-convex    min over T links of E‖∇f‖² <= 2·gap / (λ_min·γ·T)
    GD, μ-PL          E[f(W^T)] - f* <= (1 - γ·μ·λ_min)^T · gap
    SGD, variance σ²  non-convex: 2·gap/(γ·λ_min·T) + L·γ·σ²·λ_max/λ_min
                      μ-PL: the contraction above, down to a floor of L·γ·σ²·λ_max/(2·μ·λ_min)

The paper analyses random reshuffling and the federated form as well; their constants are not established here, so no
function gives them.

Source: Malinovsky et al. 2024, arXiv:2410.08305 (GD); the SGD forms are derived for this library in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

from lopsided.errors import LopsidedError
from lopsided.method.sketch import Sketch
from lopsided.theory.checks import check_not_negative, check_positive, check_probability


@dataclass(frozen=True, kw_only=True)
class Eigenvalue:
    """An eigenvalue of E[H], between 0 and 1, with an interval that covers it.

    Args:
        value, low, high: all equal where it is known in closed form.
        how: "closed form", or "Monte Carlo" with at least `confidence` that it lies between low and high.
    """

    value: float
    low: float
    high: float
    how: Literal["closed form", "Monte Carlo"]
    confidence: float = 1.0


def projection(S: np.ndarray) -> np.ndarray:
    """Return H = Sᵀ(S·Sᵀ)⁺S, the orthogonal projection onto the rows of S.

    Shapes:
        S: (r, d) -> (d, d), symmetric, H·H = H.

    Units:
        None, whatever the units of S.

    Source:
        The exact step's projection: Malinovsky et al. 2024, arXiv:2410.08305, Algorithm 1.
    """
    _, sizes, vectors = np.linalg.svd(np.asarray(S, dtype=np.float64), full_matrices=False)
    kept = vectors[sizes > sizes.max(initial=0.0) * max(S.shape) * np.finfo(np.float64).eps]
    H: np.ndarray = kept.T @ kept
    return H


def lambda_min(
    sketch: Sketch, r: int, d: int, *, draws: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Eigenvalue:
    """Return λ_min(E[H]) of a sketch: in closed form where the sketch knows it, from draws otherwise.

    From draws, the value is vᵀH̄v with H̄ the mean over one half of them, and v the last eigenvector of the other half's
    mean: an unbiased estimate for a direction that is nearly the worst. The upper end of the interval is the normal
    limit of that estimate, since no direction's mean lies below λ_min. The lower end is λ_min of the mean of all draws
    minus a matrix Bernstein radius, with the variance E[H] - E[H]² <= 1/4. Either end has half of the failure
    probability.

    Args:
        draws: of the sketch, for the Monte Carlo.
        seed: the draws are those of seeds seed, seed + 1, ...
        confidence: of the interval.

    Raises:
        LopsidedError: if r does not fit d, or for fewer than 8 draws.

    Units:
        None: a share, between 0 and 1.

    Source:
        The rates' assumption: Malinovsky et al. 2024, Assumption 1. Matrix Bernstein: Tropp 2012, arXiv:1004.4389.

    Example:
        >>> from lopsided import Orthonormal
        >>> lambda_min(Orthonormal(), 2, 8).value
        0.25
    """
    known = sketch.lambda_min(r, d)
    if known is not None:
        return Eigenvalue(value=known, low=known, high=known, how="closed form")
    return lambda_min_sampled(sketch, r, d, draws=draws, seed=seed, confidence=confidence)


def lambda_min_sampled(
    sketch: Sketch, r: int, d: int, *, draws: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Eigenvalue:
    """Return λ_min(E[H]) from draws alone, whether or not a closed form is known; `lambda_min` says how.

    Units:
        None: a share, between 0 and 1.

    Source:
        As for `lambda_min`, which says what is raised.
    """
    check_probability(confidence=confidence)
    if draws < 8:
        raise LopsidedError(f"expected at least 8 draws, got {draws}; raise draws")
    failure = (1 - confidence) / 2
    samples = [sketch.sample(r, d, seed=seed + i, link=0) for i in range(draws)]
    # Before the ends of the interval are cut to [0, 1], which would make an end of NaN.
    if bad := sum(not np.isfinite(S).all() for S in samples):
        raise LopsidedError(f"expected finite sketches, got NaN or Inf in {bad} of {draws} draws; correct the sketch")
    # One half of the draws chooses the direction v, the other one estimates the mean of vᵀHv.
    halves = [np.mean([projection(S) for S in part], axis=0) for part in (samples[::2], samples[1::2])]
    v = np.linalg.eigh(halves[0])[1][:, 0]
    values = np.array([v @ projection(S) @ v for S in samples[1::2]])
    value = float(values.mean())
    high = value + float(norm.ppf(1 - failure)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    # Of all draws, from the halves, whose sizes may differ by one.
    mean = (halves[0] * len(samples[::2]) + halves[1] * len(samples[1::2])) / draws
    low = float(np.linalg.eigvalsh(mean)[0]) - _bernstein(d, draws, failure)
    return Eigenvalue(value=value, low=max(0.0, low), high=min(1.0, high), how="Monte Carlo", confidence=confidence)


def _bernstein(d: int, draws: int, failure: float) -> float:
    """The radius t with d·exp(-N·t²/2 / (1/4 + t/3)) = failure, of a mean of N projections of width d."""
    log = math.log(d / failure) / draws
    return log / 3 + math.sqrt((log / 3) ** 2 + log / 2)


def coin_lambda(p: float, lambda_B: float, lambda_A: float) -> float:
    """Return λ of a chain that trains B with probability p at each link: p·λ_B + (1-p)·λ_A.

    Units:
        None: all three are eigenvalues of projections, between 0 and 1.

    Source:
        Bernoulli-LoRA, arXiv:2508.03820.
    """
    check_not_negative(lambda_B=lambda_B, lambda_A=lambda_A)
    if not 0 <= p <= 1:
        raise LopsidedError(f"p is a probability between 0 and 1, got {p}; correct it")
    return p * lambda_B + (1 - p) * lambda_A


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What the rates depend on: a problem, a step and a sketch.

    Args:
        gap: f(W⁰) - f*, in units of f.
        smoothness: L, in f per squared unit of W.
        step: γ, at most 1/L.
        lambda_min: λ_min(E[H]), positive.
        pl: μ of the Polyak-Łojasiewicz inequality ‖∇f‖² >= 2μ(f - f*), in the units of L; None for none.
        variance: σ² of a stochastic gradient, squared units of ∇f; 0 for full gradients.
        lambda_max: λ_max(E[H]).

    Raises:
        LopsidedError: for numbers out of their range, and for a sketch with λ_min = 0.
    """

    gap: float
    smoothness: float
    step: float
    lambda_min: float
    pl: float | None = None
    variance: float = 0.0
    lambda_max: float = 1.0

    def __post_init__(self) -> None:
        check_positive(gap=self.gap, smoothness=self.smoothness, step=self.step)
        check_not_negative(variance=self.variance)
        if self.step * self.smoothness > 1 + 1e-9:
            raise LopsidedError(
                f"expected a step of at most 1/L = {1 / self.smoothness:g}, got {self.step:g}; lower it"
            )
        if not 0 < self.lambda_min <= self.lambda_max <= 1:
            raise LopsidedError(
                f"expected 0 < λ_min <= λ_max <= 1, got {self.lambda_min:g} and {self.lambda_max:g}; nothing is "
                "promised where λ_min(E[H]) is 0, as it is for a fixed selector: draw a new sketch at each link"
            )
        if self.pl is not None and not 0 < self.pl <= self.smoothness:
            raise LopsidedError(f"expected 0 < μ <= L = {self.smoothness:g}, got {self.pl:g}; correct pl")

    @property
    def contraction(self) -> float:
        """1 - γ·μ·λ_min, the factor by which a link shrinks the expected gap.

        Raises:
            LopsidedError: without `pl`.
        """
        if self.pl is None:
            raise LopsidedError("expected pl, the constant μ, for a linear rate; got none; give it, or use `gradient`")
        return 1 - self.step * self.pl * self.lambda_min

    @property
    def floor(self) -> float:
        """L·γ·σ²·λ_max/(2·μ·λ_min), the gap that noise leaves at the step γ, in units of f.

        Raises:
            LopsidedError: without `pl`.
        """
        if self.pl is None:
            raise LopsidedError("expected pl, the constant μ, for a floor of the gap; got none; give it")
        return self.smoothness * self.step * self.variance * self.lambda_max / (2 * self.pl * self.lambda_min)

    def gap_after(self, links: int) -> float:
        """Return the bound on E[f] - f* after so many links, under PL: contraction^T·gap + floor."""
        check_not_negative(links=links)
        return self.contraction**links * self.gap + self.floor

    def gradient_after(self, links: int) -> float:
        """Return the bound on the least E‖∇f‖² of so many links, without PL."""
        check_positive(links=links)
        return 2 * self.gap / (self.lambda_min * self.step * links) + self._noise

    def links_needed(self, target: float) -> int:
        """Return the fewest links whose bound is at most `target`: on the gap under PL, else on the squared gradient.

        Raises:
            LopsidedError: if the noise leaves more than the target after any number of links.
        """
        check_positive(target=target)
        if self.pl is None:
            self._check_reachable(target, self._noise)
            return math.ceil(2 * self.gap / (self.lambda_min * self.step * (target - self._noise)))
        self._check_reachable(target, self.floor)
        part = (target - self.floor) / self.gap
        # With γ = 1/L, μ = L and the identity for a sketch the contraction is 0, and one link is enough.
        if part >= 1 or self.contraction <= 0:
            return int(part < 1)
        return math.ceil(math.log(part) / math.log(self.contraction))

    @property
    def _noise(self) -> float:
        """What noise adds to the bound on E‖∇f‖²."""
        return self.smoothness * self.step * self.variance * self.lambda_max / self.lambda_min

    def _check_reachable(self, target: float, floor: float) -> None:
        if target <= floor:
            raise LopsidedError(
                f"expected a target above the noise's floor of {floor:g}, got {target:g}; lower the step, or the "
                "variance with larger batches"
            )
