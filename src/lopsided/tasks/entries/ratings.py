"""Human ratings of snippets: VADER."""

from __future__ import annotations

from lopsided.tasks.task_entry import KnownTask, PackagedEntry, PartSources
from lopsided.tasks.vader import ALL, ARCHIVE, DOMAINS, NOTE, load_vader

ABOUT = {
    **{domain: f"whether a snippet is positive, tested out of domain on the others: {domain}" for domain in DOMAINS},
    ALL: "whether a snippet is positive, all four domains as one task; its rows say which domain they are from",
}
RATINGS: dict[str, KnownTask] = {
    f"vader/{domain}": PackagedEntry(
        about=about,
        package=ARCHIVE.requirement,
        form="text, label",
        make=load_vader,
        metric="accuracy",
        sources=PartSources(hub="default", splits="default", form="default", metric="default"),
        note=NOTE,
    )
    for domain, about in ABOUT.items()
}
