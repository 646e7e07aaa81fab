"""The tuner: puts `LopsidedLinear` in the place of the targeted layers, and saves and loads it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, ClassVar

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.patterns import check_patterns
from lopsided.sketch import Stored, layer_seed
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.layer import LopsidedLinear, layers_of
from lopsided.tuner.links import Adapter
from lopsided.tuner.mixed import mixed_batch
from lopsided.tuner.readers import keep_off_fused_path
from lopsided.tuner.saved import Sealed, accept, check_in_memory, meet_base, note_base
from lopsided.tuner.supported import check_layout, check_supported, loose_weights
from lopsided.tuner.targets import DEFAULTS, check_targets, is_all_linear, settle_all_linear
from lopsided.untrusted import check_adapter_name


class LopsidedModel(BaseTuner):
    """A model with Lopsided adapters, as PEFT builds it."""

    prefix = "lopsided_"
    tuner_layer_cls = LopsidedLinear
    target_module_mapping: ClassVar[MutableMapping[str, Any]] = DEFAULTS

    def __init__(self, model: nn.Module, peft_config: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        # PEFT would put the new adapter in the place of the other one, under the model that trains it.
        if layers_of(model, adapter_name):
            raise LopsidedError(
                f"the model has an adapter {adapter_name!r} already; expected a free name or a plain model; choose "
                "another adapter_name, or unload the first"
            )
        super().__init__(model, peft_config, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: LopsidedConfig, model_config: dict[str, Any]) -> LopsidedConfig:
        known = self.target_module_mapping
        if peft_config.target_modules is None and model_config.get("model_type") not in known:
            raise LopsidedError(
                f"no default target_modules for a model of type {model_config.get('model_type')!r}; "
                "expected names, a regular expression or 'all-linear'; pass target_modules"
            )
        defaulted = peft_config.target_modules is None
        if defaulted and isinstance(known[model_config["model_type"]], str):
            peft_config.check_no_layers("the default target_modules is a regular expression here")
        return super()._prepare_adapter_config(peft_config, model_config)

    def _create_and_replace(
        self,
        peft_config: LopsidedConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, LopsidedLinear):
            layer = target
        else:
            check_supported(target, target_name, parent, current_key)
            check_layout(target, current_key, peft_config)
            layer = LopsidedLinear(target, shared=self._holders[id(target.weight)] > 1)
            layer._active_adapter = adapter_name
        layer.add_adapter(
            adapter_name,
            self._adapter(peft_config, current_key, layer),
            dropout=peft_config.dropout,
            inference_mode=peft_config.inference_mode,
        )
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)
            keep_off_fused_path(parent, layer)

    @staticmethod
    def _adapter(config: LopsidedConfig, key: str, layer: LopsidedLinear) -> Adapter:
        r, scaling = config.rank_and_scale(key)
        method = config.as_method()
        return Adapter(
            module=key,
            method=method,
            d_out=layer.out_features,
            d_in=layer.in_features,
            r=r,
            scaling=scaling,
            seed=layer_seed(config.seed, key),
            links=config.links,
            merge_links=config.merge_links,
            pending=config.link > 0 or isinstance(method.sketch, Stored),
        )

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        check_adapter_name(adapter_name)
        config = self.peft_config[adapter_name]
        names = [name for name, _ in model.named_modules()]
        check_patterns(config.patterns(), names + [weight.key for weight in loose_weights(model)])
        self._settle_targets(config, model, by_tensors=kwargs.get("state_dict") is not None)
        # How many modules hold each weight: one that is shared is never written to.
        self._holders = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
        trainable = {p: p.requires_grad for p in model.parameters()}
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            layers = layers_of(model, adapter_name)
            if config.from_file:
                meet_base(config, layers)
            if not config.from_file or config.base is None or config.allow_base_mismatch:
                config.base = None
                note_base(config, layers)
        except BaseException:
            # A layer that is refused comes after others that were replaced: leave the model as it was found.
            self._remove_injected(model, adapter_name)
            for parameter, requires_grad in trainable.items():
                parameter.requires_grad_(requires_grad)
            raise

    @staticmethod
    def _settle_targets(config: LopsidedConfig, model: nn.Module, *, by_tensors: bool) -> None:
        """Compare what a user asks for with what can be adapted; a saved adapter's targets are those of its tensors."""
        if config.target_modules is None or config.from_file or by_tensors:
            return
        if is_all_linear(config.target_modules):
            settle_all_linear(config, model)
        else:
            check_targets(config, model)

    @staticmethod
    def _remove_injected(model: nn.Module, adapter_name: str) -> None:
        replaced: dict[str, nn.Module] = {}
        for name, module in list(model.named_modules()):
            if isinstance(module, LopsidedLinear):
                if adapter_name in module.adapters:
                    module.delete_adapter(adapter_name)
                if not module.adapters:
                    replaced[name] = module.base_layer
            elif isinstance(module, AuxiliaryTrainingWrapper) and adapter_name in module._adapters:
                others = [other for other in module.active_adapters if other != adapter_name]
                module.delete_adapter(adapter_name, new_active_adapters=others)
                if not module._adapters:
                    replaced[name] = module.original_module
        for name, original in replaced.items():
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, original)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        # While a saved adapter waits for its tensors, PEFT casts for a first time; the second one follows the load.
        if not autocast_adapter_dtype and not self.peft_config[adapter_name].waiting:
            warnings.warn(
                f"autocast_adapter_dtype=False changes nothing: the factors of {adapter_name!r} stay float32 masters, "
                "and what they add is rounded to the model's dtype; leave it out",
                LopsidedWarning,
                stacklevel=2,
            )
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        with mixed_batch(self.model, names, num_beams=kwargs.get("num_beams"), known=self.peft_config):
            yield

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        self._check_can_merge(adapter_names, safe_merge)
        super().merge_adapter(adapter_names, safe_merge)

    def _check_can_merge(self, adapter_names: list[str] | None, safe_merge: bool) -> None:
        """Ask every layer before the first one is merged: a refusal must not leave half a merge."""
        for layer in layers_of(self.model).values():
            # PEFT brings an offloaded layer in for its own merge, which asks again.
            if layer.weight.device.type != "meta":
                layer.check_can_merge(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._check_can_merge(adapter_names, safe_merge)
        for layer in layers_of(self.model).values():
            if merge:
                # A merge is asked for by name: that the adapters are switched off now does not undo it.
                layer.enable_adapters(True)
            else:
                layer.base_weight.restore()
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)

    # -- saving and loading ----------------------------------------------------------------------------------

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: LopsidedConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        saved = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        layers = layers_of(model, adapter_name)
        check_in_memory(saved)
        for name, layer in layers.items():
            for key, tensor in layer.extra_tensors(adapter_name):
                saved[f"{name}.{key}"] = tensor
        note_base(config, layers)
        return Sealed(saved, layers, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: LopsidedConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return accept(model, config, adapter_name, state_dict)


def single_active(model: nn.Module) -> str:
    """The name of the one active adapter of a `PeftModel`.

    Raises:
        LopsidedError: for a model of another kind, or several active adapters.
    """
    if not isinstance(model, PeftModel):
        raise LopsidedError(
            f"{type(model).__name__} holds no low-rank terms: a fully fine-tuned model or a trained head is no "
            "PeftModel; expected a model from lopsided.adapt"
        )
    if len(model.active_adapters) != 1:
        raise LopsidedError(f"several adapters are active: {model.active_adapters}; pass adapter_name")
    return model.active_adapters[0]


def active_layers(model: nn.Module, adapter: str) -> dict[str, LopsidedLinear]:
    """The layers that hold the adapter.

    Raises:
        LopsidedError: if there is none.
    """
    layers = dict(layers_of(model, adapter))
    if not layers:
        raise LopsidedError(f"the model has no Lopsided adapter named {adapter!r}; add one with lopsided.adapt")
    return layers


def trained_numbers(model: nn.Module) -> int:
    """How many numbers a training run of the model changes, heads included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
