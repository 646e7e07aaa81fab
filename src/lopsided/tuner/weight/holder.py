"""The weight under a layer's adapters, and the one writer into it.

Notation: W0 of shape (d_out, d_in) is the base layer's own weight; a `Conv1D` holds its transpose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.errors import LopsidedError
from lopsided.files.fingerprint import fingerprint
from lopsided.tuner.forward.plain_product import why_no_product
from lopsided.tuner.weight.delta import Part
from lopsided.tuner.weight.sharded import gathered, overwrite
from lopsided.tuner.weight.undo import Undo

# What is in the weight: (revision of an adapter's past links, its scale, its name if its link in training is in it).
Held = tuple[tuple[int, float, str | None], ...]


class BaseWeight:
    """The weight of a base layer: W0, and what is held beside it.

    Args:
        layer: with the weight.
        shared: whether another module holds the same weight; writing into it would change that one, too.
    """

    def __init__(self, layer: nn.Module, *, shared: bool) -> None:
        self.layer, self.shared = layer, shared
        self.transposed = isinstance(layer, Conv1D)
        # As it was when the layer was adapted: where past links are must not change with a hook that comes or goes.
        self.why_no_product = why_no_product(layer)
        # None while the weight is being changed, so that nothing is taken for done after a call that was interrupted.
        self.held: Held | None = ()
        self._undo = Undo()
        # The fingerprint of W0, which takes a whole undo to see while something is written over it.
        self._seen: str | None = None

    def with_layer(self, layer: nn.Module) -> BaseWeight:
        """The same for a copy of the layer, for pickle."""
        twin = copy.copy(self)
        twin.layer = layer
        return twin

    @property
    def tensor(self) -> Tensor:
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def written(self) -> bool:
        """Whether it holds anything but W0."""
        return self._undo.written

    def view(self) -> Tensor:
        """The weight as (d_out, d_in), past autograd's version counter."""
        weight = self.tensor.data
        return weight.T if self.transposed else weight

    def is_plain(self) -> bool:
        """Whether it can be written to: floating point, in one piece, in memory, of this process alone."""
        weight = self.tensor
        alone = weight.device.type != "cpu" or not weight.is_shared()
        return type(weight) is nn.Parameter and weight.is_floating_point() and alone and not weight.is_meta

    def takes_links(self) -> bool:
        """Whether the past links of a chain belong into it."""
        wide = self.tensor.dtype in (torch.float32, torch.float64)
        return not self.shared and self.why_no_product is None and wide and self.is_plain()

    def check_writable(self, module: str, asked: str, fix: str, *, as_adapted: bool = False) -> None:
        """Raise if it cannot be written to, or if ΔW in it is not what the adapter computes.

        Args:
            module, asked, fix: for the error: the layer's name, what was received, and what to do.
            as_adapted: take what the layer computed when it was adapted, as `takes_links` does, not what it does now.
        """
        weight = self.tensor
        reason = self.why_no_product if as_adapted else why_no_product(self.layer)
        if self.shared:
            reason = "it shares its weight with another module"
        elif not self.is_plain():
            reason = (
                f"its weight is a {type(weight).__name__} of {weight.dtype}, computed, quantized, sharded, shared or "
                "offloaded"
            )
        if reason:
            raise LopsidedError(f"{module} can't be written to, got {asked}: {reason}; {fix}")

    def hold(self, wanted: Held, parts: Callable[[], Sequence[Part]], module: str) -> bool:
        """Make the weight W0 plus these parts, or W0 itself.

        Args:
            parts: makes what `wanted` stands for, of tensors that nobody changes.
            module: the layer's name, for errors.

        Returns:
            Whether the weight was sharded: its links stand beside it from then on.
        """
        if wanted and not self.written:
            # A cast or a load may have made it another one since the last look.
            self._seen = fingerprint(self.view())
        self.held = None
        was_sharded = self._change(lambda W: self._undo.write(W, parts(), module)) if wanted else self.restore()
        self.held = wanted
        return was_sharded

    def restore(self) -> bool:
        """Make the weight W0 again; returns what `hold` returns."""
        was_sharded = self._change(self._undo.restore) if self.written else False
        self.held = ()
        return was_sharded

    def forget(self) -> None:
        """Take whatever the weight holds for W0: another one is about to be copied into it."""
        self._undo, self.held = Undo(), ()

    def _change(self, change: Callable[[Tensor], None]) -> bool:
        """Change the weight; one that was sharded with links in it is gathered and cut again, by all processes."""
        view = self.view()
        weight = gathered(view)
        change(weight)
        if weight is view:
            return False
        overwrite(view, weight)
        return True

    def original(self) -> Tensor:
        """A copy of W0 as (d_out, d_in), on the CPU."""
        return self._undo.original(self.view())

    def lost(self, parts: Sequence[Part]) -> float:
        """The share of the parts' norm that rounding to the weight's dtype took, once they are held."""
        return self._undo.loss(self.view(), parts)

    def fingerprint(self) -> str:
        """The fingerprint of W0, whatever is written over it."""
        if not self.written:
            self._seen = fingerprint(self.view())
        assert self._seen is not None, "it is looked at before anything is written"
        return self._seen
