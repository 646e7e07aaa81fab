from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict, Features

from lopsided.errors import LopsidedError
from lopsided.tasks import SPLITS, TASKS, fingerprint, load_task
from lopsided.tasks.hub import SPLIT_NAMES
from lopsided.tasks.splits import Cut
from lopsided.tasks.task import LOCAL_NOTE
from lopsided.tasks.task_entry import PackagedEntry
from lopsided.tasks.text_entry import TextEntry, class_index
from tests.tasks.hub_rows import ALPACA, ROWS
from tests.tasks.test_local import rows_of_readme

TEXTS = [name for name, entry in TASKS.items() if isinstance(entry, TextEntry)]
ROWS_PER_SPLIT = 40
# The classes of the papers' code, and what they are counted in on the real rows; folders are those of the entries.
CLASSES = {"trec-fine": 50, "trec-coarse": 6, "clutrr": 21, "folio": 3, "openbookqa": 4, "logiqa": 4, "stsb": 0}
# Of these, our own copy is not cut from the hub's splits.
ALL_SPLITS = {theirs for names in SPLIT_NAMES.values() for theirs in names} | {"validation_mismatched"}


@pytest.fixture
def hub(monkeypatch):
    """Answers `load_dataset` with rows in a schema of the hub's; returns the arguments of the calls."""
    calls = []

    def put(*rows: dict) -> list:
        answers = iter(rows)

        def load_dataset(*arguments, **options):
            calls.append((arguments, options))
            row = next(answers)
            part = Dataset.from_list([row["hub"]] * ROWS_PER_SPLIT, features=Features(row["features"]))
            return DatasetDict(dict.fromkeys(ALL_SPLITS, part))

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return put


def rows_of(name: str) -> list[dict]:
    """The rows of the data sets that a task downloads, in order."""
    return [ROWS[name], ALPACA] if name == "alpaca-mmlu" else [ROWS[name]]


def test_every_task_of_text_has_rows_here():
    assert set(TEXTS) == set(ROWS)


# Rows with the same text stay together, and all rows here have the same one: cuts would leave a split empty.
@pytest.fixture
def uncut(monkeypatch):
    monkeypatch.setattr(Cut, "rows", lambda cut, keys, classes: (list(range(len(keys))), list(range(len(keys)))))


@pytest.mark.parametrize("name", TEXTS)
def test_rows_of_the_hub_and_of_the_local_form_make_the_same_example(hub, uncut, tmp_path, name):
    entry, row = TASKS[name], ROWS[name]
    calls = hub(*rows_of(name))
    task = load_task(name)
    assert len(calls) == len(rows_of(name))
    if entry.hub.files is None:
        assert calls[0] == ((entry.hub.name, entry.hub.configuration), {"revision": entry.hub.revision})
    assert task.splits["test"][0] == row["example"]
    assert task.splits["train"][0] == (ALPACA if name == "alpaca-mmlu" else row)["example"]
    assert (task.kind, task.metric.name, task.labels) == (entry.kind, entry.metric, entry.classes)
    assert entry.hub_note in task.note
    for folder, local in ((entry.folder, row), ("alpaca", ALPACA)):
        (tmp_path / folder).mkdir()
        for split in (*SPLITS, *entry.elsewhere):
            lines = json.dumps(local["local"]) + "\n"
            (tmp_path / folder / f"{split}.jsonl").write_text(lines * ROWS_PER_SPLIT)
    local = load_task(name, data=str(tmp_path))
    assert fingerprint(local) == fingerprint(task)
    assert LOCAL_NOTE in local.note


@pytest.mark.parametrize("name", TEXTS)
def test_real_rows_in_local_form(data, name):
    entry = TASKS[name]
    if not (data / entry.folder).is_dir():
        pytest.skip(f"no {entry.folder} in {data}")
    task = load_task(name, data=str(data))
    assert tuple(len(task.splits[split]) for split in SPLITS) == rows_of_readme(data)[entry.folder]
    assert len(task.labels) == CLASSES.get(name, 2 if task.kind == "classification" else 0)
    assert "class without a training row" not in task.note


