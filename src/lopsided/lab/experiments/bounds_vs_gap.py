"""Do methods with a smaller information bound have a smaller gap?

Notation: a run's gap is |test loss - training loss| at the checkpoint with the lowest validation loss. Its bound is
√(2·P·q·ln 2·σ²/n), with P the numbers that the method trains over all its links, q = 32 bits, σ estimated from the
run's test losses and n training rows, which are few here, so that there is a gap. A method's gap and bound are means
over its runs, and methods are compared by ranks: Spearman's correlation, 1 if the bound orders them as the gaps do.

PaCA is left out: from one seed it draws the columns of random-cLA, and is the same run. For full fine-tuning, P counts
every number of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from lopsided.lab.intervals import over_seeds, share
from lopsided.lab.protocol import Expected, Experiment, Line, Measured, Outcome, Plot, Request
from lopsided.lab.short_runs import RATE, SHORT, bars, finish_all, load_rows, workspace
from lopsided.method import Method, method_named
from lopsided.runs import TrainConfig
from lopsided.runs.measured_bound import RunBound, bound_of_run

QUICK = ("full", "lora", "cola", "asym_b", "rac_b", "cla")
FULL = ("full", "lora", "lora_plus", "cola", "asym_b", "rac_b", "cla", "rcla", "c3la", "rc3la")
RANK = 16
TASK, TRAINING_ROWS = "vader/movie", 128
DRAWS = 4000


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis, ties sharing their mean rank; NaN where a side is constant.

    Shapes:
        x, y: (..., methods) -> (...)
    """
    a, b = (rankdata(values, axis=-1) - (np.shape(values)[-1] + 1) / 2 for values in (x, y))
    with np.errstate(invalid="ignore"):
        return np.sum(a * b, axis=-1) / np.sqrt(np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1))


def resampled(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of the rank correlation when methods are drawn again, draws of equal ones left out.

    None where the correlation itself is undefined, as it is for methods of one bound.
    """
    if not np.isfinite(rank_correlation(x, y)):
        return None
    chosen = np.random.RandomState(0).randint(0, len(x), size=(DRAWS, len(x)))
    found = rank_correlation(x[chosen], y[chosen])
    low, high = np.quantile(found[np.isfinite(found)], [0.025, 0.975])
    return float(low), float(high)


def chance_of_more(x: np.ndarray, y: np.ndarray) -> float:
    """How often a random order of the methods correlates as much or more; NaN where nothing correlates."""
    observed = rank_correlation(x, y)
    # Every comparison with NaN is false, which would make it the least likely of all orders.
    if not np.isfinite(observed):
        return float("nan")
    draw = np.random.RandomState(0)
    orders = np.argsort(draw.uniform(size=(DRAWS, len(x))), axis=1)
    shuffled = rank_correlation(np.broadcast_to(x, orders.shape), y[orders])
    return float((1 + np.sum(shuffled >= observed - 1e-12)) / (1 + DRAWS))


def rate(name: str) -> float:
    """One learning rate for all adapters; full fine-tuning and a ratio of rates need lower ones, their own."""
    method = method_named(name)
    return RATE if method.is_adapter and method.lr_ratio == 1 else method.lr


def group(method: Method) -> str:
    """What a method trains, for a legend."""
    trains = method.side.title
    return trains if method.chain is None else f"{trains}, chained"


def run(request: Request) -> Outcome:
    seeds, steps = request.number_of_seeds(quick=1, full=2), 48
    names = request.pick(quick=QUICK, full=FULL)
    shared = {**SHORT, "task": TASK, "rank": RANK, "steps": steps}
    shared |= {"evaluations": 4, "train_rows": TRAINING_ROWS, "test": True}
    with workspace() as folder:
        configs = [
            TrainConfig(**shared, method=name, lr=rate(name), seed=seed, out=folder / f"{name}-seed{seed}")
            for name in names
            for seed in range(seeds)
        ]
        data = load_rows(configs[0], train=TRAINING_ROWS, validation=200, **request.pick(quick={"test": 500}, full={}))
        runs = finish_all([(config, data) for config in configs], request.note)
        found = iter([bound_of_run(made.folder) for made in runs])
    bounds = {name: [next(found) for _ in range(seeds)] for name in names}
    x = np.array([np.mean([one.bound.value for one in of]) for of in bounds.values()])
    # A gap that a run could not compute is NaN here, and leaves its method without a rank.
    gaps = {name: np.array([one.measured for one in of], dtype=np.float64) for name, of in bounds.items()}
    y = np.array([values.mean() for values in gaps.values()])
    trained = np.array([of[0].bound.trained for of in bounds.values()], dtype=np.float64)
    shares = np.concatenate([gaps[name] / [one.bound.value for one in of] for name, of in bounds.items()])
    return Outcome(
        measured=[
            Measured(value=float(rank_correlation(x, y)), interval=resampled(x, y)),
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
            "learning rates": {name: rate(name) for name in names},
            "interval": "over methods",
        },
        details={
            "methods": {
                name: {
                    "gap": over_seeds(gaps[name]),
                    "standard error of one gap": np.mean([_se(one) for one in of]),
                    "bound": np.mean([one.bound.value for one in of]),
                    "sigma": np.mean([one.bound.sigma.value for one in of]),
                    "trained": of[0].bound.trained,
                }
                for name, of in bounds.items()
            },
            "p, of a random order": chance_of_more(x, y),
            "rank correlation of gap and trained numbers alone": rank_correlation(trained, y),
            "largest gap as a share of its bound": np.max(shares),
        },
        plots=_plots(bounds, x, y),
    )


def _plots(bounds: dict[str, list[RunBound]], x: np.ndarray, y: np.ndarray) -> list[Plot]:
    names = list(bounds)
    order: Sequence[int] = np.argsort(x, kind="stable").tolist()
    groups = [group(method_named(name)) for name in names]
    lines = []
    for kind in dict.fromkeys(groups):
        chosen = [i for i, found in enumerate(groups) if found == kind]
        lines.append(Line(name=kind, x=x[chosen].tolist(), y=y[chosen].tolist(), style="points"))
    gaps = {names[i]: _gap(bounds[names[i]]) for i in order}
    return [
        Plot(
            name="order",
            title="Gap of each method, from the smallest bound to the largest, with the 95 % interval of its rows",
            x="method, by its bound",
            y="|test loss - training loss|, nats",
            lines=[bars("gap", gaps)],
        ),
        Plot(
            name="bound",
            title="Gap and bound of each method; the bound is far above what happens",
            x="information bound, nats",
            y="|test loss - training loss|, nats",
            lines=lines,
            log="x",
        ),
    ]


def _gap(runs: Sequence[RunBound]) -> Measured:
    """The mean gap over seeds, with the interval that its rows give: two seeds have none of their own to speak of."""
    value = float(np.mean(np.array([one.measured for one in runs], dtype=np.float64)))
    reach = 1.96 * float(np.mean([_se(one) for one in runs])) / len(runs) ** 0.5
    return Measured(value=value, interval=(value - reach, value + reach))


def _se(run: RunBound) -> float:
    return np.nan if run.se is None else run.se


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
)
