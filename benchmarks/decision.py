"""Does the decision rule keep its 95 % bound? Studies with known true differences, decided by the rule itself.

    python -m benchmarks.decision [--studies 1000] [--processes 2] [--only TEXT] [--out docs/studies/decision.json]

A row is answered rightly if a sum is positive: the method's level + the row's difficulty, the same for all methods +
what the method makes of the row + the seed's part + the single run's. All but the level are normal, so that the true
share of right answers is known: over all seeds and rows where there are several seeds, and of the very runs where there
is one.
Costs are the worst possible ones: the worse a method truly is, the cheaper.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from benchmarks.writing import markdown
from lopsided.files.atomic import write_json
from lopsided.formatting import number_text
from lopsided.study.decision import MARGIN, above_floor, choose
from lopsided.study.paired_scores import PairedScores, jackknifed_scores, share_scores
from lopsided.tasks import get_metric

RESULT = Path(__file__).parents[1] / "docs" / "studies" / "decision.json"
STUDIES = 1000
BEST = 0.8
# Standard deviations of the sum's parts; two methods then disagree on about 13 % of the rows, as fine-tuned ones do.
OF_ROW, OF_METHOD_AND_ROW, OF_RUN_AND_ROW = 1.0, 0.3, 0.35


@dataclass(frozen=True, kw_only=True)
class World:
    """Studies of one kind.

    Args:
        about: what is special about it.
        methods, seeds, rows: how many.
        behind: by how many points all methods but one are truly worse than that one.
        seed_sd: the standard deviation of a method's true score over seeds, in points.
        unstable: by what factor the best method's is larger.
        floor: by how many points the best method is truly above the floor; None for no floor.
        metric: "accuracy", or "matthews_correlation", whose true value is twice the accuracy minus 1.
    """

    about: str = ""
    methods: int = 5
    seeds: int = 3
    rows: int = 500
    behind: float = 0.0
    seed_sd: float = 0.5
    unstable: float = 1.0
    floor: float | None = None
    metric: str = "accuracy"

    @property
    def scale(self) -> float:
        """Points per hundredth of the accuracy."""
        return 2.0 if self.metric == "matthews_correlation" else 1.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the studies of one kind; shares of them, but for u.

    Args:
        held: the chosen method is truly at most u points worse than the best; of the studies that chose.
        decided: u is within the margin.
        chose: a method is named.
        below_floor: how many studies name a method that is truly below the floor.
        u: its median.
    """

    held: float | None
    decided: float
    chose: float
    below_floor: int
    u: float | None


def worlds() -> Iterator[World]:
    """All kinds of studies."""
    for seeds, rows, behind in product((1, 3, 5, 10), (200, 500, 2000), (0.0, 0.5, 1.0, 3.0)):
        yield World(seeds=seeds, rows=rows, behind=behind)
    for methods, seeds, rows, behind in product((2, 11), (1, 3, 10), (500, 2000), (0.0, 1.0, 3.0)):
        yield World(methods=methods, seeds=seeds, rows=rows, behind=behind)
    yield from ENOUGH
    for methods, seeds, behind in ((2, 3, 1.0), (5, 3, 1.0), (5, 3, 3.0), (11, 3, 3.0), (5, 5, 3.0), (11, 10, 1.0)):
        yield World(about="heavy seed noise", methods=methods, seeds=seeds, rows=2000, behind=behind, seed_sd=3.0)
    for methods, seeds, behind in ((2, 3, 1.0), (3, 3, 3.0), (5, 3, 1.0), (11, 3, 3.0), (5, 5, 1.0), (11, 10, 1.0)):
        unstable = World(about="the best is unstable", methods=methods, seeds=seeds, rows=2000, behind=behind)
        yield replace(unstable, unstable=6.0)
    for floor in (-0.5, -1.0, -3.0):
        for methods, seeds, rows in ((2, 1, 500), (2, 3, 500), (2, 3, 2000), (5, 1, 500), (5, 3, 500), (5, 10, 2000)):
            yield World(about="all below the floor", methods=methods, seeds=seeds, rows=rows, floor=floor)
    for methods in (2, 5):
        yield World(about=HEAVY_BELOW, methods=methods, seeds=3, rows=2000, seed_sd=3.0, floor=-1.0)
    for seeds, rows in ((3, 500), (3, 2000)):
        yield World(about="all as the floor", methods=11, seeds=seeds, rows=rows, floor=0.0)
        yield World(about="one above the floor", methods=11, seeds=seeds, rows=rows, behind=3.0, floor=2.0)
        yield World(about="all above the floor", methods=11, seeds=seeds, rows=rows, behind=1.0, floor=10.0)
    yield World(methods=3, seeds=3, rows=500, behind=1.0, metric="matthews_correlation")


# Three seeds with a standard deviation of three points: here the rule errs, in a few of 1,000 studies.
HEAVY_BELOW = "all below the floor, heavy seed noise"
# Without a true difference, these numbers of seeds and rows decide in at least 80 % of the studies.
ENOUGH = tuple(
    World(about="enough without a difference", methods=methods, seeds=seeds, rows=rows)
    for methods, seeds, rows in ((2, 1, 3000), (5, 1, 5000), (11, 1, 7000), (2, 5, 3000), (5, 10, 2500), (11, 10, 4000))
)


