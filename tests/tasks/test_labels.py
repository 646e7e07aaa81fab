"""Labels: each is the class or the score that it is, or refused in one line that names split, row and value."""

from __future__ import annotations

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from lopsided.errors import LopsidedError
from lopsided.tasks import SPLITS, load_task

NAN = float("nan")


def rows(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def folder(write, train, **others) -> str:
    parts = {split: rows(*others.get(split, train)) for split in SPLITS}
    return str(write(**{**parts, "train": rows(*train)}))


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        ((0, 1, 1), ("0", "1"), [0, 1, 1]),
        ((5, 0, 2), ("0", "2", "5"), [2, 0, 1]),
        ((10, 9, -3), ("-3", "9", "10"), [2, 1, 0]),
        ((True, False), ("False", "True"), [1, 0]),
        (("yes", "no", "maybe"), ("maybe", "no", "yes"), [2, 1, 0]),
        (("1", "0"), ("0", "1"), [1, 0]),
        (("Nanking", "none", "n/a"), ("Nanking", "n/a", "none"), [0, 2, 1]),
        ((10**20, 0), ("0", str(10**20)), [1, 0]),
    ],
)
def test_classes(write, labels, classes, indices):
    task = load_task(folder(write, labels))
    assert (task.kind, task.labels) == ("classification", classes)
    assert all(part["label"] == indices for part in task.splits.values())
    assert task.described.startswith(f"classification into {len(classes)} classes ({', '.join(classes)}): text = text")


@pytest.mark.parametrize(
    ("train", "test"), [((0, 1), (1.0, 0.0)), (("0", "1"), (1, 0)), ((True, False), ("False", "True"))]
)
def test_a_class_is_known_in_other_spellings(write, train, test):
    task = load_task(folder(write, train, test=test))
    assert task.splits["test"]["label"] == [1, 0] if train != (True, False) else [0, 1]


@pytest.mark.parametrize(
    "labels", [(0.5, 1.0, 3), (0.0, 2.25), (-1.5, -1.0, 2), (1, 2.5), (1e-3, 1e6), (-0.5, -1.0, -1)]
)
def test_scores(write, labels):
    task = load_task(folder(write, labels))
    assert (task.kind, task.labels) == ("regression", ())
    assert all(part["label"] == [float(label) for label in labels] for part in task.splits.values())


@pytest.mark.parametrize("labels", [(0.0, 1.0, 2.0), (1.0, 5.0), (0, 1.0, 2), (0.0, 1e6)])
def test_whole_floats_are_asked_about(write, labels):
    place = labels.index(next(label for label in labels if isinstance(label, float))) + 1
    with pytest.raises(
        LopsidedError, match=rf"train\.jsonl:{place}: .*--metric accuracy if .*--metric pearson if"
    ) as caught:
        load_task(folder(write, labels))
    assert "\n" not in str(caught.value)
    task = load_task(folder(write, labels), metric="accuracy")
    assert (task.kind, task.labels) == ("classification", tuple(str(int(label)) for label in labels))
    assert task.splits["test"]["label"] == list(range(len(labels)))
    task = load_task(folder(write, labels), metric="spearman")
    assert (task.kind, task.splits["test"]["label"]) == ("regression", [float(label) for label in labels])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ((0, 1), -1, r"expected a class; received -1, which stands for no label \(1 of 3 rows of {split}\)"),
        ((0, 1), None, r"expected field 'label'; received fields text and null as 'label'"),
        ((0, 1), NAN, r"received float 'nan'"),
        ((0, 1), float("inf"), r"received float 'inf'"),
        (("a", "b"), "", r"received '', which stands for none \(1 of 3 rows of {split}\)"),
        (("a", "b"), " ", r"received ' ', which stands for none"),
        (("a", "b"), "nan", r"received 'nan', which stands for none"),
        (("a", "b"), "NULL", r"received 'NULL', which stands for none"),
        (("a", "b"), "A", r"received 'A', and 'a' at .*train\.jsonl:1; write them alike"),
        (("a", "b"), "b ", r"received 'b ', and 'b' at .*train\.jsonl:2"),
        ((0.5, 1.5), None, r"expected field 'label'"),
        ((0.5, 1.5), NAN, r"received float 'nan'"),
        ((0.5, 1.5), -1, r"received -1 where no other score is below 0.*\(1 of 3 rows of {split}\)"),
        ((0.5, 1.5), -1.0, r"received -1 where no other score is below 0"),
        ((0, 1), [1], r"received list"),
    ],
)
def test_rows_without_a_label_are_named(write, split, good, bad, message):
    # The first place of the pair of spellings is in train, whichever split has the other.
    labels = {**dict.fromkeys(SPLITS, good), split: (*good, bad)}
    with pytest.raises(LopsidedError, match=rf"{split}\.jsonl:3: .*{message.format(split=split)}") as caught:
        load_task(folder(write, labels.pop("train"), **labels))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "unlabelled"),
    [((0, 1), -1), ((0.5, 1.5), -1.0), ((-0.5, 1.5), -1.0), ((0, 1), None), (("a", "b"), None)],
)
def test_an_unlabelled_split_says_how_to_cut_one(write, train, unlabelled):
    with pytest.raises(LopsidedError, match=r"test\.jsonl:1: .*out and pass --make-split"):
        load_task(folder(write, train, test=(unlabelled, unlabelled)))


