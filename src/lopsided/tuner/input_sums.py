"""Sums over the inputs of adapted layers, from forward passes of the base model.

Notation: x of (d,) is one input of a layer, and a layer's sums are those of x_j² and, where a sketch reads them, of
x·xᵀ, over all its inputs. What counts as an input is a row that is no padding: see `Counted`.

Layers that are called one after the other with the same tensor, as those of query, key and value are, have the same
sums, which are kept once. Which they are is seen in the first batch and checked in all others. Sums of (d, d) take
4·d² bytes, and those of a model may not fit: layers are taken in as many passes as keep within a limit, each of which
goes through all batches. Nothing is approximated; x·xᵀ is summed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lopsided.errors import LopsidedError
from lopsided.method import InputMoments
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.processes import added_up, agreed, several, united

# Keyword arguments of a model's forward, or its positional ones.
Batch = Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class SummedLayer:
    """A layer whose inputs are summed.

    Args:
        layer: d_in is its width.
        products: whether x·xᵀ is summed, too.
    """

    layer: LopsidedLinear
    products: bool

    @property
    def bytes(self) -> int:
        """What its sums take."""
        d = self.layer.in_features
        return 4 * d * d if self.takes_products else 8 * d

    @property
    def takes_products(self) -> bool:
        """Whether sums of x·xᵀ are kept: those of one-hot inputs are diagonal."""
        return self.products and not self.layer.kind.one_hot


@dataclass(frozen=True)
class Sharing:
    """Layers that have the same inputs: the sums are those of the first."""

    members: tuple[str, ...]


@dataclass(eq=False)
class InputSums:
    """The sums of one layer. Squares are summed in float32 within a call, and in float64 over calls, on the CPU.

    Args:
        width: d.
        takes_products: whether x·xᵀ is summed, too; on the device of the first inputs.
        one_hot: whether inputs are tokens.
    """

    width: int
    takes_products: bool
    one_hot: bool
    squares: Tensor = field(init=False)
    products: Tensor | None = field(default=None, init=False)
    rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.squares = torch.zeros(self.width, dtype=torch.float64, device="cpu")

    def add(self, x: Tensor) -> None:
        """Add inputs: (n, d), or n tokens where they are one-hot."""
        if self.one_hot:
            self.squares += torch.bincount(x, minlength=self.width).cpu()
            self.rows += len(x)
            return
        x = x.float()
        self.squares += x.square().sum(0).cpu().double()
        self.rows += len(x)
        if self.takes_products:
            if self.products is None:
                self.products = torch.zeros(self.width, self.width, device=x.device)
            self.products.addmm_(x.T, x)

    def reduce(self) -> None:
        """Add the sums of all processes."""
        numbers = torch.cat([self.squares, torch.tensor([self.rows], dtype=torch.float64, device="cpu")])
        *squares, rows = added_up(numbers).tolist()
        self.squares = torch.tensor(squares, dtype=torch.float64, device="cpu")
        self.rows = round(rows)
        if self.takes_products:
            # A process may have had no batches.
            mine = torch.zeros(self.width, self.width, device="cpu") if self.products is None else self.products
            self.products = added_up(mine)

    def moments(self, module: str) -> InputMoments:
        """Return the means.

        Raises:
            LopsidedError: without inputs, or with ones that are not finite or all zero.
        """
        if self.rows == 0:
            raise LopsidedError(
                f"{module}: no input reached the layer in calibration; expected every adapted layer to be called; pass "
                "batches that reach it, or exclude the module"
            )
        squares = self.squares / self.rows
        if not bool(torch.isfinite(squares).all()):
            raise LopsidedError(
                f"{module}: the layer's inputs hold NaN or Inf in calibration; expected finite ones; check the batches "
                "and the base model"
            )
        if not bool(squares.any()):
            raise LopsidedError(
                f"{module}: the layer's inputs are all zero in calibration, so that none is larger than another; pass "
                "other batches, or exclude the module"
            )
        products = None if self.products is None else self.products.cpu().double().numpy() / self.rows
        return InputMoments(rows=self.rows, squares=squares.numpy(), products=products, diagonal=self.one_hot)


class Counted:
    """Which rows of a layer's input count: all but padding, as the batch's masks say.

    A mask is taken where it has one entry per row. Layers of an encoder, and those of a decoder that read the encoder's
    output, go by `attention_mask`; a decoder's others by `decoder_attention_mask`, or else by the labels, -100 at
    padding. Where no mask fits, as in images or a pooler, every row counts.
    """

    def __init__(self, model: nn.Module) -> None:
        self._masks: dict[str, Tensor] = {}
        self._encoded: Tensor | None = None
        transformer = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
        two_parts = transformer is not None and transformer.config.is_encoder_decoder
        self._encoder: nn.Module | None = transformer.get_encoder() if transformer is not None and two_parts else None
        self._in_encoder = set() if self._encoder is None else set(self._encoder.modules())

    def begin(self, batch: Batch) -> None:
        """Take up the masks of the batch that comes."""
        self._encoded, self._masks = None, {}
        if not isinstance(batch, Mapping):
            return
        masks = {key: batch.get(key) for key in ("attention_mask", "decoder_attention_mask")}
        if masks["decoder_attention_mask"] is None and isinstance(labels := batch.get("labels"), Tensor):
            masks["decoder_attention_mask"] = labels.ne(-100)
        self._masks = {key: mask.bool() for key, mask in masks.items() if isinstance(mask, Tensor)}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notice what an encoder returns inside the context."""
        if self._encoder is None:
            yield
            return
        with self._encoder.register_forward_hook(self._note_encoded):
            yield

    def _note_encoded(self, module: nn.Module, args: Any, output: Any) -> None:
        self._encoded = output[0]

    def rows(self, layer: LopsidedLinear, x: Tensor) -> Tensor:
        """Return the inputs that count of a call of the layer, as its kind reads them."""
        inputs = layer.kind.inputs(layer.base_layer, x)
        reads_encoder = self._encoder is None or layer in self._in_encoder or x is self._encoded
        mask = self._masks.get("attention_mask" if reads_encoder else "decoder_attention_mask")
        fits = mask is not None and mask.numel() == len(inputs)
        return inputs[mask.reshape(-1).to(inputs.device)] if mask is not None and fits else inputs


