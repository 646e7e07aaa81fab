"""Whether a frozen A that is drawn from data beats a random one, at equal trained numbers.

Notation: A of (r, d) is frozen, B of (d_out, r) is trained from zero, on all linear layers, so that all methods train
the same numbers. Pairs, the one that reads data first:

    dense       principal directions of the layer's inputs (ipa_b); orthonormal rows (asym_b)
    columns     the r columns of largest norm (act_cla); the first r (cla); r random ones (rcla)

Every method is tuned alike: the same rates are tried for each, from a seed that no later run has, and the one with the
lowest validation loss is taken. A row's difference is 1 if only the first of a pair answers it right, -1 if only the
second does; in points, times 100. Sketches are drawn from training rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.lab.intervals import over_seeds
from lopsided.lab.mean_lines import bars
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.lab.short_runs import FULL_BATCH, SHORT, crossed, few_rows, workspace
from lopsided.plotting.svg import Drawing
from lopsided.runs import Data, Run, TrainConfig, load_data, train
from lopsided.runs.inputs import with_data
from lopsided.runs.nonfinite import NonFinite

PAIRS = (("ipa_b", "asym_b"), ("act_cla", "cla"), ("act_cla", "rcla"))
METHODS_COMPARED = tuple(dict.fromkeys(name for pair in PAIRS for name in pair))
TASK = "vader/movie"
# Of the trials: no run that is compared has it.
TRIAL_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class SketchSetting:
    """Sizes of the runs.

    Args:
        rates: that are tried for every method, half decades around the methods' own.
        validation, test: rows that trials and figures come from, at most; None takes all.
    """

    methods: tuple[str, ...] = METHODS_COMPARED
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    seeds: int = 3
    steps: int = 60
    batch: int = FULL_BATCH
    rank: int = 8
    validation: int | None = 300
    test: int | None = None
    shared: Mapping[str, Any] = field(default_factory=lambda: {**SHORT, "task": TASK})

    def trial(self, method: str, rate: float, folder: Path) -> TrainConfig:
        """Return the configuration of a trial, which reads no test rows."""
        return self._config(method, rate, TRIAL_SEED, folder / f"trial-{method}-{rate:g}", test=False)

    def final(self, method: str, rate: float, seed: int, folder: Path) -> TrainConfig:
        """Return the configuration of a run that is compared."""
        return self._config(method, rate, seed, folder / f"{method}-{rate:g}-seed{seed}", test=True)

    def _config(self, method: str, rate: float, seed: int, out: Path, *, test: bool) -> TrainConfig:
        sizes = {"rank": self.rank, "steps": self.steps, "batch_size": self.batch}
        return TrainConfig(**{**self.shared, **sizes, "test": test}, method=method, lr=rate, seed=seed, out=out)


QUICK = SketchSetting(rates=(3e-3, 1e-2), seeds=2, steps=24, batch=16, validation=100, test=300)


@dataclass(frozen=True, kw_only=True, eq=False)
class SketchRuns:
    """What the runs came to, by method.

    Args:
        trials: the validation loss of each rate; infinite where a run's loss was not finite.
        rates: the tuned ones.
        runs: one per seed.
        seconds: that all runs and trials took, whatever session made them.
    """

    trials: Mapping[str, Mapping[float, float]]
    rates: Mapping[str, float]
    runs: Mapping[str, tuple[Run, ...]]
    seconds: float

    def right(self, method: str) -> np.ndarray:
        """100 for a row that was answered right, 0 for another: (seeds, rows)"""
        answers = [run.predictions["test"] for run in self.runs[method]]
        return 100.0 * np.array([rows["prediction"] == rows["label"] for rows in answers])

    def losses(self, method: str) -> np.ndarray:
        """The mean test losses: (seeds,)"""
        return np.array([run.predictions["test"]["loss"].mean() for run in self.runs[method]])

    @property
    def unequal(self) -> int:
        """The largest count of trained numbers of a run minus the smallest."""
        trained = [run.trained_parameters for runs in self.runs.values() for run in runs]
        return max(trained) - min(trained)


def measure(setting: SketchSetting, folder: Path, note: Callable[[str], None]) -> SketchRuns:
    """Make the runs that are missing in a folder, and read all of them.

    Args:
        folder: of run directories; one with some of them goes on where it was ended.
        note: tells a person how far the work is.
    """
    any_config = setting.trial(setting.methods[0], setting.rates[0], folder)
    most = {"validation": setting.validation, "test": setting.test}
    data = few_rows(load_data(any_config), {split: rows for split, rows in most.items() if rows is not None})
    total = len(setting.methods) * (len(setting.rates) + setting.seeds)
    trials: dict[str, dict[float, float]] = {}
    rates: dict[str, float] = {}
    runs: dict[str, tuple[Run, ...]] = {}
    done, seconds = 0, 0.0
    for method in setting.methods:
        trials[method] = {}
        for rate in setting.rates:
            note(f"run {(done := done + 1)} of {total}: {method}, rate {rate:g}")
            trials[method][rate], taken = _trial(setting.trial(method, rate, folder), data)
            seconds += taken
        rates[method] = min(trials[method], key=lambda rate: trials[method][rate])
    for seed in range(setting.seeds):
        for method in setting.methods:
            note(f"run {(done := done + 1)} of {total}: {method}, seed {seed}")
            config = setting.final(method, rates[method], seed, folder)
            run = train(config, resume=True, prepared=with_data(data))
            runs[method] = (*runs.get(method, ()), run)
            seconds += run.wall_seconds or 0.0
    return SketchRuns(trials=trials, rates=rates, runs=runs, seconds=seconds)


def _trial(config: TrainConfig, data: Data) -> tuple[float, float]:
    """Return a trial's validation loss, and the seconds that it took."""
    try:
        run = train(config, resume=True, prepared=with_data(data))
    # A rate at which the loss is not finite is not the best one.
    except NonFinite:
        return float("inf"), 0.0
    return float(run.predictions["validation"]["loss"].mean()), run.wall_seconds or 0.0


