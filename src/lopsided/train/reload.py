"""A finished run's model, loaded again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.method import method_from_parts
from lopsided.tasks import Task, load_model, load_task
from lopsided.train.rundir import read_run
from lopsided.untrusted import ADAPTER_CONFIG, check_shards, open_tensors, read_json, weights_in


def finished_run(folder: Path) -> dict[str, Any]:
    """A finished run's record.

    Raises:
        LopsidedError: if the folder holds no finished run.
    """
    record = read_run(folder)
    if record is None or record["status"] != "finished":
        state = "no run" if record is None else f"a run that {record['status']}"
        raise LopsidedError(f"{folder} holds {state}; expected a finished run; make one with `lopsided train`")
    return record


def base_of(record: Mapping[str, Any]) -> Any:
    """The model that a run began with, its new head as it was drawn."""
    config = record["config"]
    task: Task = load_task(
        config["task"],
        label=config["label"],
        metric=config["metric"],
        make_split=config["make_split"],
        rename_labels=config.get("rename_labels"),
    )
    return load_model(config["model"], task, seed=config["seed"])[0]


def reload(folder: Path) -> nn.Module:
    """The model as the run left it.

    Raises:
        LopsidedError: if the folder holds no finished run.
    """
    record = finished_run(folder)
    method, adapter = method_from_parts(record["method"]), folder / "adapter"
    model = base_of(record)
    if method.train == "all":
        check_shards(adapter)
        return type(model).from_pretrained(adapter)
    if method.train == "head":
        with open_tensors(weights_in(adapter, "head.safetensors")) as file:
            model.load_state_dict(file.get_tensors(), strict=False)
        return model
    read_json(adapter / ADAPTER_CONFIG)
    return PeftModel.from_pretrained(model, str(adapter))
