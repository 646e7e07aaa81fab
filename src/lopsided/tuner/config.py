"""The configuration of one adapter, as PEFT saves and loads it."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftType, TaskType
from peft.utils.other import get_pattern_key

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.files.model_card import add_note
from lopsided.files.patterns import ENDING, HEAD, LAYER, WHOLE
from lopsided.files.untrusted import ADAPTER_CONFIG, check_fields, open_tensors, read_json, weights_in
from lopsided.method import Method, method_from_parts, method_named
from lopsided.tuner.lora_fields import takes_lora_fields
from lopsided.tuner.method_parts import check_parts, with_chain

# A member of PEFT's enum: see `lopsided.tuner.peft_seams.add_enum_member`.
PEFT_TYPE = "LOPSIDED"
# 2: factors are named `lopsided_B.weight` in the file, and the frozen tensors `lopsided_state.seed` and so on.
SCHEMA = 2
MAX_LINKS = 10**6
PRECISIONS = ("base", "float32")


@takes_lora_fields
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
        target_modules, target_parameters, exclude_modules, layers_to_transform, layers_pattern, modules_to_save,
            rank_pattern, alpha_pattern, use_rslora: as in `peft.LoraConfig`. Other fields of LoraConfig are taken where
            they are off, and refused by name where they are not.
        merge_links: whether past links are merged into the base weight. None merges into float32 weights
            and keeps links in float32 next to 16-bit and quantized ones.
        precision: in which dtype the products with the factors are computed next to 16-bit weights and inputs. "base":
            in the weights' dtype, with float32 sums, and added into the layer's own output. "float32": in float32,
            which takes more time and memory. The factors are float32 either way.
        parts: the method's parts, written when saving; a reader needs no registered method.
        link: the link that the adapter stands at, kept up to date by `advance_chain` and by loading.
        base: fingerprints of the targeted layers' original weights, written when saving.
        kinds: the kind of each targeted layer that is no `nn.Linear`, by its name in the base, written when saving;
            None in files that do not say.
        allow_base_mismatch: put a saved adapter on a base that its fingerprints say is another one. Never
            written to a file, and refused in one.
        schema: version of the saved form.

    Raises:
        LopsidedError: for an unknown or chainless method, a method that is no adapter, a field of another type, or
            a bad number.

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
    target_parameters: list[str] | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    merge_links: bool | None = None
    precision: str = "base"
    parts: dict[str, Any] | None = None
    link: int = 0
    base: list[str] | None = None
    kinds: dict[str, str] | None = None
    allow_base_mismatch: bool = False
    schema: int = SCHEMA
    lora_alpha: InitVar[float | None] = None
    lora_dropout: InitVar[float | None] = None

    def __post_init__(self, lora_alpha: Any, lora_dropout: Any) -> None:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        # Whoever reads a file passes the type that stands in it; whoever writes a configuration leaves it out, and
        # `dataclasses.replace` passes the member of the enum.
        self.from_file = fields["peft_type"] is not None and not isinstance(fields["peft_type"], PeftType)
        # Whether its tensors have yet to be loaded.
        self.waiting = self.from_file
        check_fields(
            LopsidedConfig, {**fields, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}, "LopsidedConfig"
        )
        if self.task_type is not None and self.task_type not in list(TaskType):
            raise LopsidedError(
                f"task_type must be one of {', '.join(TaskType)}, got {self.task_type!r:.80}; correct it"
            )
        super().__post_init__()
        self.peft_type = PeftType(PEFT_TYPE)
        if not 1 <= self.schema <= SCHEMA:
            raise LopsidedError(
                f"the adapter has schema {self.schema}, this lopsided reads up to {SCHEMA}; upgrade lopsided"
            )
        # Whether the tensors next to it have names that only `PeftModel` translates.
        self.older = self.from_file and self.schema < SCHEMA
        self.alpha = _one_of("alpha", self.alpha, "lora_alpha", lora_alpha, default=2 * self.r)
        self.dropout = _one_of("dropout", self.dropout or None, "lora_dropout", lora_dropout, default=0.0)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, set(value))
        self.target_parameters = self.target_parameters or None
        if self.target_parameters and self.target_modules is None:
            # Nothing but the parameters, where PEFT would take the model's default.
            self.target_modules = set()  # type: ignore[assignment]
        for name in (
            "target_parameters",
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "layers_to_transform",
            "layers_pattern",
        ):
            # PEFT adds to some of them: the caller's own stay as they are.
            setattr(self, name, copy.copy(getattr(self, name)))
        self._check_numbers()
        self._check_layers()
        self._check_origin()
        self._resolve_method()

    def _check_numbers(self) -> None:
        for name, r in {"r": self.r, **self.rank_pattern}.items():
            if not 1 <= r < 2**31:
                raise LopsidedError(f"rank must be a positive whole number below 2^31, got {name}={r!r}")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if alpha is None or not 0 < alpha < float("inf"):
                raise LopsidedError(f"alpha must be a positive number, got {name}={alpha}")
        if not 0.0 <= self.dropout < 1.0:
            raise LopsidedError(f"dropout is a probability below 1, got {self.dropout}")
        if self.precision not in PRECISIONS:
            raise LopsidedError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r:.80}")
        for name in ("links", "every", "link"):
            number = getattr(self, name)
            if number is not None and not 0 <= number <= MAX_LINKS:
                raise LopsidedError(f"{name} must lie between 0 and {MAX_LINKS}, got {number}")

    def _check_layers(self) -> None:
        # Files of earlier versions may say what was ignored when they were trained.
        if self.from_file:
            return
        if isinstance(self.target_modules, str):
            self.check_no_layers(f"target_modules={self.target_modules!r:.60} is an expression")
        if self.layers_pattern and self.layers_to_transform is None:
            raise LopsidedError(
                f"layers_pattern={self.layers_pattern!r:.60} says where layers_to_transform counts, which is missing; "
                "expected both; pass layers_to_transform, or leave layers_pattern out"
            )

    def check_no_layers(self, why: str) -> None:
        """Raise if layers are chosen by index, which PEFT does for names alone.

        Args:
            why: what target_modules is in place of names.
        """
        for name in ("layers_to_transform", "layers_pattern"):
            value = getattr(self, name)
            if value is not None and value != []:
                raise LopsidedError(
                    f"{name}={value!r:.60} chooses among modules by name, but {why}; expected a list of names in "
                    "target_modules; list them, or say the layers in the expression"
                )

    def _check_origin(self) -> None:
        """Refuse what only a caller may ask for, and what would import a module."""
        if self.from_file and self.allow_base_mismatch:
            raise LopsidedError(
                "a saved configuration asks for allow_base_mismatch, which only the caller may; delete it there, and "
                "pass allow_base_mismatch=True to from_pretrained or load_adapter"
            )
        if self.auto_mapping is not None and not _is_importable(self.auto_mapping):
            raise LopsidedError(
                f"auto_mapping would import {self.auto_mapping.get('parent_library')!r:.80}; expected a class of "
                "transformers; delete auto_mapping from adapter_config.json and load the base model yourself"
            )

    def _resolve_method(self) -> None:
        if isinstance(self.method, Method):
            method = self.method
        elif self.parts is not None:
            check_parts(self.parts)
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
        """Return the method with the chain that this configuration asks for."""
        assert self.parts is not None
        return method_from_parts(self.parts)

    def scaling(self, r: int, alpha: float) -> float:
        """Return s = alpha/r, or alpha/√r with `use_rslora` (Kalajdzievski 2023, arXiv:2312.03732)."""
        return alpha / r**0.5 if self.use_rslora else alpha / r

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Return (r, s) of one layer, by its name in the base model."""
        r = self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), module), self.r)
        assert self.alpha is not None, "the configuration fills alpha in"
        alpha = self.alpha_pattern.get(get_pattern_key(list(self.alpha_pattern), module), self.alpha)
        return r, self.scaling(r, alpha)

    def patterns(self) -> list[tuple[str, str, str]]:
        """Return every regular expression that PEFT will match module names with, as `check_patterns` takes them."""
        patterns = [
            (name, value, WHOLE)
            for name in ("target_modules", "exclude_modules")
            if isinstance(value := getattr(self, name), str)
        ]
        layers = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern
        patterns += [("layers_pattern", text, LAYER) for text in layers or ()]
        patterns += [("modules_to_save", text, HEAD) for text in self.modules_to_save or ()]
        return patterns + [
            (name, text, ENDING) for name in ("rank_pattern", "alpha_pattern") for text in getattr(self, name)
        ]

    # -- files -----------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as they are saved."""
        values = {name: list(v) if isinstance(v, set) else v for name, v in super().to_dict().items()}
        del values["allow_base_mismatch"]
        # Whatever it was read as.
        values["schema"] = SCHEMA
        return values

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write adapter_config.json: the whole new one, or, after an error, the older one as it was.

        Args:
            kwargs: `auto_mapping_dict`, PEFT's note on the base model's class, is kept where it is one of
                transformers'; PEFT's other arguments are for uploads.
        """
        values = {key: sorted(v) if isinstance(getattr(self, key), set) else v for key, v in self.to_dict().items()}
        mapping = kwargs.get("auto_mapping_dict")
        if mapping is not None and _is_importable(mapping):
            values["auto_mapping"] = mapping
        write_json(Path(save_directory) / ADAPTER_CONFIG, dict(sorted(values.items())))
        add_note(Path(save_directory))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], subfolder: str | None = None, **kwargs: Any
    ) -> LopsidedConfig:
        """Return a saved configuration, alone or next to an adapter's tensors, in a folder or on the hub.

        In a folder, the configuration's own damage, a pickle in the place of the tensors, and tensors that are cut off
        are seen here, before any model is touched.

        Args:
            allow_base_mismatch: see the class.

        Raises:
            LopsidedError: for what is damaged or not ours.
        """
        allow = kwargs.pop("allow_base_mismatch", False)
        folder = Path(pretrained_model_name_or_path) / (subfolder or "")
        if folder.is_dir():
            read_json(folder / ADAPTER_CONFIG)
            if any(folder.glob("adapter_model*")):
                with open_tensors(weights_in(folder)):
                    pass
        config = super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
        if not isinstance(config, LopsidedConfig):
            raise LopsidedError(
                f"{folder} holds a {config.peft_type} adapter; expected one of lopsided; load it with PeftModel"
            )
        config.allow_base_mismatch = allow
        return config


def _is_importable(auto_mapping: Mapping[str, Any]) -> bool:
    """Return whether PEFT's AutoPeftModel would import nothing but transformers for it."""
    library = auto_mapping.get("parent_library")
    return isinstance(library, str) and (library == "transformers" or library.startswith("transformers."))


def _one_of(name: str, value: Any, alias: str, alias_value: Any, *, default: Any) -> Any:
    """Return the value of an option that has two names, of which a caller gives one or none."""
    if value is not None and alias_value is not None and value != alias_value:
        raise LopsidedError(f"{name}={value} and {alias}={alias_value} are the same option; give one of them")
    return next((v for v in (value, alias_value) if v is not None), default)