def outcome(setting: SketchSetting, found: SketchRuns) -> Outcome:
    """Return what the runs come to.

    Raises:
        LopsidedError: if they did not train equally many numbers, which the claim takes for granted.
    """
    if found.unequal:
        raise LopsidedError(
            f"expected runs that train equally many numbers, got {found.unequal} more in one; correct its rank"
        )
    right = {method: found.right(method) for method in setting.methods}
    losses = {method: found.losses(method) for method in setting.methods}
    differences = {f"{first} less {second}": crossed(right[first] - right[second]) for first, second in PAIRS}
    facts = {method: runs[0].calibration for method, runs in found.runs.items() if runs[0].calibration is not None}
    return Outcome(
        measured=list(differences.values()),
        settings={
            "model": "embedded",
            "task": setting.shared["task"],
            "methods": list(setting.methods),
            "rates tried": list(setting.rates),
            "rates": dict(found.rates),
            "seeds": setting.seeds,
            "steps": setting.steps,
            "batch": setting.batch,
            "rank": setting.rank,
            "targets": setting.shared["target_modules"],
            "rows": right[setting.methods[0]].shape[1],
            "intervals": "over seeds and rows",
        },
        details={
            "test accuracy": {method: over_seeds(values.mean(axis=1)) for method, values in right.items()},
            "test loss": {method: over_seeds(values) for method, values in losses.items()},
            "test loss, differences": {
                f"{first} less {second}": over_seeds(losses[first] - losses[second]) for first, second in PAIRS
            },
            "validation loss by rate": {
                method: {f"{rate:g}": loss if np.isfinite(loss) else None for rate, loss in by_rate.items()}
                for method, by_rate in found.trials.items()
            },
            "calibration": {method: own.to_json() for method, own in facts.items()},
        },
        plots=[_accuracy_drawing(differences), _loss_drawing(losses)],
    )


def _accuracy_drawing(differences: Mapping[str, Measured]) -> Drawing:
    return Drawing(
        name="accuracy",
        title="Test accuracy with a sketch from data less that with another; 95 % over seeds and rows",
        x="pair of methods",
        y="difference, points",
        lines=[bars("difference", differences)],
    )


def _loss_drawing(losses: Mapping[str, np.ndarray]) -> Drawing:
    return Drawing(
        name="loss",
        title="Test loss at each method's tuned rate; 95 % over seeds",
        x="method",
        y="loss, nats",
        lines=[bars("loss", {method: over_seeds(values) for method, values in losses.items()})],
    )


def run(request: Request) -> Outcome:
    """Tune every method alike, train it from several seeds, and pair the answers row by row."""
    setting = request.pick(quick=QUICK, full=SketchSetting())
    if request.seeds is not None:
        setting = dataclasses.replace(setting, seeds=request.seeds)
    with workspace() as folder:
        return outcome(setting, measure(setting, folder, request.note))


EXPERIMENT = Experiment(
    name="data-sketches",
    claim=(
        "At equal trained numbers, a frozen A that is drawn from the layers' inputs beats a random one: principal "
        "directions beat orthonormal rows, and columns of the largest norm beat the first ones and random ones."
    ),
    meaning=(
        "Where this holds, a few hundred training rows and some seconds before training buy what otherwise takes more "
        "rank. Where it does not, draw the frozen factor at random, which needs no data and is the same for every task."
    ),
    source=(
        "Yin et al. 2025, arXiv:2509.04398 (IPA), abstract, for principal directions; columns by the norms of Wanda, "
        "Sun et al. 2023, arXiv:2306.11695, are this library's"
    ),
    expected=(
        Expected(what="principal directions less orthonormal rows, points of test accuracy", low=0.0),
        Expected(what="columns of largest norm less the first columns, points of test accuracy", low=0.0),
        Expected(what="columns of largest norm less random columns, points of test accuracy", low=0.0),
    ),
    run=run,
    place=125,
)
