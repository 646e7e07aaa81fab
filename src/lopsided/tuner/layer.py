"""A layer with adapters: how it computes, and what PEFT asks of it.

Notation: the base layer holds W0, a matrix of (d_out, d_in) as the kind of the layer takes it. The layer computes
W0·x + s·B·A·x for its active adapters. Past links of a chain are part of the base weight when that is float32
("merged"), and are computed next to it in float32 otherwise ("stacked").

    kinds/              linear layers, convolutions, embeddings: what W0 is, and how s·B·A acts next to it
    adapter.py          one adapter: its method, its sketches, its past links
    links.py            the end of a link and the start of the next
    weight/holder.py    what the base weight holds now, and how it changes
    here                the factors in training, the forward, and PEFT's interface

After every change of what is active, merged, scaled or loaded, `settle` makes the base weight agree with it.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from lopsided.tuner.adapter import Adapter, FrozenPart
from lopsided.tuner.arrivals import after_load, before_load, check_loaded, loaded_factors, put_original
from lopsided.tuner.forward.compute import Term
from lopsided.tuner.forward.fused import can_fuse, product_dtype
from lopsided.tuner.forward.rows import forward_rows
from lopsided.tuner.forward.ways import compute_fused, fuses, lends, may_lend
from lopsided.tuner.kinds import LayerKind
from lopsided.tuner.kinds.linear import LinearKind
from lopsided.tuner.links import begin_first, start_new
from lopsided.tuner.past_forward import weight_of
from lopsided.tuner.state_modules import Factor, State
from lopsided.tuner.weight.delta import delta_weight
from lopsided.tuner.weight.holder import BaseWeight, SameWeight
from lopsided.tuner.weight.sharded import gathered
from lopsided.tuner.weight.use import Use

# Every layer of the process, for checks that see an optimizer or an average of weights, but no model.
LIVE_LAYERS: weakref.WeakSet[LopsidedLinear] = weakref.WeakSet()


class LopsidedLinear(nn.Module, BaseTunerLayer):
    """A layer of one of `KINDS` with Lopsided adapters.

    Only trained factors are parameters, so nothing that switches gradients on can reach a frozen one:
    `lopsided_A.<adapter>.weight` (r, d_in), `lopsided_B.<adapter>.weight` (d_out, r), and for methods that toss a coin
    `lopsided_C.<adapter>.weight` (r, max(d_out, d_in)), whose first columns are A or Bᵀ.
    """

    adapter_layer_names = ("lopsided_A", "lopsided_B", "lopsided_C")
    # PEFT deletes an adapter from these, too.
    other_param_names = ("r", "scaling", "lopsided_dropout", "lopsided_state", "adapters", "frozen")
    base_layer: Any
    active_adapters: list[str]
    _active_adapter: str | list[str]

    def __init__(self, base_layer: nn.Module, kind: LayerKind, *, shared: bool) -> None:
        super().__init__()
        self.base_layer, self.kind = base_layer, kind
        self.base_weight = BaseWeight(base_layer, kind, shared=shared)
        # Of the weight as a matrix.
        self.out_features, self.in_features = kind.widths(base_layer)
        self.lopsided_A = nn.ModuleDict()
        self.lopsided_B = nn.ModuleDict()
        self.lopsided_C = nn.ModuleDict()
        self.lopsided_state = nn.ModuleDict()
        self.lopsided_dropout = nn.ModuleDict()
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.adapters: dict[str, Adapter] = {}
        self.frozen: dict[str, FrozenPart] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        # PEFT's `disable_input_dtype_casting` sets it.
        self.cast_input_dtype_enabled = True
        self.register_state_dict_post_hook(put_original)
        self.register_load_state_dict_post_hook(after_load)
        LIVE_LAYERS.add(self)

    @property
    def weight(self) -> Tensor:
        """The base layer's weight, for code that reads it past the layer's forward."""
        return weight_of(self)

    # -- adapters ------------------------------------------------------------------------------------------------

    def add_adapter(self, name: str, adapter: Adapter, *, dropout: float, inference_mode: bool) -> None:
        """Give the layer one more adapter, at link 0, with its trained factor at zero.

        Raises:
            LopsidedError: if the rank exceeds the width that is sketched.
        """
        adapter.check_rank()
        if not self.kind.sees_inputs:
            adapter.check_without_inputs(self.kind.word)
        if adapter.merge_links:
            self.base_weight.check_writable(adapter.module, "merge_links=True", "leave merge_links unset")
        self.adapters[name] = adapter
        self.r[name] = adapter.r
        self.scaling[name] = adapter.scaling
        self.lopsided_state[name] = State(adapter)
        self.lopsided_dropout[name] = nn.Dropout(dropout) if dropout > 0 and self.kind.drops else nn.Identity()
        # Where the base is not in memory, its adapters are all the same: there is something to load and to save.
        for letter, shape in adapter.shapes().items():
            factor = torch.zeros(shape, dtype=torch.float32, device=self.base_weight.device)
            getattr(self, f"lopsided_{letter}")[name] = Factor(factor)
        if not adapter.pending:
            # A copy of another adapter, which has its sketches already.
            start_new(self, name)
        elif adapter.can_be_new and not adapter.uncalibrated:
            begin_first(self, name, adapter.draw(adapter.link, self.base_weight.for_sketches(self.adapters)))
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def trained(self, name: str) -> dict[str, Tensor]:
        """Return the adapter's trained factors by letter: "A", "B", or "C" for a coin's."""
        return {letter: getattr(self, f"lopsided_{letter}")[name].weight for letter in self.adapters[name].letters}

    def gathered(self, name: str) -> dict[str, Tensor]:
        """Return the adapter's trained factors in one piece each; where they are sharded, all processes must ask."""
        return {letter: gathered(factor) for letter, factor in self.trained(name).items()}

    def place(self, name: str) -> None:
        """Put the frozen tensors of an adapter on the layer's device."""
        adapter = self.adapters[name]
        if not adapter.pending:
            stacked = bool(adapter.past) and not self.base_weight.takes_links(adapter)
            self.frozen[name] = adapter.frozen_part(self.base_weight.device, stacked=stacked)

    def settle(self) -> None:
        """Make the base weight hold W0 plus exactly what is now active and merged, and the rest be stacked."""
        was_sharded = self.base_weight.settle(self.use())
        # A weight that was sharded takes no links any more.
        for name in self.adapters if was_sharded else ():
            self.place(name)

    def use(self) -> Use:
        """Return how the adapters are in use, for the base weight."""
        return Use(
            adapters=self.adapters,
            scaling=self.scaling,
            active=self.active_adapters,
            merged=self.merged_adapters,
            enabled=not self._disable_adapters,
            factors=partial(loaded_factors, self),
        )

    def terms(self, name: str, device: torch.device) -> list[Term]:
        """Return every link's B·A, the one in training last."""
        check_loaded(self, name)
        adapter, frozen = self.adapters[name], self.frozen[name]
        current = adapter.term(frozen.side, self.gathered(name), frozen.sketch)
        return [term.to(device) for term in (*adapter.past_terms(), current)]

    # -- what PEFT calls -----------------------------------------------------------------------------------------

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make these adapters the active ones, as PEFT has it."""
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self.settle()

    def enable_adapters(self, enabled: bool) -> None:
        """Switch all adapters on or off, as PEFT has it."""
        super().enable_adapters(enabled)
        self.settle()

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter from the layer, as PEFT has it."""
        super().delete_adapter(adapter_name)
        self.settle()

    def rescale(self, scaling: Mapping[str, float]) -> None:
        """Compute with other scales s, by adapter, until the next call."""
        self.scaling = dict(scaling)
        self.settle()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return whether the layer is a linear one: `get_delta_weight` is all that PEFT's conversion needs then."""
        return isinstance(self.kind, LinearKind)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters' ΔW, all links of it, to the base weight.

        Args:
            safe_merge: refuse as well if W0 + ΔW overflows although W0 and the factors are finite.

        Raises:
            LopsidedError: if the base weight is shared with another module, or not floating point; if a factor holds
                NaN or Inf. The weight is as it was then.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.adapters]
        if names:
            self.check_can_merge(names, safe_merge)
            self.merged_adapters.extend(names)
            self.settle()

    def check_can_merge(self, adapter_names: list[str] | None, safe_merge: bool) -> None:
        """Raise what `merge` would raise, and change nothing."""
        names = self.active_adapters if adapter_names is None else adapter_names
        for name in [n for n in names if n in self.adapters and n not in self.merged_adapters]:
            self.base_weight.check_can_merge(name, self.adapters[name].module, loaded_factors(self, name))
            if safe_merge:
                terms = self.terms(name, self.base_weight.tensor.device)
                self.base_weight.check_sum(self.adapters[name].module, terms, self.scaling[name], merged=True)

    def unmerge(self) -> None:
        """Take every merged adapter out again: the original weight comes back bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        else:
            self.merged_adapters.clear()
            self.settle()

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return s·Σ B_t·A_t over the adapter's links, float32, laid out as the base weight is."""
        device = self.base_weight.tensor.device
        delta = delta_weight(self.terms(adapter, device), self.scaling[adapter], device)
        return self.kind.stored(delta, self.base_weight.tensor.shape)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT's own would round float32 factors to a 16-bit base's dtype.
        device = device or self.base_weight.tensor.device
        for factor in self.trained(adapter_name).values():
            if "meta" not in (factor.device.type, device.type):
                factor.data = factor.data.to(device)
        self.place(adapter_name)

    # -- forward -------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """Compute the layer's output plus what every active adapter's s·B·A adds to it.

        Args:
            adapter_names: one adapter per row of x, in place of the active ones; "__base__" for none.

        Shapes:
            x: of a linear layer (..., d_in) -> (..., d_out); of other kinds as the layer itself takes and gives it.
        """
        if adapter_names is not None:
            return forward_rows(self, x, adapter_names, *args, **kwargs)
        if x.is_nested:
            # torch's encoder hands a padded batch on like this in evaluation, and few operations take it.
            return torch.nested.as_nested_tensor([self.forward(row, *args, **kwargs) for row in x.unbind()])
        computing = () if self._disable_adapters or self.merged_adapters else self.active_adapters
        names = [name for name in computing if name in self.adapters]
        for name in names:
            if self.adapters[name].unread:
                check_loaded(self, name)
        if len(names) == 1 and not args and not kwargs and can_fuse(x) and fuses(self, names[0]):
            dtype = product_dtype(x, self.base_layer.weight)
            if dtype is not None:
                return compute_fused(self, x, names[0], self.current(names[0], dtype), dtype)
        out = self._base(x, *args, **kwargs)
        for name in names:
            out = self.add_adapter_terms(out, x, name)
        if not torch.compiler.is_compiling() and out.requires_grad:
            out.register_hook(SameWeight(self.base_weight, self.adapters))
        return out

    def _base(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if torch.compiler.is_compiling() or not self.training or not may_lend(self):
            return self.base_layer(x, *args, **kwargs)
        with self.base_weight.lock.mutex:
            return self.base_layer(x, *args, **kwargs)

    def current(self, name: str, dtype: torch.dtype = torch.float32) -> Term:
        """Return the term of the link in training, its frozen factor in a dtype."""
        trained, adapter = self.trained(name), self.adapters[name]
        check_loaded(self, name, trained)
        frozen = self.frozen[name].at(dtype)
        return adapter.term(frozen.side, trained, frozen.sketch)

    def add_adapter_terms(self, out: Tensor, x: Tensor, name: str) -> Tensor:
        """Return `out` plus an adapter's terms on x, each next to the layer's product."""
        own, scaling = self.kind.dtype(x, out), self.scaling[name]
        narrow = own in (torch.bfloat16, torch.float16) and not self.adapters[name].float32
        dtype = own if narrow else torch.float32
        cast = self.cast_input_dtype_enabled and not narrow
        for term in self.frozen[name].at(dtype).stacked:
            out = self.kind.add(self.base_layer, out, x, term, scaling, cast=cast)
        x = self.lopsided_dropout[name](x)
        return self.kind.add(self.base_layer, out, x, self.current(name, dtype), scaling, cast=cast)

    def way(self, name: str) -> str:
        """Return how an adapter's term is computed in training: "patched", "gather" or "dense".

        Evaluation, autocast, `torch.compile`, transforms of functions and mixed batches take "gather" for "patched".
        """
        return "patched" if lends(self, name) and fuses(self, name) else self.current(name).way

    # -- moving, copying, saving and loading ---------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        before_load(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Any, recurse: bool = True) -> LopsidedLinear:
        # Moves and casts act on W0: what was written over it is taken out first and written again after; a weight
        # that has become 16-bit gets its links stacked instead, and one that is no longer 16-bit has them written.
        self.base_weight.restore()
        super()._apply(fn, recurse)
        for name in self.adapters:
            self.place(name)
        self.settle()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LopsidedLinear:
        with self.base_weight.lock.mutex:
            twin = self.__class__.__new__(self.__class__)
            memo[id(self)] = twin
            twin.__setstate__(copy.deepcopy(self.__dict__, memo))
            return twin

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle writes: a base weight that no thread lends columns to while it is written."""
        state = dict(self.__dict__)
        if may_lend(self):
            twin = self.base_weight.with_copied_layer()
            state["_modules"] = {**state["_modules"], "base_layer": twin.layer}
            state["base_weight"] = twin
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        LIVE_LAYERS.add(self)

    def extra_repr(self) -> str:
        """Return one line per adapter, for `repr`: its method, its rank, what it trains, and which way it computes."""
        lines = []
        for name, adapter in self.adapters.items():
            absent = adapter.pending or any(factor.is_meta for factor in self.trained(name).values())
            missing = "not calibrated" if adapter.uncalibrated else "not loaded"
            way = missing if absent else self.way(name)
            chain = adapter.method.chain
            links = ", ".join([f", link={adapter.link}", *chain.departures]) if chain else ""
            lines.append(f"({name}): {adapter.method.name}, r={adapter.r}, trains {adapter.side.word}{links}, {way}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return "lopsided." + super().__repr__()
