"""What each round of a federation came to, as `federated.json` in its run directory: scores, losses and bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.files.untrusted import read_json

FILE = "federated.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ClientFigures:
    """One client in one round.

    Args:
        examples: that it trained on; 0 where it was not averaged.
        loss: its mean training loss; None where it was not averaged.
        score, validation_loss: of the averaged model on the client's validation rows; None where it did not answer, or
            the score is not defined.
        rows: of its validation.
        refused: why its answer was not averaged; "" where it was.
        unscored: why it has no score, if it could not answer; "" otherwise.
        rank: how many rows of the sketch it has trained, where these are fewer than the server's; None for all.
    """

    examples: int = 0
    loss: float | None = None
    score: float | None = None
    validation_loss: float | None = None
    rows: int = 0
    refused: str = ""
    unscored: str = ""
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class FederatedRound:
    """One round.

    Args:
        number: from 1.
        clients: by name.
        up, down: bytes that all clients have sent and received up to the end of this round, by what they are.
        seconds: that the round took.
    """

    number: int
    clients: Mapping[str, ClientFigures]
    up: Mapping[str, int]
    down: Mapping[str, int]
    seconds: float

    @property
    def score(self) -> float | None:
        """The mean score over clients, weighed by their validation rows; None where no client has one."""
        return _mean([(each.score, each.rows) for each in self.clients.values()])

    @property
    def validation_loss(self) -> float | None:
        """The mean validation loss, weighed as the score is."""
        return _mean([(each.validation_loss, each.rows) for each in self.clients.values()])

    @property
    def loss(self) -> float | None:
        """The mean training loss over the clients that were averaged, weighed by their examples."""
        return _mean([(each.loss, each.examples) for each in self.clients.values()])

    @property
    def bytes(self) -> int:
        """All bytes so far, both ways."""
        return sum(self.up.values()) + sum(self.down.values())

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> FederatedRound:
        """Read an entry of the file."""
        clients = {name: ClientFigures(**figures) for name, figures in fields["clients"].items()}
        return cls(**{**fields, "clients": clients})


@dataclass(frozen=True, kw_only=True)
class RoundScores:
    """The whole file.

    Args:
        method: the method's name.
        settings: of the federation.
        metric: of the scores.
        model_bytes: of the base model, which every client has or downloads once; no part of the rounds' bytes.
        run: the name of the run, which its log has, too; "" in older files, whose logs are taken as they are.
        rounds: in order.
        privacy: what the averages so far have given away, as `PrivacyTerms.spent` says it; None without noise.
    """

    method: str
    settings: Mapping[str, Any]
    metric: str
    model_bytes: int
    run: str = ""
    rounds: tuple[FederatedRound, ...] = field(default=())
    privacy: Mapping[str, Any] | None = None

    def write(self, folder: Path) -> None:
        """Write the file into a run directory."""
        write_json(folder / FILE, {"schema": SCHEMA, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> RoundScores:
        """Read the file of a run directory.

        Raises:
            LopsidedError: if there is none, or it is of another schema.
        """
        path = folder / FILE
        if not path.is_file():
            raise LopsidedError(f"{folder} has no {FILE}; expected a run of `lopsided federate`; choose its folder")
        fields = read_json(path)
        if fields.pop("schema", None) != SCHEMA:
            raise LopsidedError(f"{path} is not of schema {SCHEMA}; read it with the version that wrote it")
        rounds = tuple(FederatedRound.from_json(entry) for entry in fields.pop("rounds"))
        return cls(**fields, rounds=rounds)


def _mean(values: list[tuple[float | None, int]]) -> float | None:
    """Return a weighted mean of the values that are there."""
    known = [(value, weight) for value, weight in values if value is not None and weight > 0]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
