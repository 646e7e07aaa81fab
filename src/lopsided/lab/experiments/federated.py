"""Federated rounds: what a shared sketch, local epochs, skewed clients and unequal ranks do.

Notation: M clients train one factor next to a sketch A of (r, d_in), and the server averages: see
`lopsided.federated.averaging`, whose code this runs. The first part is on quadratics (`federated_quadratic`), where
whatever is claimed can be computed; the second adapts a small network to scikit-learn's digits by the library's own
adapters and chains (`federated_digits`).

What is expected, and why, as it was written down before anything was measured:

- With a shared sketch mean(B_m)·A = mean(B_m·A), so that rounds descend. With sketches of their own the averaged B
  belongs to no A: next to the server's its mean is zero, and what is left is noise.
- More local steps E save rounds where clients are alike. Where curvature and optima differ by client, E > 1 ends off
  the optimum, as FedAvg does; a random subspace per round couples the weights less, so that it should drift less.
- Unequal ranks, averaged by who trained a row: one round gives what equal ranks give, where the loss does not couple
  rows and clients are alike. Coupled, the clients of low rank put into their rows what the missing ones would have
  done. Where rank goes with data, W ends at ρ·W̄ + (1 - ρ)·W̄_high with ρ = r_low/r: the optimum of those who train all
  rows has too much weight.
- Absent rows as zeros, next to one A for all rounds: a row that a share q trains keeps q·c/(1 - q·(1 - c)) of its
  optimum, with c its local progress per round, so that the effective rank of B·A collapses towards the low one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lopsided.lab.digit_halves import built_in
from lopsided.lab.federated_digits import Curve, Federation, federate, pretrained
from lopsided.lab.federated_quadratic import (
    Quadratics,
    RoundSetting,
    draw_quadratics,
    effective_rank,
    fedavg,
    run_rounds,
)
from lopsided.lab.intervals import over_seeds
from lopsided.lab.mean_lines import mean_line
from lopsided.lab.projected_descent import curve
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.plotting.svg import Drawing

CLIENTS, D_OUT, D_IN, R, CONDITION, SKEW = 8, 16, 32, 8, 10.0, 1.0
MANY = 8
LOW = 2
RANKS = (LOW, R) * (CLIENTS // 2)
TARGET = 0.01
# On a logarithmic axis smaller gaps are rounding.
LEAST = 1e-9
SEEDS = {"quadratics": {"quick": 4, "full": 40}, "digits": {"quick": 2, "full": 10}}
# Of the rounds, one in so many is drawn.
THINNED = 4

FEDERATIONS = {
    "shared sketch": Federation(),
    "own sketches": Federation(shared=False),
    "LoRA, factors averaged apart": Federation(method="cola"),
    "LoRA, 8 local epochs": Federation(method="cola", epochs=MANY),
    "1 local epoch": Federation(epochs=1),
    "8 local epochs": Federation(epochs=MANY),
    "skewed, alpha 0.3": Federation(alpha=0.3),
    "ranks 1 and 4, by who trained": Federation(low_rank=1),
    "ranks 1 and 4, zeros": Federation(low_rank=1, fill="zeros"),
}


def quadratics(seeds: int, *, condition: float = CONDITION, skew: float = 0.0, own: bool = False) -> Quadratics:
    """Return the problems of one setting."""
    return draw_quadratics(
        seeds=seeds, clients=CLIENTS, d_out=D_OUT, d_in=D_IN, condition=condition, skew=skew, own_curvature=own
    )


def rounds_to(gaps: np.ndarray, share: float) -> np.ndarray:
    """Return the number of rounds until the gap is at most a share of the first; NaN where it never is.

    Shapes:
        gaps: (rounds + 1, S) -> (S,)
    """
    reached = gaps <= share * gaps[0]
    return np.where(reached.any(axis=0), reached.argmax(axis=0), np.nan)


def floor(gaps: np.ndarray) -> np.ndarray:
    """Return the mean gap of the last quarter of rounds as a share of the first gap: (rounds + 1, S) -> (S,)"""
    return gaps[-(len(gaps) // 4) :].mean(axis=0) / gaps[0]


def first_difference(problem: Quadratics, epochs: int) -> float:
    """Return the largest relative distance over runs of a round's average at unequal ranks from that at equal ones."""
    factors: list[np.ndarray] = []
    for ranks in (None, RANKS):
        setting = RoundSetting(r=R, epochs=epochs, ranks=ranks)
        run_rounds(problem, setting, 1, lambda number, W, B: factors.append(B))
    equal, unequal = factors
    norms = np.linalg.norm(unequal - equal, axis=(1, 2)) / np.linalg.norm(equal, axis=(1, 2))
    return float(norms.max())


