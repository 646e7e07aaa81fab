"""Which rows a client has: its part of one task that all of them read, or all rows of a task of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.federated.federation import FederationConfig
from lopsided.federated.partitions import Rows, partition
from lopsided.runs.evaluated_rows import drawn_rows
from lopsided.runs.inputs import Data, load_data
from lopsided.tasks import encode
from lopsided.tasks.kinds import FILE

# The column that names a row's domain.
DOMAIN = "domain"
# By partition, the column that says whose a row is, and what to do where it is missing.
GROUPS = {DOMAIN: "take the task vader/all, or another partition", FILE: "read the task by its files, or take another"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ClientRows:
    """A client's rows, with its name."""

    name: str
    data: Data


def spread_rows(config: FederationConfig, data: Data) -> list[ClientRows]:
    """Return each client's part of train and of validation, in the order of clients; test is the server's.

    Args:
        config: says how rows are spread, and over how many clients.
        data: the task.

    Raises:
        LopsidedError: for more clients than rows or domains, a part without one of the classes, a client without rows
            of validation, or a task whose rows have no domains.
    """
    data = _with_fewer_to_score(config, data)
    parts = _shared_out(config, data)
    names = _names(config, data, parts["train"])
    for client, rows in zip(names, parts["validation"]):
        if not rows:
            raise LopsidedError(
                f"{client} has no rows of validation to be scored on; expected one at least; lower the clients, or "
                "take another partition"
            )
    by_client = zip(names, parts["train"], parts["validation"])
    return [
        ClientRows(name=name, data=_part(config, data, {"train": train, "validation": validation}))
        for name, train, validation in by_client
    ]


def own_rows(config: FederationConfig, task: str, labels: Sequence[str], name: str) -> ClientRows:
    """Return all rows of a task of the client's own.

    Args:
        config: of the federation.
        task: a name or a folder, as for `lopsided train`.
        labels: the server's classes.
        name: of the client.

    Raises:
        LopsidedError: if the task has other classes, or no row of one of them to train on, which is not allowed.
    """
    data = load_data(dataclasses.replace(config.run, task=task, pool_files=False))
    if list(data.task.labels) != list(labels):
        raise LopsidedError(
            f"task {task} has the classes {', '.join(data.task.labels) or 'none'}, the server's {', '.join(labels)}; "
            "expected the same in the same order; rename or leave some out"
        )
    if not config.allow_missing and data.task.labels:
        _check_every_class(task, data)
    return ClientRows(name=name, data=data)


def _check_every_class(task: str, data: Data) -> None:
    present = set(data.task.splits["train"]["label"])
    if missing := [label for number, label in enumerate(data.task.labels) if number not in present]:
        raise LopsidedError(
            f"task {task} has no training row of {len(missing)} of {len(data.task.labels)} classes "
            f"({', '.join(missing[:5])}); expected all of them; add some, or start the federation with --allow-missing"
        )


def _with_fewer_to_score(config: FederationConfig, data: Data) -> Data:
    """Return the data with no more validation rows than the run asks for, the same for every method and seed."""
    count = len(data.task.splits["validation"])
    if config.run.eval_rows is None or config.run.eval_rows >= count:
        return data
    # Of texts that are cut into pieces the draw is over texts: a client's piece is a part of one of its own.
    is_row_by_row = len(data.encoded.splits["validation"]) == count
    drawn = data.encoded.splits["validation"] if is_row_by_row else data.task.splits["validation"]
    return _part(config, data, {"validation": list(drawn_rows(drawn, config.run.eval_rows))})


