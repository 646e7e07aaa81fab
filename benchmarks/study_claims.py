"""What became of the ranges that the studies' pages stated before their runs were looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.stats import spearmanr

from benchmarks.study_figures import FIGURES, Cells, effect, gap, interval, score
from lopsided.models.skeleton import skeleton
from lopsided.runs.scores import row_losses
from lopsided.study.markdown import markdown_table
from lopsided.study.published import PublishedFigure, published_figures
from lopsided.study.results import Result
from lopsided.theory.information import generalization_bound, sigma_estimated

Factor = Literal["merged", "reset", "frozen"]
# (number on the page docs/studies/chain-factorial.md, factor, figure, least, most), each for LoRA and cLA at one rate.
FACTORIAL: tuple[tuple[int, Factor, str, float, float], ...] = (
    (1, "frozen", "intruders (ε = 0.5)", 1.2, np.inf),
    (2, "merged", "intruders (ε = 0.5)", 1.2, np.inf),
    (3, "reset", "intruders (ε = 0.5)", 0.8, 1.25),
    (4, "frozen", "norm of ΔW", 1.2, np.inf),
    (5, "frozen", "top Hessian eigenvalue", 1.2, np.inf),
    (6, "merged", "top Hessian eigenvalue", 1.2, np.inf),
    (7, "merged", "G(W)", 0.8, 1.25),
    (8, "frozen", "test accuracy", 2.0, np.inf),
)
CLAIMS_RATE = 1e-3
# Of docs/studies/paper-protocol.md.
LEAST_CORRELATION = 0.5
SINGLE_FACTORS = ("asym_b", "rac_b", "cla", "c3la")
LEAST_POINTS = 10.0

# (number on the page docs/studies/variants.md, a variant, what it is a variant of, least, most), in points.
VARIANTS: tuple[tuple[int, str, str, float, float], ...] = (
    (1, "released_one:lora_plus", "lora_plus", -5.0, 5.0),
    (2, "released_one:rcla", "rcla", -5.0, 5.0),
    (2, "released_two:rcla", "rcla", -5.0, 5.0),
    (2, "rcla-own-windows", "rcla", -5.0, 5.0),
    (3, "released_two:rc3la_deepseek", "rc3la", -5.0, 5.0),
    (4, "released_two:rc3la", "rc3la", 5.0, np.inf),
    (5, "released_two:rc3la_deberta", "rc3la", 5.0, np.inf),
    (6, "released_two:c3la", "c3la", 5.0, np.inf),
    (7, "released_one:c3la", "c3la", 20.0, np.inf),
)


def variant_claims(results: Iterable[Result]) -> str:
    """Return the verdicts on the differences that variants of one name were expected to make."""
    by_method = _by_method(results)
    rows = []
    for number, variant, original, least, most in VARIANTS:
        values = _paired(by_method, variant, original)
        held = bool(values) and least <= float(np.mean(values)) <= most
        verdict = _word(held) if values else "–"
        rows.append(
            [
                str(number),
                f"{variant} less {original}",
                _range(least, most),
                interval(values) if values else "–",
                verdict,
            ]
        )
    return markdown_table(["no.", "difference, points", "range", "figure", "verdict"], rows)


def factorial_claims(cells: Cells) -> str:
    """Return the verdicts on the ranges of the chain study: an effect is in its range, for LoRA and for cLA."""
    rows = []
    for number, factor, figure, least, most in FACTORIAL:
        effects = {
            family: effect(
                {rest: each for (rate, name, rest), each in cells.items() if (rate, name) == (CLAIMS_RATE, family)},
                factor,
                FIGURES[figure],
            )
            for family in ("lora", "cla")
        }
        held = [each is not None and least <= each[0] <= most for each in effects.values()]
        clear = [each is not None and least <= each[1] and each[2] <= most for each in effects.values()]
        words = [f"{each[0]:.2f} [{each[1]:.2f}, {each[2]:.2f}]" if each else "–" for each in effects.values()]
        verdict = ("held" + ("" if all(clear) else ", the intervals reach out of it")) if all(held) else "did not hold"
        rows.append([str(number), f"{factor}: {figure}", _range(least, most), *words, verdict])
    return markdown_table(["no.", "effect", "range", "LoRA", "cLA", "verdict"], rows)


def protocol_claims(results: Iterable[Result]) -> str:
    """Return the verdicts on the ranges of the study by the paper's protocol, from means over seeds."""
    by_method = _by_method(results)
    ours = {name: float(np.mean([score(each) for each in of_it])) for name, of_it in by_method.items()}
    near = {each.method: each.figure for each in _performance() if _is_nearest(each.model, each.task)}
    rows = [
        _correlation(1, "score against DeBERTa-v3-Base on TREC-50", ours, near),
        _correlation(2, "score against the mean rank over all pairs", ours, _mean_ranks()),
        _correlation(
            3,
            "bound against G(W)",
            {name: float(np.mean([_bound(each) for each in by_method[name]])) for name in _adapters(by_method)},
            {name: float(np.mean([gap(each) for each in by_method[name]])) for name in _adapters(by_method)},
        ),
        _points_below_lora(by_method),
    ]
    return markdown_table(["no.", "what", "range", "figure", "verdict"], rows)


