"""Everything that one federation depends on, and what the server tells its clients of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.federated.log_header import LogHeader
from lopsided.federated.privacy import PrivacyTerms
from lopsided.federated.privacy_checks import check_masks, check_noise
from lopsided.federated.rank_checks import check_ranks
from lopsided.federated.wire_dtypes import check_wire_dtype
from lopsided.files.strict_json import dumps
from lopsided.files.untrusted import check_fields, parse_json
from lopsided.method import METHODS, method_from_parts
from lopsided.runs.config import TrainConfig
from lopsided.settings import check_settings, documented
from lopsided.tasks.kinds import FILE
from lopsided.tuner.method_parts import check_parts
from lopsided_settings.federate import FederateSettings


@documented
@dataclass(frozen=True, kw_only=True)
class FederationConfig(FederateSettings):
    """One federation: what its clients train and how, who they are, and how many rounds.

    The length of the run, the links of its chain and the steps in a link follow from the rounds, and a link ends with
    every round; so `run` must not set `steps`, `epochs`, `links` or `every`.

    Raises:
        LopsidedError: for numbers that make no sense, a length or links in `run`, a method of stock PEFT, or noise
            that gives no privacy.
    """

    run: TrainConfig

    def __post_init__(self) -> None:
        check_settings(self)
        # From JSON they come as a list.
        object.__setattr__(self, "ranks", tuple(self.ranks))
        if self.partition == FILE:
            object.__setattr__(self, "run", dataclasses.replace(self.run, pool_files=True))
        given = [name for name in ("steps", "epochs", "links", "every") if getattr(self.run, name) is not None]
        if given:
            raise LopsidedError(
                f"received {given[0]}={getattr(self.run, given[0])} for a federation; expected rounds and "
                "local_epochs, which decide it; leave it out"
            )
        if self.run.method not in METHODS:
            raise LopsidedError(
                f"method {self.run.method!r} can't be federated; expected one of {', '.join(METHODS)}; choose one"
            )
        if self.min_clients is not None and self.min_clients > self.clients:
            raise LopsidedError(
                f"min_clients must not exceed the clients: min_clients={self.min_clients}, clients={self.clients}; "
                "lower it"
            )
        check_noise(self)
        if self.secure_aggregation:
            check_masks(self)
        if self.ranks:
            check_ranks(self.run, self.ranks, self.clients)
        check_wire_dtype(self.run, self.wire_dtype)

    @property
    def privacy(self) -> PrivacyTerms | None:
        """What the noise is, or None without any."""
        if not self.noise_multiplier or self.clipping_norm is None or self.delta is None:
            return None
        return PrivacyTerms(
            clipping_norm=self.clipping_norm,
            noise_multiplier=self.noise_multiplier,
            clients=self.clients,
            delta=self.delta,
        )

    @property
    def has_chain(self) -> bool:
        """Whether a link ends with every round."""
        return self.run.resolve_method().chain is not None

    @property
    def server_run(self) -> TrainConfig:
        """The server's run: as long as one on all rows together would be, with a link per round."""
        return dataclasses.replace(
            self.run, links=self.rounds if self.has_chain else None, epochs=float(self.rounds * self.local_epochs)
        )

    def link_of_round(self, number: int) -> int:
        """Return the link that a round trains, from 0; rounds count from 1."""
        return number - 1 if self.has_chain else 0

    def settings(self) -> dict[str, Any]:
        """Return what is no part of the run, as plain data."""
        return {name: _plain(getattr(self, name)) for name in _own_defaults()}


def settings_there(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a folder's settings of a federation, with defaults for settings that are newer than the folder."""
    return {**_own_defaults(), **settings}


def _own_defaults() -> dict[str, Any]:
    return {each.name: _plain(each.default) for each in dataclasses.fields(FederationConfig) if each.name != "run"}


def _plain(value: Any) -> Any:
    # As JSON gives it back.
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class FederationPlan:
    """What the server tells a client before its first round, as plain data.

    Args:
        header: of the log of rounds: what the client's model has to be.
        run: the settings of the run, as `TrainConfig.to_json` writes them.
        parts: of the method, which need not be registered where the client runs.
        federation: the other settings, as `FederationConfig.settings` returns them.
        labels: the classes in the server's order.
        version: of lopsided.
    """

    header: dict[str, Any]
    run: dict[str, Any]
    parts: dict[str, Any]
    federation: dict[str, Any]
    labels: list[str]
    version: str

    @classmethod
    def of(cls, config: FederationConfig, header: LogHeader, labels: tuple[str, ...]) -> FederationPlan:
        """Return the plan of a federation."""
        return cls(
            header=dataclasses.asdict(header),
            run=config.run.to_json(),
            parts=config.run.resolve_method().parts(),
            federation=config.settings(),
            labels=list(labels),
            version=version("lopsided"),
        )

    @classmethod
    def from_text(cls, text: str) -> FederationPlan:
        """Read a plan that came over the wire.

        Raises:
            LopsidedError: if it is no plan, or of another version of lopsided.
        """
        fields: Mapping[str, Any] = parse_json(text.encode(), "the server's plan")
        if fields.get("version") != version("lopsided"):
            raise LopsidedError(
                f"the server runs lopsided {fields.get('version')!r:.40}, this client {version('lopsided')}; expected "
                "one version; install the server's"
            )
        check_fields(cls, fields, "the server's plan")
        return cls(**fields)

    def to_text(self) -> str:
        """Return the plan as JSON."""
        return dumps(dataclasses.asdict(self), indent=None)

    def config(self, out: Path) -> FederationConfig:
        """Return the federation's configuration.

        Args:
            out: the client's folder, which the run has in the place of the server's.
        """
        check_parts(self.parts)
        METHODS.setdefault(self.run["method"], method_from_parts(self.parts))
        return FederationConfig(run=TrainConfig(**self.run, out=out), **self.federation)

    @property
    def run_name(self) -> str:
        """The name that no other run has."""
        return str(self.header["run"])
