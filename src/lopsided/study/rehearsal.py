"""A rehearsal of a study: every cell for a few steps on a tiny random twin of its model.

It shows, before hours of training, that every model family can learn every task by every method with the settings that
the study asks for, that the data sets are where they should be, and that everything can be written. Its figures mean
nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lopsided.models.registry import MODELS, TWIN
from lopsided.study.setting_sources import LINK_EPOCHS, read_settings
from lopsided.study.study_file import Block, Study

# Two links of two steps, few rows, no rank that a twin is too narrow for.
LENGTH = {"steps": 4, "links": 2, "evaluations": 1, "batch_size": 4, "accumulate": 1, "rank": 2, "max_length": 32}
ROWS = {"train_size": 64, "eval_rows": 8, "train_rows": 8, "test_rows": 8}
# What those take the place of.
REPLACED = ("epochs", "every", LINK_EPOCHS)


def rehearsal(study: Study) -> Study:
    """Return the study with twins for its models, one seed, a few steps and rows; nothing is tuned or diagnosed."""
    blocks = tuple(_rehearsed(block) for block in study.blocks)
    title = f"Rehearsal: {study.title}"
    return dataclasses.replace(study, title=title, blocks=blocks, tuning=None, costs=None, diagnose=None)


def with_settings(study: Study, settings: Mapping[str, Any], where: str) -> Study:
    """Return the study with some settings of all runs, over those of its file.

    Args:
        where: where they come from, for errors.
    """
    read = read_settings(settings, where)
    blocks = [dataclasses.replace(block, settings={**block.settings, **read}) for block in study.blocks]
    return dataclasses.replace(study, blocks=tuple(blocks))


def _rehearsed(block: Block) -> Block:
    models = tuple(TWIN + model if model in MODELS else model for model in block.models)
    small = read_settings({**LENGTH, **ROWS}, "rehearsal")

    def shortened(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {name: each for name, each in settings.items() if name not in (*REPLACED, *small)}

    return dataclasses.replace(
        block,
        models=models,
        seeds=block.seeds[:1],
        settings={**shortened(block.settings), **small},
        by_method={method: shortened(settings) for method, settings in block.by_method.items()},
        sweep={name: values[:1] for name, values in shortened(block.sweep).items()},
    )
