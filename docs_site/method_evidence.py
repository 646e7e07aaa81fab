"""What was measured about a method: its learning rate, its guarantees, and the verdicts of the lab and the studies."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.studies import RESULTS as STUDY_RESULTS
from benchmarks.study_figures import gap, interval, score
from docs_site.link_targets import REPOSITORY
from docs_site.page_parts import row_of
from lopsided import Method
from lopsided.lab import EXPERIMENTS, LabResult, read_result
from lopsided.study.markdown import markdown_table
from lopsided.study.results import Result, read_results

RATES = "docs/decisions/0004-learning-rates.md"
LAYERS = "docs/layers.md"
ARXIV = re.compile(r"\d{4}\.\d{5}")


def rate_table(name: str) -> str:
    """Return the validation loss of each learning rate that was tried for a method."""
    row = row_of(RATES, name)
    tried = {rate: loss for rate, loss in row.items() if loss and rate != "method"}
    return markdown_table(["rate", *tried], [["validation loss", *tried.values()]])


def guarantees(name: str) -> str:
    """Return, by kind of layer, which guarantees hold."""
    row = row_of(LAYERS, f"`{name}`")
    kinds = {kind: kept for kind, kept in row.items() if kind != "method"}
    return markdown_table(list(kinds), [list(kinds.values())])


def lab_table(method: Method) -> str:
    """Return the experiments that ran a method or tested a claim of its paper, with their verdicts."""
    papers = set(ARXIV.findall(method.source))
    rows = []
    for result in lab_results():
        runs_it = method.name in _names(result.record)
        if runs_it or papers & set(ARXIV.findall(result.source)):
            why = "runs it" if runs_it else "tests its paper"
            rows.append([f"[{result.name}](../lab.md#{result.name})", result.claim, f"**{result.verdict}**", why])
    return markdown_table(["experiment", "claim", "verdict", "why it is here"], rows) if rows else ""


def study_table(name: str) -> str:
    """Return a method's figures in the committed studies, means over seeds with 95 % intervals."""
    rows = []
    for study, by_method in study_results().items():
        if results := by_method.get(name):
            figures = [interval([figure(result) for result in results]) for figure in (score, gap)]
            rows.append([f"[{study}](../studies/{study}.md)", str(len(results)), *figures])
    return markdown_table(["study", "seeds", "test accuracy, %", "G(W)"], rows) if rows else ""


def unmeasured(method: Method) -> str:
    """Return a sentence where neither the lab nor a study says anything of a method."""
    said = lab_table(method) or study_table(method.name)
    return "" if said else "No experiment of the lab and no committed study has run it, or tests a claim of its paper."


@cache
def lab_results() -> tuple[LabResult, ...]:
    """Return the committed results of the lab, in the order of its experiments."""
    folder = REPOSITORY / "docs" / "lab"
    return tuple(read_result(folder / name) for name in EXPERIMENTS if (folder / name).is_dir())


@cache
def study_results() -> Mapping[str, Mapping[str, list[Result]]]:
    """Return the finished runs of the committed studies, by study and method."""
    found: dict[str, dict[str, list[Result]]] = {}
    for path in sorted(Path(STUDY_RESULTS).glob("*.jsonl")):
        by_method: dict[str, list[Result]] = defaultdict(list)
        for result in read_results([path]).values():
            if result.is_finished:
                by_method[result.data["method"]].append(result)
        found[path.stem] = by_method
    return found


def _names(record: Mapping[str, Any]) -> set[str]:
    """Return the words of a record of the lab that stand where methods do: in its settings, details and lines."""
    return {word for part in ("settings", "details", "plots") for word in _words(record[part])}


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _words(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words(inner)
    elif isinstance(value, str):
        yield value
