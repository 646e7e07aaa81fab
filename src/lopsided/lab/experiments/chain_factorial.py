"""Which of the three things that a released chain does makes it differ from its unchained twin.

Notation: a run has three switches. merged: at the end of a link ΔW joins the weights and a new sketch is drawn, or
neither. reset: the factors' optimizer state is lost then, or kept. frozen: the learning rate stays where the schedule
had it after the first link, or the schedule goes on. The effect of a switch in one seed is the ratio of the geometric
means of a figure with it and without it over the four settings of the other two; of accuracy, the difference of means.

The figures are those of a diagnosis. With `--data` they come from the results of studies/chain-factorial.toml, whose
runs are as long as the paper's; otherwise short runs of the embedded model are trained and diagnosed here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.diagnose import DiagnoseConfig, LandscapeConfig, diagnose_runs
from lopsided.errors import LopsidedError
from lopsided.files.untrusted import parse_json
from lopsided.lab.intervals import over_seeds
from lopsided.lab.mean_lines import bars
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.lab.short_runs import RATE, SHORT, finish_all, load_rows, registered, workspace
from lopsided.method import Method, varied
from lopsided.plotting.svg import Drawing
from lopsided.runs import Run, TrainConfig
from lopsided.runs.record_view import run_of_record
from lopsided.runs.run import finished_run

# The unchained twins, by the chained methods that they are twins of.
TWINS = {"LoRA": "cola", "cLA": "c3la"}
SWITCHES = ("merged", "reset", "frozen")
# Of a study that sweeps the rate, the one that is read: a model as small learns little of many classes at a lower one.
STUDY_RATE = 1e-3
EPSILON = 0.5
# Figures by their words; accuracy is compared by differences, the others by ratios.
INTRUDERS, NORM, SHARPNESS = "intruders", "norm of ΔW", "top Hessian eigenvalue"
GAP, ACCURACY = "G(W)", "test accuracy"

Setting = tuple[bool, bool, bool]
# One run's figures, by twin, seed and setting of the switches.
Figures = dict[str, dict[int, dict[Setting, Mapping[str, float]]]]


@dataclass(frozen=True, kw_only=True)
class Question:
    """An effect and the range in which the claim about it holds, for each twin."""

    switch: str
    figure: str
    low: float | None = None
    high: float | None = None

    def about(self, twin: str) -> Expected:
        """Return the range of one twin."""
        effect = "difference, points" if self.figure == ACCURACY else "ratio"
        return Expected(what=f"{twin}, {self.switch}: {self.figure}, {effect}", low=self.low, high=self.high)


# As they were stated in docs/studies/chain-factorial.md before the study's figures were looked at.
QUESTIONS = (
    Question(switch="frozen", figure=INTRUDERS, low=1.2),
    Question(switch="merged", figure=INTRUDERS, low=1.2),
    Question(switch="reset", figure=INTRUDERS, low=0.8, high=1.25),
    Question(switch="frozen", figure=NORM, low=1.2),
    Question(switch="frozen", figure=SHARPNESS, low=1.2),
    Question(switch="merged", figure=SHARPNESS, low=1.2),
    Question(switch="merged", figure=GAP, low=0.8, high=1.25),
    Question(switch="frozen", figure=ACCURACY, low=2.0),
)


def method_of(twin: str, setting: Setting) -> Method:
    """Return the method of a setting of the switches."""
    merged, reset, frozen = setting
    words = ("merged" if merged else "neither", "reset" if reset else "kept", "frozen" if frozen else "on")
    chain = {"merge": merged, "redraw": merged, "prune": float(reset), "freeze_rate": frozen}
    return varied(TWINS[twin], name="-".join((twin.lower(), *words)), chain=chain)


METHODS_BY_CELL = {
    (twin, setting): method_of(twin, setting)
    for twin in TWINS
    for setting in itertools.product((True, False), (True, False), (True, False))
}


def cell_of(method: Method) -> tuple[str, Setting] | None:
    """Return the twin and the setting of a run's method, whatever its name and the length of its links."""
    for cell, other in METHODS_BY_CELL.items():
        mine, its = method.parts(), other.parts()
        lengths = {"links": None, "every": None}
        same = [mine[part] == its[part] for part in ("train", "sketch", "lr_ratio")]
        if all(same) and mine["chain"] is not None and {**mine["chain"], **lengths} == {**its["chain"], **lengths}:
            return cell
    return None


