"""Do chains have more intruders and sharper landscapes than their unchained twins, and do they generalise worse?

    lopsided compare --seeds 0,1,2 --methods lora,cola,asym_b,rac_b,cla,c3la,full --out study
    lopsided compare --seeds 0,1,2 --methods lora --lr 3e-3 --out lora     # cola's learning rate
    lopsided compare --seeds 0,1,2 --methods cla --lr 1e-3 --out cla       # c3la's
    lopsided diagnose study lora cla
    python -m benchmarks.findings study lora cla [--out docs/findings.json]

Reads diagnosed run directories and prints, for every figure, each method's mean over seeds, and the difference of each
chain and its twin with the same seed: the same head, the same rows in the same order. An interval is Student's, 95 %,
over seeds; the mean over twins is taken within a seed first, so that its interval is over seeds as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import markdown
from lopsided import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.lab.intervals import over_seeds
from lopsided.lab.protocol import Measured
from lopsided.runs import Run, finished_run, run_folders

RESULT = Path(__file__).parents[1] / "docs" / "findings.json"
# A chain, and the method that is its first link alone.
TWINS = {"cola": "lora", "rac_b": "asym_b", "rac_a": "asym_a", "c3la": "cla", "rc3la": "rcla", "cpaca": "paca"}
EPSILON = 0.5
Diagnosis = dict[str, Any]
# Runs and what was found about each, by method and seed.
Study = Mapping[str, Mapping[int, tuple[Run, Diagnosis]]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a run, and how it is written."""

    title: str
    read: Callable[[Run, Diagnosis], float]
    places: int = 3


def _intruders(which: str) -> Callable[[Run, Diagnosis], float]:
    def read(run: Run, diagnosis: Diagnosis) -> float:
        found = diagnosis["intruders"]
        place = int(np.argmin(np.abs(np.array(found["epsilons"]) - EPSILON)))
        return float(found[which]["mean"][place])

    return read


def score_of(run: Run, split: str) -> float:
    """Return a run's score on a split; NaN where it could not be computed."""
    score = run.metrics[split].score.value
    return float("nan") if score is None else score


FIGURES = {
    "intruders": Figure(title=f"intruders a layer at ε = {EPSILON}, all vectors", read=_intruders("all"), places=1),
    "intruders_top": Figure(title=f"intruders a layer at ε = {EPSILON}, top 10", read=_intruders("top_k"), places=2),
    "hessian_top": Figure(
        title="top Hessian eigenvalue", read=lambda r, d: d["landscape"]["sharpness"]["hessian_top"], places=2
    ),
    "largest": Figure(
        title="largest rise of the loss within the radius", read=lambda r, d: d["landscape"]["sharpness"]["largest"]
    ),
    "norm": Figure(
        title="‖ΔW‖_F, all layers",
        read=lambda r, d: float(np.sqrt(sum(layer["delta"]["frobenius"] ** 2 for layer in d["layers"]))),
        places=2,
    ),
    "gap": Figure(title="test loss - training loss", read=lambda r, d: d["generalization"]["gaps"]["test"]["value"]),
    "test_loss": Figure(title="test loss", read=lambda r, d: d["generalization"]["splits"]["test"]["loss"]),
    "test_score": Figure(title="test score, points", read=lambda r, d: 100 * score_of(r, "test"), places=1),
    "out_of_domain": Figure(
        title="out-of-domain score, points",
        read=lambda r, d: 100 * float(np.mean([score_of(r, name) for name in r.task.out_of_domain])),
        places=1,
    ),
}


def read_study(folders: Sequence[Path]) -> dict[str, dict[int, tuple[Run, Diagnosis]]]:
    """Each method's diagnosed runs, by seed; a method at another learning rate than its own is one for itself.

    Raises:
        LopsidedError: if a run has no diagnosis.
    """
    found: dict[str, dict[int, tuple[Run, Diagnosis]]] = {}
    for folder in folders:
        for path in run_folders(folder):
            run = finished_run(path)
            if run.diagnosis is None:
                why = run.diagnosis_note or "there is none"
                raise LopsidedError(f"expected a diagnosed run, got {path} without diagnosis.json ({why})")
            found.setdefault(label(run), {})[run.seed] = (run, run.diagnosis)
    return found


