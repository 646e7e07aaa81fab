"""The client, as an app of Flower: what it answers to each message of the server.

| message | the server sends | the client answers |
|---|---|---|
| query | the plan | how many averages it has received, its name and its rows |
| train | the plan, the averages that it lacks, the round | what it has trained, its rows and its loss |
| evaluate | the plan, the averages that it lacks | the score and the loss on its validation rows |

What goes wrong is answered as one line, and the round goes on without the client.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lopsided.errors import LopsidedError
from lopsided.federated.client_standing import ClientPlace, FederatedClient
from lopsided.federated.clipping import clipped_update, update_of
from lopsided.federated.federation import FederationPlan
from lopsided.federated.local_training import LocalRound
from lopsided.federated.messages import FIGURES, TELLS, tensor_records, tensors_of, told
from lopsided.federated.secure_answers import is_masked, masking_mod, norm_before_rounding, update_records
from lopsided.files.cache import cache_folder
from lopsided.finite import all_finite

Handler = Callable[[Message, Context], Message]
Answer = Callable[[FederatedClient, Message], RecordDict]


def make_client_app(folder: Path | None = None) -> ClientApp:
    """Return the app.

    Args:
        folder: where clients keep their state between rounds, with one subfolder per client; None reads `folder` from
            the node's configuration, and falls back to the cache folder.
    """
    app = ClientApp()
    app.query()(_answering(folder, _introduce))
    app.train(mods=[masking_mod])(_answering(folder, _train))
    app.evaluate()(_answering(folder, _score))
    return app


def place_of(context: Context, folder: Path | None, run: str) -> ClientPlace:
    """Return which client a node is, by its configuration: `partition-id`, and maybe `task`, `name`, `rank`, `folder`.

    Args:
        context: of the node.
        folder: as for `make_client_app`.
        run: the name of the server's run.

    Raises:
        LopsidedError: without a `partition-id`, or for a rank that is no whole number.
    """
    own = context.node_config
    index = own.get("partition-id")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise LopsidedError(
            f"expected partition-id, a number from 0, in the node's configuration, got {index!r:.40}; start the "
            'SuperNode with --node-config "partition-id=0"'
        )
    stated = own.get("folder")
    base = folder or (Path(str(stated)) if stated is not None else cache_folder() / "federated" / run)
    task, name, rank = own.get("task"), own.get("name"), own.get("rank")
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool)):
        raise LopsidedError(
            f"expected rank, a whole number from 1, in the node's configuration, got {rank!r:.40}; start the SuperNode "
            'with --node-config "partition-id=0 rank=8"'
        )
    return ClientPlace(
        index=index,
        folder=base / f"client-{index}",
        task=None if task is None else str(task),
        name=None if name is None else str(name),
        rank=rank,
    )


def _answering(folder: Path | None, answer: Answer) -> Handler:
    def handle(message: Message, context: Context) -> Message:
        held = 0
        try:
            plan = FederationPlan.from_text(str(told(message.content).get("plan", "")))
            client = FederatedClient(plan, place_of(context, folder, plan.run_name))
            held = client.received.held
            _receive(client, message)
            held = client.received.held
            content = answer(client, message)
        except LopsidedError as error:
            # For whoever runs the node: the server is told the same.
            print(f"lopsided: {error}", flush=True)
            content = RecordDict({TELLS: ConfigRecord({"error": str(error)})})
        figures = content.metric_records.get(FIGURES, MetricRecord({}))
        figures["held"] = held
        content[FIGURES] = figures
        return Message(content, reply_to=message)

    return handle


def _receive(client: FederatedClient, message: Message) -> None:
    """Keep the averages of a message; those that the client has are passed over."""
    for name in sorted(message.content.array_records):
        number, _, kind = name.partition(":")
        if kind.endswith("heads") or int(number) <= client.received.held:
            continue
        tensors = tensors_of(message.content, f"{number}:", client.config.wire_dtype)
        client.received.add(int(number), client.config.link_of_round(int(number)), tensors)


def _introduce(client: FederatedClient, message: Message) -> RecordDict:
    rows = client.rows
    figures = MetricRecord({"examples": len(rows.data.encoded.splits["train"])})
    return RecordDict({TELLS: ConfigRecord({"client": rows.name}), FIGURES: figures})


def _train(client: FederatedClient, message: Message) -> RecordDict:
    started = time.perf_counter()
    if client.config.secure_aggregation != is_masked(message):
        raise LopsidedError(
            f"expected a message with secure_aggregation={client.config.secure_aggregation}, as the plan says, got "
            f"{is_masked(message)}; nothing is sent; check the server"
        )
    trained = client.train(int(told(message.content)["round"]))
    figures = MetricRecord(
        {
            "examples": trained.examples,
            "loss": trained.loss,
            "steps": trained.steps,
            "seconds": time.perf_counter() - started,
        }
    )
    if client.rank is not None:
        figures["rank"] = client.rank
    if client.config.secure_aggregation:
        records = _update_to_mask(client, trained)
    else:
        sent = tensor_records(trained.tensors, client.heads, dtype=client.config.wire_dtype)
        records = RecordDict({**sent})
    return RecordDict({**records, TELLS: ConfigRecord({"client": client.rows.name}), FIGURES: figures})


def _update_to_mask(client: FederatedClient, trained: LocalRound) -> RecordDict:
    norm = client.config.clipping_norm
    if trained.start is None or norm is None:
        raise LopsidedError("expected a clipping_norm for secure aggregation, got none; set it on the server")
    if client.rank is not None:
        raise LopsidedError(
            f"{client.rows.name} has rank {client.rank}, and masks are for whole factors; expected the server's rank; "
            "leave rank out of the node's configuration"
        )
    update = update_of(trained.tensors, trained.start)
    # Once an update is masked, the server cannot check it.
    if broken := [name for name, tensor in update.items() if not all_finite(tensor)]:
        raise LopsidedError(f"{broken[0]!r:.100} holds NaN or Inf; nothing is sent; lower the learning rate")
    count = sum(tensor.numel() for tensor in update.values())
    return update_records(clipped_update(update, norm_before_rounding(norm, count)))


def _score(client: FederatedClient, message: Message) -> RecordDict:
    scored = client.score()
    figures = MetricRecord({"loss": scored.loss, "rows": scored.rows})
    if scored.score is not None:
        figures["score"] = scored.score
    return RecordDict({TELLS: ConfigRecord({"client": client.rows.name}), FIGURES: figures})
