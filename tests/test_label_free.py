"What a model expects of itself is what comes if it is right; where it must fail it does, and says nothing else."
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from mlscale import label_free, page_hinkley, schedules
from mlscale.label_free import drift_effects, expected_log_losses, expected_performance, surprise


def by_pairs(p):
    "The expected AUC, pair by pair."
    won = pairs = 0.
    for i, a in enumerate(p):
        for j, b in enumerate(p):
            if i == j: continue
            won += a * (1 - b) * ((a > b) + .5 * (a == b))
            pairs += a * (1 - b)
    return won / pairs


@pytest.mark.parametrize("seed", range(5))
def test_the_expected_auc_is_that_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    p = rng.random(60).round(1 + seed % 3)   # with ties
    assert expected_performance(p).auc == pytest.approx(by_pairs(p), abs=1e-12)


@pytest.mark.parametrize("draw", [lambda rng: rng.beta(2, 6, 1500), lambda rng: rng.choice([.1, .5, .9], 1500), lambda rng: rng.random(1500)**4])
def test_where_the_probabilities_are_right_the_measures_come_as_expected(draw):
    rng = np.random.default_rng(0)
    p, found = draw(rng), []
    for _ in range(80):
        y = rng.random(len(p)) < p
        found.append([log_loss(y, p), brier_score_loss(y, p), roc_auc_score(y, p), ((p >= .3) == y).mean(), y.mean(), surprise(y, p).mean()])
    own = expected_performance(p, threshold=.3)
    expected = [own.log_loss, own.brier, own.auc, own.accuracy, own.rate, 0]
    assert (np.abs(np.mean(found, 0) - expected) < 4.5 * np.std(found, 0) / np.sqrt(80) + 1e-4).all()


def test_a_concept_change_is_not_seen_without_labels_and_is_with_them():
    rng = np.random.default_rng(1)
    p = rng.beta(2, 4, 20_000)
    turned = expit(2 * logit(p.mean()) - logit(p))
    right, wrong = ((rng.random(len(p)) < t).astype(float) for t in (p, turned))
    assert abs(surprise(right, p).mean()) < .02 and surprise(wrong, p).mean() > .2
    assert log_loss(wrong, p) > expected_performance(p).log_loss + .2   # the estimate without labels is wrong, as it must be


def test_there_is_one_surprise(): assert label_free.surprise is page_hinkley.surprise is schedules.surprise


def test_certainty_costs_nothing_expected_and_something_finite_when_wrong():
    assert np.abs(expected_log_losses([0, 1])).max() < 1e-14 and np.abs(surprise([1, 0], [1, 0])).max() < 1e-14
    assert (30 < surprise([0, 1], [1, 0])).all() and np.isfinite(surprise([0, 1], [1, 0])).all()
    assert np.isnan(expected_performance([0, 0]).auc) and expected_performance([1.]).accuracy == 1


# ---- which drift matters

def table(rng, n, **columns):
    "Two columns that belong together, one that the model uses, one that it does not."
    together = rng.standard_normal(n)
    made = {"a": together, "b": together + .1 * rng.standard_normal(n), "used": rng.standard_normal(n), "unused": rng.standard_normal(n)}
    return pd.DataFrame(made | {c: made[c] + by for c, by in columns.items()})


def predict(X): return expit(-1 + X.used + 2 * np.abs(X.a - X.b))


def test_the_effect_is_that_of_the_drift_and_not_of_the_swap():
    rng = np.random.default_rng(2)
    before, now = table(rng, 5000), table(rng, 5000, used=.5, unused=3)
    effects = drift_effects(predict, now, before, rows=4000)
    assert effects.index[0] == "used" and effects.score["used"] == pytest.approx((predict(now) - predict(before)).mean(), abs=.03)
    assert effects.score["unused"] == effects.expected_loss["unused"] == 0
    assert (effects.score[["a", "b"]].abs() < 4 * effects.error[["a", "b"]]).all()   # torn apart, and not drifted
    torn = predict(now.assign(a=rng.permutation(before.a))).mean() - predict(now).mean()
    assert torn > .2   # which a single swap would report


def test_without_drift_an_effect_is_within_its_error():
    beyond = 0
    for seed in range(40):
        rng = np.random.default_rng((3, seed))
        effects = drift_effects(predict, table(rng, 20_000), table(rng, 20_000), columns=["used"], rows=1000, seed=seed)
        beyond += abs(effects.score["used"]) > 1.96 * effects.error["used"]
    assert beyond <= 7   # of 40 at 5 %: more with probability below 1 in 1,000


def test_the_rows_of_a_table_and_its_index_and_order_do_not_matter():
    rng = np.random.default_rng(4)
    before, now = table(rng, 500), table(rng, 300, used=1)
    plainly = drift_effects(predict, now, before, seed=7)
    other = drift_effects(predict, now.set_index(pd.Index(range(900, 600, -1))), before.set_index(pd.Index(["x"] * 500)), seed=7)
    assert plainly.equals(other)
    frozen = now.copy()
    drift_effects(predict, now, before)
    assert now.equals(frozen)


@pytest.mark.parametrize("attempt, word", [
    (lambda: expected_performance([]), "p: shape"),
    (lambda: expected_performance([[.5]]), "p: shape"),
    (lambda: expected_performance([.5, None]), "none missing"),
    (lambda: expected_performance([1.2]), "from 0 to 1"),
    (lambda: expected_performance(["late"]), "numbers only"),
    (lambda: expected_performance([.5], threshold=2), "threshold=2"),
    (lambda: surprise([1], [.5, .5]), "one prediction for each label"),
    (lambda: surprise([2], [.5]), "labels 0 and 1"),
    (lambda: drift_effects(predict, table(np.random.default_rng(0), 5), pd.DataFrame({"a": [1.]})), "reference"),
    (lambda: drift_effects(predict, table(np.random.default_rng(0), 5)[:0], table(np.random.default_rng(0), 5)), "X: no rows"),
    (lambda: drift_effects(lambda X: [.5], table(np.random.default_rng(0), 5), table(np.random.default_rng(0), 5)), "predict: 1 answers"),
    (lambda: drift_effects(predict, table(np.random.default_rng(0), 5), table(np.random.default_rng(0), 5), rows=10), "rows=10")])
def test_what_makes_no_sense_is_refused_by_name(attempt, word):
    with pytest.raises(ValueError, match=word): attempt()


def test_categories_that_differ_between_then_and_now_stay_categories_and_keep_their_codes():
    before, now = (pd.DataFrame({"c": pd.Categorical(x * 50)}) for x in (["a", "b"], ["b", "z"]))
    seen = []

    def predict(X):
        seen.append(tuple(X.c.cat.categories))
        return X.c.cat.codes.map({0: .1, 1: .2, 2: .6})   # a and b as the reference has them, then what is new

    effects = drift_effects(predict, now, before, rows=4000)
    assert seen == [("a", "b", "z")] and effects.score["c"] == pytest.approx(.4 - .15, abs=.02)
    assert drift_effects(predict, before, before, rows=100).score["c"] == pytest.approx(0, abs=.05) and list(now.c.cat.categories) == ["b", "z"]
