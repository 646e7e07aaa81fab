"""What a side is: what of a model trains, as a part of a method, and the registry of sides.

Notation: ΔW = s·B·A with A of (r, d_in) and B of (d_out, r). The factor that does not train is a sketch S of (r, d):
A = S with d = d_in where B trains, B = Sᵀ with d = d_out where A trains. A *link* is one stage of a chain; the side may
differ between links. The letters "A" and "B" also name the stored tensors, and "C" the one that stores either factor.

    Side          anything that trains: `Whole`, `Head`, and every `AdapterSide`
    AdapterSide   low-rank factors: `Coin`, and every `LinkSide`
    LinkSide      the factors of one link: `B`, `A`, `Both`

A user's own side is one class that derives from `AdapterSide` (or `LinkSide`) and defines what is abstract there; the
definition registers it under its `word`. Code outside this package never compares sides: it asks the side a question.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from lopsided.errors import LopsidedError
from lopsided.method.sketch import Matrix

FormName = Literal["adapter", "model", "head", "peft"]

# What a saved method keeps of its side, with the values that mean nothing special.
FLAT_FIELDS: dict[str, float] = {"lr_ratio": 1.0, "p": 0.5}
# The trained factors that a layer has room for.
LETTERS = ("A", "B", "C")

SIDES: dict[str, type[Side]] = {}

T = TypeVar("T")
S = TypeVar("S")
Gain = TypeVar("Gain", covariant=True)


class LocalModel(Protocol[Gain]):
    """A model of the loss around the weights of one layer, which says what each side could gain."""

    def gain_b(self, Q: Matrix, /) -> Gain:
        """Return the gain of B at best, with A = Q of (r, d_in)."""

    def gain_a(self, U: Matrix, /) -> Gain:
        """Return the gain of A at best, with B = U of (d_out, r)."""

    def bound_ab(self, r: int, /) -> Gain:
        """Return the gain of the best update of rank r."""


def factor_shapes(d_out: int, d_in: int, r: int) -> dict[str, tuple[int, int]]:
    """Return the shape of each stored factor by its letter; C has room for Bᵀ and for A.

    Example:
        >>> factor_shapes(4, 3, r=2)
        {'A': (2, 3), 'B': (4, 2), 'C': (2, 4)}
    """
    return {"A": (r, d_in), "B": (d_out, r), "C": (r, max(d_out, d_in))}


# -- the contracts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side(abc.ABC):
    """What of a model trains. Subclasses are abstract or final; a final one defines `word`, and is registered under it.

    A subclass is a frozen dataclass. Its fields are among `FLAT_FIELDS`, because a saved method holds no others.

    Class attributes:
        word: what `Method.train` and saved files call it.
        title: the words for it in a leaderboard and on a page.
        group: the words for it in a benchmark's groups.
        formula: `count` as a formula in r, d_out and d_in.
        saved_as: what a training run saves: an adapter's folder, the whole model, the head's tensors, or the folder of
            an adapter of PEFT's own.
        on_base: whether what is saved is loaded onto the base model, whose weights no run changes, so that it is small.
        uncounted: why `count_in_model` may have nothing to count, of a model of class "{model}"; empty where it has.
        head_alone: whether it trains the task's head and nothing else, so that a task without a head has nothing to
            train, no linear layer changes, and its score is the floor of a comparison.
        freezes_A: whether A is a sketch in every link, as theorems on a frozen A need it.
        gain_is_bound: whether what `lopsided advise` computes for it is an upper bound, which does not compete.
    """

    word: ClassVar[str]
    title: ClassVar[str]
    group: ClassVar[str]
    formula: ClassVar[str]
    saved_as: ClassVar[FormName]
    on_base: ClassVar[bool] = False
    uncounted: ClassVar[str] = ""
    head_alone: ClassVar[bool] = False
    freezes_A: ClassVar[bool] = False
    gain_is_bound: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        word = cls.__dict__.get("word")
        if word is None:
            return
        # A class may be defined again, as a notebook's cell is, but not by somebody else.
        taken = SIDES.get(word)
        if taken is not None and (taken.__module__, taken.__name__) != (cls.__module__, cls.__name__):
            raise LopsidedError(
                f"side {word!r} is taken by {taken.__module__}.{taken.__name__}; expected a free word; choose another"
            )
        SIDES[word] = cls

    @abc.abstractmethod
    def count(self, d_out: int, d_in: int, r: int) -> int:
        """Return how many numbers one layer trains; a task's head comes on top."""

    @abc.abstractmethod
    def count_in_model(
        self, layers: Iterable[tuple[int, int]], r: int, *, whole: int | None, head: int | None
    ) -> int | None:
        """Return how many numbers one link of a model trains, or None if there is nothing to count.

        Args:
            layers: (d_out, d_in) of each adapted layer.
            whole: the numbers of the whole model, None where only its layers are known.
            head: the numbers of the task's head, None where there is none.
        """

    def flat(self) -> dict[str, float]:
        """Return the fields as a saved method holds them; its other flat fields keep their default values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class AdapterSide(Side):
    """Low-rank factors that train, in every adapted layer.

    Class attributes:
        letters: the stored factors that train, among `LETTERS`.
        sketches_inputs: whether S multiplies the layer's inputs in every link, as a sketch that reads them has to.
        width_name: `sketched_width` as errors call it.
        keeps_sketch: whether S is a factor of ΔW in every link; otherwise it is only where a factor starts, and need
            not be stored.
    """

    saved_as: ClassVar[FormName] = "adapter"
    on_base: ClassVar[bool] = True
    letters: ClassVar[str]
    sketches_inputs: ClassVar[bool] = False
    width_name: ClassVar[str]
    keeps_sketch: ClassVar[bool] = True

    @abc.abstractmethod
    def sketched_width(self, d_out: int, d_in: int) -> int:
        """Return the width that the rank must not exceed: the smallest d of any link's sketch."""

    @abc.abstractmethod
    def stored_width(self, d_out: int, d_in: int) -> int:
        """Return the width of a stored sketch: the largest d of any link's sketch."""

    @abc.abstractmethod
    def of_link(self, seed: int, link: int) -> LinkSide:
        """Return the side that trains in one link of one layer.

        A pure function: loading an adapter asks it again for every past link.

        Args:
            seed: the layer's seed (see `layer_seed`).
            link: the link's number, from 0.
        """

    @abc.abstractmethod
    def odds(self) -> tuple[tuple[float, LinkSide], ...]:
        """Return the sides that a link can have, each with its probability."""

    @abc.abstractmethod
    def factors(self, side: LinkSide, stored: Mapping[str, T], d_out: int, d_in: int) -> Mapping[str, T]:
        """Return the factors that train in a link, by "A" and "B", as views of the stored tensors.

        Args:
            side: the link's.
            stored: tensors or arrays by their letter, of the shapes that `shapes` says.
        """

    def shapes(self, d_out: int, d_in: int, r: int) -> dict[str, tuple[int, int]]:
        """Return the shapes of the stored factors by letter."""
        shapes = factor_shapes(d_out, d_in, r)
        return {letter: shapes[letter] for letter in self.letters}

    def count(self, d_out: int, d_in: int, r: int) -> int:
        """Return the size of all stored factors."""
        return sum(math.prod(shape) for shape in self.shapes(d_out, d_in, r).values())

    def count_in_model(
        self, layers: Iterable[tuple[int, int]], r: int, *, whole: int | None, head: int | None
    ) -> int | None:
        """Return the sum of `count` over the layers; the task's head, which trains too, is not counted."""
        return sum(self.count(d_out, d_in, r) for d_out, d_in in layers)


