"""Do chains have more intruders and sharper landscapes than their unchained twins, and do they generalise worse?

    lopsided compare --seeds 0,1,2 --methods lora,cola,asym_b,rac_b,cla,c3la,full --out study
    lopsided diagnose study
    python benchmarks/findings.py study [--out docs/findings.json]

Reads diagnosed run directories and prints, for every figure, each method's mean over seeds, and the difference of each
chain and its twin with the same seed: the same head, the same rows in the same order. An interval is Student's, 95 %,
over seeds; the mean over twins is taken within a seed first, so that its interval is over seeds as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from writing import markdown

from lopsided import LopsidedError
from lopsided.checkpoint import write_json
from lopsided.lab.experiment import Measured, over_seeds
from lopsided.train import read_run
from lopsided.train.rundir import run_folders

RESULT = Path(__file__).parents[1] / "docs" / "findings.json"
# A chain, and the method that is its first link alone.
TWINS = {"cola": "lora", "rac_b": "asym_b", "rac_a": "asym_a", "c3la": "cla", "rc3la": "rcla", "cpaca": "paca"}
EPSILON = 0.5
Record, Diagnosis = dict[str, Any], dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a run, and how it is written."""

    title: str
    read: Callable[[Record, Diagnosis], float]
    places: int = 3


def _intruders(which: str) -> Callable[[Record, Diagnosis], float]:
    def read(record: Record, diagnosis: Diagnosis) -> float:
        found = diagnosis["intruders"]
        place = int(np.argmin(np.abs(np.array(found["epsilons"]) - EPSILON)))
        return float(found[which]["mean"][place])

    return read


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
    "test_score": Figure(title="test score, points", read=lambda r, d: 100 * r["metrics"]["test"]["score"], places=1),
    "out_of_domain": Figure(
        title="out-of-domain score, points",
        read=lambda r, d: 100 * float(np.mean([r["metrics"][name]["score"] for name in r["task"]["out_of_domain"]])),
        places=1,
    ),
}


def read_study(folders: Sequence[Path]) -> dict[str, dict[int, tuple[Record, Diagnosis]]]:
    """Each method's diagnosed runs, by seed.

    Raises:
        LopsidedError: if a run has no diagnosis.
    """
    found: dict[str, dict[int, tuple[Record, Diagnosis]]] = {}
    for folder in folders:
        for run in run_folders(folder):
            record, path = read_run(run), run / "diagnosis.json"
            assert record is not None
            if not path.is_file():
                raise LopsidedError(f"expected a diagnosed run, got {run} without diagnosis.json; lopsided diagnose it")
            of_method = found.setdefault(record["method"]["name"], {})
            of_method[record["config"]["seed"]] = (record, json.loads(path.read_text()))
    return found


def measure(study: Mapping[str, Mapping[int, tuple[Record, Diagnosis]]]) -> dict[str, Any]:
    """Means and paired differences of every figure."""
    twins = {chain: twin for chain, twin in TWINS.items() if chain in study and twin in study}
    paired = [set(study[name]) for pair in twins.items() for name in pair]
    seeds = sorted(set.intersection(*paired)) if paired else []
    if not seeds:
        raise LopsidedError(f"expected a chain and its twin with one seed in common, got {', '.join(study)}; add one")
    result: dict[str, Any] = {"seeds": seeds, "twins": twins, "figures": {}}
    for key, figure in FIGURES.items():
        values = {
            name: {seed: figure.read(*run) for seed, run in runs.items()}
            for name, runs in study.items()
            if all(_has(figure, run) for run in runs.values())
        }
        apart = {
            chain: np.array([values[chain][seed] - values[twin][seed] for seed in seeds])
            for chain, twin in twins.items()
        }
        result["figures"][key] = {
            "title": figure.title,
            "methods": {name: _plain(over_seeds(list(of.values()))) for name, of in values.items()},
            "chain less twin": {chain: _plain(over_seeds(difference)) for chain, difference in apart.items()},
            "all twins": _plain(over_seeds(np.mean(list(apart.values()), axis=0))),
        }
    return result


def _has(figure: Figure, run: tuple[Record, Diagnosis]) -> bool:
    """Whether a run has the figure; whole-model runs have no layers' factors, and so on."""
    try:
        return np.isfinite(figure.read(*run))
    except (KeyError, TypeError):
        return False


def _plain(found: Measured) -> dict[str, Any]:
    return {"value": found.value, "interval": None if found.interval is None else list(found.interval)}


def tables(result: Mapping[str, Any]) -> str:
    """Both tables, as markdown."""
    figures = result["figures"]
    names = list(dict.fromkeys(name for found in figures.values() for name in found["methods"]))
    means = [
        [f"`{name}`", *(_written(found["methods"].get(name), FIGURES[key].places) for key, found in figures.items())]
        for name in names
    ]
    pairs = [
        [
            f"`{chain}` less `{twin}`",
            *(_written(found["chain less twin"][chain], FIGURES[key].places) for key, found in figures.items()),
        ]
        for chain, twin in result["twins"].items()
    ]
    whole = ["all twins", *(_written(found["all twins"], FIGURES[key].places) for key, found in figures.items())]
    header = [found["title"] for found in figures.values()]
    return "\n\n".join(
        [
            f"Means over seeds {', '.join(map(str, result['seeds']))}, with 95 % intervals:",
            markdown(["method", *header], means),
            "Chain less twin, paired by seed:",
            markdown(["twins", *header], [*pairs, whole]),
        ]
    )


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
