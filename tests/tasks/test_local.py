from __future__ import annotations

import re
from pathlib import Path

import pytest

from lopsided.errors import LopsidedError
from lopsided.tasks import SPLITS, load_task
from lopsided.tasks.column_names import SHAPES
from lopsided.tasks.local import read_jsonl
from lopsided.tasks.task import LOCAL_NOTE

TWO = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]
THREE_SPLITS = {"train": TWO, "validation": TWO, "test": TWO}

# folder -> load_task's arguments, kind, and what became what
SINGLE = {"text": ("sentence",), "label": ("label",)}
PAIR = {"text": ("sentence1",), "text_pair": ("sentence2",), "label": ("label",)}
CHOICE = {"text": ("context",), "text_pair": ("question", "options"), "label": ("label",)}
REAL = {
    "cola": ({"metric": "matthews_correlation"}, "classification", SINGLE),
    "mrpc": ({"metric": "f1"}, "classification", PAIR),
    "stsb": ({}, "regression", PAIR),
    "rte": ({}, "classification", PAIR),
    "paws": ({}, "classification", PAIR),
    "trec": ({"label": "fine_label"}, "classification", {"text": ("text",), "label": ("fine_label",)}),
    "folio": ({}, "classification", {"text": ("premises",), "text_pair": ("conclusion",), "label": ("label",)}),
    "logiqa": ({}, "classification", CHOICE),
    "logiqa2": ({}, "classification", CHOICE),
    "openbookqa": ({}, "classification", {"text": ("question",), "text_pair": ("options",), "label": ("label",)}),
    "clutrr": ({}, "classification", {"text": ("story",), "text_pair": ("query",), "label": ("target",)}),
    "e2e": ({}, "generation", {"prompt": ("meaning_representation",), "completion": ("human_reference",)}),
    "django": ({}, "generation", {"prompt": ("annotation",), "completion": ("code",)}),
}


def rows_of_readme(data: Path) -> dict[str, tuple[int, ...]]:
    """The rows of train, validation and test by folder, as the README's table says."""
    table = re.findall(r"^\| `(\w+)` \| ([\d,]+) / ([\d,]+) / ([\d,]+) \|", (data / "README.md").read_text(), re.M)
    return {name: tuple(int(size.replace(",", "")) for size in sizes) for name, *sizes in table}


@pytest.mark.parametrize("folder", REAL)
def test_real_data_sets_are_read(data, folder):
    arguments, kind, columns = REAL[folder]
    if not (data / folder).is_dir():
        pytest.skip(f"no {folder} in {data}")
    task = load_task(str(data / folder), **arguments)
    assert (task.kind, task.note) == (kind, LOCAL_NOTE)
    assert task.reading.columns == columns
    assert all(part.column_names == list(columns) for part in task.splits.values())
    assert tuple(len(task.splits[split]) for split in SPLITS) == rows_of_readme(data)[folder]
    if kind == "classification":
        [target] = columns["label"]
        rows = read_jsonl(data / folder / "train.jsonl")
        assert set(task.labels) == {str(row[target]) for row in rows}
        assert [task.labels[i] for i in task.splits["train"]["label"]] == [str(row[target]) for row in rows]
    else:
        assert task.labels == ()


def test_trec_asks_which_label(data):
    with pytest.raises(
        LopsidedError, match=r"coarse_label, fine_label; .*label='coarse_label' \(--label coarse_label\)"
    ):
        load_task(str(data / "trec"))
    task = load_task(str(data / "trec"), label="coarse_label")
    assert list(task.labels) == sorted({row["coarse_label"] for row in read_jsonl(data / "trec" / "train.jsonl")})
    assert task.reading.left_out == {"fine_label": "not the label asked for"}


@pytest.mark.parametrize(
    ("row", "text", "pair"),
    [
        (
            {"premises": ["All A are B.", "C is A."], "conclusion": "C is B."},
            "All A are B. C is A.",
            "C is B.",
        ),
        (
            {"context": "It rains.", "question": "Is it wet?", "options": ["yes", "no"]},
            "It rains.",
            "Is it wet?\nA. yes\nB. no",
        ),
        ({"sentence1": "one", "sentence2": "two"}, "one", "two"),
        ({"premise": "one", "hypothesis": "two"}, "one", "two"),
        ({"text": "one", "text_pair": "two"}, "one", "two"),
        ({"sentence": "one"}, "one", None),
    ],
)
def test_inputs_are_cast(write, row, text, pair):
    rows = [{**row, "label": 0}, {**row, "label": 1}]
    first = load_task(str(write(train=rows, validation=rows, test=rows))).splits["test"][0]
    assert (first["text"], first.get("text_pair")) == (text, pair)