def _performance() -> list[PublishedFigure]:
    return [each for each in published_figures() if each.table == "beyond_lora_2"]


def _is_nearest(model: str, task: str) -> bool:
    return (model, task) == ("deberta-v3-base", "trec-fine")


def _mean_ranks() -> dict[str, float]:
    """Return the methods' ranks in the paper's table, the best highest, averaged over its model and data set pairs."""
    pairs: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for each in _performance():
        pairs[each.model, each.task][each.method] = each.figure
    ranks: dict[str, list[float]] = defaultdict(list)
    for figures in pairs.values():
        ordered = sorted(figures, key=lambda name, of_pair=figures: of_pair[name])  # type: ignore[misc]
        for place, name in enumerate(ordered):
            ranks[name].append(place / (len(ordered) - 1))
    return {name: float(np.mean(places)) for name, places in ranks.items()}


def _correlation(number: int, what: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> Sequence[str]:
    names = sorted(ours.keys() & theirs.keys())
    value = float(spearmanr([ours[name] for name in names], [theirs[name] for name in names]).statistic)
    verdict = "held" if value >= LEAST_CORRELATION else "did not hold"
    return [str(number), f"{what}, {len(names)} methods", f"at least {LEAST_CORRELATION:g}", f"{value:.2f}", verdict]


def _adapters(by_method: Mapping[str, Sequence[Result]]) -> list[str]:
    """The methods that the bounds of this library are about, and that are adapters."""
    return [name for name in by_method if not name.startswith("peft:") and name not in ("head", "full")]


def _bound(result: Result) -> float:
    run = result.run
    config = run.config
    return generalization_bound(
        skeleton(config.model, run.task.kind, labels=max(1, len(run.task.labels))),
        config.resolve_method(),
        config.rank,
        run.task.rows["train"],
        sigma_estimated(row_losses(run.predictions["test"]).tolist()),
        32,
        None if run.chain is None else run.links,
        target_modules="all-linear" if config.targets is None else config.targets,
    ).value


def _points_below_lora(by_method: Mapping[str, Sequence[Result]]) -> Sequence[str]:
    differences = {name: _paired(by_method, "lora", name) for name in SINGLE_FACTORS}
    held = all(np.mean(values) >= LEAST_POINTS for values in differences.values())
    figures = "; ".join(f"{name} {interval(values)}" for name, values in differences.items())
    return ["4", "LoRA's test accuracy less", f"at least {LEAST_POINTS:g} points each", figures, _word(held)]


def _by_method(results: Iterable[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        found[result.data["method"]].append(result)
    return found


def _paired(by_method: Mapping[str, Sequence[Result]], first: str, second: str) -> list[float]:
    """The differences of two methods' scores, by seed."""
    others = {each.run.seed: score(each) for each in by_method.get(second, ())}
    return [score(each) - others[each.run.seed] for each in by_method.get(first, ()) if each.run.seed in others]


def _range(least: float, most: float) -> str:
    return f"at least {least:g}" if most == np.inf else f"{least:g} to {most:g}"


def _word(held: bool) -> str:
    return "held" if held else "did not hold"
