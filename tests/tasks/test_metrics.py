from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from lopsided.errors import LopsidedError
from lopsided.tasks.metrics import Metric, difference_standard_error, get_metric
from lopsided.tasks.score_functions import SCORES


def answers(seed: int, n: int = 400, classes: int = 2, right: float = 0.8) -> dict[str, np.ndarray]:
    generator = np.random.RandomState(seed)
    label = np.random.RandomState(99).randint(0, classes, n)
    guess = generator.randint(0, classes, n)
    return {"label": label, "prediction": np.where(generator.rand(n) < right, label, guess)}


def scores(seed: int, n: int = 300) -> dict[str, np.ndarray]:
    label = np.round(np.random.RandomState(99).rand(n) * 5, 1)  # rounded, so that there are ties
    return {"label": label, "prediction": label + np.random.RandomState(seed).randn(n)}


def texts(seed: int, n: int = 200) -> dict[str, np.ndarray]:
    tokens = np.random.RandomState(99).randint(1, 4, n)
    generator = np.random.RandomState(seed)
    return {
        "tokens": tokens,
        "loss": generator.rand(n) * 3,
        "right_tokens": generator.binomial(tokens, 0.7),
        "first_right": generator.randint(0, 2, n),
        "right_option": tokens,
        "chosen": np.where(generator.rand(n) < 0.7, tokens, 0),
        **written(seed, n),
    }


def written(seed: int, n: int = 200) -> dict[str, np.ndarray]:
    """Answers to n / 2 prompts, each of which has one to four references, in no order."""
    rows = np.random.RandomState(99)
    prompts, words = rows.randint(0, n // 2, n), ["the", "red", "cat", "sat", "on", "a", "mat", "and", "ran"]
    references = np.array([" ".join(rows.choice(words, size=rows.randint(3, 9))) for _ in range(n)])
    generator = np.random.RandomState(seed)
    right = {prompt: str(references[prompts == prompt][0]) for prompt in set(prompts.tolist())}
    made = {
        # Right, or right but for its first word.
        prompt: text if generator.rand() < 0.3 else " ".join(["ox", *text.split()[1:]])
        for prompt, text in right.items()
    }
    answers = np.array([made[prompt] for prompt in prompts.tolist()])
    return {"prompt": prompts, "answer": answers, "reference": references}


def rows_for(name: str, seed: int) -> dict[str, np.ndarray]:
    return {"classification": answers, "regression": scores, "generation": texts}[SCORES[name].kinds[0]](seed)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("accuracy", sk.accuracy_score),
        ("f1", sk.f1_score),
        ("f1_macro", lambda y, p: sk.f1_score(y, p, average="macro")),
        ("matthews_correlation", sk.matthews_corrcoef),
        ("pearson", lambda y, p: stats.pearsonr(y, p).statistic),
        ("spearman", lambda y, p: stats.spearmanr(y, p).statistic),
    ],
)
def test_values_agree_with_scikit_learn_and_scipy(name, oracle):
    rows = rows_for(name, 1)
    assert get_metric(name).value(rows) == pytest.approx(oracle(rows["label"], rows["prediction"]), abs=1e-12)


def test_perplexity_weighs_every_token_alike():
    token_losses = [[0.5, 1.5, 4.0], [2.0], [0.1, 0.2]]
    rows = {
        "loss": np.array([np.mean(row) for row in token_losses]),
        "tokens": np.array([len(row) for row in token_losses]),
    }
    every = [loss for row in token_losses for loss in row]
    assert get_metric("perplexity").value(rows) == pytest.approx(math.exp(sum(every) / len(every)))


def test_perplexity_ignores_the_loss_of_a_row_without_tokens():
    rows = {"loss": np.array([1.0, np.nan]), "tokens": np.array([3, 0])}
    assert get_metric("perplexity").value(rows) == pytest.approx(math.e)
    with pytest.raises(LopsidedError, match="at least one token"):
        get_metric("perplexity").value({"loss": np.ones(2), "tokens": np.zeros(2)})


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews_correlation"])
@pytest.mark.parametrize("side", ["prediction", "label"])
def test_nothing_correlates_with_a_constant(name, side):
    rows = rows_for(name, 1)
    rows[side] = np.ones_like(rows["label"])
    found = get_metric(name).measure(rows)
    assert math.isnan(get_metric(name).value(rows))
    assert (found.score, found.se) == (None, None)
    assert found.why["score"] == f"all {side}s are equal, and nothing correlates with a constant"


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_diverged_model_scores_nan(name):
    rows = scores(1)
    rows["prediction"][3] = np.nan
    assert math.isnan(get_metric(name).value(rows))


