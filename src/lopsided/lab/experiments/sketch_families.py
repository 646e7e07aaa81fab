"""Which sketches RAC-LoRA's theory covers: λ_min(E[H]) of each family, and descent on a quadratic.

Notation: a sketch S of (r, d), drawn for one link, has the projection H = Sᵀ(S·Sᵀ)⁺S; the theory asks for
λ_min(E[H]) > 0, with the expectation over the draw of one link. Isotropic sketches have r/d; so do r columns drawn at
random, and 1/⌈d/r⌉ the windows of a shuffled chain. What is known beforehand (a fixed window, one link of the cyclic
chain, singular vectors) has 0.

    f(W) = tr((W - W*)·C·(W - W*)ᵀ)/2,    C = Q·diag(μ … L)·Qᵀ with Q uniform on the orthogonal matrices

Steps are exact and of 1/L, and train B. The theorem supposes sketches that are independent from link to link. Windows
drawn without replacement are not, so that its bound is put to the test for them and not implied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lopsided.lab.intervals import largest, largest_mean, over_seeds, scaled
from lopsided.lab.projected_descent import curve, descend, rate
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.method.dense import Gaussian, KaimingUniform, Orthonormal, Singular
from lopsided.method.selectors import Columns, Window
from lopsided.method.sketch import Selector, Sketch
from lopsided.plotting.svg import Drawing, Trace
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
# Of each interval. Ten such intervals hold together with 90 % or more.
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
    """One problem per run.

    Shapes:
        C: (seeds, d_in, d_in); best: (seeds, d_out, d_in)
    """

    C: np.ndarray
    best: np.ndarray

    def gradient(self, W: np.ndarray) -> np.ndarray:
        """Return ∇f(W): (seeds, d_out, d_in)"""
        return (W - self.best) @ self.C

    def gap(self, W: np.ndarray) -> np.ndarray:
        """Return f(W) - f*, where f* = 0: (seeds,)"""
        off = W - self.best
        return 0.5 * np.sum(off @ self.C * off, axis=(1, 2))

    @cached_property
    def first_gap(self) -> np.ndarray:
        """The gap at W = 0: (seeds,)"""
        return self.gap(np.zeros_like(self.best))

    def least_gap_within(self, columns: np.ndarray) -> np.ndarray:
        """Return the least gap that changing these columns of W = 0 can reach: (seeds,)

        The rest of W - W* is fixed at R, and the best columns leave tr(R·(C_rr - C_rc·C_cc⁻¹·C_cr)·Rᵀ)/2.
        """
        rest = np.setdiff1d(np.arange(self.C.shape[1]), columns)
        across = self.C[:, columns][:, :, rest]
        inner = np.linalg.solve(self.C[:, columns][:, :, columns], across)
        left = self.C[:, rest][:, :, rest] - across.transpose(0, 2, 1) @ inner
        off = self.best[:, :, rest]
        return 0.5 * np.sum(off @ left * off, axis=(1, 2))


def draw_quadratics(*, seeds: int) -> Quadratic:
    """Return problems with curvatures from μ to L in random directions, and optima of N(0, 1)."""
    draw = np.random.RandomState(0)
    Q = np.linalg.qr(draw.standard_normal((seeds, D_IN, D_IN)))[0]
    C = Q * np.geomspace(MU, L, D_IN) @ Q.transpose(0, 2, 1)
    return Quadratic(C, draw.standard_normal((seeds, D_OUT, D_IN)))


@dataclass(frozen=True, kw_only=True)
class FamilyEigenvalue:
    """λ_min(E[H]) of a family of sketches: its closed form, and the value and interval of draws."""

    closed_form: float
    draws: float
    low: float
    high: float

    @property
    def covers(self) -> bool:
        """Whether the interval of draws holds the closed form; the two round differently in the last bits."""
        return self.low - 1e-9 <= self.closed_form <= self.high + 1e-9

    @property
    def measured(self) -> Measured:
        """The value of draws with its interval."""
        return Measured(value=self.draws, interval=(self.low, self.high))

    def to_json(self) -> dict[str, float]:
        """Return the row of result.json."""
        return {"closed form": self.closed_form, "draws": self.draws, "low": self.low, "high": self.high}


def eigenvalues(r: int, d: int, *, draws: int) -> dict[str, FamilyEigenvalue]:
    """Return each family's λ_min(E[H]): its closed form next to the value and the interval of draws."""
    families = {}
    for name, sketch in {**RANDOM, **KNOWN}.items():
        # Every draw of a known one is the same.
        count = draws if name in RANDOM else min(draws, 100)
        sampled = lambda_min_sampled(sketch, r, d, draws=count, confidence=CONFIDENCE)
        families[name] = FamilyEigenvalue(
            closed_form=_closed_form(sketch, r, d), draws=sampled.value, low=sampled.low, high=sampled.high
        )
    # The weight fixes the singular vectors, so that there is one projection and nothing to draw.
    weight = np.random.RandomState(0).standard_normal((D_OUT, d))
    S = Singular().sample(r, d, seed=0, link=0, weight=weight)
    only = float(np.linalg.eigvalsh(projection(S))[0])
    families["singular"] = FamilyEigenvalue(closed_form=_closed_form(Singular(), r, d), draws=only, low=only, high=only)
    return families


def _closed_form(sketch: Sketch, r: int, d: int) -> float:
    value = sketch.lambda_min(r, d)
    assert value is not None
    return value


