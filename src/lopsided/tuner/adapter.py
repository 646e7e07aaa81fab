"""One adapter of one layer: its method, where its chain stands, and its saved form."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.finite import check_finite
from lopsided.method import LETTERS, LinkSide, Method, factor_shapes
from lopsided.method.sketch import Selector, Stored, checksum, one_hot
from lopsided.tuner.forward.compute import Selected, Term

CPU = torch.device("cpu")
# The tensors that a saved adapter holds beside its trained factors. `past_` ones grow with the chain.
EXTRAS = ("seed", "checksum", "indices", "sketch", "past_A", "past_B", "past_C")
CHECKSUM_TOLERANCE = 1e-5
# Of a sketch's checksum, and of its indices, until the saved ones arrive.
ABSENT = -1
_REVISIONS = itertools.count(1)


@dataclass(frozen=True)
class Drawn:
    """The sketch of one link: its matrix S of (r, d) or its indices, and its checksum."""

    factor: Tensor | Selected
    checksum: float

    def matrix(self) -> Tensor:
        return self.factor.matrix() if isinstance(self.factor, Selected) else self.factor


@dataclass
class Adapter:
    """One adapter of one layer. On the CPU: `past`, the trained tensors of each finished link by their letter
    ("A", "B", or "C" for a coin's), and `drawn`, the sketch of each link, the one in training included.

    Args:
        module: the layer's name, for errors.
        d_out, d_in: the layer's widths.
        scaling: s.
        links: how many links the chain may have; None where it is open-ended or not a chain.
        saved_link: the link that a saved adapter's configuration stands at; 0 for a new one.
        can_be_new: whether a sketch can be drawn for it if no saved tensors arrive.
        awaits: whether it was made from a saved adapter's configuration, and the tensors have yet to be seen. Until
            then it computes only where it can be a new adapter: at link 0, with its factor at zero.
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
    saved_link: int = 0
    can_be_new: bool = True
    awaits: bool = False
    past: list[dict[str, Tensor]] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    # Saved tensors by what they are, handed in by whatever loads them, until the layer takes them over.
    arrived: dict[str, Tensor] = field(default_factory=dict)
    # Names the content of `past`: equal only for adapters that share it.
    revision: int = 0

    @property
    def pending(self) -> bool:
        """Whether it has no sketch: it can't be drawn, or a chain's past is in tensors that have yet to be loaded."""
        return not self.drawn

    @property
    def unread(self) -> bool:
        """Whether something has to be looked at before it computes."""
        return self.awaits or bool(self.arrived)

    @property
    def link(self) -> int:
        """The number of the link in training, from 0."""
        return len(self.past)

    @property
    def side(self) -> LinkSide:
        """What trains in the link in training."""
        return self.side_of(self.link)

    def side_of(self, link: int) -> LinkSide:
        """Return what trains in one link."""
        return self.method.adapter_side.of_link(self.seed, link)

    @property
    def letters(self) -> str:
        """The stored factors: "A", "B" or both, and "C" where either is stored in one tensor."""
        return self.method.adapter_side.letters

    def append(self, trained: Mapping[str, Tensor]) -> None:
        """End the link in training with these factors, which nobody changes from now on."""
        self.past.append(dict(trained))
        self.revision = next(_REVISIONS)

    def copy_frozen(self, other: Adapter) -> None:
        """Stand where another adapter of the same configuration stands: the same sketches and the same past links."""
        self.seed, self.past, self.drawn = other.seed, list(other.past), list(other.drawn)
        self.revision, self.awaits = other.revision, False

    def same_frozen(self, other: Adapter) -> bool:
        """Whether two adapters of one configuration differ in nothing but their trained factors."""
        return (self.seed, self.revision, self.link) == (other.seed, other.revision, other.link)

    def draw(self, link: int, weight: np.ndarray | None) -> Drawn:
        """The sketch of one link. `weight` is W0 as (d_out, d_in)."""
        side = self.side_of(link)
        sketch, d = self.method.sketch, side.width(self.d_out, self.d_in)
        assert sketch is not None
        if isinstance(sketch, Selector):
            return select(sketch.indices(self.r, d, seed=self.seed, link=link), d)
        turned = None if weight is None else side.turned(weight)
        S = sketch.sample(self.r, d, seed=self.seed, link=link, weight=turned)
        return Drawn(torch.from_numpy(S), checksum(S))

    def past_terms(self) -> list[Term]:
        return [
            self.term(self.side_of(link), trained, self.drawn[link].factor) for link, trained in enumerate(self.past)
        ]

    def term(self, side: LinkSide, trained: Mapping[str, Tensor], S: Tensor | Selected) -> Term:
        """Return B·A of one link that trains `side`, from its trained tensors and its sketch."""
        factors = self.method.adapter_side.factors(side, trained, self.d_out, self.d_in)
        return Term(*side.term(factors, S, _transposed))

    # -- the saved form --------------------------------------------------------------------------------------

    def pack(self) -> dict[str, Tensor]:
        """The tensors that, with the trained factors and the method's parts, are this adapter.

        Placeholders without content for one that waits for a chain's past or a sketch that can't be drawn.
        """
        if self.pending:
            return self._placeholders()
        packed = {
            "seed": torch.tensor([self.seed], dtype=torch.int64),
            "checksum": torch.tensor([d.checksum for d in self.drawn], dtype=torch.float64),
        }
        factors = [d.factor for d in self.drawn]
        if isinstance(factors[0], Selected):
            packed["indices"] = torch.stack([f.indices.to(CPU, torch.int32) for f in factors])  # type: ignore[union-attr]
        elif self._stores_sketch():
            padded = torch.zeros(len(factors), self.r, self._sketched_width())
            for row, factor in zip(padded, factors):
                assert isinstance(factor, Tensor)
                row[:, : factor.shape[1]] = factor
            packed["sketch"] = padded
        for letter in self.past[0] if self.past else ():
            packed[f"past_{letter}"] = torch.stack([trained[letter] for trained in self.past])
        return packed

    def _placeholders(self) -> dict[str, Tensor]:
        """What stands for saved tensors that have yet to arrive: their shapes, in no memory."""
        links, factors = self.saved_link + 1, factor_shapes(self.d_out, self.d_in, self.r)
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "seed": ((1,), torch.int64),
            "checksum": ((links,), torch.float64),
        }
        if isinstance(self.method.sketch, Selector):
            shapes["indices"] = (links, self.r), torch.int32
        elif self._stores_sketch():
            shapes["sketch"] = (links, self.r, self._sketched_width()), torch.float32
        if self.saved_link > 0:
            shapes |= {f"past_{k}": ((links - 1, *factors[k]), torch.float32) for k in self.letters}
        return {what: torch.full((), ABSENT, dtype=dtype).expand(shape) for what, (shape, dtype) in shapes.items()}

    def _stores_sketch(self) -> bool:
        """Whether the sketch itself is in the file, since nothing could draw it again."""
        sketch = self.method.sketch
        return self.method.adapter_side.keeps_sketch and sketch is not None and sketch.stored

    def _sketched_width(self) -> int:
        """Return the width of a stored sketch; where links have different ones, the widest gives the shape."""
        return self.method.adapter_side.stored_width(self.d_out, self.d_in)

    def check_complete(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise if among a saved adapter's tensors one is missing.

        Raises:
            LopsidedError: naming it.
        """
        required = {"seed", "checksum"}
        if isinstance(self.method.sketch, Selector):
            required.add("indices")
        never_drawn = isinstance(self.method.sketch, Stored) and self.method.adapter_side.keeps_sketch
        if never_drawn and "indices" not in tensors:
            required.add("sketch")
        if "checksum" in tensors and tensors["checksum"].numel() > 1:
            required |= {f"past_{letter}" for letter in self.letters}
        if missing := sorted(required - tensors.keys()):
            raise LopsidedError(
                f"{self.module}: of the saved adapter's tensors {', '.join(missing)} did not arrive, only "
                f"{', '.join(sorted(tensors))}; expected all; load it with peft.PeftModel.from_pretrained"
            )

    def unpacked(self, tensors: Mapping[str, Tensor], weight: np.ndarray | None) -> Adapter:
        """The adapter that `pack` described; what the tensors do not hold is drawn again.

        Raises:
            LopsidedError: if the tensors contradict each other or the layer, hold NaN or Inf, or a redrawn sketch's
                checksum differs. This adapter has not changed then, nor otherwise.
        """
        self._check_packed(tensors)
        sums = tensors["checksum"].tolist()
        trained = [name.removeprefix("past_") for name in tensors if name.startswith("past_")]
        seed = int(tensors["seed"][0])
        # What this one has drawn from the same seed need not be drawn again.
        known = self.drawn if seed == self.seed else []
        fresh = Adapter(**{**vars(self), "seed": seed, "past": [], "drawn": [], "arrived": {}})
        fresh.drawn = [fresh._read_drawn(link, tensors, known, weight) for link in range(len(sums))]
        fresh.past = [
            {letter: tensors[f"past_{letter}"][link].to(CPU, torch.float32, copy=True) for letter in trained}
            for link in range(len(sums) - 1)
        ]
        return fresh

    def become(self, other: Adapter) -> None:
        """Take over another one's place in its chain."""
        self.seed, self.past, self.drawn, self.awaits = other.seed, other.past, other.drawn, False
        self.revision = next(_REVISIONS) if self.past else 0

    def _check_packed(self, tensors: Mapping[str, Tensor]) -> None:
        factors, links = factor_shapes(self.d_out, self.d_in, self.r), tensors["checksum"].numel()
        shapes: dict[str, tuple[int, ...]] = {"seed": (1,), "checksum": (links,)}
        shapes |= {"indices": (links, self.r), "sketch": (links, self.r, self._sketched_width())}
        shapes |= factors | {f"past_{letter}": (links - 1, *shape) for letter, shape in factors.items()}
        for what, tensor in tensors.items():
            if what.startswith("past_") and len(tensor) != links - 1:
                raise LopsidedError(
                    f"{self.module}: {links} checksums but {len(tensor)} past links in {label(what)}; expected one "
                    "fewer; the file is damaged"
                )
            whole = what in ("seed", "indices")
            if tuple(tensor.shape) != shapes[what] or tensor.is_floating_point() == whole or tensor.is_complex():
                raise LopsidedError(
                    f"{self.module}: {label(what)} is {list(tensor.shape)} of {tensor.dtype}, expected "
                    f"{list(shapes[what])} of {'whole' if whole else 'floating'} numbers; load the adapter on the "
                    "model that it was trained on, with the same r, and average states within one link only"
                )
            if not whole:
                check_finite(f"{self.module}: {label(what)}", tensor, fix="go back to an earlier save")
        if links == 0 or (self.links is not None and links > self.links):
            raise LopsidedError(
                f"{self.module}: the saved adapter stands at link {links - 1}, expected one of a chain of "
                f"{self.links} links; load it with the configuration that it was saved with"
            )

    def _read_drawn(
        self, link: int, tensors: Mapping[str, Tensor], known: Sequence[Drawn], weight: np.ndarray | None
    ) -> Drawn:
        width = self.side_of(link).width(self.d_out, self.d_in)
        expected = float(tensors["checksum"][link])
        if "indices" in tensors:
            indices = tensors["indices"][link].to(CPU, torch.int64).numpy()
            if np.unique(indices).size != self.r or indices.min() < 0 or indices.max() >= width:
                raise LopsidedError(
                    f"{self.module}: link {link} selects {indices.tolist()!r:.80}, expected {self.r} different columns "
                    f"below {width}; the file is damaged; get it again"
                )
            drawn = select(indices, width)
        elif "sketch" in tensors:
            S = tensors["sketch"][link][:, :width].to(CPU, torch.float32).contiguous()
            drawn = Drawn(S, checksum(S.numpy()))
        elif isinstance(self.method.sketch, Stored):
            # Both factors were trained, so A itself is in the file, and where it started no longer matters.
            return Drawn(torch.zeros(self.r, width), expected)
        else:
            drawn = known[link] if link < len(known) else self.draw(link, weight)
        if abs(drawn.checksum - expected) > CHECKSUM_TOLERANCE * max(1.0, abs(expected)):
            raise LopsidedError(
                f"{self.module}: the sketch of link {link} has checksum {drawn.checksum:.6g}, the saved adapter "
                f"says {expected:.6g}; load it with the method it was trained with, and average states within one "
                "link only"
            )
        return drawn


def label(what: str) -> str:
    """A tensor's name in a file, behind its module's."""
    return f"lopsided_{what}.weight" if what in LETTERS else f"lopsided_state.{what}"


def select(indices: np.ndarray, d: int) -> Drawn:
    """The selector of `indices` among d columns."""
    neighbours = bool((np.diff(indices) == 1).all())
    start = int(indices[0]) if neighbours else None
    return Drawn(Selected(torch.from_numpy(indices), d, start), checksum(one_hot(indices, d)))


def _transposed(S: Tensor | Selected) -> Tensor | Selected:
    """B = Sᵀ; a selector stands for its transpose where a `Term` has it as B."""
    return S if isinstance(S, Selected) else S.T
