"""How good is a learning rate that was guessed without trials?

Notation: a place is a method on a task. Its tuned rate has the highest mean validation score over seeds among the
ladder's rates. What a guess loses at a place is the mean over seeds of score(tuned on the *other* seeds) −
score(guess), both from the seed that is left out: the best of several noisy scores would flatter the tuned rate. With
one seed there is no other, and the loss is too large if anything. A run whose loss is not finite scores 0.

The runs are short; other lengths want other rates. In full, TREC is among the tasks, from the folder of data that
LOPSIDED_DATA names. `python -m benchmarks.rate_guess` makes the same measurements in several processes, and goes on
where it was ended.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.advise.first_rate import DEFAULT_WAY, WAYS
from lopsided.errors import LopsidedError
from lopsided.lab.intervals import share
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.lab.rate_trials import BUILT_IN, FOLDERS, Line, Lines, TrialSetting, measure_place, places
from lopsided.lab.short_runs import DRAWS, middle_95, workspace
from lopsided.method import method_named
from lopsided.plotting.svg import Drawing, Trace
from lopsided.stats import crossed_bootstrap_means, rank_correlation, rank_correlation_interval

QUICK = TrialSetting(
    methods=("full", "head", "lora", "cla"),
    tasks=("movie",),
    rates=(1e-4, 1e-3, 1e-2, 1e-1),
    seeds=1,
    steps=24,
    batch=16,
    max_length=32,
    validation=200,
)
# Points within which a guess is as good as a tuned rate.
NEAR = 3.0
# (method, task)
Place = tuple[str, str]


def full_setting() -> TrialSetting:
    """Return the setting of the record: the tasks that are at hand."""
    folder = Path(os.environ["LOPSIDED_DATA"]) if "LOPSIDED_DATA" in os.environ else None
    there = [name for name in FOLDERS if folder is not None and (folder / name).is_dir()]
    return TrialSetting(tasks=(*BUILT_IN, *there), folder=folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlaceScores:
    """The scores of one place, in points.

    Args:
        by_rate: of the ladder's rates, one per seed.
        guessed, default: at each seed's guess, by the way of guessing, and at the method's default rate.
        guesses: the guessed rates, by way, one per seed.
    """

    by_rate: Mapping[float, np.ndarray]
    guessed: Mapping[str, np.ndarray]
    default: np.ndarray
    guesses: Mapping[str, np.ndarray]

    @property
    def tuned(self) -> float:
        """The tuned rate."""
        return max(self.by_rate, key=lambda rate: float(self.by_rate[rate].mean()))

    @property
    def tuned_scores(self) -> np.ndarray:
        """Each seed's score at the rate that is best on the other seeds: (seeds,)"""
        seeds = len(self.default)
        scores = []
        for seed in range(seeds):
            others = [s for s in range(seeds) if s != seed] or [seed]
            best = max(self.by_rate, key=lambda rate: float(self.by_rate[rate][others].mean()))
            scores.append(self.by_rate[best][seed])
        return np.array(scores)

    def lost(self, way: str) -> float:
        """Points that a guess loses against the tuned rate, the mean over seeds."""
        return float((self.tuned_scores - self.guessed[way]).mean())

    def guess(self, way: str) -> float:
        """The geometric mean of the seeds' guesses."""
        return float(np.exp(np.log(self.guesses[way]).mean()))


def scores_of(setting: TrialSetting, lines: Lines) -> dict[Place, PlaceScores]:
    """Return the scores of every place.

    Raises:
        LopsidedError: if a trial or a guess is missing.
    """
    score = {(t.task, t.method, t.seed, t.rate): 0.0 if t.score is None else t.score for t in lines.trials}
    rate_of = {(g.task, g.method, g.seed, g.how): g.rate for g in lines.guesses}
    seeds = range(setting.seeds)
    found = {}
    try:
        for task in setting.tasks:
            for method in setting.methods:
                guesses = {way: np.array([rate_of[task, method, s, way] for s in seeds]) for way in WAYS}
                default = method_named(method).lr
                found[method, task] = PlaceScores(
                    by_rate={r: np.array([score[task, method, s, r] for s in seeds]) for r in setting.rates},
                    default=np.array([score[task, method, s, default] for s in seeds]),
                    guesses=guesses,
                    guessed={
                        way: np.array([score[task, method, s, rates[s]] for s in seeds])
                        for way, rates in guesses.items()
                    },
                )
    except KeyError as error:
        raise LopsidedError(f"no measurement of {error}; measure the rest first, with the same setting") from error
    return found


def over_places(setting: TrialSetting, figure: Callable[[Place], float]) -> Measured:
    """Return the mean over methods and tasks, with the interval of methods and tasks drawn independently."""
    values = np.array([[figure((method, task)) for task in setting.tasks] for method in setting.methods])
    return middle_95(float(values.mean()), crossed_bootstrap_means(values, DRAWS))


def ranks(found: Mapping[Place, PlaceScores], way: str) -> Measured:
    """Return the rank correlation of a way's guesses with the tuned rates over places."""
    guessed, tuned = np.array([(place.guess(way), place.tuned) for place in found.values()]).T
    value = float(rank_correlation(guessed, tuned))
    interval = rank_correlation_interval(guessed, tuned, draws=DRAWS)
    return Measured(value=value, interval=interval, why="" if interval else "all rates of one side are equal")


