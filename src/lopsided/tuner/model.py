"""The tuner: puts `LopsidedLinear` in the place of the targeted layers, and saves and loads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.errors import LopsidedError
from lopsided.sketch import Stored, layer_seed
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.layer import LopsidedLinear, layers_of
from lopsided.tuner.links import EXTRAS, Adapter
from lopsided.tuner.mixed import mixed_batch

SUPPORTED = "torch.nn.Linear and transformers' Conv1D"


class LopsidedModel(BaseTuner):
    """A model with Lopsided adapters, as PEFT builds it."""

    prefix = "lopsided_"
    tuner_layer_cls = LopsidedLinear
    target_module_mapping: ClassVar[dict[str, Any]] = {
        **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
        "vit": ["q_proj", "v_proj"],
        "distilbert": ["q_lin", "v_lin"],
    }

    def _prepare_adapter_config(self, peft_config: LopsidedConfig, model_config: dict[str, Any]) -> LopsidedConfig:
        known = self.target_module_mapping
        if peft_config.target_modules is None and model_config.get("model_type") not in known:
            raise LopsidedError(
                f"no default target_modules for a model of type {model_config.get('model_type')!r}; "
                "expected names, a regular expression or 'all-linear'; pass target_modules"
            )
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
            self._check_supported(target, current_key)
            layer = LopsidedLinear(target, mergeable=not self._is_shared(target))
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

    @staticmethod
    def _adapter(config: LopsidedConfig, key: str, layer: LopsidedLinear) -> Adapter:
        r = config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), key), config.r)
        assert config.alpha is not None, "the configuration fills alpha in"
        alpha = config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), key), config.alpha)
        method = config.as_method()
        return Adapter(
            module=key,
            method=method,
            d_out=layer.out_features,
            d_in=layer.in_features,
            r=r,
            scaling=config.scaling(r, alpha),
            seed=layer_seed(config.seed, key),
            links=config.links,
            merge_links=config.merge_links,
            pending=config.link > 0 or isinstance(method.sketch, Stored),
        )

    @staticmethod
    def _check_supported(target: nn.Module, key: str) -> None:
        if isinstance(target, BaseTunerLayer):
            raise LopsidedError(
                f"{key} already has a {type(target).__module__}.{type(target).__name__} adapter; expected a plain "
                "layer; unload the other tuner first"
            )
        # MultiheadAttention reads this layer's weight without calling it, so an adapter would do nothing.
        unread = isinstance(target, nn.modules.linear.NonDynamicallyQuantizableLinear)
        if unread or not isinstance(target, (nn.Linear, Conv1D)):
            raise LopsidedError(
                f"{key} is a {type(target).__name__}, which can't be adapted; supported: {SUPPORTED}; "
                "narrow target_modules or add it to exclude_modules"
            )

    def _is_shared(self, target: nn.Module) -> bool:
        weight = target.weight
        holders = [n for n, p in self.model.named_parameters(remove_duplicate=False) if p is weight]
        return len(holders) > 1

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            # A layer that is refused comes after others that were replaced: leave the model as it was found.
            self._remove_injected(model, adapter_name)
            raise

    @staticmethod
    def _remove_injected(model: nn.Module, adapter_name: str) -> None:
        for name, layer in layers_of(model).items():
            if adapter_name in layer.adapters:
                layer.delete_adapter(adapter_name)
            if not layer.adapters:
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, layer.base_layer)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        with mixed_batch(self.model, names, num_beams=kwargs.get("num_beams"), known=self.peft_config):
            yield

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> nn.Module:
        for layer in layers_of(self.model).values():
            if merge:
                # A merge is asked for by name: that the adapters are switched off now does not undo it.
                layer.enable_adapters(True)
            else:
                layer.restore()
        return super()._unload_and_optionally_merge(merge, *args, **kwargs)

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
        for name, layer in layers_of(model, adapter_name).items():
            for key, tensor in layer.extra_tensors(adapter_name):
                saved[f"{name}.{key}"] = tensor
        return saved

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: LopsidedConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        layers = layers_of(model, adapter_name)
        extras = {f"{name}.lopsided_{what}" for name in layers for what in EXTRAS}
        known, loaded = model.state_dict().keys(), {}
        for key, tensor in remapped.items():
            name = key if key in known or key in extras else key.removeprefix("base_model.model.")
            if name in extras:
                loaded[f"{name}.{adapter_name}"] = tensor
            elif name in known:
                loaded[name] = tensor
            else:
                raise LopsidedError(
                    f"the saved adapter holds {key!r}, which the model has no place for; expected an adapter of "
                    f"method {config.method!r} on these modules; load it on the model it was trained on"
                )
        links = {len(t) for key, t in loaded.items() if ".lopsided_checksum." in key}
        required = ["seed", "checksum", *next(iter(layers.values())).trained(adapter_name)]
        required += [f"past_{letter}" for letter in required[2:] if max(links, default=1) > 1]
        for what in required:
            missing = [name for name in layers if f"{name}.lopsided_{what}.{adapter_name}" not in loaded]
            if missing:
                raise LopsidedError(
                    f"the saved adapter lacks lopsided_{what} of {len(missing)} of {len(layers)} adapted layers, "
                    f"{missing[0]} among them; expected all; load it with the target_modules it was trained with"
                )
        first = next(iter(layers))
        config.link = len(loaded[f"{first}.lopsided_checksum.{adapter_name}"]) - 1
        return loaded


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
