"""Which factor to train, in least squares: the closed forms, how often training B wins, and where it loses.

Notation: as in `theory.least_squares`. The loss of an adapter is Tr[(Δ - BA)·Σ·(Δ - BA)ᵀ], with Q and U uniform over
orthonormal frames. Their law does not change under a turn of the inputs, so Σ is taken to be diagonal. Δ is Gaussian,
of d x d unless said otherwise.

    mild           Σ = Diag(1, (d-1)/d, …, 1/d)
    steep          Σ = Diag(1, 1/2, …, 1/d)
    equal          Σ = I, where B and A are alike
    low-variance   Σ steep, Δ zero on the half of the inputs with the larger variances
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lopsided.lab.intervals import least, over_seeds, share
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.plotting.svg import Drawing, Trace
from lopsided.theory import expected_gap, tune_a, tune_b, tune_b_condition

RANK = 8
WIDTHS = (16, 32, 64, 128, 256)
# d/r = 16, the place of the check that training A can win every time.
COUNTER_WIDTH = 128
SETTINGS = ("mild", "steep", "equal", "low-variance")


def frame(draw: np.random.RandomState, d: int, r: int) -> np.ndarray:
    """Draw a matrix of (d, r), uniform over those with orthonormal columns."""
    Q, R = np.linalg.qr(draw.standard_normal((d, r)))
    return Q * np.sign(np.diag(R))


def variances(setting: str, d: int) -> np.ndarray:
    """Return the diagonal of Σ: (d,), the largest first."""
    if setting == "equal":
        return np.ones(d)
    return np.arange(d, 0, -1) / d if setting == "mild" else 1 / np.arange(1.0, d + 1)


def update(setting: str, d: int, draw: np.random.RandomState) -> np.ndarray:
    """Draw Δ: (d, d)"""
    delta = draw.standard_normal((d, d))
    if setting == "low-variance":
        delta[:, : d // 2] = 0
    return delta


def loss_after_descent(delta: np.ndarray, sigma: np.ndarray, frozen: np.ndarray, side: str, steps: int) -> float:
    """Return the loss after gradient descent on the trained factor from zero, in steps of 1/L.

    Args:
        frozen: Q of (r, d_in) for side "B", U of (d_out, r) for side "A".
    """
    inner = frozen @ sigma @ frozen.T if side == "B" else sigma
    step = 1 / (2 * np.linalg.eigvalsh(inner)[-1])
    trained = np.zeros((len(delta), len(frozen)) if side == "B" else (frozen.shape[1], delta.shape[1]))
    for _ in range(steps):
        left = trained @ frozen - delta if side == "B" else frozen @ trained - delta
        gradient = 2 * left @ sigma @ frozen.T if side == "B" else 2 * frozen.T @ left @ sigma
        trained = trained - step * gradient
    left = delta - (trained @ frozen if side == "B" else frozen @ trained)
    return float(np.sum(left @ sigma * left))


def errors_of_closed_forms(problems: int, steps: int = 1000) -> np.ndarray:
    """Return |closed form - descent| / loss at zero, for both sides of random problems: (problems, 2)"""
    draw, errors = np.random.RandomState(0), []
    for _ in range(problems):
        d_out, d_in, r = 12, 20, 3
        delta, mix = draw.standard_normal((d_out, d_in)), draw.standard_normal((d_in, d_in))
        sigma = mix @ mix.T / d_in + 0.1 * np.eye(d_in)
        Q, U = frame(draw, d_in, r).T, frame(draw, d_out, r)
        whole = float(np.sum(delta @ sigma * delta))
        pairs = [(tune_b(delta, sigma, Q).loss, "B", Q), (tune_a(delta, sigma, U).loss, "A", U)]
        errors.append([abs(loss - loss_after_descent(delta, sigma, f, side, steps)) / whole for loss, side, f in pairs])
    return np.array(errors)


def gap_ratios(draws: int) -> np.ndarray:
    """Return (loss of A - loss of B) / expected gap, for inputs in a random space of the adapter's rank: (draws,)"""
    draw, d, variance = np.random.RandomState(1), 64, 2.0
    delta, basis = draw.standard_normal((d, d)), frame(draw, d, RANK)
    sigma, expected = variance * basis @ basis.T, expected_gap(delta, basis, variance)
    ratios = []
    for _ in range(draws):
        Q, U = frame(draw, d, RANK).T, frame(draw, d, RANK)
        ratios.append((tune_a(delta, sigma, U).loss - tune_b(delta, sigma, Q).loss) / expected)
    return np.array(ratios)


def duels(setting: str, d: int, draws: int) -> np.ndarray:
    """Return the two losses as shares of the loss at zero, B's first, with fresh Q, U and Δ per draw: (draws, 2)"""
    draw, sigma = np.random.RandomState([2, d]), np.diag(variances(setting, d))
    losses = []
    for _ in range(draws):
        delta = update(setting, d, draw)
        Q, U = frame(draw, d, RANK).T, frame(draw, d, RANK)
        whole = float(np.sum(delta @ sigma * delta))
        losses.append([tune_b(delta, sigma, Q).loss / whole, tune_a(delta, sigma, U).loss / whole])
    return np.array(losses)


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """What the condition says of problems, and what came of them.

    Args:
        predicted: the condition's ratio.
        measured: B's mean reduction of the loss over A's.

    Shapes:
        each: (problems,)
    """

    predicted: np.ndarray
    measured: np.ndarray

    @property
    def clear(self) -> np.ndarray:
        """Whether the ratio is far enough from 1 for a finite number of draws to name the winner."""
        return np.abs(np.log(self.predicted)) > np.log(1.1)

    @property
    def right(self) -> np.ndarray:
        """Whether the condition names the winner."""
        return (self.predicted > 1) == (self.measured > 1)


