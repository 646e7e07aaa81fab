"""Each addition of docs/contributing.md takes under 15 lines, and is seen wherever it has to be."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from lopsided import METHODS
from lopsided.baselines import BASELINES
from lopsided.diagnose.sections import SECTIONS
from lopsided.models.registry import MODELS
from lopsided.runs import train
from lopsided.settings import check_settings
from lopsided.study.columns import COLUMNS
from lopsided.tasks import TASKS, load_task
from lopsided_cli import options
from tests.tiny_runs import tiny_config

PAGE = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## (.*?)\n.*?```python\n(.*?)```", PAGE, flags=re.S | re.M))


@pytest.fixture
def added(monkeypatch):
    """Runs the code under a heading of the page, and takes its entry back after the test."""
    tables = [(table, dict(table)) for table in (METHODS, BASELINES, SECTIONS, MODELS, COLUMNS, TASKS)]

    def run(heading: str) -> dict[str, object]:
        module = ModuleType("entry")
        monkeypatch.setitem(sys.modules, "entry", module)
        exec(compile(BLOCKS[heading], heading, "exec"), vars(module))
        return vars(module)

    yield run
    for table, before in tables:
        table.clear()
        table.update(before)


def test_an_entry_has_fewer_than_15_lines():
    counted = {heading: sum(bool(line.strip()) for line in code.splitlines()) for heading, code in BLOCKS.items()}
    assert len(counted) == 7
    assert {heading: lines for heading, lines in counted.items() if lines >= 15} == {}


def test_a_method_is_listed_checked_and_trained(added, cli, bert, words, tmp_path):
    from lopsided.testing import check_method

    added("A method")
    assert "rac_b_coin" in cli("methods").out
    check_method(METHODS["rac_b_coin"])
    assert METHODS["rac_b_coin"].side.p == 0.75


def test_a_baseline_is_listed_and_trained(added, cli, bert, words, tmp_path):
    added("A baseline")
    assert "peft:orthogonal" in cli("methods").out
    run = train(tiny_config(tmp_path / "run", model=bert, task=words, method="peft:orthogonal", steps=2))
    assert run.method.name == "peft:orthogonal"
    assert (run.folder / "adapter" / "adapter_config.json").is_file()


def test_a_diagnostic_is_in_the_choice_the_table_and_the_file(added, cli, run_once, bert, words):
    added("A diagnostic")
    folder, _ = run_once(model=bert, task=words, method="cla")
    outcome = cli("diagnose", folder, "--only", "worst-row")
    assert "worst row" in outcome.out
    assert "worst-row" in (folder / "diagnosis.json").read_text()


def test_an_option_has_its_help_its_range_and_its_place_in_the_record(added, capsys):
    kind = added("An option")["WithPatience"]
    checked = dataclasses.dataclass(frozen=True, kw_only=True)(
        type("Checked", (kind,), {"__post_init__": check_settings, "__annotations__": {}})
    )

    @options.options_of(kind)
    def train(settings: options.Values) -> None:
        """Train."""
        print(checked(**settings | {"out": Path("unused")}).patience)

    app = typer.Typer()
    app.command()(train)
    command = typer.main.get_command(app)
    command.main(["--patience", "7"], standalone_mode=False)
    assert capsys.readouterr().out == "7\n"
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        command.main(["--patience", "0"], standalone_mode=False)


def test_a_column_is_in_the_results_and_on_the_terminal(added, cli, bert, words, tmp_path):
    added("A column of the leaderboard")
    options = ["--rank", 4, "--steps", 2, "--batch-size", 8, "--max-length", 16, "--methods", "cla,head"]
    outcome = cli("compare", "--model", bert, "--task", words, *options, "--out", tmp_path / "compared")
    assert '"key": "steps"' in (tmp_path / "compared" / "results.json").read_text()
    assert "optimizer steps" in (tmp_path / "compared" / "report.html").read_text()
    assert outcome.status == 0


def test_a_model_of_a_package_is_listed_and_loaded_by_its_name(added, cli, bert, words, tmp_path, monkeypatch):
    from lopsided.runs.inputs import load_inputs

    package = tmp_path / "tiny_bert"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "model").symlink_to(bert)
    monkeypatch.syspath_prepend(tmp_path)
    added("A model")
    assert "tiny" in cli("models").out
    inputs = load_inputs(tiny_config(tmp_path / "run", model="tiny", task=words))
    assert inputs.model.config.hidden_size == 32


def test_a_task_is_listed_and_loaded_from_its_folder(added, cli, bert, tmp_path):
    added("A task")
    assert "emotion" in cli("tasks").out
    rows = [{"message": f"good day {i}", "label": ("joy", "fear")[i % 2]} for i in range(8)]
    (tmp_path / "emotion").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "emotion" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task("emotion", data=str(tmp_path))
    assert (task.labels, task.metric.name, task.splits["test"]["label"][0]) == (("anger", "fear", "joy"), "f1_macro", 2)
    options = ["--steps", 2, "--batch-size", 4, "--max-length", 16, "--rank", 4, "--method", "cla"]
    run = cli("train", "--task", "emotion", "--data", tmp_path, "--model", bert, *options, "--out", tmp_path / "run")
    assert run.status == 0
    assert "f1 macro" in run.out
