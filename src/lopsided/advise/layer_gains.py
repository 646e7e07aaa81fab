"""Each method's gain in each layer, from the layers' moments.

Notation: as in `lopsided.theory.sides`. The budget of a layer is the r·d_out numbers that training B takes at rank r.
Every method gets the rank at which it trains about as many: round(budget / numbers per rank), at least 1 and at most
the sketched width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.advise.moments import collect
from lopsided.errors import LopsidedError
from lopsided.method import METHODS, InputMoments, LinkSide, Method, method_named, side_named
from lopsided.method.sketch import layer_seed
from lopsided.theory.checks import check_positive
from lopsided.theory.dims import linear_maps
from lopsided.theory.sides import Gain, Whitened, whiten


@dataclass(frozen=True, kw_only=True)
class LayerEstimate:
    """The estimated gain of one method in one layer.

    Args:
        side: the factor that learns. The gain of "AB" is that of the best update of its rank, an upper bound.
        rank, trained: at the budget; how many numbers are trained.
        reduction: of the loss, expected for other rows than those of the estimate, in nats per prediction (squared
            units for regression); the mean over seeds where the sketch is random. Noise can make it negative.
        fitted: the same on the rows of the estimate, which is larger, since it fits their noise.
    """

    module: str
    method: str
    side: str
    rank: int
    trained: int
    reduction: float
    fitted: float

    @property
    def is_bound(self) -> bool:
        """Whether `reduction` is an upper bound, which does not compete with estimates."""
        return side_named(self.side).gain_is_bound


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Every method's gain in every layer.

    Args:
        rows: by layer in the model's order, then by method.
        unseen: the layers that the loss does not depend on, for which there is no estimate.
        predictions: the number of predictions from which the moments come.
        r, damping, seeds: as in `advise`.
    """

    rows: tuple[LayerEstimate, ...]
    unseen: tuple[str, ...]
    predictions: int
    r: int
    damping: float
    seeds: int

    def best(self) -> dict[str, LayerEstimate]:
        """Return each layer's method with the largest expected reduction, without the bounds for two factors."""
        best: dict[str, LayerEstimate] = {}
        for row in self.rows:
            if not row.is_bound and (row.module not in best or row.reduction > best[row.module].reduction):
                best[row.module] = row
        return best


def distinct() -> list[Method]:
    """Return the registered adapters, the first one of each pair of trained factor and sketch."""
    first: dict[tuple[object, ...], Method] = {}
    for method in METHODS.values():
        if method.is_adapter:
            first.setdefault((method.train, method.sketch, _probabilities(method)), method)
    return list(first.values())


def _probabilities(method: Method) -> tuple[float, ...]:
    """Return those of a link's sides. What a side gains does not depend on other numbers, such as lr_ratio."""
    return tuple(probability for probability, _ in method.adapter_side.odds())


def advise(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    *,
    methods: Sequence[str | Method] | None = None,
    r: int = 16,
    target_modules: str | Sequence[str] = "all-linear",
    damping: float = 0.1,
    seeds: int = 4,
) -> Advice:
    """Estimate how far each method could lower the loss, from a few batches and before any training.

    The loss is modelled around the weights as they are, one layer at a time, by its gradient and a Kronecker-factored
    Fisher information; for a chain, the estimate is that of its first link. A task's head should be trained first:
    around a random one, the gradient says little about the task (`fit_head`). A sketch that reads a layer's inputs is
    drawn from the moments of these batches.

    Args:
        model: a transformers model, whose head has been trained if it has one. It is left as it was.
        batches: at least two; the keyword arguments of its forward with labels, on the model's device.
        methods: names or methods; None takes every registered pair of trained factor and sketch.
        r: rank of training B, which sets the budget.
        target_modules: as for `adapt`.
        damping: see `whiten`.
        seeds: draws of a random sketch that are averaged.

    Raises:
        LopsidedError: for unknown methods, too few batches, batches without labels, no linear layers.

    Source:
        `lopsided.theory.sides`.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> small = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 8}
        >>> model = BertForSequenceClassification(BertConfig(**small, vocab_size=9))
        >>> batch = {"input_ids": torch.arange(8).reshape(2, 4), "labels": torch.tensor([0, 1])}
        >>> advice = advise(model, [batch, batch], methods=["asym_b", "asym_a"], r=2)
        >>> {row.method for row in advice.rows} == {"asym_b", "asym_a"}
        True
    """
    check_positive(r=r, seeds=seeds)
    adapters = adapters_named(methods)
    layers = linear_maps(model, target_modules)
    if not layers:
        raise LopsidedError(f"expected linear layers named {target_modules!r}, found none; name other target_modules")
    moments = collect(model, batches, layers)
    rows: list[LayerEstimate] = []
    for name, module in layers:
        # A layer's moments are dropped once they have been used: together they take more memory than the model.
        if (own_moments := moments.by_layer.pop(name, None)) is not None:
            local, sigma = whiten(own_moments, damping), own_moments.sigma
            inputs = InputMoments(rows=moments.tokens[name], squares=np.diag(sigma), products=sigma)
            rows += [_estimate(local, name, module, inputs, method, r, seeds) for method in adapters]
    estimated = {row.module for row in rows}
    return Advice(
        rows=tuple(rows),
        unseen=tuple(name for name, _ in layers if name not in estimated),
        predictions=moments.predictions,
        r=r,
        damping=damping,
        seeds=seeds,
    )


