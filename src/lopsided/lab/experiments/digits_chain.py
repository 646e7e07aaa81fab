"""Digits 0-4 to digits 5-9 with adapters of rank 1: what a chain of merges adds to one adapter.

Notation: a ReLU network is trained on the digits 0-4, and its adapters then on 5-9 with the same five outputs. There is
ΔW = B·A at all three layers, r = 1, alpha = 1, biases frozen. The sketched factor is N(0, 1) and the other begins at
zero; a link is some epochs of a fresh AdamW, a merge ends it.

    asym    trains the factor that begins at zero, without merges       lora    trains both, without merges
    rac     the same with merges, and a new sketch after each           cola    both, with merges
    c3la    rac with windows, one column after the other, for sketches  cpaca   rac with random columns

Without data, scikit-learn's digits of 8 x 8 pixels take the place of MNIST, with an MLP 64-64-64-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lopsided.lab.batched_mlp import Factors, FreshAdamW, Networks, Recipe, accuracy, merge, new_networks, train
from lopsided.lab.digit_halves import Digits, built_in, from_folder
from lopsided.lab.intervals import over_seeds
from lopsided.lab.mean_lines import mean_line
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.method.dense import Gaussian
from lopsided.method.selectors import Columns, Window
from lopsided.method.sketch import Sketch, layer_seed
from lopsided.plotting.svg import Drawing

Letter = Literal["A", "B"]

PERIODS = (1, 2, 5, 10)
# The period for which the claim is tested: the paper merges "every few epochs".
PERIOD = 2
SIDES: dict[Letter, str] = {"B": "A Gaussian, B from zero", "A": "B Gaussian, A from zero"}
HIDDEN, CLASSES = 64, 5
# Per cent on MNIST, of Table 3.
PAPER = {
    **{"full": 98.0, "lora B": 83.8, "cola B": 92.6, "asym B": 62.3, "rac B": 92.0},
    **{"lora A": 87.0, "cola A": 96.2, "asym A": 81.6, "rac A": 96.1},
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One method, as data.

    Args:
        side: the factor that begins at zero; the other is the sketch.
        both: whether the sketched factor is trained too.
        every: epochs from merge to merge; None for no merge.
    """

    name: str
    side: Letter
    both: bool
    every: int | None
    sketch: Sketch

    @property
    def words(self) -> str:
        """The way as result.json names it."""
        return f"{self.name} {self.side}" + (f" every {self.every}" if self.every else "")

    def trains(self, letter: Letter) -> bool:
        """Return whether a factor is trained."""
        return self.both or self.side == letter

    def link_begun(self, epoch: int) -> int | None:
        """Return the link that begins with an epoch, after the first link; None if none does."""
        return None if epoch == 0 or self.every is None or epoch % self.every else epoch // self.every


def ways() -> list[Way]:
    """Return all methods, with each period where there are merges."""
    listed = []
    for side in SIDES:
        listed += [Way(name="lora", side=side, both=True, every=None, sketch=Gaussian(std=1.0))]
        listed += [Way(name="asym", side=side, both=False, every=None, sketch=Gaussian(std=1.0))]
        for every in PERIODS:
            listed += [Way(name="cola", side=side, both=True, every=every, sketch=Gaussian(std=1.0))]
            listed += [Way(name="rac", side=side, both=False, every=every, sketch=Gaussian(std=1.0))]
    for every in PERIODS:
        listed += [Way(name="c3la", side="B", both=False, every=every, sketch=Window("cyclic"))]
        listed += [Way(name="cpaca", side="B", both=False, every=every, sketch=Columns())]
    return listed


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Test accuracy on the digits 5-9, in per cent: of each way, of full fine-tuning, and of the base.

    Shapes:
        each: (seeds,)
    """

    by_way: Mapping[Way, np.ndarray]
    full: np.ndarray
    base: np.ndarray

    def of(self, name: str, side: Letter, every: int | None) -> np.ndarray:
        """Return the accuracies of the way with that name, side and period."""
        key = (name, side, every)
        return next(values for way, values in self.by_way.items() if (way.name, way.side, way.every) == key)

    def differences(self, side: Letter) -> list[Measured]:
        """Return the claim's figures on one side: LoRA - asym, RAC - LoRA, full - RAC, RAC - asym."""
        asym, lora, rac = self.of("asym", side, None), self.of("lora", side, None), self.of("rac", side, PERIOD)
        return [over_seeds(points) for points in (lora - asym, rac - lora, self.full - rac, rac - asym)]


