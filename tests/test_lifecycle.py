"The loop uses only what was known, compares honestly, forks cleanly, and tells its story on one page."
import copy
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlscale.data import OperationsDesk, load_flights
from mlscale.features import AIRCRAFT, FEATURES, load_features
from mlscale.lifecycle import HOLDOUT, START, WEEK, Comparison, Run, World, page, run, train, without_horizon

UTC = "UTC"


@pytest.fixture(scope="module")
def features(): return load_features()


@pytest.fixture
def world(features): return World(features, load_flights().sched_arr, OperationsDesk(threshold=.3))


# ---- the world

def test_acting_changes_outcomes_weights_and_when_they_are_known_and_nothing_else(world, features):
    rows = world.rows(START, START + WEEK)
    score = np.random.default_rng(0).random(len(rows))
    world.act(rows, score)
    others = np.setdiff1d(np.arange(len(features)), rows)
    assert np.array_equal(world.outcome[others], features.late.to_numpy()[others], equal_nan=True) and (world.weight[others] == 1).all() and not world.acted[others].any()
    acted, wanted = world.acted[rows], score >= .3
    assert (acted <= wanted).all() and (world.weight[rows][acted] == 0).all()
    assert np.allclose(world.weight[rows][wanted & ~acted], 10) and (world.weight[rows][~wanted] == 1).all()
    changed = rows[world.outcome[rows] != np.nan_to_num(features.late.to_numpy()[rows], nan=-1)]
    rescued = changed[~np.isnan(world.outcome[changed])]
    assert len(rescued) and world.acted[rescued].all() and (world.outcome[rescued] == 0).all()
    assert (world.known_at.iloc[rescued] == world.sched_arr.iloc[rescued]).all()


def test_a_rescued_flight_is_known_after_its_prediction(world, features):
    rows = world.rows(START, START + 4 * WEEK)
    world.act(rows, np.ones(len(rows)))
    assert (world.known_at.dropna() > features.event_timestamp[world.known_at.notna()]).all()


def test_the_known_are_known_and_left_alone(world, features):
    rows = world.rows(START, START + WEEK)
    world.act(rows, np.full(len(rows), .5))
    at = START + pd.Timedelta(days=3)
    known = world.known(START, START + WEEK, at)
    assert len(known) and (world.known_at.iloc[known] <= at).all() and not world.acted[known].any() and not np.isnan(world.outcome[known]).any()


def test_the_weighted_rate_of_those_left_alone_is_that_of_a_world_without_a_desk(features):
    estimates = []
    truth = None
    score = np.random.default_rng(1).random(len(features))
    for seed in range(40):
        world = World(features, load_flights().sched_arr, OperationsDesk(threshold=.3, seed=seed))
        rows = world.rows(START, START + WEEK)
        world.act(rows, score[rows])
        known = world.known(START, START + WEEK, pd.Timestamp("2014-01-10", tz=UTC))
        truth = np.nanmean(features.late.to_numpy()[rows])
        estimates.append(np.average(world.outcome[known], weights=world.weight[known]))
    assert abs(np.mean(estimates) - truth) < 3.5 * np.std(estimates) / np.sqrt(40)


def test_training_uses_nothing_that_was_unknown(world, features):
    until = pd.Timestamp("2013-02-01", tz=UTC)
    model, example = train(world, until, features)
    poisoned = copy.deepcopy(world)
    unknown = ~(world.known_at <= until).to_numpy()
    poisoned.outcome[unknown] = 1 - np.nan_to_num(poisoned.outcome[unknown])
    later = features.copy()
    later.loc[unknown, FEATURES] = -1e6
    again, _ = train(poisoned, until, later)
    X = features[FEATURES].iloc[50_000:50_500]
    assert np.array_equal(model.predict_proba(X), again.predict_proba(X))
    assert list(example.columns) == FEATURES and len(example) == 2001 and example[FEATURES[0]].notna().all() and example.temp.isna().any()


# ---- the comparison

