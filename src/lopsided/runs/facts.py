"""What a run's record says, as types; each reads one section of `run.json`, and writes it in the same form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lopsided.files.strict_json import WHY
from lopsided.optim import ChainEvent

# One split's arrays by column, one entry per row.
Predictions = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its standard error; each is None where it could not be computed, and `why` says the reason.

    Args:
        why: the reason by "value" or "se"; empty in records of version 0.1.0, which gave none.
    """

    value: float | None
    se: float | None = None
    why: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, section: Mapping[str, Any], value: str, se: str = "se") -> Estimate:
        """Read a figure from a section of a record.

        Args:
            value, se: the section's names of the two numbers; a section without the second has no standard error.
        """
        names, why = {value: "value", se: "se"}, section.get(WHY, {})
        reasons = {names[theirs]: reason for theirs, reason in why.items() if theirs in names}
        return cls(value=section[value], se=section.get(se), why=reasons)

    def to_json(self, value: str = "value", se: str = "se") -> dict[str, Any]:
        """Return the figure under these two names, and `why` where it has a reason."""
        reasons = self.reasons(value, se)
        return {value: self.value, se: self.se, **({WHY: reasons} if reasons else {})}

    def reasons(self, value: str, se: str = "se") -> dict[str, str]:
        """Return `why` under the names that a record has for the two numbers."""
        names = {"value": value, "se": se}
        return {names[ours]: reason for ours, reason in self.why.items()}


@dataclass(frozen=True, kw_only=True)
class ScoreFigure:
    """A score of one split, and how it was computed.

    Args:
        signature: how a library computed it, with its version; "" for a score of our own.
    """

    score: Estimate
    signature: str = ""

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> ScoreFigure:
        """Read an entry of a split's `also`."""
        return cls(score=Estimate.from_json(section, "score"), signature=section.get("signature", ""))

    def to_json(self) -> dict[str, Any]:
        """Return an entry of a split's `also`."""
        signature = {"signature": self.signature} if self.signature else {}
        return {**self.score.to_json("score"), **signature}


