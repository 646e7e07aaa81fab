"""What a diagnosis shows on its way: lines for a file, a bar at a terminal, the time left."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from lopsided.diagnose import section_progress
from lopsided.diagnose.section_progress import SectionLines
from lopsided_cli.diagnose_progress import progress_of_sections


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves: a list with the time in it."""
    now = [0.0]
    monkeypatch.setattr(section_progress.time, "monotonic", lambda: now[0])
    return now


def test_a_short_section_has_one_line_and_a_long_one_says_what_is_left(clock):
    lines = []
    progress = SectionLines(lines.append)
    progress.begin_run("cla-seed0", 1, 3)
    with progress.of_section("layers"):
        for step in range(5):
            clock[0] += 1
            progress.step(step, 4)
    with progress.of_section("landscape"):
        for step in range(1, 5):
            clock[0] += 20
            progress.step(step, 4)
    progress.end_run()
    progress.begin_run("cla-seed1", 2, 3)
    assert lines == [
        "run 1 of 3: cla-seed0",
        "layers: 5.0 s",
        "landscape: 50%, 40 s left",
        "landscape: 1 min 20 s",
        # 85 seconds for a run, and two runs to go.
        "run 2 of 3: cla-seed1, 2 min 50 s left",
    ]


def test_a_kept_diagnosis_is_no_part_of_the_pace(clock):
    lines = []
    progress = SectionLines(lines.append)
    progress.kept_run("cla-seed0", 1, 2, "is diagnosed")
    progress.begin_run("cla-seed1", 2, 2)
    assert lines == ["run 1 of 2: cla-seed0 is diagnosed", "run 2 of 2: cla-seed1"]


def test_a_section_that_fails_has_its_line():
    lines = []
    progress = SectionLines(lines.append)
    with pytest.raises(KeyError), progress.of_section("layers"):
        raise KeyError("no such layer")
    assert [line.split(":")[0] for line in lines] == ["layers"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_of_60_columns_has_a_bar_that_fits(clock, encoding):
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=written, force_terminal=True, width=60, no_color=True, legacy_windows=False)
    with progress_of_sections(console) as (progress, _):
        progress.begin_run("c3la-seed0", 1, 2)
        with progress.of_section("generalization"):
            clock[0] += 700
            progress.step(1, 4)
            progress._bars.refresh()
    written.flush()
    shown = written.buffer.getvalue().decode(encoding)
    assert "diagnose: run 1 of 2: c3la-seed0" in shown
    assert "generalization: 11 min 40 s" in shown
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= 60
    assert any("25%" in line and "35 min 0 s left" in line for line in lines)