def times_read(selector: Selector, r: int, d: int) -> np.ndarray:
    """Return how often a sweep of ⌈d/r⌉ links reads each column: (d,)"""
    read = [selector.indices(r, d, seed=0, link=link) for link in range(-(-d // r))]
    return np.bincount(np.concatenate(read), minlength=d)


def share_of_bound(gaps: np.ndarray) -> Measured:
    """Return the largest share of the theorem's bound, at λ_min = r/d, that the gap's mean over runs reaches."""
    problem = Problem(gap=1.0, smoothness=L, step=1 / L, lambda_min=R / D_IN, pl=MU)
    bounds = np.array([problem.gap_after(link) for link in range(1, len(gaps))])
    return largest_mean(gaps[1:] / gaps[0] / bounds[:, None])


def farthest(figures: Sequence[Measured], centre: float) -> Measured:
    """Return the figure farthest from the centre, with an interval that holds those of all."""
    ends = [end for figure in figures if figure.interval is not None for end in figure.interval]
    value = max((figure.value for figure in figures), key=lambda value: abs(value - centre))
    return Measured(value=value, interval=(min(ends), max(ends)))


@dataclass(frozen=True, kw_only=True)
class Families:
    """The eigenvalues of all families, for each shape (r, d)."""

    by_shape: Mapping[tuple[int, int], Mapping[str, FamilyEigenvalue]]

    def _rows(self, *, random: bool) -> Iterator[FamilyEigenvalue]:
        for families in self.by_shape.values():
            yield from (row for name, row in families.items() if (name in RANDOM) is random)

    @property
    def covered(self) -> float:
        """The share of random families, over all shapes, whose closed form lies in the interval of draws."""
        return float(np.mean([row.covers for row in self._rows(random=True)]))

    @property
    def largest_known(self) -> float:
        """The largest λ_min of draws among the families that are known beforehand."""
        return float(np.max([row.draws for row in self._rows(random=False)]))

    @property
    def shuffled(self) -> list[Measured]:
        """λ_min of shuffled windows times ⌈d/r⌉, by shape."""
        return [scaled(rows["shuffled"].measured, -(-d // r)) for (r, d), rows in self.by_shape.items()]


def descend_all(problem: Quadratic, *, seeds: int, links: int) -> dict[str, np.ndarray]:
    """Return each family's gap at the start and after each link: (links + 1, seeds)"""
    return {
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


def run(request: Request) -> Outcome:
    """Draw sketches of all families for their eigenvalues, and descend with some of them."""
    seeds, draws = request.number_of_seeds(quick=20, full=40), request.pick(quick=3000, full=10000)
    by_shape = {}
    for r, d in SHAPES:
        by_shape[r, d] = eigenvalues(r, d, draws=draws)
        request.note(f"eigenvalues of r = {r}, d = {d}")
    families, problem = Families(by_shape=by_shape), draw_quadratics(seeds=seeds)
    links = HORIZON * D_IN // R
    gaps = descend_all(problem, seeds=seeds, links=links)
    rates = {name: rate(gap) for name, gap in gaps.items()}
    shares = {name: share_of_bound(gap) for name, gap in gaps.items() if name != "fixed"}
    within_reach = problem.least_gap_within(Window("fixed").indices(R, D_IN, seed=0, link=0))
    return Outcome(
        measured=[
            Measured(value=families.covered),
            Measured(value=families.largest_known),
            farthest(families.shuffled, 1.0),
            over_seeds(gaps["fixed"][-1] / problem.first_gap),
            over_seeds(rates["columns"] / rates["Gaussian"]),
            over_seeds(rates["shuffled"] / rates["Gaussian"]),
            Measured(value=float(times_read(Window("cyclic"), R, D_IN).min())),
            largest([shares["columns"], shares["shuffled"]]),
        ],
        settings=_settings(draws=draws, seeds=seeds, links=links),
        details={
            "λ_min": {
                f"r={r}, d={d}": {name: row.to_json() for name, row in rows.items()}
                for (r, d), rows in by_shape.items()
            },
            "rate": {name: over_seeds(values) for name, values in rates.items()},
            "share of the bound": shares,
            "gap of the fixed window over the least in its reach": over_seeds(gaps["fixed"][-1] / within_reach),
        },
        plots=[_eigenvalue_drawing(by_shape[SHAPES[1]]), _descent_drawing(gaps)],
    )


def _settings(*, draws: int, seeds: int, links: int) -> dict[str, object]:
    return {
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
    }


def _eigenvalue_drawing(families: Mapping[str, FamilyEigenvalue]) -> Drawing:
    names, rows = list(families), list(families.values())
    r, d = SHAPES[1]
    return Drawing(
        name="eigenvalues",
        title=f"λ_min(E[H]) at r = {r}, d = {d}, with {CONFIDENCE:.0%} intervals of the draws",
        x="sketch",
        y="λ_min(E[H])",
        lines=[
            Trace(name="closed form", x=names, y=[row.closed_form for row in rows], style="bars"),
            Trace(
                name="draws",
                x=names,
                y=[row.draws for row in rows],
                low=[row.low for row in rows],
                high=[row.high for row in rows],
                style="bars",
            ),
        ],
    )


def _descent_drawing(gaps: Mapping[str, np.ndarray]) -> Drawing:
    return Drawing(
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
    place=40,
)
