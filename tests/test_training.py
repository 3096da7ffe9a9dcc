"Training: splits keep the order of time and the delay of labels, the same seed gives the same model, scores and intervals are what they say."
import json
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn import metrics
from sklearn.ensemble import HistGradientBoostingClassifier

from mlscale import artifacts
from mlscale.data import load_flights
from mlscale.evaluation import estimate_mean
from mlscale.training import Comparison, Evaluation, calibration, compare, evaluate, fit_model, known_by, log_losses, time_split, validate

T = lambda text: pd.Timestamp(text, tz="UTC")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(3000, 3)), columns=list("abc"))
    y = (rng.random(3000) < 1 / (1 + np.exp(-2 * X.a))).astype(float)
    X.loc[::7, "b"] = np.nan
    return X, y


# ---- time

@given(st.lists(st.integers(0, 1000), min_size=2, max_size=50), st.integers(0, 1000), st.integers(0, 200))
def test_no_row_of_the_test_is_older_than_one_of_the_training(minutes, until, gap):
    times = pd.Series(T("2013-01-01") + pd.to_timedelta(minutes, unit="min"))
    train_until = T("2013-01-01") + pd.Timedelta(minutes=until)
    try: train, test = time_split(times, train_until=train_until, test_from=train_until + pd.Timedelta(minutes=gap))
    except ValueError as e: assert "empty" in str(e)
    else: assert not (train & test).any() and times[train].max() < train_until <= times[test].min() and (times[test].min() - train_until) >= pd.Timedelta(minutes=gap)


def test_the_bounds_belong_where_they_say():
    times = pd.Series(pd.to_datetime(["2013-01-01", "2013-01-02", "2013-01-03", "2013-01-04"], utc=True))
    train, test = time_split(times, train_until=T("2013-01-02"), test_until=T("2013-01-04"))
    assert train.tolist() == [True, False, False, False] and test.tolist() == [False, True, True, False]
    assert train.dtype == bool and isinstance(train, np.ndarray)


def test_a_label_is_known_from_its_own_time_on_and_never_if_it_never_came():
    frame = pd.DataFrame({"label_time": [T("2013-01-01"), T("2013-01-02"), pd.NaT]}, index=[5, 5, 9])
    assert known_by(frame, T("2013-01-01")).tolist() == [True, False, False]
    assert known_by(frame, T("2014-01-01")).tolist() == [True, True, False]
    with pytest.raises(ValueError, match="label_time"): known_by(frame.rename(columns={"label_time": "x"}), T("2013-01-01"))


def test_bad_splits_are_named():
    times = pd.Series(pd.to_datetime(["2013-01-01", "2013-01-02"], utc=True))
    with pytest.raises(ValueError, match="test_from"): time_split(times, train_until=T("2013-01-02"), test_from=T("2013-01-01"))
    with pytest.raises(ValueError, match="test part is empty"): time_split(times, train_until=T("2015-01-01"))
    with pytest.raises(ValueError, match="train part is empty"): time_split(times, train_until=T("2012-01-01"))
    with pytest.raises(ValueError, match="missing"): time_split(times.where(times > times[0]), train_until=T("2013-01-02"))
    with pytest.raises(TypeError): time_split(times, train_until=pd.Timestamp("2013-01-02"))


# ---- the model

@pytest.mark.parametrize("kind", ["boosted_trees", "logistic"])
def test_the_same_seed_gives_the_same_model_and_it_learned_something(rows, kind):
    X, y = rows
    one, two = (fit_model(X, y, kind=kind, seed=3).predict_proba(X)[:, 1] for _ in range(2))
    assert (one == two).all() and metrics.roc_auc_score(y, one) > .8
    assert np.isfinite(one).all()


