"""The server, as a strategy of Flower: which messages a round consists of, and what becomes of the answers."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from lopsided.errors import LopsidedError
from lopsided.federated.averaging import ClientUpdate
from lopsided.federated.messages import (
    KINDS_OF_BYTES,
    TELLS,
    tensor_records,
    tensors_of,
    told,
    wire_bytes,
)
from lopsided.federated.round_scores import ClientFigures
from lopsided.federated.server_rounds import ServerRounds
from lopsided.federated.unequal_ranks import ranks_of_factors, told_rank

# Between two looks at which nodes there are.
SECONDS_BETWEEN_LOOKS = 0.5
LATE = "did not answer in time"


class FactorAveraging(Strategy):
    """Fed-RAC-LoRA: per round one shared sketch by seed and link, the trained factor up, its exact average down.

    A client is told what it lacks: one that joins late, or has lost its state, gets the averages of all rounds so far,
    and replays them; the others get the last one, once.

    Args:
        rounds: the server's side.

    Source:
        Malinovsky et al. 2024, arXiv:2410.08305, Algorithm 2.
    """

    def __init__(self, rounds: ServerRounds) -> None:
        self.rounds = rounds
        # How many averages each node has, and the client's name; nodes that have not answered yet are missing.
        self._held: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._asked: dict[int, str] = {}
        self._clients: dict[str, ClientFigures] = {}
        self._up = dict.fromkeys(KINDS_OF_BYTES, 0)
        self._down = dict.fromkeys(KINDS_OF_BYTES, 0)

    def run(self, grid: Grid) -> None:
        """Make the rounds that are left."""
        rounds, config = self.rounds, self.rounds.config
        if len(rounds.scores.rounds) < rounds.done:
            # The server was killed between a round and its scores.
            self._clients = {name: ClientFigures(examples=n) for name, n in rounds.log.rounds[-1].examples.items()}
            self._wait_for_nodes(grid)
            messages = self.configure_evaluate(rounds.done, ArrayRecord(), ConfigRecord(), grid)
            self.aggregate_evaluate(rounds.done, grid.send_and_receive(messages, timeout=config.round_timeout))
        left = config.rounds - rounds.done
        if left:
            self.start(grid, ArrayRecord(), num_rounds=left, timeout=config.round_timeout)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages that begin a round: to each client the averages that it lacks, and the round's number."""
        nodes = self._wait_for_nodes(grid)
        if new := [node for node in nodes if node not in self._held]:
            self._introduce(new, grid)
        number = self.rounds.done + 1
        self._clients = {}
        self._asked = {node: self._names[node] for node in nodes if node in self._held}
        return [self._message(node, MessageType.TRAIN, round=number) for node in self._asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the answers that can be averaged; the others are written down with the reason."""
        updates: list[ClientUpdate] = []
        answers, refused = self._answers(replies)
        for client, reply in answers:
            try:
                update, self._clients[client] = self._update(reply, client)
                updates.append(update)
            except LopsidedError as error:
                refused[client] = str(error)
        sent = {
            f"{way}_{kind}": n for way, part in (("up", self._up), ("down", self._down)) for kind, n in part.items()
        }
        record = self.rounds.finish_round(updates, refused, sent)
        for client, reason in record.refused.items():
            # Of a client that answered twice, one answer may have been averaged.
            averaged = self._clients[client] if client in record.examples else ClientFigures()
            self._clients[client] = dataclasses.replace(averaged, refused=reason)
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages that hand out the average, and ask for each client's score."""
        present = set(grid.get_node_ids())
        if new := [node for node in present if node not in self._held]:
            self._introduce(new, grid)
        self._asked = {node: self._names[node] for node in sorted(present) if node in self._held}
        return [self._message(node, MessageType.EVALUATE) for node in self._asked]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Write the scores down."""
        clients = dict(self._clients)
        answers, missing = self._answers(replies)
        for client, reply in answers:
            before = clients.get(client, ClientFigures())
            try:
                clients[client] = self._scored(reply, before)
            except LopsidedError as error:
                # The averaged round stands, without this client's score.
                clients[client] = dataclasses.replace(before, unscored=str(error))
        for client, why in missing.items():
            clients[client] = dataclasses.replace(clients.get(client, ClientFigures()), unscored=why)
        self.rounds.finish_scores(clients, self._up, self._down)
        self._up = dict.fromkeys(KINDS_OF_BYTES, 0)
        self._down = dict.fromkeys(KINDS_OF_BYTES, 0)
        return None

    def summary(self) -> None:
        """Say nothing: the server's rounds tell what a person needs."""

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _wait_for_nodes(self, grid: Grid) -> list[int]:
        """Return the nodes that are there: all clients of the federation, or fewer once the time is over."""
        config = self.rounds.config
        end = time.monotonic() + config.round_timeout
        while True:
            nodes = sorted(grid.get_node_ids())
            if len(nodes) >= config.clients:
                return nodes
            if time.monotonic() > end:
                break
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if len(nodes) < (config.min_clients or 1):
            raise LopsidedError(
                f"{len(nodes)} clients are connected after {config.round_timeout:g} s, expected "
                f"{config.min_clients or 1} at least; start their SuperNodes, and go on with --resume"
            )
        return nodes

    def _introduce(self, nodes: list[int], grid: Grid) -> None:
        """Tell new nodes the plan, and learn what they have."""
        messages = [self._counted(self._content(node, []), node, MessageType.QUERY) for node in nodes]
        refused = []
        for reply in grid.send_and_receive(messages, timeout=self.rounds.config.round_timeout):
            try:
                self._told(reply)
            except LopsidedError as error:
                refused.append(str(error))
        if refused and not self._held:
            raise LopsidedError(f"no client can take part: {'; '.join(sorted(set(refused)))}")
        for reason in refused:
            self.rounds.say(f"a client can't take part: {reason}")

    # -- messages ------------------------------------------------------------------------------------------------------

    def _message(self, node: int, kind: str, **more: int) -> Message:
        lacking = range(self._held[node] + 1, self.rounds.done + 1)
        return self._counted(self._content(node, list(lacking), **more), node, kind)

    def _content(self, node: int, numbers: list[int], **more: int) -> RecordDict:
        tells = ConfigRecord({"plan": self.rounds.plan, **more})
        content = RecordDict({TELLS: tells})
        for number in numbers:
            tensors = self.rounds.log.tensors(number)
            dtype = self.rounds.config.wire_dtype
            content.update(tensor_records(tensors, self.rounds.heads, f"{number:05d}:", dtype))
        return content

    def _counted(self, content: RecordDict, node: int, kind: str) -> Message:
        message = Message(content, dst_node_id=node, message_type=kind)
        for name, count in wire_bytes(message).items():
            self._down[name] += count
        return message

    def _answers(self, replies: Iterable[Message]) -> tuple[list[tuple[str, Message]], dict[str, str]]:
        """Return the answers of those who were asked, each with the client's name, and why the others' are missing."""
        answers: list[tuple[str, Message]] = []
        waiting, why = dict(self._asked), LATE
        for reply in replies:
            node = reply.metadata.src_node_id
            if node in self._asked:
                waiting.pop(node, None)
                answers.append((self._asked[node], reply))
            else:
                # Of a node that is gone Flower itself answers, and says why.
                why = self._reason_of_stranger(reply)
        return answers, dict.fromkeys(waiting.values(), why)

    def _told(self, reply: Message) -> dict[str, str | int | float]:
        """Count an answer, and return what it tells.

        Raises:
            LopsidedError: if the client could not answer; with its reason.
        """
        for name, count in wire_bytes(reply).items():
            self._up[name] += count
        if reply.has_error():
            raise LopsidedError(f"its app failed: {(reply.error.reason or 'no reason').strip().splitlines()[-1]:.300}")
        figures = told(reply.content)
        node = reply.metadata.src_node_id
        if "error" not in figures:
            self._names.setdefault(node, _printable(figures.get("client", f"node {node}")))
        # A node that has never told its name takes no part, and is asked again before the next round.
        if node in self._names:
            self._held[node] = int(_number(figures, "held"))
        if "error" in figures:
            raise LopsidedError(_printable(figures["error"], 500))
        return figures

    def _reason_of_stranger(self, reply: Message) -> str:
        """Return why a client has not answered, from an answer that is not its own."""
        return _printable(reply.error.reason, 300) if reply.has_error() else LATE

    def _update(self, reply: Message, client: str) -> tuple[ClientUpdate, ClientFigures]:
        figures = self._told(reply)
        tensors = tensors_of(reply.content, dtype=self.rounds.config.wire_dtype)
        examples, loss = int(_number(figures, "examples")), _number(figures, "loss")
        rank = told_rank(self.rounds.config, figures.get("rank"))
        ranks = None if rank is None else ranks_of_factors(rank, self.rounds.shapes)
        update = ClientUpdate(client=client, examples=examples, tensors=tensors, ranks=ranks)
        return update, ClientFigures(examples=examples, loss=loss, rank=rank)

    def _scored(self, reply: Message, before: ClientFigures) -> ClientFigures:
        figures = self._told(reply)
        return dataclasses.replace(
            before,
            score=_number(figures, "score") if "score" in figures else None,
            validation_loss=_number(figures, "loss"),
            rows=int(_number(figures, "rows")),
        )


def _number(figures: dict[str, str | int | float], name: str) -> float:
    """Return a number that a client tells.

    Raises:
        LopsidedError: if it tells none, or one that is not finite.
    """
    value = figures.get(name)
    if isinstance(value, str) or value is None or not math.isfinite(value):
        raise LopsidedError(f"its answer has no number {name!r}: {value!r:.40}")
    return value


def _printable(text: object, most: int = 80) -> str:
    """Return a client's text as it can be printed: a terminal would obey control characters."""
    shown = (character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))
    return "".join(shown)[:most]