def set_sketch(factors: Factors, run: int, way: Way, *, seed: int, link: int) -> None:
    """Draw a fresh sketched factor for one run, and clear the other factor."""
    for layer, (A, B) in enumerate(zip(factors.A, factors.B)):
        sketched, other = (A[run], B[run]) if way.side == "B" else (B[run].mT, A[run])
        r, d = sketched.shape
        S = way.sketch.sample(r, d, seed=layer_seed(seed, f"layers.{layer}"), link=link)
        sketched.copy_(torch.from_numpy(S))
        other.zero_()


def adapt_all(
    base: Networks,
    digits: Digits,
    recipe: Recipe,
    seeds: Sequence[int],
    listed: Sequence[Way],
    note: Callable[[str], None] = lambda text: None,
) -> Tensor:
    """Return the test accuracy on digits 5-9 of each way and seed: (ways, S), in per cent."""
    count = len(seeds)
    networks = base.take([s for _ in listed for s in range(count)])
    factors = zero_factors(networks)
    runs = [(way, seed) for way in listed for seed in seeds]
    for run, (way, seed) in enumerate(runs):
        set_sketch(factors, run, way, seed=seed, link=0)

    def before_epoch(epoch: int, optimizer: FreshAdamW) -> None:
        links = [way.link_begun(epoch) for way, _ in runs]
        ends = torch.tensor([link is not None for link in links])
        # In this order: the merge needs the factors of the link that ends.
        merge(networks, factors, ends)
        optimizer.restart(ends)
        with torch.no_grad():
            for run, ((way, seed), link) in enumerate(zip(runs, links)):
                if link is not None:
                    set_sketch(factors, run, way, seed=seed, link=link)
        if epoch % 10 == 0:
            note(f"epoch {epoch} of {recipe.epochs}")

    trains_A, trains_B = (torch.tensor([way.trains(letter) for way, _ in runs]) for letter in ("A", "B"))
    masks = [trains_A] * len(factors.A) + [trains_B] * len(factors.B)
    x, y, rows = digits.x, digits.y, digits.train[1]
    train(networks, factors, masks, recipe, x=x, y=y, rows=rows, seed=1, before_epoch=before_epoch)
    merge(networks, factors, torch.ones(len(runs), dtype=torch.bool))
    return accuracy(networks, digits.x, digits.y, digits.test[1]).reshape(len(listed), count)


def zero_factors(networks: Networks) -> Factors:
    """Return factors of rank 1 that are zero."""
    return Factors(
        A=[torch.zeros(len(W), 1, W.shape[2]) for W in networks.W],
        B=[torch.zeros(len(W), W.shape[1], 1) for W in networks.W],
    )


def tune_all(base: Networks, digits: Digits, recipe: Recipe) -> Tensor:
    """Return the test accuracy on digits 5-9 of full fine-tuning: (S,)"""
    count = len(base.W[0])
    networks = base.take(range(count))
    everywhere = [torch.ones(count, dtype=torch.bool)] * len(networks.parameters)
    train(networks, None, everywhere, recipe, x=digits.x, y=digits.y, rows=digits.train[1], seed=1)
    return accuracy(networks, digits.x, digits.y, digits.test[1])


def pretrain(digits: Digits, recipe: Recipe, seeds: Sequence[int]) -> Networks:
    """Return a network for each seed, trained on the digits 0-4."""
    networks = new_networks((digits.x.shape[1], HIDDEN, HIDDEN, CLASSES), seeds)
    everywhere = [torch.ones(len(seeds), dtype=torch.bool)] * len(networks.parameters)
    train(networks, None, everywhere, recipe, x=digits.x, y=digits.y, rows=digits.train[0], seed=0)
    return networks


def plan(request: Request) -> tuple[range, Digits, Recipe]:
    """Return the seeds, the images and the recipe for a request."""
    if request.data is None:
        seeds = range(request.number_of_seeds(quick=5, full=20))
        return seeds, built_in(seeds), Recipe(lr=2e-3, batch=32, epochs=50)
    seeds = range(request.number_of_seeds(quick=1, full=3))
    epochs = request.pick(quick=10, full=50)
    return seeds, from_folder(request.data, seeds), Recipe(lr=2e-4, batch=128, epochs=epochs, dropout=0.1)


