"""Short runs of the embedded model, for the experiments that train it.

Notation: a layer maps d_in to d_out; A is (r, d_in), B is (d_out, r). Runs lie in a temporary folder. Runs that are
compared read the same rows in the same order, so that their answers can be paired row by row.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.files.untrusted import open_tensors, weights_in
from lopsided.lab.intervals import ONE_RUN
from lopsided.lab.protocol import Measured
from lopsided.method import METHODS, Method, register
from lopsided.runs import Data, Predictions, TrainConfig, load_data, train, with_data
from lopsided.stats import crossed_bootstrap_means, percentile_interval
from lopsided.tuner.state_modules import parse_key

# What all of these runs share; alpha is 2r. Rows of the four domains have some 20 tokens, few have more than 48.
SHORT: dict[str, Any] = {
    "model": "embedded",
    "target_modules": "all-linear",
    "max_length": 48,
    "batch_size": 16,
    "evaluations": 1,
    "train_rows": 32,
    "test": False,
}
# At 60 steps of 32 rows it has the lowest validation loss for B-training, and for LoRA one that does not differ from
# the lowest within the error (docs/decisions/0004). With lower rates, or adapters on few layers, runs as short as these
# learn nothing.
RATE = 3e-3
# Rows of a batch in full runs that ask how good a method gets: those for which RATE was determined.
FULL_BATCH = 32
DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class ShortRun:
    """A finished run of an experiment.

    Args:
        folder: the run directory.
        trained: how many numbers were trained, with the head.
        answers: every row's answer, by split and column.
    """

    folder: Path
    trained: int
    answers: Mapping[str, Predictions]

    def right(self, split: str) -> np.ndarray:
        """Return 1 for each row of a split that was answered right, 0 for the others: (rows,)"""
        answers = self.answers[split]
        return (answers["prediction"] == answers["label"]).astype(np.float64)

    def loss(self, split: str) -> float:
        """Return the mean loss of a split, in nats per row."""
        return float(self.answers[split]["loss"].mean())


@contextmanager
def workspace() -> Iterator[Path]:
    """Give a folder for run directories, which is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="lopsided-lab-") as folder:
        yield Path(folder)


@contextmanager
def registered(methods: Sequence[Method]) -> Iterator[None]:
    """Register the methods in `METHODS` inside the context.

    Raises:
        LopsidedError: if a name is taken by other parts.
    """
    new = [method for method in methods if method.name not in METHODS]
    try:
        for method in methods:
            register(**{part.name: getattr(method, part.name) for part in dataclasses.fields(method) if part.init})
        yield
    finally:
        for method in new:
            METHODS.pop(method.name, None)


def load_rows(config: TrainConfig, **most: int) -> Data:
    """Load a task's rows for all runs that share its model, task and length: see `few_rows`."""
    return few_rows(load_data(config), most)


def few_rows(data: Data, most: Mapping[str, int]) -> Data:
    """Return at most so many rows of each named split, drawn once, and none from other domains."""
    # Both forms of the rows get the same indices, since a run reads labels from one and tokens from the other.
    indices = {
        split: np.random.RandomState(0).permutation(len(rows))[: most.get(split)]
        for split, rows in data.task.splits.items()
    }
    return dataclasses.replace(
        data,
        task=dataclasses.replace(
            data.task,
            splits={split: rows.select(indices[split]) for split, rows in data.task.splits.items()},
            out_of_domain={},
        ),
        encoded=dataclasses.replace(
            data.encoded,
            splits={split: rows.select(indices[split]) for split, rows in data.encoded.splits.items()},
            out_of_domain={},
        ),
    )


def finish_all(plans: Sequence[tuple[TrainConfig, Data]], note: Callable[[str], None]) -> list[ShortRun]:
    """Train one after the other."""
    runs = []
    for number, (config, data) in enumerate(plans, start=1):
        note(f"run {number} of {len(plans)}: {config.out.name}")
        run = train(config, prepared=with_data(data))
        runs.append(ShortRun(folder=config.out, trained=run.trained_parameters, answers=run.predictions))
    return runs


def trained_factors(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return what a finished run of an adapter learned, by module and letter.

    Shapes:
        {module: {"A": (r, d_in), "B": (d_out, r)}}, with the letters that were trained.
    """
    factors: dict[str, dict[str, np.ndarray]] = {}
    with open_tensors(weights_in(folder / "adapter")) as file:
        for key, tensor in file.get_tensors().items():
            module, part = parse_key(key) or ("", "")
            if part in ("A", "B"):
                factors.setdefault(module, {})[part] = tensor.numpy()
    return factors


def middle_95(value: float, draws: np.ndarray) -> Measured:
    """Return a figure with the interval that 95 % of its draws lie in; none where a draw could not be computed."""
    if not np.isfinite(draws).all():
        return Measured(value=float(value), why="some of its draws could not be computed")
    return Measured(value=float(value), interval=percentile_interval(draws))


def crossed(differences: np.ndarray) -> Measured:
    """Return the mean of paired differences, with the interval of `crossed_bootstrap_means`.

    With one seed there is no interval: every resample of it is that seed again.

    Shapes:
        differences: (seeds, rows)
    """
    if len(differences) < 2:
        return Measured(value=float(differences.mean()), why=ONE_RUN)
    return middle_95(differences.mean(), crossed_bootstrap_means(differences, DRAWS))