def test_trees_are_the_ones_that_were_agreed_on(rows):
    X, y = rows
    model = fit_model(X, y)
    assert model.n_iter_ == 150 and list(model.feature_names_in_) == list("abc")
    leaves = [tree.get_n_leaf_nodes() for stage in model._predictors for tree in stage]
    assert 2 <= max(leaves) <= 31
    assert min(node["count"] for stage in model._predictors for tree in stage for node in tree.nodes if node["is_leaf"]) >= 100


@pytest.mark.parametrize("kind", ["boosted_trees", "logistic"])
def test_weights_count(rows, kind):
    X, y = rows
    plain, twice = fit_model(X, y, kind=kind).predict_proba(X)[:, 1], fit_model(X, y, kind=kind, sample_weight=np.where(y == 1, 3., 1.)).predict_proba(X)[:, 1]
    assert twice.mean() > plain.mean() + .05


def test_a_weight_of_three_is_a_row_that_stands_there_three_times(rows):
    rng, y = np.random.default_rng(1), rows[1]
    X = pd.DataFrame({"a": rows[0].a.gt(0) + rows[0].a.gt(1.), "c": rng.integers(0, 3, len(y))}, dtype=float)   # so few values that no leaf is too small either way
    weight = np.where(X.c > 0, 3, 1) ** y.astype(int)
    plain, weighted = fit_model(X, y), fit_model(X, y, sample_weight=weight)
    repeated = fit_model(X.loc[X.index.repeat(weight)], np.repeat(y, weight))
    p, q, without = (m.predict_proba(X)[:, 1] for m in (weighted, repeated, plain))
    assert X.value_counts().min() >= 100 and np.allclose(p, q, atol=1e-9) and np.abs(p - without).mean() > .05


def test_weights_count_in_the_same_way_where_values_are_many(rows):
    X, y = rows
    weight = np.where(X.c > 0, 3, 1) ** y.astype(int)
    fits = [fit_model(X, y, sample_weight=weight), fit_model(X.loc[X.index.repeat(weight)], np.repeat(y, weight)), fit_model(X, y)]
    other = pd.DataFrame(np.random.default_rng(3).normal(size=(20_000, 3)), columns=list("abc"))
    tilt = np.where(other.c > 0, 3, 1) * np.exp(2 * other.a)
    truth, (p, q, without) = tilt / (1 + tilt), (m.predict_proba(other)[:, 1] for m in fits)
    loss = lambda of: -(truth * np.log(of) + (1 - truth) * np.log1p(-of)).mean()
    assert loss(p) < loss(q) + .005 and loss(p) < loss(without) - .03


def test_weights_of_one_are_no_weights(rows):
    X, y = rows
    ours, plain = fit_model(X, y, sample_weight=np.ones(len(y))), fit_model(X, y)
    theirs = HistGradientBoostingClassifier(**ours.get_params()).fit(X, y, sample_weight=np.ones(len(y)))
    for model in (plain, theirs): assert np.array_equal(ours.predict_proba(X), model.predict_proba(X))


def test_trees_of_weighted_rows_are_scikit_learns_where_it_draws_the_same_borders(rows):
    X, y = rows[0].round(1), rows[1]
    weight = np.random.default_rng(1).choice([0, 1, 2.5, 10], len(y))
    ours = fit_model(X, y, sample_weight=weight)
    theirs = HistGradientBoostingClassifier(**ours.get_params()).fit(X, y, sample_weight=weight)
    assert X.nunique().max() <= 255 and type(ours) is HistGradientBoostingClassifier
    assert all(np.array_equal(a.nodes, b.nodes) for a, b in zip(*((t for stage in m._predictors for t in stage) for m in (ours, theirs)), strict=True))


