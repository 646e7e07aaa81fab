"""What sections share: loaded once, and the same for each section, whichever was computed before."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lopsided.diagnose import SECTIONS, DiagnoseConfig, LandscapeConfig, diagnose_run
from lopsided.runs import inputs as run_inputs
from lopsided.runs.reload import base_of, reload, reload_merged
from lopsided.runs.run import finished_run
from lopsided.runs.trajectory import snapshots
from tests.diagnose.cases import of_run
from tests.tiny_runs import FILLER

SMALL = {"landscape": LandscapeConfig(points=3, rows=16, hessian_rows=8)}


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"sentence1": FILLER[i % 8], "sentence2": " ".join(FILLER[: i % 7 + 1]), "label": i % 5} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.fixture
def loads(monkeypatch):
    """Counts what is read from disk: models with their base's weights, adapters by their folder, tasks."""
    counts: Counter[str] = Counter()

    def count(kind, name, what):
        original = getattr(kind, name).__func__

        def counting(cls, *arguments, **options):
            counts[what(*arguments)] += 1
            return original(cls, *arguments, **options)

        monkeypatch.setattr(kind, name, classmethod(counting))

    def counted_task(*arguments, **options):
        counts["task"] += 1
        return load_task(*arguments, **options)

    load_task = run_inputs.load_task
    count(PreTrainedModel, "from_pretrained", lambda path, *rest: f"model {path}")
    count(PeftModel, "from_pretrained", lambda model, path, *rest: f"adapter {path}")
    monkeypatch.setattr(run_inputs, "load_task", counted_task)
    return counts


@pytest.mark.parametrize("method", ["c3la", pytest.param("full", marks=pytest.mark.more)])
def test_one_diagnosis_loads_each_thing_once(method, run_once, bert, words, reference, loads):
    folder, record = run_once(method=method, model=bert, task=words)
    loads.clear()
    diagnose_run(folder, DiagnoseConfig(reference=reference, **SMALL))
    diagnosis = json.loads((folder / "diagnosis.json").read_text())
    assert diagnosis["skipped"] == {}
    assert {*diagnosis} >= {name for name, section in SECTIONS.items() if section.is_of_one}
    learned = folder / "adapter"
    expected = {f"model {bert}": 1, "task": 1}
    if method == "full":
        expected[f"model {learned}"] = 1
    else:
        steps = [step for step in snapshots(folder) if step < record["best_step"]]
        assert len(steps) > 1, "the landscape of this run has no path, and reads no snapshots"
        expected |= {f"adapter {path}": 1 for path in (learned, *(snapshots(folder)[step] for step in steps))}
    assert loads == expected


@pytest.mark.parametrize("method", ["c3la", pytest.param("full", marks=pytest.mark.more)])
def test_no_section_changes_what_another_one_reads(method, run_once, bert, words, reference):
    folder, _ = run_once(method=method, model=bert, task=words)
    sections = [section for section in SECTIONS.values() if section.compute is not None]
    alone = {section.name: section.compute(of_run(folder, reference=reference, **SMALL)) for section in sections}
    shared = of_run(folder, reference=reference, **SMALL)
    assert {section.name: section.compute(shared) for section in reversed(sections)} == alone
    fresh = of_run(folder)
    for mine, theirs in ((shared.merged, fresh.merged), (shared.model, fresh.model)):
        assert_same_bits(mine.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("method", ["c3la", "lora", pytest.param("bernoulli", marks=pytest.mark.more)])
def test_copies_have_the_bits_of_what_is_on_disk(method, run_once, bert, words):
    folder, _ = run_once(method=method, model=bert, task=words)
    inputs = of_run(folder)
    assert_same_bits(inputs.merged.state_dict(), reload_merged(folder).state_dict())
    for step in list(snapshots(folder))[:2]:
        assert_same_bits(inputs.snapshot(step).state_dict(), reload_merged(folder, snapshot=step).state_dict())
    base = base_of(finished_run(folder)).base_model
    assert_same_bits(inputs.encoder().base_model.state_dict(), base.state_dict())
    # Neither the snapshots nor merging has touched the model itself.
    assert_same_bits(inputs.model.state_dict(), reload(folder, trainable=True).state_dict())


def assert_same_bits(mine, theirs) -> None:
    assert list(mine) == list(theirs)
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
