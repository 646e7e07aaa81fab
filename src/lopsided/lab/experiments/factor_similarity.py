"""Which of LoRA's factors remembers the task, and which its first values.

Notation: d the width of query, key and value layers, A of (r, d) and B of (d, r), trained on a task from a start, which
is the run's seed: A's first values, the head's, and the order of rows. Other layers are trained along. Q_X is an
orthonormal basis of the columns of X, and two factors are as similar as

    ‖Q_Xᵀ·Q_Y‖_F² / min(rank X, rank Y),

1 for equal column spaces, 0 for orthogonal ones, r/d on average for random ones. B is compared by its columns and A by
those of Aᵀ, layer by layer; a pair of runs gets the mean over layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lopsided.lab.intervals import over_seeds
from lopsided.lab.protocol import Expected, Experiment, Outcome, Plot, Request
from lopsided.lab.short_runs import RATE, SHORT, bars, finish_all, load_rows, trained_factors, workspace
from lopsided.runs import TrainConfig
from lopsided.theory.subspaces import basis, similarity

DOMAINS = ("movie", "amazon", "nyt", "tweets")
COMPARED = ("query", "key", "value")
RANK, WIDTH = 8, 384
CHANCE = RANK / WIDTH

# A run's name: its domain and its seed.
Name = tuple[str, int]
Pairs = Mapping[tuple[Name, Name], float]
GROUPS: dict[str, Callable[[Name, Name], bool]] = {
    "same task, other start": lambda a, b: a[0] == b[0] and a[1] != b[1],
    "other task, same start": lambda a, b: a[0] != b[0] and a[1] == b[1],
    "other task, other start": lambda a, b: a[0] != b[0] and a[1] != b[1],
}
SAME_TASK, SAME_START, NOTHING_SAME = GROUPS


def between_runs(bases: Mapping[Name, Sequence[np.ndarray]]) -> dict[tuple[Name, Name], float]:
    """The mean similarity over layers, of every ordered pair of runs."""
    return {
        (a, b): float(np.mean([similarity(Q, R) for Q, R in zip(bases[a], bases[b], strict=True)]))
        for a in bases
        for b in bases
        if a != b
    }


def bases_of(layers: Mapping[str, Mapping[str, np.ndarray]], letter: str) -> list[np.ndarray]:
    """What is compared of a run's factors: columns of B or of Aᵀ, in the layers of one width."""
    compared = [factors[letter] for module, factors in layers.items() if module.endswith(COMPARED)]
    return [basis(X if letter == "B" else X.T) for X in compared]


def by_domain(pairs: Pairs, group: str) -> np.ndarray:
    """The mean over the pairs of a group that begin in a domain: one number a domain."""
    found: dict[str, list[float]] = {}
    for (a, b), value in pairs.items():
        if GROUPS[group](a, b):
            found.setdefault(a[0], []).append(value)
    return np.array([np.mean(values) for _, values in sorted(found.items())])


def random_pairs(count: int = 200) -> np.ndarray:
    """The similarity of Gaussian matrices, which is that of uniformly random subspaces."""
    draw = np.random.RandomState(0)
    return np.array([similarity(*(basis(draw.standard_normal((WIDTH, RANK))) for _ in "QR")) for _ in range(count)])


def run(request: Request) -> Outcome:
    # One seed has no other start to be compared with.
    seeds, steps = max(2, request.number_of_seeds(quick=2, full=3)), request.pick(quick=40, full=60)
    shared = {**SHORT, "method": "lora", "rank": RANK, "steps": steps, "lr": RATE}
    with workspace() as folder:
        asked = []
        for domain in DOMAINS:
            configs = [
                TrainConfig(**shared, task=f"vader/{domain}", seed=seed, out=folder / f"{domain}-seed{seed}")
                for seed in range(seeds)
            ]
            data = load_rows(configs[0], validation=100)
            asked += [(config, data) for config in configs]
        runs = finish_all(asked, request.note)
        names = [(config.task.removeprefix("vader/"), config.seed) for config, _ in asked]
        factors = {name: trained_factors(made.folder) for name, made in zip(names, runs, strict=True)}
    pairs = {
        letter: between_runs({name: bases_of(layers, letter) for name, layers in factors.items()}) for letter in "BA"
    }
    found = {letter: {group: by_domain(pairs[letter], group) for group in GROUPS} for letter in pairs}
    chance = random_pairs()
    losses = {f"{domain}, seed {seed}": made.loss("validation") for (domain, seed), made in zip(names, runs)}
    return Outcome(
        measured=[
            over_seeds(found["B"][SAME_TASK] - found["B"][NOTHING_SAME]),
            over_seeds(found["B"][SAME_TASK] / CHANCE),
            over_seeds(found["A"][SAME_START] - found["A"][NOTHING_SAME]),
            over_seeds(found["A"][NOTHING_SAME] / CHANCE),
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
                letter: {group: values.mean() for group, values in of.items()} for letter, of in found.items()
            },
            "random pairs": chance.mean(),
            "r/d": CHANCE,
            "validation loss": losses,
        },
        plots=[
            Plot(
                name="similarity",
                title="Similarity of two runs' factors, mean over layers and tasks with its 95 % interval",
                x="what the two runs share",
                y="‖QᵀR‖² / r",
                lines=[
                    bars(
                        letter,
                        {
                            **{group.replace(", ", ",\n"): over_seeds(of) for group, of in found[letter].items()},
                            "random pairs": over_seeds(chance),
                        },
                    )
                    for letter in ("B", "A")
                ],
                log="y",
            )
        ],
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
)
