"""The tables of the pages under docs/studies, from the results that are committed there.

python -m benchmarks.studies chain-factorial|single-run|paper-protocol|variants
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lopsided import LopsidedError
from lopsided.stats import standard_error, student_quantile
from lopsided.study.markdown import markdown_table
from lopsided.study.results import Result, read_results

RESULTS = Path(__file__).parents[1] / "docs" / "studies" / "results"
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


FACTORS = (("merged", "neither"), ("reset", "kept"), ("frozen", "on"))
TITLES = ("merge and redraw / neither", "reset / kept", "rate frozen / schedule on")


def chain_factorial(results: Iterable[Result]) -> str:
    """Return the cells' means, and the effect of each factor on each figure."""
    cells: dict[tuple[float, str, str], dict[int, Result]] = defaultdict(dict)
    for result in results:
        family, rest = result.data["method"].split("-", 1)
        cells[result.run.learning_rate, family, rest][result.run.seed] = result
    parts = [_cells_table(cells)]
    for rate in sorted({key[0] for key in cells}):
        rows = []
        for family in ("lora", "cla"):
            of_family = {rest: by_seed for (lr, name, rest), by_seed in cells.items() if (lr, name) == (rate, family)}
            for place, title in enumerate(TITLES):
                rows.append([family, title, *(_effect(of_family, place, figure) for figure in FIGURES.values())])
        parts.append(f"Rate {rate:g}: ratios (of accuracies: differences in points)\n")
        parts.append(markdown_table(["", "factor", *FIGURES], rows))
    return "\n".join(parts)


def _cells_table(cells: Mapping[tuple[float, str, str], Mapping[int, Result]]) -> str:
    rows = []
    for (rate, family, rest), by_seed in sorted(cells.items(), key=lambda item: item[0]):
        means = [f"{np.mean([figure(each) for each in by_seed.values()]):.3g}" for figure in FIGURES.values()]
        rows.append([f"{rate:g}", family, *rest.split("-"), str(len(by_seed)), *means])
    return markdown_table(["rate", "", "link ends with", "optimizer", "schedule", "seeds", *FIGURES], rows)


def _effect(cells: Mapping[str, Mapping[int, Result]], place: int, figure: Figure) -> str:
    """The ratio of geometric means of a factor's two levels (of accuracies the difference), over seeds."""
    first, second = FACTORS[place]
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
        return "–"
    half = student_quantile(len(means) - 1) * standard_error(means)
    ends = (means.mean(), means.mean() - half, means.mean() + half)
    middle, low, high = ends if figure is score else map(math.exp, ends)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def single_run(results: Iterable[Result]) -> str:
    """Return size and spread of the gap over draws of A, and its slopes in rows and rank."""
    gaps: dict[tuple[int, int], list[float]] = defaultdict(list)
    for result in results:
        gaps[result.run.settings["rank"], result.run.settings["train_size"]].append(gap(result))
    rows = []
    for (r, n), values in sorted(gaps.items()):
        array = np.array(values)
        rows.append(
            [
                *(str(r), str(n), str(len(values)), f"{array.mean():.3f}", f"{array.std(ddof=1):.3f}"),
                *(f"{array.std(ddof=1) / array.mean():.3f}", f"{math.sqrt(r / n):.4f}"),
                f"{array.mean() / math.sqrt(r / n):.1f}",
            ]
        )
    heads = ["r", "N", "draws", "G(W), mean", "spread over A", "spread / mean", "√(r/N)", "G(W) / √(r/N)"]
    means = {key: float(np.mean(values)) for key, values in gaps.items()}
    ranks, sizes = sorted({r for r, _ in means}), sorted({n for _, n in means})
    slopes = [
        f"slope of log G(W) in log N at r = {r}: {_slope(sizes, [means[r, n] for n in sizes]):.2f}" for r in ranks
    ]
    slopes += [
        f"slope of log G(W) in log r at N = {n}: {_slope(ranks, [means[r, n] for r in ranks]):.2f}" for n in sizes
    ]
    return markdown_table(heads, rows) + "\n" + "\n".join(f"- {line}" for line in slopes) + "\n"


def _slope(x: Sequence[int], y: Sequence[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def by_method(results: Iterable[Result]) -> str:
    """Return each method's figures with intervals over seeds."""
    methods: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        methods[result.data["method"]].append(result)
    rows = [
        [name, str(len(each)), *(_or_dash(figure, each) for figure in FIGURES.values())]
        for name, each in methods.items()
    ]
    return markdown_table(["method", "seeds", *FIGURES], rows)


def _or_dash(figure: Figure, results: Sequence[Result]) -> str:
    # A head alone has no tuned layer, and so no intruders.
    if figure in (intruders, norm) and any("intruders" not in each.data["diagnosis"] for each in results):
        return "–"
    return interval([figure(each) for each in results])


STUDIES: dict[str, Callable[[Iterable[Result]], str]] = {
    "chain-factorial": chain_factorial,
    "single-run": single_run,
    "paper-protocol": by_method,
    "variants": by_method,
}


def main(arguments: Sequence[str]) -> int:
    """Print the tables of a study."""
    if len(arguments) != 1 or arguments[0] not in STUDIES:
        print(f"studies: expected one of {', '.join(STUDIES)}", file=sys.stderr)
        return 2
    path = RESULTS / f"{arguments[0]}.jsonl"
    if not path.is_file():
        raise LopsidedError(f"expected results in {path}; run the study first: lopsided bench studies/{path.stem}.toml")
    finished: list[Any] = [result for result in read_results([path]).values() if result.is_finished]
    print(STUDIES[arguments[0]](finished))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
