"""The papers' bounds and rates, as functions of numbers.

Each file opens with its notation and its source:

    information     generalization from the number of trained bits, for any method; `dims` counts a model's numbers
    spectral        Theorem 1 of Beyond LoRA: what an update adds to the gap; `norms` reads its numbers off a model
    single_run      a bound for one run with a frozen Gaussian factor
    convergence     rates of a chain of random sketches, and λ_min(E[H]) of any sketch
    least_squares   which factor to train
    sides           what training one side can gain, from a gradient and moments
    subspaces       how alike two factors are
"""

from lopsided.theory.convergence import Eigenvalue, Problem, coin_lambda, lambda_min, lambda_min_sampled, projection
from lopsided.theory.dims import LayerDims, ModelNumbers, layer_dims, model_numbers
from lopsided.theory.information import (
    InformationBound,
    Sigma,
    all_bounds,
    generalization_bound,
    is_counted,
    sigma_estimated,
    sigma_of_range,
)
from lopsided.theory.least_squares import Condition, FactorFit, expected_gap, tune_a, tune_b, tune_b_condition
from lopsided.theory.norms import ModelNorms, model_norms, spectral_norm
from lopsided.theory.sides import Gain, Moments, Whitened, whiten
from lopsided.theory.single_run import FrozenLayer, SingleRunBound, covers, norm_of_gaussian, single_run_bound
from lopsided.theory.spectral import Corrections, LayerNorms, spectral_corrections
from lopsided.theory.subspaces import basis, similarity

__all__ = [
    "Condition",
    "Corrections",
    "Eigenvalue",
    "FactorFit",
    "FrozenLayer",
    "Gain",
    "InformationBound",
    "LayerDims",
    "LayerNorms",
    "ModelNorms",
    "ModelNumbers",
    "Moments",
    "Problem",
    "Sigma",
    "SingleRunBound",
    "Whitened",
    "all_bounds",
    "basis",
    "coin_lambda",
    "covers",
    "expected_gap",
    "generalization_bound",
    "is_counted",
    "lambda_min",
    "lambda_min_sampled",
    "layer_dims",
    "model_norms",
    "model_numbers",
    "norm_of_gaussian",
    "projection",
    "sigma_estimated",
    "sigma_of_range",
    "similarity",
    "single_run_bound",
    "spectral_corrections",
    "spectral_norm",
    "tune_a",
    "tune_b",
    "tune_b_condition",
    "whiten",
]
