"""Clipping and noise: norms, the noise's statistics, epsilon against a second accountant, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import kstest, norm

from lopsided import LopsidedError
from lopsided.federated.averaging import ClientUpdate, average
from lopsided.federated.clipping import clipped, flat_norm, update_of
from lopsided.federated.federation import FederationConfig
from lopsided.federated.noise import admitted, private_average, system_normal
from lopsided.federated.privacy import PrivacyTerms
from lopsided.federated.refusals import sort_out
from tests.federated.rounds import random_like
from tests.tiny_runs import tiny_config

FACTOR, HEAD = "q.lopsided_B.default.weight", "head.weight"
SHAPES = {FACTOR: (6, 4), HEAD: (3, 5)}
START = {FACTOR: torch.zeros(6, 4), HEAD: torch.linspace(-1, 1, 15).reshape(3, 5)}


def terms(**changes) -> PrivacyTerms:
    return PrivacyTerms(**{"clipping_norm": 0.5, "noise_multiplier": 2.0, "clients": 4, "delta": 1e-3, **changes})


def silent(shape) -> torch.Tensor:
    """Noise that is zero."""
    return torch.zeros(shape, dtype=torch.float64)


def update(client: str, seed: int, *, size: float = 1.0, examples: int = 5) -> ClientUpdate:
    tensors = {name: START[name] + size * each for name, each in random_like(START, seed).items()}
    return ClientUpdate(client=client, examples=examples, tensors=tensors)


# -- clipping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.1, 1.0, 1e3, 1e12])
def test_an_update_is_scaled_to_the_norm_and_not_turned(size):
    tensors = update("a", 1, size=size).tensors
    before = update_of(tensors, START)
    after = update_of(clipped(tensors, START, 0.25), START)
    assert flat_norm(after) == pytest.approx(min(0.25, flat_norm(before)), rel=1e-6)
    cosine = sum(float((after[name] * each).sum()) for name, each in before.items())
    assert cosine == pytest.approx(flat_norm(after) * flat_norm(before), rel=1e-6)


def test_an_update_below_the_norm_is_sent_as_it_is():
    tensors = update("a", 1).tensors
    same = clipped(tensors, START, 1e9)
    assert all(same[name] is tensor for name, tensor in tensors.items())
    # A client that has not moved has a norm of zero, by which nothing can be divided.
    assert clipped(START, START, 0.25)[HEAD] is START[HEAD]


# -- the average with noise ------------------------------------------------------------------------------------------


def test_without_noise_it_is_the_average_of_clipped_updates_with_equal_weights():
    updates = [update(name, seed, size=10, examples=seed) for seed, name in enumerate("abcd", start=1)]
    mean = private_average(updates, SHAPES, START, terms(), silent)
    alike = [
        ClientUpdate(client=each.client, examples=1, tensors=clipped(each.tensors, START, 0.5)) for each in updates
    ]
    for name, tensor in average(alike, SHAPES).items():
        torch.testing.assert_close(mean[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_client_that_is_missing_counts_as_zero():
    updates = [update(name, seed) for seed, name in enumerate("abc", start=1)]
    still = ClientUpdate(client="d", examples=9, tensors=START)
    without = private_average(updates, SHAPES, START, terms(), silent)
    with_zeros = private_average([*updates, still], SHAPES, START, terms(), silent)
    assert all(torch.equal(without[name], with_zeros[name]) for name in SHAPES)


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_one_client_moves_the_average_by_no_more_than_the_norm_over_the_clients(size):
    others = [update(name, seed) for seed, name in enumerate("abc", start=1)]
    # The server clips, too: this client has not.
    more = private_average([*others, update("d", 7, size=size)], SHAPES, START, terms(clipping_norm=0.1), silent)
    fewer = private_average(others, SHAPES, START, terms(clipping_norm=0.1), silent)
    assert flat_norm(update_of(more, fewer)) == pytest.approx(0.1 / 4, rel=1e-5)


def test_the_noise_on_an_average_has_the_stated_standard_deviation_and_is_gaussian():
    shapes = {FACTOR: (500, 400), HEAD: (100, 50)}
    start = {name: torch.zeros(shape) for name, shape in shapes.items()}
    same = [ClientUpdate(client=name, examples=5, tensors=start) for name in "abcd"]
    draws = [private_average(same, shapes, start, terms()) for _ in range(5)]
    for name, shape in shapes.items():
        numbers = torch.stack([draw[name] for draw in draws]).double().flatten()
        # z·C/n = 2·0.5/4. Of N numbers the standard deviation has a relative error of 1/√(2N): six of them.
        count = 5 * math.prod(shape)
        assert float(numbers.std()) == pytest.approx(0.25, rel=6 / math.sqrt(2 * count))
        assert abs(float(numbers.mean())) < 6 * 0.25 / math.sqrt(count)
        # Far below any level at which a right sampler would fail by chance.
        assert kstest(numbers[:20_000].numpy() / 0.25, "norm").pvalue > 1e-9
    assert not torch.equal(draws[0][FACTOR], draws[1][FACTOR])


def test_no_seed_repeats_the_noise():
    draws = []
    for _ in range(2):
        # A Trainer sets every seed there is, to one that all clients know.
        from transformers import set_seed

        set_seed(0)
        draws.append(system_normal((3,)))
    assert not torch.equal(*draws)


def test_what_one_client_sends_does_not_decide_whether_another_is_averaged():
    # Next to still ones, this one is out of all proportion.
    updates = [update("a", 1, size=1e-6), update("b", 2, size=1e-6), update("c", 3)]
    assert sort_out(updates, SHAPES).refused.keys() == {"c"}
    assert not sort_out(updates, SHAPES, multiple=None).refused


def test_no_more_clients_are_averaged_than_the_noise_is_for():
    updates = [update(name, seed) for seed, name in enumerate("ecabd", start=1)]
    answers = admitted(sort_out(updates, SHAPES, multiple=None), 4)
    assert sorted(each.client for each in answers.taken) == list("abcd")
    assert "noise is for 4 clients" in answers.refused["e"]
    with pytest.raises(LopsidedError, match="5 updates with noise for 4 clients"):
        private_average(updates, SHAPES, START, terms())


def test_a_lower_rank_gets_no_noise():
    cut = ClientUpdate(client="a", examples=1, tensors={**START, FACTOR: torch.zeros(6, 2)}, ranks={FACTOR: 2})
    with pytest.raises(LopsidedError, match="noise is for whole factors"):
        private_average([cut], SHAPES, START, terms())


# -- epsilon ---------------------------------------------------------------------------------------------------------


def exact_epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """ε of a Gaussian mechanism: Balle and Wang 2018, arXiv:1805.06530, Theorem 8; T rounds are one of z/√T."""
    mu = math.sqrt(rounds) / noise_multiplier

    def excess(epsilon: float) -> float:
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta

    return brentq(excess, 0, 500, xtol=1e-12)


@pytest.mark.parametrize(
    ("noise_multiplier", "rounds", "delta"),
    [(1.0, 1, 1e-5), (1.0, 10, 1e-3), (4.0, 10, 1e-2), (0.5, 10, 1e-3), (20.0, 100, 1e-3)],
)
def test_epsilon_is_that_of_the_exact_formula(noise_multiplier, rounds, delta):
    pytest.importorskip("dp_accounting", reason="dp-accounting, of the extra dp, is not installed")
    epsilon = terms(noise_multiplier=noise_multiplier, delta=delta).epsilon(rounds)
    exact = exact_epsilon(noise_multiplier, rounds, delta)
    # The accountant's is an upper bound, but for the last digits.
    assert exact - 1e-6 <= epsilon <= exact + 1e-3


def test_epsilon_is_nothing_before_the_first_round_and_below_renyis_bound_after_it():
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting, of the extra dp, is not installed")
    assert terms().epsilon(0) == 0
    renyi = accounting.rdp.RdpAccountant()
    renyi.compose(accounting.GaussianDpEvent(2.0), 10)
    assert 0.8 * renyi.get_epsilon(1e-3) < terms().epsilon(10) < renyi.get_epsilon(1e-3)


def test_without_the_accountant_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("lopsided.federated.privacy.find_spec", lambda name: None)
    with pytest.raises(LopsidedError, match=r"install it with pip install 'lopsided\[dp\]'"):
        terms().epsilon(1)


# -- settings --------------------------------------------------------------------------------------------------------

NOISE = {"clients": 10, "clipping_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-3}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier must not be negative, got -1"),
        ({"noise_multiplier": math.nan}, "noise_multiplier must not be negative, got nan"),
        ({"clipping_norm": -1.0}, "clipping_norm must be positive, got -1"),
        ({"clipping_norm": 0.0}, "clipping_norm must be positive, got 0"),
        ({"clipping_norm": None}, "noise_multiplier=1 without a clipping_norm"),
        ({"delta": None}, "noise_multiplier=1 without a delta; expected one below 1/10"),
        ({"delta": 0.1}, "delta must be below 1 / clients: delta=0.1, clients=10"),
        ({"delta": 0.0}, "delta must lie between 0 and 1, got 0"),
        ({"delta": 1.0}, "delta must lie between 0 and 1, got 1"),
        ({"clients": 1}, "noise_multiplier=1 with 1 client; expected 2 at least"),
        ({"weighting": "examples"}, "with weighting=examples, which would give away"),
        ({"weighting": "rows"}, "unknown weighting 'rows'; expected one of examples, equal"),
        ({"noise_multiplier": None}, "received delta=0.001 without noise"),
        ({"noise_multiplier": 0.0}, "received delta=0.001 without noise"),
    ],
)
def test_noise_that_gives_no_privacy_is_refused_in_a_line(tmp_path, changes, match):
    assert FederationConfig(run=tiny_config(tmp_path, steps=None), **NOISE).privacy is not None
    with pytest.raises(LopsidedError, match=match) as caught:
        FederationConfig(run=tiny_config(tmp_path, steps=None), **{**NOISE, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({**NOISE, "clients": 2, "ranks": (4, 2)}, "noise_multiplier=1 with ranks; expected one rank"),
        ({"ranks": (4, 4, 4, 2)}, "secure_aggregation with ranks; expected one rank"),
        ({"wire_dtype": "bfloat16"}, "secure_aggregation with wire_dtype=bfloat16"),
    ],
)
def test_ranks_and_rounded_factors_have_neither_noise_nor_masks(tmp_path, more, match):
    masks = {} if "delta" in more else {"clients": 4, "clipping_norm": 1.0, "secure_aggregation": True}
    with pytest.raises(LopsidedError, match=match):
        FederationConfig(run=tiny_config(tmp_path, steps=None), **{**masks, **more})
