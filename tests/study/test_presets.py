"""The studies of the papers: how many cells they plan, with which settings, and that their cells work on tiny twins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lopsided.study.bench import Bench, planned, run_bench

STUDIES = Path(__file__).parents[2] / "studies"
DATA = Path(os.environ.get("LOPSIDED_DATA", Path(__file__).parents[3] / "shared" / "data"))
LEAST = {"paper-beyond-lora": 400, "paper-asymmetry": 60, "paper-rac-lora": 40}

# By preset: model, task, method, and settings with who says so.
EXPECTED = [
    ("paper-beyond-lora", "roberta-large", "cola", "c3la", {"lr": (3e-4, "paper"), "link_epochs": (3, "paper")}),
    ("paper-beyond-lora", "roberta-base", "mrpc", "full", {"lr": (1e-5, "paper"), "weight_decay": (0.01, "paper")}),
    ("paper-beyond-lora", "vit-base", "cifar10", "full", {"lr": (3e-4, "paper"), "weight_decay": (0.05, "paper")}),
    ("paper-beyond-lora", "gpt2", "e2e", "rac_b", {"link_epochs": (1, "paper"), "batch_size": (16, "paper")}),
    ("paper-beyond-lora", "tinyllama", "logiqa", "lora", {"max_length": (512, "readme"), "epochs": (10, "readme")}),
    ("paper-beyond-lora", "tinyllama", "folio", "lora", {"lr": (1e-3, "unknown"), "schedule": ("constant", "code")}),
    ("paper-beyond-lora", "deepseek-coder-1.3b", "django", "cla", {"adam_beta2": (0.95, "code")}),
    ("paper-asymmetry", "roberta-large", "rte", "asym_b", {"lr": (4e-4, "readme"), "dropout": (0.05, "code")}),
    ("paper-asymmetry", "roberta-large", "mnli", "lora", {"lr": (4e-4, "unknown"), "alpha": (16.0, "paper")}),
    ("paper-asymmetry", "llama-2-7b", "alpaca-mmlu", "asym_b", {"rank": (64, "paper")}),
    ("paper-rac-lora", "roberta-base", "rte", "rac_b", {"rank": (2, "paper"), "link_epochs": (10, "paper")}),
    ("paper-rac-lora", "roberta-base", "stsb", "lora", {"epochs": (100, "paper"), "lr": (4e-4, "unknown")}),
]


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """The three plans, which need no model and no data set."""
    out = tmp_path_factory.mktemp("out") / "none"
    return {name: planned(Bench(path=STUDIES / f"{name}.toml", out=out), probe=False) for name in LEAST}


@pytest.mark.parametrize("name", LEAST)
def test_the_papers_are_planned_without_a_download(plans, name):
    plan = plans[name]
    assert len(plan.cells) >= LEAST[name]
    assert plan.seconds > 3600
    assert plan.disk_bytes > 0
    for each in plan.cells:
        line = each.to_json()
        assert line["steps"] > 0
        assert line["memory_bytes"] > 0
        assert line["seconds_by"] == "arithmetic"
        assert {"lr", "rank", "batch_size", "schedule"} <= line["settings"].keys()
    # Every model and every task that is not here has a line that says what to fetch.
    assert all(line.startswith(("model ", "task ")) for line in plan.downloads)


@pytest.mark.parametrize(("name", "model", "task", "method", "settings"), EXPECTED)
def test_settings_are_the_papers_with_their_sources(plans, name, model, task, method, settings):
    cells = [each for each in plans[name].cells if (*each.cell.board, each.cell.config.method) == (model, task, method)]
    assert cells
    found = [{key: (each.settings[key].value, each.settings[key].source) for key in settings} for each in cells]
    assert settings in found


def test_links_are_as_long_as_the_papers(plans):
    cells = {(*each.cell.board, each.cell.config.method): each for each in plans["paper-beyond-lora"].cells}
    # 3,668 pairs in batches of 32 are 115 steps per epoch.
    assert cells["roberta-base", "mrpc", "c3la"].cell.config.every == 3 * 115
    assert cells["roberta-base", "mrpc", "lora"].cell.config.every is None


@pytest.mark.more
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}; set LOPSIDED_DATA")
@pytest.mark.parametrize(
    ("name", "models", "tasks", "methods"),
    [
        ("paper-beyond-lora", ("roberta-base", "tinyllama"), ("mrpc", "folio"), ("full", "c3la", "lora_plus")),
        ("paper-asymmetry", ("roberta-large",), ("rte",), ("asym_b", "peft:adalora", "peft:ia3")),
        ("paper-rac-lora", ("roberta-base",), ("stsb",), ("rac_b", "cola")),
    ],
)
def test_cells_of_the_papers_are_rehearsed_on_twins(tmp_path, monkeypatch, name, models, tasks, methods):
    import dataclasses

    from lopsided.study.study_file import read_study

    def sample(path):
        study = read_study(path)
        blocks = [
            dataclasses.replace(
                block,
                models=tuple(each for each in block.models if each in models),
                tasks=tuple(each for each in block.tasks if each in tasks),
                methods=tuple(each for each in block.methods if each in methods),
            )
            for block in study.blocks
        ]
        return dataclasses.replace(study, blocks=tuple(blocks))

    monkeypatch.setattr("lopsided.study.bench.read_study", sample)
    bench = Bench(path=STUDIES / f"{name}.toml", out=tmp_path / "out", data=str(DATA), rehearse=True)
    plan = run_bench(bench)
    assert plan.counts().keys() == {"finished"}
    assert {each.cell.config.method for each in plan.cells} == set(methods)
