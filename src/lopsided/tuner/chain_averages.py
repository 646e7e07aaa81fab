"""Averages of weights over a chain are refused: each link has a sketch of its own.

Notation: in link t the function holds s·B_t·A_t with a sketch A_t that the next link replaces. An average of B_t and
B_{t+1} belongs to neither of the sketches, so a moving average of a chain's factors is only one within a link.

The classes below keep such averages. Their updates are looked at: one that mixes links raises. What an average of
`state_dict`s gives is refused when it is loaded, since the checksums of two sketches average to that of none. A loop
written by hand over `parameters()` can't be seen; docs/chains.md says how to average.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lopsided.errors import LopsidedError
from lopsided.tuner.layer import LIVE_LAYERS, LopsidedLinear, layers_of


class Average(NamedTuple):
    """A class that averages weights: where it is defined, and the method that takes one more set of them in."""

    module: str
    name: str
    update: str


AVERAGES = (
    Average("torch.optim.swa_utils", "AveragedModel", "update_parameters"),
    Average("torch_ema.ema", "ExponentialMovingAverage", "update"),
    Average("ema_pytorch.ema_pytorch", "EMA", "update"),
    Average("ema_pytorch.post_hoc_ema", "KarrasEMA", "update"),
    Average("timm.utils.model_ema", "ModelEma", "update"),
    Average("timm.utils.model_ema", "ModelEmaV2", "update"),
    Average("timm.utils.model_ema", "ModelEmaV3", "update"),
    Average("diffusers.training_utils", "EMAModel", "step"),
)
# The links at which an average was begun, by layer and adapter.
_begun: weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[LopsidedLinear, dict[str, int]]]
_begun = weakref.WeakKeyDictionary()


def watch_averages() -> None:
    """Put the check in front of each class of the table whose module is imported."""
    for module, name, update in AVERAGES:
        if module in sys.modules and (kind := vars(sys.modules[module]).get(name)) is not None:
            method = vars(kind).get(update)
            if method is not None and "watched" not in vars(method):
                setattr(kind, update, _watched(method))
                kind.__init__ = _beginning(kind.__init__)


def _beginning(begin: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(begin)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        links = {layer: {name: a.link for name, a in layer.adapters.items()} for layer in LIVE_LAYERS}
        _begun[self] = weakref.WeakKeyDictionary(links)

    return __init__


def _watched(update: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(update)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tuple(map(_listed, args)), {key: _listed(value) for key, value in kwargs.items()}
        _check(self, [*args, *kwargs.values()])
        return update(self, *args, **kwargs)

    checked.watched = True  # type: ignore[attr-defined]
    return checked


def _listed(value: Any) -> Any:
    """Parameters may come as a generator, which can be walked only once."""
    return list(value) if isinstance(value, Iterator) else value


def _check(average: Any, given: list[Any]) -> None:
    for layer in _concerned(average, given):
        for name, adapter in layer.adapters.items():
            begun = _link_of(average, layer, name)
            if adapter.method.chain is not None and adapter.link != begun:
                kind = type(average).__name__
                raise LopsidedError(
                    f"{kind} was begun at link {begun} of adapter {name!r}, whose chain stands at link "
                    f"{adapter.link} in {adapter.module}: their factors belong to different sketches; expected an "
                    f"average within one link; make a new {kind} after each advance_chain, and use what it holds before"
                )


def _link_of(average: Any, layer: LopsidedLinear, name: str) -> int:
    """The link at which an average of this layer's adapter was begun."""
    if average in _begun:
        return _begun[average].get(layer, {}).get(name, 0)
    # A copy of an average: what it holds is a copy of the layer.
    models, _ = _among([average])
    held = [adapters for model in models for adapters in (other.adapters for other in layers_of(model).values())]
    links = [a[name].link for a in held if name in a and a[name].module == layer.adapters[name].module]
    # Otherwise it was begun before its library was looked at: at the last advance, or earlier.
    return links[0] if links else 0


def _concerned(average: Any, given: list[Any]) -> list[LopsidedLinear]:
    """The chained layers that an update reads: of a model or parameters that it is given, or else of what it holds."""
    models, parameters = _among(given)
    if not models and not parameters:
        models, parameters = _among([average, *vars(average).values()])
    inside = {layer for model in models for layer in layers_of(model).values()}
    return [
        layer
        for layer in LIVE_LAYERS
        if layer in inside or any(id(f) in parameters for name in layer.adapters for f in layer.trained(name).values())
    ]


def _among(values: Iterable[Any]) -> tuple[list[nn.Module], set[int]]:
    """The modules, and the parameters by identity, in some values, in lists of them, and behind weak references."""
    flat = [item for value in values for item in (value if isinstance(value, (list, tuple)) else [value])]
    found = [item() if isinstance(item, weakref.ref) else item for item in flat]
    return [x for x in found if isinstance(x, nn.Module)], {id(x) for x in found if isinstance(x, Tensor)}


assert AveragedModel.__module__ == AVERAGES[0].module, "torch has moved AveragedModel; expected torch.optim.swa_utils"
watch_averages()
