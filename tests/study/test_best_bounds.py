"""The bounds' parts: closed forms against resampling, joint levels against tables, and what would decide."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lopsided.stats import crossed_bootstrap_means
from lopsided.study.best_bounds import bounds_of, joint_chances, reaches, spread_of
from lopsided.study.needed import needed
from lopsided.study.paired_scores import PairedScores, jackknifed_scores, points_of, share_scores


def answers(methods: int, seeds: int, rows: int, *, seed: int = 0, seed_sd: float = 0.3) -> np.ndarray:
    """Which rows are answered rightly: rows are easy or hard for all, and seeds vary."""
    draw = np.random.RandomState(seed).standard_normal
    easy, tuned = 1.0 + draw(rows), seed_sd * draw((methods, seeds, 1))
    return easy + 0.3 * draw((methods, 1, rows)) + tuned + 0.4 * draw((methods, seeds, rows)) > 0


@pytest.mark.parametrize("methods", [2, 3])
def test_the_closed_form_agrees_with_a_resampling_of_seeds_and_rows(methods):
    right = answers(methods, 12, 300)
    scores = share_scores(right)
    spread = spread_of(scores)
    differences = 100.0 * (right[0].astype(float) - right[1])
    # Resampling counts what is a single run's own twice, once with the rows and once with the seeds, and divides by S.
    drawn = crossed_bootstrap_means(differences, 4000).var()
    seeds = differences.mean(axis=1).var() / 12
    assert drawn == pytest.approx(spread.rows[0, 1] - scores.least + seeds + spread.within[0, 1] / 12, rel=0.08)
    if methods == 2:
        # Of two methods, the pooled variance is that of the paired differences, with S - 1 degrees of freedom.
        assert spread.seeds.sum() == pytest.approx(differences.mean(axis=1).var(ddof=1))
        assert spread.degrees.tolist() == [11, 11]


def test_the_jackknife_agrees_with_the_closed_form():
    right = answers(3, 2, 150)
    runs = right.reshape(6, 150)
    exact = share_scores(right)
    found = jackknifed_scores(lambda run, index: 100.0 * runs[run][index].mean(), (3, 2), 150)
    assert found.values == pytest.approx(exact.values)
    assert found.covariance == pytest.approx(exact.covariance * 150 / 149, rel=1e-6)
    coarse = answers(2, 1, 2000).reshape(2, 2000)
    parts = jackknifed_scores(lambda run, index: 100.0 * coarse[run][index].mean(), (2, 1), 2000)
    assert np.diag(parts.covariance[:, 0, :, 0]) == pytest.approx(
        np.diag(share_scores(coarse[:, None]).covariance[:, 0, :, 0]), rel=0.4
    )


def test_the_joint_level_is_dunnetts():
    # Three methods of equal variance compared with a fourth, one-sided, at 95 %: 2.06 (Dunnett 1955, infinite degrees).
    scores = PairedScores(values=np.zeros((4, 1)), covariance=np.eye(4).reshape(4, 1, 4, 1), rows=100)
    chances = joint_chances(spread_of(scores), 0.95)
    reach = reaches(spread_of(scores), chances) / 2**0.5
    assert reach[~np.eye(4, dtype=bool)] == pytest.approx(np.full(12, 2.06), abs=0.06)


def test_an_unstable_method_keeps_its_own_variance():
    values = np.random.RandomState(0).standard_normal((8, 4))
    values[3] *= 30
    scores = PairedScores(values=values, covariance=np.zeros((8, 4, 8, 4)), rows=100)
    spread = spread_of(scores)
    assert spread.degrees[3] == 3
    assert spread.seeds[3] == pytest.approx((values[3] - np.delete(values, 3, 0).mean(0)).var(ddof=1))
    assert spread.degrees[0] == 6 * 3
    assert spread.seeds[0] == pytest.approx(1.0, abs=0.6)


def test_what_is_said_to_decide_decides():
    right = answers(4, 4, 200, seed_sd=0.02)
    scores = share_scores(right)
    spread, best = spread_of(scores), int(np.argmax(scores.means))
    bounds = bounds_of(scores, spread)
    assert bounds.worse[best] > 1.0
    options = needed(scores, spread, bounds, best, 1.0)
    assert all(option.seeds > 4 or option.rows > 200 for option in options)
    (more,) = [option for option in options if option.seeds == 4]
    bounds_then = [
        bounds_of(found, spread_of(found)).worse.min()
        for found in (share_scores(answers(4, 4, more.rows, seed=s, seed_sd=0.02)) for s in range(8))
    ]
    # An estimate of chance: half of the studies of that size are on either side of the margin, about.
    assert 0.5 < np.median(bounds_then) < 1.5
    # A wider margin needs less.
    wider = needed(scores, spread, bounds, best, float(bounds.worse[best]) - 0.01)
    assert min(option.rows for option in wider if option.seeds == 4) < more.rows


@pytest.mark.parametrize(("metric", "difference"), [("accuracy", 1.0), ("pearson", 1.0), ("bleu", 1.0)])
def test_points_are_hundredths_of_a_score_and_percent_of_a_perplexity(metric, difference):
    of_score = points_of(metric).of_score
    assert of_score(0.62) - of_score(0.61) == pytest.approx(difference)
    perplexity = points_of("perplexity")
    assert perplexity.of_score(20.2) - perplexity.of_score(20.0) == pytest.approx(1.0, abs=0.01)
    assert (perplexity.text(1.0), points_of(metric).text(1.0)) == ("1 %", "1 point")


def test_a_large_leaderboard_takes_well_under_a_second():
    right = answers(11, 3, 2000)
    started = time.perf_counter()
    scores = share_scores(right)
    bounds_of(scores, spread_of(scores))
    assert time.perf_counter() - started < 1.0
