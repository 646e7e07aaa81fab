"""Information-theoretic generalization bounds, for any method, from its parts.

Notation: a method trains P numbers of q bits each on n samples, with a loss that is σ-sub-Gaussian. Then

    |E[test loss - train loss]| <= √(2·P·q·ln 2·σ² / n)

since the trained numbers cannot carry more than P·q·ln 2 nats about the samples. With a factor of rank r in layers of
(d_out, d_in) and k links, P = k·r·D, where D sums d_out over the layers if B is trained, d_in if A is, and both if both
are: P is k times what `Method.trained_numbers` counts, whatever the adapter. Full fine-tuning trains every number of
the model, and P of the head alone is the head's.

Sources: Xu and Raginsky 2017, arXiv:1705.07809; Zhu et al. 2024, arXiv:2402.16842, Lemma 4.5; Cadenhead et al. 2026,
arXiv:2606.13767, Table 1, which adds Φ_W0 of `spectral`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.method import METHODS, Method, method_named
from lopsided.theory.checks import check_positive
from lopsided.theory.dims import LayerDims, ModelNumbers, model_numbers


@dataclass(frozen=True, kw_only=True)
class Sigma:
    """The sub-Gaussian parameter of a loss, in the loss's own units, and how it was obtained.

    Args:
        value: σ, such that E[exp(λ·(loss - mean))] <= exp(λ²σ²/2) for all λ.
        how: "range" holds for every distribution; "estimate" is a statistic of a sample of losses, and not a bound;
            "given" is what the caller says.
    """

    value: float
    how: Literal["range", "estimate", "given"]

    def __post_init__(self) -> None:
        check_positive(sigma=self.value)


def sigma_of_range(low: float, high: float) -> Sigma:
    """Return σ = (high - low)/2 of a loss that stays between two numbers.

    Units:
        The loss's own.

    Source:
        Hoeffding's lemma.

    Example:
        >>> sigma_of_range(0, 1)
        Sigma(value=0.5, how='range')
    """
    if not low < high:
        raise LopsidedError(f"expected a range with low < high, got low={low}, high={high}; correct it")
    return Sigma(value=(high - low) / 2, how="range")


def sigma_estimated(losses: Sequence[float]) -> Sigma:
    """Return the smallest σ that these losses allow: sup over λ of √(2·ln mean exp(λ(loss - mean))) / |λ|.

    As λ goes to 0 the expression is the standard deviation, so that σ is at least that. It says nothing of losses
    outside of the sample.

    Args:
        losses: per sample, of samples that the model did not learn from.

    Units:
        The losses' own.

    Source:
        The definition of a σ-sub-Gaussian variable, with the mean over the samples in place of an expectation.

    Raises:
        LopsidedError: for fewer than two losses, or losses that are all equal or not finite.
    """
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise LopsidedError(
            f"expected at least two finite losses, one per sample, got shape {values.shape}; pass per-sample losses"
        )
    centred = values - values.mean()
    deviation = centred.std()
    if deviation == 0:
        raise LopsidedError("expected losses that differ, got equal ones; give sigma, or the range of the loss")
    largest = deviation
    # λ in units of one over the deviation, on both sides of 0.
    for size in np.geomspace(1e-3, 30, 60):
        for sign in (-1, 1):
            exponent = sign * size / deviation * centred
            # The largest exponent is taken out of the mean, so that exp does not overflow.
            top = exponent.max()
            cumulant = top + math.log(np.exp(exponent - top).mean())
            largest = max(largest, math.sqrt(2 * max(cumulant, 0.0)) * deviation / size)
    return Sigma(value=float(largest), how="estimate")


@dataclass(frozen=True, kw_only=True)
class InformationBound:
    """A bound on the expected gap between test and training loss, in the loss's own units.

    Args:
        value: the bound.
        method, links, layers: of the runs that it is for.
        trained: how many numbers the adapters train over all links; a task's head comes on top. Of full fine-tuning
            every number of the model, of the head alone the head's.
        sketched: how many numbers of sketches the samples decide, which count as the trained ones do.
        n, bits, sigma: as given.
    """

    value: float
    method: str
    links: int
    layers: int
    trained: int
    sketched: int
    n: int
    bits: float
    sigma: Sigma


def generalization_bound(
    model_or_dims: nn.Module | ModelNumbers | Iterable[LayerDims] | Iterable[tuple[int, int]],
    method: str | Method,
    r: int,
    n: int,
    sigma: float | Sigma,
    bits: float = 32,
    links: int | None = None,
    *,
    target_modules: str | Sequence[str] = "all-linear",
) -> InformationBound:
    """Return √(2·P·q·ln 2·σ² / n), with P the numbers that the method learns over all its links.

    The trained numbers must depend on the samples alone (sketches are drawn independently of them, and a coin
    counts as the wider of its two sides). A sketch that is drawn from the samples' inputs depends on them as well, so
    that its numbers count next to the trained ones: r·d_in of a dense one, r of a selector. Of an adapter, a task's
    head and trained biases are not counted, as in the papers' tables.

    Args:
        model_or_dims: a model with its task's head; what `model_numbers` counted of one; or its adapted layers as pairs
            (d_out, d_in), which is then all that full fine-tuning is taken to train.
        method: a name of `lopsided.METHODS`, or any `Method`.
        r: rank.
        n: training samples.
        sigma: see `Sigma`; a number is taken as given.
        bits: q, of a trained number as it is stored.
        links: of a chain; None takes the method's own.
        target_modules: see `layer_dims`.

    Raises:
        LopsidedError: if r, n, sigma, bits or links are not positive; if a method without a chain is given links; for
            a model whose layers cannot be listed; for a method that trains a head, without a model that has one; for a
            bound that is too large for a float.

    Units:
        The loss's own, as σ.

    Source:
        Zhu et al. 2024, Lemma 4.5; Cadenhead et al. 2026, Table 1 (without its Φ_W0).

    Example:
        >>> round(generalization_bound([(10, 20)], "cla", r=2, n=1000, sigma=0.5, bits=32).value, 4)
        0.471
    """
    sigma = sigma if isinstance(sigma, Sigma) else Sigma(value=sigma, how="given")
    check_positive(r=r, n=n, bits=bits)
    method = method_named(method) if isinstance(method, str) else method
    k = chain_links(method, links)
    numbers = _numbers(model_or_dims, target_modules)
    trained = _trained(method, numbers, r, k)
    sketched = sum(method.data_numbers(layer.d_in, r) for layer in numbers.layers)
    # σ outside of the root: its square may leave the floats where the bound does not.
    value = math.sqrt(2 * (trained + sketched) * bits * math.log(2) / n) * sigma.value
    if not math.isfinite(value):
        raise LopsidedError(
            f"the bound with bits={bits:g} and sigma={sigma.value:g} is too large for a float; lower them"
        )
    return InformationBound(
        value=value,
        method=method.name,
        links=k,
        layers=len(numbers.layers),
        trained=trained,
        sketched=sketched,
        n=n,
        bits=bits,
        sigma=sigma,
    )


def _numbers(
    given: nn.Module | ModelNumbers | Iterable[LayerDims] | Iterable[tuple[int, int]],
    target_modules: str | Sequence[str],
) -> ModelNumbers:
    return given if isinstance(given, ModelNumbers) else model_numbers(given, target_modules)


def _trained(method: Method, numbers: ModelNumbers, r: int, links: int) -> int:
    """The numbers that the method trains over all its links."""
    of_one_link = _of_one_link(method, numbers, r)
    if of_one_link is None:
        if method.side.head_alone:
            raise LopsidedError(
                f"method {method.name!r} trains a task's head, and there is none to count; pass a model with a head, "
                "or leave the method out"
            )
        why = method.side.uncounted.format(model="the model")
        raise LopsidedError(f"method {method.name!r} has no bound: {why}; leave the method out")
    return links * of_one_link


def _of_one_link(method: Method, numbers: ModelNumbers, r: int) -> int | None:
    layers = [(layer.d_out, layer.d_in) for layer in numbers.layers]
    return method.side.count_in_model(layers, r, whole=numbers.whole, head=numbers.head)


def is_counted(method: Method, numbers: ModelNumbers) -> bool:
    """Return whether the model has what the method trains: a task's head may be missing.

    Units:
        None: yes or no.

    Source:
        `Side.count_in_model`.
    """
    return _of_one_link(method, numbers, r=1) is not None


def chain_links(method: Method, links: int | None) -> int:
    """Return how many links of a run have factors of their own: 1 where a chain does not merge.

    Without a merge the trained model holds the last link's factors, next to a sketch that does not depend on the data,
    and nothing of the links before.

    Raises:
        LopsidedError: if a method without a chain is given more than one, or a chain's number follows from the run's
            length and none is given.
    """
    if links is not None:
        check_positive(links=links)
    if method.chain is None:
        if links not in (None, 1):
            raise LopsidedError(f"method {method.name!r} has no chain, got links={links}; leave links out")
        return 1
    if not method.chain.merge:
        return 1
    count = links if links is not None else method.chain.links
    if count is None:
        raise LopsidedError(f"the links of {method.name!r} follow from a run's length; give links")
    return count


def all_bounds(
    model_or_dims: nn.Module | ModelNumbers | Sequence[tuple[int, int]],
    r: int,
    n: int,
    sigma: float | Sigma,
    bits: float = 32,
    *,
    target_modules: str | Sequence[str] = "all-linear",
) -> list[InformationBound]:
    """Return the bound of every registered method, smallest first; without a head to count, the head's is left out.

    Units:
        The loss's own, as σ.

    Source:
        As for `generalization_bound`, which says what is raised.
    """
    numbers = _numbers(model_or_dims, target_modules)
    methods = [method for method in METHODS.values() if is_counted(method, numbers)]
    bounds = [generalization_bound(numbers, method, r, n, sigma, bits) for method in methods]
    return sorted(bounds, key=lambda bound: bound.value)
