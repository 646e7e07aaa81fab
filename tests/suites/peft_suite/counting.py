"""How many tests pass per file, and fail per reason; the committed numbers may only get better."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .reasons import REASONS

COMMITTED = Path(__file__).parent / "counts.json"


def worse(now: dict[str, dict[str, int]], committed: dict[str, dict[str, int]]) -> list[str]:
    """Return a line for every file that passes less often, and for every reason that is met more often."""
    lines = []
    for name in sorted({*now["passed"], *committed["passed"]}):
        before, after = (counts["passed"].get(name, 0) for counts in (committed, now))
        if after < before:
            lines.append(f"{name}: {after} tests pass, committed are {before}; the number may only rise")
    for name in sorted({*now["reasons"], *committed["reasons"]}):
        before, after = (counts["reasons"].get(name, 0) for counts in (committed, now))
        if after > before:
            lines.append(f"reason {name!r}: {after} tests fail, committed are {before}; the number may only fall")
    return lines


class Counting:
    """Counts the reports of a whole run, and judges and prints them at its end."""

    def __init__(self, action: str) -> None:
        self.action = action
        self.passed: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter({reason.name: 0 for reason in REASONS})
        self.unexplained = 0
        self.skipped = 0
        self.worse: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "wasxfail" in vars(report):
            self.reasons[report.wasxfail] += 1
        elif report.failed:
            self.unexplained += 1
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed[Path(report.nodeid.split("::")[0]).name] += 1

    def counts(self) -> dict[str, dict[str, int]]:
        return {"passed": dict(sorted(self.passed.items())), "reasons": dict(self.reasons)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {"passed": {}, "reasons": {}}
        if self.action == "compare":
            self.worse = worse(self.counts(), committed)
        if self.action == "write":
            COMMITTED.write_text(json.dumps(self.counts(), indent=2) + "\n")
        if self.worse:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("PEFT's own tests, with Lopsided's configurations")
        for name, number in sorted(self.passed.items()):
            terminalreporter.line(f"{number:6}  pass in {name}")
        for reason in REASONS:
            number = self.reasons[reason.name]
            terminalreporter.line(f"{number:6}  fail on purpose: {reason.name}")
            terminalreporter.line(f"        {reason.why}")
            for place, line in reason.departs_from.items():
                terminalreporter.line(f"        {place}: {line}")
        terminalreporter.line(f"{self.unexplained:6}  fail without a reason")
        terminalreporter.line(f"{self.skipped:6}  skipped by PEFT")
        for line in self.worse:
            terminalreporter.line(f"WORSE: {line}", red=True)
