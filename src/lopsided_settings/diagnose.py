"""What can be set of a diagnosis, besides its sections."""

from dataclasses import dataclass
from pathlib import Path

from lopsided_settings.checks import POSITIVE, at_least, one_of
from lopsided_settings.field import setting

DIRECTIONS = ("auto", "random", "trajectory")


@dataclass(frozen=True, kw_only=True, init=False, eq=False, repr=False)
class LandscapeSettings:
    """How far and how finely to look around a run's weights, in the order of `diagnosis.json`."""

    points: int = setting(
        25, help="Points of a landscape along each axis.", check=at_least(2), defaults={"diagnose": 7}
    )
    rows: int = setting(
        256, help="Validation rows of landscapes and sharpness.", check=at_least(2), defaults={"diagnose": 32}
    )
    hessian_rows: int = setting(
        64, help="Validation rows that the Hessian is computed on.", check=at_least(2), defaults={"diagnose": 16}
    )
    directions: str = setting(
        "auto",
        help="Directions of landscapes: auto, random or trajectory.",
        check=one_of(DIRECTIONS, "{name} must be one of {names}, got {value!r}"),
    )
    extent: float | None = setting(
        None, help="Reach of a landscape's axes; 1, or the path's own by default.", check=POSITIVE
    )
    radius: float = setting(
        0.01, help="Radius within which sharpness is measured, as a share of each filter's norm.", check=POSITIVE
    )
    seed: int = setting(0, help="Seed of random directions.", option=False)


@dataclass(frozen=True, kw_only=True, init=False, eq=False, repr=False)
class DiagnoseSettings:
    """The fields of `lopsided.diagnose.DiagnoseConfig` that are no section's own."""

    top: int = setting(10, help="Leading singular vectors that count as the first ones.", check=at_least(1))
    all_vectors: bool = setting(
        True, help="Intruders among all vectors, or the first ones alone.", flags="--all-vectors/--top-only"
    )
    reference: Path | None = setting(None, help="A text file, or a folder of scored pairs, to see what was forgotten.")
    seed: int = setting(0, help="Seed of random directions and draws.")
