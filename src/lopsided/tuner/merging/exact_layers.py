"""Stock PEFT's LoRA layers with an exact merge and unmerge: subclasses that a model's own layers are turned into.

An instance's class is changed, and nothing is set on the instance in place of a method: `copy.deepcopy` and pickle then
find the methods of the copy. Names, parameters, state dictionaries, forwards and `isinstance` stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft.tuners.lora import layer as lora
from peft.tuners.tuners_utils import check_adapters_to_merge, onload_layer
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.tuner.merging.merged_weight import MergedShare, MergedWeight
from lopsided.tuner.merging.stock_layers import (
    BIAS,
    STOCK_KINDS,
    StockKind,
    adds_to_bias,
    is_dora,
    merged_names,
    parts_of,
    why_no_matrices,
    why_not_exact,
)


@dataclass(eq=False)
class ExactState:
    """What an exact layer knows beyond a stock one.

    Args:
        label: the layer's name in the model.
        weights: the parameters that it can add to, by name; layers with a tied parameter have it in common.
        stays: whether `make_merges_exact` asked for it, so that the end of an `exact_merge` leaves it.
    """

    label: str
    weights: dict[str, MergedWeight] = field(default_factory=dict)
    stays: bool = False


class ExactMerges:
    """A stock layer's merge and unmerge, exact: the base weight is round(W0 + ΔW), and W0's very bits afterwards."""

    stock: ClassVar[type]
    exact_state: ExactState
    # The stock layer's own.
    merged_adapters: list[str]
    merged: bool
    scaling: dict[str, float]
    get_base_layer: Callable[[], nn.Module]

    @property
    def kind(self) -> StockKind:
        """The entry of the stock layer's class."""
        return STOCK_KINDS[self.stock]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge adapters into the base layer, or change nothing.

        Args:
            safe_merge: refuse what would leave NaN or Inf in the weight.
            adapter_names: the active ones by default.

        Raises:
            LopsidedError: if the weight cannot be written to, if it is changed by somebody else while something is
                merged, or if it would not be finite.
        """
        names = merged_names(self, check_adapters_to_merge(self, adapter_names))
        if names:
            self.merge_quietly(names, safe_merge=safe_merge)

    def merge_quietly(self, names: list[str], *, safe_merge: bool = False) -> None:
        """Merge adapters that are not merged yet, without PEFT's warnings."""
        check_adapters(self, names)
        with ExitStack() as back:
            back.callback(self.way_back())
            for parameter, weight in self.exact_state.weights.items():
                adding = [name for name in names if parameter != BIAS or adds_to_bias(self, name)]
                if adding:
                    self._add(parameter, weight, adding)
                    if safe_merge and not weight.is_finite():
                        raise LopsidedError(
                            f"{weight.label}: NaNs detected in the merged weights. The adapter {', '.join(adding)} "
                            "seems to be broken; nothing is merged; go back to its last good checkpoint"
                        )
            self.merged_adapters.extend(names)
            back.pop_all()

    def _add(self, parameter: str, weight: MergedWeight, names: list[str]) -> None:
        label, kind = self.exact_state.label, self.kind
        new: list[MergedShare] = []
        for name in names:
            # DoRA's norms are of W0 as each adapter finds it in the forward pass: without the others.
            W0 = weight.original() if is_dora(self, name) else weight.outline()
            new.append(MergedShare(label, name, parts_of(kind, self, name, parameter, W0)))
            del W0
        weight.hold((*weight.shares, *new))

    def unmerge(self) -> None:
        """Take every merged adapter of this layer out again: without others', the very bits of W0 come back.

        Raises:
            LopsidedError: if somebody else has changed the weight while it was merged; it stays as it is then.
        """
        weights = self.exact_state.weights.values()
        if not self.merged and all(weight.settled for weight in weights):
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        label = self.exact_state.label
        others = {weight: tuple(share for share in weight.shares if share.layer != label) for weight in weights}
        self._hold(others, self.merged_adapters)

    def way_back(self) -> Callable[[], None]:
        """Return what brings the layer, and the weights under it, back to what they are now."""
        merged = list(self.merged_adapters)
        shares = {weight: weight.shares for weight in self.exact_state.weights.values()}

        def back() -> None:
            there = all(weight.settled and weight.shares == held for weight, held in shares.items())
            # A tied weight may be back already, by way of the other layer.
            if not there or self.merged_adapters != merged:
                with onload_layer(self):
                    self._hold(shares, [*merged, *self.merged_adapters])

        return back

    def _hold(self, shares: Mapping[MergedWeight, tuple[MergedShare, ...]], merged: list[str]) -> None:
        """Make the weights hold these shares; an error or an interrupt at one of them waits for the others."""
        with ExitStack() as all_weights:
            all_weights.callback(self._keep_books, merged)
            for weight, held in shares.items():
                all_weights.callback(weight.hold_at_last, held)

    def _keep_books(self, merged: list[str]) -> None:
        """Set `merged_adapters` to those of these adapters, in this order, that are in the weights."""
        weights, label = self.exact_state.weights.values(), self.exact_state.label
        held = {share.adapter for weight in weights for share in weight.shares if share.layer == label}
        self.merged_adapters[:] = [name for name in dict.fromkeys(merged) if name in held]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        # Moves and casts act on W0, and what was merged is merged again into what they made of it.
        held = {weight: weight.shares for weight in self.exact_state.weights.values() if weight.written}
        for weight in held:
            weight.hold(())
        super()._apply(fn, recurse)  # type: ignore[misc]
        for weight, shares in held.items():
            weight.hold(shares)
        return self


