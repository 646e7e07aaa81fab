"""The tables of the pages under docs/studies, from the results that are committed there.

python -m benchmarks.studies chain-factorial|single-run|paper-protocol|variants
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study_claims import factorial_claims, protocol_claims, variant_claims
from benchmarks.study_figures import FACTORS, FIGURES, Cells, Figure, effect, gap, interval, intruders, norm
from lopsided.study.markdown import markdown_table
from lopsided.study.results import Result, read_results

RESULTS = Path(__file__).parents[1] / "docs" / "studies" / "results"
TITLES = {"merged": "merge and redraw / neither", "reset": "reset / kept", "frozen": "rate frozen / schedule on"}


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
            for factor in FACTORS:
                effects = [_words(effect(of_family, factor, figure)) for figure in FIGURES.values()]
                rows.append([family, TITLES[factor], *effects])
        parts.append(f"Rate {rate:g}: ratios (of accuracies: differences in points)\n")
        parts.append(markdown_table(["", "factor", *FIGURES], rows))
    return "\n".join([*parts, factorial_claims(cells)])


def _cells_table(cells: Cells) -> str:
    rows = []
    for (rate, family, rest), by_seed in sorted(cells.items(), key=lambda item: item[0]):
        means = [f"{np.mean([figure(each) for each in by_seed.values()]):.3g}" for figure in FIGURES.values()]
        rows.append([f"{rate:g}", family, *rest.split("-"), str(len(by_seed)), *means])
    return markdown_table(["rate", "", "link ends with", "optimizer", "schedule", "seeds", *FIGURES], rows)


def _words(value: tuple[float, float, float] | None) -> str:
    return "–" if value is None else "{:.2f} [{:.2f}, {:.2f}]".format(*value)


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


def paper_protocol(results: Iterable[Result]) -> str:
    """Return each method's figures, and what became of the ranges that were stated."""
    results = list(results)
    return f"{by_method(results)}\n{protocol_claims(results)}"


def variants(results: Iterable[Result]) -> str:
    """Return each variant's figures, and what became of the differences that were expected."""
    results = list(results)
    return f"{by_method(results)}\n{variant_claims(results)}"


STUDIES: dict[str, Callable[[Iterable[Result]], str]] = {
    "chain-factorial": chain_factorial,
    "single-run": single_run,
    "paper-protocol": paper_protocol,
    "variants": variants,
}


def main(arguments: Sequence[str]) -> int:
    """Print the tables of a study."""
    if len(arguments) != 1 or arguments[0] not in STUDIES:
        print(f"studies: expected one of {', '.join(STUDIES)}, got {' '.join(arguments) or 'none'}", file=sys.stderr)
        return 2
    path = RESULTS / f"{arguments[0]}.jsonl"
    if not path.is_file():
        print(
            f"expected results in {path}; run the study first: lopsided bench studies/{path.stem}.toml", file=sys.stderr
        )
        return 2
    finished: list[Any] = [result for result in read_results([path]).values() if result.is_finished]
    print(STUDIES[arguments[0]](finished))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
