"""What sections are computed from: a finished run or a saved adapter, each part loaded at its first use, and once."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModel

from lopsided.baselines.put_on import taken_off
from lopsided.diagnose.saved_adapter import load_adapter
from lopsided.diagnose.section_progress import SectionLines, SectionProgress
from lopsided.diagnose.tuned_model import NO_FACTORS, TunedModel, adapted_layers, moved_layers
from lopsided.errors import LopsidedError
from lopsided.files.atomic import file_hash
from lopsided.files.untrusted import weights_in
from lopsided.models.load import quiet, tokenizer_of
from lopsided.models.registry import model_source
from lopsided.runs.inputs import Data
from lopsided.runs.reload import base_of, data_of, reload
from lopsided.runs.run import ID_DIGITS, Run

if TYPE_CHECKING:
    # The configuration knows the names of all sections, and those know their inputs.
    from lopsided.diagnose.config import DiagnoseConfig

WITHOUT_RUN = "an adapter does not say how it was trained; diagnose its run"


class SectionInputs(ABC):
    """What the sections of one diagnosis share; they leave it as they found it.

    Args:
        config: what is looked at, and how closely.
        progress: follows the sections.
    """

    config: DiagnoseConfig
    progress: SectionProgress

    @property
    @abstractmethod
    def base_name(self) -> str:
        """The base model's name or folder."""

    @property
    @abstractmethod
    def run(self) -> Run:
        """The run.

        Raises:
            LopsidedError: of an adapter.
        """

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The model as it was trained, an adapter not merged; what was trained has gradients, where a run says what."""

    @property
    @abstractmethod
    def tuned(self) -> TunedModel:
        """The tuned linear layers and their factors.

        Raises:
            LopsidedError: if a run trained a head alone.
        """

    @property
    @abstractmethod
    def data(self) -> Data:
        """The rows that the run learned from, as tokens.

        Raises:
            LopsidedError: of an adapter, or if the rows are not there.
        """

    @abstractmethod
    def encoder(self) -> Any:
        """Return a model with the base's weights as they were before training; its head is not to be read."""

    @abstractmethod
    def snapshot(self, step: int) -> nn.Module:
        """Return the model as it was at an evaluation, as a plain module.

        Raises:
            LopsidedError: of an adapter, or if there is no snapshot of that step.
        """

    @cached_property
    def merged(self) -> nn.Module:
        """The tuned model as a plain module in evaluation mode, W0 + ΔW in its weights."""
        # Of a copy: merging writes into the weights, which `tuned` shares with `model`.
        return plain(copy.deepcopy(self.model) if isinstance(self.model, PeftModel) else self.model)

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's tokenizer, which does not need the rows of a run."""
        return tokenizer_of(self.base_name)


class RunInputs(SectionInputs):
    """Those of a finished run.

    Args:
        run: finished.
    """

    def __init__(self, run: Run, config: DiagnoseConfig, progress: SectionProgress | None = None) -> None:
        self._run, self.config, self.progress = run, config, progress or SectionLines()

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    @property
    def base_name(self) -> str:
        """The base model's name or folder."""
        return self._run.model.name

    @cached_property
    def model(self) -> nn.Module:
        """The model as the run left it, its adapter not merged; what was trained has gradients."""
        # An adapter goes on the one copy of the base in memory, and comes off again where the base is asked for.
        base = None if self._run.method.side.on_base else self._base
        return reload(self._run.folder, trainable=True, base=base)

    @cached_property
    def tuned(self) -> TunedModel:
        """The tuned linear layers and their factors."""
        run = self._run
        if run.method.side.head_alone:
            raise LopsidedError(
                f"{run.folder}: method {run.method.name!r} trains a head alone; expected a run that changes linear "
                "layers; choose a run of another method"
            )
        if isinstance(self.model, PeftModel):
            layers, factors = adapted_layers(self.model)
        else:
            layers, factors = moved_layers(self._base, self.model), NO_FACTORS
        return TunedModel(name=run.name, id=run.id, layers=layers, factors=factors)

    @cached_property
    def data(self) -> Data:
        """The rows that the run learned from, as tokens."""
        return data_of(self._run)

    def encoder(self) -> Any:
        """Return a model with the base's weights; under an adapter, its head is the trained one."""
        return self._without_adapter() if isinstance(self.model, PeftModel) else self._base

    def snapshot(self, step: int) -> nn.Module:
        """Return the model as it was at an evaluation."""
        return plain(reload(self._run.folder, snapshot=step, base=self._without_adapter()))

    @cached_property
    def _base(self) -> nn.Module:
        """The base model of a run without an adapter; a run of the head alone has put its head on it."""
        return base_of(self._run)

    def _without_adapter(self) -> nn.Module:
        """A copy of the model, with the base's bits where an adapter was: taking one off is exact, chains included."""
        twin = copy.deepcopy(self.model)
        return taken_off(twin, merged=False) if isinstance(twin, PeftModel) else twin


class AdapterInputs(SectionInputs):
    """Those of a saved LoRA adapter of PEFT, or one of Lopsided's, on its base.

    Args:
        adapter: a folder with `adapter_config.json` and `adapter_model.safetensors`.
        base: `embedded`, `smollm2`, a folder or a Hugging Face name.
        allow_base_mismatch: for Lopsided's adapters, which know the base that they were trained on.
    """

    def __init__(
        self,
        adapter: Path,
        base: str,
        config: DiagnoseConfig,
        progress: SectionProgress | None = None,
        *,
        allow_base_mismatch: bool = False,
    ) -> None:
        self.config, self.progress = config, progress or SectionLines()
        self._adapter, self._base_name, self._allow_base_mismatch = adapter, base, allow_base_mismatch

    @property
    def run(self) -> Run:
        """Raise: an adapter has no run."""
        raise LopsidedError(WITHOUT_RUN)

    @property
    def base_name(self) -> str:
        """The base model's name or folder."""
        return self._base_name

    @cached_property
    def model(self) -> nn.Module:
        """The base with the adapter on it.

        Raises:
            LopsidedError: if there is no such adapter or base, if they don't fit, or if the adapter does anything but
                add a low-rank product to linear layers.
        """
        return load_adapter(self._adapter, self._base_name, allow_base_mismatch=self._allow_base_mismatch)

    @cached_property
    def tuned(self) -> TunedModel:
        """The tuned linear layers and their factors."""
        layers, factors = adapted_layers(self.model)
        digest = file_hash(weights_in(self._adapter))[:ID_DIGITS]
        return TunedModel(name=self._adapter.resolve().name, id=digest, layers=layers, factors=factors)

    @property
    def data(self) -> Data:
        """Raise: an adapter has no rows."""
        raise LopsidedError(WITHOUT_RUN)

    def encoder(self) -> Any:
        """Return the base's backbone, loaded again: an adapter may have trained any module of it as a whole."""
        source = model_source(self._base_name)
        with quiet():
            return AutoModel.from_pretrained(source.path, dtype=torch.float32, **source.arguments).eval()

    def snapshot(self, step: int) -> nn.Module:
        """Raise: an adapter has no snapshots."""
        raise LopsidedError(WITHOUT_RUN)


def plain(model: nn.Module) -> nn.Module:
    """Return a model in evaluation mode, its adapter, if it has one, merged into its weights and taken off."""
    module = taken_off(model, merged=True) if isinstance(model, PeftModel) else model
    return module.eval()
