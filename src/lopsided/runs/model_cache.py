"""Rows and base models in memory, for many runs in one process."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lopsided.models.load import load_model
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Data, Inputs, load_data, reading_of
from lopsided.runs.memory import memory_free


@dataclass(kw_only=True, eq=False)
class ModelCache:
    """Gives every run its rows and a model of its own, with the bits that loading them again would have.

    One base model is held at a time, as long as there is memory for it next to a run's own copy; otherwise every run
    loads its model. The weights of a new head depend on the seed, so those that differ are held per seed.

    Args:
        tasks: how many encoded tasks are held; the one that was asked for longest ago goes first.
        model_bytes: the most bytes of a base model that is held; None takes a third of the memory that is free when it
            has been loaded.

    Example:
        >>> from lopsided.runs import Prepared, train
        >>> cache = ModelCache()
        >>> prepared = Prepared(load=cache.inputs)  # for train(config, prepared=prepared), any number of times
    """

    tasks: int = 4
    model_bytes: int | None = None
    _data: OrderedDict[Hashable, Data] = field(default_factory=OrderedDict, init=False, repr=False)
    _base: _Base | None = field(default=None, init=False, repr=False)

    def data(self, config: TrainConfig) -> Data:
        """Return a run's rows as tokens of its model, which is not loaded for that; runs share them."""
        key = reading_of(config)
        if key not in self._data:
            self._data[key] = load_data(config)
        self._data.move_to_end(key)
        while len(self._data) > self.tasks:
            self._data.popitem(last=False)
        return self._data[key]

    def inputs(self, config: TrainConfig) -> Inputs:
        """Return what a run begins with; its model is the run's own, to be changed."""
        data = self.data(config)
        return Inputs(data=data, model=self._model(config, data))

    def clear(self) -> None:
        """Let go of all that is held."""
        self._data.clear()
        self._base = None

    def _model(self, config: TrainConfig, data: Data) -> PreTrainedModel:
        key = (config.model, data.task.kind, data.task.labels)
        if self._base is None or self._base.key != key:
            # The old one goes before the new one comes, so that there is memory for that.
            self._base = None
            model, _ = load_model(config.model, data.task, seed=config.seed)
            if not self._has_room(model):
                return model
            self._base = _Base(key=key, model=model, by_seed={config.seed: {}})
        elif config.seed not in self._base.by_seed:
            model, _ = load_model(config.model, data.task, seed=config.seed)
            self._base.by_seed[config.seed] = _differing(self._base.model, model)
            return model
        return self._base.copy(config.seed)

    def _has_room(self, model: PreTrainedModel) -> bool:
        most = memory_free().host // 3 if self.model_bytes is None else self.model_bytes
        return sum(tensor.nbytes for tensor in _tensors(model).values()) <= most


@dataclass(frozen=True, kw_only=True, eq=False)
class _Base:
    """A base model, and by seed the tensors in which a model of that seed differs from it."""

    key: Hashable
    model: PreTrainedModel
    by_seed: dict[int, dict[str, Tensor]]

    def copy(self, seed: int) -> PreTrainedModel:
        """Return a copy with the head of a seed, without gradients or hooks of the base, which has none."""
        model = copy.deepcopy(self.model)
        tensors = _tensors(model)
        with torch.no_grad():
            for name, tensor in self.by_seed[seed].items():
                tensors[name].copy_(tensor)
        return model


def _differing(base: PreTrainedModel, other: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors of the other model that are not the base's, bit by bit."""
    tensors = _tensors(base)
    return {
        name: tensor.detach().clone()
        for name, tensor in _tensors(other).items()
        if not torch.equal(tensor.view(torch.uint8), tensors[name].view(torch.uint8))
    }


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
