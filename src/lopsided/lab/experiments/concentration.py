"""How much the gap of a single run depends on the draw of A.

Notation: as in `worst_gap`. The coefficient of variation is the standard deviation of the gap over draws of A, with the
samples held fixed, over its mean. For a linear model with an exact supremum it is about 1/√(2r).
"""

from __future__ import annotations

import numpy as np

from lopsided.lab.intervals import largest, over_seeds, scaled, slope
from lopsided.lab.mean_lines import mean_line
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.lab.worst_gap import RADIUS, WIDTHS, linear_sup_gap, new_A, new_worlds, samples, sup_gap
from lopsided.plotting.svg import Drawing, Trace

RANKS = [1, 4, 16]
DRAWS = 16
SIZE = 512
LINEAR_WORLDS, LINEAR_DRAWS = 20, 2000


def variation(gaps: np.ndarray) -> np.ndarray:
    """Return the coefficient of variation over draws: (seeds, draws) -> (seeds,)"""
    return gaps.std(axis=1, ddof=1) / gaps.mean(axis=1)


def linear_law(r: int) -> float:
    """Return the coefficient of variation of a linear model, to first order."""
    return 1 / (2 * r) ** 0.5


def distance(measured: Measured, expected: float) -> Measured:
    """Return |measured / expected - 1|, with the interval folded at zero."""
    ratio = scaled(measured, 1 / expected)
    if ratio.interval is None:
        return Measured(value=abs(ratio.value - 1), why=ratio.why)
    low, high = (end - 1 for end in ratio.interval)
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return Measured(value=abs(ratio.value - 1), interval=(nearest, max(abs(low), abs(high))))


def measure_gaps(seeds: int, steps: int, request: Request) -> list[np.ndarray]:
    """Return the largest gap of each draw of A, by rank: (seeds, draws) each."""
    worlds = new_worlds(seeds, stream=1)
    x, y = samples(worlds, SIZE)
    gaps = []
    for r in RANKS:
        gaps.append(sup_gap(worlds, new_A(worlds, r, DRAWS), x, y, steps=steps).numpy())
        request.note(f"r = {r}: gap {gaps[-1].mean():.3f}, variation {variation(gaps[-1]).mean():.3f}")
    return gaps


def run(request: Request) -> Outcome:
    """Search the largest gap of many draws of A at each rank, and compare its variation with a linear model's."""
    seeds, steps = request.number_of_seeds(quick=2, full=6), request.pick(quick=120, full=250)
    gaps = measure_gaps(seeds, steps, request)
    network = np.stack([variation(of_rank) for of_rank in gaps], axis=1)
    linear = np.stack(
        [variation(linear_sup_gap(SIZE, r, worlds=LINEAR_WORLDS, draws=LINEAR_DRAWS).numpy()) for r in RANKS], axis=1
    )
    return Outcome(
        measured=[
            slope(RANKS, network),
            over_seeds(network[:, -1] / network[:, 0]),
            largest([distance(over_seeds(linear[:, i]), linear_law(r)) for i, r in enumerate(RANKS)]),
        ],
        settings={
            **{"seeds": seeds, "draws of A": DRAWS, "steps": steps, "N": SIZE, "r": RANKS},
            **{"network": list(WIDTHS), "radius of B": RADIUS},
        },
        details={
            "variation by r": {r: over_seeds(network[:, i]) for i, r in enumerate(RANKS)},
            "variation by r, derived for this library": {1: 0.24, 4: 0.10, 16: 0.05},
            "variation of a linear model": dict(zip(RANKS, linear.mean(axis=0))),
            "mean gap by r": {r: of_rank.mean() for r, of_rank in zip(RANKS, gaps)},
        },
        plots=[_variation_drawing(network, linear, seeds)],
    )


def _variation_drawing(network: np.ndarray, linear: np.ndarray, seeds: int) -> Drawing:
    return Drawing(
        name="variation",
        title=f"How far the gap varies over {DRAWS} draws of A; mean and 95 % interval over {seeds} seeds",
        x="rank r",
        y="standard deviation over mean",
        lines=[
            mean_line("network", RANKS, network),
            mean_line("linear model, exact supremum", RANKS, linear),
            Trace(name="1/√(2r)", x=list(RANKS), y=[linear_law(r) for r in RANKS], style="dashed"),
        ],
        log="xy",
    )


EXPERIMENT = Experiment(
    name="concentration",
    claim="The gap of a single run concentrates over the draw of A, the more so the larger the rank.",
    meaning=(
        "At rank 16 one seed of the frozen factor says nearly as much about generalization as an average over seeds, "
        "so spend runs on data and settings instead. At rank 1 the draw matters, and a single run's gap needs an error "
        "bar."
    ),
    source="Kratsios et al. 2025, arXiv:2506.14530; the experiment is derived for this library",
    expected=(
        Expected(what="slope of ln variation over ln r, 1 to 16", low=-0.75, high=-0.25),
        Expected(what="variation at r = 16 over that at r = 1", high=0.5),
        Expected(what="linear model: largest relative distance from 1/√(2r)", high=0.1),
    ),
    run=run,
    place=90,
)
