"""A run's configuration: what it refuses, and that it is plain data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lopsided import METHODS, LopsidedError
from lopsided.runs import TrainConfig

HERE = Path("run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
        ({"lr": float("inf")}, "lr must be positive, got inf"),
        ({"lr": -1e-3}, "lr must be positive, got -0.001"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative, got -1.0"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^32\), got -1"),
        ({"steps": 5, "epochs": 1.0}, "give steps or epochs, not both: got steps=5, epochs=1.0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; .* did you mean 'cosine'?"),
        ({"report_to": "tensorbord"}, "report_to='tensorbord' is no tracker that is installed; expected one of none"),
        ({"method": "c3al"}, "unknown method 'c3al'; expected one of full, head, lora, .* did you mean 'c3la'?"),
        ({"method": "lora", "links": 2}, "method 'lora' has no chain, got links=2"),
        ({"method": "lora", "every": 2}, "method 'lora' has no chain, got every=2"),
        ({"method": "c3la", "links": 2, "every": 2}, "give links or every, not both: got links=2, every=2"),
        ({"method": "c3la", "links": 9, "steps": 8}, "links must not exceed the steps: links=9, steps=8; lower links"),
        ({"method": "c3la", "every": 9, "steps": 8}, "a link of every=9 steps does not fit a run of 8 steps"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        TrainConfig(**options, out=HERE)
    assert "\n" not in str(caught.value)


def test_it_survives_json():
    config = TrainConfig(out=HERE, method="c3la", links=3, steps=9, rename_labels={"Uncertain": "Unknown"})
    config = dataclasses.replace(config, ignore_columns=["id"])
    data = json.loads(json.dumps(config.to_json()))
    assert TrainConfig(**data, out=HERE) == config
    assert "out" not in data


def test_the_methods_own_rate_unless_another_is_asked_for():
    assert TrainConfig(out=HERE, method="head").learning_rate == METHODS["head"].lr
    assert TrainConfig(out=HERE, method="head", lr=0.5).learning_rate == 0.5


def test_target_modules_as_peft_takes_them():
    assert TrainConfig(out=HERE).targets == "all-linear"
    assert TrainConfig(out=HERE, target_modules="query, value").targets == ["query", "value"]
    assert TrainConfig(out=HERE, target_modules="self.query").targets == ["self.query"]
    assert TrainConfig(out=HERE, target_modules=r".*\.\d{1,2}\.query").targets == r".*\.\d{1,2}\.query"
    assert TrainConfig(out=HERE, target_modules=r".*\.(query|key)").targets == r".*\.(query|key)"
    assert TrainConfig(out=HERE, target_modules=None).targets is None
