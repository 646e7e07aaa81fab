"""No column is passed over in silence: it is used by the shape, refused by name, or left out and said."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lopsided.errors import LopsidedError
from lopsided.tasks import SPLITS, load_task
from lopsided.tasks.cast import LIST_FIELDS
from lopsided.tasks.column_names import SHAPES
from lopsided.tasks.reading import choose

ALPACA = [
    {"instruction": "Name a colour.", "input": "", "output": "Red"},
    {"instruction": "Add them.", "input": "2 and 3", "output": "5"},
]
TURNS = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red"}]
BASES = {
    "label": [{"text": "good", "label": 1}, {"text": "bad", "label": 0}],
    "completion": ALPACA,
    "messages": [{"messages": TURNS}, {"messages": TURNS}],
    "text": [{"text": "one"}, {"text": "two"}],
}
KINDS = {"label": "classification"}


def every_split(write, rows, **splits) -> str:
    return str(write(**{**dict.fromkeys(SPLITS, rows), **splits}))


def with_column(rows, name, *values) -> list[dict]:
    return [{**row, name: value} for row, value in zip(rows, values)]


def value_of(shape, name: str, row: int):
    if shape.form == "messages":
        return TURNS
    words = f"{name} words {row}"
    return [words, "more"] if name in LIST_FIELDS else words


SHAPE_CASES = [
    pytest.param(shape, tuple(n for n in shape.inputs if n in shape.required or keep), target, id=f"{shape}-{keep}")
    for shape in SHAPES
    for target in (shape.targets or (None,))
    for keep in ([True, False] if shape.optional else [True])
]


@pytest.mark.parametrize(("shape", "inputs", "target"), SHAPE_CASES)
def test_every_shape_of_the_table_reads_all_its_columns(write, shape, inputs, target):
    rows = [{name: value_of(shape, name, i) for name in inputs} for i in range(2)]
    if target:
        rows = [{**row, target: f"{target} words {i}"} for i, row in enumerate(rows)]
    task = load_task(every_split(write, rows))
    used = [name for parts in task.reading.columns.values() for name in parts]
    assert used == [*inputs, *([target] if target else [])]
    assert task.reading.left_out == {}
    assert task.kind == KINDS.get(shape.form, "generation")
    first = json.dumps(task.splits["train"][0])
    assert all("words 0" not in str(rows[0][name]) or f"{name} words 0" in first for name in inputs)
    if task.kind == "classification":
        assert task.labels == (f"{target} words 0", f"{target} words 1")
    elif target:
        assert task.splits["test"]["completion"] == [f"{target} words 0", f"{target} words 1"]


@pytest.mark.parametrize(("shape", "inputs", "target"), SHAPE_CASES)
def test_every_shape_refuses_a_column_of_text_more(write, shape, inputs, target):
    rows = [{name: value_of(shape, name, i) for name in inputs} | {"remark": "a remark"} for i in range(2)]
    if target:
        rows = [{**row, target: f"{target} words {i}"} for i, row in enumerate(rows)]
    with pytest.raises(LopsidedError, match=r"'remark' of train, validation, test.*--ignore-columns remark") as caught:
        load_task(every_split(write, rows))
    assert "\n" not in str(caught.value)
    task = load_task(every_split(write, rows), ignore_columns=["remark"])
    assert task.reading.left_out == {"remark": "as asked"}
    assert "left out: remark (as asked)" in task.described


def test_an_instruction_with_and_without_an_input(write):
    task = load_task(every_split(write, ALPACA))
    assert list(task.splits["train"]) == [
        {"prompt": "Name a colour.", "completion": "Red"},
        {"prompt": "Add them.\n2 and 3", "completion": "5"},
    ]
    assert task.described == "generation: prompt = instruction + input, completion = output"


@pytest.mark.parametrize("empty", ["", " \n", None, "missing"])
def test_an_empty_input_leaves_no_empty_line(write, empty):
    rows = [{k: v for k, v in {**ALPACA[0], "input": empty}.items() if v != "missing"}, ALPACA[1]]
    # The first row must not decide for the others.
    task = load_task(every_split(write, rows))
    assert task.splits["test"]["prompt"] == ["Name a colour.", "Add them.\n2 and 3"]


@pytest.mark.parametrize("row", [{"instruction": "", "input": "", "output": "x"}, {"prompt": " ", "completion": "x"}])
def test_an_empty_prompt_is_refused_by_row(write, row):
    whole = ALPACA[1] if "input" in row else {"prompt": "p", "completion": "x"}
    with pytest.raises(LopsidedError, match=r"test\.jsonl:2: expected text in .*, which the prompt is made of"):
        load_task(every_split(write, [whole], test=[whole, row]))


@pytest.mark.parametrize("form", BASES)
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("notes", ("a", "b")),
        ("notes", (None, "b")),
        ("notes", (1, "b")),
        ("tags", (["a"], ["b", "c"])),
        ("scores", ([1, 2], [3])),
        ("meta", ({"by": "x"}, {})),
        ("id", ("a row of words", "b")),
        ("id", ("same", "same")),
        ("subject_id", ("anna", "anna")),
        ("id", ("x" * 65, "y")),
        ("labels", (0, 1)),
        ("star_label", (3, 4)),
        ("target", (0.5, 1.5)),
    ],
)
def test_what_must_not_be_passed_over(write, form, name, values):
    rows = with_column(BASES[form], name, *values)
    if form == "text" and name == "target":
        pytest.skip("a task of its own: no label is needed to learn a number")
    with pytest.raises(LopsidedError, match=rf"received '{name}' of train.*ignore_columns=\['{name}'\]") as caught:
        load_task(every_split(write, rows))
    assert "\n" not in str(caught.value)
    assert load_task(every_split(write, rows), ignore_columns=[name]).reading.left_out == {name: "as asked"}


@pytest.mark.parametrize("form", BASES)
@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("idx", (0, 1), "a name per row"),
        ("id", ("a-1", "a-2"), "a name per row"),
        ("guid", ("9f2c", "77ab"), "a name per row"),
        ("prompt_id", ("p1", "p2"), "a name per row"),
        ("system_note", ("", " "), "empty"),
        ("other", (None, None), "empty"),
        ("tags", ([], []), "empty"),
    ],
)
def test_what_is_left_out_and_said(write, form, name, values, why):
    task = load_task(every_split(write, with_column(BASES[form], name, *values)))
    assert task.reading.left_out == {name: why}
    assert f"left out: {name} ({why})" in task.described
    assert name not in task.splits["train"].column_names


@pytest.mark.parametrize("values", [(3, 4), (0.5, 2), (True, False), (None, 7)])
def test_numbers_are_left_out_and_said_but_not_beside_text_alone(write, values):
    for form in ("label", "completion", "messages"):
        task = load_task(every_split(write, with_column(BASES[form], "length", *values)))
        assert task.reading.left_out == {"length": "numbers"}
    # It may be what the user wants to learn.
    rows = with_column(BASES["text"], "stars", *values)
    with pytest.raises(LopsidedError, match=r"received 'stars' of train.*learn one with label='stars' \(--label stars"):
        load_task(every_split(write, rows))
    assert load_task(every_split(write, rows), ignore_columns=["stars"]).kind == "generation"


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"text": "t", "label_text": "good", "label": 1}, "label_text"),
        ({"instruction": "i", "input": "n", "output": "o", "text": "all of it"}, "text"),
        ({"instruction": "i", "context": "c", "response": "r", "category": "qa"}, "category"),
        ({"input": "i", "output": "o", "explanation": "e"}, "explanation"),
        ({"prompt": "p", "completion": "c", "label": True}, "label"),
        ({"prompt": "p", "messages": TURNS}, "prompt"),
        ({"text": "t", "text_pair": "u", "label": 1, "title": "v"}, "title"),
        ({"premise": "p", "hypothesis": "h", "label": 1, "reason": "r"}, "reason"),
        ({"question": "q", "choices": ["a", "b"], "answer": 1, "subject": "s"}, "subject"),
        ({"id": "1", "title": "t", "context": "c", "question": "q", "answer": "a"}, "title"),
        ({"query": "q", "response": "r", "history": ["a", "b"]}, "history"),
    ],
)
def test_columns_of_data_sets_in_the_wild(write, columns, named):
    rows = [columns, {**columns, **({"label": 0} if columns.get("label") == 1 else {})}]
    rows[1] |= {"answer": 0} if columns.get("answer") == 1 else {}
    rows[1] |= {"id": "2"} if "id" in columns else {}
    with pytest.raises(LopsidedError, match=rf"received '{named}' of train"):
        load_task(every_split(write, rows))
    task = load_task(every_split(write, rows), ignore_columns=[named])
    used = {name for parts in task.reading.columns.values() for name in parts}
    assert used == set(columns) - {named, "id"}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_splits_that_differ_in_their_columns_are_named(write, split):
    folder = every_split(write, ALPACA, **{split: [{"instruction": "i", "output": "o"}]})
    with pytest.raises(LopsidedError, match=rf"received {split} without 'input', which train has"):
        load_task(folder)
    folder = every_split(write, [{"instruction": "i", "output": "o"}], **{split: ALPACA})
    with pytest.raises(LopsidedError, match=rf"received 'input' of {split}, which the shape"):
        load_task(folder)
    folder = every_split(write, BASES["text"], **{split: BASES["label"]})
    with pytest.raises(LopsidedError, match=rf"received 'label' of {split}, which the shape"):
        load_task(folder)
    folder = every_split(write, BASES["label"], **{split: with_column(BASES["label"], "why", "a", "b")})
    with pytest.raises(LopsidedError, match=rf"received 'why' of {split}, which the shape"):
        load_task(folder)
    assert load_task(folder, ignore_columns=["why"]).reading.left_out == {"why": "as asked"}
    folder = every_split(write, BASES["label"], **{split: [{"sentence": "x", "label": 1}]})
    with pytest.raises(LopsidedError, match=rf"{split}"):
        load_task(folder)


def test_what_is_ignored_is_not_read(write):
    folder = every_split(write, ALPACA)
    task = load_task(folder, ignore_columns=["input"])
    assert task.splits["train"]["prompt"] == ["Name a colour.", "Add them."]
    assert task.described == "generation: prompt = instruction, completion = output; left out: input (as asked)"
    with pytest.raises(LopsidedError, match=r"expected the fields of one of these shapes.*received instruction, input"):
        load_task(folder, ignore_columns=["output"])
    with pytest.raises(LopsidedError, match=r"received 'inptu'; did you mean 'input'\?"):
        load_task(folder, ignore_columns=["inptu"])
    folder = every_split(write, BASES["label"])
    with pytest.raises(LopsidedError, match="received 'label' as label and in ignore_columns"):
        load_task(folder, label="label", ignore_columns=["label"])
    assert load_task(folder, ignore_columns=["label"]).kind == "generation"
    with pytest.raises(LopsidedError, match="received label, make_split, rename_labels or ignore_columns"):
        load_task("vader/movie", ignore_columns=["text"])


def test_a_label_by_name_leaves_the_other_labels_out(write):
    rows = [{"text": "x", "coarse_label": "A", "fine_label": f"A:{i}", "label": i} for i in range(2)]
    task = load_task(every_split(write, rows), label="fine_label")
    why = "not the label asked for"
    assert task.reading.left_out == {"coarse_label": why, "label": why}
    rows = [{"text": "x", "rating": i, "remark": "y"} for i in range(2)]
    with pytest.raises(LopsidedError, match="received 'remark' of train"):
        load_task(every_split(write, rows), label="rating")
    assert load_task(every_split(write, rows), label="rating", ignore_columns=["remark"]).labels == ("0", "1")


def test_known_remarks_of_a_shape_are_left_out_and_said(write):
    rows = [{"story": "s", "query": "q", "target": i, "target_text": "aunt", "task_name": "t"} for i in range(2)]
    left = load_task(every_split(write, rows)).reading.left_out
    assert set(left) == {"target_text", "task_name"}


def test_text_alone_leaves_empty_rows_out_and_says_so(write):
    rows = [{"text": "one"}, {"text": ""}, {"text": " \n"}, {"text": "two"}]
    task = load_task(every_split(write, rows, test=rows[:1]))
    assert (task.kind, task.metric.name) == ("generation", "perplexity")
    assert list(task.splits["train"]) == [{"text": "one"}, {"text": "two"}]
    assert task.note.endswith("; 2 empty rows of train left out; 2 empty rows of validation left out")
    assert task.described == "generation: text = text"


@pytest.mark.parametrize("form", ["completion", "messages", "text"])
def test_missing_splits_are_cut_from_every_form(write, form):
    rows = {
        "completion": [{"instruction": "i", "input": f"{i % 200}", "output": "o"} for i in range(400)],
        "messages": [{"messages": [{"role": "user", "content": f"{i % 200}"}, TURNS[1]]} for i in range(400)],
        "text": [{"text": f"text {i % 200}"} for i in range(400)],
    }[form]
    task = load_task(str(write(train=rows)), make_split=True)
    parts = {split: {json.dumps(row) for row in part} for split, part in task.splits.items()}
    assert sum(len(part) for part in parts.values()) == 200
    assert all(10 <= len(parts[split]) <= 40 for split in ("validation", "test"))


def test_a_data_set_of_the_hub_is_read_alike(monkeypatch):
    part = Dataset.from_list(with_column(ALPACA, "text", "whole", "prompt"))
    found = DatasetDict(dict.fromkeys(SPLITS, part))
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: found)
    with pytest.raises(LopsidedError, match=r"org/alpaca: .*received 'text' of train, validation, test"):
        load_task("org/alpaca")
    task = load_task("org/alpaca", ignore_columns=["text"])
    assert task.splits["test"]["prompt"] == ["Name a colour.", "Add them.\n2 and 3"]
    part = Dataset.from_list([{"messages": TURNS, "id": f"m{i}"} for i in range(2)])
    found = DatasetDict(dict.fromkeys(SPLITS, part))
    assert load_task("org/chat").reading.left_out == {"id": "a name per row"}
    part = Dataset.from_list(BASES["text"])
    found = DatasetDict(dict.fromkeys(SPLITS, part))
    assert load_task("org/text").splits["test"]["text"] == ["one", "two"]


NAMES = sorted({name for shape in SHAPES for name in (*shape.inputs, *shape.targets)} | {"remark", "id", "score"})
VALUES = st.sampled_from(["some words", "", None, 3, 0.5, ["a", "b"], True])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=6), min_size=1, max_size=3))
def test_whatever_the_columns_text_is_used_or_refused(rows):
    splits = {"train": rows, "test": rows[::-1]}
    try:
        choice = choose(splits, source="here")
    except LopsidedError:
        return
    used = {name for parts in choice.reading.columns.values() for name in parts}
    for row in rows:
        for name, value in row.items():
            assert name in used or name in choice.reading.left_out
            if value == "some words" and name not in choice.shape.leaves:
                assert name in used


def test_the_page_on_data_lists_every_shape():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [shape for shape in map(str, SHAPES) if f"`{shape}`" not in page] == []