@pytest.mark.parametrize(
    "fields",
    [
        ("prompt", "completion"),
        ("input", "output"),
        ("annotation", "code"),
        ("meaning_representation", "human_reference"),
    ],
)
def test_generation_is_cast(write, fields):
    rows = [dict(zip(fields, ("in", "out")))]
    task = load_task(str(write(train=rows, validation=rows, test=rows)))
    assert (task.kind, task.metric.name) == ("generation", "perplexity")
    assert task.splits["validation"][0] == {"prompt": "in", "completion": "out"}


def test_integers_are_indexed_in_numerical_order(write):
    rows = [{"text": "x", "label": label} for label in (10, 9, 2)]
    task = load_task(str(write(train=rows, validation=rows[:1], test=rows[:2])))
    assert task.labels == ("2", "9", "10")
    assert task.splits["test"]["label"] == [2, 1]


def test_names_that_only_look_like_integers_are_in_order(write):
    rows = [{"text": "x", "label": label} for label in ("1", "01", "--1")]
    assert load_task(str(write(train=rows, validation=rows, test=rows))).labels == ("--1", "01", "1")
    rows = [{"text": "x", "label": label} for label in ("1", "01", "-1")]
    assert load_task(str(write(train=rows, validation=rows, test=rows))).labels == ("-1", "01", "1")


def test_one_float_makes_a_regression(write):
    rows = [{"text": "x", "label": 1}, {"text": "y", "label": 2.5}]
    task = load_task(str(write(train=rows, validation=rows[:1], test=rows)))
    assert (task.kind, task.labels, task.metric.name) == ("regression", (), "pearson")
    assert task.splits["validation"]["label"] == [1.0]
    write(test=[{"text": "x", "label": "high"}])
    with pytest.raises(LopsidedError, match=r"expected numbers as labels of test.*'high'"):
        load_task(str(write()))


def test_any_field_can_be_asked_for_as_label(write):
    rows = [{"story": "s", "query": "q", "target": 1, "target_text": name} for name in ("aunt", "uncle")]
    folder = str(write(train=rows, validation=rows, test=rows))
    assert load_task(folder, label="target_text").labels == ("aunt", "uncle")
    with pytest.raises(LopsidedError, match=r"label field 'targt'.* did you mean 'target'\?"):
        load_task(folder, label="targt")
    with pytest.raises(LopsidedError, match="with label='story'"):
        load_task(folder, label="story")


def test_trailing_blank_lines_are_fine_and_others_are_not(write):
    assert read_jsonl(write(train='{"a": 1}\n\n  \n') / "train.jsonl") == [{"a": 1}]
    with pytest.raises(LopsidedError, match=r"train\.jsonl:2: expected a JSON object, got ''"):
        read_jsonl(write(train='{"a": 1}\n\n{"a": 1}\n') / "train.jsonl")


def test_unusual_line_ends_inside_a_text_do_not_split_it(write):
    text = "one\u2028two\u0085three"
    rows = f'{{"a": "{text}"}}\r\n{{"a": "x"}}\r\n'
    assert read_jsonl(write(train=rows) / "train.jsonl") == [{"a": text}, {"a": "x"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": 1', r"train\.jsonl:2: expected a JSON object, got '\{\"a\": 1'"),
        ('{"a": 1}\n[1, 2]\n', r"train\.jsonl:2: expected a JSON object, got list '\[1, 2\]'"),
        ("3\n", r"train\.jsonl:1: expected a JSON object, got int"),
        ("", r"train\.jsonl: expected at least one JSON object; received an empty file"),
        ("\n\n", r"received an empty file"),
    ],
)
def test_malformed_lines_are_named(write, content, message):
    with pytest.raises(LopsidedError, match=message):
        read_jsonl(write(train=content) / "train.jsonl")


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "train.jsonl").write_bytes('{"a": "cliché"}'.encode("latin-1"))
    with pytest.raises(LopsidedError, match="expected UTF-8; received byte 12"):
        read_jsonl(tmp_path / "train.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, r"test\.jsonl:3: expected field 'label'; received fields text"),
        ({"text": "x", "label": None}, r"test\.jsonl:3: expected field 'label'"),
        ({"label": 1}, r"test\.jsonl:3: expected field 'text'"),
        ({"text": 7, "label": 1}, r"test\.jsonl:3: expected a string in 'text'; received int '7'"),
        ({"text": "x", "label": [1]}, r"test\.jsonl:3: expected a string or a finite number in 'label'"),
        ({"text": "x", "label": float("nan")}, r"test\.jsonl:3: .*received float 'nan'"),
    ],
)
def test_rows_that_do_not_fit_are_named(write, row, message):
    with pytest.raises(LopsidedError, match=message):
        load_task(str(write(train=TWO, validation=TWO, test=[*TWO, row])))


