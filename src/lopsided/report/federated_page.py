"""The page about federations: scores of the averaged model against rounds and against bytes, for each client too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lopsided
from lopsided.federated.privacy import privacy_sentence
from lopsided.federated.round_scores import FederatedRound, RoundScores
from lopsided.files.atomic import write_text
from lopsided.formatting import MISSING, number_text
from lopsided.plotting.colours import COLOURS, SYMBOLS
from lopsided.plotting.figure import Axis, Figure, series, view
from lopsided.report.board_view import BoardView
from lopsided.report.page import page_text
from lopsided.report.plain_tables import PlainTable
from lopsided.runs.run import Run, finished_run

MEGA = 1e6
ALL = "all clients"
HEADINGS = (
    *("method", "score", "per client", "test", "up", "down", "heads, both ways"),
    "bytes to the shared score",
)
UNBIASED = "The average of one trained factor next to a shared sketch is the average of the updates."
BIASED = (
    "Where both factors train, their averages' product is not the average of the products; where all weights train, "
    "the average is exact, and as large as the model."
)
BY_ROW = (
    "Clients of a lower rank train the first rows of the sketch alone: each row is averaged over those who trained it, "
    "which is unbiased if those clients are like the others."
)

Score = Callable[[FederatedRound], float | None]


@dataclass(frozen=True, kw_only=True)
class FinishedFederation:
    """A finished federation: its run, and what its rounds came to."""

    run: Run
    scores: RoundScores

    @property
    def label(self) -> str:
        """Its method's name."""
        return self.scores.method

    @property
    def clients(self) -> list[str]:
        """The names of its clients."""
        return sorted({name for entry in self.scores.rounds for name in entry.clients})

    @property
    def has_lower_ranks(self) -> bool:
        """Whether a client trained fewer rows of the sketch than the server has."""
        return any(client.rank is not None for entry in self.scores.rounds for client in entry.clients.values())


def write_federated_page(folders: Sequence[Path], path: Path) -> Path:
    """Write the page about the federations in some run directories, and return its path.

    Raises:
        LopsidedError: for a folder without a finished federation.
    """
    federations = read_federations(folders)
    first = federations[0]
    board = BoardView(
        key="federation",
        model=first.run.model.name,
        task=first.run.task.name,
        note=_setting(first),
        sentences=(
            UNBIASED,
            *([BIASED] if len(federations) > 1 else []),
            *([BY_ROW] if any(each.has_lower_ranks for each in federations) else []),
            *privacy_of(federations),
        ),
        sorted="method",
        caption="",
        tied_meaning="",
        columns=(),
        rows=(),
        notes=(),
        absent=(),
        figures=(_overall(federations), _per_client(federations)),
        missing=(),
    )
    styles = {
        each.label: (COLOURS[at % len(COLOURS)], SYMBOLS[at % len(SYMBOLS)]) for at, each in enumerate(federations)
    }
    text = page_text(
        title=f"Federated fine-tuning on {first.run.task.name}",
        identity=f"{len(federations)} federations, put together by lopsided {lopsided.__version__}."
        if len(federations) > 1
        else f"One federation, put together by lopsided {lopsided.__version__}.",
        styles=styles,
        groups=[board],
        tables=[_table(federations)],
    )
    write_text(path, text, errors="replace")
    return path


def read_federations(folders: Sequence[Path]) -> list[FinishedFederation]:
    """Return the federations in some run directories.

    Raises:
        LopsidedError: for a folder without a finished one.
    """
    return [FinishedFederation(run=finished_run(folder), scores=RoundScores.read(folder)) for folder in folders]


def federated_rows(folders: Sequence[Path]) -> list[tuple[str, ...]]:
    """Return the table that the page and the terminal show: its headings, and a row per federation."""
    return [HEADINGS, *_rows(read_federations(folders))]


def privacy_of(federations: Sequence[FinishedFederation]) -> list[str]:
    """Return what the noise of the federations comes to, each sentence once; none without noise."""
    spent = [each.scores.privacy for each in federations]
    return list(dict.fromkeys(privacy_sentence(each) for each in spent if each is not None))


def shared_score(federations: Sequence[FinishedFederation]) -> float | None:
    """Return the best score that every federation reaches; None where one has no score at all.

    The bytes until then compare what traffic buys.
    """
    best = [
        max((entry.score for entry in each.scores.rounds if entry.score is not None), default=None)
        for each in federations
    ]
    known = [score for score in best if score is not None]
    return min(known) if known and len(known) == len(best) else None


