"""Make Lopsided a method that PEFT knows: a real member of `PeftType`, and an entry in PEFT's tables.

PEFT offers `register_peft_method`, but its list of names is a closed enum. This is the only file that reaches
into that enum, and it checks what it finds, so that a change in PEFT fails here and says so.
"""

from __future__ import annotations

from typing import Any

from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME = "LOPSIDED"


def add_enum_member() -> PeftType:
    """`PeftType.LOPSIDED`, added to the enum at the first call.

    Raises:
        RuntimeError: if PEFT's enum is not the str enum that this file was written for.
    """
    if NAME in PeftType.__members__:
        return PeftType[NAME]
    if not issubclass(PeftType, str) or PeftType("LORA").value != "LORA":
        raise RuntimeError("peft.PeftType is no longer an enum of strings; expected peft>=0.21,<0.22")
    member = str.__new__(PeftType, NAME)
    member._name_ = NAME
    member._value_ = NAME
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    # Pickled by value, a member would not be found in a process that has not imported lopsided yet.
    member.__reduce_ex__ = _reduce
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member
    type.__setattr__(PeftType, NAME, member)
    if PeftType(NAME) is not PeftType.LOPSIDED or NAME not in list(PeftType):
        raise RuntimeError("could not add LOPSIDED to peft.PeftType; expected peft>=0.21,<0.22")
    return member


def _reduce(protocol: object) -> tuple[Any, ...]:
    return add_enum_member, ()


def register_with_peft(config_cls: type, model_cls: type) -> None:
    """Enter the tuner into PEFT's tables, once a process."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    if add_enum_member() not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name="lopsided", config_cls=config_cls, model_cls=model_cls, prefix="lopsided_")
