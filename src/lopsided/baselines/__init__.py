"""Methods of stock PEFT that compete with ours: "peft:lora", "peft:dora", ...

baseline         `Baseline`, the table `BASELINES`, and the space "peft" of methods' names
entries          the entries: read this first
put_on           a baseline on a model, loaded again, and taken off
rank_budget      AdaLoRA's ranks over a run
rewritten_base   PiSSA, which starts from other base weights
"""

import lopsided.baselines.entries  # noqa: F401  (fills BASELINES)
from lopsided.baselines.baseline import BASELINES, Baseline, BaselineSetting, baseline_of

__all__ = ["BASELINES", "Baseline", "BaselineSetting", "baseline_of"]
