"""What a fine-tuning method is: a point in a small product space, written as data.

Notation: a layer maps d_in to d_out and holds W0 (d_out x d_in). An adapter adds ΔW = s·B·A with A of r x d_in,
B of d_out x r and s = alpha/r. A `Side` is what trains, a `Sketch` what does not, and a `Chain` says when a new
sketch is drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lopsided.errors import LopsidedError, unknown
from lopsided.method.chain import Chain
from lopsided.method.side_contract import FLAT_FIELDS, AdapterSide, LinkSide, Side, side_from_flat
from lopsided.method.sketch import Sketch, sketch_from_parts

METHODS: dict[str, Method] = {}
# Methods that are not our own table's, by the word before the colon of "space:name": each entry is a function that
# returns the method of a name, and raises LopsidedError for a name that it does not know.
NAMESPACES: dict[str, Callable[[str], Method]] = {}


@dataclass(frozen=True, kw_only=True, init=False)
class Method:
    """A way to fine-tune, as data.

    Args:
        name: what users call it, in lower case.
        train: which side learns, by its word: "B", "A", "AB" (both), "coin" (one of them, drawn for each layer and
            link), "all" (the whole model) or "head" (the task's head alone). Or the side itself, as `Coin(p=0.3)`, with
            its own lr_ratio or p.
        sketch: how the other factor is drawn; with "AB", how A starts. None where there is no factor.
        chain: when a new link starts; None for a method of one link.
        lr_ratio: lr_B / lr_A, where both learn.
        p: probability that a coin says "B".
        lr: default learning rate of `lopsided train`; docs/decisions says how it was chosen.
        compared: whether `lopsided compare --methods study` runs it.
        source: the paper it comes from.

    Attributes:
        side: the side that `train` names. What depends on the side is asked of it.

    Raises:
        LopsidedError: if the parts contradict each other.

    Example:
        >>> from lopsided import Columns
        >>> from lopsided.method import Coin
        >>> method = Method(name="mine", train=Coin(p=0.3), sketch=Columns(), source="this docstring")
        >>> method.train, method.p, method.side
        ('coin', 0.3, Coin(p=0.3))
    """

    name: str
    train: str
    sketch: Sketch | None
    chain: Chain | None
    lr_ratio: float
    p: float
    lr: float
    compared: bool
    source: str
    side: Side = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        *,
        name: str,
        train: str | Side,
        sketch: Sketch | None = None,
        chain: Chain | None = None,
        lr_ratio: float = FLAT_FIELDS["lr_ratio"],
        p: float = FLAT_FIELDS["p"],
        lr: float = 1e-3,
        compared: bool = False,
        source: str,
    ) -> None:
        flat = {"lr_ratio": lr_ratio, "p": p}
        word = train
        if isinstance(train, Side):
            word, flat = train.word, _merged(name, train, flat)
        values = {
            **{"name": name, "train": word, "sketch": sketch, "chain": chain, **flat},
            **{"lr": lr, "compared": compared, "source": source},
        }
        # The class is frozen: these are the only assignments.
        for key, value in values.items():
            object.__setattr__(self, key, value)
        self._check_numbers()
        try:
            side = side_from_flat(self.train, flat)
        except LopsidedError as error:
            raise LopsidedError(f"method {name!r}: {error}") from None
        if isinstance(train, Side) and side != train:
            raise LopsidedError(
                f"method {name!r}: {train} is not the side that {word!r} names, {side}; give its class its own word"
            )
        object.__setattr__(self, "side", side)
        self._check_parts()

    def _check_numbers(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise LopsidedError(f"method {self.name!r}: p is a probability, got {self.p}")
        if not (self.lr > 0 and self.lr_ratio > 0):
            raise LopsidedError(
                f"method {self.name!r}: lr and lr_ratio must be positive, got lr={self.lr}, lr_ratio={self.lr_ratio}"
            )

    def _check_parts(self) -> None:
        if self.is_adapter != (self.sketch is not None):
            what = "needs a sketch" if self.is_adapter else "has no factor to sketch"
            raise LopsidedError(f"method {self.name!r} trains {self.train!r}, which {what}; got {self.sketch}")
        if self.chain is not None and not self.is_adapter:
            raise LopsidedError(
                f"method {self.name!r} trains {self.train!r}, which can't be chained; expected an adapter method; "
                "leave the chain out"
            )
        if self.chain is not None and self.chain.jumps and not isinstance(self.side, LinkSide):
            raise LopsidedError(
                f"method {self.name!r}: a chain with merge=False and redraw=True moves the learned factor to the next "
                f"sketch, which needs one side for all links; got {self.train!r}, which may change it; leave merge at "
                "True, or redraw at False"
            )
        if self.sketch is not None and self.sketch.reads_inputs:
            self._check_reading(type(self.sketch).__name__)
        if self.lr_ratio != 1.0 and "lr_ratio" not in self.side.flat():
            raise LopsidedError(
                f"method {self.name!r}: lr_ratio={self.lr_ratio} needs two trained factors, got train={self.train!r}; "
                "leave lr_ratio out, or train 'AB'"
            )

    def _check_reading(self, sketch: str) -> None:
        if not self.adapter_side.sketches_inputs:
            raise LopsidedError(
                f"method {self.name!r}: sketch {sketch} is drawn from a layer's inputs, which it has to multiply; got "
                f"{self.train!r}, whose sketch may multiply outputs; train B, or both factors"
            )
        if self.chain is not None and self.chain.redraw:
            raise LopsidedError(
                f"method {self.name!r}: sketch {sketch} is drawn from a layer's inputs, once before training, and a "
                "chain with redraw=True draws at every link; got such a chain; set redraw=False, or leave the chain out"
            )

    @property
    def reads_inputs(self) -> bool:
        """Whether its sketch is drawn from the layers' inputs, so that an adapter of it has to be calibrated."""
        return self.sketch is not None and bool(self.sketch.reads_inputs)

    @property
    def is_adapter(self) -> bool:
        """Whether it adds low-rank terms; full fine-tuning and a trained head do not."""
        return isinstance(self.side, AdapterSide)

    @property
    def adapter_side(self) -> AdapterSide:
        """The side, of a method that is an adapter.

        Raises:
            LopsidedError: if it is none.
        """
        if not isinstance(self.side, AdapterSide):
            raise LopsidedError(
                f"method {self.name!r} trains {self.train!r} and is no adapter; expected one that trains a factor; "
                "choose another method"
            )
        return self.side

    def sketched_width(self, d_out: int, d_in: int) -> int:
        """Return the width that the rank must not exceed: the smaller one where a coin decides."""
        return self.adapter_side.sketched_width(d_out, d_in)

    def trained_numbers(self, d_out: int, d_in: int, r: int) -> int:
        """Return how many numbers one layer trains: r·d_out for B, r·d_in for A, their sum for both.

        A coin has room for the wider factor, so that the optimizer keeps one tensor for the whole chain.
        """
        return self.side.count(d_out, d_in, r)

    def data_numbers(self, d_in: int, r: int) -> int:
        """Return how many numbers of one layer the training rows decide next to the trained ones: those of a sketch
        that reads inputs and stays a factor of ΔW.
        """
        if self.sketch is None or not self.adapter_side.keeps_sketch:
            return 0
        return self.sketch.data_numbers(r, d_in)

    @property
    def trained_formula(self) -> str:
        """`trained_numbers` as a formula; a task's head comes on top."""
        return self.side.formula

    def parts(self) -> dict[str, Any]:
        """Return the method as plain data, for a saved configuration."""
        return {
            "name": self.name,
            "train": self.train,
            "sketch": None if self.sketch is None else self.sketch.parts(),
            "chain": None if self.chain is None else self.chain.parts(),
            "lr_ratio": self.lr_ratio,
            "p": self.p,
            "lr": self.lr,
            "compared": self.compared,
            "source": self.source,
        }


def _merged(name: str, side: Side, flat: Mapping[str, float]) -> dict[str, float]:
    """Return the flat fields with those of a side in their places.

    Raises:
        LopsidedError: if a field is given twice, with two values.
    """
    own = side.flat()
    for key, value in own.items():
        if flat.get(key, value) not in (value, FLAT_FIELDS.get(key)):
            raise LopsidedError(
                f"method {name!r}: train={side} and {key}={flat[key]} are the same number; give one of them"
            )
    return {**flat, **{key: value for key, value in own.items() if key in flat}}


def method_from_parts(parts: Mapping[str, Any]) -> Method:
    """Return the method that `Method.parts` described, whether or not its name is registered here.

    Raises:
        LopsidedError: if the parts are not those of a method, or contradict each other.
    """
    known = {part.name for part in dataclasses.fields(Method) if part.init}
    if set(parts) != known:
        raise LopsidedError(f"a method's parts are {sorted(known)}, got {sorted(parts)}; upgrade lopsided")
    sketch = None if parts["sketch"] is None else sketch_from_parts(parts["sketch"])
    chain = None if parts["chain"] is None else Chain(**parts["chain"])
    return Method(**{**parts, "sketch": sketch, "chain": chain})


def register(
    name: str,
    *,
    train: str | Side,
    sketch: Sketch | None = None,
    chain: Chain | None = None,
    source: str,
    **parts: Any,
) -> Method:
    """Add a method to `METHODS`, and with that to the command line, the tests, the benchmarks and the report.

    Raises:
        LopsidedError: if a method with other parts has the name already, or if the name has a colon, which is for
            the names of `NAMESPACES`.

    Example:
        >>> from lopsided import Gaussian
        >>> register("gauss_b", train="B", sketch=Gaussian(), source="this docstring").trained_numbers(8, 4, 2)
        16
        >>> del METHODS["gauss_b"]
    """
    if ":" in name:
        raise LopsidedError(f"method {name!r} has a colon, which stands between a space and a name; leave it out")
    if isinstance(sketch, type):
        raise LopsidedError(f"method {name!r}: expected a sketch, received its class; write {sketch.__name__}()")
    method = Method(name=name, train=train, sketch=sketch, chain=chain, source=source, **parts)
    # By parts: a notebook's cell that runs again defines its sketch's class again.
    if name in METHODS and METHODS[name].parts() != method.parts():
        raise LopsidedError(f"method {name!r} is registered with other parts; choose another name")
    METHODS[name] = method
    return method


def method_named(name: str) -> Method:
    """Return the method of a name: one of `METHODS`, or "space:name" of a space of `NAMESPACES`.

    Raises:
        LopsidedError: if there is none, listing the known ones and the nearest.
    """
    space, colon, inner = name.partition(":")
    if colon:
        if space not in NAMESPACES:
            raise LopsidedError(f"method {name!r}: " + unknown("space", space, NAMESPACES))
        return NAMESPACES[space](inner)
    if name not in METHODS:
        raise LopsidedError(
            unknown("method", name, METHODS) + "; one of your own must be registered, by "
            "import or by --plugin FILE.py where a verb has it"
        )
    return METHODS[name]