@dataclass(eq=False)
class _Listener:
    """Reports each call of a watched layer with the number of its input: calls in a row with one unchanged tensor share
    a number.
    """

    hear: Callable[[str, Tensor, int], None]
    number: int = 0
    last: Tensor | None = None
    version: int = 0

    def hook(self, name: str, layer: LopsidedLinear) -> Any:
        """Hook a layer."""

        def on_call(module: nn.Module, args: tuple[Any, ...]) -> None:
            x: Tensor = args[0]
            if x is not self.last or x._version != self.version:
                self.number += 1
            # The tensor is kept until the next call, so that no other one can have its place in memory.
            self.last, self.version = x, x._version
            self.hear(name, x, self.number)

        return layer.register_forward_pre_hook(on_call)


@dataclass(eq=False)
class InputReader:
    """Reads the inputs of layers as batches go through the model, which is in evaluation mode with its adapters off.

    Args:
        model: all of it.
        watched: the layers by name.
        batches: on the model's device.
        limit: bytes that sums may take at a time; a layer that needs more has a pass of its own.
    """

    model: nn.Module
    watched: Mapping[str, SummedLayer]
    batches: Sequence[Batch]
    limit: int
    passes: int = field(default=0, init=False)

    def each(self) -> Iterator[tuple[Sharing, InputSums]]:
        """Yield the layers that share their inputs, with their sums over the batches of all processes."""
        waiting = agreed(self._sharings())
        while waiting:
            chosen = self._fitting(waiting)
            sums, apart = self._pass(chosen)
            if apart := united(apart):
                # A later batch gave layers of one sharing different tensors: they are summed again, each by itself.
                waiting = [part for sharing in waiting for part in _split(sharing, apart)]
                continue
            waiting = waiting[len(chosen) :]
            for sharing in chosen:
                own = sums.pop(sharing.members[0])
                if several():
                    own.reduce()
                yield sharing, own

    def _fitting(self, waiting: Sequence[Sharing]) -> Sequence[Sharing]:
        """Return the first ones whose sums keep within the limit, one at least."""
        taken = 0
        for count, sharing in enumerate(waiting):
            taken += self._merged(sharing).bytes
            if count and taken > self.limit:
                return waiting[:count]
        return waiting

    def _merged(self, sharing: Sharing) -> SummedLayer:
        """Return what the sums of a sharing have to hold."""
        members = [self.watched[name] for name in sharing.members]
        return SummedLayer(layer=members[0].layer, products=any(member.products for member in members))

    def _sharings(self) -> list[Sharing]:
        """Run the first batch, and return which layers are given the same tensors by every call."""
        calls: dict[str, list[int]] = {name: [] for name in self.watched}
        self._run(self.batches[:1], self.watched, lambda name, x, number: calls[name].append(number))
        shared: dict[object, list[str]] = {}
        for name, numbers in calls.items():
            layer = self.watched[name].layer
            # A layer without calls has nothing to share.
            key = (tuple(numbers), layer.kind.reading(layer.base_layer)) if numbers else name
            shared.setdefault(key, []).append(name)
        return [Sharing(tuple(members)) for members in shared.values()]

    def _pass(self, sharings: Sequence[Sharing]) -> tuple[dict[str, InputSums], set[str]]:
        """Return the sums of the first layer of each sharing, and the layers that were given other tensors than it."""
        first = {name: sharing.members[0] for sharing in sharings for name in sharing.members}
        sums = {}
        for sharing in sharings:
            merged = self._merged(sharing)
            sums[sharing.members[0]] = InputSums(
                merged.layer.in_features, merged.takes_products, merged.layer.kind.one_hot
            )
        counted, apart = Counted(self.model), set[str]()
        numbers: dict[str, list[int]] = {name: [] for name in first}

        def hear(name: str, x: Tensor, number: int) -> None:
            numbers[name].append(number)
            if first[name] == name:
                sums[name].add(counted.rows(self.watched[name].layer, x))

        with counted.watching():
            for batch in self.batches:
                counted.begin(batch)
                self._run([batch], {name: self.watched[name] for name in first}, hear)
                apart |= {name for name in first if numbers[name] != numbers[first[name]]}
                for heard in numbers.values():
                    heard.clear()
        self.passes += 1
        return sums, apart

    def _run(
        self, batches: Sequence[Batch], watched: Mapping[str, SummedLayer], hear: Callable[[str, Tensor, int], None]
    ) -> None:
        listener = _Listener(hear)
        with ExitStack() as hooks:
            for name, each in watched.items():
                hooks.enter_context(listener.hook(name, each.layer))
            for batch in batches:
                _call(self.model, batch)


def _call(model: nn.Module, batch: Batch) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    else:
        model(*batch)


def _split(sharing: Sharing, apart: set[str]) -> list[Sharing]:
    """Take layers out of a sharing."""
    together = tuple(name for name in sharing.members if name not in apart)
    return [Sharing(members) for members in (together, *((n,) for n in sharing.members if n in apart)) if members]
