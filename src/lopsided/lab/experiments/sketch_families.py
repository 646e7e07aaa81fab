"""Which sketches RAC-LoRA's theory covers: λ_min(E[H]) of each family, and descent on a quadratic.

Notation: a sketch S of (r, d), drawn for one link, has the projection H = Sᵀ(S·Sᵀ)⁺S; the theory asks for
λ_min(E[H]) > 0, with the expectation over the draw of one link. Isotropic sketches have r/d; so do r columns drawn at
random, and 1/⌈d/r⌉ the windows of a shuffled chain. What is known beforehand (a fixed window, one link of the cyclic
chain, singular vectors) has 0.

    f(W) = tr((W - W*)·C·(W - W*)ᵀ)/2,    C = Q·diag(μ … L)·Qᵀ with Q uniform on the orthogonal matrices

Steps are exact and of 1/L, and train B. Windows drawn without replacement aren't independent from link to link, as the
theorem supposes, so that its bound is put to the test for them and not implied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lopsided.lab.intervals import largest, largest_mean, over_seeds, scaled
from lopsided.lab.projected_descent import curve, descend, rate
from lopsided.lab.protocol import Expected, Experiment, Line, Measured, Outcome, Plot, Request
from lopsided.method.dense import Gaussian, KaimingUniform, Orthonormal, Singular
from lopsided.method.selectors import Columns, Window
from lopsided.method.sketch import Selector, Sketch
from lopsided.theory import Problem, lambda_min_sampled, projection

# The windows of the first divide the width, those of the second overlap.
SHAPES = ((2, 8), (3, 8))
RANDOM: dict[str, Sketch] = {
    "orthonormal": Orthonormal(),
    "Gaussian": Gaussian(),
    "Kaiming": KaimingUniform(),
    "columns": Columns(),
    "shuffled": Window("shuffled"),
}
KNOWN: dict[str, Sketch] = {"cyclic": Window("cyclic"), "fixed": Window("fixed")}
# Of each interval. Ten of them hold together with 90 % or more.
CONFIDENCE = 0.99

R, D_IN, D_OUT = 2, 8, 4
L, MU = 1.0, 0.1
# Links times r/d.
HORIZON = 40
DESCENTS: dict[str, Selector | Gaussian] = {
    "Gaussian": Gaussian(),
    "columns": Columns(),
    "shuffled": Window("shuffled"),
    "cyclic": Window("cyclic"),
    "fixed": Window("fixed"),
}


@dataclass(frozen=True)
class Quadratic:
    """One problem a run.

    Shapes:
        C: (seeds, d_in, d_in); best: (seeds, d_out, d_in)
    """

    C: np.ndarray
    best: np.ndarray

    def gradient(self, W: np.ndarray) -> np.ndarray:
        return (W - self.best) @ self.C

    def gap(self, W: np.ndarray) -> np.ndarray:
        off = W - self.best
        return 0.5 * np.sum(off @ self.C * off, axis=(1, 2))

    @cached_property
    def first_gap(self) -> np.ndarray:
        return self.gap(np.zeros_like(self.best))

    def least_gap_within(self, columns: np.ndarray) -> np.ndarray:
        """The least gap that changing these columns of W = 0 can reach: (seeds,)

        The rest of W - W* is fixed at R, and the best columns leave tr(R·(C_rr - C_rc·C_cc⁻¹·C_cr)·Rᵀ)/2.
        """
        rest = np.setdiff1d(np.arange(self.C.shape[1]), columns)
        across = self.C[:, columns][:, :, rest]
        inner = np.linalg.solve(self.C[:, columns][:, :, columns], across)
        left = self.C[:, rest][:, :, rest] - across.transpose(0, 2, 1) @ inner
        off = self.best[:, :, rest]
        return 0.5 * np.sum(off @ left * off, axis=(1, 2))


def draw_quadratics(*, seeds: int) -> Quadratic:
    draw = np.random.RandomState(0)
    Q = np.linalg.qr(draw.standard_normal((seeds, D_IN, D_IN)))[0]
    C = Q * np.geomspace(MU, L, D_IN) @ Q.transpose(0, 2, 1)
    return Quadratic(C, draw.standard_normal((seeds, D_OUT, D_IN)))


def eigenvalues(r: int, d: int, *, draws: int) -> dict[str, dict[str, float]]:
    """Each family's λ_min(E[H]): its closed form beside the value and the interval of draws."""
    found = {}
    for name, sketch in {**RANDOM, **KNOWN}.items():
        # Every draw of a known one is the same.
        count = draws if name in RANDOM else min(draws, 100)
        seen = lambda_min_sampled(sketch, r, d, draws=count, confidence=CONFIDENCE)
        closed = sketch.lambda_min(r, d)
        assert closed is not None
        found[name] = {"closed form": closed, "draws": seen.value, "low": seen.low, "high": seen.high}
    # The weight fixes the singular vectors, so that there is one projection and nothing to draw.
    weight = np.random.RandomState(0).standard_normal((D_OUT, d))
    S = Singular().sample(r, d, seed=0, link=0, weight=weight)
    only = float(np.linalg.eigvalsh(projection(S))[0])
    found["singular"] = {"closed form": Singular().lambda_min(r, d), "draws": only, "low": only, "high": only}
    return found


