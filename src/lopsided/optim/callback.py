"""A chain on schedule in a `transformers.Trainer`."""

from __future__ import annotations

import dataclasses
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.finite import all_finite
from lopsided.method import Chain
from lopsided.optim.advance import advance_chain, trained_factors
from lopsided.optim.frozen_rates import FROZEN, has_frozen_rates
from lopsided.optim.groups import check_held, check_split, split_factors
from lopsided.optim.link_schedule import plan
from lopsided.tuner import layers_of, layers_with, single_active


@dataclass
class ChainEvent:
    """One advance, as a run's record holds it."""

    step: int
    link: int


class ChainCallback(TrainerCallback):
    """Advances the active adapter's chain on schedule, and on resume; a method without one has nothing to advance.

    Links given by count are spread evenly over the run's steps; links given by steps start every so many. An
    advance happens after the optimizer's step and before that step's evaluation and checkpoint. With a chain
    that re-warms (ReLoRA), the learning rate of each step is scaled for that step alone, so the schedule is
    not touched. A chain that freezes its rate does so at the first advance; the rate is in the optimizer's state, and
    the Trainer's log shows it in place of the schedule's.

    A run that is resumed with more steps or more links goes on, and so does one that `auto_find_batch_size` starts
    again: what is left of the links is spread over what is left of the steps, and a warning says so.

    Whatever the method, a checkpoint with a trained parameter that holds NaN or Inf is never written.

    Args:
        go_on: whether a new training may take up an adapter in the middle of its chain.
        every: steps in a link, in place of the schedule that the adapter has. A client of a federation ends a link
            with every round, and its own rows decide how many steps that is.

    Raises:
        LopsidedError: at the start of training, if several adapters are active, if the links do not fit the
            steps, if a new training begins with an adapter in the middle of its chain, if the optimizer does
            not hold the factors, if it ignores the method's lr_ratio, or if a resumed one lacks the rate that was
            frozen. Before a checkpoint, if a trained parameter holds NaN or Inf.

    Example:
        >>> ChainCallback().events
        []
    """

    def __init__(self, *, go_on: bool = False, every: int | None = None) -> None:
        self.go_on, self.every = go_on, every
        self.events: list[ChainEvent] = []
        self._training = False
        self._boundaries: frozenset[int] = frozenset()
        self._rates: list[dict[str, Any]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the optimizer, and plan the steps after which new links start."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if optimizer is not None:
            check_split(optimizer, split_factors(model))
        chain, link = _chain_of(model)
        if chain:
            name = single_active(model)
            if optimizer is not None:
                check_held(optimizer, trained_factors(layers_with(model, name).values(), name))
        # `auto_find_batch_size` begins again, with the weights and the links as they are, after memory ran out.
        restarted, self._training = self._training and args.auto_find_batch_size, True
        self._boundaries = frozenset()
        if not chain:
            return
        if self.every is not None:
            chain = dataclasses.replace(chain, links=None, every=self.every)
        schedule = plan(
            chain,
            link=link,
            step=state.global_step,
            steps=state.max_steps,
            restarted=restarted,
            go_on=self.go_on,
        )
        self._boundaries = frozenset(schedule.boundaries)
        if optimizer is not None and state.global_step > 0 and not restarted:
            _check_rate_is_there(chain, link, optimizer)
        if schedule.note:
            warnings.warn(schedule.note, LopsidedWarning, stacklevel=2)
        if schedule.due:
            self._advance(model, optimizer, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note that the training has ended, so that the next one is not taken for the same one started again."""
        self._training = False

    def _advance(self, model: nn.Module, optimizer: Any, step: int) -> None:
        self.events.append(ChainEvent(step=step, link=advance_chain(model, optimizer)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the chain where a link ends, and check what is about to be evaluated or saved."""
        if state.global_step in self._boundaries:
            self._advance(kwargs["model"], kwargs["optimizer"], state.global_step)
        # Trainer decides on saving the best model only when it has evaluated it.
        if control.should_save or control.should_evaluate:
            _check_finite(kwargs["model"], state.global_step)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check what is about to be evaluated or saved."""
        if control.should_save or control.should_evaluate:
            _check_finite(kwargs["model"], state.global_step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Scale the learning rates for this step, where the chain warms up again after an advance."""
        groups = kwargs["optimizer"].param_groups
        self._rates = [{key: group[key] for key in ("lr", FROZEN) if key in group} for group in groups]
        factor = self._rewarm_factor(kwargs["model"], state.global_step)
        for group, rates in zip(groups, self._rates, strict=True):
            group.update({key: rate * factor for key, rate in rates.items()})

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the schedule's learning rates back."""
        for group, rates in zip(kwargs["optimizer"].param_groups, self._rates, strict=True):
            group.update(rates)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the frozen rate of the last step into the log, in place of the schedule's.

        Callbacks that come before this one, trackers among them, have seen the schedule's.
        """
        # The rate was frozen after the step in which the first link ended: that step is logged with the schedule's.
        if self._rates and FROZEN in self._rates[0]:
            for entry in (state.log_history[-1], kwargs["logs"]):
                if "learning_rate" in entry:
                    entry["learning_rate"] = float(self._rates[0][FROZEN])

    def _rewarm_factor(self, model: nn.Module, steps_done: int) -> float:
        chain, _ = _chain_of(model)
        start = max((step for step in self._boundaries if step <= steps_done), default=None)
        if chain is None or chain.rewarm == 0 or start is None:
            return 1.0
        return min(1.0, (steps_done - start + 1) / chain.rewarm)


def _check_rate_is_there(chain: Chain, link: int, optimizer: Any) -> None:
    if chain.freeze_rate and link > 0 and not has_frozen_rates(optimizer):
        raise LopsidedError(
            f"the chain stands at link {link} and froze its learning rate at link 1, but the checkpoint has no "
            "optimizer state that holds the rate; expected one; resume from a checkpoint that was saved without "
            "save_only_model"
        )


def _check_finite(model: nn.Module, step: int) -> None:
    broken = [n for n, p in model.named_parameters() if p.requires_grad and not all_finite(p)]
    if broken:
        more = f" and {len(broken) - 1} more of the trained parameters hold" if len(broken) > 1 else " holds"
        raise LopsidedError(
            f"{broken[0]}{more} NaN or Inf after step {step}; expected finite numbers; the checkpoints before it are "
            "good: resume from the last one, with a lower learning rate"
        )


def _chain_of(model: nn.Module) -> tuple[Chain | None, int]:
    """Return the active chained adapter's chain and link; (None, 0) where there is none."""
    for layer in layers_of(model).values():
        for name in layer.active_adapters:
            if name in layer.adapters and layer.adapters[name].method.chain is not None:
                return layer.adapters[name].method.chain, layer.adapters[name].link
    return None, 0


# Of the Trainers that were looked at.
_seen: weakref.WeakSet[CallbackHandler] = weakref.WeakSet()


def warn_of_idle_chain(handler: CallbackHandler) -> None:
    """Warn, once per Trainer, that its model has a chain and nothing to advance it.

    Args:
        handler: of the Trainer's callbacks, at the start of training.
    """
    if handler in _seen:
        return
    _seen.add(handler)
    chain, link = _chain_of(handler.model)
    # The last link has nothing to advance to.
    if chain is None or link + 1 == chain.links:
        return
    if not any(isinstance(callback, ChainCallback) for callback in handler.callbacks):
        warnings.warn(
            f"the adapter's chain stands at link {link}, and this Trainer has nothing to advance it; pass "
            "callbacks=[lopsided.ChainCallback()], unless a callback of your own calls lopsided.advance_chain",
            LopsidedWarning,
            stacklevel=2,
        )
