"""Sharpness where it is known in closed form, and of tiny adapters against finite differences."""

from __future__ import annotations

import pytest
import torch

import lopsided
from lopsided import LopsidedError
from lopsided.curvature.hessian import hessian_top
from lopsided.diagnose.directions import plane_parameters, random_directions
from lopsided.diagnose.loss_grid import landscape
from lopsided.diagnose.sharpness import largest_increase, sharpness_json
from tests import tiny
from tests.curvature.quadratic import LABELS, Quadratic, batch_of, loss, spd

# -- the largest rise ----------------------------------------------------------------------------------------


def test_a_quadratics_largest_rise_around_its_minimum():
    # One filter, of norm 5: the ball has radius ρ·5 = 0.5, and the maximum is ½·λ_max·0.5².
    H, w = spd(6), torch.tensor([[3.0, 0.0, 4.0, 0.0, 0.0, 0.0]])
    found = largest_increase(Quadratic(w, H, m=w), LABELS, radius=0.1, steps=150, loss=loss)
    assert found.largest == pytest.approx(0.5 * float(torch.linalg.eigvalsh(H)[-1]) * 0.25, rel=1e-4)
    # At a minimum the first step is drawn; from there it never falls.
    assert found.losses[0] == 0.0
    # Of float32, in which the loss is summed: a few units in the last place.
    assert all(b >= a - 1e-6 * found.largest for a, b in zip(found.losses, found.losses[1:]))
    assert len(found.losses) == 151


def test_every_filter_has_a_ball_of_its_own():
    # Separable: filter f rises by h_f·(‖w_f‖²·(1 + ρ)² − ‖w_f‖²)/2 along itself, which is its maximum.
    w, h = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([1.0, 10.0, 7.0])
    H = torch.diag(h.repeat_interleave(2))
    found = largest_increase(Quadratic(w, H), LABELS, radius=0.2, steps=4, loss=loss)
    assert found.largest == pytest.approx(0.5 * (1.2**2 - 1) * (1.0 * 25 + 10.0 * 4), rel=1e-5)


def test_where_nothing_rises_the_largest_rise_is_zero():
    found = largest_increase(Quadratic(torch.ones(1, 3), -torch.eye(3), m=torch.ones(1, 3)), LABELS, loss=loss)
    assert found.largest == 0.0
    assert min(found.losses) < 0


def test_the_ball_holds_the_landscapes_line_and_the_model_is_left_as_it_was():
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules="all-linear")
    tiny.train_a_little(model)
    model = model.merge_and_unload()
    model.zero_grad()
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batches = batch_of(model)
    surface = landscape(model, random_directions(plane_parameters(model)), batches, points=3)
    found = largest_increase(model, batches, radius=1.0, steps=3)
    assert found.largest > max(surface.line) - surface.centre
    assert found.largest == pytest.approx(max(found.losses) - found.losses[0])
    smaller = largest_increase(model, batches, radius=0.01, steps=3)
    assert 0 < smaller.largest < found.largest
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad == asked[name]
        assert parameter.grad is None


def test_an_ascent_out_of_the_finite_stops_there():
    def walled(model, batch):
        value = loss(model, batch)
        return value + (float("inf") if model.w[0, 0] > 1.0 else 0.0)

    found = largest_increase(Quadratic(torch.ones(1, 3), torch.eye(3)), LABELS, radius=0.1, loss=walled)
    assert found.losses == (1.5, None)
    # What was seen before the wall is no largest rise within the radius.
    assert found.largest is None
    assert found.why == "the loss is not finite after 1 of 10 steps within the radius"


def test_each_step_goes_a_quarter_of_the_radius_and_never_beyond_it():
    # Linear in the norm along w itself: the rise says how far the ascent has gone.
    found = largest_increase(Quadratic(torch.ones(1, 4), torch.eye(4)), LABELS, radius=0.4, steps=6, loss=loss)
    reached = [(2 * value / 4) ** 0.5 - 1 for value in found.losses]
    assert reached == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "positive radius"),
        ({"steps": 0}, "at least 1 step"),
        ({"loss": lambda m, b: m.w.sum() * float("nan")}, "finite loss"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(LopsidedError, match=message):
        largest_increase(Quadratic(torch.ones(1, 3), torch.eye(3)), LABELS, **{"loss": loss, **options})


def test_what_the_record_holds():
    model = Quadratic(torch.ones(1, 3), torch.eye(3))
    ascent = largest_increase(model, LABELS, radius=0.1, loss=loss)
    top = hessian_top(model, LABELS, loss=loss)
    assert sharpness_json(0.1, ascent, top) == {
        "radius": 0.1,
        "largest": ascent.largest,
        "hessian_top": pytest.approx(1.0),
        "hessian_residual": pytest.approx(0.0, abs=1e-6),
        "hessian_converged": True,
    }
    without = sharpness_json(0.1, "a reason", "another")
    assert without["largest"] is without["hessian_top"] is without["hessian_residual"] is None
    assert without["why"] == {"largest": "a reason", "hessian_top": "another"}
