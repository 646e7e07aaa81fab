"""Folders with a file of rows per owner: what is read, what each row says of its file, and what is refused."""

from __future__ import annotations

import re

import pyarrow
import pyarrow.parquet
import pytest

from lopsided.errors import LopsidedError
from lopsided.tasks import load_task
from tests.tasks.conftest import Row

TWO = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]


def many(word: str, count: int = 60) -> list[Row]:
    return [{"text": f"{word} {n}", "label": n % 2} for n in range(count)]


def test_all_files_are_train_and_each_row_names_its_own(write):
    folder = write(clinic_b=many("b", 4), clinic_a=many("a", 6), validation=TWO, test=TWO)
    task = load_task(str(folder), pool_files=True)
    train = task.splits["train"]
    assert train["file"][:] == ["clinic_a"] * 6 + ["clinic_b"] * 4
    assert train["text"][:] == [f"a {n}" for n in range(6)] + [f"b {n}" for n in range(4)]
    assert all(task.splits[split].column_names == ["text", "label"] for split in ("validation", "test"))
    assert task.labels == ("0", "1")


def test_what_is_cut_keeps_its_file(write):
    task = load_task(str(write(clinic_a=many("a"), clinic_b=many("b"))), pool_files=True, make_split=True)
    for rows in task.splits.values():
        assert [text[0] for text in rows["text"]] == [name[-1] for name in rows["file"]]
    assert sum(len(rows) for rows in task.splits.values()) == 120


def test_fewer_rows_keep_their_file(write):
    folder = write(clinic_a=many("a"), clinic_b=many("b"), validation=TWO, test=TWO)
    train = load_task(str(folder), pool_files=True, train_size=50).splits["train"]
    assert len(train) == 50
    assert [text[0] for text in train["text"]] == [name[-1] for name in train["file"]]


def test_parquet_is_read_as_json_lines_are(write, tmp_path):
    folder = write(clinic_a=many("a", 6), validation=TWO, test=TWO)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(many("b", 4)), tmp_path / "clinic_b.parquet")
    train = load_task(str(folder), pool_files=True).splits["train"]
    assert list(zip(train["text"], train["label"], train["file"]))[5:7] == [
        ("a 5", 1, "clinic_a"),
        ("b 0", 0, "clinic_b"),
    ]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"text": "a long text"}, "generation"),
        ({"prompt": "in", "completion": "out"}, "generation"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "generation"),
        ({"text": "half", "label": 0.5}, "regression"),
    ],
)
def test_other_kinds_name_their_files_too(write, row, kind):
    rows = [row, row] if "text" not in row or "label" in row else [row, {"text": " "}, row]
    task = load_task(str(write(clinic_a=rows, clinic_b=[row], validation=[row], test=[row])), pool_files=True)
    assert task.kind == kind
    # A text without words is no row.
    assert task.splits["train"]["file"][:] == ["clinic_a", "clinic_a", "clinic_b"]


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, "expected a folder with a file of rows per client, .*received no such file"),
        ({"validation": TWO, "test": TWO}, "received no such file"),
        ({"train": TWO, "validation": TWO, "test": TWO}, "received train.jsonl, which names no client"),
        ({"clinic_a": TWO, "train": TWO}, "received train.jsonl, which names no client"),
        ({"clinic_a": TWO, "test": TWO}, "missing validation.jsonl; add it, or pass --make-split"),
        ({"clinic_a": "", "validation": TWO, "test": TWO}, "clinic_a.jsonl: expected at least one JSON object"),
        (
            {"clinic_a": TWO, "clinic_b": [{"text": "x"}], "validation": TWO, "test": TWO},
            r"clinic_b.jsonl:1: expected field 'label'",
        ),
        (
            {"clinic_a": TWO, "clinic_b": [*TWO, {"text": 3, "label": 0}], "validation": TWO, "test": TWO},
            r"clinic_b.jsonl:3: expected a string in 'text'",
        ),
    ],
)
def test_folders_that_cannot_be_read_by_files(write, tmp_path, files, match):
    write(**files)
    with pytest.raises(LopsidedError, match=match):
        load_task(str(tmp_path), pool_files=True)


def test_names_that_are_no_folder(tmp_path):
    with pytest.raises(LopsidedError, match="received task 'vader/all' to be read by files; expected a folder"):
        load_task("vader/all", pool_files=True)
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(LopsidedError, match="which is a file; check the path"):
        load_task(str(tmp_path / "a.jsonl"), pool_files=True)


def test_parquet_files_that_are_no_rows_of_text(write, tmp_path):
    folder = write(clinic_a=TWO, validation=TWO, test=TWO)
    path = tmp_path / "clinic_b.parquet"
    path.write_bytes(b"no Parquet at all")
    with pytest.raises(LopsidedError, match=rf"{re.escape(str(path))}: expected a Parquet file"):
        load_task(str(folder), pool_files=True)
    images = [{"image": {"bytes": b"", "path": None}, "label": 0}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(images), path)
    with pytest.raises(LopsidedError, match="received images in column 'image'"):
        load_task(str(folder), pool_files=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TWO), tmp_path / "clinic_a.parquet")
    path.unlink()
    with pytest.raises(LopsidedError, match=r"received clinic_a\.jsonl, clinic_a\.parquet; take one out"):
        load_task(str(folder), pool_files=True)