@pytest.mark.parametrize("as_frame", [True, False])
def test_a_weighted_model_splits_its_rows_by_their_own_values_as_in_training(rows, as_frame, tmp_path):
    X, y = rows[0].astype(np.float32).astype(float), rows[1]
    before = X.copy()
    model = fit_model(X if as_frame else X.to_numpy(), y, sample_weight=np.random.default_rng(2).uniform(.5, 5, len(y)))
    assert X.equals(before) and X.nunique().min() > 2000 and (list(getattr(model, "feature_names_in_", "abc")) == list("abc"))
    roots = [tree.nodes for stage in model._predictors for tree in stage]
    for nodes in roots:
        root, x = nodes[0], X.to_numpy()[:, nodes[0]["feature_idx"]]
        assert nodes[root["left"]]["count"] == ((x <= root["num_threshold"]) | (np.isnan(x) & bool(root["missing_go_to_left"]))).sum()
    assert len({(n[0]["feature_idx"], n[0]["num_threshold"]) for n in roots}) > 5
    bundle = artifacts.save(model, tmp_path / "model", example=X)
    assert bundle.engine == "onnx" and np.allclose(bundle.predict(X), model.predict_proba(X.to_numpy() if not as_frame else X)[:, 1], atol=1e-6)


@pytest.mark.parametrize("kind", ["boosted_trees", "logistic"])
def test_a_column_that_is_missing_throughout_is_named(rows, kind):
    X, y = rows
    with pytest.raises(ValueError, match="'d'"): fit_model(X.assign(d=np.nan), y, kind=kind)
    with pytest.raises(ValueError, match="3"): fit_model(X.assign(d=np.nan).to_numpy(), y, kind=kind)


@pytest.mark.parametrize(("change", "words"), [
    (dict(X=np.ones(5)), "X: shape"), (dict(X=np.empty((0, 2)), y=np.empty(0)), "X: shape"), (dict(X=np.full((4, 1), np.inf)), "infinite"), (dict(X=[["a"]] * 4), "X: numbers"),
    (dict(y=[0, 1, 1]), "y: shape"), (dict(y=[0, 1, np.nan, 1]), "y: labels"), (dict(y=[0, 1, 2, 1]), "y: labels"), (dict(y=[1, 1, 1, 1]), "both present"),
    (dict(y=[0, 1, None, 1]), "y: labels"), (dict(kind="forest"), "kind='forest'"), (dict(sample_weight=[1, 1, 1]), "sample_weight"), (dict(sample_weight=[1, 1, -1, 1]), "sample_weight"),
    (dict(sample_weight=[1, 1, np.nan, 1]), "sample_weight"), (dict(sample_weight=[0, 0, 0, 0]), "sample_weight")])
def test_bad_training_input_is_named(change, words):
    arguments = dict(X=np.ones((4, 1)), y=[0, 1, 0, 1]) | change
    with pytest.raises(ValueError, match=words): fit_model(arguments.pop("X"), arguments.pop("y"), **arguments)


# ---- scores

@settings(max_examples=50, deadline=None)
@given(st.integers(2, 200), st.integers(0, 2), st.integers(0, 10**6), st.booleans())
def test_scores_are_scikit_learns(n, digits, seed, weighted):
    rng = np.random.default_rng(seed)
    p, y = rng.random(n).round(digits), np.append([0., 1.], rng.integers(0, 2, n - 2)).astype(float)
    w = rng.random(n) + .01 if weighted else None
    ours = evaluate(y, p, weights=w)
    assert np.isclose(ours.auc, metrics.roc_auc_score(y, p, sample_weight=w))
    assert np.isclose(ours.log_loss, metrics.log_loss(y, p, sample_weight=w, labels=[0, 1])) and np.isclose(ours.brier, metrics.brier_score_loss(y, p, sample_weight=w))
    assert np.isclose(ours.rate, np.average(y, weights=w)) and ours.n == n and ours.intervals is None


