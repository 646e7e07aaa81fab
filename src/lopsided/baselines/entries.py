"""The table of baselines: the settings at which stock PEFT's methods are compared.

One entry per method: the configuration that a rank, an alpha, targets and a number of steps make, and the default
learning rate with its reason. A method that does not know a rank or an alpha as LoRA does takes the mapping that its
paper or PEFT's documentation has; the comment at the entry says which.
"""

from __future__ import annotations

import math
from typing import Any

from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    MissConfig,
    OFTConfig,
    RandLoraConfig,
    ShiraConfig,
    VeraConfig,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_TARGETS,
)

from lopsided.baselines.baseline import BASELINES, Baseline, BaselineSetting
from lopsided.baselines.rank_budget import RankBudget, penalize_in_training_alone, save_cut
from lopsided.baselines.rewritten_base import remember_start, save_converted
from lopsided.errors import LopsidedError

# RandLoRA's scale is 20 as PEFT has it, where LoRA's is 2.
RANDLORA_SCALE = 10
# VeRA's rank next to LoRA's: 256 next to 8, in PEFT's defaults and in the paper's RoBERTa-large.
VERA_RANK = 32
# AdaLoRA begins at 1.5 times the rank that it ends with.
ADALORA_START = 1.5


# -- configurations ------------------------------------------------------------------------------------------------


def _lora(setting: BaselineSetting, **fields: Any) -> LoraConfig:
    return LoraConfig(
        r=setting.rank,
        lora_alpha=setting.alpha,
        target_modules=setting.targets,
        lora_dropout=setting.dropout,
        **fields,
    )


