"""Which of LoRA's factors remembers the task, and which its first values.

Notation: d the width of query, key and value layers, A of (r, d) and B of (d, r), trained on a task from a start, which
is the run's seed: A's first values, the head's, and the order of rows. Other layers are trained, too. Q_X is an
orthonormal basis of the columns of X, and two factors are as similar as

    ‖Q_Xᵀ·Q_Y‖_F² / min(rank X, rank Y),

1 for equal column spaces, 0 for orthogonal ones, r/d on average for random ones. B is compared by its columns and A by
those of Aᵀ, layer by layer; a pair of runs gets the mean over layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lopsided.lab.intervals import over_seeds
from lopsided.lab.mean_lines import bars
from lopsided.lab.protocol import Expected, Experiment, Outcome, Request
from lopsided.lab.short_runs import RATE, SHORT, ShortRun, finish_all, load_rows, trained_factors, workspace
from lopsided.plotting.svg import Drawing, Trace
from lopsided.runs import TrainConfig
from lopsided.theory.subspaces import basis, similarity

DOMAINS = ("movie", "amazon", "nyt", "tweets")
COMPARED = ("query", "key", "value")
RANK, WIDTH = 8, 384
CHANCE = RANK / WIDTH

Letter = Literal["A", "B"]
# A run's name: its domain and its seed.
Name = tuple[str, int]
# What a run learned, by module and letter.
Learnt = Mapping[str, Mapping[str, np.ndarray]]
Pairs = Mapping[tuple[Name, Name], float]
GROUPS: dict[str, Callable[[Name, Name], bool]] = {
    "same task, other start": lambda a, b: a[0] == b[0] and a[1] != b[1],
    "other task, same start": lambda a, b: a[0] != b[0] and a[1] == b[1],
    "other task, other start": lambda a, b: a[0] != b[0] and a[1] != b[1],
}
SAME_TASK, SAME_START, NOTHING_SAME = GROUPS


def between_runs(bases: Mapping[Name, Sequence[np.ndarray]]) -> dict[tuple[Name, Name], float]:
    """Return the mean similarity over layers, of every ordered pair of runs."""
    return {
        (a, b): float(np.mean([similarity(Q, R) for Q, R in zip(bases[a], bases[b], strict=True)]))
        for a in bases
        for b in bases
        if a != b
    }


def bases_of(layers: Learnt, letter: Letter) -> list[np.ndarray]:
    """Return bases of a run's factors: of the columns of B or of Aᵀ, in the layers of one width."""
    factors = [of_layer[letter] for module, of_layer in layers.items() if module.endswith(COMPARED)]
    return [basis(X if letter == "B" else X.T) for X in factors]


def by_domain(pairs: Pairs, group: str) -> np.ndarray:
    """Return the mean over the pairs of a group that begin in a domain: one number per domain."""
    domains: dict[str, list[float]] = {}
    for (a, b), value in pairs.items():
        if GROUPS[group](a, b):
            domains.setdefault(a[0], []).append(value)
    return np.array([np.mean(values) for _, values in sorted(domains.items())])


def random_pairs(count: int = 200) -> np.ndarray:
    """Return similarities of Gaussian matrices, which are those of uniformly random subspaces."""
    draw = np.random.RandomState(0)
    return np.array([similarity(*(basis(draw.standard_normal((WIDTH, RANK))) for _ in "QR")) for _ in range(count)])


@dataclass(frozen=True, kw_only=True)
class Similarities:
    """How alike the runs' factors are.

    Args:
        groups: for each letter and group of pairs, the mean of each domain.
        chance: of random pairs.

    Shapes:
        groups: (domains,) each; chance: (pairs,)
    """

    groups: Mapping[Letter, Mapping[str, np.ndarray]]
    chance: np.ndarray

    def bars_of(self, letter: Letter) -> Trace:
        """Return a factor's bars: the mean of each group, and of random pairs."""
        means = {group.replace(", ", ",\n"): over_seeds(values) for group, values in self.groups[letter].items()}
        return bars(letter, {**means, "random pairs": over_seeds(self.chance)})


