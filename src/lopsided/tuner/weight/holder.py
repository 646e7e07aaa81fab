"""What the weight under a layer's adapters holds now, and the one writer into it.

Notation: W0 of shape (d_out, d_in) is the base layer's own weight as its kind takes it for a matrix. ΔW = s·Σ_t B_t·A_t
is what one adapter adds, over the links t of its chain.

The invariant: the weight holds W0 plus the ΔW of every merged adapter, plus the past links of every active chain if the
weight takes links, and nothing else. `settle` restores it after every call that changes what is active or merged. What
is written is always W0 + ΣΔ, rounded once, and `Undo` leads back to the very bits of W0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.files.fingerprint import fingerprint
from lopsided.finite import all_finite
from lopsided.tuner.adapter import CPU, Adapter
from lopsided.tuner.forward.compute import Term
from lopsided.tuner.forward.patched import Lock
from lopsided.tuner.forward.plain_product import why_no_product
from lopsided.tuner.kinds import LayerKind
from lopsided.tuner.weight.delta import Part
from lopsided.tuner.weight.finite_update import check_sum
from lopsided.tuner.weight.sharded import gathered, overwrite
from lopsided.tuner.weight.undo import Undo, report_rounding
from lopsided.tuner.weight.use import Held, Use


class BaseWeight:
    """The weight of a base layer: W0, and what is written over it.

    Args:
        layer: with the weight.
        kind: of the layer.
        shared: whether another module holds the same weight; writing into it would change that one, too.
    """

    def __init__(self, layer: nn.Module, kind: LayerKind, *, shared: bool) -> None:
        self.layer, self.kind, self.shared = layer, kind, shared
        # As it was when the layer was adapted: where past links are must not change with a hook that comes or goes.
        self.why_no_product = why_no_product(layer)
        # Held while the weight is written or lent, so that no thread reads it half changed.
        self.lock = Lock()
        # None while the weight is being changed, so that nothing is taken for done after a call that was interrupted.
        self.held: Held | None = ()
        # Inside a batch of several adapters the weight is W0 for all of them.
        self.mixing = False
        self._undo = Undo()
        # The fingerprint of W0, which takes a whole undo to see while something is written over it.
        self._fingerprint: str | None = None

    @property
    def tensor(self) -> Tensor:
        """The base layer's parameter, whatever it holds now."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def written(self) -> bool:
        """Whether it holds anything but W0."""
        return self._undo.written

    @property
    def device(self) -> torch.device:
        """Where adapters' tensors belong: on the weight's device, or on the CPU where that is not in memory."""
        weight = self.tensor
        return CPU if weight.is_meta else weight.device

    def view(self) -> Tensor:
        """Return the weight as (d_out, d_in), past autograd's version counter."""
        return self.kind.matrix(self.tensor.data)

    # -- what may be written into it -----------------------------------------------------------------------------

    def is_plain(self) -> bool:
        """Return whether it can be written to: floating point, in one piece, in memory, of this process alone."""
        weight = self.tensor
        private = weight.device.type != "cpu" or not weight.is_shared()
        plain = type(weight) is nn.Parameter and weight.is_floating_point() and not weight.is_meta
        return plain and private and self.kind.shares_memory(weight)

    def is_lendable(self) -> bool:
        """Return whether its columns or rows may hold an adapter's during one product."""
        return not self.shared and self.is_plain()

    def takes_links(self, adapter: Adapter) -> bool:
        """Return whether an adapter's past links belong into it; otherwise they are computed next to it."""
        if self.mixing:
            return False
        if adapter.merge_links is not None:
            return adapter.merge_links
        # A narrower weight would round the links: they stay in float32 next to it.
        wide = self.tensor.dtype in (torch.float32, torch.float64)
        return not self.shared and self.why_no_product is None and wide and self.is_plain()

    def check_writable(self, module: str, request: str, fix: str, *, as_adapted: bool = False) -> None:
        """Raise if it cannot be written to, or if ΔW in it is not what the adapter computes.

        Args:
            module, request, fix: for the error: the layer's name, what was received, and what to do.
            as_adapted: take what the layer computed when it was adapted, as `takes_links` does, not what it does now.

        Raises:
            LopsidedError: with the reason.
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
            raise LopsidedError(f"{module} can't be written to, got {request}: {reason}; {fix}")

    def check_can_merge(self, name: str, module: str, trained: Mapping[str, Tensor]) -> None:
        """Raise if an adapter can't be merged into it.

        Args:
            name, module: the adapter's and the layer's, for the error.
            trained: the adapter's factors by letter.

        Raises:
            LopsidedError: if the weight can't be written to, or if a factor holds NaN or Inf.
        """
        self.check_writable(module, "a merge", "leave the adapter unmerged, or use to_lora")
        if not all_finite(*trained.values()):
            raise LopsidedError(
                f"{module}: NaNs detected, so nothing is merged. The adapter {name} seems to be broken; go back "
                "to its last good checkpoint"
            )

    def check_sum(self, module: str, terms: Sequence[Term], scaling: float, *, merged: bool) -> None:
        """Raise if ΔW overflows, or W0 + ΔW where it is to be merged.

        Raises:
            LopsidedError: from `lopsided.tuner.weight.finite_update.check_sum`.
        """
        weight = self.tensor
        check_sum(
            module,
            terms,
            scaling,
            dtype=weight.dtype if merged else torch.float32,
            device=weight.device,
            original=self.original if merged else None,
        )

    # -- writing -------------------------------------------------------------------------------------------------

    def settle(self, use: Use) -> bool:
        """Make it hold W0 plus exactly what a use of the adapters asks for.

        Returns:
            Whether the weight was sharded. Its links are computed next to it from then on.

        Raises:
            LopsidedError: if something has to be written and the weight is not in memory.
        """
        shares = use.shares(self.takes_links)
        # The factor of a merged adapter may have changed since: a merge is written again whatever is held.
        if shares == self.held and all(share.merged is None for share in shares):
            return False
        if self.tensor.is_meta:
            raise LopsidedError(
                f"the base weight under adapters {sorted(use.adapters)} is offloaded, with something merged into it; "
                "expected it in memory; take the offloading off before switching, merging or loading adapters"
            )
        parts = [use.part(share) for share in shares]
        module = next(iter(use.adapters.values())).module if shares else ""
        with self.lock.mutex:
            return self._hold(shares, parts, module)

    def _hold(self, shares: Held, parts: Sequence[Part], module: str) -> bool:
        if shares and not self.written:
            # A cast or a load may have made it another one since the last look.
            self._fingerprint = fingerprint(self.view())
        self.held = None
        if not shares:
            return self.restore()
        was_sharded = self._change(lambda W: self._undo.write(W, parts, module))
        self.held = shares
        return was_sharded

    def restore(self) -> bool:
        """Make the weight W0 again; returns what `settle` returns."""
        was_sharded = self._change(self._undo.restore) if self.written else False
        self.held = ()
        return was_sharded

    def expect_load(self, shape: torch.Size) -> None:
        """Get ready for another W0, of this shape, to be copied into the weight."""
        if shape == self.tensor.shape:
            # Whatever it holds is about to be overwritten.
            self._undo, self.held = Undo(), ()
        else:
            self.restore()

    def _change(self, change: Callable[[Tensor], None]) -> bool:
        """Change the weight; one that was sharded with links in it is gathered and cut again, by all processes."""
        view = self.view()
        weight = gathered(view)
        change(weight)
        if weight is view:
            return False
        overwrite(view, weight)
        return True

    def report_rounding(self, use: Use, module: str) -> None:
        """Warn of what rounding to a 16-bit weight took from the links that are in it."""
        dtype = self.tensor.dtype
        if self.held and dtype in (torch.float16, torch.bfloat16):
            parts = [use.part(share) for share in self.held]
            report_rounding(module, dtype, self._undo.loss(self.view(), parts))

    # -- W0 ------------------------------------------------------------------------------------------------------

    def original(self) -> Tensor:
        """Return a copy of W0 as (d_out, d_in), on the CPU."""
        return self._undo.original(self.view())

    def for_sketches(self, adapters: Mapping[str, Adapter]) -> np.ndarray | None:
        """Return W0 as (d_out, d_in) in float32, for sketches that read it.

        None for a meta or quantized weight, and if no adapter's sketch reads it, since it takes an undo and a copy.
        """
        weight = self.tensor
        is_read = any(a.method.sketch is not None and a.method.sketch.reads_weight for a in adapters.values())
        if weight.is_meta or not weight.is_floating_point() or not is_read:
            return None
        return self.original().to(torch.float32).numpy()

    def original_as_stored(self, live: Tensor, *, lent: bool) -> Tensor:
        """Return W0 as the base layer has it: `live` itself, or a copy where adapters write to it.

        Args:
            live: the base layer's weight, or what a state has of it.
            lent: whether another thread may lend columns to the weight.
        """
        with self.lock.mutex:
            if not self.written:
                return live.detach().clone() if lent else live
            W0 = self.original()
            return self.kind.stored(W0, live.shape).contiguous().to(live.device)

    def fingerprint(self) -> str:
        """Return the fingerprint of W0, whatever is written over it."""
        if not self.written:
            self._fingerprint = fingerprint(self.view())
        assert self._fingerprint is not None, "it is looked at before anything is written"
        return self._fingerprint

    def with_copied_layer(self) -> BaseWeight:
        """Return the same for a copy of the layer that has a weight of its own, which no thread lends columns to."""
        layer, weight = copy.copy(self.layer), self.tensor
        with self.lock.mutex:
            copied = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        layer._parameters = {**layer._parameters, "weight": copied}
        twin = copy.copy(self)
        twin.layer = layer
        return twin


class SameWeight:
    """Refuses a backward pass through a base weight that is no longer the one of the forward pass.

    It is a function of the output's gradient: a hook of the output, or what a fused operation calls first.

    Args:
        base: as it is in the forward pass.
        adapters: for the error.
    """

    def __init__(self, base: BaseWeight, adapters: Mapping[str, Adapter]) -> None:
        self.base, self.adapters, self.held = base, adapters, base.held

    def __call__(self, gradient: Tensor) -> None:
        if self.base.held != self.held:
            raise LopsidedError(
                f"the base weight under adapters {sorted(self.adapters)} was switched between a forward pass and its "
                "backward; expected the same in both; call backward before disable_adapter, set_adapter or an advance"
            )
