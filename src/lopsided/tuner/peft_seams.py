"""Every function of another library that lopsided replaces, and every hook for a whole process, with the reasons.

PEFT, transformers and torch offer most of what the tuner needs: classes to derive from, tables to register with, hooks
of one module. Where they offer nothing, a function of theirs is wrapped, and all such places are in this file:

    SEAMS               functions of other libraries, each with what stands in front of it and why
    add_enum_member     `PeftType.LOPSIDED`
    register_tuner      PEFT's tables
    before_steps        a check before every step of every optimizer of torch
    after_train_begin   a check at the start of every training by a `transformers.Trainer`
    give_class          one module's class, of a model whose merges are to be exact

A wrapper lets everything through that has nothing to do with a Lopsided adapter. `before_steps` and `after_train_begin`
call the functions that other packages of this library register with them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import peft.helpers
import peft.utils.save_and_load  # noqa: F401  (a seam's module)
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.optimizers import loraplus  # noqa: F401  (a seam's module)
from peft.optimizers.lorafa import LoraFAOptimizer
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType
from torch import nn
from torch.optim import Optimizer, swa_utils  # noqa: F401  (a seam's module)
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers.trainer_callback import CallbackHandler

from lopsided.errors import LopsidedError
from lopsided.tuner.chain_averages import AVERAGES, Average, checked_update, noted_start
from lopsided.tuner.config import PEFT_TYPE
from lopsided.tuner.load_and_save import carded_upload, checked_load, checked_save
from lopsided.tuner.model_queries import layers_of
from lopsided.tuner.parameters.adapted_parameters import original_name

PREFIX = "lopsided_"


@dataclass(frozen=True, kw_only=True)
class Seam:
    """A function of another library, and what stands in front of it.

    Args:
        module: where it is looked up.
        name: its name there: `function` or `Class.method`.
        wrap: makes what takes its place.
        reason: why there is no other way.
        optional: whether the library may be missing, not imported yet, or without this name. Otherwise a name that is
            not there is an error at import.
    """

    module: str
    name: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    reason: str
    optional: bool = False

    def install(self) -> None:
        """Put the wrapper in place, if it is not there and the module is imported."""
        owner: Any = sys.modules.get(self.module)
        *path, attribute = self.name.split(".")
        for part in path:
            owner = _attribute(owner, part)
        original = _attribute(owner, attribute)
        if original is None:
            if self.optional:
                return
            raise RuntimeError(f"{self.module} has no {self.name}; expected peft>=0.21,<0.22 and transformers 5")
        # The mark survives `functools.wraps`, so what others have put in front of ours is not wrapped again.
        if "lopsided_seam" not in vars(original):
            wrapper = self.wrap(original)
            vars(wrapper)["lopsided_seam"] = True
            setattr(owner, attribute, wrapper)


def _attribute(owner: Any, name: str) -> Any:
    """Return what a module or a class holds under a name, as it is stored; None if it holds nothing."""
    if owner is None:
        return None
    holders = owner.__mro__ if isinstance(owner, type) else (owner,)
    return next((vars(holder)[name] for holder in holders if name in vars(holder)), None)


def install_seams() -> None:
    """Put every wrapper in place whose library is imported."""
    for seam in SEAMS:
        seam.install()


def install_late_seams() -> None:
    """Put the wrappers in place whose library was imported since; called when an adapter is made and at an advance."""
    for seam in SEAMS:
        if seam.optional:
            seam.install()


# -- PEFT's tables -------------------------------------------------------------------------------------------------


def add_enum_member() -> PeftType:
    """Return `PeftType.LOPSIDED`, which the first call adds to the enum.

    Reason: PEFT offers `register_peft_method`, but it takes a name of a closed enum only. What this function finds
    there is checked, so that a change in PEFT fails here and says so.

    Raises:
        RuntimeError: if PEFT's enum is not the str enum that this function was written for.
    """
    if PEFT_TYPE in PeftType.__members__:
        return PeftType[PEFT_TYPE]
    if not issubclass(PeftType, str) or PeftType("LORA").value != "LORA":
        raise RuntimeError("peft.PeftType is no longer an enum of strings; expected peft>=0.21,<0.22")
    member = str.__new__(PeftType, PEFT_TYPE)
    member._name_ = PEFT_TYPE
    member._value_ = PEFT_TYPE
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    # Pickled by value, a member would not be found in a process that has not imported lopsided yet.
    member.__reduce_ex__ = _reduce
    PeftType._member_names_.append(PEFT_TYPE)
    PeftType._member_map_[PEFT_TYPE] = member
    PeftType._value2member_map_[PEFT_TYPE] = member
    type.__setattr__(PeftType, PEFT_TYPE, member)
    if PeftType(PEFT_TYPE) is not PeftType.LOPSIDED or PEFT_TYPE not in list(PeftType):
        raise RuntimeError("could not add LOPSIDED to peft.PeftType; expected peft>=0.21,<0.22")
    return member


def _reduce(protocol: object) -> tuple[Any, ...]:
    return add_enum_member, ()


def register_tuner(config_cls: type, model_cls: type) -> None:
    """Enter the tuner into PEFT's tables, once per process.

    Reason: PEFT's own way for a method of somebody else's.
    """
    if add_enum_member() not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name="lopsided", config_cls=config_cls, model_cls=model_cls, prefix=PREFIX)


# -- single modules ------------------------------------------------------------------------------------------------


def give_class(module: nn.Module, cls: type) -> None:
    """Make one module an instance of another class, with the attributes that it has.

    Reason: a model whose merges are to be exact has PEFT's layers already, and others hold references to them. A method
    set on an instance would be pickled by its name, and come back as the class's own.
    """
    module.__class__ = cls


# -- checks that other packages register -----------------------------------------------------------------------------

_TRAIN_CHECKS: list[Callable[[CallbackHandler], None]] = []


def before_steps(action: Callable[[Optimizer], None]) -> None:
    """Call `action` before every step of every optimizer of torch.

    Reason: an optimizer that was built without `param_groups` gives both factors of LoRA+ one learning rate, a
    schedule goes on where a chain has frozen it, and nothing else of ours runs in a training loop that somebody else
    wrote.
    """
    register_optimizer_step_pre_hook(lambda optimizer, args, kwargs: action(optimizer))


def after_train_begin(check: Callable[[CallbackHandler], None]) -> None:
    """Call `check` whenever a Trainer has begun a training: see the seam of `CallbackHandler.on_train_begin`."""
    _TRAIN_CHECKS.append(check)


def _with_train_checks(begin: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(begin)
    def on_train_begin(self: CallbackHandler, *args: Any, **kwargs: Any) -> Any:
        control = begin(self, *args, **kwargs)
        for check in _TRAIN_CHECKS:
            check(self)
        return control

    return on_train_begin


# -- small wrappers --------------------------------------------------------------------------------------------------


def _rescaling(rescale: Callable[..., AbstractContextManager[None]]) -> Callable[..., AbstractContextManager[None]]:
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
        with ExitStack() as stack:
            for layer in layers.values():
                stack.callback(layer.rescale, layer.scaling)
                layer.rescale({adapter: s * multiplier for adapter, s in layer.scaling.items()})
            yield

    return rescale_adapter_scale


def _through_parameters(to_original: Callable[[Any, str], str]) -> Callable[[Any, str], str]:
    @functools.wraps(to_original)
    def _peft_key_to_original_key(model: Any, peft_key: str) -> str:
        return to_original(model, original_name(model.base_model.model, peft_key))

    return _peft_key_to_original_key


def _refusing_names(get_parameter_names: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @functools.wraps(get_parameter_names)
    def checked(model: nn.Module, *args: Any, **kwargs: Any) -> list[str]:
        if layers_of(model):
            raise LopsidedError(
                "create_loraplus_optimizer finds the B-factors by the name lora_B, which lopsided's do not have, and "
                "would give all factors one learning rate; expected a model with LoRA alone; adapt with the method "
                "'lora_plus' and pass torch.optim.AdamW(lopsided.param_groups(model, lr=...))"
            )
        return get_parameter_names(model, *args, **kwargs)

    return checked


def _refusing_factors(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def __init__(self: LoraFAOptimizer, params: Any, *args: Any, **kwargs: Any) -> None:
        params = list(params)
        names = [name for group in params if isinstance(group, dict) for name in group.get("names", ())]
        if any(f".{PREFIX}" in name for name in names):
            raise LopsidedError(
                "LoraFAOptimizer freezes and projects by the names lora_A and lora_B, which lopsided's factors do not "
                "have, and would train them as AdamW does; expected a model with LoRA alone; adapt with the method "
                "'lora_fa', which trains B alone, and pass torch.optim.AdamW(lopsided.param_groups(model, lr=...))"
            )
        init(self, params, *args, **kwargs)

    return __init__


# -- the table ------------------------------------------------------------------------------------------------------


def seams_of(average: Average) -> tuple[Seam, Seam]:
    """Return the seams of a class that averages weights."""
    reason = "an average over links mixes factors of different sketches, and no library asks before it averages"
    return (
        Seam(
            module=average.module,
            name=f"{average.name}.{average.update}",
            wrap=checked_update,
            reason=reason,
            optional=average.optional,
        ),
        Seam(
            module=average.module,
            name=f"{average.name}.__init__",
            wrap=noted_start,
            reason="at which link an average was begun is known only when it is begun",
            optional=average.optional,
        ),
    )


SEAMS: tuple[Seam, ...] = (
    Seam(
        module="peft.peft_model",
        name="PeftModel.load_adapter",
        wrap=checked_load,
        reason="it opens the file before the tuner sees anything of it, and leaves a refused adapter on the model",
    ),
    Seam(
        module="peft.peft_model",
        name="PeftModel.save_pretrained",
        wrap=checked_save,
        reason="whether it writes a pickle cannot be seen from inside",
    ),
    Seam(
        module="peft.peft_model",
        name="PeftModel._upload_modified_files",
        wrap=carded_upload,
        # PEFT inherits `push_to_hub` of transformers, which leaves no other place between its card and the upload.
        reason="push_to_hub replaces the card that was saved, and with it the line that loading needs",
    ),
    Seam(
        module="peft.helpers",
        name="rescale_adapter_scale",
        wrap=_rescaling,
        reason="it asks each layer whether it is a LoraLayer, and finds no layer of ours",
    ),
    Seam(
        module="peft.utils.save_and_load",
        name="_peft_key_to_original_key",
        wrap=_through_parameters,
        # Of get_base_model_state_dict and set_base_model_state_dict.
        reason="it knows the wrappers of layers by PEFT's class, which a module with adapted parameters is none of",
    ),
    Seam(
        module="peft.optimizers.loraplus",
        name="get_parameter_names",
        wrap=_refusing_names,
        # Inside `create_loraplus_optimizer`, which a script may have imported before lopsided.
        reason="create_loraplus_optimizer finds factors by the names lora_A and lora_B, and trains all others alike",
    ),
    Seam(
        module="peft.optimizers.lorafa",
        name="LoraFAOptimizer.__init__",
        wrap=_refusing_factors,
        reason="create_lorafa_optimizer finds factors by the names lora_A and lora_B, and trains all others alike",
    ),
    Seam(
        module="transformers.trainer_callback",
        name="CallbackHandler.on_train_begin",
        wrap=_with_train_checks,
        # Not `Trainer.train`: the handler's module is imported anyway, every subclass that overrides `train` calls it,
        # and it runs after a checkpoint was loaded, so that the chain stands where the training begins.
        reason="a Trainer without ChainCallback would train the first link for the whole run, and say nothing",
    ),
    *(seam for average in AVERAGES for seam in seams_of(average)),
)