def forecast(problems: int, draws: int) -> Forecasts:
    """Compare the condition's ratio with the measured one on many problems.

    The share of Δ on the high-variance half of the inputs runs from none to all over the problems, in steps that are
    small where it is small, since the condition turns there.
    """
    draw, d = np.random.RandomState(3), COUNTER_WIDTH
    predicted, measured = [], []
    for part in np.linspace(0, 1, problems) ** 3:
        sigma = np.diag(variances("steep" if draw.rand() < 0.5 else "mild", d))
        delta = draw.standard_normal((d, d))
        delta[:, : d // 2] *= part**0.5
        delta[:, d // 2 :] *= (1 - part) ** 0.5
        whole = float(np.sum(delta @ sigma * delta))
        b = np.mean([whole - tune_b(delta, sigma, frame(draw, d, RANK).T).loss for _ in range(draws)])
        a = np.mean([whole - tune_a(delta, sigma, frame(draw, d, RANK)).loss for _ in range(draws)])
        predicted.append(tune_b_condition(sigma, delta).ratio)
        measured.append(b / a)
    return Forecasts(predicted=np.array(predicted), measured=np.array(measured))


def run(request: Request) -> Outcome:
    """Check the closed forms, count how often training B wins, and hold the condition against the winners."""
    draws, problems = request.number_of_seeds(quick=25, full=100), request.pick(quick=20, full=100)
    errors = errors_of_closed_forms(problems)
    ratios = gap_ratios(draws * 5)
    request.note("closed forms compared")
    losses = {setting: [duels(setting, d, draws) for d in WIDTHS] for setting in SETTINGS}
    b_won = {setting: [duel[:, 0] <= duel[:, 1] for duel in by_width] for setting, by_width in losses.items()}
    wins = {setting: [float(won.mean()) for won in by_width] for setting, by_width in b_won.items()}
    request.note("duels fought")
    forecasts = forecast(problems, max(5, draws // 4))
    return Outcome(
        measured=[
            Measured(value=float(errors.max())),
            over_seeds(ratios),
            least([share(b_won["mild"][-1]), share(b_won["steep"][-1])]),
            share(~b_won["low-variance"][WIDTHS.index(COUNTER_WIDTH)]),
            share(forecasts.right[forecasts.clear]),
        ],
        settings={"draws": draws, "problems": problems, "rank": RANK, "widths": list(WIDTHS)},
        details={
            "share of draws that training B wins": wins,
            "loss left by B and A": {s: [duel.mean(axis=0) for duel in by_width] for s, by_width in losses.items()},
            "condition's ratio": forecasts.predicted,
            "measured ratio": forecasts.measured,
            "problems that the condition is asked about": int(forecasts.clear.sum()),
        },
        plots=[_wins_drawing(wins, draws), _condition_drawing(forecasts)],
    )


def _wins_drawing(wins: Mapping[str, list[float]], draws: int) -> Drawing:
    x = [d / RANK for d in WIDTHS]
    return Drawing(
        name="wins",
        title=f"How often training B leaves the smaller loss, rank {RANK}, {draws} draws a point",
        x="width over rank, d/r",
        y="share of draws",
        lines=[Trace(name=s, x=x, y=wins[s], style="dashed" if s == "equal" else "line") for s in SETTINGS],
        log="x",
    )


def _condition_drawing(forecasts: Forecasts) -> Drawing:
    diagonal = sorted(forecasts.predicted.tolist())
    return Drawing(
        name="condition",
        title=f"B's reduction of the loss over A's, by the condition and measured, d = {COUNTER_WIDTH}",
        x="ratio that the condition gives",
        y="ratio of the mean reductions",
        lines=[
            Trace(name="problems", x=forecasts.predicted.tolist(), y=forecasts.measured.tolist(), style="points"),
            Trace(name="equal", x=diagonal, y=diagonal, style="dashed"),
        ],
        log="xy",
    )


EXPERIMENT = Experiment(
    name="least-squares",
    claim="In least squares, training B is at least as good as training A as d/r grows, unless Δ avoids the variance.",
    meaning=(
        "Train B where the inputs vary most in the directions that the update needs, which is the common case; it wins "
        "the more surely the smaller the ratio of rank to width. Where the update lives in directions in which the "
        "inputs hardly vary, train A."
    ),
    source="Zhu et al. 2024, arXiv:2402.16842, Theorem 4.3; its limits are derived for this library",
    expected=(
        # An identity, of which rounding is all that is left.
        Expected(
            what="largest difference of closed forms and gradient descent, share of the loss", high=1e-6, exact=True
        ),
        Expected(what="loss of A less loss of B, over the expected gap, mean over draws", low=0.95, high=1.05),
        Expected(what=f"share of draws that training B wins at d/r = {WIDTHS[-1] // RANK}", low=0.95),
        Expected(what="share that training A wins with Δ in the low-variance half, d = 128, r = 8", low=0.95),
        Expected(what="share of problems whose winner the condition names, ratio beyond 10 % from 1", low=0.95),
    ),
    run=run,
    place=70,
)
