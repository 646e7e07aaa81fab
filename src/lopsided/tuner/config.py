"""The configuration of one adapter, as PEFT saves and loads it."""

from __future__ import annotations

import dataclasses
from dataclasses import InitVar, dataclass, field
from typing import Any

from peft import PeftConfig

from lopsided.errors import LopsidedError
from lopsided.method import Method, method_from_parts, method_named
from lopsided.tuner.register import add_enum_member

SCHEMA = 1


@dataclass
class LopsidedConfig(PeftConfig):
    """What `get_peft_model` needs to put a Lopsided adapter on a model.

    The adapter adds ΔW = s·B·A to each targeted layer, with s = alpha/r, or alpha/√r with `use_rslora`.

    Args:
        method: a registered method's name, or a `Method`.
        r: rank.
        alpha: the scale's numerator; None takes 2r. `lora_alpha` is another name for it.
        dropout: dropout on the adapter's input. `lora_dropout` is another name for it.
        links: how many links the chain has; `every`: how many steps a link has. Only for methods with a
            chain; None keeps the method's own.
        seed: the run's seed, from which each layer derives its own.
        target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save, rank_pattern,
            alpha_pattern, use_rslora: as in `peft.LoraConfig`.
        merge_links: whether past links are merged into the base weight. None merges into float32 weights
            and keeps links in float32 beside 16-bit and quantized ones.
        parts: the method's parts, written when saving; a reader needs no registered method.
        link: the link that the adapter stands at, kept up to date by `advance_chain` and by loading.
        schema: version of the saved form.

    Raises:
        LopsidedError: for an unknown or chainless method, a method that is no adapter, or a bad number.

    Example:
        >>> LopsidedConfig(method="c3la", r=4, links=3).alpha
        8
    """

    method: str | Method = "cla"
    r: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    links: int | None = None
    every: int | None = None
    seed: int = 0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    merge_links: bool | None = None
    parts: dict[str, Any] | None = None
    link: int = 0
    schema: int = SCHEMA
    lora_alpha: InitVar[float | None] = None
    lora_dropout: InitVar[float | None] = None

    def __post_init__(self, lora_alpha: Any, lora_dropout: Any) -> None:
        super().__post_init__()
        self.peft_type = add_enum_member()
        if self.schema > SCHEMA:
            raise LopsidedError(
                f"the adapter has schema {self.schema}, this lopsided reads up to {SCHEMA}; upgrade lopsided"
            )
        self.alpha = _one_of("alpha", self.alpha, "lora_alpha", lora_alpha, default=2 * self.r)
        self.dropout = _one_of("dropout", self.dropout or None, "lora_dropout", lora_dropout, default=0.0)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, set(value))
        self._check_numbers()
        self._resolve_method()

    def _check_numbers(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise LopsidedError(f"rank must be a positive whole number, got r={self.r!r}")
        if self.alpha is None or not 0 < self.alpha < float("inf"):
            raise LopsidedError(f"alpha must be a positive number, got {self.alpha}")
        if not 0.0 <= self.dropout < 1.0:
            raise LopsidedError(f"dropout is a probability below 1, got {self.dropout}")

    def _resolve_method(self) -> None:
        if isinstance(self.method, Method):
            method = self.method
        elif self.parts is not None:
            method = method_from_parts(self.parts)
            if method.name != self.method:
                raise LopsidedError(
                    f"method {self.method!r} comes with the parts of {method.name!r}; expected one method; "
                    "leave parts out to take the registered method"
                )
        else:
            method = method_named(self.method)
        if not method.is_adapter:
            raise LopsidedError(
                f"method {method.name!r} trains {method.train!r} and is no adapter; expected one that trains a "
                "factor; run it with `lopsided train`, or fine-tune the model itself"
            )
        method = with_chain(method, links=self.links, every=self.every)
        self.method, self.parts = method.name, method.parts()
        if method.chain is not None:
            self.links, self.every = method.chain.links, method.chain.every

    def as_method(self) -> Method:
        """The method with the chain that this configuration asks for."""
        assert self.parts is not None
        return method_from_parts(self.parts)

    def scaling(self, r: int, alpha: float) -> float:
        """s = alpha/r, or alpha/√r with `use_rslora` (Kalajdzievski 2023, arXiv:2312.03732)."""
        return alpha / r**0.5 if self.use_rslora else alpha / r


def with_chain(method: Method, *, links: int | None, every: int | None) -> Method:
    """The method with another length of its links.

    Raises:
        LopsidedError: if the method has no chain.
    """
    if links is None and every is None:
        return method
    if method.chain is None:
        asked = f"links={links}" if links is not None else f"every={every}"
        raise LopsidedError(f"method {method.name!r} has no chain, got {asked}; leave it out or choose a chained one")
    chain = dataclasses.replace(method.chain, links=links, every=every)
    return dataclasses.replace(method, chain=chain)


def _one_of(name: str, value: Any, alias: str, aliased: Any, *, default: Any) -> Any:
    if value is not None and aliased is not None and value != aliased:
        raise LopsidedError(f"{name}={value} and {alias}={aliased} are the same option; give one of them")
    return next((v for v in (value, aliased) if v is not None), default)