def shift(problem: Quadratics, rounds: int) -> np.ndarray:
    """Return where unequal ranks end, as a share of the predicted way from W* to the optimum of those with all rows.

    Shapes:
        -> (S,)
    """
    late: list[np.ndarray] = []

    def see(number: int, W: np.ndarray, B: np.ndarray) -> None:
        if number > rounds // 4:
            late.append(W)

    run_rounds(problem, RoundSetting(r=R, epochs=1, ranks=RANKS), rounds, see)
    high = problem.optima[:, [rank == R for rank in RANKS]].mean(axis=1)
    predicted = (1 - LOW / R) * (high - problem.best)
    measured = np.mean(late, axis=0) - problem.best
    return (measured * predicted).sum(axis=(1, 2)) / (predicted**2).sum(axis=(1, 2))


def ranks_over_rounds(problem: Quadratics, rounds: int) -> dict[str, np.ndarray]:
    """Return the effective rank of B·A after each round next to one A, by how ranks are dealt with: (rounds, S)"""
    # After a single step a row does not depend on which others a client trains: by row nothing would show.
    settings = {
        "equal ranks, E = 1": RoundSetting(r=R, epochs=1, chain=False),
        "absent rows as zeros, E = 1": RoundSetting(r=R, epochs=1, chain=False, ranks=RANKS, fill="zeros"),
        "equal ranks, E = 8": RoundSetting(r=R, epochs=MANY, chain=False),
        "by who trained a row, E = 8": RoundSetting(r=R, epochs=MANY, chain=False, ranks=RANKS),
    }
    ranks = {}
    for name, setting in settings.items():
        seen: list[np.ndarray] = []
        # A has orthonormal rows, so that B·A has B's singular values.
        run_rounds(problem, setting, rounds, lambda number, W, B, seen=seen: seen.append(effective_rank(B)))  # type: ignore[misc]
        ranks[name] = np.array(seen)
    return ranks