@dataclass(frozen=True)
class LinkSide(AdapterSide):
    """The factors of one link; a method that trains the same ones in every link has it as its side."""

    @abc.abstractmethod
    def width(self, d_out: int, d_in: int) -> int:
        """Return d, the width of the link's sketch."""

    @abc.abstractmethod
    def turned(self, weight: Matrix) -> Matrix:
        """Return W0 of (d_out, d_in) with the sketched axis last."""

    @abc.abstractmethod
    def term(self, factors: Mapping[str, T], sketch: S, transposed: Callable[[S], S]) -> tuple[T | S, T | S]:
        """Return (A, B) of the link's product.

        Args:
            factors: those that train, by "A" and "B".
            sketch: S of (r, d), in any form.
            transposed: turns S into Sᵀ.
        """

    @abc.abstractmethod
    def starts_at_sketch(self, letter: str) -> bool:
        """Return whether a stored factor starts a link at S; the others start at zero."""

    @abc.abstractmethod
    def lies_together(self, *, neighbours: bool) -> bool:
        """Return whether the part of W0 that a selector picks can be changed in one piece.

        Args:
            neighbours: whether the selected indices are neighbours.
        """

    @abc.abstractmethod
    def gain(self, model: LocalModel[Gain], r: int, draw: Callable[[], Matrix]) -> Gain:
        """Return what training this side at rank r could gain.

        Args:
            draw: draws S of (r, d).
        """

    def sketched_width(self, d_out: int, d_in: int) -> int:
        """Return d: all links have the same one."""
        return self.width(d_out, d_in)

    def stored_width(self, d_out: int, d_in: int) -> int:
        """Return d: all links have the same one."""
        return self.width(d_out, d_in)

    def of_link(self, seed: int, link: int) -> LinkSide:
        """Return this side: no link differs."""
        return self

    def odds(self) -> tuple[tuple[float, LinkSide], ...]:
        """Return this side with probability 1."""
        return ((1.0, self),)

    def factors(self, side: LinkSide, stored: Mapping[str, T], d_out: int, d_in: int) -> Mapping[str, T]:
        """Return the stored tensors: they are the factors."""
        return stored


# -- by name -------------------------------------------------------------------------------------------------


def side_named(word: str) -> Side:
    """Return a side by its word, with default fields.

    Raises:
        LopsidedError: if there is none, listing the known ones.

    Example:
        >>> side_named("AB").title
        'A and B'
    """
    return side_from_flat(word, FLAT_FIELDS)


def side_from_flat(word: str, fields: Mapping[str, float]) -> Side:
    """Return the side that a saved method describes: a word, and flat fields of which it takes its own.

    Raises:
        LopsidedError: if there is no side of that word, or it has fields that a saved method does not hold.
    """
    # A tuple: a damaged file may hold a word that can't be hashed.
    if word not in tuple(SIDES):
        raise LopsidedError(
            f"train must be one of {', '.join(SIDES)}, got {word!r}; correct it, or import the file that defines it"
        )
    own = [field.name for field in dataclasses.fields(SIDES[word])]
    if not set(own) <= FLAT_FIELDS.keys():
        raise LopsidedError(
            f"side {word!r} has the fields {', '.join(own)}; expected some of {', '.join(FLAT_FIELDS)}, since a saved "
            "method holds no others; put other numbers into the class"
        )
    return SIDES[word](**{name: fields[name] for name in own})
