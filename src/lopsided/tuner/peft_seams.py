"""Checks in front of some of PEFT's own functions, for models with Lopsided adapters; others never notice.

PEFT opens an adapter's file before the tuner sees anything of it, in `PeftModel.load_adapter`: a pickle is
unpickled, damage raises an error of another library, an option that PEFT does not know is dropped, and an adapter
that is refused stays on the model half made. There is no seam between, so this method is wrapped. In
`PeftModel.save_pretrained` it is the pickle that can't be seen from inside.

PEFT's optimizers for LoRA find factors by the names `lora_A` and `lora_B`, and without any train all parameters alike.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import peft.helpers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from peft import PeftModel
from peft.optimizers import loraplus
from peft.optimizers.lorafa import LoraFAOptimizer
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.files.untrusted import ADAPTER_WEIGHTS, check_adapter_name, open_tensors, weights_in
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.layer import layers_of
from lopsided.tuner.model import LopsidedModel
from lopsided.tuner.saved import Loading, loading, meet_base
from lopsided.tuner.state import ADAPTER_ONLY


def guard_peft() -> None:
    """Put the checks in place."""
    # setattr, since a type checker rightly refuses to let anybody replace another class's methods.
    for name, guarded in (("load_adapter", _guarded_load), ("save_pretrained", _guarded_save)):
        setattr(PeftModel, name, guarded(getattr(PeftModel, name)))
    peft.helpers.rescale_adapter_scale = _rescaling(peft.helpers.rescale_adapter_scale)
    # Seams inside the functions that make these optimizers, since a script may have imported those before lopsided.
    loraplus.get_parameter_names = _guarded_names(loraplus.get_parameter_names)
    setattr(LoraFAOptimizer, "__init__", _guarded_lorafa(LoraFAOptimizer.__init__))  # noqa: B010


def _guarded_load(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def load_adapter(
        self: PeftModel, model_id: str | os.PathLike[str], adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        if not isinstance(self.base_model, LopsidedModel):
            return load(self, model_id, adapter_name, *args, **kwargs)
        check_adapter_name(adapter_name)
        allow_base_mismatch = kwargs.pop("allow_base_mismatch", False)
        given = inspect.signature(load).bind(self, model_id, adapter_name, *args, **kwargs).arguments
        options = Loading(
            allow_base_mismatch=allow_base_mismatch,
            ignore_mismatched_sizes=kwargs.get("ignore_mismatched_sizes", False),
            low_cpu_mem_usage=given.get("low_cpu_mem_usage", False),
        )
        names = _check_file(model_id, kwargs)
        config = self.peft_config.get(adapter_name)
        with loading(options), _all_or_nothing(self, adapter_name):
            if config is not None and not config.waiting:
                saved = LopsidedConfig.from_pretrained(model_id, **PeftModel._split_kwargs(kwargs)[0])
                meet_base(saved, layers_of(self, adapter_name))
            try:
                return load(self, model_id, adapter_name, *args, **kwargs)
            except KeyError as error:
                # PEFT looks up the tensors of trained heads by name.
                if error.args[0] in names:
                    raise
                raise LopsidedError(
                    f"the saved adapter lacks {error.args[0]}, a tensor of a trained head; expected all of them; load "
                    "it on the model that it was trained on, or get the file again"
                ) from error

    return load_adapter


def _check_file(model_id: str | os.PathLike[str], kwargs: dict[str, Any]) -> set[str]:
    """The names in the file of the adapter's tensors, which is safetensors and whole."""
    hub = PeftModel._split_kwargs(kwargs)[0]
    folder = Path(model_id) / (hub.get("subfolder") or "")
    if folder.is_dir():
        path = weights_in(folder)
    else:
        try:
            # PEFT finds it in the cache afterwards.
            path = Path(hf_hub_download(str(model_id), ADAPTER_WEIGHTS, **hub))
        except (EntryNotFoundError, LocalEntryNotFoundError) as error:
            raise LopsidedError(
                f"{model_id}: no {ADAPTER_WEIGHTS} there, or no network; expected safetensors, since a pickle can run "
                "code when it is opened; check the name, or ask the author to save it again"
            ) from error
    with open_tensors(path) as file:
        return set(file.keys())


@contextmanager
def _all_or_nothing(model: PeftModel, adapter_name: str) -> Iterator[None]:
    """Take an adapter off the model again if it was not there before, and its tensors were refused."""
    try:
        yield
    except BaseException:
        config = model.peft_config.get(adapter_name)
        if config is not None and config.waiting:
            if len(model.peft_config) == 1:
                model.base_model.unload()
            else:
                model.delete_adapter(adapter_name)
        raise


def _guarded_save(save: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(save)
    def save_pretrained(
        self: PeftModel, save_directory: str, safe_serialization: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        if isinstance(self.base_model, LopsidedModel) and not safe_serialization:
            raise LopsidedError(
                "safe_serialization=False would write a pickle, which lopsided does not load; expected True; leave it "
                "out"
            )
        # PEFT takes the adapter out of the whole model's state, for which base weights need not be undone.
        token = ADAPTER_ONLY.set(isinstance(self.base_model, LopsidedModel))
        try:
            save(self, save_directory, safe_serialization, *args, **kwargs)
        finally:
            ADAPTER_ONLY.reset(token)

    return save_pretrained


def _rescaling(rescale: Callable[..., AbstractContextManager[None]]) -> Callable[..., AbstractContextManager[None]]:
    """PEFT's own asks each layer whether it is LoRA's."""

    @functools.wraps(rescale)
    @contextmanager
    def rescale_adapter_scale(model: nn.Module, multiplier: float) -> Iterator[None]:
        layers = layers_of(model)
        if not layers:
            with rescale(model, multiplier):
                yield
            return
        if not isinstance(multiplier, (int, float)):
            raise TypeError(f"multiplier must be a number, got {type(multiplier).__name__}; pass a float")
        scaling = {name: layer.scaling for name, layer in layers.items()}
        try:
            for layer in layers.values():
                layer.rescale({adapter: s * multiplier for adapter, s in layer.scaling.items()})
            yield
        finally:
            for name, layer in layers.items():
                layer.rescale(scaling[name])

    return rescale_adapter_scale


def _guarded_names(get_parameter_names: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @functools.wraps(get_parameter_names)
    def guarded(model: nn.Module, *args: Any, **kwargs: Any) -> list[str]:
        if layers_of(model):
            raise LopsidedError(
                "create_loraplus_optimizer finds the B-factors by the name lora_B, which lopsided's do not have, and "
                "would give all factors one learning rate; expected a model with LoRA alone; adapt with the method "
                "'lora_plus' and pass torch.optim.AdamW(lopsided.param_groups(model, lr=...))"
            )
        return get_parameter_names(model, *args, **kwargs)

    return guarded


def _guarded_lorafa(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def __init__(self: LoraFAOptimizer, params: Any, *args: Any, **kwargs: Any) -> None:
        params = list(params)
        names = [name for group in params if isinstance(group, dict) for name in group.get("names", ())]
        if any(f".{LopsidedModel.prefix}" in name for name in names):
            raise LopsidedError(
                "LoraFAOptimizer freezes and projects by the names lora_A and lora_B, which lopsided's factors do not "
                "have, and would train them as AdamW does; expected a model with LoRA alone; adapt with the method "
                "'lora_fa', which trains B alone, and pass torch.optim.AdamW(lopsided.param_groups(model, lr=...))"
            )
        init(self, params, *args, **kwargs)

    return __init__
