"""Calibration: second moments of the layers' inputs, computed once before training, for sketches that read data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.method import InputMoments
from lopsided.method.sketch import Sketch, checksum
from lopsided.models.mode_contexts import model_mode
from lopsided.tuner import LopsidedLinear, layers_of, layers_with
from lopsided.tuner.adapter import Adapter, LinkSketch, select
from lopsided.tuner.arrivals import check_unmerged, take_over
from lopsided.tuner.forward.compute import Selected
from lopsided.tuner.input_sums import Batch, InputReader, SummedLayer
from lopsided.tuner.links import begin_calibrated
from lopsided.tuner.processes import from_first
from lopsided.tuner.weight.sharded import gathered

# Bytes that sums of products take at a time.
LIMIT = 2**30


@dataclass(frozen=True, kw_only=True)
class CalibratedLayer:
    """What calibration came to in one layer.

    Args:
        module: the layer's name. adapter: the adapter's.
        rows: how many inputs were seen, such as tokens.
        share: of E‖x‖² that lies in the rows of S, from 0 to 1; a random sketch of orthonormal rows has r/d_in.
    """

    module: str
    adapter: str
    rows: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What `calibrate` did.

    Args:
        layers: each layer of each adapter that got its sketch; none where no adapter reads data.
        moments: number of distinct inputs among the layers; layers that share their inputs count once.
        passes: how often all batches went through the model.
        seconds: of wall time.
    """

    layers: tuple[CalibratedLayer, ...] = ()
    moments: int = 0
    passes: int = 0
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """The mean share over the layers; NaN without layers."""
        return float(np.mean([layer.share for layer in self.layers])) if self.layers else float("nan")

    def __str__(self) -> str:
        if not self.layers:
            return "no adapter that reads data had to be calibrated"
        rows = max(layer.rows for layer in self.layers)
        return (
            f"{len(self.layers)} layers with {self.moments} distinct inputs calibrated from {rows} input rows, in "
            f"{self.passes} passes and {self.seconds:.1f} s; their sketches keep {self.share:.0%} of E‖x‖²"
        )


def calibrate(
    model: nn.Module, batches: Iterable[Batch | Tensor], *, adapter_name: str | None = None, limit: int = LIMIT
) -> Calibration:
    """Draw the sketches of the adapters that read data, from batches of training rows.

    Before calibration such an adapter cannot compute, train, merge or be saved: each attempt raises an error that names
    this function. Afterwards it is like any other: the sketch is in its file, and loading it needs no data. Adapters of
    methods that read no data are left as they are, so that one program serves all methods.

    The inputs are those of the base model, with adapters and dropout off. Padding does not count, by the batch's
    `attention_mask` (`lopsided.tuner.input_sums.Counted`). Second moments are exact up to float32 sums. A few hundred
    rows are enough for a sketch of rank r in layers of d inputs where they have several times d tokens. The first batch
    goes through the model once to see which layers share their inputs. Then all batches go through it once for every
    `limit` bytes of distinct moments, 4·d² each.

    With several processes, all of them must call it, each with as many batches, its own or the same: sums are over all
    processes, and every process gets the first one's sketch, bit for bit.

    Args:
        model: with adapters, before training, before it is merged, compiled or sharded.
        batches: keyword arguments of the model's forward, or one tensor, or positional arguments. They are kept in
            memory and moved to the model's device.
        adapter_name: None takes every adapter that has seen no data yet. By name, an adapter is calibrated again, which
            replaces its sketch.
        limit: bytes that moments may take at a time.

    Returns:
        What share of its inputs' square norm each layer's sketch keeps.

    Raises:
        LopsidedError: for a model without the adapter, one that has been trained or is merged, no batches, a layer that
            no input reaches, or inputs that are not finite, all zero or fewer than r.

    Source:
        IPA: Yin et al. 2025, arXiv:2509.04398; EVA: Paischer et al. 2024, arXiv:2410.07170.

    Example:
        >>> import torch, lopsided
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> model = lopsided.adapt(net, "act_cla", r=2, target_modules="all-linear")
        >>> x = torch.ones(16, 8) * torch.tensor([1.0, 1, 9, 1, 1, 1, 9, 1])
        >>> [round(layer.share, 2) for layer in lopsided.calibrate(model, [x]).layers]
        [0.96]
        >>> model.base_model.model[0].adapters["default"].sketches[0].factor.indices
        tensor([2, 6])
    """
    start = time.perf_counter()
    adapters = _adapters_to_calibrate(model, adapter_name)
    if not adapters:
        return Calibration()
    layers = layers_of(model)
    reader = InputReader(
        model=model,
        watched={
            module: SummedLayer(layer=layers[module], products=any(map(_reads_products, each.values())))
            for module, each in adapters.items()
        },
        batches=_batches_on(batches, next(iter(model.parameters())).device),
        limit=limit,
    )
    sketches: dict[tuple[str, str], LinkSketch] = {}
    seen: list[CalibratedLayer] = []
    moments = 0
    # Tensors of inference mode have no versions, by which a tensor that was changed in place is told apart.
    with model_mode(model, training=False), torch.inference_mode(False), torch.no_grad(), _switched_off(model):
        for sharing, sums in reader.each():
            moments += 1
            inputs, drawn = sums.moments(sharing.members[0]), _Drawn()
            for module in sharing.members:
                for name, adapter in adapters[module].items():
                    sketch = drawn.sketch_of(adapter, layers[module], inputs)
                    share = _share(sketch, inputs)
                    sketches[module, name] = sketch
                    seen.append(CalibratedLayer(module=module, adapter=name, rows=inputs.rows, share=share))
    # All layers change together, or none does.
    for (module, name), sketch in sketches.items():
        begin_calibrated(layers[module], name, sketch)
    places = {module: place for place, module in enumerate(adapters)}
    return Calibration(
        layers=tuple(sorted(seen, key=lambda layer: places[layer.module])),
        moments=moments,
        passes=reader.passes,
        seconds=time.perf_counter() - start,
    )