def test_a_column_of_nothing_is_no_language_modelling(write):
    with pytest.raises(LopsidedError, match=r"train\.jsonl:1: expected field 'label'.*2 rows of train; add it$"):
        load_task(folder(write, (None, None)))


def test_minus_one_is_a_class_where_it_is_named(write):
    path = folder(write, (-1, 1, -1))
    with pytest.raises(LopsidedError, match=r"2 of 3 rows of train.*--rename-labels -1=NAME"):
        load_task(path)
    task = load_task(path, rename_labels={"-1": "negative", "1": "positive"})
    assert (task.labels, task.splits["test"]["label"]) == (("negative", "positive"), [0, 1, 0])
    assert load_task(path, rename_labels={"-1": "-1"}).labels == ("-1", "1")


@pytest.mark.parametrize(("labels", "named"), [(("a", "nan"), "nan"), (("US", "us"), "us"), (("a", "null"), "null")])
def test_other_classes_that_look_wrong_are_classes_where_they_are_named(write, labels, named):
    with pytest.raises(LopsidedError, match="rename_labels="):
        load_task(folder(write, labels))
    assert load_task(folder(write, labels), rename_labels={named: named}).labels == labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((0, 1, "one"), r"received text and numbers \(.*train\.jsonl:3 has 'one', .*train\.jsonl:1 has 0\)"),
        ((True, 0, 1), r"received booleans and numbers \(.*:1 has True, .*:2 has 0\)"),
        ((True, "yes"), "received text and booleans"),
        (("3.75", "2.5"), r"train\.jsonl:1: expected numbers as numbers; received the text '3\.75'"),
        (("3", "2.5"), r"train\.jsonl:2: expected numbers as numbers"),
    ],
)
def test_mixed_and_misspelt_types_are_refused(write, labels, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        load_task(folder(write, labels))
    assert "\n" not in str(caught.value)


def test_numbers_as_text_are_classes_where_the_metric_says_so(write):
    assert load_task(folder(write, ("0.5", "1.0")), metric="accuracy").labels == ("0.5", "1.0")


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(("train", "other"), [((0, 1), 2), ((0, 1), 0.5), (("a", "b"), "c"), ((0, 1), True)])
def test_a_class_that_train_lacks_is_named_with_its_row(write, split, train, other):
    with pytest.raises(
        LopsidedError, match=rf"{split} has '{other}' \(1 rows\), which train lacks, first at .*{split}\.jsonl:2"
    ):
        load_task(folder(write, train, **{split: (train[0], other)}))


def test_scores_and_words_are_not_mixed_between_splits(write):
    for word in ("high", True):
        with pytest.raises(LopsidedError, match=rf"as labels of test.*'{word}' at .*test\.jsonl:2"):
            load_task(folder(write, (0.5, 1.5), test=(1.0, word)))


def hub(monkeypatch, feature, **splits):
    features = Features({"sentence": Value("string"), "label": feature})
    parts = {
        split: Dataset.from_dict({"sentence": [f"s{i}" for i in range(len(v))], "label": list(v)}, features=features)
        for split, v in splits.items()
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments: DatasetDict(parts))


def test_undeclared_labels_of_the_hub_are_checked_as_local_ones(monkeypatch):
    hub(monkeypatch, Value("int64"), train=(0, 1, -1), validation=(0, 1), test=(0, 1))
    with pytest.raises(LopsidedError, match=r"org/name train row 2: expected a class; received -1"):
        load_task("org/name")
    hub(monkeypatch, Value("int64"), train=(0, 1, None), validation=(0, 1), test=(0, 1))
    with pytest.raises(LopsidedError, match=r"org/name train row 2: expected field 'label'"):
        load_task("org/name")
    hub(monkeypatch, Value("float64"), train=(0.0, 1.0), validation=(0.0,), test=(1.0,))
    with pytest.raises(LopsidedError, match=r"org/name train row 0: .*--metric accuracy"):
        load_task("org/name")
    # A benchmark's own figure says what its labels are.
    assert load_task("glue/stsb").kind == "regression"
    hub(monkeypatch, Value("bool"), train=(True, False), validation=(True,), test=(False,))
    assert load_task("org/name").labels == ("False", "True")


def test_declared_classes_of_the_hub(monkeypatch):
    feature = ClassLabel(names=["null", "nan", "Null"])
    hub(monkeypatch, feature, train=(0, -1, 2), validation=(1,), test=(2, None))
    task = load_task("org/name")
    assert (task.labels, task.splits["train"]["label"]) == (("null", "nan", "Null"), [0, 2])
    assert task.note == "1 unlabelled rows of train left out; 1 unlabelled rows of test left out"
