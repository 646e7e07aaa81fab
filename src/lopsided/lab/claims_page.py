"""The markdown page about several experiments: every claim with its figures, drawings, verdict and settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lopsided.files.atomic import write_text
from lopsided.lab.result_file import LabResult, read_result

HEAD = """# Lab: the papers' claims, put to the test

Each experiment states its claim and the ranges in which the claim would hold before it measures. A range *holds* if the
figure's whole 95 % interval lies in it, *fails* if the whole interval lies outside, and is *undecided* if the interval
crosses a limit, or there is none. What is computed without sampling is *exact*, and judged by its value.

A claim is *reproduced* if every range holds, *partly* reproduced if some fail and some hold, *not reproduced* if some
fail and none holds, and *undecided* if none fails and some are undecided: more seeds may decide it. `lopsided lab NAME
--full` makes a section again; `lopsided lab all --quick` takes a shorter look at all of them.
"""


def write_page(folders: Iterable[Path], page: Path) -> None:
    """Write a markdown page about the results in some folders.

    Raises:
        LopsidedError: for a folder without a result; see `read_result`.
    """
    results = [read_result(folder) for folder in folders]
    text = "\n".join([HEAD, _overview(results), *(_section(result, page) for result in results)])
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, text)


def _overview(results: Sequence[LabResult]) -> str:
    rows = ["| experiment | claim | verdict | ranges | source |", "|---|---|---|---|---|"]
    for result in results:
        rows.append(
            f"| [{result.name}](#{result.name}) | {result.claim} | **{result.verdict}** | "
            f"{result.counts} | {result.source} |"
        )
    return "\n".join(rows) + "\n"


def _section(result: LabResult, page: Path) -> str:
    lines = [f"## {result.name}", "", f"**Claim.** {result.claim} ({result.source})", ""]
    lines += [f"**What it means for a run, where it holds.** {result.meaning}", ""]
    lines += [f"**Verdict: {result.verdict}.** {result.counts.capitalize()}.", ""]
    lines += ["| figure | measured | range for the claim | paper | in range |", "|---|---:|---|---:|---|"]
    for figure in result.figures:
        cells = (figure.what, figure.measured_text, figure.tolerance, figure.paper_text, figure.state_text)
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines += [f"**Note.** {result.note}", ""] if result.note else []
    for plot in result.plots:
        where = os.path.relpath(result.folder / plot.file, page.parent)
        lines += [f"![{plot.title}]({Path(where).as_posix()})", ""]
    return "\n".join([*lines, _provenance(result), ""])


def _provenance(result: LabResult) -> str:
    settings = ", ".join(f"{key} {_words(value)}" for key, value in result.settings.items())
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return f"Settings ({result.size}): {settings}. {result.seconds:g} s on {result.machine}; {versions}."


def _words(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_words(inner)}" for key, inner in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(_words(inner) for inner in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
