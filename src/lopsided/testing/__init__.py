"""What every method and every sketch must do: the library's own tests, published for users' own.

`check_method` puts a method on small networks of each kind of layer, and tries each contract of
`METHOD_CONTRACTS` there; `check_sketch` does the same for `SKETCH_CONTRACTS`. A broken contract is an `AssertionError`
that says which one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.method import Method
from lopsided.method.sketch import Sketch
from lopsided.testing.method_contracts import METHOD_CONTRACTS
from lopsided.testing.network import NETWORKS, Net, adapted, fits, network, networks_on, optimizer_of, take_steps
from lopsided.testing.sketch_contracts import SKETCH_CONTRACTS

__all__ = [
    "METHOD_CONTRACTS",
    "NETWORKS",
    "SKETCH_CONTRACTS",
    "Net",
    "adapted",
    "check_method",
    "check_sketch",
    "fits",
    "network",
    "networks_on",
    "optimizer_of",
    "take_steps",
]


def check_method(method: Method, device: str = "cpu") -> None:
    """Try every contract of an adapter method, and of its sketch.

    Args:
        device: where the networks stand.

    Raises:
        AssertionError: naming the contract that is broken.
        LopsidedError: if the method is no adapter.

    Example:
        >>> from lopsided import METHODS
        >>> check_method(METHODS["cla"])
    """
    if not method.is_adapter:
        raise LopsidedError(f"method {method.name!r} trains {method.train!r}; expected an adapter method")
    with networks_on(device):
        for kind in filter(partial(fits, method), NETWORKS):
            _try(METHOD_CONTRACTS, f"{method.name} on {kind} layers", method, kind)
    if method.sketch is not None:
        check_sketch(method.sketch)


def check_sketch(sketch: Sketch) -> None:
    """Try every contract of a sketch.

    Raises:
        AssertionError: naming the contract that is broken.

    Example:
        >>> from lopsided import Orthonormal
        >>> check_sketch(Orthonormal())
    """
    _try(SKETCH_CONTRACTS, str(sketch), sketch)


def _try(contracts: Sequence[Callable[..., None]], name: str, *subject: Any) -> None:
    for contract in contracts:
        try:
            contract(*subject)
        except AssertionError as error:
            raise AssertionError(f"{name}, {contract.__name__}: {error}") from error
