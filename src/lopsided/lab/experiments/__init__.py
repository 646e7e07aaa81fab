"""The table of experiments, in the order in which `lopsided lab all` runs them."""

from lopsided.errors import LopsidedError, unknown
from lopsided.lab.experiments import (
    bounds_vs_gap,
    concentration,
    counterexample,
    digits_chain,
    double_rank,
    factor_similarity,
    init_choices,
    least_squares,
    linear_regression,
    logistic_regression,
    paca_bridge,
    reshuffling,
    sample_complexity,
    sketch_families,
)
from lopsided.lab.protocol import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        counterexample,
        linear_regression,
        logistic_regression,
        sketch_families,
        reshuffling,
        digits_chain,
        least_squares,
        sample_complexity,
        concentration,
        factor_similarity,
        double_rank,
        init_choices,
        paca_bridge,
        bounds_vs_gap,
    )
}


def experiment_named(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        LopsidedError: if there is none, listing the known ones and the nearest.
    """
    if name not in EXPERIMENTS:
        raise LopsidedError(unknown("experiment", name, EXPERIMENTS, "all or one of"))
    return EXPERIMENTS[name]
