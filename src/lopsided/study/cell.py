"""A cell of a study: one run, named by a hash of what decides its result."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lopsided.files.strict_json import dumps
from lopsided.method import Method
from lopsided.runs import TrainConfig
from lopsided.study.setting_sources import Source
from lopsided.study.study_file import Diagnose

# Raised by a release in which equal settings give other figures. It is recorded and not hashed: `--stale` compares it.
NUMERICS = 1
DIGITS = 16
Role = Literal["run", "trial"]

# Settings that decide nothing by themselves: names and readings of what the two fingerprints are of, and trackers.
_NAMES = ("model", "task", "label", "make_split", "rename_labels", "ignore_columns", "data", "pool_files")
_IDLE = ("report_to", "out", "trajectory")
# Of a method's parts, those that are words about it, and the rate that a run takes unless it is given one.
_WORDS = ("source", "compared", "lr")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study.

    Args:
        config: the run; its folder is where it is made.
        method: what it trains, with parts, so that a process that does not know the name can make it.
        sources: where its value comes from, by setting.
        model_fingerprint, task_fingerprint: what they were when the study was planned.
        role: a trial is a run that a learning rate is chosen by.
        block: the number of its block in the study file, from 0.
        swept: the settings that tell it from other cells of its method, in words.
        diagnose: what to diagnose in its run; not part of the key.
    """

    config: TrainConfig
    method: Method
    sources: Mapping[str, Source] = field(default_factory=dict)
    model_fingerprint: str
    task_fingerprint: str
    role: Role = "run"
    block: int = 0
    swept: str = ""
    diagnose: Diagnose | None = None

    @property
    def key(self) -> str:
        """The first digits of a SHA-256 over all that decides the result: the same run has the same key everywhere."""
        return _digits(self._decisive())

    @property
    def is_named(self) -> bool:
        """Whether its key is known: its model and its rows are on this machine."""
        return bool(self.model_fingerprint and self.task_fingerprint)

    @property
    def family(self) -> str:
        """The key without the seed and the rate: cells of one family are the same method with the same settings."""
        return _digits({key: value for key, value in self._decisive().items() if key not in ("seed", "learning_rate")})

    def _decisive(self) -> dict[str, Any]:
        left_out = (*_NAMES, *_IDLE, "method", "lr", "seed")
        # Without what is not set: a setting that a later version adds leaves the keys of today's cells alone.
        settings = {
            key: value
            for key, value in self.config.to_json().items()
            if key not in left_out and value is not None and value is not False
        }
        parts = {key: value for key, value in self.method.parts().items() if key not in _WORDS}
        return {
            "model": self.model_fingerprint,
            "task": self.task_fingerprint,
            "method": parts,
            "learning_rate": self.config.learning_rate,
            "seed": self.config.seed,
            "settings": dict(sorted(settings.items())),
        }

    @property
    def label(self) -> str:
        """The cell in words, for logs."""
        config = self.config
        rate = f" at rate {config.learning_rate:.3g}" if self.role == "trial" else ""
        return f"{config.method} on {config.task} with {config.model}, seed {config.seed}{rate}"

    @property
    def entry(self) -> str:
        """What the cell is called in its leaderboard, with the other seeds of the same."""
        return ", ".join(filter(None, [self.config.method, self.swept]))

    @property
    def board(self) -> tuple[str, str]:
        """The leaderboard that it is in: its model and task."""
        return self.config.model, self.config.task


def slug(*words: str) -> str:
    """Return words as a folder's name.

    Example:
        >>> slug("meta-llama/Llama-3", "glue/mrpc", "peft:dora")
        'meta-llama_Llama-3-glue_mrpc-peft_dora'
    """
    return "-".join(re.sub(r"[^\w.+-]+", "_", word.strip("./~")) for word in words)


def folder_name(cell: Cell) -> str:
    """Return the name of a cell's run directory in a study's `runs`."""
    config = cell.config
    return slug(
        config.model.rsplit("/")[-1], config.task.rsplit("/")[-1], config.method, f"seed{config.seed}", cell.key
    )


def _digits(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(dumps(value, indent=None).encode()).hexdigest()[:DIGITS]
