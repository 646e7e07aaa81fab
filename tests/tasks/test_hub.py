from __future__ import annotations

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from lopsided.errors import LopsidedError
from lopsided.tasks import load_task

NAMES = ["unacceptable", "acceptable"]


def glue(labels: dict[str, list[int]]) -> DatasetDict:
    """A data set with the features of GLUE's CoLA."""
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=NAMES), "idx": Value("int32")})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "sentence": [f"{split} {i}" for i in range(len(values))],
                    "label": values,
                    "idx": list(range(len(values))),
                },
                features=features,
            )
            for split, values in labels.items()
        }
    )


@pytest.fixture
def hub(monkeypatch):
    """Puts a data set behind `load_dataset`; returns the arguments of the calls."""
    calls = []

    def put(answer):
        def load_dataset(*arguments):
            calls.append(arguments)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return put


LABELLED = {"train": [0, 1] * 100, "validation": [1], "test": [0, 1]}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("glue/cola", ("glue", "cola")),
        ("imdb", ("imdb",)),
        ("org/name", ("org/name",)),
        ("org/name/config", ("org/name", "config")),
    ],
)
def test_names_become_arguments(hub, name, arguments):
    calls = hub(glue(LABELLED))
    assert load_task(name).name == name
    assert calls == [arguments]


def test_declared_classes_give_names_order_and_the_benchmark_its_metric(hub):
    hub(glue(LABELLED))
    task = load_task("glue/cola")
    assert (task.kind, task.labels) == ("classification", ("unacceptable", "acceptable"))
    assert (task.metric.name, task.note) == ("matthews_correlation", "")
    assert task.splits["test"].column_names == ["text", "label"]
    assert task.splits["test"]["label"] == [0, 1]
    assert load_task("glue/cola", metric="accuracy").metric.name == "accuracy"
    assert load_task("org/name").metric.name == "accuracy"


def test_a_declared_class_without_rows_keeps_its_place(hub):
    hub(glue({"train": [1, 1], "validation": [1], "test": [0]}))
    assert load_task("org/name").splits["test"]["label"] == [0]


def test_declared_classes_can_be_renamed(hub):
    hub(glue(LABELLED))
    task = load_task("org/name", rename_labels={"unacceptable": "bad"})
    assert (task.labels, task.splits["test"]["label"]) == (("bad", "acceptable"), [0, 1])


@pytest.mark.parametrize("test", [{"test": [-1, -1]}, {}])
def test_an_unlabelled_test_is_refused_or_cut(hub, test):
    hub(glue({"train": [0, 1] * 100, "validation": [1], **test}))
    with pytest.raises(LopsidedError, match=r"test (has no labels|is missing).*--make-split"):
        load_task("glue/cola")
    task = load_task("glue/cola", make_split=True)
    assert len(task.splits["train"]) + len(task.splits["test"]) == 200
    assert len(task.splits["test"]) > 5
    assert task.note == "test cut from train: not comparable with published figures"


def test_an_unlabelled_train_cannot_be_mended(hub):
    hub(glue({"train": [-1], "validation": [1], "test": [0]}))
    with pytest.raises(LopsidedError, match=r"train has no labels.*use another data set"):
        load_task("org/name", make_split=True)
    hub(glue({"all": [1]}))
    with pytest.raises(LopsidedError, match="expected a split named train; received all"):
        load_task("org/name")


def test_single_unlabelled_rows_are_left_out_and_noted(hub):
    hub(glue({"train": [0, 1, -1], "validation": [1], "test": [0]}))
    task = load_task("org/name")
    assert len(task.splits["train"]) == 2
    assert task.note == "1 unlabelled rows of train left out"


def test_mnli_like_split_names_are_known(hub):
    hub(glue({"train": [0, 1], "validation_matched": [1], "test_matched": [0]}))
    assert len(load_task("glue/mnli").splits["validation"]) == 1


def test_undeclared_columns_are_read_as_local_ones_are(hub):
    part = Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0.5, 4.0]})
    hub(DatasetDict(dict.fromkeys(("train", "validation", "test"), part)))
    task = load_task("glue/stsb")
    assert (task.kind, task.metric.name, task.splits["train"][1]["text_pair"]) == (
        "regression",
        "pearson",
        "d",
    )
    part = Dataset.from_dict({"text": ["a", "b"], "coarse_label": ["x", "y"], "fine_label": ["x1", "y1"]})
    hub(DatasetDict(dict.fromkeys(("train", "validation", "test"), part)))
    with pytest.raises(LopsidedError, match="coarse_label, fine_label"):
        load_task("org/trec")
    assert load_task("org/trec", label="fine_label").labels == ("x1", "y1")


def test_null_texts_are_named(hub):
    part = Dataset.from_dict({"text": ["a", None], "label": [0, 1]})
    hub(DatasetDict(dict.fromkeys(("train", "validation", "test"), part)))
    with pytest.raises(LopsidedError, match="org/name train row 1: expected field 'text'"):
        load_task("org/name")


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'org/nme' doesn't exist on the Hub\nmore"),
        ConnectionError("Couldn't reach the Hub"),
        ValueError("BuilderConfig 'x' not found"),
        RuntimeError("Dataset scripts are no longer supported"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, error):
    hub(error)
    with pytest.raises(LopsidedError, match="task 'org/nme': expected vader/DOMAIN") as caught:
        load_task("org/nme")
    assert str(error).splitlines()[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b/c/d", "a//b", "a/"])
def test_names_of_another_form_are_refused(name):
    with pytest.raises(LopsidedError, match="'name', 'org/name' or 'org/name/config'"):
        load_task(name)
