"""Everything that one run depends on."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.integrations import get_available_reporting_integrations

from lopsided.errors import LopsidedError, nearest
from lopsided.method import Method, method_named
from lopsided.tuner.method_parts import with_chain

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run: a model, a task, a method and how long.

    Args:
        model: "embedded", "smollm2", a folder, or a Hugging Face name.
        task: "vader/movie" and its like, a folder of JSON lines, or a Hugging Face name.
        method: a registered method's name.
        rank, alpha: r and the scale's numerator; alpha None takes 2r.
        links, every: the chain's length, or its links' length in steps; None keeps the method's own.
        target_modules: names, separated by commas; a regular expression; "all-linear"; or None for the
            architecture's default, which is often query and value alone.
        dropout: on the adapters' inputs.
        label, metric, make_split, rename_labels, ignore_columns: as in `tasks.load_task`.
        steps, epochs: length of the run, one of them; three epochs if neither is given.
        batch_size: rows in one forward pass. accumulate: passes in one step.
        lr: learning rate; None takes the method's own.
        schedule, warmup: the learning rate's course, and the share of the steps in which it climbs.
        weight_decay: of the trained matrices.
        max_length: most tokens of a row.
        evaluations: how many times the run is evaluated on validation, and saved, at even distances.
        eval_rows: most validation rows in each of these; None takes all.
        train_rows: most training rows in the training loss that is reported.
        trajectory: whether what the run has learned is kept at each evaluation, in `trajectory/step-N/`; None keeps it
            for adapters, whose files are small.
        test: whether the finished run is evaluated on test and out of domain. A search for settings, which
            may look at validation alone, says no.
        bf16: autocast to bfloat16.
        report_to: a tracker that transformers knows, or "none".
        seed: of the head, the order of rows, dropout and the sketches.
        out: the run directory.

    Raises:
        LopsidedError: for numbers that make no sense, an unknown method, links without a chain.
    """

    out: Path
    model: str = "embedded"
    task: str = "vader/movie"
    method: str = "c3la"
    rank: int = 16
    alpha: float | None = None
    links: int | None = None
    every: int | None = None
    target_modules: str | None = "all-linear"
    dropout: float = 0.0
    label: str | None = None
    metric: str | None = None
    make_split: bool = False
    rename_labels: dict[str, str] | None = None
    ignore_columns: list[str] | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    lr: float | None = None
    schedule: str = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_length: int = 128
    evaluations: int = 4
    eval_rows: int | None = None
    train_rows: int = 1000
    trajectory: bool | None = None
    test: bool = True
    bf16: bool = False
    report_to: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "batch_size", "accumulate", "max_length", "evaluations", "train_rows"):
            if getattr(self, name) < 1:
                raise LopsidedError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("steps", "epochs", "lr", "alpha", "eval_rows"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise LopsidedError(f"{name} must be positive, got {value}")
        if not 0 <= self.weight_decay < math.inf:
            raise LopsidedError(f"weight_decay must not be negative, got {self.weight_decay}")
        # NumPy's generators, which draw the order of rows, take no other seeds.
        if not 0 <= self.seed < 2**32:
            raise LopsidedError(f"seed must lie in [0, 2^32), got {self.seed}")
        if self.steps is not None and self.epochs is not None:
            raise LopsidedError(f"give steps or epochs, not both: got steps={self.steps}, epochs={self.epochs}")
        for name in ("dropout", "warmup"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise LopsidedError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise LopsidedError(
                f"unknown schedule {self.schedule!r}; expected one of {known};{nearest(self.schedule, SCHEDULES)}"
            )
        if self.report_to != "none":
            _check_tracker(self.report_to)
        chain = self.resolve_method().chain
        if chain is not None and self.steps is not None:
            chain.boundaries(self.steps)

    def resolve_method(self) -> Method:
        """The method, with the chain that this run asks for."""
        return with_chain(method_named(self.method), links=self.links, every=self.every)

    @property
    def learning_rate(self) -> float:
        return self.resolve_method().lr if self.lr is None else self.lr

    @property
    def targets(self) -> list[str] | str | None:
        """`target_modules` as PEFT takes it: names as a list, a regular expression or "all-linear" as they are."""
        return None if self.target_modules is None else as_targets(self.target_modules)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `run.json`; two runs with equal data are the same run."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "out"}


def as_targets(text: str) -> list[str] | str:
    """Names separated by commas as a list; a regular expression or "all-linear" as they are."""
    names = [name.strip() for name in text.split(",")]
    # A name alone would be a regular expression to PEFT, which the whole path of a module must match.
    return names if all(re.fullmatch(r"[\w.]+", name) for name in names) else text


def _check_tracker(name: str) -> None:
    installed = ["none", "all", *get_available_reporting_integrations()]
    if name not in installed:
        raise LopsidedError(
            f"report_to={name!r} is no tracker that is installed; expected one of {', '.join(installed)}; install it, "
            "or choose one of them"
        )
