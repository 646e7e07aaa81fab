"""How the frozen factor is drawn, when B is trained next to it.

Notation: A of (r, d) is frozen, B of (d_out, r) is trained from zero, on all linear layers. Choices of A:

    random      orthonormal rows; Gaussian, N(0, 1/d); Kaiming uniform, ±1/√d
    singular    right singular vectors of W0, of the r largest or the r smallest singular values
    selectors   a window of r columns; r random columns

They are compared with LoRA, whose A is Kaiming uniform and learns: a row's difference is 1 if only the frozen
choice answers it right, -1 if only LoRA does; in points, times 100. All have one learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lopsided.lab.intervals import over_seeds
from lopsided.lab.mean_lines import bars
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.lab.short_runs import (
    DRAWS,
    FULL_BATCH,
    RATE,
    SHORT,
    ShortRun,
    crossed,
    finish_all,
    load_rows,
    middle_95,
    registered,
    workspace,
)
from lopsided.method import Method
from lopsided.method.dense import Gaussian, KaimingUniform, Orthonormal, Singular
from lopsided.method.selectors import Columns, Window
from lopsided.method.sketch import Sketch
from lopsided.plotting.svg import Drawing
from lopsided.runs import TrainConfig

SKETCHES: dict[str, Sketch] = {
    "orthonormal": Orthonormal(),
    "Gaussian": Gaussian(),
    "Kaiming": KaimingUniform(),
    "singular, top": Singular("top"),
    "singular, last": Singular("last"),
    "window": Window("fixed"),
    "columns": Columns(),
}
RANDOM = ("orthonormal", "Gaussian", "Kaiming")
SINGULAR = ("singular, top", "singular, last")
SELECTORS = ("window", "columns")
LORA = "LoRA"
RANK = 8
TASK = "vader/movie"


def frozen_methods() -> dict[str, Method]:
    """Return B-training next to each choice of A, under names that no user's method has."""
    return {
        choice: Method(
            name="lab_" + choice.lower().replace(", ", "_"), train="B", sketch=sketch, source="this experiment"
        )
        for choice, sketch in SKETCHES.items()
    }


def spread(scores: Mapping[str, np.ndarray]) -> Measured:
    """Return best mean minus worst mean, in standard deviations of one choice's seeds.

    Three equal choices of three seeds each give about 1, and more than 2.5 once in twenty times. The interval is that
    of `spread_of`.

    Shapes:
        scores: (seeds,) per choice
    """
    means = np.array([values.mean() for values in scores.values()])
    within = float(np.mean([values.var(ddof=1) for values in scores.values()])) ** 0.5
    return spread_of(means, within, seeds=len(next(iter(scores.values()))))


def spread_of(means: np.ndarray, within: float, *, seeds: int) -> Measured:
    """Return the spread of means that have one deviation, with the middle 95 % of its draws given both.

    The variance is drawn from its scaled inverse chi-square law, and each true mean around the measured one.
    """
    if not (within > 0 and np.isfinite(means).all()):
        return Measured(value=np.nan, why="the seeds of one choice do not differ, or a score is not finite")
    draw, freedom = np.random.RandomState(0), len(means) * (seeds - 1)
    deviation = within * np.sqrt(freedom / draw.chisquare(freedom, size=DRAWS))
    drawn = means + (deviation / seeds**0.5)[:, None] * draw.standard_normal((DRAWS, len(means)))
    return middle_95(float(np.ptp(means)) / within, np.ptp(drawn, axis=1) / deviation)


def mean_of(right: Mapping[str, np.ndarray], choices: Sequence[str]) -> np.ndarray:
    """Return the choices' mean answers: (seeds, rows)"""
    return np.mean([right[choice] for choice in choices], axis=0)


@dataclass(frozen=True, kw_only=True)
class ChoiceRuns:
    """The runs of every choice, LoRA's among them, with one run per seed.

    Args:
        runs: by choice.
    """

    runs: Mapping[str, Sequence[ShortRun]]

    @property
    def right(self) -> dict[str, np.ndarray]:
        """100 for a row that was answered right, 0 for another, by choice: (seeds, rows)"""
        return {choice: 100.0 * np.array([run.right("test") for run in runs]) for choice, runs in self.runs.items()}

    @property
    def losses(self) -> dict[str, np.ndarray]:
        """The test losses, by choice: (seeds,)"""
        return {choice: np.array([run.loss("test") for run in runs]) for choice, runs in self.runs.items()}