def test_files_of_the_hub_are_asked_for_by_their_paths(hub, uncut):
    calls = hub(ROWS["folio"], ROWS["clutrr"])
    load_task("folio")
    load_task("clutrr")
    [(json_call, folio), (parquet_call, clutrr)] = calls
    assert (json_call, parquet_call) == (("json",), ("parquet",))
    assert folio["data_files"]["train"] == "hf://datasets/tasksource/folio/folio_v2_train.jsonl"
    folder = "hf://datasets/CLUTRR/v1@refs/convert/parquet/gen_train234_test2to10"
    assert clutrr["data_files"]["test"] == f"{folder}/test/0000.parquet"


def cola(monkeypatch, rows: int) -> None:
    part = Dataset.from_list(
        [{"sentence": f"Sentence {i}.", "label": int(i % 4 == 0), "idx": i} for i in range(rows)],
        features=Features(ROWS["cola"]["features"]),
    )
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *a, **k: DatasetDict(train=part, validation=part, test=part.select([0]))
    )


def test_splits_are_cut_by_a_fixed_seed_and_by_class(monkeypatch):
    cola(monkeypatch, 80)
    task = load_task("cola")
    validation, test = (task.splits[split] for split in SPLITS[1:])
    assert len(task.splits["train"]) == 80
    assert (len(validation), len(test)) == (40, 40)
    assert not set(validation["text"]) & set(test["text"])
    assert sum(validation["label"]) == sum(test["label"]) == 10
    assert fingerprint(load_task("cola")) == fingerprint(task)
    # Not the first half.
    assert set(validation["text"]) != {f"Sentence {i}." for i in range(40)}
    other = load_task("cola:asymmetry")
    assert [len(other.splits[split]) for split in SPLITS] == [72, 8, 80]


