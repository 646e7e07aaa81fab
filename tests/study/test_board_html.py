"""A leaderboard as a notebook shows it, and in a line."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from lopsided.study.board_html import LEGEND
from lopsided.study.comparison import board_of_comparison
from tests.study.made_runs import made_run, right, scored, written


class Table(HTMLParser):
    """The cells of a table, row by row, and the sentences below it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.sentences, self._into = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._into = self.rows[-1]
            self._into.append("")
        elif tag == "p":
            self._into = self.sentences
            self._into.append("")

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data


@pytest.fixture
def board(tmp_path):
    runs = {
        "lora": [scored(0.6)],
        "cla": [made_run("cla", right(first=90))],
        "head": [made_run("head", right(first=10))],
    }
    return board_of_comparison(written(tmp_path, runs), {"head": "<script> is no method"})


def test_every_figure_has_a_cell_and_every_sentence_stands_below(board):
    table = Table(board._repr_html_())
    assert table.rows[0] == ["method", *(column.heading or column.title for column in board.columns)]
    assert {len(row) for row in table.rows} == {1 + len(board.columns)}
    at = [column.key for column in board.columns].index("score") + 1
    assert [row[0] for row in table.rows[1:]] == ["lora", "cla", "head"]
    assert [row[at].split(" ")[0] for row in table.rows[1:3]] == ["60.0", "●"]
    assert table.rows[3][1] == "failed: <script> is no method"
    assert table.sentences == [LEGEND, *board.sentences]


def test_the_line_names_the_methods_and_what_to_take(board):
    assert repr(board) == f"Leaderboard(lora, cla, head (absent); {board.sentences[0]})"
    assert repr(board_of_comparison({}, {})) == "Leaderboard(No method finished, so there is nothing to choose from.)"


def test_a_floor_is_marked(tmp_path):
    board = board_of_comparison(written(tmp_path, {"head": [made_run("head", right(first=10))]}), {})
    table = Table(board._repr_html_())
    assert table.rows[1][0] == "head (floor)"
    assert table.sentences[0] == f"{LEGEND}; floor: only the task head was trained"