def test_lists_are_lists_of_strings(write):
    rows = [{"premises": "no list", "conclusion": "x", "label": "True"}]
    with pytest.raises(LopsidedError, match=r"train\.jsonl:1: expected a list of strings in 'premises'; received str"):
        load_task(str(write(train=rows, validation=rows, test=rows)))


def test_unknown_fields_show_what_came_and_what_is_known(write):
    rows = [{"headline": "x", "topic": 1}]
    with pytest.raises(LopsidedError, match="received headline, topic; rename") as caught:
        load_task(str(write(train=rows, validation=rows, test=rows)))
    assert all(str(shape) in str(caught.value) for shape in SHAPES)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_class_that_train_lacks_is_named(write, split):
    rows = [{"text": "x", "label": 2}]
    with pytest.raises(LopsidedError, match=rf"labels differ between splits: .* 0, 1; {split} has '2' \(1 rows\)"):
        load_task(str(write(**{**THREE_SPLITS, split: rows})))


def test_a_class_that_only_train_has_is_fine(write):
    assert load_task(str(write(train=TWO, validation=TWO[:1], test=TWO[1:]))).labels == ("0", "1")


def test_labels_of_two_types_or_one_class_are_refused(write):
    write(**THREE_SPLITS)
    write(train=[*TWO, {"text": "x", "label": "one"}])
    with pytest.raises(LopsidedError, match="received text and numbers"):
        load_task(str(write()))
    write(train=TWO[:1], validation=TWO[:1], test=TWO[:1])
    with pytest.raises(LopsidedError, match=r"expected two labels or more .* received 1 \['1'\]"):
        load_task(str(write()))


def test_rename_labels_must_name_labels(write):
    folder = str(write(**THREE_SPLITS))
    with pytest.raises(LopsidedError, match="rename_labels expects labels of the data; received 'x'"):
        load_task(folder, rename_labels={"x": "0"})
    rows = [{"prompt": "a", "completion": "b"}]
    with pytest.raises(LopsidedError, match="rename_labels is for classification"):
        load_task(str(write(train=rows, validation=rows, test=rows)), rename_labels={"x": "0"})


def test_a_metric_of_another_kind_is_refused(write):
    folder = str(write(**THREE_SPLITS))
    with pytest.raises(
        LopsidedError, match=r"metric pearson is for regression: .* is classification; use accuracy or f1"
    ):
        load_task(folder, metric="pearson")
    with pytest.raises(LopsidedError, match="did you mean 'f1_macro'"):
        load_task(folder, metric="f1macro")


def test_missing_files_are_named(write, tmp_path):
    expected = r"expected train\.jsonl, validation\.jsonl, test\.jsonl in .*; missing test\.jsonl; .*--make-split"
    with pytest.raises(LopsidedError, match=expected):
        load_task(str(write(train=TWO, validation=TWO)))
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(LopsidedError, match=r"missing train\.jsonl, test\.jsonl; add it$"):
        load_task(str(tmp_path), make_split=True)


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "../no-such-folder"])
def test_paths_that_are_not_there_are_no_hub_names(name):
    with pytest.raises(LopsidedError, match="which is not there; check the path"):
        load_task(name)


def test_a_file_is_no_folder(write):
    with pytest.raises(LopsidedError, match="which is a file"):
        load_task(str(write(train=TWO) / "train.jsonl"))


def test_make_split_cuts_what_is_missing_and_keeps_texts_apart(write):
    rows = [{"text": f"text {i % 300}", "label": i % 2} for i in range(600)]
    task = load_task(str(write(train=rows, test=TWO)), make_split=True)
    assert task.splits["test"]["text"] == ["good", "bad"]
    train, validation = (set(task.splits[split]["text"]) for split in ("train", "validation"))
    assert train.isdisjoint(validation)
    assert len(train | validation) == 300
    assert 15 <= len(validation) <= 45
    again = load_task(str(write(train=rows[::-1])), make_split=True)
    assert set(again.splits["validation"]["text"]) == validation
