"""Do methods with a smaller information bound have a smaller gap?

Notation: a run's gap is |test loss - training loss| at the checkpoint with the lowest validation loss. Its bound is
√(2·P·q·ln 2·σ²/n), with P the numbers that the method trains over all its links, q = 32 bits, σ estimated from the
run's test losses and n training rows, which are few here, so that there is a gap. A method's gap and bound are means
over its runs, and methods are compared by ranks: Spearman's correlation, 1 if the bound orders them as the gaps do.

PaCA is left out: from one seed it draws the columns of random-cLA, and is the same run. For full fine-tuning, P counts
every number of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lopsided.lab.intervals import over_seeds, share
from lopsided.lab.mean_lines import bars
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.lab.short_runs import RATE, SHORT, finish_all, load_rows, workspace
from lopsided.method import Method, method_named
from lopsided.plotting.svg import Drawing, Trace
from lopsided.runs import TrainConfig
from lopsided.runs.measured_bound import RunBound, bound_of_run
from lopsided.stats import rank_correlation, rank_correlation_interval

QUICK = ("full", "lora", "cola", "asym_b", "rac_b", "cla")
FULL = ("full", "lora", "lora_plus", "cola", "asym_b", "rac_b", "cla", "rcla", "c3la", "rc3la")
RANK = 16
TASK, TRAINING_ROWS = "vader/movie", 128
DRAWS = 4000


def chance_of_more(x: np.ndarray, y: np.ndarray) -> float:
    """Return how often a random order of the methods correlates as much or more; NaN where nothing correlates."""
    observed = rank_correlation(x, y)
    # Every comparison with NaN is false, which would make it the least likely of all orders.
    if not np.isfinite(observed):
        return float("nan")
    draw = np.random.RandomState(0)
    orders = np.argsort(draw.uniform(size=(DRAWS, len(x))), axis=1)
    shuffled = rank_correlation(np.broadcast_to(x, orders.shape), y[orders])
    return float((1 + np.sum(shuffled >= observed - 1e-12)) / (1 + DRAWS))


def learning_rate(name: str) -> float:
    """Return one learning rate for all adapters; full fine-tuning and a ratio of rates need lower ones, their own."""
    method = method_named(name)
    return RATE if method.is_adapter and method.lr_ratio == 1 else method.lr


def group(method: Method) -> str:
    """Return what a method trains, for a legend."""
    trains = method.side.title
    return trains if method.chain is None else f"{trains}, chained"


@dataclass(frozen=True, kw_only=True)
class MethodBounds:
    """The bounds and gaps of one method's runs, one per seed."""

    runs: Sequence[RunBound]

    @property
    def bounds(self) -> np.ndarray:
        """(seeds,), in nats"""
        return np.array([run.bound.value for run in self.runs])

    @property
    def gaps(self) -> np.ndarray:
        """(seeds,), in nats; a gap that a run could not compute is NaN, and leaves its method without a rank."""
        return np.array([run.measured for run in self.runs], dtype=np.float64)

    @property
    def standard_error(self) -> float:
        """Of one gap, from its rows; the mean over seeds."""
        return float(np.mean([np.nan if run.se is None else run.se for run in self.runs]))

    @property
    def trained(self) -> int:
        """Numbers that the method trains over all its links."""
        return self.runs[0].bound.trained

    @property
    def mean_gap(self) -> Measured:
        """The mean gap over seeds, with the interval that its rows give: two seeds have none worth showing."""
        value = float(np.mean(self.gaps))
        reach = 1.96 * self.standard_error / len(self.runs) ** 0.5
        return Measured(value=value, interval=(value - reach, value + reach))

    def to_json(self) -> dict[str, Any]:
        """Return the method's entry among the details of result.json."""
        return {
            "gap": over_seeds(self.gaps),
            "standard error of one gap": self.standard_error,
            "bound": self.bounds.mean(),
            "sigma": np.mean([run.bound.sigma.value for run in self.runs]),
            "trained": self.trained,
        }


