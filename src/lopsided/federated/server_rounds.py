"""The server's side of a federation, without its transport: its model, the log of rounds, the run directory.

A round is in the log before the model has it, so that a server that is killed at any moment goes on from its last whole
round: the model is replayed from seeds and averages, bit for bit.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, float32, float64

from lopsided.errors import LopsidedError
from lopsided.federated.averaging import ClientUpdate, average
from lopsided.federated.clipping import flat_norm
from lopsided.federated.factors import advance_to, head_names, load_trained, trained_tensors
from lopsided.federated.federation import FederationConfig, FederationPlan
from lopsided.federated.federation import settings_there as federation_there
from lopsided.federated.noise import admitted, noised, private_average
from lopsided.federated.privacy import privacy_sentence
from lopsided.federated.refusals import MULTIPLE, sort_out
from lopsided.federated.round_log import RoundLog, RoundRecord, replay
from lopsided.federated.round_scores import ClientFigures, FederatedRound, RoundScores
from lopsided.federated.wire_dtypes import as_received
from lopsided.files.atomic import DiskErrors
from lopsided.optim import ChainEvent
from lopsided.runs.directory import check_place, clear_leftovers, discard_checkpoints, in_use, is_begun, write_run
from lopsided.runs.ending import FailureRecord, terminable
from lopsided.runs.inputs import load_inputs
from lopsided.runs.preflight import preflight
from lopsided.runs.record import begun_record, finished_record
from lopsided.runs.resumption import refuse_others, settings_there
from lopsided.runs.run import Run, finished_run, read_run
from lopsided.runs.session import Session, assemble, measure

LOG = "rounds"
# What the clients of a simulation keep, until it has ended.
CLIENTS = "clients"


class ServerRounds:
    """The server's model between rounds: what goes out, what comes in, and what is written.

    Args:
        config: of the federation.
        session: of the server's run, whose model stands where the log ends.
        log: of the rounds so far.
        scores: of the rounds so far.
        note: tells a person how far it is.
    """

    def __init__(
        self,
        config: FederationConfig,
        session: Session,
        log: RoundLog,
        scores: RoundScores,
        note: Callable[[str], None],
    ) -> None:
        self.config, self.session, self.log, self.scores, self._note = config, session, log, scores, note
        self.plan = FederationPlan.of(config, log.header, session.data.task.labels).to_text()
        self.heads = head_names(session.model)
        self._started = time.perf_counter()

    @property
    def done(self) -> int:
        """How many rounds are done."""
        return len(self.log.rounds)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what trains, by name."""
        return {name: tuple(shape) for name, shape in self.log.header.shapes.items()}

    def say(self, text: str) -> None:
        """Tell a person something."""
        self._note(text)

    def finish_round(
        self, updates: Sequence[ClientUpdate], refused: Mapping[str, str], sent: Mapping[str, int]
    ) -> RoundRecord:
        """Average a round's answers, write them into the log, and put them into the model.

        Args:
            updates: in the order in which they came.
            refused: why there is no update of a client.
            sent: bytes of the messages that asked for these answers, and of the answers, by what they are. The
                average is handed out with the scores' messages, which are counted in `finish_scores`.

        Raises:
            LopsidedError: if fewer answers can be averaged than the federation needs. The log has the rounds before.
        """
        privacy = self.config.privacy
        answers = sort_out(updates, self.shapes, multiple=MULTIPLE if privacy is None else None)
        if privacy is not None:
            answers = admitted(answers, privacy.clients)
        refused = {**refused, **answers.refused}
        needed = self.config.min_clients or 1
        number = self.done + 1
        if len(answers.taken) < needed:
            reasons = "; ".join(f"{client}: {why}" for client, why in sorted(refused.items())) or "nobody answered"
            raise LopsidedError(
                f"round {number}: {len(answers.taken)} answers can be averaged, expected {needed} at least "
                f"({reasons}); the rounds before are kept: fix the cause, and go on with --resume"
            )
        start = self._start_of_round()
        if privacy is None:
            tensors = average([self._weighed(update) for update in answers.taken], self.shapes, start=start)
        else:
            tensors = private_average(answers.taken, self.shapes, start, privacy)
        return self._keep(tensors, {update.client: update.examples for update in answers.taken}, refused, sent)

    def finish_sum(
        self,
        mean: Mapping[str, Tensor],
        examples: Mapping[str, int],
        refused: Mapping[str, str],
        sent: Mapping[str, int],
    ) -> RoundRecord:
        """Write a round of secure aggregation into the log, and put it into the model.

        Args:
            mean: of the updates of clients, clipped and in float64.
            examples: of each client that is in it.
            refused: why others are not.
            sent: as for `finish_round`.

        Raises:
            LopsidedError: for a mean that no clipped updates can have. The log has the rounds before.
        """
        norm, privacy = self.config.clipping_norm or 0.0, self.config.privacy
        # Masks that do not cancel leave numbers of the whole range.
        if not (size := flat_norm(mean)) <= norm:
            raise LopsidedError(
                f"round {self.done + 1}: the mean of updates has norm {size:.3g}, expected at most {norm:g}; its masks "
                "do not cancel; go on with --resume"
            )
        start = self._start_of_round()
        if privacy is None:
            tensors = {name: (start[name].to(float64) + each).to(float32) for name, each in mean.items()}
        else:
            tensors = noised({name: len(examples) * each for name, each in mean.items()}, start, privacy)
        return self._keep(tensors, examples, refused, sent)

    def _start_of_round(self) -> dict[str, Tensor]:
        """Advance the model to the link of the next round, and return what trains as it begins."""
        advance_to(self.session.model, self.config.link_of_round(self.done + 1))
        return trained_tensors(self.session.model)

    def _keep(
        self,
        tensors: Mapping[str, Tensor],
        examples: Mapping[str, int],
        refused: Mapping[str, str],
        sent: Mapping[str, int],
    ) -> RoundRecord:
        # Before the log has them and the model: all stand on what clients receive.
        tensors = as_received(tensors, self.heads, self.config.wire_dtype)
        link = self.config.link_of_round(self.done + 1)
        record = self.log.append(tensors, link=link, examples=examples, refused=refused, bytes=sent)
        load_trained(self.session.model, tensors)
        return record

    def _weighed(self, update: ClientUpdate) -> ClientUpdate:
        return dataclasses.replace(update, examples=1) if self.config.weighting == "equal" else update

    def finish_scores(
        self, clients: Mapping[str, ClientFigures], up: Mapping[str, int], down: Mapping[str, int]
    ) -> None:
        """Write what the last round came to, and say it in a line.

        Args:
            clients: by name.
            up, down: bytes since the scores before, by what they are.
        """
        now = time.perf_counter()
        last = self.scores.rounds[-1] if self.scores.rounds else None
        entry = FederatedRound(
            number=self.done,
            clients=dict(sorted(clients.items())),
            up=_sum(up, last.up if last else {}),
            down=_sum(down, last.down if last else {}),
            seconds=now - self._started,
        )
        self._started = now
        privacy = self.config.privacy
        # Of the rounds in the log: their averages are what has been given out, before a cut or after one.
        spent = None if privacy is None else privacy.spent(self.done)
        self.scores = dataclasses.replace(self.scores, rounds=(*self.scores.rounds, entry), privacy=spent)
        self.scores.write(self.config.run.out)
        self._note(round_line(entry, self.config.rounds, self.scores.metric))

    def close(self) -> None:
        """Put the history of the rounds into the session, as a training would have written it."""
        steps, rounds = self.session.steps, self.config.rounds
        history: list[dict[str, float]] = []
        for entry in self.scores.rounds:
            step = entry.number * steps // rounds
            figures = {"loss": entry.loss, "eval_loss": entry.validation_loss, "eval_score": entry.score}
            known = {name: value for name, value in figures.items() if value is not None}
            for group in (("loss",), ("eval_loss", "eval_score")):
                if part := {name: known[name] for name in group if name in known}:
                    history.append({**part, "epoch": float(entry.number * self.config.local_epochs), "step": step})
        state = self.session.trainer.state
        state.log_history, state.global_step, state.best_global_step = history, steps, steps
        if self.config.has_chain:
            self.session.chain.events[:] = [
                ChainEvent(step=number * steps // rounds, link=number) for number in range(1, self.done)
            ]


def round_line(entry: FederatedRound, rounds: int, metric: str) -> str:
    """Return what a round came to, in a line."""
    taken = [name for name, figures in entry.clients.items() if figures.examples]
    parts = [f"{len(taken)} of {len(entry.clients)} clients"]
    parts += [f"loss {entry.loss:.3f}"] if entry.loss is not None else []
    parts += [f"{metric.replace('_', ' ')} {entry.score:.4f}"] if entry.score is not None else []
    parts += [f"{sum(entry.up.values()) / 1e6:.1f} MB up and {sum(entry.down.values()) / 1e6:.1f} MB down so far"]
    parts += [f"{entry.seconds:.0f} s"]
    parts += [f"{name}: {figures.refused}" for name, figures in entry.clients.items() if figures.refused]
    parts += [f"{name} not scored: {figures.unscored}" for name, figures in entry.clients.items() if figures.unscored]
    return f"round {entry.number} of {rounds}: {', '.join(parts)}"


def serve(
    config: FederationConfig,
    drive: Callable[[ServerRounds], None],
    *,
    resume: bool = False,
    note: Callable[[str], None] = lambda text: None,
    command: str | None = None,
) -> Run:
    """Make the run directory of a federation: begin, or go on from the log, drive the rounds, measure the result.

    Args:
        config: of the federation.
        drive: makes the rounds that are left, by whatever transport.
        resume: go on with what the folder holds.
        note: tells a person how far it is.
        command: the command line, for the record.

    Raises:
        LopsidedError: for bad input, a folder in use or with another run, or too few answers in a round.
    """
    run = config.server_run
    check_place(run.out)
    # Before anything is loaded: the accountant may not be installed.
    spent = None if config.privacy is None else config.privacy.spent(config.rounds)
    with ExitStack() as held:
        begun = is_begun(run.out)
        held.enter_context(in_use(run.out))
        earlier = read_run(run.out) if begun else None
        if earlier is not None:
            _check_resumable(config, earlier, resume)
            if earlier.is_finished:
                return earlier
        inputs = load_inputs(run)
        preflight([run], inputs)
        held.enter_context(terminable())
        started = time.perf_counter()
        record = begun_record(run, command if earlier is None else earlier.command or command)
        clear_leftovers(run.out)
        write_run(run.out, record)
        with FailureRecord(run.out, record), DiskErrors(run.out):
            session = assemble(run, inputs, callbacks=(), checkpoint=None)
            if spent is not None:
                note(f"planned: {privacy_sentence(spent)}")
            rounds = _opened(config, session, note, spent)
            drive(rounds)
            rounds.close()
            result = measure(session)
        write_run(run.out, finished_record(record, result, time.perf_counter() - started))
        discard_checkpoints(run.out)
        return finished_run(run.out)


def _check_resumable(config: FederationConfig, earlier: Run, resume: bool) -> None:
    folder = config.run.out
    # What ended before its first round, as a run with bad input does, left nothing to lose.
    has_rounds = (folder / LOG / "rounds.jsonl").is_file()
    if not resume and (earlier.is_finished or has_rounds):
        raise LopsidedError(
            f"{folder} holds a run already ({earlier.status}); expected a new folder; pass --resume to go on with "
            "it, or choose another --out"
        )
    if earlier.is_finished or has_rounds:
        refuse_others(folder, config.settings(), federation_there(RoundScores.read(folder).settings))
        refuse_others(folder, config.server_run.to_json(), settings_there(earlier))


def _opened(
    config: FederationConfig, session: Session, note: Callable[[str], None], spent: Mapping[str, Any] | None
) -> ServerRounds:
    """Return the server's rounds: a new log, or one that the model is replayed from."""
    run = config.run
    folder = run.out / LOG
    if (folder / "log.json").is_file():
        scores = RoundScores.read(run.out)
        log = RoundLog.open(folder, run=scores.run or None)
        replay(log, session.model)
        scores = dataclasses.replace(scores, rounds=scores.rounds[: len(log.rounds)])
        note(f"goes on after round {len(log.rounds)} of {config.rounds}")
        return ServerRounds(config, session, log, scores, note)
    name = uuid.uuid4().hex
    model_bytes = sum(p.numel() * p.element_size() for p in session.model.parameters() if not p.requires_grad)
    scores = RoundScores(
        method=run.method,
        settings=config.settings(),
        metric=session.data.task.metric.name,
        model_bytes=model_bytes,
        run=name,
    )
    # Before the log, so that a log always has its scores.
    scores.write(run.out)
    seed = run.seed if run.sketch_seed is None else run.sketch_seed
    log = RoundLog.begin(folder, session.model, run=name, method=run.method, seed=seed, privacy=spent)
    return ServerRounds(config, session, log, scores, note)


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**b, **a}}
