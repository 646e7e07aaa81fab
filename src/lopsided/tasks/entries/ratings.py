"""Human ratings of snippets: VADER."""

from __future__ import annotations

from lopsided.tasks.task_entry import KnownTask, PackagedEntry, PartSources
from lopsided.tasks.vader import DOMAINS, NOTE, REQUIREMENT, load_vader

RATINGS: dict[str, KnownTask] = {
    f"vader/{domain}": PackagedEntry(
        about=f"whether a snippet is positive, tested out of domain on the others: {domain}",
        package=REQUIREMENT,
        form="text, label",
        make=load_vader,
        metric="accuracy",
        sources=PartSources(hub="default", splits="default", form="default", metric="default"),
        note=NOTE,
    )
    for domain in DOMAINS
}
