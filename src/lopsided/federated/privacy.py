"""What differential privacy a federation's averages have: its terms, and (ε, δ) from Google's accountant.

Notation: Δ_m is the update of client m, what it has trained minus what it started the round from, over all tensors that
it sends together, and C the clipping norm: |Δ_m| ≤ C. The federation has n clients, and z is the noise multiplier. A
round gives out

    start + (Σ_m Δ_m + z·C·N(0, 1)) / n

where a client that has not answered, or is refused, counts as zero: n is a constant that no client's rows decide.

The unit of privacy is a client with all its rows. Two federations are neighbours if they are the same but for one
client, which sends zeros in all rounds of one of them. The sum then moves by at most C per round, so that T rounds are
one Gaussian mechanism of sensitivity 1 and standard deviation z/√T. All clients are asked in every round: nothing is
sampled, and nothing is gained by sampling.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lopsided.errors import LopsidedError

ACCOUNTANT = "dp_accounting"
UNIT = "a client with all its rows"
ADJACENCY = "one client sends zeros in all rounds"
# Of the privacy losses that the accountant adds up: epsilon is right to about 1e-4, and takes milliseconds.
INTERVAL = 1e-2


@dataclass(frozen=True, kw_only=True)
class PrivacyTerms:
    """What the noise of a federation is, and the δ at which its ε is reported.

    Args:
        clipping_norm: C, the largest L2 norm of a client's update.
        noise_multiplier: z, the standard deviation of the noise on the sum of updates, in units of C.
        clients: n, by which the sum is divided, whoever answers.
        delta: δ.

    Source:
        Fixed denominator and flat clipping: McMahan et al. 2018, arXiv:1710.06963, Sections 2 and 3.

    Example:
        >>> PrivacyTerms(clipping_norm=0.5, noise_multiplier=2.0, clients=10, delta=1e-3).noise_std
        0.1
    """

    clipping_norm: float
    noise_multiplier: float
    clients: int
    delta: float

    @property
    def noise_std(self) -> float:
        """The standard deviation of the noise on each number of an average."""
        return self.noise_multiplier * self.clipping_norm / self.clients

    def epsilon(self, rounds: int) -> float:
        """Return ε after that many rounds, at δ.

        Raises:
            LopsidedError: if the accountant is not installed.
        """
        if find_spec(ACCOUNTANT) is None:
            raise LopsidedError(
                "noise needs dp-accounting, which counts epsilon, not installed here; install it with "
                "pip install 'lopsided[dp]'"
            )
        from dp_accounting import NeighboringRelation, dp_event
        from dp_accounting.pld import PLDAccountant

        # "Replace special" is the accountant's name for a neighbour that sends zeros.
        accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL, INTERVAL)
        if rounds:
            accountant.compose(dp_event.GaussianDpEvent(self.noise_multiplier), rounds)
        return float(accountant.get_epsilon(self.delta))

    def spent(self, rounds: int) -> dict[str, Any]:
        """Return what the averages of that many rounds have given away, as plain data."""
        return {
            **dataclasses.asdict(self),
            "rounds": rounds,
            "epsilon": self.epsilon(rounds),
            "unit": UNIT,
            "adjacency": ADJACENCY,
            "accountant": ACCOUNTANT,
        }


def privacy_sentence(spent: Mapping[str, Any]) -> str:
    """Return in words what `PrivacyTerms.spent` says; ε is rounded up.

    Example:
        >>> terms = {"delta": 0.001, "unit": UNIT, "adjacency": ADJACENCY, "clipping_norm": 0.5, "clients": 4}
        >>> privacy_sentence({**terms, "rounds": 10, "epsilon": 1.234, "noise_multiplier": 9.0})[:63]
        'Differential privacy of the averages after 10 rounds: ε = 1.24 '
    """
    epsilon = math.ceil(spent["epsilon"] * 100) / 100
    return (
        f"Differential privacy of the averages after {spent['rounds']} rounds: ε = {epsilon:.2f} at δ = "
        f"{spent['delta']:g}, for {spent['unit']} (neighbours: {spent['adjacency']}); noise multiplier "
        f"{spent['noise_multiplier']:g}, clipping norm {spent['clipping_norm']:g}, {spent['clients']} clients. Scores, "
        "losses and numbers of rows are not covered: they stay with the server."
    )
