"The loop reads the one record, uses only what was known and mature, decides as it says, forks cleanly, survives a restart, and tells its story on one page."
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import termios
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request, urlopen

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from scipy import stats

import mlscale
from mlscale import lifecycle
from mlscale.data import MATURE, OperationsDesk, load_flights
from mlscale.features import AIRCRAFT, FEATURES, load_features
from mlscale.flight_features import SCHEDULE, WEATHER
from mlscale.full_run import PARTS, left
from mlscale.lifecycle import (
    CHANGE,
    DAY,
    HARM,
    HOLDOUT,
    NAME,
    START,
    TRIAL,
    WEEK,
    Rules,
    Run,
    Trial,
    World,
    _begun,
    _to_do,
    act,
    arguments_of,
    compare_on,
    decisions_digest,
    draw_gates,
    draw_year,
    gate,
    history,
    judge_release,
    launch,
    learnable,
    merge_futures,
    page,
    provenance,
    read_run,
    record,
    record_known_outcomes,
    release,
    request_predictions,
    run,
    run_day,
    run_week,
    served_version,
    side_by_side,
    surely_worse,
    taken_back,
    train,
    watch,
    watch_day,
    why_retrain,
    without_horizon,
    write_features,
    write_run,
)
from mlscale.monitoring import Finding, labelled, logged_predictions, record_outcomes
from mlscale.registry import GateRefused, Registry
from mlscale.run_words import beside_each_other
from mlscale.serving import Prediction, PredictionLog, serving_process
from mlscale.storage import locked
from mlscale.system import _link
from mlscale.training import Comparison

UTC = "UTC"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def features(): return load_features().set_index("flight_id")


@pytest.fixture(scope="module")
def flights(): return load_flights().set_index("flight_id")


# ---- the world

def test_acting_changes_outcomes_and_when_they_are_known_and_nothing_else(flights):
    world, rng = World(flights, OperationsDesk()), np.random.default_rng(0)
    ids = rng.choice(len(flights), 20_000, replace=False)
    acted = rng.random(len(ids)) < .5
    alone, after = world.outcomes(ids, np.zeros(len(ids), bool)), world.outcomes(ids, acted)
    assert np.array_equal(alone.label, flights.late.loc[ids], equal_nan=True) and (after.flight_id == ids).all()
    changed = ~((alone.label == after.label) | (alone.label.isna() & after.label.isna()))
    assert changed.sum() > 500 and acted[changed].all() and (after.label[changed] == 0).all()
    assert (after.known_at[changed].to_numpy() == flights.sched_arr.loc[ids][changed.to_numpy()].to_numpy()).all()
    assert after.known_at[~changed].equals(alone.known_at[~changed])
    share = changed.sum() / ((alone.label == 1) & acted).sum()
    assert stats.binomtest(int(changed.sum()), int(((alone.label == 1) & acted).sum()), .35).pvalue > 1e-4, share


def test_what_happens_to_a_flight_depends_on_no_other(flights):
    world, ids = World(flights, OperationsDesk()), np.arange(1000)
    acted = np.ones(1000, bool)
    together = world.outcomes(ids, acted)
    assert together.iloc[::-1].reset_index(drop=True).equals(world.outcomes(ids[::-1], acted))
    assert together.iloc[10:20].reset_index(drop=True).equals(world.outcomes(ids[10:20], acted[10:20]))


def test_the_bill_is_actions_and_late_arrivals(flights):
    world, ids = World(flights, OperationsDesk(cost_action=1, cost_late=100)), np.arange(5000)
    acted = np.arange(5000) < 100
    label = world.outcomes(ids, acted).label
    assert world.cost(ids, acted) == 100 + 100 * label.sum()


def test_the_weighted_rate_of_those_left_alone_is_that_of_a_world_without_a_desk(flights):
    ids, score = np.arange(50_000, 56_000), np.random.default_rng(1).random(6000)
    truth, estimates = flights.late.loc[ids].mean(), []
    for seed in range(100):
        desk = OperationsDesk(threshold=.3, seed=seed)
        plan = desk.decide(ids, score)
        seen = World(flights, desk).outcomes(ids, plan.acted.to_numpy()).label.to_numpy()
        left = ~plan.acted.to_numpy() & ~np.isnan(seen)
        estimates.append(np.average(seen[left], weights=1 / plan.propensity_left_alone[left]))
    assert abs(np.mean(estimates) - truth) < 3.5 * np.std(estimates) / 10


def test_the_rewritten_job_changes_the_aircraft_alone_and_only_the_past(features):
    wrong = without_horizon(features, START)
    others = [c for c in features.columns if c not in AIRCRAFT]
    past = features.event_timestamp < START
    assert wrong[others].equals(features[others]) and wrong[AIRCRAFT][~past].equals(features[AIRCRAFT][~past])
    assert (wrong.last_dep_age[past] < features.last_dep_age[past]).mean() > .3


# ---- what may be learned from

@pytest.fixture(scope="module")
def launched(tmp_path_factory): return launch(tmp_path_factory.mktemp("lifecycle") / "state", say=lambda line: None)


@pytest.fixture
def system(launched, tmp_path): return launched.fork(tmp_path / "state", "a test")


def serve_week(system, week, *, version=1, scores=None, share=None):
    "A week in the log as a server leaves it: each flight once, at its minute, acted on, outcomes recorded; scores of the champion, or others."
    rows = system.features[system.features.event_timestamp.between(week, week + WEEK, inclusive="left")]
    if share: rows = rows.sample(frac=share, random_state=0)
    bundle = system.registry.load(NAME, 1)
    p = pd.Series(bundle.predict(rows[FEATURES]) if scores is None else scores(rows), rows.index)
    with PredictionLog(system.log) as log:
        log.describe(bundle.sha256, list(FEATURES))
        log.append(Prediction(str(i), at, NAME, version, bundle.sha256, "production", score, values)
                   for i, at, score, values in zip(rows.index, rows.event_timestamp, p, rows[FEATURES].astype(object).where(rows[FEATURES].notna(), None).to_numpy().tolist(), strict=True))
    act(system, p, rows.event_timestamp)
    record_known_outcomes(system, week + WEEK)
    return rows


def test_before_the_service_only_mature_and_known_flights_teach(features):
    at = pd.Timestamp("2013-02-01", tz=UTC)
    rows = history(features, at)
    taught = features.loc[rows.flight_id]
    assert len(rows) > 15_000 and (rows.weight == 1).all() and np.array_equal(rows.label, taught.late)
    assert (taught.label_time <= at).all() and (taught.event_timestamp <= at - MATURE).all() and taught.event_timestamp.min() >= pd.Timestamp("2013-01-08", tz=UTC)
    everybody = features[features.event_timestamp.between(pd.Timestamp("2013-01-08", tz=UTC), at - MATURE) & (features.label_time <= at)]
    assert set(rows.flight_id) == set(everybody.index)
    assert history(features, START + 10 * WEEK).flight_id.max() < features.index[features.event_timestamp >= START].max()
    part = history(features, START, since=at, until=at + WEEK)
    assert features.event_timestamp.loc[part.flight_id].between(at, at + WEEK, inclusive="left").all()


