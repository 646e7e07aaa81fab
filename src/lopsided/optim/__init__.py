"""Parameter groups, the reset of optimizer state, and the advance of a chain."""

from lopsided.optim.advance import advance_chain
from lopsided.optim.callback import ChainCallback, ChainEvent, warn_of_idle_chain
from lopsided.optim.frozen_rates import put_frozen_rates
from lopsided.optim.groups import check_first_step, param_groups
from lopsided.optim.reset import reset_state
from lopsided.tuner.peft_seams import after_train_begin, before_steps

before_steps(check_first_step)
before_steps(put_frozen_rates)
after_train_begin(warn_of_idle_chain)

__all__ = ["ChainCallback", "ChainEvent", "advance_chain", "param_groups", "reset_state"]