class ExactLinear(ExactMerges, lora.Linear):
    """`peft.tuners.lora.Linear` with exact merges."""

    stock = lora.Linear


class ExactEmbedding(ExactMerges, lora.Embedding):
    """`peft.tuners.lora.Embedding` with exact merges."""

    stock = lora.Embedding


class ExactConv1d(ExactMerges, lora.Conv1d):
    """`peft.tuners.lora.layer.Conv1d` with exact merges."""

    stock = lora.Conv1d


class ExactConv2d(ExactMerges, lora.Conv2d):
    """`peft.tuners.lora.Conv2d` with exact merges."""

    stock = lora.Conv2d


class ExactConv3d(ExactMerges, lora.Conv3d):
    """`peft.tuners.lora.Conv3d` with exact merges."""

    stock = lora.Conv3d


class ExactParamWrapper(ExactMerges, lora.ParamWrapper):
    """`peft.tuners.lora.layer.ParamWrapper`, for experts, with exact merges."""

    stock = lora.ParamWrapper


EXACT: Mapping[type, type] = {
    cls.stock: cls for cls in (ExactLinear, ExactEmbedding, ExactConv1d, ExactConv2d, ExactConv3d, ExactParamWrapper)
}


def check_adapters(layer: ExactMerges, names: list[str]) -> None:
    """Raise if adapters of an exact layer cannot be merged into its parameters as they are now."""
    label = layer.exact_state.label
    for adapter in names:
        if reason := why_not_exact(layer, adapter):
            raise refusal(f"adapter {adapter!r} of {label}", layer, reason)
        for parameter, weight in layer.exact_state.weights.items():
            if parameter == BIAS and not adds_to_bias(layer, adapter):
                continue
            reason = weight.why_not_writable()
            held = weight.parameter
            if not reason and held is not layer.get_base_layer()._parameters.get(parameter):
                reason = f"its {parameter} was tied to {weight.label} and is not any more; call make_merges_exact again"
            if not reason and parameter != BIAS and held is not None and not held.is_meta:
                reason = why_no_matrices(layer.kind, held)
            if reason:
                raise refusal(label, layer, reason)


def refusal(name: str, layer: object, reason: str) -> LopsidedError:
    """Return the error about a layer that cannot be merged exactly."""
    cls = type(layer)
    return LopsidedError(
        f"{name} ({cls.__module__}.{cls.__name__}) can't be merged exactly, so nothing is changed: {reason}"
    )