def _shared_out(config: FederationConfig, data: Data) -> dict[str, list[list[int]]]:
    """Return row numbers by split and client."""
    splits = data.task.splits
    column = config.partition if config.partition in GROUPS else None
    train = _rows(splits["train"], bool(data.task.labels), column)
    if column is not None and train.groups is None:
        columns = ", ".join(splits["train"].column_names)
        raise LopsidedError(
            f"partition {column} expected rows with a column {column}, received {columns}; {GROUPS[column]}"
        )
    if column == FILE:
        _check_files(train, config.clients)
    parts = partition(
        config.partition,
        train,
        config.clients,
        alpha=config.concentration,
        seed=config.run.seed,
        allow_missing=config.allow_missing,
    )
    validation = _rows(splits["validation"], bool(data.task.labels), column)
    strata = [_strata(config, rows) for rows in (train, validation)]
    if any(each is None for each in strata):
        # A file of validation that is everybody's belongs to no file of train.
        return {"train": parts, "validation": _in_proportion(parts, [0] * train.count, [0] * validation.count)}
    return {"train": parts, "validation": _in_proportion(parts, *(each for each in strata if each is not None))}


def _check_files(rows: Rows, clients: int) -> None:
    """Raise unless there are as many files as clients."""
    files = list(dict.fromkeys(rows.groups or ()))
    if len(files) != clients:
        listed = ", ".join(map(str, files[:5])) + (", ..." if len(files) > 5 else "")
        raise LopsidedError(
            f"{clients} clients, and the training rows are of {len(files)} files ({listed:.200}); expected a file per "
            f"client; pass --clients {len(files)}, or change the files"
        )


def _rows(rows: Dataset, has_classes: bool, column: str | None) -> Rows:
    return Rows(
        count=len(rows),
        labels=list(rows["label"]) if has_classes else None,
        groups=list(rows[column]) if column in rows.column_names else None,
    )


def _strata(config: FederationConfig, rows: Rows) -> Sequence[Hashable] | None:
    """Return by what a partition tells rows apart, their classes, domains or files; None where it does not."""
    return rows.labels if config.partition == "dirichlet" else rows.groups


def _in_proportion(
    parts: Sequence[Sequence[int]], of_train: Sequence[Hashable], of_rows: Sequence[Hashable]
) -> list[list[int]]:
    """Return parts of other rows: of each stratum a client has the share that it has in train."""
    shares: list[list[int]] = [[] for _ in parts]
    for stratum in dict.fromkeys(of_rows):
        own = [row for row, each in enumerate(of_rows) if each == stratum]
        counts = [sum(of_train[row] == stratum for row in part) for part in parts]
        cuts = [len(own) * sum(counts[:client]) // max(1, sum(counts)) for client in range(len(parts) + 1)]
        for client, share in enumerate(shares):
            share.extend(own[cuts[client] : cuts[client + 1]])
    return [sorted(share) for share in shares]


def _names(config: FederationConfig, data: Data, parts: Sequence[Sequence[int]]) -> list[str]:
    """Return the clients' names: a client of one domain or file has its name."""
    if config.partition in GROUPS:
        groups = list(data.task.splits["train"][config.partition])
        owned = [list(dict.fromkeys(groups[row] for row in part)) for part in parts]
        if all(len(names) == 1 for names in owned):
            return [str(names[0]) for names in owned]
    return [f"client-{number}" for number in range(len(parts))]


def _part(config: FederationConfig, data: Data, rows: dict[str, list[int]]) -> Data:
    """Return the data with some rows of the splits in `rows`, and all of the others."""
    splits = {split: part.select(rows[split]) if split in rows else part for split, part in data.task.splits.items()}
    task = dataclasses.replace(data.task, splits=splits)
    encoded = dict(data.encoded.splits)
    again = None
    for split, chosen in rows.items():
        if len(encoded[split]) == len(data.task.splits[split]):
            encoded[split] = encoded[split].select(chosen)
        else:
            # Long texts are several encoded rows each: those of the chosen texts are encoded by themselves.
            again = again or encode(task, data.processor, max_length=config.run.max_length, seq2seq=data.seq2seq)
            encoded[split] = again.splits[split]
    return dataclasses.replace(data, task=task, encoded=dataclasses.replace(data.encoded, splits=encoded))