def compare_runs(factors: Mapping[Name, Learnt]) -> Similarities:
    """Compare the factors of every pair of runs."""
    groups: dict[Letter, dict[str, np.ndarray]] = {}
    letters: tuple[Letter, ...] = ("B", "A")
    for letter in letters:
        pairs = between_runs({name: bases_of(layers, letter) for name, layers in factors.items()})
        groups[letter] = {group: by_domain(pairs, group) for group in GROUPS}
    return Similarities(groups=groups, chance=random_pairs())


def train_all(folder: Path, *, seeds: int, steps: int, note: Callable[[str], None]) -> dict[Name, ShortRun]:
    """Train LoRA on every domain from every start."""
    shared = {**SHORT, "method": "lora", "rank": RANK, "steps": steps, "lr": RATE}
    plans, names = [], []
    for domain in DOMAINS:
        configs = [
            TrainConfig(**shared, task=f"vader/{domain}", seed=seed, out=folder / f"{domain}-seed{seed}")
            for seed in range(seeds)
        ]
        data = load_rows(configs[0], validation=100)
        plans += [(config, data) for config in configs]
        names += [(domain, seed) for seed in range(seeds)]
    return dict(zip(names, finish_all(plans, note), strict=True))


def run(request: Request) -> Outcome:
    """Train LoRA on four domains from several starts, and compare the factors of all pairs of runs."""
    # One seed has no other start to be compared with.
    seeds, steps = max(2, request.number_of_seeds(quick=2, full=3)), request.pick(quick=40, full=60)
    with workspace() as folder:
        runs = train_all(folder, seeds=seeds, steps=steps, note=request.note)
        similarities = compare_runs({name: trained_factors(short.folder) for name, short in runs.items()})
    B, A = similarities.groups["B"], similarities.groups["A"]
    return Outcome(
        measured=[
            over_seeds(B[SAME_TASK] - B[NOTHING_SAME]),
            over_seeds(B[SAME_TASK] / CHANCE),
            over_seeds(A[SAME_START] - A[NOTHING_SAME]),
            over_seeds(A[NOTHING_SAME] / CHANCE),
        ],
        settings={
            "model": "embedded",
            "tasks": [f"vader/{domain}" for domain in DOMAINS],
            "seeds": seeds,
            "steps": steps,
            "batch": SHORT["batch_size"],
            "rank": RANK,
            "width": WIDTH,
            "layers compared": list(COMPARED),
            "learning rate": RATE,
            "intervals": "over the four tasks",
        },
        details={
            "similarity": {
                letter: {group: values.mean() for group, values in groups.items()}
                for letter, groups in similarities.groups.items()
            },
            "random pairs": similarities.chance.mean(),
            "r/d": CHANCE,
            "validation loss": {
                f"{domain}, seed {seed}": short.loss("validation") for (domain, seed), short in runs.items()
            },
        },
        plots=[_similarity_drawing(similarities)],
    )


def _similarity_drawing(similarities: Similarities) -> Drawing:
    return Drawing(
        name="similarity",
        title="Similarity of two runs' factors, mean over layers and tasks with its 95 % interval",
        x="what the two runs share",
        y="‖QᵀR‖² / r",
        lines=[similarities.bars_of("B"), similarities.bars_of("A")],
        log="y",
    )


EXPERIMENT = Experiment(
    name="factor-similarity",
    claim="LoRA's learned B's agree between seeds on one task and differ between tasks; its A's follow their start.",
    meaning=(
        "B is where the task goes, while A hardly leaves the random values that it was given. So a random A that never "
        "learns gives little away, and its gradient, optimizer state and bytes can be saved."
    ),
    source="Zhu et al. 2024, arXiv:2402.16842, Figure 1",
    expected=(
        Expected(
            what="B: similarity on one task less that on different ones, starts different; at least chance, r/d",
            low=CHANCE,
        ),
        Expected(what="B: similarity on one task, starts different, as a multiple of chance", low=2.0),
        Expected(what="A: similarity from one start less that from different ones, tasks different", low=0.5),
        Expected(what="A: similarity from different starts, as a multiple of chance", low=0.5, high=2.0),
    ),
    run=run,
    place=100,
)