def label(run: Run) -> str:
    """Return a method's name, and its learning rate where it is not its own."""
    method, rate = run.method, run.learning_rate
    return method.name if rate == method.lr else f"{method.name} at {rate:g}"


def comparisons(study: Study) -> dict[str, dict[str, str]]:
    """Chains and their twins: each at its own learning rate, and at the chain's where the twin was run at it."""
    rates = {name: next(iter(runs.values()))[0].learning_rate for name, runs in study.items()}
    own = {chain: twin for chain, twin in TWINS.items() if chain in study and twin in study}
    equal = {
        chain: found
        for chain, twin in TWINS.items()
        for found in (twin, f"{twin} at {rates.get(chain, 0):g}")
        if chain in study and found in study and rates[found] == rates[chain]
    }
    pairs = {"each at its own learning rate": own, "both at one learning rate": equal}
    return {name: twins for name, twins in pairs.items() if twins}


def measure(study: Study) -> dict[str, Any]:
    """Means and paired differences of every figure."""
    pairs = comparisons(study)
    paired = [set(study[name]) for twins in pairs.values() for pair in twins.items() for name in pair]
    seeds = sorted(set.intersection(*paired)) if paired else []
    if not seeds:
        raise LopsidedError(f"expected a chain and its twin with one seed in common, got {', '.join(study)}; add one")
    result: dict[str, Any] = {"seeds": seeds, "pairs": pairs, "figures": {}}
    for key, figure in FIGURES.items():
        values = {
            name: {seed: figure.read(*run) for seed, run in runs.items()}
            for name, runs in study.items()
            if all(_has(figure, run) for run in runs.values())
        }
        apart = {
            title: {
                chain: np.array([values[chain][seed] - values[twin][seed] for seed in seeds])
                for chain, twin in twins.items()
            }
            for title, twins in pairs.items()
        }
        result["figures"][key] = {
            "title": figure.title,
            "methods": {name: _plain(over_seeds(list(of.values()))) for name, of in values.items()},
            "chain less twin": {
                title: {
                    **{chain: _plain(over_seeds(difference)) for chain, difference in of.items()},
                    "all": _plain(over_seeds(np.mean(list(of.values()), axis=0))),
                }
                for title, of in apart.items()
            },
        }
    return result


def _has(figure: Figure, run: tuple[Run, Diagnosis]) -> bool:
    """Whether a run has the figure; whole-model runs have no layers' factors, and so on."""
    try:
        return np.isfinite(figure.read(*run))
    except (KeyError, TypeError):
        return False


def _plain(found: Measured) -> dict[str, Any]:
    return {"value": found.value, "interval": None if found.interval is None else list(found.interval)}


def tables(result: Mapping[str, Any]) -> str:
    """The means of all methods, and each comparison, as markdown."""
    figures, seeds = result["figures"], ", ".join(map(str, result["seeds"]))
    names = list(dict.fromkeys(name for found in figures.values() for name in found["methods"]))
    means = [
        [found["title"], *(_written(found["methods"].get(name), FIGURES[key].places) for name in names)]
        for key, found in figures.items()
    ]
    parts = [f"Means over seeds {seeds}, with 95 % intervals:", markdown(["figure", *names], means)]
    for title, twins in result["pairs"].items():
        rows = [
            [
                found["title"],
                *(_written(found["chain less twin"][title][name], FIGURES[key].places) for name in (*twins, "all")),
            ]
            for key, found in figures.items()
        ]
        header = ["figure", *(f"`{chain}` less `{twin}`" for chain, twin in twins.items()), "mean of these"]
        parts += [f"Chain less twin, paired by seed, {title}:", markdown(header, rows)]
    return "\n\n".join(parts)


def _written(found: Mapping[str, Any] | None, places: int) -> str:
    if found is None:
        return "–"
    text = f"{found['value']:.{places}f}"
    return text if found["interval"] is None else text + " [{:.{p}f}, {:.{p}f}]".format(*found["interval"], p=places)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes findings.json and prints its tables.")
    parser.add_argument("runs", type=Path, nargs="+", help="diagnosed run directories, or folders of them")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file")
    options = parser.parse_args(arguments)
    try:
        result = measure(read_study(options.runs))
    except LopsidedError as error:
        print(f"findings: {error}", file=sys.stderr)
        return 2
    write_json(options.out, result)
    print(tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
