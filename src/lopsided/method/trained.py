"""The sides that a method can train: B, A, both factors, one of them by a coin, the whole model, the head alone,
or what a method of stock PEFT trains.

`side_contract.py` holds the notation and the contracts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from lopsided.errors import LopsidedError
from lopsided.method.side_contract import AdapterSide, FormName, Gain, LinkSide, LocalModel, S, Side, T
from lopsided.method.sketch import Matrix, generator


@dataclass(frozen=True)
class B(LinkSide):
    """B trains and starts at zero; A = S."""

    word: ClassVar[str] = "B"
    title: ClassVar[str] = "B"
    group: ClassVar[str] = "B-training"
    formula: ClassVar[str] = "r·d_out"
    letters: ClassVar[str] = "B"
    sketches_inputs: ClassVar[bool] = True
    width_name: ClassVar[str] = "d_in"
    freezes_A: ClassVar[bool] = True

    def width(self, d_out: int, d_in: int) -> int:
        """Return d_in."""
        return d_in

    def turned(self, weight: Matrix) -> Matrix:
        """Return W0 as it is."""
        return weight

    def term(self, factors: Mapping[str, T], sketch: S, transposed: Callable[[S], S]) -> tuple[T | S, T | S]:
        """Return (S, B)."""
        return sketch, factors["B"]

    def starts_at_sketch(self, letter: str) -> bool:
        """Return False: B starts at zero."""
        return False

    def lies_together(self, *, neighbours: bool) -> bool:
        """Return `neighbours`: a selector picks columns of W0, and each lies scattered over the rows."""
        return neighbours

    def gain(self, model: LocalModel[Gain], r: int, draw: Callable[[], Matrix]) -> Gain:
        """Return the gain of the best B next to S."""
        return model.gain_b(draw())


@dataclass(frozen=True)
class A(LinkSide):
    """A trains and starts at zero; B = Sᵀ."""

    word: ClassVar[str] = "A"
    title: ClassVar[str] = "A"
    group: ClassVar[str] = "A-training"
    formula: ClassVar[str] = "r·d_in"
    letters: ClassVar[str] = "A"
    width_name: ClassVar[str] = "d_out"

    def width(self, d_out: int, d_in: int) -> int:
        """Return d_out."""
        return d_out

    def turned(self, weight: Matrix) -> Matrix:
        """Return W0ᵀ."""
        return weight.T

    def term(self, factors: Mapping[str, T], sketch: S, transposed: Callable[[S], S]) -> tuple[T | S, T | S]:
        """Return (A, Sᵀ)."""
        return factors["A"], transposed(sketch)

    def starts_at_sketch(self, letter: str) -> bool:
        """Return False: A starts at zero."""
        return False

    def lies_together(self, *, neighbours: bool) -> bool:
        """Return True: a selector picks rows of W0, and each is one piece."""
        return True

    def gain(self, model: LocalModel[Gain], r: int, draw: Callable[[], Matrix]) -> Gain:
        """Return the gain of the best A next to Sᵀ."""
        return model.gain_a(draw().T)


@dataclass(frozen=True)
class Both(LinkSide):
    """Both factors train: A starts at S, B at zero.

    Args:
        lr_ratio: lr_B / lr_A.
    """

    word: ClassVar[str] = "AB"
    title: ClassVar[str] = "A and B"
    group: ClassVar[str] = "both"
    formula: ClassVar[str] = "r·(d_out + d_in)"
    letters: ClassVar[str] = "AB"
    sketches_inputs: ClassVar[bool] = True
    width_name: ClassVar[str] = "d_in"
    keeps_sketch: ClassVar[bool] = False
    gain_is_bound: ClassVar[bool] = True
    lr_ratio: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr_ratio > 0:
            raise LopsidedError(f"lr_ratio must be positive, got {self.lr_ratio}")

    def width(self, d_out: int, d_in: int) -> int:
        """Return d_in: the sketch is where A starts."""
        return d_in

    def turned(self, weight: Matrix) -> Matrix:
        """Return W0 as it is."""
        return weight

    def term(self, factors: Mapping[str, T], sketch: S, transposed: Callable[[S], S]) -> tuple[T | S, T | S]:
        """Return (A, B)."""
        return factors["A"], factors["B"]

    def starts_at_sketch(self, letter: str) -> bool:
        """Return whether it is A."""
        return letter == "A"

    def lies_together(self, *, neighbours: bool) -> bool:
        """Return False: no factor stays a selector."""
        return False

    def gain(self, model: LocalModel[Gain], r: int, draw: Callable[[], Matrix]) -> Gain:
        """Return the gain of the best update of rank r, an upper bound."""
        return model.bound_ab(r)


@dataclass(frozen=True)
class Coin(AdapterSide):
    """B or A trains, drawn for each layer and link. One tensor C stores either, so that the optimizer keeps one tensor
    for the whole chain: its first columns are Bᵀ or A.

    Args:
        p: probability of B.

    Source:
        Bernoulli-LoRA, arXiv:2508.03820.
    """

    word: ClassVar[str] = "coin"
    title: ClassVar[str] = "A or B, by a coin"
    group: ClassVar[str] = "coin"
    formula: ClassVar[str] = "r·max(d_out, d_in)"
    letters: ClassVar[str] = "C"
    width_name: ClassVar[str] = "min(d_out, d_in)"
    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise LopsidedError(f"p is a probability, got {self.p}")

    def sketched_width(self, d_out: int, d_in: int) -> int:
        """Return the smaller width: a link may have either."""
        return min(d_out, d_in)

    def stored_width(self, d_out: int, d_in: int) -> int:
        """Return the larger width: a link may have either."""
        return max(d_out, d_in)

    def of_link(self, seed: int, link: int) -> LinkSide:
        """Toss the coin, by the layer's seed and the link."""
        return B() if _toss(seed, link) < self.p else A()

    def odds(self) -> tuple[tuple[float, LinkSide], ...]:
        """Return B with probability p, and A."""
        return ((self.p, B()), (1 - self.p, A()))

    def factors(self, side: LinkSide, stored: Mapping[str, T], d_out: int, d_in: int) -> Mapping[str, T]:
        """Return B or A from C."""
        return from_shared(side, stored["C"], d_out, d_in)