def train_all(
    shared: Mapping[str, Any], *, seeds: int, most: Mapping[str, int], note: Callable[[str], None]
) -> ChoiceRuns:
    """Train B next to each choice of A, and LoRA, from every seed.

    Args:
        shared: what the configurations of all runs share.
        most: how many rows of a split are read at the most.
        note: tells a person how far the work is.
    """
    frozen = frozen_methods()
    names = {**{choice: method.name for choice, method in frozen.items()}, LORA: "lora"}
    with registered(list(frozen.values())), workspace() as folder:
        configs = [
            TrainConfig(**shared, method=name, seed=seed, out=folder / f"{name}-seed{seed}")
            for name in names.values()
            for seed in range(seeds)
        ]
        data = load_rows(configs[0], validation=50, **most)
        runs = iter(finish_all([(config, data) for config in configs], note))
        return ChoiceRuns(runs={choice: [next(runs) for _ in range(seeds)] for choice in names})


def run(request: Request) -> Outcome:
    """Train with every choice of A and with LoRA, and pair their answers row by row."""
    # One seed has no spread.
    seeds, steps = max(2, request.number_of_seeds(quick=2, full=3)), request.pick(quick=40, full=60)
    batch_size = request.pick(quick=int(SHORT["batch_size"]), full=FULL_BATCH)
    # Nothing is chosen on validation, so that test rows, evaluated once, are the cheaper ones to score.
    shared = {**SHORT, "task": TASK, "rank": RANK, "steps": steps, "lr": RATE, "test": True, "batch_size": batch_size}
    answers = train_all(shared, seeds=seeds, most=request.pick(quick={"test": 500}, full={}), note=request.note)
    right, losses = answers.right, answers.losses
    dense = mean_of(right, RANDOM)
    differences = {choice: crossed(right[choice] - right[LORA]) for choice in SKETCHES}
    return Outcome(
        measured=[
            spread({choice: right[choice].mean(axis=1) for choice in RANDOM}),
            crossed(dense - right[LORA]),
            crossed(mean_of(right, SELECTORS) - dense),
        ],
        settings={
            "model": "embedded",
            "task": TASK,
            "seeds": seeds,
            "steps": steps,
            "batch": batch_size,
            "rank": RANK,
            "targets": SHORT["target_modules"],
            "learning rate": RATE,
            "rows": right[LORA].shape[1],
            "intervals": "over seeds and rows",
        },
        details={
            "test accuracy": {choice: over_seeds(values.mean(axis=1)) for choice, values in right.items()},
            "test loss": {choice: over_seeds(values) for choice, values in losses.items()},
            "less LoRA, points": differences,
            "singular less random, points": crossed(mean_of(right, SINGULAR) - dense),
        },
        plots=[_accuracy_drawing(differences), _loss_drawing(losses)],
    )


def _accuracy_drawing(differences: Mapping[str, Measured]) -> Drawing:
    return Drawing(
        name="accuracy",
        title=f"Test accuracy with a frozen A less that of LoRA, rank {RANK}; 95 % over seeds and rows",
        x="how A is drawn",
        y="difference, points",
        lines=[bars("difference", differences)],
    )


def _loss_drawing(losses: Mapping[str, np.ndarray]) -> Drawing:
    return Drawing(
        name="loss",
        title=f"Test loss with a frozen A less that of LoRA, rank {RANK}; 95 % over seeds",
        x="how A is drawn",
        y="difference, nats",
        lines=[bars("difference", {choice: over_seeds(losses[choice] - losses[LORA]) for choice in SKETCHES})],
    )


EXPERIMENT = Experiment(
    name="init",
    claim=(
        "A random, untrained A does nearly as well as a trained one, whichever way it is drawn; selectors of columns "
        "stay competitive."
    ),
    meaning=(
        "Choose the frozen factor by cost: how it is drawn matters little to the score. Selectors read columns and "
        "multiply nothing, and singular vectors of the weights need a decomposition of every layer first."
    ),
    source=(
        "Zhu et al. 2024, arXiv:2402.16842, abstract and choices of the frozen factor; selectors: Cadenhead et al. "
        "2026, arXiv:2606.13767, abstract"
    ),
    expected=(
        Expected(what="best less worst of three random draws, in standard deviations of one draw's seeds", high=2.0),
        # The paper's mean over seven tasks, and its worst one, RTE.
        Expected(what="random frozen A less LoRA at one rank, points of test accuracy", low=-1.3, paper=0.2),
        Expected(what="selectors less random dense A, points of test accuracy", low=-2.0),
    ),
    run=run,
    place=120,
)
