"""Where a client stands: the server's model after the rounds that it has received, and its own rows.

Loading a model and replaying a chain takes longer than receiving one average, so a process keeps what it has made. In a
simulation several clients share a process, and then that model: each trains a copy of it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lopsided.errors import LopsidedError
from lopsided.federated.client_rows import ClientRows, own_rows, spread_rows
from lopsided.federated.clipping import clipped
from lopsided.federated.factors import advance_to, head_names, load_trained
from lopsided.federated.federation import FederationConfig, FederationPlan
from lopsided.federated.local_training import LocalRound, client_config, train_round
from lopsided.federated.log_header import LogHeader
from lopsided.federated.received_rounds import ReceivedRounds
from lopsided.federated.unequal_ranks import rank_of_client
from lopsided.runs.careful_trainer import CarefulTrainer, training_arguments
from lopsided.runs.inputs import load_data, load_inputs
from lopsided.runs.preflight import total_steps
from lopsided.runs.prepare import prepare
from lopsided.runs.saved_forms import FORMS
from lopsided.runs.scores import split_figures
from lopsided.tasks.kinds import KINDS


@dataclass(frozen=True, kw_only=True)
class ClientPlace:
    """Which client this is.

    Args:
        index: from 0; decides its seed, and its part of the rows.
        folder: what it keeps between rounds.
        task: of its own, whose rows are all its; None for a part of the server's task.
        name: of its own; None for the name that its part has.
        rank: of its own, up to the server's; None for the one that the federation gives it.
    """

    index: int
    folder: Path
    task: str | None = None
    name: str | None = None
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class LocalScore:
    """What the server's model comes to on a client's validation rows; the score is None where it is not defined."""

    score: float | None
    loss: float
    rows: int


class ServerModel:
    """The server's model in this process, and the rows that clients read with it.

    Args:
        config: of the federation.
        header: what the model has to be.
    """

    def __init__(self, config: FederationConfig, header: LogHeader) -> None:
        self.config, self.header = config, header
        self.data = load_data(config.run)
        self._parts: list[ClientRows] = []
        self._own: dict[str, ClientRows] = {}
        self._hashes: list[str] = []
        self.model = self._loaded()

    def stand_at(self, received: ReceivedRounds) -> nn.Module:
        """Return the model after the rounds that a client has received.

        A model that has advanced further, or through other rounds, is loaded again: a chain cannot go back.
        """
        wanted = [each.sha256 for each in received.rounds]
        if wanted[: len(self._hashes)] != self._hashes:
            self.model, self._hashes = self._loaded(), []
        for each in received.lasting:
            if each.number > len(self._hashes):
                advance_to(self.model, each.link)
                load_trained(self.model, received.tensors(each.number))
        self._hashes = wanted
        return self.model

    def rows_of(self, place: ClientPlace) -> ClientRows:
        """Return a client's rows.

        Raises:
            LopsidedError: as `spread_rows` and `own_rows` do, or for a client that the federation does not have.
        """
        if place.task is not None:
            name = place.name or f"client-{place.index}"
            if place.task not in self._own:
                self._own[place.task] = own_rows(self.config, place.task, self.data.task.labels, name)
            # The rows are loaded once per process; the name is the node's.
            return dataclasses.replace(self._own[place.task], name=name)
        if not self._parts:
            self._parts = spread_rows(self.config, self.data)
        if place.index >= len(self._parts):
            raise LopsidedError(
                f"this is client {place.index}, and the federation has clients 0 to {len(self._parts) - 1}; expected "
                "one of these; correct partition-id"
            )
        return self._parts[place.index]

    def _loaded(self) -> nn.Module:
        run = self.config.server_run
        inputs = load_inputs(run, self.data)
        steps = total_steps(run, len(self.data.encoded.splits["train"]))
        model = prepare(inputs.model, run.resolve_method(), self.data.task, run, steps)
        self.header.check_model(model)
        return model


# Of this process: the plan that it was made by, and the model.
_standing: dict[str, ServerModel] = {}


def server_model(plan: FederationPlan, config: FederationConfig) -> ServerModel:
    """Return this process's model for a plan; one of another plan is given up, so that there is one in memory."""
    text = plan.to_text()
    if text not in _standing:
        _standing.clear()
        _standing[text] = ServerModel(config, LogHeader.from_json(plan.header, "the server's plan"))
    return _standing[text]


def forget() -> None:
    """Give up this process's model, as the end of the process would."""
    _standing.clear()


class FederatedClient:
    """One client: it receives averages, trains rounds, and scores the server's model on its own rows.

    Args:
        plan: from the server.
        place: which client this is.

    Raises:
        LopsidedError: for another base model than the server's, other classes, rows that the partition refuses, or a
            rank that the federation does not have.
    """

    def __init__(self, plan: FederationPlan, place: ClientPlace) -> None:
        self.plan, self.place = plan, place
        self.config = plan.config(place.folder)
        self.rank = rank_of_client(self.config, place.index, place.rank)
        self.received = ReceivedRounds(place.folder, run=plan.run_name)

    @property
    def rows(self) -> ClientRows:
        """Its rows, and the name by which the server knows it."""
        return server_model(self.plan, self.config).rows_of(self.place)

    @property
    def heads(self) -> list[str]:
        """The names of the head's tensors."""
        return head_names(server_model(self.plan, self.config).model)

    def train(self, number: int) -> LocalRound:
        """Train a round, from 1, for which the averages of all rounds before it have been received.

        Raises:
            LopsidedError: if one is missing, or for a loss or a factor that is not finite.
        """
        if self.received.held != number - 1:
            raise LopsidedError(
                f"{self.rows.name} has the averages of {self.received.held} rounds; expected those of {number - 1} for "
                f"round {number}"
            )
        standing = server_model(self.plan, self.config)
        data = self.rows.data
        config = client_config(
            self.config.run,
            index=self.place.index,
            rows=len(data.encoded.splits["train"]),
            rounds=self.config.rounds,
            local_epochs=self.config.local_epochs,
            out=self.place.folder,
        )
        model = standing.stand_at(self.received)
        norm = self.config.clipping_norm
        trained = train_round(
            model,
            data,
            config,
            number=number - 1,
            rounds=self.config.rounds,
            rank=self.rank,
            with_start=norm is not None,
        )
        if norm is None or trained.start is None or self.config.secure_aggregation:
            # What is masked is clipped as an update.
            return trained
        return dataclasses.replace(trained, tensors=clipped(trained.tensors, trained.start, norm))

    def score(self) -> LocalScore:
        """Score the server's model after the last round that was received on the client's validation rows."""
        data = self.rows.data
        model = server_model(self.plan, self.config).stand_at(self.received)
        arguments = training_arguments(dataclasses.replace(self.config.run, out=self.place.folder), 1)
        arguments.eval_strategy, arguments.load_best_model_at_end = "no", False
        arguments.remove_unused_columns = not data.collator_picks
        form = FORMS[self.config.run.resolve_method().side.saved_as]
        trainer = CarefulTrainer(form=form, data=data, model=model, args=arguments)
        output = trainer.predict(data.encoded.splits["validation"])
        figures = split_figures(data.task.metric, KINDS[data.task.kind].rows(output.predictions))
        if figures.loss.value is None:
            raise LopsidedError(f"{self.rows.name}: expected a validation loss, got none: {figures.loss.why['value']}")
        return LocalScore(score=figures.score.value, loss=figures.loss.value, rows=figures.rows)