def test_the_interval_covers_the_truth_as_often_as_it_says_where_days_are_alike_inside():
    rng, covered, worlds = np.random.default_rng(0), 0, 400
    for _ in range(worlds):
        day = np.repeat(np.arange(40), 15)
        p = rng.uniform(.1, .5, 600)
        y = (rng.random(600) < p).astype(float)
        tilt = rng.normal(0, .05, 40)[day]   # the new model errs day by day
        q = np.clip(p + tilt, .01, .99)
        truth = np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
        c = Comparison.of(y, q, p, weights=np.ones(600), days=day)
        covered += c.low <= truth <= c.high
    low, high = stats.binom.interval(.9999, worlds, .9)
    assert low - .03 * worlds <= covered <= high   # a bootstrap of 40 days is a little narrow


def test_equal_models_differ_by_nothing_and_weights_and_order_count():
    rng = np.random.default_rng(2)
    y, p, q, day = (rng.random(200) < .3).astype(float), rng.uniform(.1, .9, 200), rng.uniform(.1, .9, 200), np.arange(200) % 10
    same = Comparison.of(y, p, p, weights=np.ones(200), days=day)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    a, b = Comparison.of(y, p, q, weights=np.ones(200), days=day), Comparison.of(y, q, p, weights=np.ones(200), days=day)
    assert a.difference == pytest.approx(-b.difference) and "[" in str(a)
    w = (np.arange(200) < 100).astype(float)
    assert Comparison.of(y, p, q, weights=w, days=day).difference == pytest.approx(Comparison.of(y[:100], p[:100], q[:100], weights=np.ones(100), days=day[:100]).difference)
    with pytest.raises(ValueError, match="days"): Comparison.of(y, p, q, weights=w, days=np.zeros(200))
    with pytest.raises(ValueError): Comparison.of(y, p + 1, q, weights=w, days=day)


# ---- the bad release

def test_the_rewritten_job_changes_the_aircraft_alone_and_only_the_past(features):
    until = START
    wrong = without_horizon(features, until)
    others = [c for c in features.columns if c not in AIRCRAFT]
    assert wrong[others].equals(features[others]) and wrong[AIRCRAFT][features.event_timestamp >= until].equals(features[AIRCRAFT][features.event_timestamp >= until])
    past = features.event_timestamp < until
    assert (wrong.last_dep_age[past] < features.last_dep_age[past]).mean() > .3


# ---- the story

@pytest.mark.parametrize("arguments", [{"until": START}, {"bad_release": pd.Timestamp("2013-09-03", tz=UTC)}, {"bad_release": START}, {"until": START + 4 * WEEK, "bad_release": START + 5 * WEEK}])
def test_times_that_are_no_weeks_of_the_year_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="until|bad_release"): run(folder=tmp_path / "x", progress=False, **arguments)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_exists_is_refused_and_untouched(tmp_path):
    with pytest.raises(ValueError, match="exists"): run(folder=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small(tmp_path):
    weeks = pd.date_range(START, periods=3, freq=WEEK)
    week = {"flights": 10, "log_loss": .4, "auc": .7, "acted": 2, "cost": 5., "cost_if_nobody_acts": 8., "p99_ms": 3., "open_alerts": 0, "version": 1}
    metrics = pd.DataFrame([{"run": r, "week": w, **week} for r in "ab" for w in weeks])
    events = pd.DataFrame([{"run": r, "at": START + WEEK, "kind": kind, "version": None, "text": f"<script>{kind}</script>"} for r in "ab" for kind in ("promote", "alert", "retrain")])
    gates = pd.DataFrame([{"run": "a", "at": START + HOLDOUT, "version": 2, "difference": -.1, "low": -.2, "high": .01, "passed": False}])
    return Run(tmp_path, events, metrics, gates, .5)


def test_the_report_needs_no_network_and_runs_no_words_of_the_story(small):
    text = small.report(small.folder / "report.html").read_text()
    assert not re.search(r"(src|href)=(?!'data:)", text) and text.count("data:image/png") == 2 and "<script" not in text and "&lt;script&gt;" in text
    assert small.report(small.folder / "report.html").read_text() == text


def test_the_summary_counts_one_future_and_compares_the_other(small):
    lines = small.summary()
    assert lines[0].startswith("30 flights") and "acted on 6" in lines[0] and len(lines) == 4 and small.of("a").saved == 9
    assert page(lines, small.events, small.metrics, {}).startswith("<!doctype html>")


def test_a_comparison_reads_well(): assert str(Comparison(-.01234, -.02, -.001, 1234)) == "log loss -0.0123 [-0.0200, -0.0010] on 1,234 flights"