def study(world: World, generator: np.random.Generator) -> tuple[PairedScores, np.ndarray]:
    """Return the scores of one study, and the true ones in points, the floor's last where there is one."""
    points = np.full(world.methods, -world.behind)
    points[0] = 0.0
    spread = np.full(world.methods, world.seed_sd)
    spread[0] *= world.unstable
    if world.floor is not None:
        points, spread = np.append(points, -world.floor), np.append(spread, 0.2)
    shares = BEST + points / 100 / world.scale
    of_seed = _latent(spread / 100 / world.scale)
    others = math.hypot(OF_ROW, OF_METHOD_AND_ROW, OF_RUN_AND_ROW)
    levels = norm.ppf(shares) * np.hypot(others, of_seed)
    shape = (len(shares), world.seeds)
    seeds = levels[:, None] + of_seed[:, None] * generator.standard_normal(shape)
    total = (
        seeds[:, :, None]
        + OF_ROW * generator.standard_normal(world.rows)
        + OF_METHOD_AND_ROW * generator.standard_normal((len(shares), 1, world.rows))
        + OF_RUN_AND_ROW * generator.standard_normal((*shape, world.rows))
    )
    truth = shares if world.seeds > 1 else norm.cdf(seeds[:, 0] / others)
    right = total > 0
    if world.metric == "accuracy":
        return share_scores(right), 100 * truth
    return _matthews(right, generator), 100 * (2 * truth - 1)


def _latent(share_sd: np.ndarray) -> np.ndarray:
    """The standard deviation of the seed's part that moves the share of right answers by this much."""
    others = math.hypot(OF_ROW, OF_METHOD_AND_ROW, OF_RUN_AND_ROW)
    latent: np.ndarray = share_sd * others / norm.pdf(norm.ppf(BEST))
    return latent


def _matthews(right: np.ndarray, generator: np.random.Generator) -> PairedScores:
    labels = np.asarray(generator.integers(0, 2, right.shape[2]))
    runs, metric = right.reshape(-1, right.shape[2]), get_metric("matthews_correlation")

    def score(run: int, index: np.ndarray) -> float:
        """Return the points of a run on some rows."""
        label = labels[index]
        return 100 * metric.of_units({"label": label, "prediction": np.where(runs[run][index], label, 1 - label)})

    return jackknifed_scores(score, (right.shape[0], right.shape[1]), right.shape[2])


def outcome(world: World, studies: int) -> Outcome:
    """Decide so many studies of one kind."""
    generator = np.random.default_rng(0)
    held, decided, below = 0, 0, 0
    bounds: list[float] = []
    for _ in range(studies):
        scores, truth = study(world, generator)
        able, k = list(range(world.methods)), world.methods
        if world.floor is not None:
            able, scores = above_floor(scores), scores.of(able)
        verdict = choose(scores, able, lambda within: min(within, key=lambda method: truth[method]), MARGIN)  # noqa: B023
        if verdict.chosen is None:
            continue
        u = float(verdict.bounds.worse[verdict.chosen])
        bounds.append(u)
        held += bool(truth[:k].max() - truth[verdict.chosen] <= u + 1e-9)
        decided += u <= MARGIN
        below += world.floor is not None and bool(truth[verdict.chosen] < truth[k] - 1e-9)
    return Outcome(
        held=held / len(bounds) if bounds else None,
        decided=decided / studies,
        chose=len(bounds) / studies,
        below_floor=below,
        u=float(np.median(bounds)) if bounds else None,
    )


def table(entries: Sequence[dict[str, Any]]) -> str:
    """The outcomes as a table in Markdown."""
    rows = []
    for entry in entries:
        world, result = World(**entry["world"]), Outcome(**entry["outcome"])
        metric = "" if world.metric == "accuracy" else world.metric.replace("_", " ")
        about = ", ".join(filter(None, [world.about, metric]))
        held, u = number_text(result.held, ".3f"), number_text(result.u, ".2f")
        numbers = [world.methods, world.seeds, f"{world.rows:,}", f"{world.behind:g}"]
        rows.append([*map(str, numbers), about, held, f"{result.decided:.2f}", u, str(result.below_floor)])
    return markdown(
        ["methods", "seeds", "rows", "others behind", "", "bound holds", "decided", "median u", "below the floor"], rows
    )


def _entry(task: tuple[World, int]) -> dict[str, Any]:
    return {"world": asdict(task[0]), "outcome": asdict(outcome(*task))}


def main(arguments: list[str] | None = None) -> int:
    """Simulate all kinds of studies, write the outcomes and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="Kinds of studies whose description has this text.")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    tasks = [(world, options.studies) for world in worlds() if options.only in world.about]
    if options.processes > 1:
        with get_context("spawn").Pool(options.processes) as pool:
            entries = list(pool.imap(_entry, tasks))
    else:
        entries = [_entry(task) for task in tasks]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"studies": options.studies, "margin": MARGIN, "worlds": entries})
    print(table(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