def needs_calibration(model: nn.Module) -> bool:
    """Return whether an adapter of the model reads data, and has seen none."""
    return any(adapter.uncalibrated for layer in layers_of(model).values() for adapter in layer.adapters.values())


def _adapters_to_calibrate(model: nn.Module, adapter_name: str | None) -> dict[str, dict[str, Adapter]]:
    """Return the adapters by module and name, after every check that can be made before a forward pass.

    Raises:
        LopsidedError: if there is no adapter at all, or one can't be calibrated now.
    """
    layers = layers_of(model) if adapter_name is None else layers_with(model, adapter_name)
    if not layers:
        raise LopsidedError(
            f"{type(model).__name__} holds no adapter of lopsided; expected a model from lopsided.adapt; adapt it first"
        )
    chosen: dict[str, dict[str, Adapter]] = {}
    for module, layer in layers.items():
        for name in layer.adapters if adapter_name is None else (adapter_name,):
            adapter = layer.adapters[name]
            if adapter.arrivals:
                take_over(layer, name)
            if adapter.method.reads_inputs and (adapter.uncalibrated or adapter_name is not None):
                _check_new(layer, name)
                chosen.setdefault(module, {})[name] = adapter
    return chosen


def _check_new(layer: LopsidedLinear, name: str) -> None:
    adapter = layer.adapters[name]
    check_unmerged(layer, name)
    # Where a factor starts at the sketch, it has the sketch in it.
    zero = [k for k in adapter.letters if adapter.pending or adapter.start_of(k) is None]
    trained = {k: bool(gathered(factor).any()) for k, factor in layer.trained(name).items() if k in zero}
    if adapter.link or adapter.saved_link or any(trained.values()):
        raise LopsidedError(
            f"{adapter.module}: adapter {name!r} has been trained, and another sketch would change its function; "
            "expected a new adapter; calibrate before training"
        )


def _reads_products(adapter: Adapter) -> bool:
    assert adapter.method.sketch is not None
    return adapter.method.sketch.reads_inputs == "products"


def _batches_on(batches: Iterable[Batch | Tensor], device: torch.device) -> list[Batch]:
    """Return the batches on a device: they go through the model more than once.

    Raises:
        LopsidedError: without any.
    """
    moved = [_moved(batch, device) for batch in batches]
    if not moved:
        raise LopsidedError("expected batches of training rows, got none; pass a list of them, or a loader")
    return moved


def _moved(batch: Batch | Tensor, device: torch.device) -> Batch:
    if isinstance(batch, Tensor):
        return [_moved_value(batch, device)]
    if isinstance(batch, Mapping):
        return {key: _moved_value(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [_moved_value(value, device) for value in batch]
    raise LopsidedError(
        f"a batch is {type(batch).__name__}, expected a mapping of the forward's arguments, a tensor, or a sequence of "
        "positional arguments; pass a list of batches"
    )


def _moved_value(value: Any, device: torch.device) -> Any:
    # Where weights are offloaded, the hooks that bring them in move the inputs, too.
    return value.to(device) if isinstance(value, Tensor) and device.type != "meta" else value


@contextmanager
def _switched_off(model: nn.Module) -> Iterator[None]:
    """Compute with the base model alone inside the context; what is active stays noted, factors keep their flags."""
    layers = list(layers_of(model).values())
    were = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
            layer.settle()
        yield
    finally:
        for layer, disabled in zip(layers, were, strict=True):
            layer._disable_adapters = disabled
            layer.settle()


class _Drawn:
    """The sketches of layers that have the same inputs: one that depends on nothing else is computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Sketch, int], LinkSketch] = {}

    def sketch_of(self, adapter: Adapter, layer: LopsidedLinear, inputs: InputMoments) -> LinkSketch:
        """Return the sketch of an adapter."""
        sketch = adapter.method.sketch
        assert sketch is not None
        if sketch.random or sketch.reads_weight:
            return self._draw(adapter, layer, inputs)
        key = sketch, adapter.r
        if key not in self._known:
            self._known[key] = self._draw(adapter, layer, inputs)
        return self._known[key]

    @staticmethod
    def _draw(adapter: Adapter, layer: LopsidedLinear, inputs: InputMoments) -> LinkSketch:
        drawn = adapter.draw(0, layer.base_weight.for_sketches(layer.adapters), inputs)
        if isinstance(drawn.factor, Selected):
            return select(from_first(drawn.factor.indices).numpy(), adapter.d_in)
        S = from_first(drawn.factor)
        return LinkSketch(S, checksum(S.numpy()))


def _share(sketch: LinkSketch, inputs: InputMoments) -> float:
    """Return the share of E‖x‖² in the rows of S: tr(QᵀQΣ) / tr(Σ), with Q an orthonormal basis of them."""
    total = float(inputs.squares.sum())
    if isinstance(sketch.factor, Selected):
        return float(inputs.squares[sketch.factor.indices.numpy()].sum()) / total
    Q = np.linalg.qr(sketch.factor.double().numpy().T)[0]
    if inputs.diagonal:
        return float((inputs.squares[:, None] * Q**2).sum()) / total
    # A dense sketch of the squares alone asked for no Σ.
    return float("nan") if inputs.products is None else float(((inputs.products @ Q) * Q).sum()) / total
