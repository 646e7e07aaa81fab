"""Our rows for PEFT's parameter lists: every row of its LoRA, once per method of `SUBJECTS`.

A row stands for us if all that it asks for exists here: linear layers, convolutions, embeddings and parameters, and the
options of `OPTIONS`. Rows of other tuners, rows with what is LoRA's alone (DoRA, aLoRA, KaSA, `lora_bias`,
`trainable_token_indices`), and rows of nn.MultiheadAttention fall out; a test that no row is left of is not run.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, PeftConfig

from lopsided import METHODS, LopsidedConfig

Shapes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Subject:
    """One method, at the link that its chain stands at."""

    method: str
    link: int = 0

    @property
    def name(self) -> str:
        return f"{self.method}@{self.link}" if self.link else self.method


# Every side that trains, every kind of sketch, chained or not; two chains hold a past link.
SUBJECTS = (
    Subject("lora"),
    Subject("cola"),
    Subject("asym_b"),
    Subject("asym_a"),
    Subject("rac_b"),
    Subject("bernoulli"),
    Subject("cla"),
    Subject("paca"),
    Subject("c3la"),
    Subject("c3la", link=1),
    Subject("cola", link=1),
)

OPTIONS = {
    *("task_type", "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"),
    *("r", "rank_pattern", "alpha_pattern", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights", "bias"),
    *("inference_mode", "target_parameters"),
}
# What no row of PEFT's own asks for and users of ours do, by the names of the parameters that it is added to.
MORE = {
    "test_name, model_id, config_cls, config_kwargs": [
        (
            "MLP with patterns",
            "MLP",
            LoraConfig,
            {"target_modules": ["lin0", "lin1"], "rank_pattern": {"lin0": 1}, "alpha_pattern": {"lin1": 3}},
        ),
        ("MLP by expression", "MLP", LoraConfig, {"target_modules": r"lin[01]", "use_rslora": True}),
        ("Conv1D and Linear", "EmbConv1D", LoraConfig, {"target_modules": ["conv1d", "lin0"]}),
    ]
}
# Tests by name, or by file and name, with the reason.
NOT_RUN = {
    "test_add_weighted_adapter_cat_with_rank_pattern": "makes two configurations of LoRA, whatever it is given",
    "test_mixed_adapter_batches_mha_raises": "adapts nn.MultiheadAttention, which is refused by name",
    "test_decoder_models.py::test_save_pretrained_targeting_lora_to_embedding_layer": (
        "asks for lin0 of a model that has none; here a name that no layer has is an error"
    ),
}
# Its projections are parameters here, and out_proj is refused; see tests/tuner/kinds.
OTHER_MODELS = frozenset({"MHA"})
# Of the models, the one whose matrices are no layers'; a layer's weight as a parameter is refused here.
PARAMETERS_IN = "MlpUsingParameters"
# (d_out, d_in) of the layers of PEFT's own small models; ranks are cut to what these hold.
SHAPES = {"lin0": (20, 10), "lin1": (2, 20), "conv1d": (1, 5), "conv2d": (10, 45)}
EMBEDDING = {"conv1d": (1, 5), "emb": (5, 100), "embed_tokens": (5, 100), "lin0": (2, 10)}
SHAPES_IN = {
    "EmbConv1D": EMBEDDING,
    "Conv1d": {"conv1d": (1, 2), "lin0": (2, 9)},
    "Conv2d": {"conv2d": (10, 45), "lin0": (2, 10)},
    # A group's part of the kernel is what an adapter's matrices stand for.
    "Conv2dGroups": {"conv2d": (16, 18)},
    "Conv2dGroups2": {"conv2d": (32, 72)},
    "Conv3d": {"conv3d": (10, 135), "lin0": (2, 10)},
}
LORA_RANK = 8


def is_configuration(value: Any) -> bool:
    return isinstance(value, PeftConfig) or (inspect.isclass(value) and issubclass(value, PeftConfig))


def is_ours(value: Any) -> bool:
    return isinstance(value, LopsidedConfig) or (inspect.isclass(value) and issubclass(value, LopsidedConfig))


def ours(names: str, rows: Iterable[Any]) -> list[Any] | None:
    """Return a parameter list of PEFT with our rows in it, or None if it holds no configurations.

    Args:
        names: of the parameters, as `pytest.mark.parametrize` takes them.
        rows: the values, or tuples of them.
    """
    rows = [*rows, *MORE.get(names, ())]
    tuples = [row if isinstance(row, tuple) else (row,) for row in rows]
    if not any(is_configuration(value) for row in tuples for value in row):
        return None
    translated = [new for row in tuples for new in _translate(row)]
    return translated if any(isinstance(row, tuple) for row in rows) else [row[0] for row in translated]


def _translate(row: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    classes = [value for value in row if is_configuration(value) and inspect.isclass(value)]
    instances = [value for value in row if isinstance(value, PeftConfig)]
    if any(cls is not LoraConfig for cls in classes) or any(type(value) is not LoraConfig for value in instances):
        return
    options = [_lora_options(value) for value in row if isinstance(value, (dict, PeftConfig))]
    models = {value for value in row if isinstance(value, str)}
    if not all(map(_stands_for_us, options)) or models & OTHER_MODELS:
        return
    if any(option.get("target_parameters") for option in options) and PARAMETERS_IN not in models:
        return
    shapes = next((SHAPES_IN[model] for model in models if model in SHAPES_IN), None)
    if shapes is None:
        # Tests that name no model make one with embeddings where these are asked for.
        shapes = EMBEDDING if any("emb" in str(option.get("target_modules")) for option in options) else SHAPES
    for subject in SUBJECTS:
        yield tuple(_value(value, subject, shapes, alone=not options) for value in row)


def _value(value: Any, subject: Subject, shapes: Shapes, *, alone: bool) -> Any:
    if value is LoraConfig:
        return class_of(subject) if alone else LopsidedConfig
    if isinstance(value, PeftConfig):
        return LopsidedConfig(**arguments(_lora_options(value), subject, shapes))
    return arguments(value, subject, shapes) if isinstance(value, dict) else value


def _lora_options(value: Mapping[str, Any] | PeftConfig) -> dict[str, Any]:
    """What a row asks for beyond the defaults of LoRA."""
    if not isinstance(value, PeftConfig):
        return dict(value)
    default = LoraConfig()
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name != "peft_type"}
    asked = {name: v for name, v in fields.items() if v != getattr(default, name)}
    return {name: sorted(v) if isinstance(v, set) else v for name, v in asked.items()}


def _stands_for_us(options: Mapping[str, Any]) -> bool:
    return set(options) <= OPTIONS and isinstance(options.get("init_lora_weights", False), bool)


def _targets(options: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """The layers that a row adapts, of those whose shapes are known."""
    targets = options.get("target_modules") or []
    if isinstance(targets, str):
        targets = [name for name in shapes if re.fullmatch(targets, name)]
    parameters = [name.rpartition(".")[0] for name in options.get("target_parameters") or []]
    return [name for name in (*targets, *parameters) if name in shapes]


def arguments(options: Mapping[str, Any], subject: Subject, shapes: Shapes = SHAPES) -> dict[str, Any]:
    """Return a LoRA row's options in our words.

    The scale is LoRA's. So is the rank, where the layers hold it; the links of a chain share it.
    """
    method = METHODS[subject.method]
    widths = [method.sketched_width(*shapes[target]) for target in _targets(options, shapes)]
    r = max(1, min([options.get("r", LORA_RANK), *widths]) // (subject.link + 1))
    alpha = options.get("lora_alpha", LORA_RANK) * r / options.get("r", LORA_RANK)
    kept = {name: v for name, v in options.items() if name not in ("init_lora_weights", "bias", "lora_alpha", "r")}
    kept |= {"method": subject.method, "r": r, "lora_alpha": alpha}
    if options.get("init_lora_weights") is False:
        kept["init_weights"] = False
    return kept | ({"start": subject.link} if subject.link else {})


@functools.cache
def class_of(subject: Subject) -> type[LopsidedConfig]:
    """A configuration class for tests that are given nothing but a class."""

    def __init__(self: LopsidedConfig, **options: Any) -> None:
        LopsidedConfig.__init__(self, **{"method": subject.method, "start": subject.link, **options})

    return type(subject.name, (LopsidedConfig,), {"__init__": __init__})
