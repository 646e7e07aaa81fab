"""The figures of one run of a study, and the effect of a factor over runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lopsided.stats import standard_error, student_quantile
from lopsided.study.results import Result

EPSILON = 0.5
Figure = Callable[[Result], float]


def intruders(result: Result) -> float:
    """The number of intruders among all singular vectors at ε = 0.5, mean over layers."""
    section = result.data["diagnosis"]["intruders"]
    return float(section["all"]["mean"][section["epsilons"].index(EPSILON)])


def norm(result: Result) -> float:
    """The Frobenius norm of ΔW, mean over layers."""
    return float(result.data["diagnosis"]["layers"]["delta"]["frobenius"])


def sharpness(result: Result) -> float:
    """The Hessian's top eigenvalue on validation rows, in the numbers that train: factors and head."""
    return float(result.data["diagnosis"]["landscape"]["sharpness"]["hessian_top"])


def rise(result: Result) -> float:
    """The largest rise of the validation loss near the merged weights, as `lopsided diagnose` has it."""
    return float(result.data["diagnosis"]["landscape"]["sharpness"]["largest"])


def gap(result: Result) -> float:
    """G(W), the difference of test and training loss."""
    estimate = result.run.generalization_error
    assert estimate is not None
    assert estimate.value is not None
    return estimate.value


def score(result: Result) -> float:
    """The test score, in percentage points."""
    value = result.run.metrics["test"].score.value
    assert value is not None
    return 100.0 * value


FIGURES: dict[str, Figure] = {
    "intruders (ε = 0.5)": intruders,
    "norm of ΔW": norm,
    "top Hessian eigenvalue": sharpness,
    "largest rise of loss": rise,
    "G(W)": gap,
    "test accuracy": score,
}


def interval(values: Sequence[float]) -> str:
    """Return a mean with its 95 % Student interval, or alone where there is one value."""
    array = np.array(values)
    if len(array) < 2:
        return f"{array.mean():.3g}"
    half = student_quantile(len(array) - 1) * standard_error(array)
    return f"{array.mean():.3g} [{array.mean() - half:.3g}, {array.mean() + half:.3g}]"


# Of runs of chains: by rate, family ("lora" or "cla") and what is left of the method's name; then by seed.
Cells = Mapping[tuple[float, str, str], Mapping[int, Result]]
# A factor's first level, by its name, with its place in that rest and its second level.
FACTORS = {"merged": (0, "neither"), "reset": (1, "kept"), "frozen": (2, "on")}


def effect(cells: Mapping[str, Mapping[int, Result]], first: str, figure: Figure) -> tuple[float, float, float] | None:
    """Return the ratio of geometric means of a factor's two levels (of accuracies the difference), over seeds.

    Returns:
        The effect and its 95 % interval; None where fewer than two seeds have a pair.
    """
    place, second = FACTORS[first]
    by_seed: dict[int, list[float]] = defaultdict(list)
    for rest, results in cells.items():
        words = rest.split("-")
        if words[place] != first:
            continue
        other = cells.get("-".join([*words[:place], second, *words[place + 1 :]]), {})
        for seed in results.keys() & other.keys():
            a, b = figure(results[seed]), figure(other[seed])
            by_seed[seed].append(a - b if figure is score else math.log(a / b))
    means = np.array([np.mean(values) for values in by_seed.values()])
    if len(means) < 2:
        return None
    half = student_quantile(len(means) - 1) * standard_error(means)
    ends = (float(means.mean()), float(means.mean() - half), float(means.mean() + half))
    return ends if figure is score else (math.exp(ends[0]), math.exp(ends[1]), math.exp(ends[2]))
