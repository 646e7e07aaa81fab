"""What a fine-tuning method is: a point in a small product space, written as data.

Notation: a layer maps d_in to d_out and holds W0 (d_out x d_in). An adapter adds ΔW = s·B·A with A of r x d_in,
B of d_out x r and s = alpha/r. A *link* is one stage of a chain: at its end ΔW joins the weights, and the next
link starts from zero with a new sketch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lopsided.errors import LopsidedError, unknown
from lopsided.method.sketch import Sketch, generator, sketch_from_parts

Train = Literal["B", "A", "AB", "coin", "all", "head"]
Side = Literal["A", "B", "AB"]

METHODS: dict[str, Method] = {}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """When a new link starts, and what happens to the optimizer then.

    Args:
        links: number of links of a run, evenly spread over its steps.
        every: steps in a link; with it the number of links follows from the run's length.
        prune: share of the redrawn factor's optimizer state that is set to zero, smallest entries first.
            1.0 starts afresh, as COLA and RAC-LoRA do.
        rewarm: steps over which the learning rate climbs back, linearly, after each new link.

    Source:
        Even links and a fresh state: Xia et al. 2024, arXiv:2401.04151; Malinovsky et al. 2024,
        arXiv:2410.08305. Pruning and re-warm-up: Lialin et al. 2023, arXiv:2307.05695.

    Example:
        >>> Chain(links=4).boundaries(10)
        (2, 5, 7)
    """

    links: int | None = None
    every: int | None = None
    prune: float = 1.0
    rewarm: int = 0

    def __post_init__(self) -> None:
        for name in ("links", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LopsidedError(f"{name} must be at least 1, got {value}")
        if self.links is not None and self.every is not None:
            raise LopsidedError(f"give links or every, not both: got links={self.links}, every={self.every}")
        if self.rewarm < 0:
            raise LopsidedError(f"rewarm is a number of steps, 0 or more, got {self.rewarm}")
        if not 0.0 <= self.prune <= 1.0:
            raise LopsidedError(f"prune is a share between 0 and 1, got {self.prune}")

    def boundaries(self, steps: int) -> tuple[int, ...]:
        """The steps after which a new link starts, in a run of `steps` optimizer steps.

        With `links`, lengths differ by at most one step.

        Raises:
            LopsidedError: if there are more links than steps, a link is longer than the run, or the chain has
                neither number.
        """
        if self.every is not None:
            if self.every > steps:
                raise LopsidedError(f"a link of every={self.every} steps does not fit a run of {steps} steps")
            return tuple(range(self.every, steps, self.every))
        if self.links is None:
            raise LopsidedError("the chain has neither links nor every, so no link would ever end; give one of them")
        links = self.links
        if links > steps:
            raise LopsidedError(f"links must not exceed the steps: links={links}, steps={steps}; lower links")
        return tuple(k * steps // links for k in range(1, links))


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to fine-tune, as data.

    Args:
        name: what users call it, in lower case.
        train: which factor learns: "B", "A", "AB" (both), "coin" (one of them, drawn for each layer and
            link), "all" (the whole model) or "head" (the task's head alone).
        sketch: how the other factor is drawn; with "AB", how A starts. None where there is no factor.
        chain: when a new link starts; None for a method of one link.
        lr_ratio: lr_B / lr_A, where both learn.
        p: probability that a coin says "B".
        lr: default learning rate of `lopsided train`; docs/decisions says how it was chosen.
        compared: whether `lopsided compare` runs it when no methods are named.
        source: the paper it comes from.

    Raises:
        LopsidedError: if the parts contradict each other.
    """

    name: str
    train: Train
    sketch: Sketch | None = None
    chain: Chain | None = None
    lr_ratio: float = 1.0
    p: float = 0.5
    lr: float = 1e-3
    compared: bool = False
    source: str

    def __post_init__(self) -> None:
        if self.train not in get_args(Train):
            known = ", ".join(get_args(Train))
            raise LopsidedError(f"method {self.name!r}: train must be one of {known}, got {self.train!r}")
        if self.is_adapter != (self.sketch is not None):
            what = "needs a sketch" if self.is_adapter else "has no factor to sketch"
            raise LopsidedError(f"method {self.name!r} trains {self.train!r}, which {what}; got {self.sketch}")
        if self.chain is not None and not self.is_adapter:
            raise LopsidedError(f"method {self.name!r} trains {self.train!r}, which can't be chained")
        if not 0.0 <= self.p <= 1.0:
            raise LopsidedError(f"method {self.name!r}: p is a probability, got {self.p}")
        if not (self.lr > 0 and self.lr_ratio > 0):
            raise LopsidedError(
                f"method {self.name!r}: lr and lr_ratio must be positive, got lr={self.lr}, lr_ratio={self.lr_ratio}"
            )
        if self.lr_ratio != 1.0 and self.train != "AB":
            raise LopsidedError(
                f"method {self.name!r}: lr_ratio={self.lr_ratio} needs two trained factors, got {self.train!r}"
            )

    @property
    def is_adapter(self) -> bool:
        """Whether it adds low-rank terms; full fine-tuning and a trained head do not."""
        return self.train not in ("all", "head")

    def side(self, seed: int, link: int) -> Side:
        """The factor that learns in one link of one layer: a coin is tossed by the layer's seed and the link.

        Source:
            Bernoulli-LoRA, arXiv:2508.03820.
        """
        if self.train == "coin":
            return "B" if generator(seed, link, 2).uniform() < self.p else "A"
        return self.train  # type: ignore[return-value]

    def sketched_width(self, d_out: int, d_in: int) -> int:
        """The width that the rank must not exceed: the smaller one where a coin decides."""
        return {"B": d_in, "AB": d_in, "A": d_out, "coin": min(d_out, d_in)}[self.train]

    def trained_numbers(self, d_out: int, d_in: int, r: int) -> int:
        """How many numbers one layer trains: r·d_out for B, r·d_in for A, their sum for both.

        A coin holds room for the wider factor, so that the optimizer keeps one tensor for the whole chain.
        """
        return {
            "B": d_out * r,
            "A": d_in * r,
            "AB": (d_out + d_in) * r,
            "coin": max(d_out, d_in) * r,
            "all": d_out * d_in,
            "head": 0,
        }[self.train]

    @property
    def trained_formula(self) -> str:
        """`trained_numbers` as a formula; a task's head comes on top."""
        return {
            "B": "r·d_out",
            "A": "r·d_in",
            "AB": "r·(d_out + d_in)",
            "coin": "r·max(d_out, d_in)",
            "all": "d_out·d_in",
            "head": "0",
        }[self.train]

    def parts(self) -> dict[str, Any]:
        """The method as plain data, for a saved configuration."""
        return {
            "name": self.name,
            "train": self.train,
            "sketch": None if self.sketch is None else self.sketch.parts(),
            "chain": None if self.chain is None else dataclasses.asdict(self.chain),
            "lr_ratio": self.lr_ratio,
            "p": self.p,
            "lr": self.lr,
            "compared": self.compared,
            "source": self.source,
        }


