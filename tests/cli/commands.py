"""The command line, run inside the test's process."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lopsided_cli.main import main


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and how it ended."""

    status: int
    out: str
    err: str


def lopsided(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """`lopsided ARGUMENTS`, through `main`, as the console script calls it."""
    monkeypatch.setattr("sys.argv", ["lopsided", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capfd.readouterr()
    return Outcome(caught.value.code or 0, captured.out, captured.err)


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    """Bad input: one line on stderr that holds the parts, nothing on stdout, exit status 2."""
    assert outcome.status == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("lopsided: ")
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert part in outcome.err
