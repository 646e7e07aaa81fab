"""One adapter of one layer: its method, and where its chain stands.

Notation: link t of the chain adds s·B_t·A_t to the layer's product, with A_t of (r, d_in) and B_t of (d_out, r). One of
the two is trained and the other one is the link's sketch, S of (r, d) or its transpose, or both are trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.method import InputMoments, LinkSide, Method
from lopsided.method.sketch import Selector, checksum, one_hot
from lopsided.tuner.forward.compute import Selected, Term, concatenate

CPU = torch.device("cpu")
_REVISIONS = itertools.count(1)


@dataclass(frozen=True)
class LinkSketch:
    """The sketch of one link: its matrix S of (r, d) or its indices, and its checksum."""

    factor: Tensor | Selected
    checksum: float

    def matrix(self) -> Tensor:
        """Return S written out: (r, d), float32."""
        return self.factor.matrix() if isinstance(self.factor, Selected) else self.factor

    @property
    def whole(self) -> bool:
        """Whether S itself is in memory, not only its shape and checksum."""
        return isinstance(self.factor, Selected) or any(self.factor.stride())

    def without_numbers(self) -> LinkSketch:
        """Return it with zeros that take no memory in the place of a matrix: its shape and its checksum."""
        return self if isinstance(self.factor, Selected) else no_numbers(self.factor.shape, self.checksum)


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """What an adapter computes with next to its trained factors: on the layer's device, in float32.

    Args:
        side: what the link in training trains.
        sketch: of the link in training.
        stacked: the past links that are not in the base weight.
    """

    side: LinkSide
    sketch: Tensor | Selected
    stacked: tuple[Term, ...] = ()
    _cast: dict[torch.dtype, FrozenPart] = field(default_factory=dict, init=False, repr=False, compare=False)

    def at(self, dtype: torch.dtype) -> FrozenPart:
        """Return it rounded to the dtype that products are computed in, once for all forwards."""
        if dtype == torch.float32:
            return self
        if dtype not in self._cast:
            stacked = tuple(term.to(dtype) for term in self.stacked)
            self._cast[dtype] = FrozenPart(side=self.side, sketch=self.sketch.to(dtype), stacked=stacked)
        return self._cast[dtype]


@dataclass
class Adapter:
    """One adapter of one layer, on the CPU.

    `past` holds the trained tensors of each merged link by their letter ("A", "B", or "C" for a coin's), and
    `sketches` the sketch of each link, the one in training included; where both factors train, those of past links are
    without their numbers. The factors of the link in training are parameters of the layer; where a chain does not
    merge, they are those of every link, and `past` is empty. Nobody changes a tensor that is in here: base weights are
    undone from them.

    Args:
        module: the layer's name, for errors.
        d_out, d_in: the layer's widths.
        scaling: s.
        links: how many links the chain may have; None where it is open-ended or not a chain.
        float32: whether it computes in float32 next to 16-bit weights, too.
        saved_link: the link that a saved adapter's configuration stands at; 0 for a new one.
        can_be_new: whether a sketch can be drawn for it if no saved tensors arrive.
        uncalibrated: whether its sketch reads the layer's inputs, and none have been seen: it computes nothing until
            `lopsided.calibrate` or a saved adapter's tensors give it a sketch.
        awaits: whether it was made from a saved adapter's configuration, and the tensors have yet to be seen. Until
            then it computes only where it can be a new adapter: at link 0, with its factor at zero.
        arrivals: saved tensors by what they are, from whatever loads them, until the layer takes them over.
        expected: saved tensors that were checked and the adapter that they make, until they arrive.
        revision: names the content of `past`: equal only for adapters that share it.
    """

    module: str
    method: Method
    d_out: int
    d_in: int
    r: int
    scaling: float
    seed: int
    links: int | None
    merge_links: bool | None
    float32: bool = False
    saved_link: int = 0
    can_be_new: bool = True
    uncalibrated: bool = False
    awaits: bool = False
    past: list[dict[str, Tensor]] = field(default_factory=list)
    sketches: list[LinkSketch] = field(default_factory=list)
    arrivals: dict[str, Tensor] = field(default_factory=dict)
    expected: tuple[Mapping[str, Tensor], Adapter] | None = None
    revision: int = 0

    @property
    def pending(self) -> bool:
        """Whether it has no sketch: it can't be drawn, or a chain's past is in tensors that have yet to be loaded."""
        return not self.sketches

    @property
    def unread(self) -> bool:
        """Whether something has to be looked at before it computes."""
        return self.awaits or self.uncalibrated or bool(self.arrivals)

    @property
    def link(self) -> int:
        """The number of the link in training, from 0."""
        return max(len(self.sketches) - 1, 0)

    def past_links(self, link: int) -> int:
        """Return how many merged links there are when `link` is in training."""
        return link if self.method.chain is None or self.method.chain.merge else 0

    @property
    def side(self) -> LinkSide:
        """What trains in the link in training."""
        return self.side_of(self.link)

    def side_of(self, link: int) -> LinkSide:
        """Return what trains in one link."""
        return self.method.adapter_side.of_link(self.seed, self._drawn_at(link))

    def _drawn_at(self, link: int) -> int:
        """Return the link whose draw, of the sketch and of the side, counts in a link."""
        return link if self.method.chain is None or self.method.chain.redraw else 0

    @property
    def letters(self) -> str:
        """The stored factors: "A", "B" or both, and "C" where either is stored in one tensor."""
        return self.method.adapter_side.letters

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shapes of the stored factors by letter."""
        return self.method.adapter_side.shapes(self.d_out, self.d_in, self.r)

    def check_rank(self) -> None:
        """Raise if the rank exceeds the width that is sketched.

        Raises:
            LopsidedError: naming both.
        """
        limit = self.method.sketched_width(self.d_out, self.d_in)
        if not 0 < self.r <= limit:
            width_name = self.method.adapter_side.width_name
            raise LopsidedError(
                f"rank must not exceed the layer's width: r={self.r}, {width_name}={limit} in {self.module}; "
                "lower r or exclude the module"
            )

    def check_without_inputs(self, kind: str) -> None:
        """Raise if the method reads inputs: of this kind of layer, nobody sees them.

        Raises:
            LopsidedError: naming the layer.
        """
        if self.method.reads_inputs:
            raise LopsidedError(
                f"{self.module}: method {self.method.name!r} reads a layer's inputs, and those of a {kind} are seen by "
                "its module alone; expected linear, convolution or embedding layers; choose another method"
            )

    # -- the chain -------------------------------------------------------------------------------------------

    def draw(self, link: int, weight: np.ndarray | None, inputs: InputMoments | None = None) -> LinkSketch:
        """Return the sketch of one link, and keep nothing.

        Args:
            weight: W0 as (d_out, d_in). inputs: of the layer. Each for sketches that read it.
        """
        side, drawn_at = self.side_of(link), self._drawn_at(link)
        sketch, d = self.method.sketch, side.width(self.d_out, self.d_in)
        turned = None if weight is None else side.turned(weight)
        assert sketch is not None
        if isinstance(sketch, Selector):
            columns = sketch.indices(self.r, d, seed=self.seed, link=drawn_at, weight=turned, inputs=inputs)
            return select(columns, d)
        S = sketch.sample(self.r, d, seed=self.seed, link=drawn_at, weight=turned, inputs=inputs)
        return LinkSketch(torch.from_numpy(S), checksum(S))

    def restarted(self) -> tuple[str, ...]:
        """Return the letters of the trained factors that an advance sets to where a link starts."""
        chain = self.method.chain
        assert chain is not None, "only a chain advances"
        return tuple(k for k in self.letters if (chain.redraw if self.side.starts_at_sketch(k) else chain.merge))

    def start_of(self, letter: str) -> Tensor | None:
        """Return where a trained factor begins the newest link; None stands for zero."""
        return self.sketches[-1].matrix() if self.side.starts_at_sketch(letter) else None

    def append(self, trained: Mapping[str, Tensor]) -> None:
        """End the link in training with these factors, which nobody changes from now on."""
        self.past.append(dict(trained))
        self.revision = next(_REVISIONS)

    def begin(self, sketch: LinkSketch) -> None:
        """Begin a link with this sketch. One that is no factor of ΔW is not needed after its link's start."""
        if self.sketches and not self.method.adapter_side.keeps_sketch:
            self.sketches[-1] = self.sketches[-1].without_numbers()
        self.sketches.append(sketch)

    def become(self, other: Adapter) -> None:
        """Take over another adapter's place in its chain."""
        self.seed, self.past, self.sketches, self.awaits = other.seed, other.past, other.sketches, False
        self.uncalibrated = False
        self.revision = next(_REVISIONS) if self.past else 0

    def copy_frozen(self, other: Adapter) -> None:
        """Stand where another adapter of the same configuration stands: the same sketches and the same past links."""
        self.seed, self.past, self.sketches = other.seed, list(other.past), list(other.sketches)
        self.revision, self.awaits, self.uncalibrated = other.revision, False, other.uncalibrated

    def same_frozen(self, other: Adapter) -> bool:
        """Return whether two adapters of one configuration differ in nothing but their trained factors."""
        same = (self.seed, self.revision, self.link) == (other.seed, other.revision, other.link)
        # Equal seeds give equal sketches, unless these come from data.
        return same and [s.checksum for s in self.sketches] == [s.checksum for s in other.sketches]

    # -- the terms -------------------------------------------------------------------------------------------

    def term(self, side: LinkSide, trained: Mapping[str, Tensor], S: Tensor | Selected) -> Term:
        """Return B·A of one link that trains `side`, from its trained tensors and its sketch."""
        factors = self.method.adapter_side.factors(side, trained, self.d_out, self.d_in)
        return Term(*side.term(factors, S, _transposed))

    def past_terms(self) -> list[Term]:
        """Return B·A of each finished link."""
        return [
            self.term(self.side_of(link), trained, self.sketches[link].factor) for link, trained in enumerate(self.past)
        ]

    def frozen_part(self, device: torch.device, *, stacked: bool) -> FrozenPart:
        """Return what it computes with on a device.

        Args:
            stacked: whether the past links are computed next to the base weight.
        """
        terms = concatenate(self.past_terms()) if stacked else []
        return FrozenPart(
            side=self.side,
            sketch=self.sketches[-1].factor.to(device),
            stacked=tuple(term.to(device) for term in terms),
        )


def no_numbers(shape: Sequence[int], checksum: float) -> LinkSketch:
    """Return what stands for a sketch that is needed no more."""
    return LinkSketch(torch.zeros((), device="cpu").expand(*shape), checksum)


def select(indices: np.ndarray, d: int) -> LinkSketch:
    """Return the selector of `indices` among d columns."""
    neighbours = bool((np.diff(indices) == 1).all())
    start = int(indices[0]) if neighbours else None
    return LinkSketch(Selected(torch.from_numpy(indices), d, start), checksum(one_hot(indices, d)))


def _transposed(S: Tensor | Selected) -> Tensor | Selected:
    """Return B = Sᵀ; a selector stands for its transpose where a `Term` has it as B."""
    return S if isinstance(S, Selected) else S.T
