"""`lopsided tasks`: the table of known tasks."""

from __future__ import annotations

from lopsided_cli import options
from lopsided_cli.printing import print_json, print_table


def tasks(json: options.Json = False) -> None:
    """Print every known task: what is learned, its metric, its data set, and its folder in local form."""
    from lopsided.tasks import TASKS

    if json:
        print_json([{"name": name, **entry.to_json()} for name, entry in TASKS.items()])
        return
    print_table(
        ("task", "what is learned", "kind", "metric", "data set", "folder"),
        [
            (name, entry.about, entry.kind, entry.metric.replace("_", " "), entry.origin, entry.folder or "-")
            for name, entry in TASKS.items()
        ],
        title="Folders are those in --data DIR; prompts and the source of each part with --json",
        unbroken=("task",),
    )