def figures(setting: TrialSetting, found: Mapping[Place, PlaceScores], way: str) -> list[Measured]:
    """Return what the claim is judged by, for one way of guessing, in the order of `EXPERIMENT.expected`."""
    adapters = {place: scores for place, scores in found.items() if method_named(place[0]).is_adapter}
    return [
        ranks(found, way),
        ranks(adapters, way),
        over_places(setting, lambda place: found[place].lost(way)),
        share([scores.lost(way) <= NEAR for scores in found.values()]),
        over_places(setting, lambda place: float((found[place].default - found[place].guessed[way]).mean())),
    ]


def outcome(setting: TrialSetting, lines: Lines) -> Outcome:
    """Return what the trials and guesses come to."""
    found = scores_of(setting, lines)
    return Outcome(
        measured=figures(setting, found, DEFAULT_WAY),
        settings={
            "model": "embedded",
            "methods": list(setting.methods),
            "tasks": list(setting.tasks),
            "rates": list(setting.rates),
            "seeds": setting.seeds,
            "steps": setting.steps,
            "batch": setting.batch,
            "tokens": setting.max_length,
            "validation rows at most": setting.validation,
            "way": DEFAULT_WAY,
            "intervals": "over methods and tasks",
        },
        details={
            "other ways": {
                way: dict(zip([e.what for e in EXPERIMENT.expected], figures(setting, found, way), strict=True))
                for way in WAYS
                if way != DEFAULT_WAY
            },
            "default rates lose": over_places(
                setting, lambda place: float((found[place].tuned_scores - found[place].default).mean())
            ),
            "places": {f"{method} on {task}": _details(scores) for (method, task), scores in found.items()},
        },
        plots=[_rates_drawing(found), _scores_drawing(found)],
    )


def _details(scores: PlaceScores) -> dict[str, Any]:
    return {
        "tuned rate": scores.tuned,
        "guesses": {way: rates.tolist() for way, rates in scores.guesses.items()},
        "lost": {way: scores.lost(way) for way in scores.guesses},
        "score by rate": {f"{rate:g}": float(values.mean()) for rate, values in scores.by_rate.items()},
        "score at the default rate": float(scores.default.mean()),
    }


def _rates_drawing(found: Mapping[Place, PlaceScores]) -> Drawing:
    lines = []
    for task in dict.fromkeys(task for _, task in found):
        own = [scores for (_, other), scores in found.items() if other == task]
        x, y = [s.tuned for s in own], [s.guess(DEFAULT_WAY) for s in own]
        lines.append(Trace(name=task, x=x, y=y, style="points"))
    ends = [min(s.tuned for s in found.values()), max(s.tuned for s in found.values())]
    lines.append(Trace(name="equal", x=ends, y=ends, style="dashed"))
    return Drawing(
        name="rates",
        title="Guessed and tuned learning rates, one point per method and task",
        x="tuned rate",
        y="guessed rate",
        lines=lines,
        log="xy",
    )


def _scores_drawing(found: Mapping[Place, PlaceScores]) -> Drawing:
    return Drawing(
        name="lost",
        title="Points of validation score that the guess loses against the tuned rate",
        x="method on task",
        y="points lost",
        lines=[
            Trace(
                name=DEFAULT_WAY,
                x=[f"{method}, {task}" for method, task in found],
                y=[scores.lost(DEFAULT_WAY) for scores in found.values()],
                style="bars",
            )
        ],
    )


def run(request: Request) -> Outcome:
    """Guess rates, try a ladder of them, and compare."""
    setting = request.pick(quick=QUICK, full=full_setting())
    if request.seeds is not None:
        setting = dataclasses.replace(setting, seeds=request.seeds)
    lines: list[Line] = []
    with workspace() as folder:
        for number, place in enumerate(places(setting), start=1):
            request.note(f"place {number} of {len(places(setting))}: {' '.join(map(str, place))}")
            lines += measure_place(setting, *place, folder, Lines())
    return outcome(setting, Lines.of(lines))


EXPERIMENT = Experiment(
    name="rate-guess",
    claim="A few batches give a first learning rate that ranks like the tuned one and loses little.",
    meaning=(
        "Where this is reproduced, begin a search for the learning rate at the guess, or train with it where there is "
        "no time for a search. Where it is not, tune: a wrong rate costs more than a wrong method."
    ),
    source="this library, after arXiv:2602.04998: the best rate falls as the Hessian's top eigenvalue grows",
    expected=(
        Expected(what="rank correlation of guessed and tuned rates, over methods and tasks", low=0.5),
        Expected(what="rank correlation of guessed and tuned rates, over adapters and tasks", low=0.0),
        Expected(what="points of validation score that the guess loses against the tuned rate, mean", high=1.0),
        Expected(what="share of methods and tasks where it loses at most 3 points", low=0.8),
        Expected(what="score at the method's default rate less that at the guess, points, mean", high=1.0),
    ),
    run=run,
    place=160,
)