def method_from_parts(parts: Mapping[str, Any]) -> Method:
    """The method that `Method.parts` described, whether or not its name is registered here."""
    known = {field.name for field in dataclasses.fields(Method)}
    if set(parts) != known:
        raise LopsidedError(f"a method's parts are {sorted(known)}, got {sorted(parts)}; upgrade lopsided")
    sketch = None if parts["sketch"] is None else sketch_from_parts(parts["sketch"])
    chain = None if parts["chain"] is None else Chain(**parts["chain"])
    return Method(**{**parts, "sketch": sketch, "chain": chain})


def register(
    name: str,
    *,
    train: Train,
    sketch: Sketch | None = None,
    chain: Chain | None = None,
    source: str,
    **parts: Any,
) -> Method:
    """Add a method to `METHODS`, and so to the command line, the tests, the benchmarks and the report.

    Raises:
        LopsidedError: if the name is taken by other parts.

    Example:
        >>> from lopsided import Gaussian
        >>> register("gauss_b", train="B", sketch=Gaussian(), source="this docstring").trained_numbers(8, 4, 2)
        16
        >>> del METHODS["gauss_b"]
    """
    method = Method(name=name, train=train, sketch=sketch, chain=chain, source=source, **parts)
    # By parts: a notebook's cell that runs again defines its sketch's class anew.
    if name in METHODS and METHODS[name].parts() != method.parts():
        raise LopsidedError(f"method {name!r} is registered with other parts; choose another name")
    METHODS[name] = method
    return method


def method_named(name: str) -> Method:
    """The registered method of that name.

    Raises:
        LopsidedError: if there is none, listing the known ones and the nearest.
    """
    if name not in METHODS:
        raise LopsidedError(unknown("method", name, METHODS))
    return METHODS[name]
