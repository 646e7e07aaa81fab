"""The information bound beside the gap that a run measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from lopsided.errors import LopsidedError
from lopsided.tasks import model_source
from lopsided.theory.information import InformationBound, generalization_bound, sigma_estimated
from lopsided.train.config import TrainConfig
from lopsided.train.figures import row_losses
from lopsided.train.rundir import read_predictions, read_run


def skeleton(name: str) -> nn.Module:
    """A model's architecture without its weights, from its configuration alone.

    Args:
        name: as for `lopsided train --model`.

    Raises:
        LopsidedError: if it can't be had.
    """
    source = model_source(name)
    try:
        config = AutoConfig.from_pretrained(source.path, **source.arguments)
        with torch.device("meta"):
            return AutoModel.from_config(config)
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LopsidedError(
            f"model '{name}': expected embedded, smollm2, a local folder or a Hugging Face name; received: {first}; "
            "check the name and the network"
        ) from error


@dataclass(frozen=True, kw_only=True)
class RunBound:
    """A finished run's measured gap and its bound, both in nats a sample (squared units for regression).

    Args:
        folder: the run.
        measured, se: |test loss - train loss| at the best checkpoint, and its standard error.
        bound: with σ estimated from the run's own test losses, so it is no guarantee: a cross-entropy has no range.
    """

    folder: Path
    seed: int
    measured: float
    se: float
    bound: InformationBound


def bound_of_run(folder: Path, bits: float = 32) -> RunBound:
    """Read a run directory of `lopsided train` or `compare`.

    Raises:
        LopsidedError: if there is no finished run with test figures in the folder, or its method adapts nothing.
    """
    record = read_run(folder)
    if record is None or record["status"] != "finished" or record["generalization_error"] is None:
        state = "no run" if record is None else f"a run that is {record['status']}, or without test figures"
        raise LopsidedError(f"expected a finished run with test figures in {folder}, got {state}; finish it first")
    config = TrainConfig(**record["config"], out=folder)
    chain = record["chain"]
    bound = generalization_bound(
        skeleton(config.model),
        config.resolve_method(),
        config.rank,
        record["task"]["rows"]["train"],
        sigma_estimated(row_losses(read_predictions(folder)["test"]).tolist()),
        bits,
        None if chain is None else chain["links"],
        target_modules="all-linear" if config.targets is None else config.targets,
    )
    if bound.trained == 0:
        raise LopsidedError(f"{folder} trained a head alone, which these bounds don't count; leave the run out")
    gap = record["generalization_error"]
    return RunBound(folder=folder, seed=config.seed, measured=gap["value"], se=gap["se"], bound=bound)