def test_calibration_error_by_hand():
    y, p = np.array([0, 0, 1, 1, 0, 1, 1, 1.]), np.repeat([.25, .75], 4)
    assert np.isclose(evaluate(y, p).calibration_error, .25 / 2)   # groups .25 -> .5 observed, .75 -> .75 observed
    table = calibration(y, p)
    assert table.observed.tolist() == [.5, .75] and table.n.tolist() == [4, 4]
    assert calibration(y, np.full(8, .5)).n.tolist() == [8]
    rng = np.random.default_rng(0)
    p = rng.random(40_000)
    assert evaluate((rng.random(40_000) < p).astype(float), p).calibration_error < .01 < evaluate((rng.random(40_000) < p**2).astype(float), p).calibration_error
    assert (calibration((rng.random(40_000) < p).astype(float), p, bins=10).n - 4000).abs().max() <= 1


def test_one_class_has_no_auc_and_certainty_has_a_finite_loss():
    assert np.isnan(evaluate([1, 1], [.2, .3]).auc)
    assert np.isfinite(log_losses([0, 1], [1, 0])).all() and log_losses([0, 1], [0, 1]).max() < 1e-10
    assert np.allclose(log_losses([1, 0], [.25, .25]), -np.log([.25, .75]))


def test_an_evaluation_is_plain_values():
    e = evaluate([0, 1] * 30, [.2, .7] * 30, days=np.repeat(np.arange(20), 3), block_days=2)
    assert isinstance(e, Evaluation) and {type(v) for k, v in e.to_dict().items() if k != "intervals"} <= {int, float}
    assert set(e.to_dict()["intervals"]) == {"rate", "log_loss", "auc", "brier", "calibration_error"} and "intervals" not in evaluate([0, 1], [.1, .2]).to_dict()
    assert "log_loss" in repr(e) and "[" in repr(e)


# ---- intervals

def worlds_covered(block_days=None, worlds=400, days=140, m=15, phi=.6, by_row=False):
    "Share of worlds with autocorrelated days whose interval for the rate holds the truth."
    rng, hits, z = np.random.default_rng(1), 0, np.random.default_rng(9).standard_normal(200_000)
    truth = (1 / (1 + np.exp(1.3 - .8 * z))).mean()
    for _ in range(worlds):
        mu = [rng.standard_normal()]
        for _ in range(days - 1): mu.append(phi * mu[-1] + np.sqrt(1 - phi**2) * rng.standard_normal())
        y = (rng.random((days, m)) < 1 / (1 + np.exp(1.3 - .8 * np.array(mu)))[:, None]).ravel().astype(float)
        low, high = evaluate(y, np.full(len(y), .25), days=np.arange(len(y)) if by_row else np.repeat(np.arange(days), m), block_days=block_days, n_resamples=20).intervals["rate"]
        hits += low <= truth <= high
    return hits / worlds


def test_intervals_hold_the_truth_where_days_resemble_each_other_and_rows_do_not():
    assert worlds_covered() >= .93 > .85 > worlds_covered(1) and worlds_covered(1, worlds=40, by_row=True) < .65


def test_intervals_hold_the_truth_on_real_days():
    "Twenty weeks dealt from fortnights of the real year, whose rate is the truth; also where no error is left to chance."
    flights = load_flights().dropna(subset="late")
    by_day = [part.to_numpy() for _, part in flights.late.iloc[::10].groupby(flights.sched_dep.dt.tz_convert("America/New_York").dt.date)]
    truth, worlds, held, rng = np.concatenate(by_day).mean(), 400, 0, np.random.default_rng(0)
    for _ in range(worlds):
        chosen = [by_day[d] for d in ((rng.integers(len(by_day), size=(10, 1)) + np.arange(14)) % len(by_day)).ravel()]
        low, high = estimate_mean(np.concatenate(chosen), days=np.repeat(np.arange(140), [len(c) for c in chosen])).interval()
        held += low <= truth <= high
    assert held >= stats.binom.ppf(.01, worlds, .93)   # weekly blocks hold it in some 330


