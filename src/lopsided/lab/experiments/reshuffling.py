"""One factor trained by stochastic gradients: samples drawn with replacement against random reshuffling.

Notation: least squares, f(W) = Σ_i f_i(W)/n with f_i(W) = ‖W·x_i - y_i‖²/2, L and μ as in `regression_problems`. Each
link draws an orthonormal A of (r, d_in), starts B at zero and takes n steps of size γ on single samples,

    B ← B - γ·((W + B·A)·x_i - y_i)·(A·x_i)ᵀ,

then W ← W + B·A. SGD draws each i independently; random reshuffling (RR) passes once over the samples in a random
order. The floor is the mean gap f - f* at the ends of links, once it no longer falls.

For steps under 1/(L·n), the theory of strongly convex problems puts SGD's floor at order γ and RR's at order γ². That
of RR is an upper bound: on least squares its two parts are of γ², from the order's mean drift, and of γ³, from the
order's chance, and the samples decide which of them is seen. Only the exponents are tested, since the constants of the
paper's rate are not established.
"""

from __future__ import annotations

import numpy as np

from lopsided.lab.intervals import over_seeds, slope
from lopsided.lab.projected_descent import curve, draw_sketches
from lopsided.lab.protocol import Expected, Experiment, Outcome, Request
from lopsided.lab.regression_problems import Regression, draw_regression
from lopsided.method.dense import Orthonormal
from lopsided.plotting.svg import Drawing

SAMPLES, D_IN, D_OUT, R = 40, 8, 4, 4
NOISE = 1.0
# Time γ·n·links to settle, and to average over after that. The slowest direction shrinks as exp(-2·μ·(r/d)·time).
SETTLE, AVERAGE = 12.0, 24.0
# Of the descents from W = 0 that the second plot shows.
SHOWN_LINKS = 200


def orders(seeds: int, n: int, draw: np.random.RandomState) -> np.ndarray:
    """Return the samples of one link: SGD's for all runs, then RR's: (2·seeds, n)"""
    return np.concatenate([draw.randint(n, size=(seeds, n)), draw.random_sample((seeds, n)).argsort(axis=1)])


