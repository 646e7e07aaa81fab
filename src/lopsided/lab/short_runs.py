"""Short runs of the embedded model, for the experiments that train it.

Notation: a layer maps d_in to d_out; A is (r, d_in), B is (d_out, r). Runs lie in a temporary folder. Runs that are
compared read the same rows in the same order, so that their answers can be paired row by row.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.files.untrusted import open_tensors, weights_in
from lopsided.lab.intervals import ONE_RUN
from lopsided.lab.mean_lines import ends_of
from lopsided.lab.protocol import Line, Measured
from lopsided.method import METHODS, Method, register
from lopsided.runs import Data, Predictions, TrainConfig, load_data, train
from lopsided.stats import crossed_bootstrap_means, percentile_interval
from lopsided.tuner.state import parse_key

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
# At 60 steps of 32 rows it has the lowest validation loss for B-training, and one for LoRA that its lowest is not told
# apart from (docs/decisions/0004); with lower rates, or adapters on few layers, runs as short as these learn nothing.
RATE = 3e-3
# Rows of a batch in full runs that ask how good a method gets: what RATE was found with.
FULL_BATCH = 32
DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: its folder, how many numbers it trained, and its answers by split and column."""

    folder: Path
    trained: int
    rows: Mapping[str, Predictions]

    def right(self, split: str) -> np.ndarray:
        """1 for each row of a split that was answered right, 0 for the others: (rows,)"""
        return (self.rows[split]["prediction"] == self.rows[split]["label"]).astype(np.float64)

    def loss(self, split: str) -> float:
        """The mean loss of a split, in nats a row."""
        return float(self.rows[split]["loss"].mean())


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for run directories, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="lopsided-lab-") as folder:
        yield Path(folder)


@contextmanager
def registered(methods: Sequence[Method]) -> Iterator[None]:
    """Have the methods in `METHODS` for a while.

    Raises:
        LopsidedError: if a name is taken by other parts.
    """
    new = [method for method in methods if method.name not in METHODS]
    try:
        for method in methods:
            register(**{field.name: getattr(method, field.name) for field in dataclasses.fields(method)})
        yield
    finally:
        for method in new:
            METHODS.pop(method.name, None)


def load_rows(config: TrainConfig, **most: int) -> Data:
    """A task's rows for all runs that share its model, task and length: see `few_rows`."""
    return few_rows(load_data(config), most)


def few_rows(data: Data, most: Mapping[str, int]) -> Data:
    """At most so many rows of each named split, drawn once, and none from other domains."""
    kept = {
        split: np.random.RandomState(0).permutation(len(rows))[: most.get(split)]
        for split, rows in data.task.splits.items()
    }
    return dataclasses.replace(
        data,
        task=dataclasses.replace(
            data.task,
            splits={split: rows.select(kept[split]) for split, rows in data.task.splits.items()},
            out_of_domain={},
        ),
        encoded=dataclasses.replace(
            data.encoded,
            splits={split: rows.select(kept[split]) for split, rows in data.encoded.splits.items()},
            out_of_domain={},
        ),
    )


def finish_all(asked: Sequence[tuple[TrainConfig, Data]], note: Callable[[str], None]) -> list[Run]:
    """Train one after the other; checkpoints go, since full fine-tuning's fill a disk."""
    runs = []
    for number, (config, data) in enumerate(asked, start=1):
        note(f"run {number} of {len(asked)}: {config.out.name}")
        run = train(config, data=data)
        shutil.rmtree(config.out / "checkpoints")
        runs.append(Run(folder=config.out, trained=run.trained_parameters, rows=run.predictions))
    return runs


def trained_factors(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """What a finished run of an adapter learned, by module and letter.

    Shapes:
        {module: {"A": (r, d_in), "B": (d_out, r)}}, with the letters that were trained.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    with open_tensors(weights_in(folder / "adapter")) as file:
        for key, tensor in file.get_tensors().items():
            module, what = parse_key(key) or ("", "")
            if what in ("A", "B"):
                found.setdefault(module, {})[what] = tensor.numpy()
    return found


def middle_95(value: float, draws: np.ndarray) -> Measured:
    """A figure with the interval that 95 % of its draws lie in; none where a draw could not be computed."""
    if not np.isfinite(draws).all():
        return Measured(value=float(value), why="some of its draws could not be computed")
    return Measured(value=float(value), interval=percentile_interval(draws))


def crossed(differences: np.ndarray) -> Measured:
    """The mean of paired differences, with the interval of `crossed_bootstrap_means`: (seeds, rows) -> one figure.

    One seed resampled is itself again, and leaves no interval over seeds.
    """
    if len(differences) < 2:
        return Measured(value=float(differences.mean()), why=ONE_RUN)
    return middle_95(differences.mean(), crossed_bootstrap_means(differences, DRAWS))


def bars(name: str, figures: Mapping[str, Measured]) -> Line:
    """Bars of named figures, with their intervals where they have some."""
    low, high = ends_of(list(figures.values()))
    return Line(
        name=name, x=list(figures), y=[figure.value for figure in figures.values()], low=low, high=high, style="bars"
    )