def on_quadratics(request: Request) -> tuple[list[Measured], dict[str, Any], list[Drawing]]:
    """Measure the first ten figures, and draw them."""
    seeds = request.number_of_seeds(**SEEDS["quadratics"])
    rounds = request.pick(quick=60, full=400)
    alike, skewed = quadratics(seeds), quadratics(seeds, skew=SKEW, own=True)
    descents = {
        "shared, E = 1": run_rounds(alike, RoundSetting(r=R, epochs=1), rounds),
        "shared, E = 8": run_rounds(alike, RoundSetting(r=R, epochs=MANY), rounds),
        "own sketches, E = 1": run_rounds(alike, RoundSetting(r=R, epochs=1, shared=False), rounds),
    }
    request.note("clients that are alike")
    drifts = {f"E = {epochs}": run_rounds(skewed, RoundSetting(r=R, epochs=epochs), rounds) for epochs in (1, 2, MANY)}
    drifts["all weights, E = 8"] = fedavg(skewed, MANY, rounds)
    request.note("clients that differ")
    ranks = ranks_over_rounds(alike, rounds)
    request.note("unequal ranks")
    one, many = floor(drifts["E = 1"]), floor(drifts["E = 8"])
    last = {name: values[-1] for name, values in ranks.items()}
    measured = [
        over_seeds(descents["shared, E = 1"][-1] / descents["shared, E = 1"][0]),
        over_seeds(descents["own sketches, E = 1"][-1] / descents["own sketches, E = 1"][0]),
        over_seeds(rounds_to(descents["shared, E = 1"], TARGET) / rounds_to(descents["shared, E = 8"], TARGET)),
        over_seeds(many / one),
        over_seeds(many / floor(drifts["all weights, E = 8"])),
        Measured(value=first_difference(quadratics(seeds, condition=1.0), MANY)),
        Measured(value=first_difference(alike, MANY)),
        over_seeds(shift(quadratics(seeds, condition=1.0, skew=SKEW), rounds)),
        over_seeds(last["by who trained a row, E = 8"] / last["equal ranks, E = 8"]),
        over_seeds(last["absent rows as zeros, E = 1"] / last["equal ranks, E = 1"]),
    ]
    details = {
        "floor as a share of the first gap": {name: floor(gaps).mean() for name, gaps in drifts.items()},
        "effective rank": {name: values.mean() for name, values in last.items()},
        "a round's difference at unequal ranks, coupled, E = 1": first_difference(alike, 1),
    }
    plots = [
        _gaps_drawing("sketches", "Clients that are alike: gap, mean and 10 to 90 % of runs", descents),
        _gaps_drawing("drift", "Clients that differ: gap, mean and 10 to 90 % of runs", drifts),
        Drawing(
            name="ranks",
            title=f"Effective rank of B·A next to one A, ranks {LOW} and {R}, mean and 10 to 90 % of runs",
            x="rounds",
            y="effective rank",
            lines=[curve(name, np.arange(1, rounds + 1)[::THINNED], v[::THINNED]) for name, v in ranks.items()],
        ),
    ]
    return measured, details, plots


def on_digits(request: Request) -> tuple[list[Measured], dict[str, Any], list[Drawing]]:
    """Measure the other figures, and draw the accuracy over rounds."""
    seeds = request.number_of_seeds(**SEEDS["digits"])
    rounds = request.pick(quick=2, full=20)
    digits = built_in(range(seeds))
    nets = [pretrained(digits, seed) for seed in range(seeds)]
    curves: dict[str, list[Curve]] = {}
    for name, how in FEDERATIONS.items():
        shortened = Federation(**{**vars(how), "rounds": rounds})
        curves[name] = [federate(net, digits, shortened, seed=seed) for seed, net in enumerate(nets)]
        request.note(f"digits: {name}")
    accuracy = {name: np.array([each.accuracy for each in runs]) for name, runs in curves.items()}
    end = {name: values[:, -1] for name, values in accuracy.items()}
    shared, by_row = end["shared sketch"], end["ranks 1 and 4, by who trained"]
    errors = {name: np.array([each.error for each in runs]) for name, runs in curves.items()}
    measured = [
        over_seeds(errors["shared sketch"]),
        over_seeds(errors["LoRA, 8 local epochs"]),
        over_seeds(shared - end["own sketches"]),
        over_seeds(shared - end["LoRA, factors averaged apart"]),
        over_seeds(end["8 local epochs"] - end["1 local epoch"]),
        over_seeds(shared - end["skewed, alpha 0.3"]),
        over_seeds(by_row - shared),
        over_seeds(by_row - end["ranks 1 and 4, zeros"]),
    ]
    details = {
        "accuracy at the end": {name: over_seeds(values) for name, values in end.items()},
        "one factor minus LoRA averaged apart, 8 local epochs, points": over_seeds(
            end["8 local epochs"] - end["LoRA, 8 local epochs"]
        ),
        "error of averages": {name: values.max() for name, values in errors.items()},
    }
    drawing = Drawing(
        name="digits",
        title="Digits 5 to 9: accuracy of the server's model, mean over seeds with its 95 % interval",
        x="rounds",
        y="accuracy, %",
        lines=[mean_line(name, list(range(rounds + 1)), values) for name, values in list(accuracy.items())[:3]]
        + [mean_line(name, list(range(rounds + 1)), accuracy[name]) for name in list(accuracy)[5:]],
    )
    return measured, details, [drawing]


