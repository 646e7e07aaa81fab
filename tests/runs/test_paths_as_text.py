"""What takes a folder takes its name as text, too: notebooks write it so."""

from __future__ import annotations

from pathlib import Path

from lopsided.diagnose import DiagnoseConfig, diagnose_runs
from lopsided.report import write_report
from lopsided.runs import finished_run, read_run, resumed_config, run_folders
from lopsided.serving import export_adapter
from lopsided.verify import verify


def test_a_runs_folder_may_be_a_text(run_once, bert, words, tmp_path):
    folder, _ = run_once(model=bert, task=words, method="cla")
    name = str(folder)
    assert read_run(name) == read_run(folder)
    assert finished_run(name).folder == folder
    assert run_folders(name) == [folder]
    assert resumed_config(name).out == folder
    assert verify(name)["kind"] == "run"
    exported = export_adapter(name, str(tmp_path / "lora"), probe=False)
    assert exported.path == tmp_path / "lora"
    assert list(diagnose_runs([name], DiagnoseConfig(only=("generalization",)))) == [folder]
    write_report([name], str(tmp_path / "page.html"))
    assert Path(tmp_path, "page.html").is_file()
