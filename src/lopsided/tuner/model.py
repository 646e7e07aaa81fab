"""The tuner: puts `LopsidedLinear` in the place of the targeted layers, and saves and loads it."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.files.patterns import check_patterns
from lopsided.files.untrusted import check_adapter_name
from lopsided.method.sketch import Stored, layer_seed
from lopsided.tuner.adapter import Adapter
from lopsided.tuner.arrivals import check_loaded
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.kinds import kind_of
from lopsided.tuner.kinds.parameter import MatrixKind
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.like_adapter import like_adapter
from lopsided.tuner.loose_weights import loose_weights
from lopsided.tuner.mixed_batch import mixed_batch
from lopsided.tuner.model_queries import layers_of
from lopsided.tuner.model_summary import model_html
from lopsided.tuner.packing import pack
from lopsided.tuner.parameters.adapted_parameters import AdaptedParameters
from lopsided.tuner.parameters.asked import settle_parameters
from lopsided.tuner.parameters.supported_parameters import check_parameter
from lopsided.tuner.peft_seams import PREFIX, install_late_seams
from lopsided.tuner.saved import SealedTensors, accept, check_in_memory, meet_base, note_base
from lopsided.tuner.state_modules import key_of, without_wrappers
from lopsided.tuner.supported_layers import check_layout, check_supported
from lopsided.tuner.targets import DEFAULTS, check_targets, is_all_linear, settle_all_linear
from lopsided.tuner.weight_readers import keep_off_fused_path
from lopsided.tuner.weighted_sum import add_weighted


class LopsidedModel(BaseTuner):
    """A model with Lopsided adapters, as PEFT builds it."""

    prefix = PREFIX
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
        defaults = self.target_module_mapping
        if peft_config.target_modules is None and model_config.get("model_type") not in defaults:
            raise LopsidedError(
                f"no default target_modules for a model of type {model_config.get('model_type')!r}; "
                "expected names, a regular expression or 'all-linear'; pass target_modules"
            )
        takes_default = peft_config.target_modules is None
        if takes_default and isinstance(defaults[model_config["model_type"]], str):
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
        if parameter_name is not None:
            self._adapt_parameter(peft_config, adapter_name, target, target_name, parent, current_key, parameter_name)
            return
        if isinstance(target, LopsidedLinear):
            layer = target
        else:
            check_supported(target, target_name, parent, current_key)
            check_layout(target, current_key, peft_config)
            kind = kind_of(target)
            assert kind is not None, "it is supported"
            layer = LopsidedLinear(target, kind, shared=self._holders[id(target.weight)] > 1)
            layer._active_adapter = adapter_name
        self._add_adapter(peft_config, adapter_name, layer, current_key)
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)
            keep_off_fused_path(parent, layer)

    def _adapt_parameter(
        self,
        config: LopsidedConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        key: str,
        parameter: str,
    ) -> None:
        # Inside of what is adapted already, where a second adapter finds the parameter.
        around = next((module for module in (parent, target) if isinstance(module, AdaptedParameters)), None)
        if around is None:
            check_parameter(target, parameter, key, config)
            around = AdaptedParameters(target)
            if adapter_name not in self.active_adapters:
                target.requires_grad_(False)
            parent.register_module(target_name, around)
        known = parameter in around.names
        weight = getattr(around.base_layer, parameter)
        layers = around.adapt(parameter, shared=self._holders[id(weight)] > 1)
        for index, layer in enumerate(layers):
            if not known:
                layer._active_adapter = adapter_name
            self._add_adapter(config, adapter_name, layer, key, None if weight.dim() == 2 else index)

    def _add_adapter(
        self, config: LopsidedConfig, name: str, layer: LopsidedLinear, key: str, index: int | None = None
    ) -> None:
        """Add a new adapter to a layer.

        Args:
            key: the name of the layer, or of a parameter.
            index: the place of the layer's matrix in the parameter, if that is a stack.
        """
        adapter = self._adapter(config, key, layer, index)
        if self._like is not None and self._like in layer.adapters:
            adapter.copy_frozen(layer.adapters[self._like])
        layer.add_adapter(name, adapter, dropout=config.dropout, inference_mode=config.inference_mode)

    @staticmethod
    def _adapter(config: LopsidedConfig, key: str, layer: LopsidedLinear, index: int | None) -> Adapter:
        r, scaling = config.rank_and_scale(key)
        method = config.as_method()
        key = key if index is None else f"{key}.{index}"
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
            float32=config.precision == "float32",
            saved_link=config.link,
            uncalibrated=method.reads_inputs,
            can_be_new=config.link == 0 and not isinstance(method.sketch, Stored) and not config.older,
            awaits=config.from_file,
        )

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter on the model, or leave the model as it was found.

        Raises:
            LopsidedError: for what cannot be adapted, or a saved adapter of another base.
        """
        check_adapter_name(adapter_name)
        # A copy: what an adapter learns about itself is never written into the caller's object.
        callers = self.peft_config[adapter_name]
        config = self.peft_config[adapter_name] = copy.deepcopy(callers)
        self._like = like_adapter(model, self.peft_config, adapter_name, callers)
        names = [name for name, _ in model.named_modules()]
        check_patterns(config.patterns(), names + [weight.key for weight in loose_weights(model)])
        if not config.from_file:
            settle_parameters(config, model)
        self._settle_targets(config, model, by_tensors=kwargs.get("state_dict") is not None)
        # How many modules hold each weight: one that is shared is never written to.
        self._holders = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
        trainable = {p: p.requires_grad for p in model.parameters()}
        # A layer that is refused comes after others that were replaced: the model is left as it was found.
        with ExitStack() as undo:
            undo.callback(_set_trainable, trainable)
            undo.callback(self._remove_injected, model, adapter_name)
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            layers = layers_of(model, adapter_name)
            # Libraries of averages may have been imported since.
            install_late_seams()
            if config.from_file:
                meet_base(config, layers)
            if not config.from_file or config.base is None or config.allow_base_mismatch:
                config.base = None
                note_base(config, layers)
            undo.pop_all()

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
                if not module.adapters and not isinstance(module.kind, MatrixKind):
                    replaced[name] = module.base_layer
            elif isinstance(module, AuxiliaryTrainingWrapper) and adapter_name in module._adapters:
                others = [other for other in module.active_adapters if other != adapter_name]
                module.delete_adapter(adapter_name, new_active_adapters=others)
                if not module._adapters:
                    replaced[name] = module.original_module
        for name, module in list(model.named_modules()):
            if isinstance(module, AdaptedParameters) and not any(layer.adapters for layer in module.all_layers()):
                replaced[name] = module.base_layer
        for name, original in replaced.items():
            model.set_submodule(name, original)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, AdaptedParameters):
            # PEFT would look for a weight and a bias in it.
            parent.register_module(child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

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

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "cat", **others: Any
    ) -> None:
        """Add an adapter whose ΔW is Σ w_i·ΔW_i: see `lopsided.tuner.weighted_sum.add_weighted`."""
        add_weighted(self, adapters, weights, adapter_name, combination_type, others)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; if no active one is left, the first of the others becomes active in every layer."""
        rest = [name for name in self.active_adapters if name != adapter_name]
        super().delete_adapter(adapter_name)
        # PEFT goes by the first layer that it meets, which may have held nothing but the deleted one.
        rest = rest or list(self.peft_config)[:1]
        if rest and self.active_adapters != rest:
            self.set_adapter(rest)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters into the base weights of all layers, or of none: see `LopsidedLinear.merge`."""
        self._check_can_merge(adapter_names, safe_merge)
        super().merge_adapter(adapter_names, safe_merge)

    def _check_can_merge(self, adapter_names: list[str] | None, safe_merge: bool) -> None:
        """Check every layer before the first one is merged: a refusal must not leave half a merge."""
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
            names = layer.active_adapters if adapter_names is None else adapter_names
            if not merge or not (layer.merged_adapters or layer.adapters.keys() & set(names)):
                # Nothing is merged here: the links of an active chain must not stay, either.
                layer.base_weight.restore()
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)

    def _repr_html_(self) -> str:
        # A notebook asks the PeftModel, which hands over what it does not have itself.
        return model_html(self)

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
            check_loaded(layer, adapter_name)
            # A state that another library gathered holds parameters and buffers, and nothing else.
            for what, tensor in pack(layer.adapters[adapter_name]).items():
                saved.setdefault(key_of(without_wrappers(name), what, adapter_name), tensor)
        note_base(config, layers)
        return SealedTensors(saved, layers, adapter_name, layers_of(model))

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: LopsidedConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return accept(model, config, adapter_name, state_dict)


def _set_trainable(requires_grad: Mapping[nn.Parameter, bool]) -> None:
    for parameter, value in requires_grad.items():
        parameter.requires_grad = value