def run(request: Request) -> Outcome:
    """Pretrain on one half of the digits, and adapt to the other half in every way."""
    seeds, digits, recipe = plan(request)
    base = pretrain(digits, recipe, seeds)
    request.note("pretrained")
    full, listed = tune_all(base, digits, recipe), ways()
    request.note("tuned in full")
    by_way = dict(zip(listed, adapt_all(base, digits, recipe, seeds, listed, request.note).numpy()))
    accuracies = Accuracies(
        by_way=by_way,
        full=full.numpy(),
        base=accuracy(base, digits.x, digits.y, digits.test[1]).numpy(),
    )
    return Outcome(
        measured=[*accuracies.differences("B"), *accuracies.differences("A")],
        settings={
            "data": "scikit-learn's digits" if request.data is None else "IDX files",
            "network": [digits.x.shape[1], HIDDEN, HIDDEN, CLASSES],
            **{"seeds": len(seeds), "rank": 1, "alpha": 1, "lr": recipe.lr, "batch": recipe.batch},
            **{"epochs": recipe.epochs, "dropout": recipe.dropout, "merge every": PERIOD},
        },
        details={
            "accuracy before adapting": over_seeds(accuracies.base),
            "accuracy": {
                **{way.words: over_seeds(values) for way, values in by_way.items()},
                "full": over_seeds(accuracies.full),
            },
            "paper, on MNIST": PAPER,
        },
        plots=[_methods_drawing(accuracies), _periods_drawing(accuracies)],
    )


def _methods_drawing(accuracies: Accuracies) -> Drawing:
    lines = []
    for side, words in SIDES.items():
        runs = [accuracies.of(name, side, None) for name in ("asym", "lora")]
        runs += [accuracies.of(name, side, PERIOD) for name in ("rac", "cola")]
        points = np.stack([*runs, accuracies.full], axis=1)
        lines.append(mean_line(words, ["asym", "lora", "rac", "cola", "full"], points, "bars"))
    title = f"Accuracy on the digits 5-9, merges every {PERIOD} epochs; mean and 95 % interval over seeds"
    return Drawing(name="methods", title=title, x="method", y="test accuracy (%)", lines=lines)


def _periods_drawing(accuracies: Accuracies) -> Drawing:
    lines = []
    for name, side in dict.fromkeys((way.name, way.side) for way in accuracies.by_way if way.every is not None):
        runs = np.stack([accuracies.of(name, side, every) for every in PERIODS], axis=1)
        lines.append(mean_line(f"{name}, {side} from zero", list(PERIODS), runs))
    full = np.stack([accuracies.full] * len(PERIODS), axis=1)
    lines.append(mean_line("full", list(PERIODS), full, "dashed"))
    title = "What the period of the merges does; mean and 95 % interval over seeds"
    return Drawing(name="periods", title=title, x="epochs a link", y="test accuracy (%)", lines=lines, log="x")


def expected(side: Letter, *, lora: float, rac: float, full: float) -> tuple[Expected, ...]:
    """Return the ranges of one side, from the paper's differences in points: each method and the one before it."""
    where = f"points, {SIDES[side]}, mean over seeds"
    # The whole step from one adapter to a chain must be half of what it is in the paper.
    whole = round(lora + rac, 1)
    return (
        Expected(what=f"LoRA less asymmetric LoRA, {where}", low=0, paper=lora),
        Expected(what=f"RAC less LoRA, {where}", low=0, paper=rac),
        Expected(what=f"full less RAC, {where}", low=0, paper=full),
        Expected(what=f"RAC less asymmetric LoRA, {where}", low=round(whole / 2), paper=whole),
    )


EXPERIMENT = Experiment(
    name="digits-chain",
    claim="At rank 1, on either side, asymmetric LoRA is below LoRA, LoRA below RAC-LoRA, RAC-LoRA below full.",
    meaning=(
        "If a task needs more than one low-rank update can hold, a chain of merges with a fresh random factor wins "
        "back most of what the small rank costs. Short links help as long as each has the time to learn something."
    ),
    source="Malinovsky et al. 2024, arXiv:2410.08305, Table 3",
    expected=(
        *expected("B", lora=21.5, rac=8.2, full=6.0),
        *expected("A", lora=5.4, rac=9.1, full=1.9),
    ),
    run=run,
    takes_data=True,
    place=60,
)
