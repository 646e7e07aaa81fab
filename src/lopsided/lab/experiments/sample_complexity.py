"""How the gap of a single run grows with the rank and shrinks with the samples: √r/√N.

Notation: as in `sup_gap`. The exponents are slopes of ln gap over ln N at one rank, and over ln r at one N. For N, the
samples of a seed are nested; for r, its A are.
"""

from __future__ import annotations

import numpy as np

from lopsided.lab.intervals import over_seeds, slope
from lopsided.lab.mean_lines import mean_line
from lopsided.lab.protocol import Expected, Experiment, Line, Outcome, Plot, Request
from lopsided.lab.worst_gap import bounds, gap_at_zero, linear_sup_gap, new_A, new_worlds, samples, sup_gap

SIZES = [64, 128, 256, 512, 1024, 2048]
RANKS = [1, 2, 4, 8, 16]
RANK, SIZE = 4, 512
LINEAR_WORLDS, LINEAR_DRAWS = 200, 50
# Where the bands of plots end: an ascent that finds nothing has a gap about zero, which has no logarithm.
TINY = 1e-4


def run(request: Request) -> Outcome:
    seeds, steps = request.number_of_seeds(quick=4, full=10), request.pick(quick=150, full=300)
    worlds = new_worlds(seeds)
    A, (x, y) = new_A(worlds, max(RANKS)), samples(worlds, max(SIZES))
    gaps: dict[tuple[int, int], np.ndarray] = {}
    bound: dict[tuple[int, int], np.ndarray] = {}
    for n, r in dict.fromkeys([(n, RANK) for n in SIZES] + [(SIZE, r) for r in RANKS]):
        mine = [a[:, :, :r] for a in A]
        gaps[n, r] = sup_gap(worlds, mine, x[:, :, :n], y[:, :, :n], steps=steps)[:, 0].numpy()
        bound[n, r] = bounds(worlds, mine, n)[:, 0].numpy()
        request.note(f"N = {n}, r = {r}: gap {gaps[n, r].mean():.3f}")
    over_n = np.stack([gaps[n, RANK] for n in SIZES], axis=1)
    over_r = np.stack([gaps[SIZE, r] for r in RANKS], axis=1)
    at_zero = gap_at_zero(worlds, SIZES).numpy()
    linear_n = [linear_mean(n, RANK) for n in SIZES]
    linear_r = [linear_mean(SIZE, r) for r in RANKS]
    box_r = [linear_mean(SIZE, r, box=True) for r in RANKS]
    # By setting and seed.
    ratios = np.stack([bound[key] / np.abs(gaps[key]) for key in gaps])
    return Outcome(
        measured=[
            slope(SIZES, over_n),
            slope(SIZES, at_zero),
            slope(RANKS, over_r),
            over_seeds(ratios.min(axis=0)),
            slope(SIZES, linear_n),
            slope(RANKS, linear_r),
        ],
        settings={
            **{"seeds": seeds, "steps": steps, "N": SIZES, "r": RANKS, "r of the slope in N": RANK},
            **{"N of the slope in r": SIZE, "network": [16, 48, 48, 1], "radius of B": 3.0},
        },
        details={
            "mean gap by N": dict(zip(SIZES, over_n.mean(axis=0))),
            "mean gap by r": dict(zip(RANKS, over_r.mean(axis=0))),
            "mean bound by N": {n: bound[n, RANK].mean() for n in SIZES},
            "mean bound by r": {r: bound[SIZE, r].mean() for r in RANKS},
            "bound over gap, median": float(np.median(ratios)),
            "slope in r of a linear model with B in a box": slope(RANKS, box_r),
        },
        plots=[
            Plot(
                name="samples",
                title=f"The gap at rank {RANK}, its explicit bound, and the gap without training",
                x="samples N",
                y="gap of the loss, which lies in 0 to 1",
                lines=[
                    mean_line("largest gap found", SIZES, over_n, least=TINY),
                    mean_line("gap at B = 0 (root mean square)", SIZES, at_zero, least=TINY),
                    mean_line("explicit bound", SIZES, np.stack([bound[n, RANK] for n in SIZES], axis=1), least=TINY),
                    guide("1/√N", SIZES, over_n, -0.5),
                ],
                log="xy",
            ),
            Plot(
                name="ranks",
                title=f"The gap with {SIZE} samples; mean and 95 % interval over {seeds} seeds",
                x="rank r",
                y="gap of the loss, which lies in 0 to 1",
                lines=[
                    mean_line("largest gap found", RANKS, over_r, least=TINY),
                    mean_line("explicit bound", RANKS, np.stack([bound[SIZE, r] for r in RANKS], axis=1), least=TINY),
                    guide("√r", RANKS, over_r, 0.5),
                ],
                log="xy",
            ),
        ],
    )


def linear_mean(n: int, r: int, *, box: bool = False) -> float:
    """The mean over worlds and draws of the linear model's gap; the same samples for every rank."""
    return float(linear_sup_gap(n, r, worlds=LINEAR_WORLDS, draws=LINEAR_DRAWS, box=box, seed=n).mean())


def guide(name: str, x: list[int], runs: np.ndarray, power: float) -> Line:
    """A line of the claimed slope through the middle of the runs."""
    centre = float(np.exp(np.log(x).mean()))
    height = float(np.exp(np.log(np.maximum(runs, TINY)).mean()))
    return Line(name=name, x=list(x), y=[height * (each / centre) ** power for each in x], style="dashed")


EXPERIMENT = Experiment(
    name="sample-complexity",
    claim="The largest gap of a single run grows like √r and shrinks like 1/√N, and no run does better than 1/√N.",
    meaning=(
        "Four times the rank costs about twice the generalization gap at most, and four times the samples win it back. "
        "The explicit bound has this shape and is far too large, so compare ranks with it, not losses."
    ),
    source="Kratsios et al. 2025, arXiv:2506.14530; the experiment and the explicit bound are derived for this library",
    expected=(
        Expected(what="slope of ln gap over ln N, 64 to 2048", low=-0.6, high=-0.4),
        Expected(what="slope of ln gap over ln N at B = 0", low=-0.6, high=-0.4),
        Expected(what="slope of ln gap over ln r, 1 to 16, B in a Frobenius ball", low=0.35, high=0.65),
        Expected(what="least ratio of the explicit bound to a measured gap of a seed, mean over seeds", low=1.0),
        Expected(what="slope over ln N of a linear model, exact supremum", low=-0.6, high=-0.4),
        Expected(what="slope over ln r of a linear model, exact supremum", low=0.35, high=0.65),
    ),
    run=run,
)