def bytes_to(federation: FinishedFederation, target: float | None) -> int | None:
    """Return the bytes, both ways, after which the score is first reached; None if it never is."""
    for entry in federation.scores.rounds:
        if target is not None and entry.score is not None and entry.score >= target:
            return entry.bytes
    return None


def _rows(federations: Sequence[FinishedFederation]) -> list[tuple[str, ...]]:
    target = shared_score(federations)
    rows: list[tuple[str, ...]] = []
    for each in federations:
        last, rounds = each.scores.rounds[-1], len(each.scores.rounds)
        until = bytes_to(each, target)
        test = each.run.metrics.get("test")
        rows.append(
            (
                each.label,
                number_text(last.score, ".4f"),
                ", ".join(f"{name} {number_text(figures.score, '.3f')}" for name, figures in last.clients.items()),
                MISSING if test is None else number_text(test.score.value, ".4f"),
                f"{last.up['factors'] / rounds / MEGA:.2f} MB per round",
                f"{last.down['factors'] / rounds / MEGA:.2f} MB per round",
                f"{(last.up['heads'] + last.down['heads']) / rounds / MEGA:.3f} MB per round",
                MISSING if until is None else f"{until / MEGA:.1f} MB",
            )
        )
    return rows


def _table(federations: Sequence[FinishedFederation]) -> PlainTable:
    target = shared_score(federations)
    reached = "" if target is None else f" The shared score is {target:.4f}, the best that all of them reach."
    model = (
        f"The base model, {federations[0].scores.model_bytes / MEGA:.0f} MB, is not counted: clients have it already."
    )
    return PlainTable(
        key="traffic",
        title="Scores and traffic",
        shows="Scores after the last round, and bytes as Flower serializes them, of all clients together.",
        means=model + reached,
        caption="One row per federation; the score is the mean over the clients' validation rows.",
        head=HEADINGS,
        rows=tuple(_rows(federations)),
        commands=tuple((each.label, each.run.command) for each in federations),
    )


def _overall(federations: Sequence[FinishedFederation]) -> Figure:
    metric = federations[0].scores.metric.replace("_", " ")
    return Figure(
        key="federation-overall",
        kind="lines",
        title="Score against rounds and bytes",
        shows=f"The {metric} of the averaged model on all clients' validation rows, after each round.",
        means="A curve that lies above another one at the same bytes learns more from the same traffic.",
        choose="against",
        views=_views(federations, metric, lambda entry: entry.score, ""),
    )


def _per_client(federations: Sequence[FinishedFederation]) -> Figure:
    metric = federations[0].scores.metric.replace("_", " ")
    names = sorted({name for each in federations for name in each.clients})
    views = [each for name in names for each in _views(federations, metric, _score_of(name), f"{name}, ")]
    return Figure(
        key="federation-clients",
        kind="lines",
        title="Score of each client",
        shows=f"The {metric} of the averaged model on one client's validation rows, after each round.",
        means="A client whose curve stays low has rows unlike the others', and gains least from the average.",
        choose="client",
        views=views,
    )


def _score_of(client: str) -> Score:
    def score(entry: FederatedRound) -> float | None:
        return entry.clients[client].score if client in entry.clients else None

    return score


def _views(
    federations: Sequence[FinishedFederation], metric: str, score: Score, prefix: str
) -> list[dict[str, object]]:
    by_round = [
        series(
            each.label, [entry.number for entry in each.scores.rounds], [score(entry) for entry in each.scores.rounds]
        )
        for each in federations
    ]
    by_bytes = [
        series(
            each.label,
            [entry.bytes / MEGA for entry in each.scores.rounds],
            [score(entry) for entry in each.scores.rounds],
        )
        for each in federations
    ]
    return [
        view(f"{prefix}rounds", Axis(title="rounds"), Axis(title=metric), by_round),
        view(f"{prefix}bytes", Axis(title="MB sent and received so far", log=True), Axis(title=metric), by_bytes),
    ]


def _setting(federation: FinishedFederation) -> str:
    settings = federation.scores.settings
    parts = [f"clients: {settings['clients']}", f"partition: {settings['partition']}"]
    parts += [f"rounds: {settings['rounds']}", f"local epochs per round: {settings['local_epochs']}"]
    if settings.get("clipping_norm") is not None:
        parts.append(f"updates clipped to norm {settings['clipping_norm']:g}")
    if federation.has_lower_ranks:
        ranks = {name: client.rank for entry in federation.scores.rounds for name, client in entry.clients.items()}
        parts.append("ranks: " + ", ".join(f"{name} {rank or 'full'}" for name, rank in sorted(ranks.items())))
    return ", ".join(parts) + "."
