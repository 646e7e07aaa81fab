"""Everything that one run depends on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers.integrations import get_available_reporting_integrations

from lopsided.errors import LopsidedError
from lopsided.method import Method, method_named
from lopsided.models.target_names import as_targets
from lopsided.settings import check_settings, documented
from lopsided.tuner.method_parts import with_chain
from lopsided_settings.train import TrainSettings


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainSettings):
    """One run: a model, a task, a method and how long.

    The length is steps or epochs, not both; it is three epochs if neither is given. None of `alpha` is 2r; None of
    `lr`, `links` and `every` is the method's own; None of `target_modules` is the architecture's default, which is
    often query and value alone; None of `trajectory` keeps snapshots of adapters, whose files are small.

    Raises:
        LopsidedError: for numbers that make no sense, an unknown method, links without a chain.
    """

    def __post_init__(self) -> None:
        check_settings(self)
        if self.steps is not None and self.epochs is not None:
            raise LopsidedError(f"give steps or epochs, not both: got steps={self.steps}, epochs={self.epochs}")
        if self.report_to != "none":
            _check_tracker(self.report_to)
        chain = self.resolve_method().chain
        if chain is not None and self.steps is not None:
            chain.boundaries(self.steps)

    def resolve_method(self) -> Method:
        """Return the method, with the chain that this run asks for."""
        return with_chain(method_named(self.method), links=self.links, every=self.every)

    @property
    def learning_rate(self) -> float:
        """The learning rate that was asked for, or the method's own."""
        return self.resolve_method().lr if self.lr is None else self.lr

    @property
    def targets(self) -> list[str] | str | None:
        """`target_modules` as PEFT takes it: names as a list, a regular expression or "all-linear" as they are."""
        return None if self.target_modules is None else as_targets(self.target_modules)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, for `run.json`; two runs with equal data are the same run."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "out"}


def _check_tracker(name: str) -> None:
    installed = ["none", "all", *get_available_reporting_integrations()]
    if name not in installed:
        raise LopsidedError(
            f"report_to={name!r} is no tracker that is installed; expected one of {', '.join(installed)}; install it, "
            "or choose one of them"
        )
