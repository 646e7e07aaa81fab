"""What `lopsided bench --plan` prints."""

from __future__ import annotations

from pathlib import Path

from lopsided.study.bench import Bench, planned
from lopsided_cli.plan_table import print_plan

STUDIES = Path(__file__).parents[2] / "studies"


def test_a_plan_of_many_cells_is_a_line_per_model_and_task_with_each_setting_said_once(tmp_path, capsys):
    plan = planned(Bench(path=STUDIES / "paper-rac-lora.toml", out=tmp_path / "none"), probe=False)
    print_plan(plan)
    text = capsys.readouterr().out
    table, rest = text.split("settings of all: ")
    assert table.count("roberta-base") == 4
    assert table.count("15 ") == 4
    assert "link_epochs=10, rank=2 (paper)" in rest
    assert text.count("batch_size=32") == 1
    assert "for full" in text
    assert "lr=2e-05" in text
    assert "60 cells: " in text
    assert "one NVIDIA H100 at 100 TFLOPS" in text
    assert "hf download FacebookAI/roberta-base" in text
