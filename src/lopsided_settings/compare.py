"""What can be set of a comparison, besides what its runs share."""

from dataclasses import dataclass

from lopsided_settings.checks import POSITIVE, at_least
from lopsided_settings.field import setting
from lopsided_settings.texts import NAME_TUPLE, WHOLE_NUMBERS


@dataclass(frozen=True, kw_only=True, init=False, eq=False, repr=False)
class CompareSettings:
    """The fields of `lopsided.study.CompareConfig` that are not those of its runs."""

    methods: tuple[str, ...] = setting(
        (), help="Names separated by commas, or `study` for those of Beyond LoRA; seven by default.", text=NAME_TUPLE
    )
    seeds: tuple[int, ...] = setting((0,), help="Whole numbers separated by commas.", text=WHOLE_NUMBERS)
    margin: float = setting(
        1.0,
        help="Most points that a recommended method may be worse than the best one, at 95 % confidence.",
        check=POSITIVE,
    )
    tune: int | None = setting(
        None,
        help="Learning rates to try per method, compared on validation rows only; by default nothing is tuned.",
        check=at_least(2),
    )