def _adalora(setting: BaselineSetting) -> AdaLoraConfig:
    """Return a configuration whose budget falls from a tenth of the run to its last third, at most a hundred times."""
    return AdaLoraConfig(
        target_r=setting.rank,
        init_r=_first_rank(setting),
        lora_alpha=setting.alpha,
        target_modules=setting.targets,
        lora_dropout=setting.dropout,
        tinit=setting.steps // 10,
        tfinal=setting.steps // 3,
        deltaT=max(1, setting.steps // 100),
        total_step=setting.steps,
    )


def _without_decomposition(config: Any) -> None:
    config.init_lora_weights = True


def _without_places(config: Any) -> None:
    config.mask_fn = None


def _first_rank(setting: BaselineSetting) -> int:
    return math.ceil(ADALORA_START * setting.rank)


def _ia3(setting: BaselineSetting) -> IA3Config:
    """Return a configuration for keys, values and the layer after the activation, unless layers are named."""
    if setting.model_type not in IA3_TARGETS:
        raise LopsidedError(
            f"PEFT does not know which layers of {setting.model_type!r} IA3 rescales at their input; expected one of "
            f"{', '.join(IA3_TARGETS)}; choose another method"
        )
    targets = setting.targets or IA3_TARGETS[setting.model_type]
    inner = FEEDFORWARD[setting.model_type]
    # PEFT refuses, when the adapter is loaded again, feed-forward layers that are no targets.
    named = inner if isinstance(targets, str) else [name for name in targets if name.endswith(tuple(inner))]
    return IA3Config(target_modules=targets, feedforward_modules=named)


# -- layers that can't be adapted ----------------------------------------------------------------------------------


def _rank_within_inputs(setting: BaselineSetting, d_out: int, d_in: int) -> str | None:
    return _too_wide(setting.rank, "r", d_in, "d_in")


def _rank_within_both(setting: BaselineSetting, d_out: int, d_in: int) -> str | None:
    return _too_wide(setting.rank, "r", min(d_out, d_in), "min(d_out, d_in)")


def _first_rank_within_both(setting: BaselineSetting, d_out: int, d_in: int) -> str | None:
    return _too_wide(_first_rank(setting), "ceil(1.5 r)", min(d_out, d_in), "min(d_out, d_in)")


def _too_wide(rank: int, rank_name: str, width: int, width_name: str) -> str | None:
    if rank <= width:
        return None
    return f"rank must not exceed the layer's width: {rank_name}={rank}, {width_name}={width}; lower r"


def _sparse_enough(setting: BaselineSetting, d_out: int, d_in: int) -> str | None:
    numbers, size = setting.rank * (d_out + d_in), d_out * d_in
    if numbers <= size:
        return None
    most = size // (d_out + d_in)
    return f"r·(d_out + d_in)={numbers} numbers must not exceed the {size} of the layer; lower r to {most}"


def _blocks_divide(setting: BaselineSetting, d_out: int, d_in: int) -> str | None:
    block = 4 * setting.rank
    if d_in % block == 0:
        return None
    ranks = [r for r in range(1, d_in // 4 + 1) if d_in % (4 * r) == 0]
    fix = f"choose r from {', '.join(map(str, ranks))}" if ranks else "leave the layer out"
    return f"blocks of 4r={block} inputs must divide d_in={d_in}; {fix}"


# -- the table -----------------------------------------------------------------------------------------------------

LORA_NUMBERS = "r·(d_out + d_in)"

BASELINES["lora"] = Baseline(
    config=_lora,
    lr=1e-3,
    why_lr="that of our lora, which is the same method",
    trained=LORA_NUMBERS,
    source="Hu et al. 2021, arXiv:2106.09685",
    misfit=_rank_within_inputs,
    has_dropout=True,
    is_lora=True,
)
# The scale is alpha/sqrt(r).
BASELINES["rslora"] = Baseline(
    config=lambda setting: _lora(setting, use_rslora=True),
    lr=3e-4,
    why_lr="LoRA's, lowered for a scale that is sqrt(r) times as large",
    trained=LORA_NUMBERS,
    source="Kalajdzievski 2023, arXiv:2312.03732",
    misfit=_rank_within_inputs,
    has_dropout=True,
    is_lora=True,
)
BASELINES["dora"] = Baseline(
    config=lambda setting: _lora(setting, use_dora=True),
    lr=1e-3,
    why_lr="LoRA's: the paper takes the same or a slightly lower one",
    trained=f"{LORA_NUMBERS} + d_out",
    source="Liu et al. 2024, arXiv:2402.09353",
    misfit=_rank_within_inputs,
    has_dropout=True,
)
BASELINES["pissa"] = Baseline(
    config=lambda setting: _lora(setting, init_lora_weights="pissa"),
    lr=3e-4,
    why_lr="below LoRA's: both factors are large from the first step",
    trained=LORA_NUMBERS,
    source="Meng et al. 2024, arXiv:2404.02948",
    misfit=_rank_within_both,
    finish=remember_start,
    save=save_converted,
    # Without dropout, which would drop a part of W0.
    is_lora=True,
    for_trial=_without_decomposition,
)
# One factor of (r, d_out) that trains from zero, shared by all blocks of r inputs; there is no alpha.
BASELINES["miss"] = Baseline(
    config=lambda setting: MissConfig(r=setting.rank, target_modules=setting.targets, miss_dropout=setting.dropout),
    lr=1e-3,
    why_lr="LoRA's, as in PEFT's comparison of methods",
    trained="r·d_out",
    source="Kang and Yin 2024, arXiv:2409.15371",
    misfit=_rank_within_inputs,
    has_dropout=True,
)
# r·(d_out + d_in) entries of W0, at places drawn from the seed; there is no alpha.
BASELINES["shira"] = Baseline(
    config=lambda setting: ShiraConfig(r=setting.rank, target_modules=setting.targets, random_seed=setting.seed),
    lr=1e-3,
    why_lr="LoRA's",
    trained=LORA_NUMBERS,
    source="Bhardwaj et al. 2024, arXiv:2406.13175",
    misfit=_sparse_enough,
    for_trial=_without_places,
)
# Two vectors per layer between random matrices of 32 times LoRA's rank, which all layers share and the file holds;
# there is no alpha.
BASELINES["vera"] = Baseline(
    config=lambda setting: VeraConfig(
        r=VERA_RANK * setting.rank,
        target_modules=setting.targets,
        vera_dropout=setting.dropout,
        projection_prng_key=setting.seed,
    ),
    lr=1e-2,
    why_lr="ten times LoRA's: the paper's rates are higher by about that",
    trained="32·r + d_out",
    source="Kopiczko et al. 2023, arXiv:2310.11454",
    has_dropout=True,
)
# Bases of rank r, as many as make full rank: a smaller r trains more. The scale is 10·alpha/r.
BASELINES["randlora"] = Baseline(
    config=lambda setting: RandLoraConfig(
        r=setting.rank,
        randlora_alpha=RANDLORA_SCALE * setting.alpha,
        target_modules=setting.targets,
        randlora_dropout=setting.dropout,
        projection_prng_key=setting.seed,
    ),
    lr=1e-3,
    why_lr="LoRA's",
    trained="ceil(d/r)·(r + d), d = min(d_out, d_in)",
    source="Albert et al. 2025, arXiv:2502.00987",
    misfit=_rank_within_both,
    has_dropout=True,
)
BASELINES["adalora"] = Baseline(
    config=_adalora,
    lr=3e-3,
    why_lr="above LoRA's: the update starts at zero with small factors, and is divided by the first rank",
    trained="ceil(1.5·r)·(d_out + d_in + 1) at first",
    source="Zhang et al. 2023, arXiv:2303.10512",
    misfit=_first_rank_within_both,
    callback=RankBudget,
    finish=penalize_in_training_alone,
    save=save_cut,
    has_dropout=True,
)
# One vector per layer; there is neither a rank nor an alpha. It starts at one, and weight decay would pull it to zero.
BASELINES["ia3"] = Baseline(
    config=_ia3,
    lr=1e-2,
    why_lr="ten times LoRA's: factors around one have to move by a tenth to matter",
    trained="d_out, or d_in after an activation",
    source="Liu et al. 2022, arXiv:2205.05638",
    own_targets=True,
)
# Rotations of blocks of 4·r inputs, which train about as many numbers as LoRA of rank r on a square layer; PEFT's block
# of 32 is r=8. There is no alpha.
BASELINES["oft"] = Baseline(
    config=lambda setting: OFTConfig(r=0, oft_block_size=4 * setting.rank, target_modules=setting.targets),
    lr=1e-3,
    why_lr="LoRA's",
    trained="d_in·(4·r - 1)/2",
    source="Qiu et al. 2023, arXiv:2306.07280; blocks as in arXiv:2506.19847",
    misfit=_blocks_divide,
)