@dataclass(frozen=True, kw_only=True)
class SplitFigures:
    """What a run came to on one split: its score and its mean loss, in nats or in squared units.

    Args:
        rows: how many were evaluated.
        rows_with_loss: how many the loss is the mean of; None where it is all of them.
        signature: how a library computed the score, with its version; "" for a score of our own.
        also: further scores of the same rows, by name.
    """

    score: Estimate
    loss: Estimate
    rows: int
    rows_with_loss: int | None = None
    signature: str = ""
    also: Mapping[str, ScoreFigure] = field(default_factory=dict)

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> SplitFigures:
        """Read one split of a record's `metrics`."""
        return cls(
            score=Estimate.from_json(section, "score"),
            loss=Estimate.from_json(section, "loss", "loss_se"),
            rows=section["rows"],
            rows_with_loss=section.get("rows_with_loss"),
            signature=section.get("signature", ""),
            also={name: ScoreFigure.from_json(figures) for name, figures in section.get("also", {}).items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return one split of a record's `metrics`."""
        score, se = self.score.value, self.score.se
        figures: dict[str, Any] = {"score": score, "se": se, "loss": self.loss.value, "rows": self.rows}
        if self.rows_with_loss is not None:
            figures["rows_with_loss"] = self.rows_with_loss
        if self.signature:
            figures["signature"] = self.signature
        if self.also:
            figures["also"] = {name: figure.to_json() for name, figure in self.also.items()}
        why = {**self.score.reasons("score"), **self.loss.reasons("loss", "loss_se")}
        return {**figures, WHY: why} if why else figures


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """The median time of a step in milliseconds, and how many steps it is the median of."""

    milliseconds: Estimate
    steps: int

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> StepTime:
        """Read a record's `timings`."""
        return cls(milliseconds=Estimate.from_json(section, "median_ms", "se_ms"), steps=section["steps"])

    def to_json(self) -> dict[str, Any]:
        """Return a record's `timings`."""
        figure = self.milliseconds
        why = figure.reasons("median_ms", "se_ms")
        plain = {"median_ms": figure.value, "se_ms": figure.se, "steps": self.steps}
        return {**plain, WHY: why} if why else plain


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model that a run began with."""

    name: str
    type: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What a run learned: the task without its rows.

    Args:
        metric: name, and whether greater is better.
        rows: how many, by split.
        shape: how the rows were read, in words; "" where they were not read from a user's columns.
        columns: which of a user's columns became which of the task's; None where none were read, or in version 0.1.0.
        left_out: the columns that were not used, with the reason; None as `columns`.
        modality: what a row gives the model to read, "text" or "image".
        also: the scores that are recorded next to the metric.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    metric: str
    greater_is_better: bool
    rows: Mapping[str, int]
    out_of_domain: tuple[str, ...]
    note: str
    shape: str
    columns: Mapping[str, Sequence[str]] | None
    left_out: Mapping[str, str] | None = None
    modality: str = "text"
    also: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> TaskFacts:
        """Read a record's `task`."""
        return cls(
            name=section["name"],
            kind=section["kind"],
            labels=tuple(section["labels"]),
            metric=section["metric"]["name"],
            greater_is_better=section["metric"]["greater_is_better"],
            rows=section["rows"],
            out_of_domain=tuple(section["out_of_domain"]),
            note=section["note"],
            shape=section.get("shape", ""),
            columns=section.get("columns"),
            left_out=section.get("left_out"),
            modality=section.get("modality", "text"),
            also=tuple(section.get("also", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a record's `task`."""
        facts = {
            "name": self.name,
            "kind": self.kind,
            "labels": list(self.labels),
            "metric": {"name": self.metric, "greater_is_better": self.greater_is_better},
            "rows": dict(self.rows),
            "out_of_domain": list(self.out_of_domain),
            "note": self.note,
            "shape": self.shape,
        }
        if self.columns is not None:
            facts["columns"] = {name: list(parts) for name, parts in self.columns.items()}
        if self.left_out is not None:
            facts["left_out"] = dict(self.left_out)
        if self.modality != "text":
            facts["modality"] = self.modality
        if self.also:
            facts["also"] = list(self.also)
        return facts


@dataclass(frozen=True, kw_only=True)
class ChainFacts:
    """The links of a run: how many, the steps after which a new one began, and the advances as they happened.

    Args:
        jumps: whether an advance changed the function: see `Chain.jumps`.
    """

    links: int
    boundaries: tuple[int, ...]
    events: tuple[ChainEvent, ...]
    jumps: bool = False

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> ChainFacts:
        """Read a record's `chain`."""
        return cls(
            links=section["links"],
            boundaries=tuple(section["boundaries"]),
            events=tuple(ChainEvent(**event) for event in section.get("events", ())),
            # Every chain of an earlier version merges, and does not.
            jumps=section.get("jumps", False),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a record's `chain`."""
        events = [dataclasses.asdict(event) for event in self.events]
        return {"links": self.links, "boundaries": list(self.boundaries), "events": events, "jumps": self.jumps}


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts:
    """How a run's sketches were drawn from data.

    Args:
        rows: training rows that were read, the first ones in the order of `seed`; each process reads the same.
        inputs: how many inputs, such as tokens, the layer that read most of them has read.
        layers: how many got a sketch; moments: how many different inputs these have.
        share: of the inputs' square norm that the sketches keep, the mean over layers.
        seconds: that it took.
    """

    rows: int
    seed: int
    inputs: int
    layers: int
    moments: int
    share: float | None
    seconds: float

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> CalibrationFacts:
        """Read a record's `calibration`."""
        return cls(**{each.name: section[each.name] for each in dataclasses.fields(cls)})

    def __str__(self) -> str:
        share = "" if self.share is None else f", which keep {self.share:.0%} of the inputs' square norm"
        return f"{self.layers} sketches drawn from {self.rows} training rows in {self.seconds:.1f} s{share}"

    def to_json(self) -> dict[str, Any]:
        """Return a record's `calibration`."""
        return dataclasses.asdict(self)
