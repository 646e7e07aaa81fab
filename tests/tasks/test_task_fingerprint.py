from __future__ import annotations

import dataclasses
import io
import time

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture

from lopsided.tasks import Task, fingerprint, get_metric, load_task
from tests.tasks.rows import generation, text

ROWS = [{"text": f"{word} {number}", "label": word} for number in range(40) for word in ("good", "bad")]
SPLITS = {"train": ROWS, "validation": ROWS[:4], "test": ROWS[4:8]}


def png(colour: int) -> bytes:
    stream = io.BytesIO()
    Picture.new("RGB", (4, 4), (colour, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def images(*stored: dict) -> Dataset:
    features = Features({"image": Image(), "label": Value("int64")})
    return Dataset.from_dict({"image": list(stored), "label": [0] * len(stored)}, features=features)


def test_it_is_golden_wherever_the_rows_lie(write, tmp_path):
    # If this moves, a study's finished cells are run again.
    first = fingerprint(load_task(str(write(**SPLITS))))
    assert first == "0ef54af843fb7bab8251e2159ddb4f9d1058141c9b450da3638dacd5f3df10ff"
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    assert fingerprint(load_task(str(moved))) == first


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_row_of_any_split_decides(write, split):
    first = fingerprint(load_task(str(write(**SPLITS))))
    changed = [*SPLITS[split][:-1], {"text": "good enough", "label": "bad"}]
    assert fingerprint(load_task(str(write(**SPLITS | {split: changed})))) != first


def test_what_else_decides_and_what_does_not(write):
    folder = str(write(**SPLITS))
    task = load_task(folder)
    first = fingerprint(task)
    assert fingerprint(dataclasses.replace(task, name="another", note="another", reading=None)) == first
    others = [
        load_task(folder, metric="f1"),
        load_task(folder, train_size=20),
        load_task(folder, rename_labels={"bad": "poor"}),
        dataclasses.replace(task, out_of_domain={"elsewhere": task.splits["test"]}),
        dataclasses.replace(task, splits={**task.splits, "validation": task.splits["test"]}),
    ]
    assert len({first, *map(fingerprint, others)}) == len(others) + 1


def test_the_border_between_columns_and_rows_counts():
    assert fingerprint(generation(("ab", "c"))) != fingerprint(generation(("a", "bc")))
    assert fingerprint(generation(("ab", "c"), ("d", "e"))) != fingerprint(generation(("ab", "c d"), ("", "e")))
    assert fingerprint(text("regression", [0.0], text=["1"])) != fingerprint(text("regression", [1.0], text=["0"]))


def test_images_count_by_their_bytes_wherever_they_are_stored(tmp_path):
    def task(part: Dataset) -> str:
        # An image task's columns are decided elsewhere; the fingerprint reads any.
        whole = text("classification", [0, 1], text=["a", "b"])
        object.__setattr__(whole, "splits", dict.fromkeys(("train", "validation", "test"), part))
        return fingerprint(whole)

    (tmp_path / "one.png").write_bytes(png(1))
    stored = task(images({"bytes": png(1), "path": None}))
    assert task(images({"bytes": None, "path": str(tmp_path / "one.png")})) == stored
    assert task(images({"bytes": png(2), "path": None})) != stored


def test_a_large_task_takes_a_second():
    part = Dataset.from_dict({"prompt": ["word " * 100] * 20_000, "completion": ["word " * 20] * 20_000})
    task = Task(
        name="large",
        kind="generation",
        splits=dict.fromkeys(("train", "validation", "test"), part.select(range(10))) | {"train": part},
        labels=(),
        metric=get_metric("perplexity"),
    )
    start = time.process_time()
    fingerprint(task)
    assert time.process_time() - start < 2.0
