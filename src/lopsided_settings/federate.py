"""What can be set of a federation, besides what its clients' runs share."""

from dataclasses import dataclass

from lopsided_settings.checks import NOT_NEGATIVE, POSITIVE, Check, at_least, one_of
from lopsided_settings.field import setting
from lopsided_settings.texts import WHOLE_NUMBERS

PARTITIONS = ("even", "dirichlet", "domain", "file")
WEIGHTINGS = ("examples", "equal")
WIRE = ("float32", "bfloat16")
PROBABILITY = Check(lambda value: 0 < value < 1, "{name} must lie between 0 and 1, got {value}")


@dataclass(frozen=True, kw_only=True, init=False, eq=False, repr=False)
class FederateSettings:
    """The fields of `lopsided.federated.FederationConfig` that are not those of its run."""

    clients: int = setting(4, help="How many clients there are.", check=at_least(1))
    partition: str = setting(
        "even",
        help="How the rows are spread over clients: even, dirichlet (skewed labels), domain (one each) or file (of the "
        "task's folder, one each).",
        check=one_of(PARTITIONS),
    )
    concentration: float = setting(
        0.5, help="Concentration of the Dirichlet distribution of labels; smaller is more skewed.", check=POSITIVE
    )
    allow_missing: bool = setting(False, help="Let a client be without one of the classes.")
    ranks: tuple[int, ...] = setting(
        (),
        help="The clients' ranks, separated by commas, up to --rank: a client trains that many rows of the shared "
        "sketch, and sends these alone; --rank for all by default.",
        text=WHOLE_NUMBERS,
    )
    wire_dtype: str = setting(
        "float32",
        help="What trained factors are sent in, both ways: float32, or bfloat16 at half the bytes; heads are float32.",
        check=one_of(WIRE),
    )
    rounds: int = setting(10, help="Rounds of local training and averaging.", check=at_least(1))
    local_epochs: int = setting(1, help="Passes over its own rows that a client makes in a round.", check=at_least(1))
    min_clients: int | None = setting(
        None, help="Fewest clients whose answers make a round; one by default.", check=at_least(1)
    )
    round_timeout: float = setting(
        3600.0, help="Seconds after which a round goes on without the clients that have not answered.", check=POSITIVE
    )
    weighting: str | None = setting(
        None,
        help="What a client's weight in the average is: examples (how many it has) or equal. By default examples, and "
        "equal with noise.",
        check=one_of(WEIGHTINGS),
    )
    clipping_norm: float | None = setting(
        None, help="Largest L2 norm of a client's update, which it scales down before sending.", check=POSITIVE
    )
    noise_multiplier: float | None = setting(
        None,
        help="Standard deviation of the Gaussian noise that the server adds to the sum of updates, in units of "
        "clipping_norm. None by default.",
        check=NOT_NEGATIVE,
    )
    secure_aggregation: bool = setting(
        False, help="Mask updates by Flower's SecAgg+, so that the server learns their sum alone."
    )
    delta: float | None = setting(
        None, help="The delta at which epsilon is reported, with noise; below 1 / clients.", check=PROBABILITY
    )
