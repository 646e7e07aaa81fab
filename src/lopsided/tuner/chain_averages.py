"""Averages of weights over a chain are refused: each link has a sketch of its own.

Notation: in link t the function holds s·B_t·A_t with a sketch A_t that the next link replaces. An average of B_t and
B_{t+1} belongs to neither of the sketches, so a moving average of a chain's factors is only one within a link. A chain
that neither merges nor redraws changes no factor at an advance, and is averaged like one link.

The classes below keep such averages. `peft_seams` puts a check in front of their updates: one that mixes links raises.
What an average of `state_dict`s gives is refused when it is loaded, since the checksums of two sketches average to that
of none. A loop written by hand over `parameters()` cannot be seen: average within a link, and begin again at
each advance.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.tuner.layer import LIVE_LAYERS, LopsidedLinear
from lopsided.tuner.model_queries import layers_of


class Average(NamedTuple):
    """A class that averages weights: where it is defined, and the method that takes one more set of them in.

    Args:
        optional: whether its library may be missing, or another version.
    """

    module: str
    name: str
    update: str
    optional: bool = True


AVERAGES = (
    Average("torch.optim.swa_utils", "AveragedModel", "update_parameters", optional=False),
    Average("torch_ema.ema", "ExponentialMovingAverage", "update"),
    Average("ema_pytorch.ema_pytorch", "EMA", "update"),
    Average("ema_pytorch.post_hoc_ema", "KarrasEMA", "update"),
    Average("timm.utils.model_ema", "ModelEma", "update"),
    Average("timm.utils.model_ema", "ModelEmaV2", "update"),
    Average("timm.utils.model_ema", "ModelEmaV3", "update"),
    Average("diffusers.training_utils", "EMAModel", "step"),
)
# The links at which an average was begun, by layer and adapter.
_first_links: weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[LopsidedLinear, dict[str, int]]]
_first_links = weakref.WeakKeyDictionary()


def noted_start(begin: Callable[..., None]) -> Callable[..., None]:
    """Return an average's `__init__`, which notes at which link every live adapter stands."""

    @functools.wraps(begin)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        links = {layer: {name: a.link for name, a in layer.adapters.items()} for layer in LIVE_LAYERS}
        _first_links[self] = weakref.WeakKeyDictionary(links)

    return __init__


def checked_update(update: Callable[..., Any]) -> Callable[..., Any]:
    """Return an average's update, which raises if what it is given stands at another link than the average."""

    @functools.wraps(update)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tuple(map(_listed, args)), {key: _listed(value) for key, value in kwargs.items()}
        _check(self, [*args, *kwargs.values()])
        return update(self, *args, **kwargs)

    return checked


def _listed(value: Any) -> Any:
    """Return a generator's items: parameters may come as one, which can be walked only once."""
    return list(value) if isinstance(value, Iterator) else value


def _check(average: Any, arguments: list[Any]) -> None:
    for layer in _concerned(average, arguments):
        for name, adapter in layer.adapters.items():
            first = _link_of(average, layer, name)
            chain = adapter.method.chain
            if chain is not None and chain.restarts and adapter.link != first:
                kind = type(average).__name__
                raise LopsidedError(
                    f"{kind} was begun at link {first} of adapter {name!r}, whose chain stands at link "
                    f"{adapter.link} in {adapter.module}: their factors belong to different sketches; expected an "
                    f"average within one link; make a new {kind} after each advance_chain, and use what it holds before"
                )


def _link_of(average: Any, layer: LopsidedLinear, name: str) -> int:
    """Return the link at which an average of this layer's adapter was begun."""
    if average in _first_links:
        return _first_links[average].get(layer, {}).get(name, 0)
    # A copy of an average: what it holds is a copy of the layer.
    models, _ = _among([average])
    copies = [other.adapters for model in models for other in layers_of(model).values()]
    links = [a[name].link for a in copies if name in a and a[name].module == layer.adapters[name].module]
    # Otherwise it was begun before its library was looked at: at the last advance, or earlier.
    return links[0] if links else 0


def _concerned(average: Any, arguments: list[Any]) -> list[LopsidedLinear]:
    """Return the layers that an update reads: of a model or parameters that it is given, or else of what it holds."""
    models, parameters = _among(arguments)
    if not models and not parameters:
        models, parameters = _among([average, *vars(average).values()])
    inside = {layer for model in models for layer in layers_of(model).values()}
    return [
        layer
        for layer in LIVE_LAYERS
        if layer in inside or any(id(f) in parameters for name in layer.adapters for f in layer.trained(name).values())
    ]


def _among(values: Iterable[Any]) -> tuple[list[nn.Module], set[int]]:
    """Return the modules, and the parameters by identity, in values, in lists of them, and behind weak references."""
    flat = [item for value in values for item in (value if isinstance(value, (list, tuple)) else [value])]
    items = [item() if isinstance(item, weakref.ref) else item for item in flat]
    return [x for x in items if isinstance(x, nn.Module)], {id(x) for x in items if isinstance(x, Tensor)}
