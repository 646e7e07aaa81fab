"""A linear layer with adapters.

Notation: the base layer holds W0, of shape (d_out, d_in), or its transpose in a `Conv1D`. The layer computes
W0·x + s·B·A·x for its active adapters. Past links of a chain are part of the base weight when that is float32
("merged"), and stand beside it in float32 otherwise ("stacked").
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from safetensors.torch import load
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
from lopsided.method import LinkSide
from lopsided.tuner.adapter import CPU, Adapter, Drawn
from lopsided.tuner.forward.compute import Selected, Term, add_term, concatenate
from lopsided.tuner.forward.fused import Lock, beside, can_fuse, patched
from lopsided.tuner.state import ADAPTER_ONLY, STATE, Factor, State, parse_key
from lopsided.tuner.weight.delta import Part, delta_weight
from lopsided.tuner.weight.finite import check_factors, check_sum
from lopsided.tuner.weight.holder import BaseWeight, Held
from lopsided.tuner.weight.sharded import gathered, overwrite
from lopsided.tuner.weight.undo import report_rounding
from lopsided.tuner.weight_readers import weight_of

# The live layers whose factors want different learning rates, for the optimizers' first step to look at.
SPLIT_LAYERS: weakref.WeakSet[LopsidedLinear] = weakref.WeakSet()
# Those with a chain, for averages of weights to look at.
CHAINED_LAYERS: weakref.WeakSet[LopsidedLinear] = weakref.WeakSet()


class LopsidedLinear(nn.Module, BaseTunerLayer):
    """A `nn.Linear` or `Conv1D` with Lopsided adapters.

    Only trained factors are parameters, so nothing that switches gradients on can reach a frozen one:
    `lopsided_A.<adapter>.weight` (r, d_in), `lopsided_B.<adapter>.weight` (d_out, r), and for methods that toss a coin
    `lopsided_C.<adapter>.weight` (r, max(d_out, d_in)), whose first columns are A or Bᵀ.
    """

    adapter_layer_names = ("lopsided_A", "lopsided_B", "lopsided_C")
    other_param_names = ("r", "scaling", "lopsided_dropout", "lopsided_state", "adapters")
    base_layer: Any
    active_adapters: list[str]
    _active_adapter: str | list[str]

    def __init__(self, base_layer: nn.Module, *, shared: bool) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.base_weight = BaseWeight(base_layer, shared=shared)
        self.transposed = isinstance(base_layer, Conv1D)
        shape = self.base_layer.weight.shape
        self.in_features: int = shape[0] if self.transposed else self.base_layer.in_features
        self.out_features: int = shape[1] if self.transposed else self.base_layer.out_features
        self.lopsided_A = nn.ModuleDict()
        self.lopsided_B = nn.ModuleDict()
        self.lopsided_C = nn.ModuleDict()
        self.lopsided_state = nn.ModuleDict()
        self.lopsided_dropout = nn.ModuleDict()
        self.r: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.adapters: dict[str, Adapter] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        # PEFT's `disable_input_dtype_casting` sets it.
        self.cast_input_dtype_enabled = True
        # Frozen tensors on the layer's device: the current link's sketch, and the stacked past links.
        self._sketch: dict[str, Tensor | Selected] = {}
        self._stacked: dict[str, list[Term]] = {}
        self._side: dict[str, LinkSide] = {}
        # Saved tensors that were checked, and the adapter that they make, until they are loaded.
        self._expected: dict[str, tuple[Mapping[str, Tensor], Adapter]] = {}
        self._mixing = False
        self._lock = Lock()
        self.register_state_dict_post_hook(_give_original)
        self.register_load_state_dict_post_hook(_take_in)

    @property
    def weight(self) -> Tensor:
        """The base layer's weight, for code that reads it past the layer's forward."""
        return weight_of(self)

    # -- adapters --------------------------------------------------------------------------------------------

    def add_adapter(self, name: str, adapter: Adapter, *, dropout: float, inference_mode: bool) -> None:
        """Give the layer one more adapter, at link 0, with its trained factor at zero.

        Raises:
            LopsidedError: if the rank exceeds the width that is sketched.
        """
        limit = adapter.method.sketched_width(self.out_features, self.in_features)
        if not 0 < adapter.r <= limit:
            width_name = adapter.method.adapter_side.width_name
            raise LopsidedError(
                f"rank must not exceed the layer's width: r={adapter.r}, {width_name}={limit} in {adapter.module}; "
                "lower r or exclude the module"
            )
        if adapter.merge_links:
            self.base_weight.check_writable(adapter.module, "merge_links=True", "leave merge_links unset")
        self.adapters[name] = adapter
        self._announce()
        self.r[name] = adapter.r
        self.scaling[name] = adapter.scaling
        self.lopsided_state[name] = State(adapter)
        self.lopsided_dropout[name] = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        # Where the base is not in memory, its adapters are all the same: there is something to load and to save.
        device = self._device()
        shapes = adapter.method.adapter_side.shapes(self.out_features, self.in_features, adapter.r)
        for letter, shape in shapes.items():
            factor = torch.zeros(shape, dtype=torch.float32, device=device)
            self._factors_of(letter)[name] = Factor(factor)
        if not adapter.pending:
            # A copy of another adapter, which has its sketches already.
            self._start_factors(name)
        elif adapter.can_be_new:
            self._begin_link(name, adapter.draw(adapter.link, self._original_numpy()))
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _announce(self) -> None:
        if any(adapter.method.lr_ratio != 1.0 for adapter in self.adapters.values()):
            SPLIT_LAYERS.add(self)
        if any(adapter.method.chain is not None for adapter in self.adapters.values()):
            CHAINED_LAYERS.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied or unpickled layer is a live one, too.
        super().__setstate__(state)
        self._announce()

    def _begin_link(self, name: str, drawn: Drawn) -> None:
        """Give the link in training its sketch, and set its trained factor to where it starts."""
        self.adapters[name].drawn.append(drawn)
        self._start_factors(name)

    def _start_factors(self, name: str) -> None:
        adapter = self.adapters[name]
        for letter, factor in self.trained(name).items():
            start = adapter.drawn[-1].matrix() if adapter.side.starts_at_sketch(letter) else None
            with torch.no_grad():
                factor.zero_() if start is None else overwrite(factor, start)
        self._place(name)

    def advance(self, name: str, drawn: Drawn) -> None:
        """End the link in training: its term joins the past ones, and the next one starts at zero.

        Args:
            drawn: from `draw_next`.
        """
        adapter = self.adapters[name]
        trained = self._whole(name)
        adapter.append({k: v.detach().to(CPU, torch.float32, copy=True) for k, v in trained.items()})
        self._begin_link(name, drawn)
        self._settle()
        held, dtype = self.base_weight.held, self.base_weight.tensor.dtype
        if held and dtype in (torch.float16, torch.bfloat16):
            report_rounding(adapter.module, dtype, self.base_weight.lost(self._parts(held)))

    def draw_next(self, name: str) -> Drawn:
        """The sketch of the next link; raises if the link in training can't be ended, and changes nothing."""
        adapter = self.adapters[name]
        self.check_loaded(name)
        if self.merged_adapters:
            raise LopsidedError(f"{adapter.module}: adapters {self.merged_adapters} are merged; unmerge them first")
        trained = self._whole(name)
        check_factors(adapter.module, trained)
        merged = self._links_are_merged(adapter)
        if merged:
            fix = "leave merge_links unset"
            self.base_weight.check_writable(adapter.module, "merge_links=True", fix, as_adapted=True)
        terms = [*adapter.past_terms(), adapter.term(self._side[name], trained, self._sketch[name])]
        self._check_sum(name, terms, merged=merged)
        return adapter.draw(adapter.link + 1, self._original_numpy())

    def _check_sum(self, name: str, terms: Sequence[Term], *, merged: bool) -> None:
        """Raise if ΔW overflows, or W0 + ΔW where it is to be merged."""
        weight = self.base_weight.tensor
        check_sum(
            self.adapters[name].module,
            terms,
            self.scaling[name],
            dtype=weight.dtype if merged else torch.float32,
            device=weight.device,
            original=self.base_weight.original if merged else None,
        )

    def terms(self, name: str, device: torch.device) -> list[Term]:
        """Every link's B·A, the one in training last."""
        self.check_loaded(name)
        adapter = self.adapters[name]
        current = adapter.term(self._side[name], self._whole(name), self._sketch[name])
        return [term.to(device) for term in (*adapter.past_terms(), current)]

    def _current(self, name: str) -> Term:
        trained = self.trained(name)
        self.check_loaded(name, trained)
        return self.adapters[name].term(self._side[name], trained, self._sketch[name])

    def check_loaded(self, name: str, trained: Mapping[str, Tensor] | None = None) -> None:
        """Take over what has arrived for an adapter, and raise if it can't compute."""
        adapter = self.adapters[name]
        # torch multiplies by a tensor without data and returns whatever was in memory.
        trained = self.trained(name) if trained is None else trained
        if any(factor.is_meta for factor in trained.values()):
            raise LopsidedError(
                f"{adapter.module}: adapter {name!r} is on the meta device or offloaded; expected factors in memory; "
                "load them, or take the offloading off"
            )
        if adapter.arrived:
            self._take_over(name)
        # By the sketch and not by the links: compiled code would be compiled anew for each number of them.
        if adapter.awaits or name not in self._sketch:
            self._check_new(name, trained)

    def _check_new(self, name: str, trained: Mapping[str, Tensor]) -> None:
        """Raise unless an adapter whose saved tensors never came is a new one, as from a configuration used again.

        A trained factor without them would be multiplied by a sketch that was drawn for this model's names, which are
        not always those of the model that it was trained on.
        """
        adapter = self.adapters[name]
        moved = trained.get("B", next(iter(trained.values())))
        if adapter.pending or not adapter.can_be_new or bool(gathered(moved).any()):
            raise LopsidedError(
                f"{adapter.module}: adapter {name!r} was created from a saved configuration, but its "
                f"tensors were not loaded, those of {STATE} at least; load it with peft.PeftModel.from_pretrained or "
                "PeftModel.load_adapter"
            )
        adapter.awaits = False

    def trained(self, name: str) -> dict[str, Tensor]:
        """The adapter's trained factors by letter: "A", "B", or "C" for a coin's."""
        return {letter: self._factors_of(letter)[name].weight for letter in self.adapters[name].letters}  # type: ignore[misc]

    def _whole(self, name: str) -> dict[str, Tensor]:
        return {letter: gathered(factor) for letter, factor in self.trained(name).items()}

    def _factors_of(self, letter: str) -> nn.ModuleDict:
        found = getattr(self, f"lopsided_{letter}")
        assert isinstance(found, nn.ModuleDict)
        return found

    # -- what PEFT calls -------------------------------------------------------------------------------------

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self._settle()

    def rescale(self, scaling: Mapping[str, float]) -> None:
        """Compute with other scales s, by adapter, until the next call."""
        self.scaling = dict(scaling)
        self._settle()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        self._settle()

    def delete_adapter(self, adapter_name: str) -> None:
        self._sketch.pop(adapter_name, None)
        self._stacked.pop(adapter_name, None)
        super().delete_adapter(adapter_name)
        self._settle()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the adapters' ΔW, all links of it, to the base weight.

        Args:
            safe_merge: refuse as well if W0 + ΔW overflows although W0 and the factors are finite.

        Raises:
            LopsidedError: if the base weight is shared with another module, or not floating point; if a factor holds
                NaN or Inf. The weight is as it was then.
        """
        names = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.adapters]
        if not names:
            return
        self.check_can_merge(names, safe_merge)
        self.merged_adapters.extend(names)
        self._settle()

    def check_can_merge(self, adapter_names: list[str] | None, safe_merge: bool) -> None:
        """Raise what `merge` would raise, and change nothing."""
        asked = self.active_adapters if adapter_names is None else adapter_names
        names = [name for name in asked if name in self.adapters and name not in self.merged_adapters]
        for name in names:
            module = self.adapters[name].module
            self.base_weight.check_writable(module, "a merge", "leave the adapter unmerged, or use to_lora")
            if not all_finite(*self.trained(name).values()):
                raise LopsidedError(
                    f"{module}: NaNs detected, so nothing is merged. The adapter {name} seems to be broken; go back "
                    "to its last good checkpoint"
                )
            if safe_merge:
                self._check_sum(name, self.terms(name, self.base_weight.tensor.device), merged=True)

    def unmerge(self) -> None:
        """Take every merged adapter out again: the original weight comes back bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.merged_adapters.clear()
        self._settle()

    def get_delta_weight(self, adapter: str) -> Tensor:
        """s·Σ B_t·A_t over the adapter's links, float32, laid out as the base weight is."""
        device = self.base_weight.tensor.device
        delta = delta_weight(self.terms(adapter, device), self.scaling[adapter], device)
        return delta.T if self.transposed else delta

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT's own would round float32 factors to a 16-bit base's dtype.
        device = device or self.base_weight.tensor.device
        for factor in self.trained(adapter_name).values():
            if "meta" not in (factor.device.type, device.type):
                factor.data = factor.data.to(device)
        self._place(adapter_name)

    def _apply(self, fn: Any, recurse: bool = True) -> LopsidedLinear:
        # Moves and casts act on W0: what was written over it is taken out first and written again after; a weight
        # that has become 16-bit gets its links stacked instead, and one that is no longer 16-bit has them written.
        self.base_weight.restore()
        super()._apply(fn, recurse)
        for name in self.adapters:
            self._place(name)
        self._settle()
        return self

    # -- what the base weight holds, and what stands beside it --------------------------------------------------

    def _original_numpy(self) -> np.ndarray | None:
        """W0 as (d_out, d_in) in float32, for sketches that look at it; None for a meta or quantized weight."""
        weight = self.base_weight.tensor
        needs = any(a.method.sketch is not None and a.method.sketch.reads_weight for a in self.adapters.values())
        if weight.is_meta or not weight.is_floating_point() or not needs:
            return None
        return self.base_weight.original().to(torch.float32).numpy()

    def _links_are_merged(self, adapter: Adapter) -> bool:
        if self._mixing:
            return False
        return self.base_weight.takes_links() if adapter.merge_links is None else adapter.merge_links

    def _settle(self) -> None:
        """Make the base weight hold W0 plus exactly what is now active and merged, and the rest be stacked."""
        wanted: list[tuple[int, float, str | None]] = []
        for name, adapter in self.adapters.items():
            whole = name in self.merged_adapters
            # As PEFT has it, a merged layer computes its merged adapters and nothing else.
            counts = not self.merged_adapters and name in self.active_adapters
            past = counts and adapter.link > 0 and self._links_are_merged(adapter)
            if not self._disable_adapters and (whole or past):
                wanted.append((adapter.revision, self.scaling[name], name if whole else None))
        self._hold(tuple(wanted))

    def _hold(self, wanted: Held) -> None:
        if wanted == self.base_weight.held and not any(whole for *_, whole in wanted):
            return
        if self.base_weight.tensor.is_meta:
            raise LopsidedError(
                f"the base weight under adapters {sorted(self.adapters)} is offloaded, with something merged into it; "
                "expected it in memory; take the offloading off before switching, merging or loading adapters"
            )
        for *_, whole in wanted:
            if whole is not None:
                self.check_loaded(whole)
        module = next(iter(self.adapters.values())).module if wanted else ""
        with self._lock.held:
            was_sharded = self.base_weight.hold(wanted, lambda: self._parts(wanted), module)
        if was_sharded:
            for name in self.adapters:
                self._place(name)

    def _parts(self, wanted: Held) -> list[Part]:
        """All that the base weight shall hold, from tensors that nobody changes."""
        parts = []
        for revision, scaling, whole in wanted:
            copies: dict[str, Tensor] = {}
            if whole is None:
                # Adapters that share their past are one here: switching between them writes nothing.
                terms = next(a for a in self.adapters.values() if a.revision == revision).past_terms()
            else:
                adapter = self.adapters[whole]
                copies = {k: f.detach().to(CPU, torch.float32, copy=True) for k, f in self.trained(whole).items()}
                terms = [*adapter.past_terms(), adapter.term(adapter.side, copies, adapter.drawn[-1].factor)]
            copied = sum(copy.nbytes for copy in copies.values())
            parts.append(Part(tuple(terms), scaling, copied))
        return parts

    def _place(self, name: str) -> None:
        """Put the frozen tensors of the current link and of stacked ones on the layer's device, in float32."""
        adapter, device = self.adapters[name], self._device()
        if adapter.pending:
            return
        self._sketch[name] = adapter.drawn[-1].factor.to(device)
        self._side[name] = adapter.side
        self._stacked[name] = []
        if adapter.link > 0 and not self._links_are_merged(adapter):
            self._stacked[name] = [term.to(device) for term in concatenate(adapter.past_terms())]

    def _device(self) -> torch.device:
        """Where adapters' tensors belong: beside the base weight, or on the CPU where that is not in memory."""
        weight = self.base_weight.tensor
        return CPU if weight.is_meta else weight.device

    # -- forward ---------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """W0·x plus every active adapter's s·B·A·x: (..., d_in) -> (..., d_out).

        Args:
            adapter_names: one adapter a row of x, in place of the active ones; "__base__" for none.
        """
        if adapter_names is not None:
            return self._forward_rows(x, adapter_names, *args, **kwargs)
        if x.is_nested:
            # torch's encoder hands a padded batch on like this in evaluation, and few operations take it.
            return torch.nested.as_nested_tensor([self.forward(row, *args, **kwargs) for row in x.unbind()])
        computing = () if self._disable_adapters or self.merged_adapters else self.active_adapters
        names = [name for name in computing if name in self.adapters]
        for name in names:
            if self.adapters[name].unread:
                self.check_loaded(name)
        if len(names) == 1 and not args and not kwargs and can_fuse(x) and self._fuses(names[0]):
            out = self._fused(x, names[0])
        else:
            out = self._base(x, *args, **kwargs)
            for name in names:
                out = self._add(out, x, name)
        if not torch.compiler.is_compiling() and out.requires_grad:
            out.register_hook(_Unchanged(self))
        return out

    def _base(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if torch.compiler.is_compiling() or not self.training or not self._may_lend():
            return self.base_layer(x, *args, **kwargs)
        with self._lock.held:
            return self.base_layer(x, *args, **kwargs)

    def _add(self, out: Tensor, x: Tensor, name: str) -> Tensor:
        for term in self._stacked[name]:
            out = add_term(out, x, term, self.scaling[name], cast=self.cast_input_dtype_enabled)
        x = self.lopsided_dropout[name](x)
        return add_term(out, x, self._current(name), self.scaling[name], cast=self.cast_input_dtype_enabled)

    def _fused(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.base_layer.weight, self.base_layer.bias
        weight = weight.t() if self.transposed else weight
        term, scaling = self._current(name), self.scaling[name]
        # Nothing is lent outside training, where other threads may read the weight.
        lends = self.training and self._lends(name)
        if lends and torch.is_grad_enabled():
            return patched(x, weight, bias, term, scaling, self._lock)
        with self._lock.held if lends else nullcontext():
            return beside(x, weight, bias, term, scaling)

    def _may_lend(self) -> bool:
        """Whether a thread that trains this layer lends columns to the base weight."""
        names = [name for name in self.active_adapters if name in self._sketch] if self.training else []
        return any(self._lends(name) and self._fuses(name) for name in names)

    def way(self, name: str) -> str:
        """How an adapter's term is computed in training: "patched", "gather" or "dense".

        Windows are patched. Random columns, which lie an entry to a cache line, are not: lending them costs more than
        the products beside. Evaluation, autocast, `torch.compile`, transforms of functions and mixed batches take
        "gather", too.
        """
        return "patched" if self._lends(name) and self._fuses(name) else self._current(name).way

    def _lends(self, name: str) -> bool:
        """Whether the base weight can hold a selector's rows or window of columns during a product, and had better."""
        sketch, side = self._sketch[name], self._side[name]
        together = isinstance(sketch, Selected) and side.lies_together(neighbours=sketch.start is not None)
        alone = not self.base_weight.shared and len(self.active_adapters) == 1
        return together and alone and self.base_weight.is_plain()

    def _fuses(self, name: str) -> bool:
        """Whether the layer's product and the adapter's can be one operation."""
        base, weight = self.base_layer, self.base_layer.weight
        return (
            weight.dtype == torch.float32
            and type(weight) is nn.Parameter
            and not weight.requires_grad
            and type(base) in (nn.Linear, Conv1D)
            and not (base.bias is not None and base.bias.requires_grad)
            and not (base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks)
            # accelerate's offloading replaces this method on the instance.
            and "forward" not in vars(base)
            and not self._stacked.get(name)
            and not (self.training and isinstance(self.lopsided_dropout[name], nn.Dropout))
        )

    def _forward_rows(self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        if len(adapter_names) != len(x):
            raise LopsidedError(
                f"adapter_names must name one adapter a row: got {len(adapter_names)} names for {len(x)} rows"
            )
        if self.merged_adapters:
            raise LopsidedError(f"adapters {self.merged_adapters} are merged; unmerge them before mixing adapters")
        out = self.base_layer(x, *args, **kwargs)
        for name in dict.fromkeys(adapter_names):
            if name in self.adapters:
                rows = torch.tensor([i for i, other in enumerate(adapter_names) if other == name], device=x.device)
                out = out.index_copy(0, rows, self._add(out[rows], x[rows], name))
        return out

    @contextmanager
    def mixing(self) -> Iterator[None]:
        """While it is entered, the base weight is W0 and every adapter's past links stand beside it."""
        merged = [name for name, adapter in self.adapters.items() if adapter.link and self._links_are_merged(adapter)]
        if not merged:
            yield
            return
        self._set_mixing(True, merged)
        try:
            yield
        finally:
            self._set_mixing(False, merged)

    def _set_mixing(self, mixing: bool, names: Sequence[str]) -> None:
        self._mixing = mixing
        for name in names:
            self._place(name)
        self._settle()

    # -- saving and loading ----------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Of version 0.1.0: its state holds the base weight with the links in it, and takes their place once they are
        # written here.
        older = f"{prefix}_extra_state"
        if older in state_dict:
            self._read_older(state_dict, prefix, load(bytes(state_dict.pop(older).cpu().numpy())))
        elif f"{prefix}base_layer.weight" in state_dict:
            # What comes is W0; `_take_in` writes the links over it again.
            for name in self.adapters:
                self.check_unmerged(name)
            if state_dict[f"{prefix}base_layer.weight"].shape == self.base_layer.weight.shape:
                self.base_weight.forget()
            else:
                self.base_weight.restore()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _read_older(self, state_dict: dict[str, Tensor], prefix: str, extras: Mapping[str, Tensor]) -> None:
        for name, adapter in self.adapters.items():
            for letter in adapter.letters:
                if (factor := state_dict.pop(f"{prefix}lopsided_{letter}.{name}", None)) is not None:
                    state_dict[f"{prefix}lopsided_{letter}.{name}.weight"] = factor
            for key, tensor in extras.items():
                path, _, owner = key.rpartition(".")
                found = parse_key(f"layer.{path}")
                if owner == name and found is not None:
                    adapter.arrived[found[1]] = tensor
                    state_dict[f"{prefix}{STATE}.{name}.{found[1]}"] = tensor
            if adapter.arrived:
                self._take_over(name)

    def original_weight(self, live: Tensor) -> Tensor:
        """W0 as the base layer has it: `live` itself, or a copy where adapters write to it.

        Args:
            live: the base layer's weight.
        """
        may_lend = self._may_lend()
        with self._lock.held:
            if not self.base_weight.written:
                return live.detach().clone() if may_lend else live
            W0 = self.base_weight.original()
            return (W0.T if self.transposed else W0).contiguous().to(live.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> LopsidedLinear:
        with self._lock.held:
            twin = self.__class__.__new__(self.__class__)
            memo[id(self)] = twin
            twin.__setstate__(copy.deepcopy(self.__dict__, memo))
            return twin

    def __getstate__(self) -> dict[str, Any]:
        """What pickle writes: a base weight that no thread lends columns to while it is written."""
        state = dict(self.__dict__)
        if self._may_lend():
            base, weight = copy.copy(self.base_layer), self.base_layer.weight
            with self._lock.held:
                copied = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
            base._parameters = {**base._parameters, "weight": copied}
            state["_modules"] = {**state["_modules"], "base_layer": base}
            state["base_weight"] = self.base_weight.with_layer(base)
        return state

    def _take_over(self, name: str) -> None:
        """Move an adapter to where the tensors that arrived for it say that it stands, and the base weight with it."""
        adapter = self.adapters[name]
        tensors = dict(adapter.arrived)
        self.check_unmerged(name)
        expected, fresh = self._expected.pop(name, ({}, adapter))
        if not all(tensor is expected.get(what) for what, tensor in tensors.items()):
            adapter.check_complete(tensors)
            fresh = self.prepare(name, tensors)
        adapter.arrived.clear()
        adapter.become(fresh)
        self._place(name)
        self._settle()

    def check_unmerged(self, name: str) -> None:
        """Raise if merged adapters forbid a load."""
        if self.merged_adapters:
            raise LopsidedError(
                f"{self.adapters[name].module}: adapters {self.merged_adapters} are merged; expected an unmerged layer "
                "to load into; call unmerge_adapter first"
            )

    def prepare(self, name: str, tensors: Mapping[str, Tensor]) -> Adapter:
        """What loading these tensors would make of an adapter; raises if they can't be loaded, and changes nothing."""
        return self.adapters[name].unpacked(tensors, self._original_numpy())

    def expect(self, name: str, tensors: Mapping[str, Tensor], prepared: Adapter) -> None:
        """Keep what `prepare` made, for the load of these very tensors that follows."""
        self._expected[name] = tensors, prepared

    def extra_repr(self) -> str:
        lines = []
        for name, adapter in self.adapters.items():
            absent = adapter.pending or any(factor.is_meta for factor in self.trained(name).values())
            way = "not loaded" if absent else self.way(name)
            links = f", link={adapter.link}" if adapter.method.chain else ""
            lines.append(f"({name}): {adapter.method.name}, r={adapter.r}, trains {adapter.side.word}{links}, {way}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return "lopsided." + super().__repr__()


def _take_in(layer: LopsidedLinear, incompatible: Any) -> None:
    """After a load: take over what came, and write over W0 what belongs there."""
    for name, adapter in layer.adapters.items():
        if adapter.arrived:
            layer._take_over(name)
    layer._settle()


def _give_original(layer: LopsidedLinear, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Put W0 in the place of what the base weight holds: the links are in the state by themselves."""
    key = f"{prefix}base_layer.weight"
    if key in state_dict and not ADAPTER_ONLY.get():
        state_dict[key] = layer.original_weight(state_dict[key])


class _Unchanged:
    """Refuses a backward pass through a base weight that is no longer the one of the forward pass."""

    def __init__(self, layer: LopsidedLinear) -> None:
        self.layer, self.held = layer, layer.base_weight.held

    def __call__(self, gradient: Tensor) -> None:
        if self.layer.base_weight.held != self.held:
            names = sorted(self.layer.adapters)
            raise LopsidedError(
                f"the base weight under adapters {names} was switched between a forward pass and its backward; "
                "expected the same in both; call backward before disable_adapter, set_adapter or an advance"
            )


def layers_of(model: nn.Module, adapter: str | None = None) -> Mapping[str, LopsidedLinear]:
    """The model's layers with Lopsided adapters (or with the one named), by module name."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, LopsidedLinear)}
    return found if adapter is None else {k: v for k, v in found.items() if adapter in v.adapters}
