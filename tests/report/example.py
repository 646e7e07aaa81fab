"""A made-up comparison, as of `lopsided compare`; the figures are no measurement."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lopsided.study.board_cells import BoardCell
from lopsided.study.board_rows import Absence, Row
from lopsided.study.columns import columns_of
from lopsided.study.comparison import Comparison
from lopsided.study.leaderboard import Leaderboard

# In the order of the figures below; the titles are those of accuracy.
COLUMNS = columns_of("accuracy", greater_is_better=True)
# method, trains, trained parameters, score, out-of-domain, G(W), ms, kept, file; marks of the score
METHODS: list[tuple[Any, ...]] = [
    ("full", "all", 22_713_216, 0.829, 0.741, 0.142, 191.2, 88_604_672, 90_868_112, "best"),
    ("lora", "A and B", 1_327_104, 0.817, 0.737, 0.061, 143.9, 84_410_368, 5_313_024, "tied"),
    ("lora_plus", "A and B", 1_327_104, 0.821, 0.735, 0.0714, 144.4, 84_410_368, 5_313_024, "tied"),
    ("lora_fa", "B", 663_552, 0.803, 0.731, 0.0402, 121.3, 61_210_624, 2_659_328, None),
    ("asym_b", "B", 663_552, 0.809, 0.738, 0.0388, 121.9, 61_210_624, 2_659_328, "tied"),
    ("asym_a", "A", 663_552, 0.782, 0.719, 0.0312, 133.0, 84_121_600, 2_659_328, None),
    ("cola", "A and B", 1_327_104, 0.814, 0.733, 0.0592, 146.2, 84_410_368, 5_313_024, "tied"),
    ("rac_b", "B", 663_552, 0.811, 0.74, 0.0361, 122.4, 61_210_624, 2_659_328, "tied"),
    ("bernoulli", "A or B", 663_552, 0.798, 0.727, 0.0344, 128.7, 72_104_960, 2_659_328, None),
    ("cla", "B", 663_552, 0.806, 0.734, 0.0379, 104.1, 58_720_256, 2_659_328, None),
    ("c3la", "B", 663_552, 0.816, 0.739, 0.0373, 104.6, 58_720_256, 2_659_328, "tied"),
    ("paca", "B", 663_552, 0.807, 0.7332, 0.0381, 104.3, 58_720_256, 2_659_328, None),
]
MORE = [
    ("relora", "A and B", 1_327_104, 0.812, 0.7312, 0.0602, 147.1, 84_410_368, 5_313_024, None),
    ("rac_a", "A", 663_552, 0.786, 0.721, 0.0321, 133.4, 84_121_600, 2_659_328, None),
    ("rcla", "B", 663_552, 0.807, 0.7332, 0.0381, 104.2, 58_720_256, 2_659_328, None),
    ("rc3la", "B", 663_552, 0.815, 0.739, 0.0374, 104.9, 58_720_256, 2_659_328, "tied"),
    ("cpaca", "B", 663_552, 0.8155, 0.7385, 0.0376, 104.8, 58_720_256, 2_659_328, "tied"),
]
ERROR = "rank must not exceed the layer's width: r=64, d_in=48; lower r or exclude the module"
HEAD = ("head", "the task head", 148_610, 0.741, 0.689, 0.0122, 51.6, 2_097_152, 595_456, None)


def row(method: str, trains: str, *values: Any, floor: bool = False) -> Row:
    """A row with these figures; of `values` the last one is the mark of the score."""
    *means, mark = values
    ses = [None, 0.012, 0.009, 0.004, 1.3, None, None]
    cells = {column.key: BoardCell(mean=mean, se=se) for column, mean, se in zip(COLUMNS, means, ses)}
    cells["score"] = dataclasses.replace(cells["score"], mark=mark)
    return MadeRow(label=method, runs=(), cells=cells, is_floor=floor)


@dataclass(frozen=True, kw_only=True)
class MadeRow(Row):
    """A row without runs."""

    is_floor: bool

    @property
    def floor(self) -> bool:
        return self.is_floor


def marked(found: Row, key: str, mark: Literal["best", "tied"]) -> Row:
    """The row with a mark in another column."""
    return with_cell(found, key, dataclasses.replace(found.cells[key], mark=mark))


def with_cell(found: Row, key: str, cell: BoardCell) -> Row:
    """The row with another cell."""
    return dataclasses.replace(found, cells={**found.cells, key: cell})


def example(more: bool = False) -> Comparison:
    """Twelve methods and the floor (seventeen with `more`), and one that failed."""
    rows = {values[0]: row(*values) for values in METHODS + (MORE if more else [])}
    rows["cla"] = marked(rows["cla"], "step_ms", "best")
    rows["c3la"] = marked(rows["c3la"], "step_ms", "tied")
    rows["bernoulli"] = marked(rows["bernoulli"], "generalization_error", "tied")
    if more:
        rows["rcla"] = dataclasses.replace(rows["rcla"], same_as="paca")
    board = Leaderboard(
        columns=COLUMNS,
        rows=(*rows.values(), row(*HEAD, floor=True)),
        absent=(Absence(label="too_wide", why=ERROR),),
        sentences=(
            "Take c3la: its accuracy can't be told from the best and a step costs 27 % less than lora's.",
            "Full fine-tuning scores highest, but on this many reviews the difference to c3la is noise.",
        ),
    )
    return Comparison(
        folder=Path("results/movie"),
        names=(*rows, "too_wide", "head"),
        seeds=(0,),
        leaderboard=board,
        command="lopsided compare --task vader/movie --rank 16 --steps 60 --out results/movie",
        created="2026-11-22T01:00:00+00:00",
        model="embedded",
        task="vader/movie",
        task_note="Out-of-domain is the mean over Amazon, New York Times and tweets.",
        task_shape="",
        settings={"rank": 16, "alpha": 32, "steps": 60, "batch_size": 32, "target_modules": ["query"]},
        machine={"processor": "AMD EPYC 7R13", "cores": 2, "threads": 2},
        versions={"torch": "2.13.0", "transformers": "5.20.1", "peft": "0.21.0", "lopsided": "0.1.0"},
        wall_seconds=512.3,
    )