@pytest.mark.parametrize(("days", "block_days", "waves"), [(140, None, 7), (14, None, 2), (4, None, 2), (1000, None, 25), (30, 1, 29), (30, 5, 6), (2, 1, 1)])
def test_the_number_of_waves_follows_from_the_days(days, block_days, waves):
    found = estimate_mean(np.arange(2.*days), days=np.arange(2*days) // 2, block_days=block_days)
    assert found.waves == waves


def test_independent_days_have_the_textbook_interval():
    x = np.random.default_rng(0).normal(size=50)
    found, theirs = estimate_mean(x, days=np.arange(50), block_days=1), stats.ttest_1samp(x, 0)
    assert np.allclose(found.interval(.9), theirs.confidence_interval(.9)) and np.isclose(found.p_value, theirs.pvalue)
    c = compare(np.ones(50), np.full(50, .5), 1 / (1 + np.exp(x)), days=np.arange(50), block_days=1, level=.9)
    d = log_losses(np.ones(50), np.full(50, .5)) - log_losses(np.ones(50), 1 / (1 + np.exp(x)))
    assert np.allclose((c.low, c.high), stats.ttest_1samp(d, 0).confidence_interval(.9)) and (c.rows, c.days) == (50, 50)


def test_an_estimate_is_what_evaluate_says_and_what_it_was_given():
    rng = np.random.default_rng(0)
    y, p, days, w = (rng.random(900) < .3).astype(float), rng.random(900), rng.integers(0, 60, 900), rng.random(900)
    e = evaluate(y, p, days=days, weights=w)
    for name, x in {"rate": y, "log_loss": log_losses(y, p), "brier": (p - y)**2}.items():
        found = estimate_mean(x, days=days, weights=w)
        assert np.isclose(found.value, getattr(e, name)) and np.allclose(found.interval(), e.intervals[name])
    assert estimate_mean(np.ones(60), days=np.arange(60)).p_value == 0 and estimate_mean(np.zeros(60), days=np.arange(60)).p_value == 1
    for bad in ([1., np.nan], [[1.], [2.]], ["a", "b"]):
        with pytest.raises(ValueError, match="x: "): estimate_mean(bad, days=[1, 2], block_days=1)


def test_the_auc_moves_as_its_interval_says():
    "Its error from days that are drawn anew, where days are independent."
    rng = np.random.default_rng(1)
    days = np.repeat(np.arange(200), 10)
    score = rng.standard_normal(200)[days] + rng.standard_normal(2000)
    y, p = (rng.random(2000) < 1 / (1 + np.exp(1 - score - rng.standard_normal(200)[days]))).astype(float), 1 / (1 + np.exp(-score))
    drawn = [np.concatenate([np.flatnonzero(days == d) for d in rng.integers(0, 200, 200)]) for _ in range(200)]
    spread = np.std([metrics.roc_auc_score(y[rows], p[rows]) for rows in drawn])
    low, high = evaluate(y, p, days=days, block_days=1).intervals["auc"]
    assert .85 < (high - low)/2/stats.t.ppf(.975, 199)/spread < 1.15


def test_the_interval_of_the_calibration_error_holds_what_is_true():
    rng, held = np.random.default_rng(0), {"right": 0, "wrong": 0}
    for _ in range(100):
        q = rng.uniform(.05, .95, 1200)
        y, days = (rng.random(1200) < q).astype(float), np.repeat(np.arange(60), 20)
        for name, p, truth in (("right", q, 0), ("wrong", .25 + q/2, .1125)):
            low, high = evaluate(y, p, days=days, block_days=1, n_resamples=200).intervals["calibration_error"]
            held[name] += low - 1e-3 <= truth <= high
    assert min(held.values()) >= 95


def test_blocks_are_wider_than_single_days_where_days_resemble_the_next_and_only_there():
    rng, days = np.random.default_rng(3), np.repeat(np.arange(420), 10)
    weeks = rng.standard_normal(60)[days // 7]
    width = {}
    for name, effect in (("alike", weeks), ("not alike", rng.standard_normal(420)[days])):
        y = (rng.random(len(days)) < 1 / (1 + np.exp(1 - effect))).astype(float)
        for block in (1, 7):
            low, high = evaluate(y, np.full(len(y), .3), days=days, block_days=block, n_resamples=1000).intervals["rate"]
            width[name, block] = high - low
    assert width["alike", 7] > 1.5 * width["alike", 1] and width["not alike", 7] < 1.25 * width["not alike", 1]


# 600 stretches of 240 days, a row a day: how often does an interval hold the truth?

WORLDS, LUCK = 600, np.array([.001, .999])


def years():
    "Labels, probabilities that are right, others that are not, and days."
    days = np.arange(240)
    for world in range(WORLDS):
        rng = np.random.default_rng(world)
        p = rng.uniform(.05, .95, len(days))
        yield (rng.random(len(days)) < p).astype(float), p, .25 + p/2, days


def expected(of):
    "The mean of a function of p, for p as in these years."
    return integrate.quad(of, .05, .95)[0]/.9


entropy = lambda p, q: -p*np.log(q) - (1 - p)*np.log1p(-q)
TRUTHS = {"rate": .5, "log_loss": expected(lambda p: entropy(p, p)), "brier": expected(lambda p: p*(1 - p))}


def test_an_interval_of_95_percent_holds_the_truth_in_95_of_100_cases():
    held = dict.fromkeys(TRUTHS, 0)
    for y, p, _, days in years():
        intervals = evaluate(y, p, days=days, block_days=1, n_resamples=300).intervals
        for name, truth in TRUTHS.items(): held[name] += intervals[name][0] <= truth <= intervals[name][1]
    low, high = stats.binom.ppf(LUCK, WORLDS, .95)   # from 552 on; an interval of 90 % holds it in about 540 of 600
    assert all(low <= n <= high for n in held.values()), held


@pytest.mark.parametrize("level", [.5, .8, .95])
def test_a_comparison_holds_the_truth_as_often_as_its_level_says(level):
    truth = expected(lambda p: entropy(p, p) - entropy(p, .25 + p/2))
    held = sum(c.low <= truth <= c.high for c in (compare(y, p, q, days=days, level=level, block_days=1, n_resamples=300) for y, p, q, days in years()))
    low, high = stats.binom.ppf(LUCK, WORLDS, level)
    assert low <= held <= high


@pytest.mark.parametrize("change", [{"difference": np.nan}, {"low": "0"}, {"level": 1}, {"level": 95}, {"rows": 0}, {"rows": 1.5}, {"days": None}, {"judged_on": None}, {"judged_on": "x"*201}])
def test_a_comparison_that_makes_no_sense_is_refused(change):
    fields = Comparison(-.1, -.2, .1, .9, 10, 2, "June").to_dict() | change
    with pytest.raises(ValueError, match=next(iter(change))): Comparison.from_dict(fields)


@pytest.mark.filterwarnings("ignore:All-NaN slice")   # where one class only is drawn there is no AUC
def test_what_was_judged_survives_json():
    y, p, days = np.array([0, 1, 0, 1]*10), np.tile([.2, .7, .4, .6], 10), np.repeat(np.arange(10), 4)
    there_and_back = lambda x: type(x).from_dict(json.loads(json.dumps(x.to_dict(), allow_nan=False)))
    for one in (compare(y, p, p**2, days=days, block_days=2, judged_on="März"), Comparison(np.float64(-.1), -.2, .1, .9, np.int64(10), 2),
                evaluate(y, p), evaluate(y, p, days=days, block_days=2)): assert there_and_back(one) == one
    none_late = there_and_back(evaluate(np.zeros(20), np.full(20, .2), days=np.arange(20)))
    assert np.isnan(none_late.auc) and np.isnan(none_late.intervals["auc"]).all() and none_late.rate == 0
    for bad in ({}, [], {"n": 3}, {"n": 1, "rate": 0, "log_loss": 0, "auc": None, "brier": 0, "calibration_error": 0, "intervals": {"rate": 3}}):
        with pytest.raises(ValueError, match="not an Evaluation"): Evaluation.from_dict(bad)
    for bad in ({}, {"difference": 0, "more": 1}):
        with pytest.raises(ValueError, match="not a Comparison"): Comparison.from_dict(bad)


def test_days_may_be_anything_sortable_and_rows_may_stand_in_any_order():
    rng = np.random.default_rng(0)
    y, p, days = rng.integers(0, 2, 600).astype(float), rng.random(600), np.repeat(np.arange(30), 20)
    stamps = pd.Series(pd.date_range("2013-01-01", periods=30, tz="America/New_York")[days])
    order = rng.permutation(600)
    one, two, three = evaluate(y, p, days=days), evaluate(y, p, days=stamps), evaluate(y[order], p[order], days=days[order])
    assert one == two
    assert all(np.allclose(one.intervals[k], three.intervals[k]) for k in one.intervals)
    assert one.intervals == evaluate(y, p, days=days, seed=0).intervals != evaluate(y, p, days=days, seed=1).intervals


def test_a_paired_comparison_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(2)
    days = np.repeat(np.arange(100), 30)
    truth = 1 / (1 + np.exp(-(rng.standard_normal(100)[days] * 1.5 + rng.standard_normal(3000))))
    y = (rng.random(3000) < truth).astype(float)
    worse = 1 / (1 + np.exp(-(np.log(truth / (1 - truth)) + .5 * rng.standard_normal(3000))))
    c = compare(y, truth, worse, days=days, judged_on="a hundred days")
    assert c.low < c.difference < c.high < 0 and (c.rows, c.days, c.level, c.judged_on) == (3000, 100, .95, "a hundred days")
    a, b = evaluate(y, truth, days=days).intervals["log_loss"], evaluate(y, worse, days=days).intervals["log_loss"]
    assert a[1] > b[0]
    assert compare(y, truth, truth, days=days) == Comparison(0., 0., 0., .95, 3000, 100)
    assert str(Comparison(-.0123, -.02, -.001, .9, 1234, 7)) == "log loss -0.0123 [-0.0200, -0.0010] on 1,234 rows"


@pytest.mark.parametrize(("y", "p", "more", "words"), [
    ([], [], {}, "at least one"), ([0, 1], [.5], {}, "shapes"), ([[0], [1]], [[.5], [.5]], {}, "shapes"), ([0, np.nan], [.5, .5], {}, "y: labels"), ([0, 2], [.5, .5], {}, "y: labels"),
    ([0, 1], [.5, np.nan], {}, "p: probabilities"), ([0, 1], [.5, 1.1], {}, "p: probabilities"), ([0, 1], [-np.inf, .5], {}, "p: probabilities"), (["a", "b"], [.5, .5], {}, "y: numbers"),
    ([0, 1], [.5, .5], {"days": [1]}, "days: one for each"), ([0, 1], [.5, .5], {"days": [1, None]}, "days: one for each"), ([0, 1] * 5, [.5] * 10, {"days": [1, 2] * 5}, "block_days"),
    ([0, 1], [.5, .5], {"days": [1, 2], "block_days": 0}, "block_days"), ([0, 1], [.5, .5], {"days": [1, 2], "block_days": 1, "n_resamples": 3}, "n_resamples"),
    ([0, 1], [.5, .5], {"weights": [0, 0]}, "weights"), ([0, 1], [.5, .5], {"weights": [1]}, "weights"), ([0, 1], [.5, .5], {"weights": [1, np.inf]}, "weights")])
def test_bad_scores_are_named(y, p, more, words):
    with pytest.raises(ValueError, match=words): evaluate(y, p, **more)


# ---- the schema

@pytest.mark.parametrize(("frame", "columns", "words"), [
    ({"a": [1.]}, ["b"], "'b'"), ({"a": [1., np.inf]}, ["a"], "'a': inf in row 1"), ({"a": [1, 2]}, ["a"], "float64, not int64"), ({"a": ["x", 1.]}, ["a"], "'a'"),
    ({"a": [1., None, 5.]}, {"a": (0, 3)}, "'a': 5.0 in row 2"), ({"a": [-1.]}, {"a": (0, 3)}, "'a': -1.0"), ({"a": [-np.inf]}, {"a": (-np.inf, np.inf)}, "-inf")])
def test_a_bad_table_is_named_in_one_line(frame, columns, words):
    with pytest.raises(ValueError, match=words) as e: validate(pd.DataFrame(frame), columns)
    assert "\n" not in str(e.value)


def test_a_good_table_passes_unchanged_also_if_empty_or_with_more_columns():
    frame = pd.DataFrame({"a": [0., 3., np.nan], "b": ["x", "y", "z"]}, index=pd.Index(["u", "v", "w"]))
    assert validate(frame, {"a": (0, 3)}) is frame and validate(frame[:0], ["a"]).empty
    with pytest.raises(ValueError, match="twice"): validate(pd.concat([frame, frame[["a"]]], axis=1), ["a"])
    with pytest.raises(ValueError, match="in row w"): validate(frame.assign(a=[0., 1., 9.]), {"a": (0, 3)})


# ---- what they show

def test_an_evaluation_is_a_table_in_a_notebook():
    rng = np.random.default_rng(0)
    y, days = rng.random(200) < .3, np.repeat(range(20), 10)
    found = evaluate(y, np.full(200, .3), days=days)
    cells = lambda page: [[cell.text for cell in row] for row in ElementTree.fromstring(page).iter("tr")]
    head, *rows = cells(found._repr_html_())
    assert head[1:] == ["200 rows", "from", "to (95 %)"]
    assert rows == [[name, *(f"{x:.4f}" for x in (getattr(found, name), low, high))] for name, (low, high) in found.intervals.items()]
    head, *rows = cells(evaluate([1, 1], [.5, .5])._repr_html_())
    assert head[1:] == ["2 rows"] and dict(rows)["auc"] == "NaN" and dict(rows)["rate"] == "1.0000"


@pytest.mark.parametrize("low, high, words", [
    (-.2, -.1, "first model is better"), (.1, .2, "second model is better"), (-.1, .2, "No difference"), (-.1, 0., "No difference"), (0., .1, "No difference")])
def test_a_comparison_says_who_is_better_in_words_a_card_and_a_picture(low, high, words):
    import matplotlib
    matplotlib.use("Agg")
    found = Comparison((low + high)/2, low, high, .9, 1234, 7, judged_on="<June>")
    assert words in found.verdict and repr(found) == f"Comparison({found}, <June>)" and repr(replace(found, judged_on="")) == f"Comparison({found})"
    page = found._repr_html_()
    assert words in page and "&lt;June&gt;" in page and "<June>" not in page and "1,234 of 7 days" in page and "90%" in page
    ax = found.plot()
    zero, interval, point = ax.lines
    assert list(zero.get_xdata()) == [0, 0] and list(interval.get_xdata()) == [low, high] and point.get_xdata() == [found.difference]
    assert any(words in ax.get_title(loc=loc) for loc in ("left", "center")) and found.plot(ax=ax) is ax
    matplotlib.pyplot.close("all")


def test_a_check_changes_nothing_for_arrow_though_pandera_imports_pandas_on_spark():
    program = """
import os, pandas as pd, pyarrow as pa
from mlscale.training import validate
validate(pd.DataFrame({"hour": [7.5]}), {"hour": (0, 24)})
eight = pd.Timestamp("2013-07-01 08:00", tz="America/New_York")
print(pa.array([eight], pa.timestamp("us", "America/New_York"))[0].as_py() == eight, os.environ.get("PYARROW_IGNORE_TIMEZONE"))
import pandera.pandas, pyspark.pandas
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "True None\n"
