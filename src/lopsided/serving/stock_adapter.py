"""A saved LoRA adapter of stock PEFT as low-rank updates.

A folder is read with the caution that a stranger's needs: fields are checked for their types, and a feature that adds
anything but ΔW = s·B·A to a linear layer is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, TaskType
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.files.manifest import PEFT_PREFIX
from lopsided.files.patterns import ENDING, HEAD, LAYER, WHOLE, check_patterns
from lopsided.files.untrusted import ADAPTER_CONFIG, check_fields, open_tensors, read_json, weights_in
from lopsided.finite import check_finite
from lopsided.serving.lora_tensors import SavedUpdates, split_bases
from lopsided.serving.low_rank import LowRankUpdate

FACTORS = {".lora_A.weight": "A", ".lora_B.weight": "B"}
# Fields whose values change nothing of what s·B·A is, or are looked at below.
READ = {
    *(
        "peft_type",
        "peft_version",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
    *("megatron_core", "qalora_group_size"),
}
# Starts of A and B that leave the base weights as they are.
INITS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, kw_only=True)
class LoraFields:
    """The fields of `peft.LoraConfig` that decide ΔW, with the types that a file must have."""

    r: int
    lora_alpha: float
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    auto_mapping: dict[str, str] | None = None
    init_lora_weights: bool | str | None = True

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Return (r, s) of one layer, as PEFT finds them: s = alpha/r, or alpha/√r with `use_rslora`."""
        ranks, alphas = self.rank_pattern or {}, self.alpha_pattern or {}
        r = ranks.get(get_pattern_key(list(ranks), module), self.r)
        alpha = alphas.get(get_pattern_key(list(alphas), module), self.lora_alpha)
        return r, alpha / r**0.5 if self.use_rslora else alpha / r


def read_fields(folder: Path) -> tuple[LoraFields, dict[str, Any]]:
    """Return the checked fields of a LoRA adapter's configuration, and the whole of it.

    Raises:
        LopsidedError: for a configuration of another type, a field of another type or range, or an expression that PEFT
            would match names with for too long.
    """
    path = folder / ADAPTER_CONFIG
    raw = read_json(path)
    if raw.get("peft_type") != "LORA":
        raise LopsidedError(
            f"{path} has peft_type {raw.get('peft_type')!r:.40}; expected LORA or LOPSIDED, which are saved as "
            "ΔW = s·B·A; take the folder as it is"
        )
    if missing := [name for name in ("r", "lora_alpha") if name not in raw]:
        raise LopsidedError(f"{path} lacks {missing[0]}; expected a configuration of PEFT's LoRA; get it again")
    check_fields(LoraFields, raw, str(path))
    known = LoraFields.__dataclass_fields__
    fields = LoraFields(**{name: value for name, value in raw.items() if name in known})
    for name, r in {"r": fields.r, **(fields.rank_pattern or {})}.items():
        if not 1 <= r < 2**31:
            raise LopsidedError(
                f"{path}: rank must be a positive whole number below 2^31, got {name}={r!r}; get it again"
            )
    for name, alpha in {"lora_alpha": fields.lora_alpha, **(fields.alpha_pattern or {})}.items():
        if not abs(alpha) < float("inf"):
            raise LopsidedError(f"{path}: alpha must be a finite number, got {name}={alpha}; get it again")
    if fields.task_type is not None and fields.task_type not in list(TaskType):
        raise LopsidedError(
            f"{path}: task_type must be one of {', '.join(TaskType)}, got {fields.task_type!r:.40}; get it again"
        )
    with open_tensors(weights_in(folder)) as file:
        names = {_module_of(key) for key in file.keys()}  # noqa: SIM118
    check_patterns(_patterns(fields), sorted(names))
    return fields, raw


