"""What experiments on the embedded model share: their rows, their factors and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

import lopsided
from lopsided import METHODS, Gaussian, LopsidedError, Method
from lopsided.lab.short_runs import ShortRun, crossed, few_rows, registered, trained_factors
from lopsided.runs import Data
from lopsided.tasks import EncodedTask, Task, get_metric
from lopsided.tuner import layers_of
from tests import tiny


def some_data() -> Data:
    splits = {name: [(f"{name} {i}", i % 2) for i in range(count)] for name, count in (("train", 30), ("test", 9))}
    splits["validation"] = [("one", 0), ("two", 1)]
    rows = {
        name: Dataset.from_dict({"text": [text for text, _ in part], "label": [label for _, label in part]})
        for name, part in splits.items()
    }
    ids = {
        name: Dataset.from_dict({"input_ids": [[ord(c) for c in text] for text, _ in part]})
        for name, part in splits.items()
    }
    task = Task(
        name="some",
        kind="classification",
        splits=rows,
        labels=("no", "yes"),
        metric=get_metric("accuracy"),
        out_of_domain={"elsewhere": rows["test"]},
    )
    encoded = EncodedTask(splits=ids, out_of_domain={"elsewhere": ids["test"]})
    return Data(task=task, encoded=encoded, processor=None, seq2seq=False)


def test_fewer_rows_are_the_same_rows_of_both_forms():
    whole = some_data()
    cut = few_rows(whole, {"train": 7, "test": 100})
    assert {name: len(rows) for name, rows in cut.task.splits.items()} == {"train": 7, "test": 9, "validation": 2}
    assert not cut.task.out_of_domain
    assert not cut.encoded.out_of_domain
    for name, rows in cut.task.splits.items():
        spelled = ["".join(map(chr, ids)) for ids in cut.encoded.splits[name]["input_ids"]]
        assert spelled == list(rows["text"])
        assert len(set(spelled)) == len(spelled)
        assert set(spelled) <= set(whole.task.splits[name]["text"])
    # Not the first rows, and the same ones each time.
    assert list(cut.task.splits["train"]["text"]) != list(whole.task.splits["train"]["text"])[:7]
    assert list(few_rows(whole, {"train": 7}).task.splits["train"]["text"]) == list(cut.task.splits["train"]["text"])


def test_methods_are_registered_for_a_while():
    mine = Method(name="lab_mine", train="B", sketch=Gaussian(), source="this test")
    before = dict(METHODS)

    def fail_inside():
        with registered([mine, METHODS["cla"]]):
            assert METHODS["lab_mine"] == mine
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert before == METHODS
    taken = Method(name="cla", train="B", sketch=Gaussian(), source="this test")
    with pytest.raises(LopsidedError, match="registered with other parts"), registered([mine, taken]):
        pass
    assert before == METHODS


@pytest.mark.parametrize(("name", "letters"), [("lora", {"A", "B"}), ("cla", {"B"}), ("asym_a", {"A"})])
def test_factors_are_those_of_the_layers(tmp_path, name, letters):
    model = lopsided.adapt(tiny.bert(), name, r=2, target_modules=["query"])
    tiny.train_a_little(model)
    model.save_pretrained(str(tmp_path / "adapter"))
    found = trained_factors(tmp_path)
    assert len(found) == 2
    for module, layer in layers_of(model).items():
        [key] = [key for key in found if key.endswith(module.removeprefix("base_model.model."))]
        assert set(found[key]) == letters
        for letter, live in layer.trained("default").items():
            np.testing.assert_array_equal(found[key][letter], live.detach().numpy())
        if name == "lora":
            product = layer.scaling["default"] * found[key]["B"] @ found[key]["A"]
            torch.testing.assert_close(torch.tensor(product), layer.get_delta_weight("default").detach())


def test_the_crossed_interval_holds_its_mean_and_knows_certainty():
    found = crossed(np.random.RandomState(2).standard_normal((3, 50)))
    assert found.interval[0] < found.value < found.interval[1]
    sure = crossed(np.full((3, 50), 2.0))
    assert sure.value == 2.0
    assert sure.interval == (2.0, 2.0)


def test_a_run_counts_its_right_answers(tmp_path):
    rows = {"prediction": np.array([1, 0, 1]), "label": np.array([1, 1, 1]), "loss": np.array([0.1, 0.2, 0.6])}
    run = ShortRun(folder=tmp_path, trained=1, answers={"test": rows})
    assert run.right("test").tolist() == [1.0, 0.0, 1.0]
    assert run.loss("test") == pytest.approx(0.3)