def bound_all(
    names: Sequence[str], *, seeds: int, steps: int, most: Mapping[str, int], note: Callable[[str], None]
) -> dict[str, MethodBounds]:
    """Train every method from every seed, and bound each run."""
    shared = {**SHORT, "task": TASK, "rank": RANK, "steps": steps}
    shared |= {"evaluations": 4, "train_rows": TRAINING_ROWS, "test": True}
    with workspace() as folder:
        configs = [
            TrainConfig(**shared, method=name, lr=learning_rate(name), seed=seed, out=folder / f"{name}-seed{seed}")
            for name in names
            for seed in range(seeds)
        ]
        data = load_rows(configs[0], train=TRAINING_ROWS, validation=200, **most)
        runs = finish_all([(config, data) for config in configs], note)
        bounds = iter([bound_of_run(run.folder) for run in runs])
    return {name: MethodBounds(runs=[next(bounds) for _ in range(seeds)]) for name in names}


def run(request: Request) -> Outcome:
    """Train the methods on few rows, and compare the order of their bounds with the order of their gaps."""
    seeds, steps = request.number_of_seeds(quick=1, full=2), 48
    names, most = request.pick(quick=QUICK, full=FULL), request.pick(quick={"test": 500}, full={})
    methods = bound_all(names, seeds=seeds, steps=steps, most=most, note=request.note)
    bounds = np.array([method.bounds.mean() for method in methods.values()])
    gaps = np.array([method.gaps.mean() for method in methods.values()])
    trained = np.array([method.trained for method in methods.values()], dtype=np.float64)
    shares = np.concatenate([method.gaps / method.bounds for method in methods.values()])
    return Outcome(
        measured=[
            Measured(
                value=float(rank_correlation(bounds, gaps)),
                interval=rank_correlation_interval(bounds, gaps, draws=DRAWS),
            ),
            share(shares <= 1) if np.isfinite(shares).all() else over_seeds(shares),
        ],
        settings={
            "model": "embedded",
            "task": TASK,
            "training rows": TRAINING_ROWS,
            "methods": list(names),
            "seeds": seeds,
            "steps": steps,
            "batch": SHORT["batch_size"],
            "rank": RANK,
            "targets": SHORT["target_modules"],
            "links of chains": 4,
            "learning rates": {name: learning_rate(name) for name in names},
            "interval": "over methods",
        },
        details={
            "methods": {name: method.to_json() for name, method in methods.items()},
            "p, of a random order": chance_of_more(bounds, gaps),
            "rank correlation of gap and trained numbers alone": rank_correlation(trained, gaps),
            "largest gap as a share of its bound": np.max(shares),
        },
        plots=[_order_drawing(methods, bounds), _bound_drawing(list(methods), bounds, gaps)],
    )


def _order_drawing(methods: Mapping[str, MethodBounds], bounds: np.ndarray) -> Drawing:
    names = list(methods)
    order = [names[i] for i in np.argsort(bounds, kind="stable").tolist()]
    return Drawing(
        name="order",
        title="Gap of each method, from the smallest bound to the largest, with the 95 % interval of its rows",
        x="method, by its bound",
        y="|test loss - training loss|, nats",
        lines=[bars("gap", {name: methods[name].mean_gap for name in order})],
    )


def _bound_drawing(names: Sequence[str], bounds: np.ndarray, gaps: np.ndarray) -> Drawing:
    groups = [group(method_named(name)) for name in names]
    lines = []
    for kind in dict.fromkeys(groups):
        places = [i for i, other in enumerate(groups) if other == kind]
        lines.append(Trace(name=kind, x=bounds[places].tolist(), y=gaps[places].tolist(), style="points"))
    return Drawing(
        name="bound",
        title="Gap and bound of each method; the bound is far above what happens",
        x="information bound, nats",
        y="|test loss - training loss|, nats",
        lines=lines,
        log="x",
    )


EXPERIMENT = Experiment(
    name="bounds-vs-gap",
    claim="Information bounds measure generalization consistently: a method with a smaller bound has a smaller gap.",
    meaning=(
        "Where this is reproduced, counting trained numbers tells before any run which method will overfit less. Where "
        "it is not, take the bound as a guarantee that holds and not as a forecast, and measure the gap."
    ),
    source="Cadenhead et al. 2026, arXiv:2606.13767, Table 1 and the table of generalization errors",
    expected=(
        Expected(what="rank correlation of bound and gap over methods", low=0.0),
        # Every one of twenty runs: see `intervals.share`.
        Expected(what="share of runs whose gap lies under the bound", low=0.8),
    ),
    run=run,
    place=140,
)