@lru_cache(maxsize=2**14)
def _toss(seed: int, link: int) -> float:
    # Asked for several times a link, and a generator takes as long to begin as a small sketch to draw.
    return float(generator(seed, link, 2).uniform())


def from_shared(side: LinkSide, C: T, d_out: int, d_in: int) -> dict[str, T]:
    """Return the factor of a link from the tensor C, whose first columns hold Bᵀ or A.

    Shapes:
        C: (r, max(d_out, d_in)) -> B of (d_out, r) or A of (r, d_in), a view.
    """
    tensor: Any = C
    return {"B": tensor[:, :d_out].T} if isinstance(side, B) else {"A": tensor[:, :d_in]}


@dataclass(frozen=True)
class Whole(Side):
    """Every weight of the model trains: full fine-tuning."""

    word: ClassVar[str] = "all"
    title: ClassVar[str] = "all weights"
    group: ClassVar[str] = "full"
    formula: ClassVar[str] = "d_out·d_in"
    saved_as: ClassVar[FormName] = "model"

    def count(self, d_out: int, d_in: int, r: int) -> int:
        """Return d_out·d_in."""
        return d_out * d_in

    def count_in_model(
        self, layers: Iterable[tuple[int, int]], r: int, *, whole: int | None, head: int | None
    ) -> int | None:
        """Return the model's numbers, or those of its layers where no more is known."""
        return sum(self.count(d_out, d_in, r) for d_out, d_in in layers) if whole is None else whole


@dataclass(frozen=True)
class Head(Side):
    """The task's head trains, on frozen features."""

    word: ClassVar[str] = "head"
    title: ClassVar[str] = "the head alone"
    group: ClassVar[str] = "head"
    formula: ClassVar[str] = "0"
    saved_as: ClassVar[FormName] = "head"
    head_alone: ClassVar[bool] = True
    uncounted: ClassVar[str] = "{model} has no task's head"

    def count(self, d_out: int, d_in: int, r: int) -> int:
        """Return 0: no layer trains."""
        return 0

    def count_in_model(
        self, layers: Iterable[tuple[int, int]], r: int, *, whole: int | None, head: int | None
    ) -> int | None:
        """Return the head's numbers."""
        return head


@dataclass(frozen=True)
class Peft(Side):
    """Whatever a method of stock PEFT trains, which PEFT's own configuration decides."""

    word: ClassVar[str] = "peft"
    title: ClassVar[str] = "as PEFT has it"
    group: ClassVar[str] = "PEFT"
    formula: ClassVar[str] = "as PEFT has it"
    saved_as: ClassVar[FormName] = "peft"
    on_base: ClassVar[bool] = True
    uncounted: ClassVar[str] = "a method of PEFT, and the theory is about the numbers of this library's own"

    def count(self, d_out: int, d_in: int, r: int) -> int:
        """Raise: the method's entry has the formula in words.

        Raises:
            LopsidedError: always.
        """
        raise LopsidedError(f"{self.uncounted}; a run counts its trained parameters when it is made")

    def count_in_model(
        self, layers: Iterable[tuple[int, int]], r: int, *, whole: int | None, head: int | None
    ) -> int | None:
        """Return None: nothing that is known here."""
        return None
