from __future__ import annotations

import pytest
from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.tasks import Task, get_metric


def task(**changes) -> Task:
    rows = Dataset.from_dict({"text": ["a"], "label": [0]})
    fields = {
        "name": "t",
        "kind": "classification",
        "splits": {"train": rows, "validation": rows, "test": rows},
        "labels": ("no", "yes"),
        "metric": get_metric("accuracy"),
    }
    return Task(**{**fields, **changes})


def test_a_task_is_frozen_and_keyword_only():
    with pytest.raises(AttributeError):
        task().name = "other"
    with pytest.raises(TypeError):
        Task("t", "classification")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "vision"}, "expected kind in classification, regression, generation, choice; received 'vision'"),
        ({"splits": {}}, "expected splits train, validation, test; received none"),
        ({"labels": ("one",)}, r"expected two labels or more for classification; received 1 \['one'\]"),
        ({"kind": "regression"}, "expected no labels for regression; received 2"),
        ({"kind": "generation"}, "train expects columns prompt, completion .* received columns text, label"),
        ({"metric": get_metric("perplexity")}, "metric perplexity is for generation: .*use accuracy or f1"),
        (
            {"out_of_domain": {"elsewhere": Dataset.from_dict({"text": [], "label": []})}},
            "elsewhere expects columns .* and 0 rows",
        ),
    ],
)
def test_a_task_that_does_not_hold_together_is_refused(changes, message):
    with pytest.raises(LopsidedError, match=message):
        task(**changes)
