"""Which rows a client has: its part of one task that all of them read, or all rows of a task of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.federated.federation import FederationConfig
from lopsided.federated.partitions import by_group, dirichlet, even
from lopsided.runs.inputs import Data, load_data

# The column that names a row's domain.
DOMAIN = "domain"
# The splits that are spread over clients; test is the server's.
SPREAD = ("train", "validation")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClientRows:
    """A client's rows, with its name."""

    name: str
    data: Data


def spread_rows(config: FederationConfig, data: Data) -> list[ClientRows]:
    """Return each client's part of train and of validation, in the order of clients.

    Args:
        config: says how rows are spread, and over how many clients.
        data: the task.

    Raises:
        LopsidedError: for more clients than rows, a part without one of the classes, or domains that are not there, or
            not as many as clients.
    """
    parts = {split: _indices(config, data.task.splits[split], len(data.task.labels)) for split in SPREAD}
    names = list(parts["train"])
    if missing := [name for name in names if name not in parts["validation"]]:
        raise LopsidedError(f"{missing[0]} has no rows in validation; expected some; spread over fewer clients")
    return [ClientRows(name=name, data=_part(data, {s: parts[s][name] for s in SPREAD})) for name in names]


def own_rows(config: FederationConfig, task: str, labels: Sequence[str], name: str) -> ClientRows:
    """Return all rows of a task of the client's own.

    Args:
        config: of the federation.
        task: a name or a folder, as for `lopsided train`.
        labels: the server's classes.
        name: of the client.

    Raises:
        LopsidedError: if the task has other classes.
    """
    data = load_data(dataclasses.replace(config.run, task=task))
    if list(data.task.labels) != list(labels):
        raise LopsidedError(
            f"task {task} has the classes {', '.join(data.task.labels) or 'none'}, the server's {', '.join(labels)}; "
            "expected the same in the same order; rename or leave some out"
        )
    return ClientRows(name=name, data=data)


def _indices(config: FederationConfig, rows: Dataset, classes: int) -> dict[str, list[int]]:
    """Return row numbers by client."""
    numbered = [f"client-{number}" for number in range(config.clients)]
    if config.partition == "even":
        return dict(zip(numbered, even(len(rows), config.clients, seed=config.run.seed)))
    if config.partition == "dirichlet":
        labels = rows["label"] if "label" in rows.column_names and classes else None
        if labels is None:
            raise LopsidedError("partition dirichlet skews classes, and the task has none; take even")
        parts = dirichlet(list(labels), config.clients, alpha=config.concentration, seed=config.run.seed)
        return dict(zip(numbered, parts))
    if DOMAIN not in rows.column_names:
        raise LopsidedError(
            f"partition domain expected rows with a column {DOMAIN}, received {', '.join(rows.column_names)}; take the "
            "task vader/all, or another partition"
        )
    groups = by_group(list(rows[DOMAIN]))
    if len(groups) != config.clients:
        raise LopsidedError(
            f"partition domain has a client per domain: {', '.join(groups)}; received clients={config.clients}; "
            f"expected {len(groups)}"
        )
    return groups


def _part(data: Data, rows: dict[str, list[int]]) -> Data:
    splits = {split: part.select(rows[split]) if split in rows else part for split, part in data.task.splits.items()}
    encoded = {
        split: part.select(rows[split]) if split in rows else part for split, part in data.encoded.splits.items()
    }
    return dataclasses.replace(
        data,
        task=dataclasses.replace(data.task, splits=splits),
        encoded=dataclasses.replace(data.encoded, splits=encoded),
    )