def test_standard_error_of_accuracy_is_binomial():
    rows = answers(1)
    p = sk.accuracy_score(rows["label"], rows["prediction"])
    assert get_metric("accuracy").standard_error(rows) == pytest.approx(math.sqrt(p * (1 - p) / 400))


@pytest.mark.parametrize("name", sorted(name for name, score in SCORES.items() if not score.is_share))
def test_bootstrap_is_the_spread_of_the_metric_over_resamples(name):
    rows, metric = rows_for(name, 1), get_metric(name)
    # The rows of each unit: itself, or all those of a prompt.
    n = len(next(iter(rows.values())))
    unit = rows["prompt"] if "answer" in metric.entry.further else np.arange(n)
    groups = [np.flatnonzero(unit == name) for name in np.unique(unit)]
    generator = np.random.RandomState(5)
    values = []
    for _ in range(50):
        drawn = [groups[group] for group in generator.randint(0, len(groups), size=len(groups))]
        index = np.concatenate(drawn)
        # A prompt that is drawn twice is two prompts.
        numbers = np.repeat(np.arange(len(drawn)), [len(group) for group in drawn])
        values.append(metric.value({key: array[index] for key, array in rows.items()} | {"prompt": numbers}))
    assert metric.standard_error(rows, seed=5, resamples=50) == pytest.approx(np.std(values, ddof=1))
    assert metric.standard_error(rows, seed=6, resamples=50) != metric.standard_error(rows, seed=5, resamples=50)


def test_bootstrap_of_pearson_is_near_the_theory():
    rows = scores(1, n=2000)
    r = get_metric("pearson").value(rows)
    assert get_metric("pearson").standard_error(rows) == pytest.approx((1 - r**2) / math.sqrt(2000), rel=0.25)


def test_paired_error_of_accuracy_counts_only_the_rows_that_differ():
    label = np.zeros(100, int)
    a, b = np.zeros(100, int), np.zeros(100, int)
    a[:6], b[4:14] = 1, 1  # a alone is wrong in 4 rows, b alone in 8, both in 2
    expected = math.sqrt(12 / 100 - ((8 - 4) / 100) ** 2) / 10
    rows_a, rows_b = {"label": label, "prediction": a}, {"label": label, "prediction": b}
    assert difference_standard_error(get_metric("accuracy"), rows_a, rows_b) == pytest.approx(expected)
    assert difference_standard_error(get_metric("accuracy"), rows_a, rows_a) == 0.0


@pytest.mark.parametrize("name", sorted(name for name, score in SCORES.items() if not score.is_share))
def test_paired_bootstrap_draws_the_same_rows_for_both(name):
    metric, a = get_metric(name), rows_for(name, 1)
    assert difference_standard_error(metric, a, a) == 0.0
    b = {key: array.copy() for key, array in a.items()}
    other = rows_for(name, 2)
    same = rows_for(name, 1).get("prompt", np.arange(len(b[SCORES[name].reads[0]]))) < 20
    for key in set(SCORES[name].reads) - {"label", "tokens", "prompt", "reference", "right_option"}:
        b[key][same] = other[key][same]  # nearly the same answers
    paired = difference_standard_error(metric, a, b)
    assert 0 < paired < 0.6 * math.hypot(metric.standard_error(a), metric.standard_error(b))
    assert paired == difference_standard_error(metric, a, b)


def test_paired_error_refuses_other_rows():
    a, b = answers(1), answers(2)
    b["label"] = 1 - b["label"]
    with pytest.raises(LopsidedError, match="same rows on both sides"):
        difference_standard_error(get_metric("accuracy"), a, b)
    with pytest.raises(LopsidedError, match=r"400 and 300 rows"):
        difference_standard_error(get_metric("accuracy"), a, {k: v[:300] for k, v in a.items()})
    c = texts(1)
    with pytest.raises(LopsidedError, match="'tokens' differs"):
        difference_standard_error(get_metric("perplexity"), c, {**c, "tokens": c["tokens"] + 1})


def test_unknown_metric_lists_the_known_and_the_nearest():
    with pytest.raises(LopsidedError, match=r"accuracy, f1, .*rougeL; received 'acuracy'; did you mean 'accuracy'"):
        get_metric("acuracy")
    with pytest.raises(LopsidedError, match="greater_is_better=False"):
        Metric("perplexity", True)


