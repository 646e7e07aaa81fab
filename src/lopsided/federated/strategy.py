"""The server, as a strategy of Flower: which messages a round consists of, and what becomes of the answers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from lopsided.errors import LopsidedError
from lopsided.federated.averaging import ClientUpdate
from lopsided.federated.messages import (
    FIGURES,
    KINDS_OF_BYTES,
    TELLS,
    number_told,
    printable,
    tensor_records,
    tensors_of,
    told,
    wire_bytes,
)
from lopsided.federated.round_log import RoundRecord
from lopsided.federated.round_scores import ClientFigures
from lopsided.federated.secure_rounds import mean_update, threshold
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
        if config.secure_aggregation:
            for _ in range(left):
                self._secure_round(grid)
        elif left:
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
        self._note_refused(self.rounds.finish_round(updates, refused, self._sent()))
        return None, None

    def _note_refused(self, record: RoundRecord) -> None:
        for client, reason in record.refused.items():
            # Of a client that answered twice, one answer may have been averaged.
            averaged = self._clients[client] if client in record.examples else ClientFigures()
            self._clients[client] = dataclasses.replace(averaged, refused=reason)

    def _sent(self) -> dict[str, int]:
        """Return the bytes since the last scores, by way and kind."""
        ways = (("up", self._up), ("down", self._down))
        return {f"{way}_{kind}": n for way, part in ways for kind, n in part.items()}

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
        """Print nothing: `ServerRounds` reports every round."""

    # -- secure aggregation --------------------------------------------------------------------------------------------

    def _secure_round(self, grid: Grid) -> None:
        """Make one round in which the server learns the sum of updates alone."""
        config = self.rounds.config
        nodes = self._wait_for_nodes(grid)
        if new := [node for node in nodes if node not in self._held]:
            self._introduce(new, grid)
        self._bring_up_to_date(nodes, grid)
        current = [node for node in nodes if self._held.get(node) == self.rounds.done]
        # No more than the sum and its noise are for.
        current = sorted(current, key=lambda node: self._names[node])[: config.clients]
        self._clients, self._asked = {}, {node: self._names[node] for node in current}
        refused: dict[str, str] = {}

        def send(messages: list[Message]) -> list[Message]:
            for message in messages:
                self._count(message)
            replies = list(grid.send_and_receive(messages, timeout=config.round_timeout))
            for reply in replies:
                self._hear(reply, refused)
            return replies

        number, fewest = self.rounds.done + 1, threshold(len(current), config.min_clients)
        result = mean_update(
            send,
            current,
            {"plan": self.rounds.plan, "round": number},
            self.rounds.shapes,
            clipping_norm=config.clipping_norm or 0.0,
            fewest=fewest,
        )
        if result is None:
            reasons = "; ".join(f"{client}: {why}" for client, why in sorted(refused.items())) or "too few answered"
            raise LopsidedError(
                f"round {number}: secure aggregation ended without a sum ({reasons}); expected the answers of {fewest} "
                "clients at least in each of its four exchanges; check the clients, and go on with --resume"
            )
        mean, count = result
        examples = {client: figures.examples for client, figures in self._clients.items()}
        if len(examples) != count:
            raise LopsidedError(
                f"round {number}: {count} updates are in the sum, and {len(examples)} clients have told "
                f"their figures ({refused}); expected as many; go on with --resume"
            )
        absent = {client: refused.get(client, LATE) for client in self._asked.values() if client not in examples}
        self._note_refused(self.rounds.finish_sum(mean, examples, absent, self._sent()))
        scores = self.configure_evaluate(self.rounds.done, ArrayRecord(), ConfigRecord(), grid)
        self.aggregate_evaluate(self.rounds.done, grid.send_and_receive(scores, timeout=config.round_timeout))

    def _bring_up_to_date(self, nodes: list[int], grid: Grid) -> None:
        """Send the averages that clients lack: messages of secure aggregation have no room for them."""
        behind = [node for node in nodes if self._held.get(node, self.rounds.done) < self.rounds.done]
        messages = [self._message(node, MessageType.QUERY) for node in behind]
        for reply in grid.send_and_receive(messages, timeout=self.rounds.config.round_timeout) if messages else ():
            self._hear(reply, {})

    def _hear(self, reply: Message, refused: dict[str, str]) -> None:
        """Note what a message of secure aggregation tells besides the protocol's own."""
        client = self._asked.get(reply.metadata.src_node_id)
        if not reply.has_error() and FIGURES not in reply.content.metric_records:
            for name, count in wire_bytes(reply).items():
                self._up[name] += count
            return
        try:
            figures = self._told(reply)
            if client is not None:
                self._clients[client] = ClientFigures(
                    examples=int(number_told(figures, "examples")), loss=number_told(figures, "loss")
                )
        except LopsidedError as error:
            if client is not None:
                refused[client] = str(error)

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
        self._count(message)
        return message

    def _count(self, message: Message) -> None:
        for name, count in wire_bytes(message).items():
            self._down[name] += count

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
            self._names.setdefault(node, printable(figures.get("client", f"node {node}")))
        # A node that has never told its name takes no part, and is asked again before the next round.
        if node in self._names:
            self._held[node] = int(number_told(figures, "held"))
        if "error" in figures:
            raise LopsidedError(printable(figures["error"], 500))
        return figures

    def _reason_of_stranger(self, reply: Message) -> str:
        """Return why a client has not answered, from an answer that is not its own."""
        return printable(reply.error.reason, 300) if reply.has_error() else LATE

    def _update(self, reply: Message, client: str) -> tuple[ClientUpdate, ClientFigures]:
        figures = self._told(reply)
        tensors = tensors_of(reply.content, dtype=self.rounds.config.wire_dtype)
        examples, loss = int(number_told(figures, "examples")), number_told(figures, "loss")
        rank = told_rank(self.rounds.config, figures.get("rank"))
        ranks = None if rank is None else ranks_of_factors(rank, self.rounds.shapes)
        update = ClientUpdate(client=client, examples=examples, tensors=tensors, ranks=ranks)
        return update, ClientFigures(examples=examples, loss=loss, rank=rank)

    def _scored(self, reply: Message, before: ClientFigures) -> ClientFigures:
        figures = self._told(reply)
        return dataclasses.replace(
            before,
            score=number_told(figures, "score") if "score" in figures else None,
            validation_loss=number_told(figures, "loss"),
            rows=int(number_told(figures, "rows")),
        )