def equal_rank(method: Method, d_out: int, d_in: int, r: int) -> int:
    """Return the rank at which a method trains nearest to r·d_out numbers.

    Example:
        >>> equal_rank(METHODS["asym_a"], 8, 32, r=8), equal_rank(METHODS["asym_b"], 8, 32, r=8)
        (2, 8)
    """
    rank = round(r * d_out / method.trained_numbers(d_out, d_in, 1))
    return max(1, min(rank, method.sketched_width(d_out, d_in)))


def adapters_named(methods: Sequence[str | Method] | None) -> list[Method]:
    """Return the methods of these names; None takes all distinct ones.

    Raises:
        LopsidedError: for an unknown name, or a method that adapts nothing.
    """
    if methods is None:
        return distinct()
    adapters = [method_named(method) if isinstance(method, str) else method for method in methods]
    for method in adapters:
        if not method.is_adapter:
            names = ", ".join(other.name for other in distinct())
            raise LopsidedError(f"method {method.name!r} is no adapter; expected one of {names}; leave it out")
    return adapters


def _estimate(
    local: Whitened,
    name: str,
    module: nn.Linear | Conv1D,
    inputs: InputMoments,
    method: Method,
    r: int,
    seeds: int,
) -> LayerEstimate:
    """What a method could gain in a layer, at its share of the budget."""
    d_out, d_in = len(local.root_gamma), len(local.root_sigma)
    rank = equal_rank(method, d_out, d_in, r)
    sketch = method.sketch
    assert sketch is not None
    weight = _weight(module) if sketch.reads_weight else None
    # A sketch that does not stay in ΔW decides nothing here, so that one draw is enough.
    random = sketch.random and method.adapter_side.keeps_sketch
    draws = [
        _gain(local, method, rank, layer_seed(seed, name), weight, inputs) for seed in range(seeds if random else 1)
    ]
    gain = Gain(
        fitted=float(np.mean([draw.fitted for draw in draws])),
        expected=float(np.mean([draw.expected for draw in draws])),
    )
    return LayerEstimate(
        module=name,
        method=method.name,
        side=method.train,
        rank=rank,
        trained=method.trained_numbers(d_out, d_in, rank),
        reduction=gain.expected,
        fitted=gain.fitted,
    )


def _gain(
    local: Whitened, method: Method, rank: int, seed: int, weight: np.ndarray | None, inputs: InputMoments
) -> Gain:
    """Return the gain for one draw of the first link's sketch: the mean over the sides that the link can have."""
    d_out, d_in = len(local.root_gamma), len(local.root_sigma)
    sketch = method.sketch
    assert sketch is not None

    def draw(side: LinkSide) -> np.ndarray:
        turned = None if weight is None else side.turned(weight)
        width = side.width(d_out, d_in)
        return sketch.sample(rank, width, seed=seed, link=0, weight=turned, inputs=inputs)

    fitted = expected = 0.0
    for probability, side in method.adapter_side.odds():
        if probability > 0:
            gain = side.gain(local, rank, partial(draw, side))
            fitted, expected = fitted + probability * gain.fitted, expected + probability * gain.expected
    return Gain(fitted=fitted, expected=expected)


def _weight(module: nn.Linear | Conv1D) -> np.ndarray:
    """W0 as (d_out, d_in)."""
    weight = module.weight.detach().float().cpu().numpy()
    return weight.T if isinstance(module, Conv1D) else weight
