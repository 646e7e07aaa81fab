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
Diagnosis = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DiagnosedRun:
    """A finished run and what `lopsided diagnose` says of it."""

    run: Run
    diagnosis: Diagnosis

    @property
    def label(self) -> str:
        """The method, with its learning rate where that is not the method's own."""
        method, rate = self.run.method, self.run.learning_rate
        return method.name if rate == method.lr else f"{method.name} at {rate:g}"


# Each method's runs, by seed.
Study = Mapping[str, Mapping[int, DiagnosedRun]]


@dataclass(frozen=True, kw_only=True)
class RunFigure:
    """One figure of a run, and how it is written."""

    title: str
    read: Callable[[Run, Diagnosis], float]
    places: int = 3

    def of(self, diagnosed: DiagnosedRun) -> float:
        """Return the figure of a run."""
        return self.read(diagnosed.run, diagnosed.diagnosis)


def _intruders(which: str) -> Callable[[Run, Diagnosis], float]:
    def read(run: Run, diagnosis: Diagnosis) -> float:
        intruders = diagnosis["intruders"]
        place = int(np.argmin(np.abs(np.array(intruders["epsilons"]) - EPSILON)))
        return float(intruders[which]["mean"][place])

    return read


def _score(run: Run, splits: Sequence[str]) -> float:
    """The mean score of splits, in points."""
    return 100 * float(np.mean([np.nan if (s := run.metrics[name].score.value) is None else s for name in splits]))


FIGURES = {
    "intruders": RunFigure(title=f"intruders a layer at ε = {EPSILON}, all vectors", read=_intruders("all"), places=1),
    "intruders_top": RunFigure(title=f"intruders a layer at ε = {EPSILON}, top 10", read=_intruders("top_k"), places=2),
    "hessian_top": RunFigure(
        title="top Hessian eigenvalue", read=lambda r, d: d["landscape"]["sharpness"]["hessian_top"], places=2
    ),
    "largest": RunFigure(
        title="largest rise of the loss within the radius", read=lambda r, d: d["landscape"]["sharpness"]["largest"]
    ),
    "norm": RunFigure(
        title="‖ΔW‖_F, all layers",
        read=lambda r, d: float(np.sqrt(sum(layer["delta"]["frobenius"] ** 2 for layer in d["layers"]))),
        places=2,
    ),
    "gap": RunFigure(title="test loss - training loss", read=lambda r, d: d["generalization"]["gaps"]["test"]["value"]),
    "test_loss": RunFigure(title="test loss", read=lambda r, d: d["generalization"]["splits"]["test"]["loss"]),
    "test_score": RunFigure(title="test score, points", read=lambda r, d: _score(r, ["test"]), places=1),
    "out_of_domain": RunFigure(
        title="out-of-domain score, points",
        read=lambda r, d: _score(r, r.task.out_of_domain),
        places=1,
    ),
}


def read_study(folders: Sequence[Path]) -> dict[str, dict[int, DiagnosedRun]]:
    """Read each method's diagnosed runs, by seed; a method at another learning rate than its own counts as another.

    Raises:
        LopsidedError: if a run is not finished, or has no diagnosis.
    """
    study: dict[str, dict[int, DiagnosedRun]] = {}
    for path in [path for folder in folders for path in run_folders(folder)]:
        run = finished_run(path)
        if run.diagnosis is None:
            why = run.diagnosis_note or "there is none"
            raise LopsidedError(f"expected a diagnosed run, got {path} without diagnosis.json ({why})")
        diagnosed = DiagnosedRun(run=run, diagnosis=run.diagnosis)
        study.setdefault(diagnosed.label, {})[run.seed] = diagnosed
    return study


def comparisons(study: Study) -> dict[str, dict[str, str]]:
    """Pair chains with their twins: each at its own learning rate, and at the chain's where the twin was run at it."""
    rates = {name: next(iter(runs.values())).run.learning_rate for name, runs in study.items()}
    own = {chain: twin for chain, twin in TWINS.items() if chain in study and twin in study}
    equal = {
        chain: label
        for chain, twin in TWINS.items()
        for label in (twin, f"{twin} at {rates.get(chain, 0):g}")
        if chain in study and label in study and rates[label] == rates[chain]
    }
    pairs = {"each at its own learning rate": own, "both at one learning rate": equal}
    return {name: twins for name, twins in pairs.items() if twins}


def measure(study: Study) -> dict[str, Any]:
    """Return the means and paired differences of every figure, as findings.json holds them."""
    pairs = comparisons(study)
    paired = [set(study[name]) for twins in pairs.values() for pair in twins.items() for name in pair]
    seeds = sorted(set.intersection(*paired)) if paired else []
    if not seeds:
        raise LopsidedError(f"expected a chain and its twin with one seed in common, got {', '.join(study)}; add one")
    result: dict[str, Any] = {"seeds": seeds, "pairs": pairs, "figures": {}}
    for key, figure in FIGURES.items():
        values = {
            name: {seed: figure.of(run) for seed, run in runs.items()}
            for name, runs in study.items()
            if all(_has(figure, run) for run in runs.values())
        }
        result["figures"][key] = {
            "title": figure.title,
            "methods": {name: _plain(over_seeds(list(of.values()))) for name, of in values.items()},
            "chain less twin": {title: _differences(values, twins, seeds) for title, twins in pairs.items()},
        }
    return result


def _differences(
    values: Mapping[str, Mapping[int, float]], twins: Mapping[str, str], seeds: Sequence[int]
) -> dict[str, Any]:
    """Chain minus twin, paired by seed: of each pair, and the mean over pairs."""
    apart = {
        chain: np.array([values[chain][seed] - values[twin][seed] for seed in seeds]) for chain, twin in twins.items()
    }
    return {
        **{chain: _plain(over_seeds(difference)) for chain, difference in apart.items()},
        # Within a seed first, so that its interval is over seeds as well.
        "all": _plain(over_seeds(np.mean(list(apart.values()), axis=0))),
    }


def _has(figure: RunFigure, run: DiagnosedRun) -> bool:
    """Whether a run has the figure; whole-model runs have no layers' factors, and so on."""
    try:
        return bool(np.isfinite(figure.of(run)))
    except (KeyError, TypeError):
        return False


def _plain(figure: Measured) -> dict[str, Any]:
    return {"value": figure.value, "interval": None if figure.interval is None else list(figure.interval)}


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
        header = ["figure", *(f"`{chain}` minus `{twin}`" for chain, twin in twins.items()), "mean of these"]
        parts += [f"Chain minus twin, paired by seed, {title}:", markdown(header, rows)]
    return "\n\n".join(parts)


def _written(found: Mapping[str, Any] | None, places: int) -> str:
    if found is None:
        return "–"
    text = f"{found['value']:.{places}f}"
    return text if found["interval"] is None else text + " [{:.{p}f}, {:.{p}f}]".format(*found["interval"], p=places)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write findings.json, and print its tables."""
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