def run(request: Request) -> Outcome:
    """Run rounds on quadratics and on digits."""
    quadratic, more, plots = on_quadratics(request)
    digits, others, drawings = on_digits(request)
    return Outcome(
        measured=[*quadratic, *digits],
        settings={
            "quadratics": {
                **{"clients": CLIENTS, "d_out": D_OUT, "d_in": D_IN, "r": R, "condition": CONDITION, "skew": SKEW},
                **{"unequal ranks": RANKS, "sketch": "Orthonormal", "step": "1/L"},
                "rounds": request.pick(quick=60, full=400),
                "seeds": request.number_of_seeds(**SEEDS["quadratics"]),
            },
            "digits": {name: vars(how) for name, how in FEDERATIONS.items()},
            "seeds of digits": request.number_of_seeds(**SEEDS["digits"]),
        },
        details={**more, **others},
        plots=[*plots, *drawings],
    )


def _gaps_drawing(name: str, title: str, descents: dict[str, np.ndarray]) -> Drawing:
    """Return gaps over rounds."""
    lines = [curve(label, np.arange(len(gaps)), np.maximum(gaps / gaps[0], LEAST)) for label, gaps in descents.items()]
    return Drawing(name=name, title=title, x="rounds", y="(f - f*), share of the first", lines=lines, log="y")


EXPERIMENT = Experiment(
    name="federated",
    claim=(
        "Averaging one factor next to a shared sketch is exact and descends; next to sketches of their own it is not; "
        "unequal ranks are unbiased where rows are uncoupled and clients alike."
    ),
    meaning=(
        "Let the server draw one sketch per round, and clients send the one factor. Give low ranks to clients by "
        "chance and not by their data, and average each row over those who trained it."
    ),
    source="Malinovsky et al. 2024, arXiv:2410.08305, Algorithm 2; unequal ranks are this library's",
    expected=(
        Expected(what="shared sketch, clients alike: gap left, share of the first", high=0.01),
        Expected(what="own sketches, clients alike: gap left, share of the first", low=0.5),
        Expected(what="clients alike: rounds to 1 % of the gap, one local step over eight", low=2.0),
        Expected(what="clients differ: floor with eight local steps over that with one", low=10.0),
        Expected(what="clients differ, eight local steps: floor over that of FedAvg of all weights", high=1.0),
        Expected(what="unequal ranks, uncoupled and alike: largest error of a round's average", high=1e-6, exact=True),
        Expected(what="unequal ranks, coupled, eight steps: largest error of a round's average", low=0.01, exact=True),
        Expected(what="unequal ranks that go with data: shift over the predicted one", low=0.9, high=1.1),
        Expected(
            what="one A, eight steps, ranks by who trained: effective rank over equal ranks'", low=0.95, high=1.05
        ),
        Expected(what="one A, one step, absent rows as zeros: effective rank over equal ranks'", high=0.7),
        Expected(what="digits, shared sketch: error of averages, share of the mean ΔW", high=1e-5),
        Expected(what="digits, LoRA averaged apart, eight epochs: error of averages, share of the mean ΔW", low=0.05),
        Expected(what="digits: accuracy with a shared sketch minus own ones, points", low=10.0),
        Expected(what="digits: accuracy with one factor minus LoRA's averaged apart, points", low=-2.0),
        Expected(what="digits: accuracy with eight local epochs minus one, points", low=1.0),
        Expected(what="digits: accuracy with even classes minus skewed ones, points", low=1.0),
        Expected(what="digits: accuracy with unequal ranks by who trained minus equal, points", low=-3.0, high=3.0),
        Expected(what="digits: accuracy with unequal ranks by who trained minus zeros, points", low=0.0),
    ),
    run=run,
    place=65,
)