def test_rows_that_a_metric_cannot_read_are_refused():
    with pytest.raises(LopsidedError, match="reads prediction, label: received label; add prediction"):
        get_metric("accuracy").value({"label": np.ones(3)})
    with pytest.raises(LopsidedError, match="one entry per row"):
        get_metric("accuracy").value({"label": np.ones(3), "prediction": np.ones((3, 2))})
    with pytest.raises(LopsidedError, match="at least one row"):
        get_metric("accuracy").value({"label": np.ones(0), "prediction": np.ones(0)})
    with pytest.raises(LopsidedError, match="at least 2 resamples"):
        get_metric("f1").standard_error(answers(1), resamples=1)
    with pytest.raises(LopsidedError, match="use metric='f1_macro'"):
        get_metric("f1").value(answers(1, classes=3))


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.filterwarnings("ignore:A single label")
def test_counts_agree_with_scikit_learn_on_few_rows(classes, seed):
    # Few rows, so that classes go missing on one side or both.
    rows = answers(seed, n=6, classes=classes, right=0.4)
    rows["label"] = np.random.RandomState(seed).randint(0, classes, 6)
    label, prediction = rows["label"], rows["prediction"]
    macro = sk.f1_score(label, prediction, average="macro", zero_division=0)
    assert get_metric("f1_macro").value(rows) == pytest.approx(macro)
    matthews = get_metric("matthews_correlation").value(rows)
    # scikit-learn gives 0 to what is undefined.
    constant = len(set(label)) == 1 or len(set(prediction)) == 1
    assert math.isnan(matthews) if constant else matthews == pytest.approx(sk.matthews_corrcoef(label, prediction))
    if classes <= 2:
        f1 = get_metric("f1").value(rows)
        nothing = not label.any() and not prediction.any()
        assert math.isnan(f1) if nothing else f1 == pytest.approx(sk.f1_score(label, prediction, zero_division=0))


# -- what the rows do not define ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_one_row_has_no_standard_error(name):
    rows = {key: array[:1] for key, array in rows_for(name, 1).items()}
    metric = get_metric(name)
    assert math.isnan(metric.standard_error(rows))
    assert math.isnan(difference_standard_error(metric, rows, rows))
    assert metric.measure(rows).se is None
    assert metric.measure(rows).why["se"]


@pytest.mark.parametrize("name", [name for name, score in SCORES.items() if "prediction" in score.reads])
@pytest.mark.parametrize("position", [0, 57, -1])
@pytest.mark.parametrize(
    ("column", "bad"), [("prediction", np.nan), ("prediction", np.inf), ("label", np.nan), ("loss", np.nan)]
)
def test_rows_without_a_finite_answer_have_no_score(name, position, column, bad):
    """The largest of logits that are NaN is a class all the same, and often the right one."""
    rows = {key: array.astype(float) for key, array in rows_for(name, 1).items()}
    rows["loss"] = np.ones(len(rows["label"]))
    metric = get_metric(name)
    whole = metric.measure(rows)
    assert whole.score is not None
    assert whole.why == {}
    broken = {key: array.copy() for key, array in rows.items()}
    broken[column][position] = bad
    found = metric.measure(broken)
    assert (found.score, found.se) == (None, None)
    assert found.why["score"] == f"the {column} of 1 of {len(rows['label'])} rows is not finite"
    assert math.isnan(metric.value(broken))
    if column != "label":
        assert math.isnan(difference_standard_error(metric, rows, broken))


def test_a_perplexity_too_large_for_a_float_is_none():
    rows = {"loss": np.array([800.0, 700.0]), "tokens": np.array([2, 2])}
    found = get_metric("perplexity").measure(rows)
    assert found.score is None
    assert found.why["score"] == "the mean loss of 750 nats is too large for a perplexity"
    assert get_metric("perplexity").value({**rows, "loss": np.array([700.0, 700.0])}) == pytest.approx(math.exp(700))
    for bad in (np.nan, np.inf):
        lost = get_metric("perplexity").measure({**rows, "loss": np.array([1.0, bad])})
        assert lost.why["score"] == "the loss of 1 of 2 rows is not finite"


def test_f1_without_a_positive_on_either_side_is_undefined():
    zeros, ones = np.zeros(20, int), np.ones(20, int)
    assert math.isnan(get_metric("f1").value({"prediction": zeros, "label": zeros}))
    # With positives that are missed, or made up, it is 0.
    assert get_metric("f1").value({"prediction": zeros, "label": ones}) == 0.0
    assert get_metric("f1").value({"prediction": ones, "label": zeros}) == 0.0


def test_a_score_that_some_resamples_do_not_define_has_no_standard_error():
    # One positive among five: a third of the resamples have none.
    rows = {"prediction": np.array([0, 0, 0, 0, 1]), "label": np.array([0, 0, 0, 0, 1])}
    found = get_metric("matthews_correlation").measure(rows)
    assert (found.score, found.se) == (pytest.approx(1.0), None)
    assert re.fullmatch(r"the score is undefined in \d+ of 300 samples of the rows", found.why["se"])
