"""Where an export comes from: a run directory, or the folder of any saved adapter, ours or stock LoRA.

Neither the task's data nor the folder that the run was started in is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from lopsided.errors import LopsidedError
from lopsided.files.untrusted import ADAPTER_CONFIG, ADAPTER_WEIGHTS, open_tensors, read_json, weights_in
from lopsided.models.adapter_base import base_skeleton, head_arguments, peft_config
from lopsided.models.load import load_base, quiet
from lopsided.runs import read_run
from lopsided.runs.saved_forms import FORMS
from lopsided.serving.export_record import read_record
from lopsided.serving.lora_tensors import SavedUpdates
from lopsided.serving.own_adapter import read_own
from lopsided.serving.stock_adapter import read_fields, read_stock

KINDS = ("LORA", "LOPSIDED")


@dataclass(frozen=True)
class AdapterSource:
    """A saved adapter, and the name of its base.

    Args:
        folder: the adapter's.
        base: the base's name, as for `lopsided.models.registry.model_source`: what the caller said, or else what the
            run or the adapter's configuration says. A relative path counts from the current folder. None where nobody
            says.
        named: whether the caller said it. Only then is it fetched from the hub; otherwise it has to be on this machine.
    """

    folder: Path
    base: str | None
    named: bool

    @cached_property
    def kind(self) -> str:
        """The adapter's type, "LORA" or "LOPSIDED".

        Raises:
            LopsidedError: if it is of another one.
        """
        kind = read_json(self.folder / ADAPTER_CONFIG).get("peft_type")
        if kind not in KINDS:
            raise LopsidedError(
                f"{self.folder} holds an adapter of type {kind!r:.40}; expected one of {', '.join(KINDS)}, which are "
                "saved as ΔW = s·B·A; take the folder as it is"
            )
        return str(kind)

    @property
    def is_stock(self) -> bool:
        """Whether PEFT loads it without this library."""
        return self.kind == "LORA"

    def updates(self) -> SavedUpdates:
        """Return its updates.

        Raises:
            LopsidedError: for what is damaged or no plain low-rank adapter, and where its base is needed and is not
                there.
        """
        return read_stock(self.folder) if self.is_stock else read_own(self.folder, self.skeleton, self.load)

    def check_fields(self) -> None:
        """Raise for a configuration that is damaged, before PEFT reads it."""
        if self.is_stock:
            read_fields(self.folder)

    # -- the base ----------------------------------------------------------------------------------------------

    def skeleton(self, use: str = "its layers' widths") -> nn.Module:
        """Build the base without weights, from its configuration alone.

        Args:
            use: what it is needed for, for the error.

        Raises:
            LopsidedError: if it is not there.
        """
        with self._needing(use):
            return self._skeleton

    @cached_property
    def _skeleton(self) -> nn.Module:
        return base_skeleton(peft_config(self.folder), self._base_name(), **self._where)

    def load(self) -> PreTrainedModel:
        """Load the base in float32, with a head of the saved one's size that starts the same each time.

        Raises:
            LopsidedError: if it is not there.
        """
        config = peft_config(self.folder)
        with open_tensors(weights_in(self.folder)) as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        with quiet(), torch.random.fork_rng(devices=[]), self._needing("its weights"):
            torch.default_generator.manual_seed(0)
            arguments = {**self._where, **head_arguments(config, shapes)}
            return load_base(config, self._base_name(), dtype=torch.float32, **arguments).eval()

    @property
    def _where(self) -> dict[str, bool]:
        return {} if self.named else {"local_files_only": True}

    def _base_name(self) -> str:
        if self.base is None:
            raise LopsidedError(f"{ADAPTER_CONFIG} has no base_model_name_or_path")
        return self.base

    @contextmanager
    def _needing(self, use: str) -> Iterator[None]:
        """Say what the base was needed for where it is not there, and how to name it."""
        try:
            yield
        except LopsidedError as error:
            raise LopsidedError(
                f"the base of {self.folder} is needed for {use}, and is not at hand ({error}); name it with --base"
            ) from error


def open_source(path: Path, base: str | None = None) -> AdapterSource:
    """Return the adapter of a run directory, or of an adapter's folder.

    Args:
        path: either of them.
        base: the base's name; None takes what the run or the adapter's configuration says.

    Raises:
        LopsidedError: if there is neither, or a run that ended early or trained no low-rank adapter.
    """
    if (path / ADAPTER_CONFIG).exists() or (path / ADAPTER_WEIGHTS).exists():
        exported = read_record(path)
        noted = read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path")
        known = noted if isinstance(noted, str) and noted else None
        # An export's record has the name that its caller knew, which may be newer than the adapter's.
        known = exported.base if exported is not None else known
        return AdapterSource(path, base or known, base is not None)
    run = read_run(path)
    if run is None or not run.is_finished:
        state = "no run and no adapter" if run is None else f"a run that is {run.status!r}"
        raise LopsidedError(
            f"{path} holds {state}; expected a finished run, or a saved adapter's folder; make a run with `lopsided "
            "train`, or check the path"
        )
    folder = FORMS[run.method.side.saved_as].low_rank(run.method, path / "adapter")
    return AdapterSource(folder, base or str(run.settings["model"]), base is not None)