def read_stock(folder: Path) -> SavedUpdates:
    """Return a saved LoRA adapter's updates.

    Raises:
        LopsidedError: for what is damaged, and for an adapter that is not s·B·A on linear layers of the original base.
    """
    fields, raw = read_fields(folder)
    _check_plain_lora(folder, fields, raw)
    weights = weights_in(folder)
    with open_tensors(weights):
        tensors = load_file(weights)
    for name, tensor in tensors.items():
        check_finite(f"{weights}: {name}", tensor, fix="get the file again")
    factors, others = _split(tensors)
    layers = {module: _update(weights, fields, module, factors[module]) for module in sorted(factors)}
    if not layers:
        raise LopsidedError(f"{weights} holds no lora_A.weight; expected factors of linear layers; get it again")
    if unread := [name for name in sorted(others) if ".lora_" in name]:
        raise LopsidedError(
            f"{weights} holds {unread[0]}, of an adapter on another kind of layer than a linear one; export it --for "
            "peft without --rank, which copies it"
        )
    trained, bases = split_bases(others)
    return SavedUpdates(
        layers=layers,
        others=trained,
        bases=bases,
        what=f"LoRA of PEFT, r={fields.r}",
        transposed=fields.fan_in_fan_out,
        task_type=fields.task_type,
        modules_to_save=fields.modules_to_save,
        base=fields.base_model_name_or_path,
        auto_mapping=fields.auto_mapping,
    )


def _check_plain_lora(folder: Path, fields: LoraFields, raw: Mapping[str, Any]) -> None:
    plain = LoraConfig().to_dict()
    odd = sorted(name for name, value in raw.items() if name not in READ and value and value != plain.get(name))
    if odd:
        raise LopsidedError(
            f"{folder} has {odd[0]}={raw[odd[0]]!r:.60}, more than s·B·A on linear layers; expected plain LoRA; "
            "export it --for peft without --rank, which copies it, or merge it into its base"
        )
    if fields.init_lora_weights not in INITS:
        raise LopsidedError(
            f"{folder} has init_lora_weights={fields.init_lora_weights!r:.40}, which starts from other base weights "
            "than the base has; expected an adapter on the original weights; save it with "
            "path_initial_model_for_weight_conversion"
        )


def _patterns(fields: LoraFields) -> list[tuple[str, str, str]]:
    """Return every regular expression that PEFT matches module names with, as `check_patterns` takes them."""
    whole = (("target_modules", fields.target_modules), ("exclude_modules", fields.exclude_modules))
    endings = (("rank_pattern", fields.rank_pattern), ("alpha_pattern", fields.alpha_pattern))
    layers = [fields.layers_pattern] if isinstance(fields.layers_pattern, str) else fields.layers_pattern
    return [
        *((name, text, WHOLE) for name, text in whole if isinstance(text, str)),
        *(("layers_pattern", text, LAYER) for text in layers or ()),
        *(("modules_to_save", text, HEAD) for text in fields.modules_to_save or ()),
        *((name, text, ENDING) for name, pattern in endings for text in pattern or {}),
    ]


def _module_of(key: str) -> str:
    """Return the module that a tensor of a file belongs to.

    Example:
        >>> _module_of("base_model.model.layers.0.q_proj.lora_A.weight")
        'layers.0.q_proj'
    """
    return key.removeprefix(PEFT_PREFIX).partition(".lora_")[0]


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the factors by module, and the other tensors by their names in the file."""
    factors: dict[str, dict[str, Tensor]] = {}
    others = {}
    for name, tensor in tensors.items():
        ending = next((ending for ending in FACTORS if name.endswith(ending)), None)
        if ending is None:
            others[name] = tensor
        else:
            module = name.removesuffix(ending).removeprefix(PEFT_PREFIX)
            factors.setdefault(module, {})[FACTORS[ending]] = tensor
    return factors, others


def _update(path: Path, fields: LoraFields, module: str, factors: Mapping[str, Tensor]) -> LowRankUpdate:
    if set(factors) != {"A", "B"}:
        raise LopsidedError(
            f"{path}: {module} has a lora_{next(iter(factors))} alone; expected both; get the file again"
        )
    A, B = factors["A"], factors["B"]
    if A.dim() != 2 or B.dim() != 2:
        raise LopsidedError(
            f"{path}: {module} has factors of shapes {list(A.shape)} and {list(B.shape)}; expected matrices, of a "
            "linear layer; export it --for peft without --rank, which copies it"
        )
    r, scaling = fields.rank_and_scale(module)
    if not len(A) == B.shape[1] == r:
        raise LopsidedError(
            f"{path}: {module} has factors of ranks {len(A)} and {B.shape[1]}, {ADAPTER_CONFIG} says {r}; the file is "
            "damaged; get it again"
        )
    return LowRankUpdate(A.float().contiguous(), (B.float() * scaling).contiguous())