def times_read(selector: Selector, r: int, d: int) -> np.ndarray:
    """How often a sweep of ⌈d/r⌉ links reads each column: (d,)"""
    read = [selector.indices(r, d, seed=0, link=link) for link in range(-(-d // r))]
    return np.bincount(np.concatenate(read), minlength=d)


def bound_share(gaps: np.ndarray) -> Measured:
    """The largest share of the theorem's bound, at λ_min = r/d, that the gap's mean over runs reaches at any link."""
    problem = Problem(gap=1.0, smoothness=L, step=1 / L, lambda_min=R / D_IN, pl=MU)
    bounds = np.array([problem.gap_after(link) for link in range(1, len(gaps))])
    return largest_mean(gaps[1:] / gaps[0] / bounds[:, None])


def farthest(table: Sequence[Measured], centre: float) -> Measured:
    """The figure farthest from the centre, with an interval that holds those of all."""
    ends = [end for figure in table if figure.interval is not None for end in figure.interval]
    value = max((figure.value for figure in table), key=lambda value: abs(value - centre))
    return Measured(value=value, interval=(min(ends), max(ends)))


def run(request: Request) -> Outcome:
    seeds, draws = request.number_of_seeds(quick=20, full=40), request.pick(quick=3000, full=10000)
    found: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    for r, d in SHAPES:
        found[r, d] = eigenvalues(r, d, draws=draws)
        request.note(f"eigenvalues of r = {r}, d = {d}")
    drawn = [table[name] for table in found.values() for name in RANDOM]
    known = [row for table in found.values() for name, row in table.items() if name not in RANDOM]
    # Closed forms and draws round differently in the last bits.
    covered = [row["low"] - 1e-9 <= row["closed form"] <= row["high"] + 1e-9 for row in drawn]
    shuffled = []
    for (r, d), table in found.items():
        row, links_of_sweep = table["shuffled"], -(-d // r)
        seen = Measured(value=row["draws"], interval=(row["low"], row["high"]))
        shuffled.append(scaled(seen, links_of_sweep))

    problem = draw_quadratics(seeds=seeds)
    links = HORIZON * D_IN // R
    gaps = {
        name: descend(
            problem.gradient,
            problem.gap,
            np.zeros_like(problem.best),
            step=np.full(seeds, 1 / L),
            sketch=sketch,
            r=R,
            side="right",
            links=links,
        )
        for name, sketch in DESCENTS.items()
    }
    rates = {name: rate(gap) for name, gap in gaps.items()}
    left = gaps["fixed"][-1] / problem.first_gap
    read = times_read(Window("cyclic"), R, D_IN)
    return Outcome(
        measured=[
            Measured(value=float(np.mean(covered))),
            Measured(value=float(np.max([row["draws"] for row in known]))),
            farthest(shuffled, 1.0),
            over_seeds(left),
            over_seeds(rates["columns"] / rates["Gaussian"]),
            over_seeds(rates["shuffled"] / rates["Gaussian"]),
            Measured(value=float(read.min())),
            largest([bound_share(gaps["columns"]), bound_share(gaps["shuffled"])]),
        ],
        settings={
            "draws": draws,
            "confidence": CONFIDENCE,
            "r and d of λ_min": [f"{r}, {d}" for r, d in SHAPES],
            "seeds": seeds,
            "links": links,
            "r": R,
            "d_in": D_IN,
            "d_out": D_OUT,
            "μ/L": MU / L,
            "step": "1/L",
        },
        details={
            "λ_min": {f"r={r}, d={d}": table for (r, d), table in found.items()},
            "rate": {name: over_seeds(values) for name, values in rates.items()},
            "share of the bound": {name: bound_share(gaps[name]) for name in gaps if name != "fixed"},
            "gap of the fixed window over the least in its reach": over_seeds(
                gaps["fixed"][-1] / problem.least_gap_within(Window("fixed").indices(R, D_IN, seed=0, link=0))
            ),
        },
        plots=[eigenvalue_plot(found[SHAPES[1]]), descent_plot(gaps)],
    )


def eigenvalue_plot(table: dict[str, dict[str, float]]) -> Plot:
    names = list(table)
    columns: dict[str, Any] = {key: [row[key] for row in table.values()] for key in next(iter(table.values()))}
    r, d = SHAPES[1]
    return Plot(
        name="eigenvalues",
        title=f"λ_min(E[H]) at r = {r}, d = {d}, with {CONFIDENCE:.0%} intervals of the draws",
        x="sketch",
        y="λ_min(E[H])",
        lines=[
            Line(name="closed form", x=names, y=columns["closed form"], style="bars"),
            Line(name="draws", x=names, y=columns["draws"], low=columns["low"], high=columns["high"], style="bars"),
        ],
    )


def descent_plot(gaps: dict[str, np.ndarray]) -> Plot:
    return Plot(
        name="descent",
        title="Share of the first gap that is left, mean and 10 to 90 % of runs",
        x="links",
        y="(f - f*) / (f(0) - f*)",
        lines=[curve(name, np.arange(len(gap)), gap / gap[0]) for name, gap in gaps.items()],
        log="y",
    )


EXPERIMENT = Experiment(
    name="sketches",
    claim="Selectors drawn at random have the λ_min of dense sketches and converge at their rate; a fixed one stalls.",
    meaning=(
        "Reading a few columns costs less than a dense sketch and gives up no speed, as long as the chain moves on to "
        "other columns. A chain that stays on one window stops far from the optimum, however long it trains."
    ),
    source=(
        "Malinovsky et al. 2024, arXiv:2410.08305, Assumption 1; selectors of Cadenhead et al. 2026, arXiv:2606.13767"
    ),
    expected=(
        # All ten pairs of a sketch and a shape, each judged by an interval of its own.
        Expected(what="share of random sketches whose closed form lies in the interval of draws", low=1.0, exact=True),
        Expected(what="largest λ_min of a sketch that is known beforehand", high=1e-6, exact=True),
        Expected(what="shuffled windows' λ_min from draws over 1/⌈d/r⌉, the farthest from 1", low=0.9, high=1.1),
        Expected(what="share of the gap that the fixed window leaves", low=0.1),
        Expected(what="rate of random columns over the Gaussian's", low=0.8, high=1.25),
        Expected(what="rate of shuffled windows over the Gaussian's", low=0.8, high=1.25),
        Expected(what="times that a sweep of cyclic windows reads the least read column", low=1.0, exact=True),
        Expected(what="largest share of the theorem's bound that columns and shuffled windows reach", high=1.0),
    ),
    run=run,
)