def test_since_the_service_the_log_teaches_with_weights_and_never_what_the_desk_changed(system):
    rows, at = serve_week(system, START), START + WEEK
    taught = learnable(system, at, since=START)
    moment = system.features.event_timestamp.loc[taught.flight_id]
    assert 3000 < len(taught) < len(rows) and (moment <= at - MATURE).all() and (moment >= START).all()
    plan = system.world.desk.decide(rows.index.to_numpy(), system.registry.load(NAME, 1).predict(rows[FEATURES])).set_index("flight_id")
    assert not plan.acted.loc[taught.flight_id].any()
    assert np.allclose(taught.weight, 1 / plan.propensity_left_alone.loc[taught.flight_id]) and set(taught.weight) == {1., 10.}
    assert np.array_equal(taught.label, system.features.late.loc[taught.flight_id])
    assert taught.day.equals(pd.Series(moment.dt.floor("D").to_numpy(), taught.index))
    both = learnable(system, at, until=START + pd.Timedelta(days=3))
    assert (both.flight_id < rows.index.min()).sum() > 50_000 and system.features.event_timestamp.loc[both.flight_id].max() < START + pd.Timedelta(days=3)


def test_training_uses_nothing_that_was_unknown(features):
    until = pd.Timestamp("2013-02-01", tz=UTC)
    run, example = train(history(features, until), features, at=until)
    poisoned = features.copy()
    unknown = ~(features.label_time <= until)
    poisoned.loc[unknown, [*FEATURES, "late"]] = -1e6
    again, _ = train(history(poisoned, until), poisoned, at=until)
    X = features[FEATURES].iloc[50_000:50_500]
    assert np.array_equal(run.model.predict_proba(X), again.model.predict_proba(X)) and run.digest == again.digest
    assert list(example.columns) == FEATURES and len(example) == 2001 and example[FEATURES[0]].notna().all() and example.temp.isna().any()


def test_on_every_monday_of_the_year_no_label_teaches_that_was_not_known(system):
    "The log of the whole year is there; what is learned as of a Monday is held against the times of the flights themselves."
    mondays = pd.date_range(START, pd.Timestamp("2013-12-30", tz=UTC), freq=WEEK)
    for monday in mondays[:-1]: serve_week(system, monday, share=.03)
    truth, taught = system.features, []
    for at in mondays[1:]:
        rows = learnable(system, at)
        of_log = rows[rows.flight_id >= truth.index[truth.event_timestamp >= START].min()]
        assert (truth.label_time.loc[rows.flight_id] <= at).all() and (rows.known_at <= at).all() and (truth.event_timestamp.loc[rows.flight_id] <= at - MATURE).all()
        assert np.array_equal(rows.label, truth.late.loc[rows.flight_id])
        taught.append(len(of_log))
    assert all(np.diff(taught) > 50) and taught[-1] > 5000
    with pytest.raises(ValueError, match="labels were not known at 2013-12-23"): train(learnable(system, mondays[-1]), truth, at=mondays[-2])


def test_an_outcome_is_recorded_once_it_is_known_and_never_before(system):
    serve_week(system, START)
    now = START + WEEK
    seen = labelled(system.log, now)
    assert (seen.known_at <= now).all() and record_known_outcomes(system, now) == 0
    later = record_known_outcomes(system, now + pd.Timedelta(days=2))
    assert later > 0 and len(labelled(system.log, now + pd.Timedelta(days=2))) == len(seen) + later and len(labelled(system.log, now)) == len(seen)


# ---- watching, and the life of an alert

def test_a_week_like_the_reference_is_quiet_and_a_wrong_model_is_noticed_once_until_it_ends(system):
    serve_week(system, START)
    assert watch(system, START + WEEK, [5.] * 100) is False and HARM not in {a.name for a in system.alerts.open}
    nonsense = lambda rows: np.random.default_rng(0).uniform(.01, .35, len(rows))
    new = []
    for k in (1, 2):
        serve_week(system, START + k * WEEK, scores=nonsense)
        new.append(watch(system, START + (k + 1) * WEEK, [5.] * 100))
    assert new == [True, False]   # the second week is the same trouble
    (alert,) = [a for a in system.alerts.open if a.name == HARM]
    assert alert.at == START + 2 * WEEK and alert.seen == 2 and alert.unit == "nats" and alert.severity == "critical"
    assert alert.value == pytest.approx(system.performance.losses[-1]) and alert.threshold == system.performance.threshold < alert.value
    for k in (3, 4):
        serve_week(system, START + k * WEEK)
        watch(system, START + (k + 1) * WEEK, [5.] * 100)
    assert HARM not in {a.name for a in system.alerts.open}
    kinds = [(e["kind"], e["at"]) for e in system.events if e["text"].startswith(HARM)]
    assert [k for k, _ in kinds] == ["alert", "resolved"] and kinds[0][1] == START + 2 * WEEK


def test_each_alert_has_its_own_value_unit_and_the_clock_of_the_run(system):
    rows = serve_week(system, START)
    watch(system, START + WEEK, [1000.] * 100)
    slow = next(a for a in system.alerts.open if a.name == "latency")
    assert (slow.value, slow.threshold, slow.unit, slow.at) == (1000, 200, "ms", START + WEEK)
    assert {a.at for a in system.alerts.open} == {START + WEEK} and all(a.severity == "warning" for a in system.alerts.open if a.name != HARM)
    noted = {e["text"].split()[0]: e["evidence"] for e in system.events[1:]}
    assert noted.pop("latency") is None   # it is shown, and no decision: this machine's clock measured it
    assert noted and all(evidence["value"] > evidence["threshold"] and evidence["unit"] and evidence["detail"] for evidence in noted.values())
    assert any(e["text"] == "latency 1e+03 ms, allowed 200" for e in system.events)
    week = system.weeks[-1]
    acted = logged_predictions(system.log, since=START, until=START + WEEK).action != "none"
    assert week["flights"] == len(rows) and week["acted"] == acted.sum() > 0 and week["week"] == START and week["p99_ms"] == 1000 and week["version"] == 1
    assert week["cost"] == system.world.cost(rows.index.to_numpy(), acted.to_numpy()) < week["cost_if_nobody_acts"]


def test_the_loss_is_weighted_and_of_those_left_alone(system):
    serve_week(system, START)
    watch(system, START + WEEK, [5.])
    seen = labelled(system.log, START + WEEK)
    seen = seen[(seen["at"] <= START + WEEK - MATURE) & (seen.action == "none")]
    y, p = seen.label, seen.prediction
    assert system.performance.losses[-1] == pytest.approx(np.average(-np.where(y == 1, np.log(p), np.log(1 - p)), weights=seen.weight))


def test_drifted_features_are_an_alert_and_no_reason_to_retrain(system):
    serve_week(system, START)
    system.features = system.features.copy()
    system.features.loc[system.features.event_timestamp >= START + WEEK, "temp"] += 60
    serve_week(system, START + WEEK)
    assert watch(system, START + 2 * WEEK, [5.]) is False
    drifted = [a for a in system.alerts.open if "temp" in a.evidence]
    assert len(drifted) == 1 and drifted[0].value > drifted[0].threshold


