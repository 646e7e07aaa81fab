import dataclasses
import io
import math

import pytest
from rich.console import Console

from lopsided.report.terminal import print_table
from lopsided.study.board_cells import BoardCell
from lopsided.study.board_rows import Absence
from tests.report.example import METHODS, example, with_cell


def printed(comparison, width=100):
    file = io.StringIO()
    console = Console(record=True, width=width, file=file, force_terminal=True, color_system="truecolor")
    print_table(comparison, console)
    styled = console.export_text(styles=True, clear=False)
    return console.export_text(), styled


def line(text, method):
    return next(line for line in text.splitlines() if line.split()[:1] == [method])


def test_twelve_methods_fit_a_hundred_columns_with_every_figure():
    text, _ = printed(example())
    lines = text.splitlines()
    assert max(len(one) for one in lines) <= 100
    heading = "method trained test % OOD % G(W) ms/step kept file"
    assert lines[1].split() == heading.split()
    assert [one.split()[0] for one in lines[2:14]] == [values[0] for values in METHODS]
    figures = "lora 1,327,104 ○ 81.7±1.2 73.7±0.9 0.061±0.004 143.9±1.3 80.5 MiB 5.1 MiB"
    assert " ".join(line(text, "lora").split()) == figures
    assert "…" not in text


def test_marks_failed_rows_floor_legend_and_sentences():
    text, styled = printed(example())
    assert "\x1b[1;32m● 82.9±1.2" in styled
    assert "○ 81.7±1.2" in line(text, "lora")
    assert "\x1b[31mtoo_wide: rank must not exceed" in styled
    assert line(text, "too_wide").split() == ["too_wide", "failed"]
    lines = [one.rstrip() for one in text.splitlines()]
    assert lines[lines.index("───── floor") + 1].startswith("head")
    assert "○ tied: within two standard errors of the paired difference" in text
    for sentence in example().leaderboard.sentences:
        assert sentence in text


def with_board(comparison, **changes):
    """The comparison with something else in its leaderboard."""
    return dataclasses.replace(comparison, leaderboard=dataclasses.replace(comparison.leaderboard, **changes))


def test_only_the_first_line_of_an_error():
    text, _ = printed(with_board(example(), absent=(Absence(label="too_wide", why="first\nsecond"),)))
    assert "too_wide: first" in text
    assert "second" not in text.replace("seconds", "")


def test_methods_of_equal_parts_are_named():
    text, _ = printed(example(more=True))
    assert "paca and rcla have the same parts: with the same seed they are the same run." in " ".join(text.split())


@pytest.mark.parametrize("width", [80, 50, 30])
def test_a_narrow_console_is_told_what_is_missing(width):
    text, _ = printed(example(), width)
    assert all(len(one) <= width for one in text.splitlines())
    joined = " ".join(text.split())
    assert "standard errors are shown for the score only" in joined
    assert ("columns are left out: " in joined) == (width < 80)
    assert "82.9±1.2" in joined or width == 30


def test_not_finite_and_hostile_texts():
    full, lora, *others = example().leaderboard.rows
    name = "[red]x\x1b[2J[/red]"
    unscored = with_cell(full, "score", BoardCell(mean=math.nan, se=math.nan))
    rows = (unscored, dataclasses.replace(lora, label=name), *others)
    comparison = with_board(example(), rows=rows)
    names = tuple(name if label == "lora" else label for label in comparison.names)
    text, styled = printed(dataclasses.replace(comparison, names=names))
    assert line(text, "full").split()[2] == "–"
    assert "[red]x�[2J[/red]" in text
    assert "\x1b[2J" not in styled


def test_an_error_that_could_not_be_computed_is_a_dash_with_its_reason():
    full, *others = example().leaderboard.rows
    rows = (with_cell(full, "step_ms", BoardCell(mean=191.2, why={"se": "one step was timed"})), *others)
    text, _ = printed(with_board(example(), rows=rows), 120)
    assert "191.2±–" in line(text, "full")
    assert "– standard error of ms a step, full: one step was timed." in " ".join(text.split())
