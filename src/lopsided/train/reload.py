"""A finished run's model, loaded again."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.method import method_from_parts
from lopsided.tasks import Task, load_model, load_task
from lopsided.train.rundir import read_run
from lopsided.untrusted import ADAPTER_CONFIG, check_shards, open_tensors, read_json, weights_in


def reload(folder: Path) -> nn.Module:
    """The model as the run left it.

    Raises:
        LopsidedError: if the folder holds no finished run.
    """
    record = read_run(folder)
    if record is None or record["status"] != "finished":
        state = "no run" if record is None else f"a run that {record['status']}"
        raise LopsidedError(f"{folder} holds {state}; expected a finished run; make one with `lopsided train`")
    config, method = record["config"], method_from_parts(record["method"])
    task: Task = load_task(
        config["task"],
        label=config["label"],
        metric=config["metric"],
        make_split=config["make_split"],
        rename_labels=config.get("rename_labels"),
    )
    model, _ = load_model(config["model"], task, seed=config["seed"])
    adapter = folder / "adapter"
    if method.train == "all":
        check_shards(adapter)
        return type(model).from_pretrained(adapter)
    if method.train == "head":
        with open_tensors(weights_in(adapter, "head.safetensors")) as file:
            model.load_state_dict(file.get_tensors(), strict=False)
        return model
    read_json(adapter / ADAPTER_CONFIG)
    return PeftModel.from_pretrained(model, str(adapter))