def link(W: np.ndarray, A: np.ndarray, X: np.ndarray, Y: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return W after the steps of one link, one step per sample, in the samples' order.

    Shapes:
        W: (runs, d_out, d_in); A: (runs, r, d_in); X: (runs, n, d_in); Y: (runs, n, d_out); step: (runs,)
    """
    # W stands still within a link, so that W·x - y and A·x are computed once.
    errors = X @ W.transpose(0, 2, 1) - Y
    inputs = X @ A.transpose(0, 2, 1)
    B = np.zeros((len(W), W.shape[1], A.shape[1]))
    size = step[:, None]
    for sample in range(X.shape[1]):
        z = inputs[:, sample, None, :]
        error = errors[:, sample] + (B * z).sum(axis=2)
        B -= (size * error)[:, :, None] * z
    return W + B @ A


def gaps_of_both(problem: Regression, W: np.ndarray, step: np.ndarray, *, r: int, links: int) -> np.ndarray:
    """Return the gap at the start and after each link, for SGD and RR on the same problems and sketches.

    Shapes:
        W: (seeds, d_out, d_in); step: (seeds,) -> (2, links + 1, seeds)
    """
    seeds, n, d = problem.X.shape
    draw = np.random.RandomState(1)
    both = Regression(np.tile(problem.X, (2, 1, 1)), np.tile(problem.Y, (2, 1, 1)))
    runs = np.arange(2 * seeds)[:, None]
    W, step = np.tile(W, (2, 1, 1)), np.tile(step, 2)
    gaps = [both.gap(W)]
    for number in range(links):
        A = np.tile(draw_sketches(Orthonormal(), r, d, seeds=seeds, link=number), (2, 1, 1))
        order = orders(seeds, n, draw)
        W = link(W, A, both.X[runs, order], both.Y[runs, order], step)
        gaps.append(both.gap(W))
    return np.array(gaps).reshape(links + 1, 2, seeds).transpose(1, 0, 2)


def floors(problem: Regression, fraction: float, *, r: int, settle: float, average: float) -> np.ndarray:
    """Return the mean gap of SGD and of RR at the step fraction/(L·n), beginning at the optimum: (2, seeds)

    From the optimum the gap rises to its floor, so that there is no first gap whose decay one would have to wait for.
    """
    n = problem.X.shape[1]
    step = fraction / (problem.smoothness * n)
    time = float((step * n).mean())
    first, more = int(np.ceil(settle / time)), int(np.ceil(average / time))
    return gaps_of_both(problem, problem.best, step, r=r, links=first + more)[:, first + 1 :].mean(axis=1)


def run(request: Request) -> Outcome:
    """Measure the floors of both ways of sampling at several steps, and show one descent of each."""
    seeds = request.number_of_seeds(quick=20, full=40)
    fractions = np.array(request.pick(quick=[1 / 2, 1 / 4, 1 / 8], full=[1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]))
    problem = draw_regression(seeds=seeds, samples=SAMPLES, d_in=D_IN, d_out=D_OUT, noise=NOISE)
    by_fraction = []
    for fraction in fractions:
        by_fraction.append(floors(problem, fraction, r=R, settle=SETTLE, average=AVERAGE))
        request.note(f"floors at γ = {fraction:g}/(L·n)")
    sgd, rr = np.array(by_fraction).transpose(1, 0, 2)
    ratios = rr / sgd
    worst = int(ratios.mean(axis=1).argmax())
    return Outcome(
        measured=[slope(fractions, sgd.T), slope(fractions, rr.T), over_seeds(ratios[worst])],
        settings={
            "seeds": seeds,
            "samples": SAMPLES,
            "d_in": D_IN,
            "d_out": D_OUT,
            "r": R,
            "noise": NOISE,
            "γ·L·n": fractions,
            "sketch": "Orthonormal",
        },
        details={"RR's floor over SGD's": dict(zip(fractions.tolist(), ratios.mean(axis=1).tolist(), strict=True))},
        plots=[_floors_drawing(fractions, sgd, rr), _descent_drawing(problem, fractions[0])],
    )


def _floors_drawing(fractions: np.ndarray, sgd: np.ndarray, rr: np.ndarray) -> Drawing:
    return Drawing(
        name="floors",
        title="Gap that noise leaves, mean and 10 to 90 % of runs",
        x="γ·L·n",
        y="f - f*",
        lines=[curve("SGD", fractions, sgd), curve("random reshuffling", fractions, rr)],
        log="xy",
    )


def _descent_drawing(problem: Regression, fraction: float) -> Drawing:
    step = fraction / (problem.smoothness * SAMPLES)
    descents = gaps_of_both(problem, np.zeros_like(problem.best), step, r=R, links=SHOWN_LINKS)
    return Drawing(
        name="descent",
        title=f"Descent at γ = {fraction:g}/(L·n), mean and 10 to 90 % of runs",
        x="links of one epoch",
        y="f - f*",
        lines=[
            curve(name, np.arange(SHOWN_LINKS + 1), gaps)
            for name, gaps in zip(("SGD", "random reshuffling"), descents, strict=True)
        ],
        log="y",
    )


EXPERIMENT = Experiment(
    name="reshuffling",
    claim="Passing over shuffled samples leaves a lower floor than drawing them at random: at most of order γ², not γ.",
    meaning=(
        "Shuffle the data at each epoch instead of drawing samples: at the same learning rate the chain ends closer to "
        "the optimum. Halving the rate then pays at least fourfold, where with drawn samples it pays twofold."
    ),
    source="Malinovsky et al. 2024, arXiv:2410.08305, the rates of random reshuffling; shapes only",
    expected=(
        Expected(what="exponent of SGD's floor over the step", low=0.8, high=1.2),
        Expected(what="exponent of random reshuffling's floor over the step", low=1.8),
        Expected(what="largest ratio of random reshuffling's floor to SGD's at equal step", high=1.0),
    ),
    run=run,
    place=50,
)