# -- where the figures come from ---------------------------------------------------------------------------------------


def figures_of(run: Run, diagnosis: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of one run; NaN where the diagnosis has none."""
    layers, intruders = diagnosis["layers"], diagnosis["intruders"]
    # A study keeps the means over layers, a run's own file every layer.
    norms = [layer["delta"]["frobenius"] for layer in (layers if isinstance(layers, list) else [layers])]
    values = {
        INTRUDERS: intruders["all"]["mean"][intruders["epsilons"].index(EPSILON)],
        NORM: np.mean([np.nan if norm is None else norm for norm in norms]),
        SHARPNESS: diagnosis["landscape"]["sharpness"]["hessian_top"],
        GAP: diagnosis["generalization"]["G"]["value"],
        ACCURACY: run.metrics["test"].score.value,
    }
    return {what: np.nan if value is None else float(value) for what, value in values.items()}


def of_study(path: Path) -> tuple[Figures, dict[str, Any]]:
    """Return the figures of the runs in a study's results, and what is to be said of them.

    Raises:
        LopsidedError: for a path that is no file of results, or without a finished and diagnosed run of these methods.
    """
    if not path.is_file():
        raise LopsidedError(f"expected the results of a study, such as results.jsonl, got {path}; pass that file")
    figures: Figures = {}
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        line = parse_json(text, f"{path}, line {number}")
        if line.get("status") != "finished" or line.get("role") != "run" or not line.get("diagnosis"):
            continue
        run = run_of_record(line["record"], {}, path.parent)
        cell = cell_of(run.method)
        if cell is not None and run.learning_rate == STUDY_RATE:
            of_seed = figures.setdefault(cell[0], {}).setdefault(run.seed, {})
            of_seed[cell[1]] = figures_of(run, line["diagnosis"])
    if not figures:
        raise LopsidedError(
            f"{path}: expected finished and diagnosed runs of the methods of studies/chain-factorial.toml at a rate of "
            f"{STUDY_RATE:g}, found none; run `lopsided bench studies/chain-factorial.toml`"
        )
    return figures, {"runs": "those of studies/chain-factorial.toml", "learning rate": STUDY_RATE}


def of_short_runs(request: Request) -> tuple[Figures, dict[str, Any]]:
    """Train the methods shortly on the embedded model and diagnose them; the quick form has LoRA alone."""
    seeds, steps = request.number_of_seeds(quick=2, full=3), request.pick(quick=24, full=60)
    twins = request.pick(quick=("LoRA",), full=tuple(TWINS))
    cells = [cell for cell in METHODS_BY_CELL if cell[0] in twins]
    shared: dict[str, Any] = {**SHORT, "target_modules": "query,value", "task": "vader/movie", "test": True}
    shared |= {"eval_rows": 50, "lr": RATE, "steps": steps, "rank": 8}
    config = DiagnoseConfig(
        only=("generalization", "layers", "intruders", "landscape"),
        landscape=LandscapeConfig(points=2, rows=32, hessian_rows=16, directions="random"),
    )
    figures: Figures = {}
    with workspace() as folder, registered([METHODS_BY_CELL[cell] for cell in cells]):
        plans = []
        for cell, seed in itertools.product(cells, range(seeds)):
            name = METHODS_BY_CELL[cell].name
            plans.append((cell, TrainConfig(**shared, method=name, seed=seed, out=folder / f"{name}-{seed}")))
        data = load_rows(plans[0][1], test=request.pick(quick=200, full=1000))
        finish_all([(each, data) for _, each in plans], request.note)
        for (twin, setting), each in plans:
            diagnosis = diagnose_runs([each.out], config, note=request.note)[each.out]
            of_seed = figures.setdefault(twin, {}).setdefault(each.seed, {})
            of_seed[setting] = figures_of(finished_run(each.out), diagnosis)
    return figures, {
        **{"runs": "short ones", "model": "embedded", "task": "vader/movie", "steps": steps, "rank": 8},
        **{"batch": SHORT["batch_size"], "targets": shared["target_modules"], "learning rate": RATE},
    }


# -- effects -----------------------------------------------------------------------------------------------------------


def whole_seeds(by_seed: Mapping[int, Mapping[Setting, Any]]) -> list[int]:
    """Return the seeds whose runs have all settings of the switches: the others would not be balanced."""
    return sorted(seed for seed, runs in by_seed.items() if len(runs) == 2 ** len(SWITCHES))


def effect(by_seed: Mapping[int, Mapping[Setting, Mapping[str, float]]], switch: str, figure: str) -> Measured:
    """Return the effect of a switch on a figure, with Student's interval over seeds."""
    place, is_ratio = SWITCHES.index(switch), figure != ACCURACY
    by_switch = []
    for seed in whole_seeds(by_seed):
        runs = by_seed[seed]
        means = []
        for state in (True, False):
            values = np.array([figures[figure] for setting, figures in runs.items() if setting[place] is state])
            with np.errstate(divide="ignore", invalid="ignore"):
                means.append(np.log(values).mean() if is_ratio else 100.0 * values.mean())
        by_switch.append(means[0] - means[1])
    if not by_switch:
        return Measured(value=np.nan, why="no seed has all eight runs")
    found = over_seeds(by_switch)
    if not is_ratio or not np.isfinite(found.value):
        return found
    ends = None if found.interval is None else (float(np.exp(found.interval[0])), float(np.exp(found.interval[1])))
    return Measured(value=float(np.exp(found.value)), interval=ends, why=found.why)


def run(request: Request) -> Outcome:
    """Compute every effect, of each twin alone."""
    figures, settings = of_short_runs(request) if request.data is None else of_study(request.data)
    asked = [(question, twin) for twin in TWINS for question in QUESTIONS]
    measured = [effect(figures.get(twin, {}), question.switch, question.figure) for question, twin in asked]
    everything = {
        f"{twin}, {figure}": {switch: effect(by_seed, switch, figure) for switch in SWITCHES}
        for twin, by_seed in figures.items()
        for figure in (INTRUDERS, NORM, SHARPNESS, GAP, ACCURACY)
    }
    seeds = {twin: whole_seeds(by_seed) for twin, by_seed in figures.items()}
    return Outcome(
        measured=measured,
        settings={**settings, "seeds with all eight runs": seeds, "ε": EPSILON, "intervals": "over seeds"},
        details={"effects": everything},
        plots=[_drawing(twin, everything) for twin in figures],
    )


def _drawing(twin: str, effects: Mapping[str, Mapping[str, Measured]]) -> Drawing:
    shown: Iterable[str] = (INTRUDERS, NORM, SHARPNESS, GAP)
    return Drawing(
        name=f"effects-{twin.lower()}",
        title=f"What each switch multiplies a figure of {twin} by, with the 95 % interval over seeds",
        x="figure",
        y="ratio, with the switch over without it",
        lines=[bars(switch, {figure: effects[f"{twin}, {figure}"][switch] for figure in shown}) for switch in SWITCHES],
        log="y",
    )


EXPERIMENT = Experiment(
    name="chain-factorial",
    claim=(
        "Chains of the released code have more intruders, larger updates and sharper landscapes because their rate is "
        "frozen; merging with a new sketch adds to both, the optimizer's reset does not, and the gap stays."
    ),
    meaning=(
        "Where a chain and its twin differ, look at the learning rate of the last links first. What a merge, a reset "
        "or a frozen rate does by itself is a setting of `Chain`."
    ),
    source="Cadenhead et al. 2026, arXiv:2606.13767, and the code released with it",
    expected=tuple(question.about(twin) for twin in TWINS for question in QUESTIONS),
    run=run,
    takes_data=True,
    place=145,
)
