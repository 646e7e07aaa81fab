"""How sharply the loss rises around a finished run's weights: within a radius, and to second order.

Notation: w* are the weights, L the loss over fixed batches, δ a change; δ_f and w_f are one filter's part (see
`lopsided.diagnose.directions`), g_f that of L's gradient. The Hessian's top eigenvalue is that of `lopsided.curvature`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lopsided.curvature.batches import Batch, Loss, check_batches, loss_and_gradient, mean_loss, model_loss
from lopsided.curvature.lanczos import Ritz
from lopsided.diagnose.directions import (
    Directions,
    normalised,
    plane_parameters,
    random_directions,
    transposed_names,
    within,
)
from lopsided.diagnose.loss_grid import Plane
from lopsided.errors import LopsidedError
from lopsided.files.strict_json import WHY
from lopsided.finite import all_finite, finite_or_none
from lopsided.models.mode_contexts import gradients_of, model_mode


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """The largest rise of the loss that the ascent came to.

    Args:
        radius: ρ.
        largest: max_k L(w* + δ_k) − L(w*), in the loss's unit; at least 0, and a lower bound on the ball's maximum.
            None where the ascent met a loss or a gradient that is not finite: what was seen before is no maximum.
        why: the reason, where it is None.
        losses: L(w* + δ_k) for k = 0 (δ = 0), 1, …; None where it was not finite.
    """

    radius: float
    largest: float | None
    losses: tuple[float | None, ...]
    why: str = ""


def largest_increase(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    radius: float = 0.01,
    steps: int = 10,
    seed: int = 0,
    loss: Loss = model_loss,
) -> Ascent:
    """Find the largest rise of the loss by ascent, where every filter may change by a share ρ of its own norm.

    The ball is {δ : ‖δ_f‖₂ ≤ ρ·‖w*_f‖₂ for every filter f}, so that a landscape's points with |t| ≤ ρ on its line lie
    in it. From δ = 0, each step adds (ρ/4)·‖w*_f‖·g_f/‖g_f‖ to every filter, with g at w* + δ, and brings it back into
    its ball where it has left it; a filter without a gradient stays. Where the whole gradient is zero, the step is
    random. A step of ρ would be SAM's, filter by filter; beyond small radii it leaps over the maximum.

    Args:
        model: plain (adapters merged), with the weights w*; left as it was, bit for bit.
        radius: ρ.
        steps: of the ascent, each with a gradient over all batches; fewer than four do not reach the ball's edge.
        seed: of the random step.

    Raises:
        LopsidedError: for a radius or steps that make no sense, batches without labels, a loss at w* that is not
            finite.

    Source:
        Keskar et al. 2017, arXiv:1609.04836, metric 2.1 (the largest value in a neighbourhood relative to w); Foret et
        al. 2021, arXiv:2010.01412, equation 2 (its first-order maximum); filters after Li et al. 2018,
        arXiv:1712.09913.
    """
    if not (0 < radius < math.inf and steps >= 1):
        raise LopsidedError(f"expected a positive radius and at least 1 step, got {radius} and {steps}; correct them")
    check_batches(batches)
    parameters, transposed = plane_parameters(model), transposed_names(model)
    centre = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    # w* + 1·δ, with δ put in the place of the plane's first direction after each step.
    plane = Plane(model, Directions(kind="ascent", first=centre, second={}))
    losses: list[float | None] = []
    change = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in centre.items()}
    with model_mode(model, training=False), plane.moving(), gradients_of(model, list(parameters.values())):
        for _ in range(steps):
            value, gradients = loss_and_gradient(model, list(parameters.values()), batches, loss)
            losses.append(finite_or_none(value))
            if losses[0] is None:
                raise LopsidedError(f"expected a finite loss at the weights themselves, got {value}; check the run")
            if losses[-1] is None or not all_finite(*gradients):
                break
            # At an exact stationary point: without a direction the ascent would stay there.
            if not any(bool(g.any()) for g in gradients):
                gradients = list(random_directions(centre, seed=seed, transposed=transposed).first.values())
            for (name, weight), g in zip(centre.items(), gradients):
                columns = name in transposed
                # Step, then projection onto the ball, filter by filter.
                up = normalised(g, weight, transposed=columns)
                change[name] = within(change[name].add(up, alpha=radius / 4), weight, radius, transposed=columns)
            plane.first = [change[name] for name in plane.names]
            plane.put(1.0)
        else:
            # After the last step there is a point whose loss no gradient has measured.
            losses.append(finite_or_none(mean_loss(model, batches, loss)))
    start, seen = losses[0], [value for value in losses if value is not None]
    assert start is not None
    if len(seen) < steps + 1:
        what = "gradient" if losses[-1] is not None else "loss"
        why = f"the {what} is not finite after {len(losses) - 1} of {steps} steps within the radius"
        return Ascent(radius=radius, largest=None, losses=tuple(losses), why=why)
    return Ascent(radius=radius, largest=max(value - start for value in seen), losses=tuple(losses))


def sharpness_json(radius: float, ascent: Ascent | str, top: Ritz | str) -> dict[str, Any]:
    """Return the `sharpness` of diagnosis.json's landscape.

    Args:
        ascent, top: the results, or the reason why there is none.
    """
    why = {}
    largest = ascent.largest if isinstance(ascent, Ascent) else None
    if largest is None:
        why["largest"] = ascent.why if isinstance(ascent, Ascent) else ascent
    figures: dict[str, Any] = {"radius": radius, "largest": largest}
    if isinstance(top, Ritz):
        figures |= {"hessian_top": top.value, "hessian_residual": top.residual, "hessian_converged": top.converged}
    else:
        figures |= {"hessian_top": None, "hessian_residual": None, "hessian_converged": None}
        why["hessian_top"] = top
    return {**figures, WHY: why} if why else figures
