"""Cells whose figures another version may not give again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lopsided.runs.measure import versions
from lopsided.study.cell import NUMERICS
from lopsided.study.results import Result


def stale_results(results: Mapping[str, Result]) -> Iterator[tuple[Result, str]]:
    """Yield the finished cells from older numerics or other versions of libraries, each with what differs."""
    now = versions()
    for result in results.values():
        if not result.is_finished:
            continue
        reasons = [] if result.numerics == NUMERICS else [f"numerics {result.numerics}, now {NUMERICS}"]
        there = result.run.versions
        reasons += [
            f"{name} {there.get(name, 'unknown')}, now {version}"
            for name, version in now.items()
            if there.get(name) != version
        ]
        if reasons:
            yield result, "; ".join(reasons)