def test_a_column_that_stays_missing_rings_and_is_over_when_it_is_back(system):
    system.features = system.features.copy()
    silent = system.features.event_timestamp.between(START + 2 * DAY, START + 12 * DAY)
    system.features.loc[silent, ["temp", "humid", "pressure"]] = np.nan
    for k in range(3): serve_week(system, START + k * WEEK, share=.6)
    for k in range(21): watch_day(system, START + k * DAY)
    (began, first), (ended, last) = [(e, (e["at"] - START) // DAY) for e in system.events if e["text"].startswith(CHANGE)]
    assert (began["kind"], ended["kind"]) == ("alert", "resolved") and 3 <= first <= 11 and 12 < last <= 20   # storms pass, so it takes more than a day
    assert "missing from 0.0% to 100.0%" in began["text"] and "since 2013-04-03" in began["text"] and began["evidence"]["value"] > began["evidence"]["threshold"] == 1
    again = system.change.to_dict()
    system.save()
    assert system.restore().change.to_dict() == again


def test_a_day_on_which_nobody_asked_is_not_said_to_be_well(system):
    PredictionLog(system.log).close()
    watch_day(system, START)
    assert system.change.silent == 1 and not system.alerts.open


def test_outcomes_that_stay_away_are_an_alert_of_the_next_day_and_over_when_they_come(system, monkeypatch):
    serve_week(system, START, share=.2)
    for k in range(7): watch_day(system, START + k * DAY)
    assert not [e for e in system.events if "outcomes" in e["text"]]
    with monkeypatch.context() as m:
        m.setitem(globals(), "record_known_outcomes", lambda *_: None)
        serve_week(system, START + WEEK, share=.2)
    watch_day(system, START + WEEK)
    record_known_outcomes(system, START + 2 * WEEK)
    watch_day(system, START + 8 * DAY)
    assert [(e["kind"], e["at"]) for e in system.events if "age of outcomes" in e["text"]] == [("alert", START + 8 * DAY), ("resolved", START + 9 * DAY)]


def celsius(sent): return sent.assign(temp=(sent.temp - 32) / 1.8)


def frozen(sent):
    weather = sent.groupby("origin")[WEATHER].transform("first")
    return sent.assign(**{name: weather[name] for name in WEATHER})


def stale(sent): return sent.assign(last_dep_delay=sent.last_dep_delay.shift(50))


@pytest.mark.parametrize("broken, rings", [(celsius, {"jump of temp", "skew"}), (frozen, {"standing still", "skew"}), (stale, {"skew"})])
def test_what_was_sent_is_asked_each_midnight_whether_it_moves_as_weather_does_and_is_the_tables(system, broken, rings):
    true = system.features
    third = true.event_timestamp.between(START + 2 * DAY + pd.Timedelta("10h"), START + 2 * DAY + pd.Timedelta("20h"), inclusive="left")
    system.features = true.copy()
    system.features.loc[third] = broken(true[third])
    serve_week(system, START)
    system.features = true   # the table of the night is right
    for k in range(6): watch_day(system, START + k * DAY)
    told = [e for e in system.events if e["text"].split(" ")[0] in ("jump", "standing", "skew", "outcomes")]
    assert {e["text"] for e in told if e["kind"] == "resolved"} == rings
    assert {e["at"] for e in told if e["kind"] == "alert"} == {START + 3 * DAY} and {e["at"] for e in told if e["kind"] == "resolved"} == {START + 4 * DAY}
    assert all(e["evidence"]["value"] > e["evidence"]["threshold"] for e in told if e["kind"] == "alert")


@pytest.mark.parametrize("hour", [0, 1, 12, 23])
def test_another_unit_is_found_whenever_it_begins_once_and_once_more_when_it_ends(system, hour):
    true, begins = system.features, START + 2 * DAY + pd.Timedelta(hours=hour)
    wrong = true.event_timestamp.between(begins, begins + 2 * DAY, inclusive="left")
    system.features = true.copy()
    system.features.loc[wrong] = celsius(true[wrong])
    serve_week(system, START)
    for k in range(7): watch_day(system, START + k * DAY)
    told = [(e["kind"], (e["at"] - START) // DAY) for e in system.events if e["text"].startswith("jump of temp")]
    assert told == [("alert", 3), ("resolved", 4), ("alert", 5), ("resolved", 6)]


def test_a_column_that_is_switched_off_leaves_no_alert_of_a_jump_behind(system):
    true, begins = system.features, START + 2 * DAY + pd.Timedelta("12h")
    system.features = true.copy()
    system.features.loc[true.event_timestamp >= begins, "temp"] = (true.temp - 32) / 1.8
    system.features.loc[true.event_timestamp >= begins + pd.Timedelta("6h"), "temp"] = np.nan
    serve_week(system, START)
    for k in range(5): watch_day(system, START + k * DAY)
    assert [(e["kind"], e["at"]) for e in system.events if e["text"].startswith("jump of temp")] == [("alert", START + 3 * DAY), ("resolved", START + 4 * DAY)]


def test_a_day_without_any_weather_is_looked_at_all_the_same(system):
    true = system.features
    system.features = true.copy()
    system.features.loc[true.event_timestamp.between(START + DAY, START + 3 * DAY), WEATHER] = np.nan
    serve_week(system, START, share=.3)
    for k in range(5): watch_day(system, START + k * DAY)
    assert not [e for e in system.events if e["text"].startswith(("jump", "standing"))]


def test_an_outcome_older_than_its_question_is_an_alert(system, monkeypatch):
    with monkeypatch.context() as m:
        m.setitem(globals(), "record_known_outcomes", lambda *_: None)
        serve_week(system, START, share=.1)
    ahead = logged_predictions(system.log, until=START + DAY).head(3)
    early = pd.DataFrame({"request_id": ahead.request_id, "label": 1, "known_at": ahead["at"] - DAY})
    watch_day(system, START)
    assert not [a for a in system.alerts.open if "before" in a.name]
    record_outcomes(early, log=system.log)
    watch_day(system, START)
    alert, = [a for a in system.alerts.open if "before" in a.name]
    assert alert.value == 3 and alert.threshold == 0


@pytest.mark.parametrize("rule, expected", [("never", ["", "", "", ""]), ("monthly", ["", "a new month", "", "a new month"]), ("eight weeks", ["", "", "", "eight weeks have passed"]),
                                            *((rule, ["", "", "the loss is too high", "eight weeks have passed"]) for rule in ("measured harm", "estimated harm"))])
def test_when_a_challenger_is_trained_goes_by_the_rule(system, rule, expected):
    system.rules = Rules(retrain=rule)
    asked = ((1, False), (5, False), (2, True), (9, False))
    assert [why_retrain(system, START + k * WEEK, alarm) for k, alarm in asked] == expected
    system.trial = Trial(2, 1, START, [])
    assert not any(why_retrain(system, START + k * WEEK, alarm) for k, alarm in asked)


def test_the_naive_rule_learns_from_what_the_desk_changed(system):
    serve_week(system, START)
    honest = learnable(system, START + WEEK, since=START)
    system.rules = Rules(left_alone=False)
    naive = learnable(system, START + WEEK, since=START)
    acted = naive[~naive.flight_id.isin(honest.flight_id)]
    assert len(acted) > 300 and set(naive.weight) == {1.}
    assert acted.label.mean() < system.features.late.loc[acted.flight_id].mean() - .05


def test_estimated_harm_needs_no_labels(system):
    from mlscale.evaluation import expected_losses
    from mlscale.policy import monitors
    tried = pd.DataFrame({"label": 1., "week": np.repeat(range(8), 500), "prediction": np.random.default_rng(0).uniform(.2, .4, 4000)})
    performance = monitors(system.features, tried, Rules(retrain="estimated harm"))[-1]
    assert performance.baseline_losses == pytest.approx(expected_losses(tried.prediction).reshape(8, 500).mean(1)) and performance.threshold < .7


# ---- gating, releasing, judging

@pytest.fixture
def url(system):
    with serving_process(system.bundles, model=NAME, log=system.log) as url: yield url


def test_the_gate_passes_who_is_better_refuses_who_is_not_and_keeps_the_comparison(system, spark):
    for k in (0, 1): serve_week(system, START + k * WEEK, share=.3)
    at = START + 2 * WEEK
    record_known_outcomes(system, at)
    held_out, bundle = learnable(system, at, since=at - HOLDOUT), system.registry.version(NAME, 1)
    register_challenger(system)
    worse = system.features.copy()
    worse[FEATURES] = worse[FEATURES].sample(frac=1, random_state=0).to_numpy()   # of other flights
    with pytest.raises(GateRefused, match="log loss \\+"): system.registry.promote(NAME, 2, gate=gate(system, at, held_out, worse, spark))
    told = system.registry.history(NAME).iloc[-1]
    assert told.event == "refuse" and isinstance(told.comparison, Comparison) and told.comparison.low > 0 and told.comparison.rows == len(held_out) and told.comparison.level == .9
    assert "held-out flights of 2013-04-01" in told.comparison.judged_on and served_version(system) == bundle.version == 1
    assert system.gates[-1] == {"run": "a test", "at": at, "version": 2, "difference": told.comparison.difference, "low": told.comparison.low, "high": told.comparison.high, "passed": False}
    with pytest.raises(GateRefused): system.registry.promote(NAME, 2, gate=gate(system, at, held_out, system.features, spark))   # equal is not better
    honest, system.features = system.features, worse   # the champion's table
    assert system.registry.promote(NAME, 2, gate=gate(system, at, held_out, honest, spark)).version == 2
    assert system.gates[-1]["passed"] and system.registry.history(NAME).iloc[-1].comparison.high < 0


def register_challenger(system):
    "A second version, taught by a part of the first one's rows."
    run, example = train(history(system.features, START, until=START - 8 * WEEK), system.features, at=START)
    return system.registry.register(run.model, name=NAME, example=example, lineage={}, metrics={})


def test_a_release_that_the_gate_refuses_changes_nothing_that_is_served(system, spark, url):
    for k in (0, 1): serve_week(system, START + k * WEEK, share=.3)
    at = START + 2 * WEEK
    record_known_outcomes(system, at)
    release(system, at, url, spark, why="a test", features=system.features.assign(**dict.fromkeys(FEATURES[10:], 0.)))
    assert [e["kind"] for e in system.events[-2:]] == ["retrain", "refuse"] and served_version(system) == 1 and system.trial is None and system.trained_at == at
    why, refused = (e["evidence"] for e in system.events[-2:])
    assert why == {"why": "a test", "against": 1, "rows": why["rows"], "held_out": refused["comparison"]["rows"], "trained_until": str(at - HOLDOUT)} and why["rows"] > 50_000
    assert refused["against"] == 1 and refused["comparison"] == system.registry.history(NAME).comparison.dropna().iloc[-1].to_dict() and refused["comparison"]["high"] >= 0
    kept = system.registry.version(NAME, 2)
    assert kept.metrics["log_loss"] > 0 and kept.evaluation.intervals["log_loss"][0] < kept.metrics["log_loss"] < kept.evaluation.intervals["log_loss"][1]
    with PredictionLog(system.log) as log, log.transaction() as db: ((model, version, until),) = db.execute("SELECT model, version, until FROM trainings")
    assert (model, version) == (NAME, 2) and pd.Timestamp(until) == at - HOLDOUT


def test_a_bad_release_passes_the_gate_goes_live_and_is_rolled_back_by_what_it_served(system, spark, url):
    system.rules = Rules(check="week")
    for k in (0, 1): serve_week(system, START + k * WEEK, share=.5)
    at = START + 2 * WEEK
    record_known_outcomes(system, at)
    release(system, at, url, spark, why="the job was rewritten", features=without_horizon(system.features, at))
    assert served_version(system) == 2 and (system.trial.version, system.trial.against) == (2, 1) and system.gates[-1]["passed"] and system.events[-1]["kind"] == "promote"
    bundle = system.registry.load(NAME, 2)
    serve_week(system, at, version=2, scores=lambda rows: bundle.predict(rows[FEATURES]), share=.5)
    assert judge_release(system, at + WEEK, url, spark) is True
    assert served_version(system) == 1 and system.trial is None and [e["kind"] for e in system.events[-2:]] == ["alert", "rollback"]
    assert "version 2 is worse in service than version 1" in system.events[-2]["text"] and system.events[-1]["at"] == at + WEEK
    assert system.events[-2]["evidence"]["against"] == 1 and system.events[-2]["evidence"]["comparison"]["low"] > 0 and system.events[-1]["evidence"] == {"instead_of": 2}
    assert judge_release(system, at + WEEK, url, spark) is False   # nothing is on trial any more


def test_a_release_as_good_as_its_predecessor_stays(system, spark, url):
    register_challenger(system)
    system.registry.promote(NAME, 2)
    system.registry.deploy(NAME)
    system.rules, system.trial, bundle = Rules(check="week"), Trial(2, 1, START, [], "week"), system.registry.load(NAME, 1)
    serve_week(system, START, version=2, scores=lambda rows: bundle.predict(rows[FEATURES]), share=.5)
    assert judge_release(system, START + WEEK, url, spark) is False and served_version(system) == 2 and system.trial is None
    kept = system.events[-1]
    assert (kept["kind"], kept["version"], kept["evidence"]["against"]) == ("keep", 2, 1) and kept["evidence"]["comparison"]["low"] <= 0 < kept["evidence"]["comparison"]["rows"]


def tried(system, at, spark, url, features=None, **rules):
    "A challenger begins its trial two weeks after the first of April."
    system.rules = Rules(**rules)
    for k in (0, 1): serve_week(system, START + k * WEEK, share=.5)
    record_known_outcomes(system, at)
    release(system, at, url, spark, why="a test", features=features)


def live_on_trial(system, day, url, spark):
    "A day that both models serve as the server would, and the look at its end."
    rows = system.features[system.features.event_timestamp.between(day, day + DAY, inclusive="left")]
    scores, _ = request_predictions(url, rows[FEATURES], rows.event_timestamp, system.world.flights.tailnum.loc[rows.index])
    act(system, pd.Series(scores, rows.index), rows.event_timestamp)
    record_known_outcomes(system, day + DAY)
    return judge_release(system, day + DAY, url, spark)


@pytest.mark.parametrize("check", ["canary", "shadow"])
def test_a_bad_release_is_stopped_on_trial_within_days_and_answers_a_share_or_nobody(system, spark, check):
    at = START + 2 * WEEK
    with serving_process(system.bundles, model=NAME, log=system.log, canary=.2) as url:
        tried(system, at, spark, url, without_horizon(system.features, at), check=check)
        assert system.events[-1]["kind"] == "trial" and served_version(system) == 1 and len(system.trial.held_out) >= 10
        trial = system.trial
        stopped = [(live_on_trial(system, at + k * DAY, url, spark), k) for k in range(9) if system.trial]
    (worse, k) = stopped[-1]
    log = logged_predictions(system.log, since=at)
    assert worse and 2 <= k <= 8 and system.trial is None and served_version(system) == 1
    share = (log.version == 2).mean()
    assert (.1 < share < .3) if check == "canary" else share == 0
    if check == "canary":   # the same aircraft, always
        mine = log[log.version == 2].entity.dropna()
        assert set(log.alias) == {"canary", "production"} and not set(mine) & set(log[log.version == 1].entity) and mine.duplicated().any()
    end = system.events[-1]
    assert (end["kind"], end["version"], end["at"]) == ("stop", 2, at + (k + 1) * DAY) and end["evidence"]["comparison"]["difference"] > 0
    assert surely_worse(np.array([*end["evidence"]["days"].values()]), np.array(trial.held_out))
    assert not (system.bundles / NAME / "canary.json").exists()


def test_a_release_that_is_no_worse_is_promoted_after_its_trial_first_in_shadow_then_as_canary(system, spark):
    at = START + 2 * WEEK
    with serving_process(system.bundles, model=NAME, log=system.log, canary=.2) as url:
        tried(system, at, spark, url, check="shadow, canary", gate=False)
        assert [e["kind"] for e in system.events[-2:]] == ["retrain", "trial"] and system.gates[-1]["passed"] and "not heard" in system.events[-1]["text"]
        for k in range(TRIAL // DAY):
            system.save()
            system.restore()   # a trial survives
            live_on_trial(system, at + k * DAY, url, spark)
    log = logged_predictions(system.log, since=at)
    by_week = log.groupby((log["at"] - at) // WEEK).version.apply(lambda v: (v == 2).mean())
    assert by_week[0] == 0 and .1 < by_week[1] < .3
    assert [e["kind"] for e in system.events[-2:]] == ["trial", "promote"] and system.events[-1]["at"] == at + TRIAL
    assert served_version(system) == 2 and system.trial is None and system.registry.version(NAME, "champion").version == 2 and not (system.bundles / NAME / "canary.json").exists()
    told = system.events[-1]["evidence"]
    assert len(told["days"]) == 12 and told["comparison"]["rows"] > 3000


def test_a_trial_of_which_hardly_a_day_became_known_promotes_nobody(system, spark, url):
    at = START + 2 * WEEK
    tried(system, at, spark, url, without_horizon(system.features, at))
    assert not judge_release(system, at + TRIAL - DAY, url, spark) and system.trial   # no outcome has come; there is time
    assert judge_release(system, at + TRIAL, url, spark) and system.trial is None
    end = system.events[-1]
    assert (end["kind"], end["version"]) == ("stop", 2) and "not known well enough" in end["text"] and end["evidence"]["days"] == {}
    assert served_version(system) == 1 == system.registry.version(NAME, "champion").version and not (system.bundles / NAME / "canary.json").exists()


@pytest.mark.parametrize("known, kind", [(4, "stop"), (5, "promote")])
def test_a_trial_is_won_only_if_enough_of_its_days_became_known(system, spark, url, known, kind):
    at = START + 2 * WEEK
    tried(system, at, spark, url, without_horizon(system.features, at))
    system.trial.differences = {str((at + k * DAY).date()): 0. for k in range(known)}
    assert judge_release(system, at + TRIAL, url, spark) == (kind == "stop") and system.events[-1]["kind"] == kind


# ---- a future of its own, and a restart

def test_a_week_is_told_under_the_version_that_answered_most_of_it(system):
    rows = serve_week(system, START, version=7)
    watch(system, START + WEEK, [10.])   # version 1 is live, as after a rollback at the week's end
    assert len(rows) and system.weeks[-1]["version"] == 7 and served_version(system) == 1


def test_two_futures_share_a_past_and_nothing_else(system, tmp_path):
    serve_week(system, START, share=.1)
    record(system, Finding(HARM, .7, .6, "nats", START, True))
    other = system.fork(tmp_path / "other", "another")
    assert {e["run"] for e in other.events} == {"another"} and {e["run"] for e in system.events} == {"a test"}
    assert len(labelled(other.log, START + WEEK)) == len(labelled(system.log, START + WEEK)) > 0
    record(other, Finding(HARM, .5, .6, "nats", START + WEEK, False))
    serve_week(other, START + WEEK, share=.1)
    assert not other.alerts.open and len(system.alerts.open) == 1
    assert len(labelled(other.log, START + 3 * WEEK)) > len(labelled(system.log, START + 3 * WEEK))


def test_a_week_that_was_cut_short_is_run_again_with_the_same_result(system, spark, url, monkeypatch):
    monkeypatch.setattr("mlscale.lifecycle.request_predictions", lambda *rows, **how: (request_predictions(*rows, **how)[0], [5.]))   # how fast this machine answers is another matter
    system.save()
    run_week(system, START, url, spark)
    first = (system.weeks[-1], system.alerts.to_dict(), system.performance.to_dict(), len(labelled(system.log, START + WEEK)))
    before = replace(system)
    before.alerts, before.performance, before.events, before.weeks = type(system.alerts)(), type(system.performance)(system.performance.baseline_losses), [], []
    run_week(before, START, url, spark)
    again = (before.weeks[-1], before.alerts.to_dict(), before.performance.to_dict(), len(labelled(system.log, START + WEEK)))
    untimed = lambda state: ({k: v for k, v in state[0].items() if k not in ("p99_ms", "run")}, *state[1:])
    assert untimed(first) == untimed(again)
    back = replace(before, alerts=type(before.alerts)()).restore()
    assert back.alerts.to_dict() == before.alerts.to_dict() and back.weeks == before.weeks and back.events == before.events and back.trained_at == START


def test_features_from_the_online_store_give_the_same_answers_and_nothing_of_a_later_day(system, tmp_path):
    pytest.importorskip("feast")
    online = replace(system.fork(tmp_path / "online", "online"), online=True)
    write_features(online, online.features.head(1))
    with serving_process(system.bundles, model=NAME, log=system.log) as url: run_day(system, START, url, None)
    with serving_process(online.bundles, model=NAME, log=online.log, features=online.store) as url:
        run_day(online, START, url, None)
        assert request_entity(url, online.features[online.features.event_timestamp > START + 2 * DAY].head(1)) == ["unknown"]   # tomorrow is not written yet
    there, here = (logged_predictions(s.log, until=START + DAY).sort_values("request_id", ignore_index=True) for s in (online, system))
    assert len(here) > 700 and there[["request_id", "at", "entity", "version", "action"]].equals(here[["request_id", "at", "entity", "version", "action"]])
    assert np.array_equal(there[FEATURES].to_numpy(), here[FEATURES].to_numpy(), equal_nan=True) and np.allclose(there.prediction, here.prediction, atol=1e-9)
    assert online.events == [{**e, "run": "online"} for e in system.events]


def request_entity(url, row):
    "The state of what the store knows of a flight."
    body = {"keys": [{"flight_id": int(row.index[0])}], "features": row[list(SCHEDULE[:7])].to_dict("records"), "at": row.event_timestamp.iloc[0].isoformat()}
    asked = Request(f"{url}/predict/entity", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return [state["flights"] for state in json.load(urlopen(asked))["states"]]


def test_what_the_registry_did_since_the_last_checkpoint_is_taken_back_before_a_resume(system):
    serve_week(system, START, share=.1)
    system.save()
    history, log = system.registry.history(NAME), labelled(system.log, START + WEEK)
    register_challenger(system)
    system.registry.promote(NAME, 2)
    system.registry.deploy(NAME)
    (system.folder / "checkpoints" / ".9.half").mkdir()   # of a checkpoint that was being written
    system.restore()
    assert system.registry.history(NAME).equals(history) and served_version(system) == 1 and len(system.registry.versions(NAME)) == 1
    assert not (system.bundles / NAME / "2").exists() and labelled(system.log, START + WEEK).equals(log)
    assert register_challenger(system).version == 2 and system.registry.promote(NAME, 2).version == 2   # as if for the first time
    system.save()
    assert len([*(system.folder / "checkpoints").iterdir()]) == 1 and system.restore().registry.version(NAME, "champion").version == 2


# ---- killed, and begun again

def of_session(leader):
    "The processes that a process and its children have started and that live."
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try: fields = stat.read_text().rpartition(")")[2].split()
        except OSError: continue
        if fields[3] == str(leader) and fields[0] != "Z": found.append(stat.parent.name)
    return found


def small_year(folder, *words, hash_seed):
    "What each process said that lived in this folder, see `small_year.py`; none of them left another one behind."
    env = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(ROOT / "tests" / "small_year.py"), str(folder), *map(str, words)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as lives:
        said, wrong = lives.communicate()
    assert lives.returncode == 0, wrong[-3000:]
    for _ in range(300):
        if not of_session(lives.pid): break
        time.sleep(.1)
    assert not of_session(lives.pid)
    return [json.loads(line) for line in said.splitlines()]


def remains(folder):
    "What a run has left, but for what was measured by clocks."
    out = []
    for state in sorted(path.parent for path in folder.glob("state*/predictions.db")):
        registry = Registry(f"sqlite:///{state / 'registry' / 'mlflow.db'}", bundles=state / "bundles")
        history, log = registry.history(NAME), labelled(state / "predictions.db", pd.Timestamp("2014-01-01", tz=UTC))
        promoted = history.version[(history.event == "promote") & (history.alias == "champion")]
        served = {*promoted, *history.version[history.event == "deploy"]}
        assert promoted.is_unique and sorted(p.name for p in (state / "bundles" / NAME).iterdir() if p.name.isdigit()) == sorted(map(str, served))
        told = [(e.event, e.version, e.alias, e.reason, e.comparison) for e in history.itertuples()]
        out.append((sorted(told, key=str), log.sort_values("request_id", ignore_index=True)))
    weeks = read_run(folder).metrics.drop(columns=["p99_ms", "open_alerts"])
    return out, weeks


def assert_same(folder, other):
    (states, weeks), (others, other_weeks) = remains(folder), remains(other)
    for (told, log), (other_told, other_log) in zip(states, others, strict=True):
        assert told == other_told
        pd.testing.assert_frame_equal(log, other_log)
    pd.testing.assert_frame_equal(weeks, other_weeks)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "A run that nobody disturbs, and beside it what it was when it had been launched."
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, small_year(folder, "--copy", hash_seed=1)[-1]


def test_a_run_killed_at_random_moments_and_resumed_is_deterministic_whatever_the_hash_seed(undisturbed, tmp_path):
    folder, expected = undisturbed
    shutil.copytree(f"{folder}.launched", tmp_path / "run")
    *deaths, end = small_year(tmp_path / "run", *np.random.default_rng(0).integers(4, 45, 3), hash_seed=2)
    assert [*deaths[0]] == ["died"] and len(deaths) == 3
    assert {"promote", "alert", "rollback"} <= {d["kind"] for d in expected["decisions"]} and "latency" not in json.dumps(expected["decisions"])
    assert end["digest"] == expected["digest"] == decisions_digest(expected["decisions"]), [d for d in end["decisions"] if d not in expected["decisions"]]
    assert_same(tmp_path / "run", folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_twenty_moments_to_die_at_and_resume(undisturbed, tmp_path, seed):
    folder, expected = undisturbed
    shutil.copytree(f"{folder}.launched", tmp_path / "run")
    said = small_year(tmp_path / "run", *np.random.default_rng(1 + seed).integers(0, 40, 5), hash_seed=seed)
    assert said[-1]["digest"] == expected["digest"] and sum("died" in line for line in said) >= 4
    assert_same(tmp_path / "run", folder)


@pytest.mark.slow
def test_two_whole_runs_are_deterministic_also_if_one_is_killed_while_it_is_launched_and_resumed_with_spark(undisturbed, tmp_path):
    folder, expected = undisturbed
    *deaths, end = small_year(tmp_path / "run", "--spark", 2, 50, hash_seed=3)
    assert [*deaths[0]] == ["died"] and end["digest"] == expected["digest"]
    assert_same(tmp_path / "run", folder)


def test_resume_with_other_arguments_is_refused_and_a_second_process_kept_out(undisturbed, tmp_path):
    folder, expected = undisturbed
    shutil.copytree(f"{folder}.launched", tmp_path / "run")
    given = arguments_of(tmp_path / "run")
    assert given == {"until": START + 4 * WEEK, "bad_release": START + 2 * WEEK, "seed": 0, "rules": Rules(), "online": False, "faults": [], "parts": False}
    for name, other in {"until": START + 5 * WEEK, "bad_release": None, "seed": 1, "rules": Rules(gate=False), "online": True, "faults": ["killed"], "parts": True}.items():
        with pytest.raises(ValueError, match=re.escape(f"{name}={other}: the run in 'run' was begun with")): run(folder=tmp_path / "run", progress=False, **{**given, name: other})
    with locked(tmp_path / "run" / "run.lock"), pytest.raises(ValueError, match="under way in another process"): run(folder=tmp_path / "run", progress=False, **given)
    said = []
    done = run(folder=folder, say=said.append, **given)   # it is finished, and read
    assert not said and done.digest == expected["digest"] and done.decisions == expected["decisions"]


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
        c = compare_on(pd.DataFrame({"label": y, "day": day, "weight": 1.}), q, p, "simulated")
        covered += c.low <= truth <= c.high
    low, high = stats.binom.interval(.9999, worlds, .9)
    assert low <= covered <= high


# ---- the story

@pytest.mark.parametrize("arguments", [{"until": START}, {"bad_release": pd.Timestamp("2013-09-03", tz=UTC)}, {"bad_release": START}, {"until": START + 4 * WEEK, "bad_release": START + 5 * WEEK}])
def test_times_that_are_no_weeks_of_the_year_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="until|bad_release"): run(folder=tmp_path / "x", progress=False, **arguments)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_exists_is_refused_and_untouched(tmp_path):
    with pytest.raises(ValueError, match="no run was begun"): run(folder=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    "Two futures that part in their second week; in the first a release is taken back. What is written is written by somebody who means no good."
    weeks = pd.date_range(START, periods=3, freq=WEEK)
    week = {"flights": 10, "log_loss": .4, "auc": .7, "acted": 2, "on_trial": 0, "cost": 5., "cost_if_nobody_acts": 8., "p99_ms": 3., "open_alerts": 0, "version": 1}
    metrics = pd.DataFrame([{"run": r, "week": w, **week} for r in ("a", "b") for w in weeks])
    metrics.loc[1, ["log_loss", "version"]] = .9, 2
    metrics.loc[metrics.week == START, "log_loss"] = np.nan   # no label was mature
    both = [(0, "promote", 1, "first"), (1, "alert", None, "<script>drift</script>"), (3, "retrain", 3, "third"), (3, "refuse", 3, "no better")]
    alone = [(1, "promote", 2, "second"), (1, "retrain", 9, "ninth"), (2, "alert", None, "loss 1 nats"), (2, "rollback", 1, "first again")]
    events = pd.DataFrame([{"run": r, "at": START + k * WEEK, "kind": kind, "version": version, "text": text} for r, rows in (("a", both + alone), ("b", both)) for k, kind, version, text in rows])
    gates = pd.DataFrame([{"run": r, "at": START + 3 * WEEK, "version": 3, "difference": -.1, "low": -.2, "high": .01, "passed": False} for r in "ab"])
    made = {"command": "mlscale run --seed <0>"}
    return Run(tmp_path_factory.mktemp("story"), events, metrics, gates, .5, made)


@pytest.fixture(scope="module")
def written(told): return page(told, book="https://book.example")


def test_what_is_common_is_written_once_and_the_rest_says_whose_it_is(told):
    merged = merge_futures(told.events)
    assert len(told.events) == 12 and sorted(merged.text) == sorted({*told.events.text}) and list(merged.runs.map(len)) == [2, 2, 2, 2, 1, 1, 1, 1]
    assert set(merged.runs[4:]) == {("a",)} and "run" not in merged and list(merge_futures(told.of("b").events).runs) == [("b",)] * 4
    assert len(merge_futures(told.metrics)) == 4 and len(merge_futures(told.gates)) == 1


def test_a_release_that_was_taken_back_is_the_disaster(told):
    (bad,) = taken_back(told.events).itertuples(index=False)
    assert bad == ("a", 2, START + WEEK, START + 2 * WEEK, False) and taken_back(told.of("b").events).empty
    assert told.summary()[2] == ('Version 2 was released on 8 Apr. In "a" it served everybody, answered 10 flights, and was rolled back on 15 Apr. '
                                 "Log loss of what became mature in these weeks: a 0.900, b 0.400.")


def test_a_release_that_was_stopped_on_trial_answered_its_share(told):
    events = told.events.replace({"kind": {"rollback": "stop"}})
    events.loc[events.text == "second", "kind"] = "trial"
    stopped = replace(told, events=events, metrics=told.metrics.assign(on_trial=[0, 3, 0, 0, 0, 0]))
    assert [*taken_back(events).on_trial] == [True] and 'In "a" it was tried, answered 3 flights, and was stopped on 15 Apr' in stopped.summary()[2]
    assert "1 stopped on trial, 0 released, 0 rolled back" in stopped.summary()[1] and "is on trial until\n15 Apr" in page(stopped)


def test_two_runs_side_by_side_are_two_futures(told):
    same = page(side_by_side(one=told, other=told))
    assert same.count("The bad release: version 2") == 1, "of two runs with the same release it is said once, and not never"
    short = replace(told, metrics=told.metrics[told.metrics.week == START])
    assert "$0.00 million against $0.00 million in the same 1 weeks" in side_by_side(one=told, other=short).summary()[-1]
    assert [line.startswith("one (the 1 weeks that all have)") for line in beside_each_other({"one": told, "other": short})] == [True, False]
    with pytest.raises(ValueError, match="no week in common"): side_by_side(one=told, other=replace(told, metrics=told.metrics.assign(week=told.metrics.week + 9*WEEK)))
    both = side_by_side(one=told, other=told.of("b"))
    assert [*both.metrics.run.unique()] == ["one", "other"] and len(both.events) == 12 and len(both.gates) == 2
    assert "one" in page(both) and both.provenance == {"one": "mlscale run --seed <0>", "other": "mlscale run --seed <0>"}
    with pytest.raises(ValueError, match="runs: 1; two or three"): side_by_side(one=told)


def test_the_report_needs_no_network_and_runs_no_words_of_the_story(told, written):
    assert not re.search(r"(src|srcset|href)=(?!\"(data:|https://book.example/))|@import|url\(", written)
    assert "<script" not in written and "&lt;script&gt;" in written and "&lt;0&gt;" in written and not re.search("&[lg]t;", written.split("</style>")[0])
    pictures = re.findall(r'"data:image/svg\+xml;base64,([^"]+)"', written)
    assert len(set(pictures)) == len(pictures) == 8 and all(b"<svg" in base64.b64decode(p) for p in pictures)
    without = lambda text: re.sub("<a href[^>]*>(.*?)</a>", r"\1", text)
    assert without(told.report(told.folder / "report.html").read_text()) == without(written) != written
    assert not re.search(">(nan|none|nat)<", written, re.I)


def test_the_timeline_marks_each_kind_once_and_puts_the_disaster_where_it_was(written):
    timeline = re.search(r'<ol class="timeline">(.*?)</ol>', written, re.S)[1]
    days = dict(zip(re.findall(r'datetime="([^"]+)"', timeline), re.split("<li>", timeline)[1:], strict=True))
    words = {day: re.findall(r"<b class=\"\w+\">\S (.*?)</b>", text) for day, text in days.items()}
    assert words == {"2013-04-01": ["released"], "2013-04-08": ["warning", "released", "retrained"], "2013-04-15": ["alert", "rolled back"], "2013-04-22": ["retrained", "refused"]}
    assert [day for day, text in days.items() if "disaster" in text] == ["2013-04-08", "2013-04-15"]
    assert "version 2\nanswers everybody until\n15 Apr" in days["2013-04-08"] and timeline.count("The bad release") == 1
    shared, apart = days["2013-04-08"].split("lane disaster", 1)
    assert "drift" in shared and "disaster" not in shared and "<h3>a</h3>" in apart and "second" in apart


def test_where_two_futures_have_a_bad_release_each_says_its_own(told):
    other = told.events[told.events.run == "a"].replace({"run": {"a": "b"}, "kind": {"rollback": "stop"}})
    other.loc[other.text == "second", ["kind", "text"]] = "trial", "tried"
    both = replace(told, events=pd.concat([told.events[told.events.run == "a"], other]))
    timeline = re.search(r'<ol class="timeline">(.*?)</ol>', page(both), re.S)[1]
    assert timeline.count("answers everybody until") == timeline.count("is on trial until") == 1


def test_the_weeks_are_a_table_with_the_disaster_tinted(written):
    table = re.search("<table>(.*?)</table>", written, re.S)[1]
    rows = re.findall("<tr( class=\"disaster\")?>\n<td[^>]*>(.*?) <small>(.*?)</small>", table)
    assert rows == [("", "1 Apr", ""), (' class="disaster"', "8 Apr", "a"), ("", "8 Apr", "b"), ("", "15 Apr", "")]


def test_decisions_are_what_has_evidence_in_order_and_words_and_last_bits_do_not_count(told):
    assert told.decisions == []   # all of them are remarks
    events = told.events.assign(evidence=[{"value": k / 3, "of": {"low": -k / 7}} if k % 2 else None for k in range(len(told.events))])
    some = replace(told, events=events)
    assert [d["evidence"]["value"] for d in some.decisions] == [k / 3 for k in range(1, len(events), 2)] and set(some.decisions[0]) == {"run", "at", "kind", "version", "text", "evidence"}
    same, other = (replace(told, events=events.assign(text="said better", evidence=[e and {**e, "value": e["value"] * by} for e in events.evidence])) for by in (1 + 1e-13, 1 + 1e-4))
    assert same.digest == some.digest != other.digest and replace(told, events=events.iloc[::-1]).digest != some.digest
    assert some.digest in page(some) and read_run(write_run(some).parent).digest == some.digest


def test_every_link_of_the_report_leads_to_a_chapter(written):
    pages = re.findall(r'href="https://book.example/chapters/([^"]+)\.html"', written)
    assert len(pages) > 7 and {"12_lifecycle", "07_drift", "04c_promotion"} <= set(pages)
    assert not [name for name in pages if not (ROOT / "nbs" / f"{name}.ipynb").exists()]


def test_a_report_says_how_it_was_made():
    made = provenance(START + 8 * WEEK, START + 5 * WEEK, 3)
    assert made["command"] == "mlscale run --until 2013-05-27 --bad-release 2013-05-06 --seed 3" and made["seed"] == "3"
    assert made["mlscale"] == mlscale.__version__ and made["requirements.lock"] == sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert provenance(START + WEEK, None, 0)["command"].endswith("--bad-release none --seed 0")
    assert provenance(START + WEEK, None, 0, Rules(check="shadow, canary", gate=False))["command"].endswith("--seed 0 --policy gate=no 'check=shadow, canary'")


def test_the_summary_counts_one_future_and_compares_the_other(told):
    lines = told.summary()
    assert lines[0].startswith("30 flights") and "acted on 6" in lines[0] and len(lines) == 4 and told.of("a").saved == 9
    assert told.of("b").summary()[1] == "Challengers: 1 trained, 1 refused by the gate, 0 stopped on trial, 0 released, 0 rolled back."
    assert "from 1 April to 22 April 2013" in told.title and repr(told) == "Run(3 weeks, a and b)" and lines[0] in told._repr_html_()


@pytest.mark.parametrize("dark", [False, True])
def test_a_figure_is_as_wide_as_asked_and_its_letters_are_readable_on_their_ground(told, dark):
    figures = [draw_year(told.metrics, told.events, .5, width=4.2, dark=dark), draw_gates(told.gates, width=4.2, dark=dark)]
    for figure in figures:
        figure.canvas.draw()
        ground = np.mean(to_rgb(figure.get_facecolor()))
        texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text()]
        box = figure.get_tightbbox()
        assert figure.get_figwidth() == 4.2 and len(texts) > 5 and (ground < .2) == dark
        assert not [t.get_text() for t in texts if abs(np.mean(to_rgb(t.get_color())) - ground) < .5]
        assert box.x0 >= 0 and box.x1 <= 4.2, "something leaves the figure"
        plt.close(figure)


def test_a_world_shows_its_desk_and_none_of_its_flights():
    world = World(pd.DataFrame({"late": [777.]*2000}), OperationsDesk())
    assert repr(world) == f"World(2,000 flights, {OperationsDesk()})" and len(repr(world)) < 200


def test_resume_of_a_run_that_died_while_its_first_checkpoint_was_made_launches_again(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    (folder / "checkpoints" / ".0.new").mkdir(parents=True)
    monkeypatch.setattr("mlscale.lifecycle.launch", lambda folder, **how: "launched")
    monkeypatch.setattr("mlscale.lifecycle.reopen", lambda folder, **how: "reopened")
    assert _begun(folder) == "launched" and not folder.exists()
    (folder / "checkpoints" / "0").mkdir(parents=True)
    assert _begun(folder) == "reopened"


@pytest.mark.parametrize("check, others", [("none", 1), ("week", 1), ("canary", 2)])
def test_an_untried_future_is_lived_only_where_releases_are_tried(check, others, monkeypatch):
    lived = []
    monkeypatch.setattr(lifecycle, "run_weeks", lambda *_, **__: None)
    monkeypatch.setattr(lifecycle, "_left", lambda system, weeks: weeks)
    monkeypatch.setattr(lifecycle, "_side_by_side", lambda system, weeks, bad, others, *_: lived.extend(others))
    one = SimpleNamespace(rules=Rules(check=check), folder=Path("here"), rename=lambda name: None, fork=lambda folder, label: SimpleNamespace(label=label))
    lifecycle._futures(one, pd.date_range(START, periods=4, freq=WEEK), START + 2 * WEEK, None, False)
    assert len(lived) == others


def test_two_futures_share_bundles_and_no_log_whatever_their_folders_are_called(tmp_path):
    for name in ("predictions.db", "bundles/late/1/model.onnx", "registry/mlflow.db"):
        (tmp_path / "7" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "7" / name).write_text("x")
    shutil.copytree(tmp_path / "7", tmp_path / "8", copy_function=_link)
    same = {name: (tmp_path / "7" / name).samefile(tmp_path / "8" / name) for name in ("predictions.db", "bundles/late/1/model.onnx", "registry/mlflow.db")}
    assert list(same.values()) == [False, True, False]


# ---- what is left to do

BAR = """
from mlscale.full_run import each_once, progress_bar
with progress_bar({"launch": 1, "first": 2, "second": 1}) as step:
    with step("launch"): pass
    try:
        with step("first"): raise RuntimeError
    except RuntimeError: pass
    each_once("results.json", ["first", "second"], lambda name: {"letters": len(name)}, step=step)
"""


def on_a_terminal(code, folder):
    "What a program writes to a terminal."
    mine, theirs = os.openpty()
    termios.tcsetwinsize(mine, (24, 100))
    env = {k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"}
    with os.fdopen(mine, "rb", 0) as screen:
        try: subprocess.run([sys.executable, "-c", code], stderr=theirs, cwd=folder, env=env, check=True, timeout=120)
        finally: os.close(theirs)
        seen = b""
        try:
            while part := screen.read(4096): seen += part
        except OSError: pass   # the other side is closed
    return seen.decode()


def test_one_bar_says_what_is_under_way_and_what_is_left_and_is_shorter_after_a_resume(tmp_path):
    shown = re.findall(r"(launch|first|second) +(\d+)%\|.*?(\S+) gone, (\S+) left", on_a_terminal(BAR, tmp_path))
    assert [(name, int(share)) for name, share, *_ in shown if name == "launch"][0] == ("launch", 0)
    assert shown[-1][:2] == ("second", "100") and {share for _, share, *_ in shown} <= {"0", "25", "75", "100"}   # what failed has moved nothing
    assert left(tmp_path / "results.json", ["first", "second", "third"]) == ["third"]
    silent = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert silent.stderr == silent.stdout == ""


def test_what_is_left_of_a_run_is_what_it_has_not_done(system, tmp_path):
    weeks = pd.date_range(START, periods=3, freq=WEEK)
    system.weeks.append({"week": START})
    (tmp_path / "faults.json").write_text(json.dumps({"celsius": {}}))
    to_do = _to_do(system, weeks, tmp_path, START + WEEK, ["celsius", "clock"], True)
    assert [*to_do][:4] == ["week of 08 Apr", "week of 15 Apr", "the other futures", "clock"] and [*to_do][4:] == [*PARTS] and min(to_do.values()) > 0
    (tmp_path / "parts.json").write_text("[]")
    with pytest.raises(ValueError, match="parts.json"): _to_do(system, weeks, tmp_path, None, [], True)