def test_rows_with_the_same_text_stay_together():
    keys = [i // 2 for i in range(40)]
    kept, lost = Cut(share=0.25).rows(keys, [0] * 40)
    assert sorted(kept + lost) == list(range(40))
    assert (len(kept), len(lost)) == (30, 10)
    assert not {keys[i] for i in kept} & {keys[i] for i in lost}


def test_mnli_is_tested_on_other_genres_out_of_domain(hub, uncut):
    hub(ROWS["mnli"])
    assert list(load_task("mnli").out_of_domain) == ["mnli/mismatched"]


def test_a_class_without_a_training_row_is_kept_and_noted(write, tmp_path):
    folder = tmp_path / "trec"
    folder.mkdir()
    known, rare = ({"text": "Who ?", "fine_label": label} for label in ("HUM:ind", "NUM:temp"))
    for split, rows in {"train": [known] * 3, "validation": [known], "test": [known, rare, rare]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task("trec-fine", data=str(tmp_path))
    assert len(task.labels) == 50
    assert task.labels[task.splits["test"][1]["label"]] == "NUM:temp"
    assert task.note.endswith("; 2 rows of test have a class without a training row")


def test_a_draw_of_training_rows_says_which_classes_it_lacks(data):
    task = load_task("trec-fine", data=str(data), train_size=60)
    seen = set(task.splits["train"]["label"])
    lacking = sum(label not in seen for label in task.splits["test"]["label"])
    assert f"{lacking} rows of test have a class without a training row" in task.note
    assert len(task.labels) == 50


BROKEN = {
    "no field": ({"sentence": None, "label": 1}, "train.jsonl:1: expected field 'sentence'; received fields label"),
    "no text": ({"sentence": 7, "label": 1}, "train.jsonl:1: expected a string in 'sentence'; received int '7'"),
    "no class": ({"sentence": "a", "label": 2}, "train.jsonl:1: expected a class from 0 to 1, or its name"),
    "misspelt": ({"sentence": "a", "label": "acceptible"}, "did you mean 'acceptable'?"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_row_outside_the_schema_is_named(tmp_path, case):
    row, message = BROKEN[case]
    (tmp_path / "cola").mkdir()
    for split in SPLITS:
        (tmp_path / "cola" / f"{split}.jsonl").write_text(json.dumps(row))
    with pytest.raises(LopsidedError, match=re.escape(message)) as caught:
        load_task("cola", data=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named_with_its_place(tmp_path, monkeypatch):
    with pytest.raises(LopsidedError, match=rf"expected the folder {tmp_path}/paws; received none; put google-res"):
        load_task("paws", data=str(tmp_path))
    (tmp_path / "paws").mkdir()
    with pytest.raises(LopsidedError, match=r"missing train.jsonl, validation.jsonl, test.jsonl; add it, or leave"):
        load_task("paws", data=str(tmp_path))

    def offline(*arguments, **options):
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(LopsidedError, match=r"paws \(labeled_final\) from the hub; received: Couldn't .*--data") as e:
        load_task("paws")
    assert "put train.jsonl, validation.jsonl, test.jsonl (fields sentence1, sentence2, label) into paws/" in str(
        e.value
    )
    with pytest.raises(LopsidedError, match="did you mean 'trec-fine'"):
        load_task("trec-fin")
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: DatasetDict())
    with pytest.raises(LopsidedError, match="expected split train of nyu-mll/glue"):
        load_task("rte")


@pytest.mark.parametrize("task", ["glue/mrpc", "pawz", "vader"])
def test_a_folder_of_data_is_for_known_tasks(tmp_path, task):
    with pytest.raises(LopsidedError, match="is for the names of `lopsided tasks`"):
        load_task(task, data=str(tmp_path))
    with pytest.raises(LopsidedError, match="is for the names of `lopsided tasks`"):
        load_task(str(tmp_path), data=str(tmp_path))


def test_a_folder_of_a_tasks_name_is_read_as_a_folder(write, monkeypatch):
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    folder = write(train=rows, validation=rows, test=rows)
    folder.rename(folder.parent / "mrpc")
    monkeypatch.chdir(folder.parent)
    assert list(load_task("mrpc").splits["train"]["text"]) == ["a", "b"]


def test_a_folder_of_data_may_stand_next_to_tasks_that_need_none(cached, tmp_path):
    assert len(load_task("vader/nyt", data=str(tmp_path)).splits["train"])


def test_an_entry_decides_on_labels_and_splits():
    with pytest.raises(LopsidedError, match="task paws has its own labels and splits"):
        load_task("paws", label="label")


def test_entries_say_where_they_come_from():
    words = {"code", "readme", "paper", "default", "unknown"}
    for name, entry in TASKS.items():
        listed = entry.to_json()
        assert set(listed["sources"].values()) <= words, name
        assert listed["about"], name
        assert listed["form"], name
        assert listed["local_form"] or isinstance(entry, PackagedEntry), name


def test_plans_know_how_many_rows_there_are(data):
    assert not [name for name in TEXTS if TASKS[name].rows is None]
    # Two data sets whose local form has a split as the hub has it.
    sizes = rows_of_readme(data)
    assert TASKS["django"].rows == sizes["django"]
    assert [TASKS[name].rows[2] for name in ("openbookqa", "logiqa", "e2e", "rte")] == [
        sizes[folder][2] for folder in ("openbookqa", "logiqa2", "e2e", "rte")
    ]


def test_entries_are_short():
    folder = Path(load_task.__code__.co_filename).parent / "entries"
    for path in folder.glob("*.py"):
        entries = re.findall(r'^    "\S+": \w+Entry\(\n.*?^    \),\n', path.read_text(), re.M | re.S)
        assert [entry for entry in entries if entry.count("\n") >= 15] == []


def test_a_class_by_index_or_name():
    assert class_index(1, ("no", "yes"), "") == class_index("yes", ("no", "yes"), "") == 1
    with pytest.raises(LopsidedError, match="row 3: expected a class"):
        class_index(True, ("no", "yes"), "row 3")
