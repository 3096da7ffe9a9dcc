"Outcomes and actions are recorded once, asked for as of a moment, and weighted so that they tell of a world left alone; the features of the log are those that were sent."
import sqlite3

import numpy as np
import pandas as pd
import pytest
from postgres import where

from mlscale.data import MATURE, OperationsDesk, load_flights, load_weather
from mlscale.features import FEATURES, SCHEDULE, replay, skew_report
from mlscale.flight_features import features_of_facts, flight_facts
from mlscale.outcomes import labelled, logged_predictions, record_actions, record_outcome, record_outcomes, record_training
from mlscale.prediction_log import Prediction, PredictionLog

T = lambda text: pd.Timestamp(text, tz="UTC")
START = T("2013-01-01")


@pytest.fixture(params=["sqlite", "postgres"])
def log(request, tmp_path):
    place = where(request.param, tmp_path)
    with PredictionLog(place) as book: book.append([Prediction(f"r{i}", START + pd.Timedelta(hours=i), "late", 1, "digest", "production", i / 100, [float(i)], f"N{i % 3}") for i in range(50)])
    return place


def outcomes(n, start=0):
    return pd.DataFrame({"request_id": [f"r{i}" for i in range(start, n)], "label": np.arange(start, n) % 2, "known_at": [START + pd.Timedelta(hours=i + 5) for i in range(start, n)]})


def actions(n, start=0, **change):
    at = [START + pd.Timedelta(hours=i) for i in range(start, n)]
    return pd.DataFrame({"request_id": [f"r{i}" for i in range(start, n)], "at": at, "action": "none", "propensity": .5} | change)


# ---- outcomes are recorded once

def test_an_outcome_is_recorded_once_and_contradicted_never(log):
    assert record_outcome("r1", 1, T("2013-01-02"), log=log) is True
    assert record_outcome("r1", 1.0, T("2013-01-03"), log=log) is False and record_outcome("r1", np.int64(1), "2013-01-03T00:00:00Z", log=log) is False
    with pytest.raises(ValueError, match="'r1' is known as 1"): record_outcome("r1", 0, T("2013-01-02"), log=log)
    [row] = labelled(log, T("2014-01-01")).itertuples()
    assert (row.request_id, row.label, row.known_at, row.prediction, row.version, row.at) == ("r1", 1, T("2013-01-02"), .01, 1, T("2013-01-01 01:00"))
    assert (row.entity, row.model, row.alias, row.action, row.weight, row.mature) == ("N1", "late", "production", None, 1, True)


def test_many_outcomes_are_all_or_none(log):
    assert record_outcomes(outcomes(20), log=log) == 20 and record_outcomes(outcomes(30), log=log) == 10 and record_outcomes(outcomes(30), log=log) == 0
    wrong = outcomes(50)
    wrong.loc[3, "label"] = 7
    with pytest.raises(ValueError, match="'r3'"): record_outcomes(wrong, log=log)
    within = pd.concat([outcomes(50, 40), outcomes(41, 40).assign(label=9)])
    with pytest.raises(ValueError, match="'r40'"): record_outcomes(within, log=log)
    assert len(labelled(log, T("2014-01-01"))) == 30
    assert record_outcomes(pd.concat([outcomes(40, 30)] * 2), log=log) == 10 and record_outcomes(outcomes(0), log=log) == 0


def test_only_what_was_known_is_seen_and_only_what_was_predicted(log):
    record_outcomes(outcomes(50), log=log)
    record_outcome("never predicted", 1, T("2013-01-01"), log=log)
    seen = labelled(log, T("2013-01-01 09:00"))
    assert seen.request_id.tolist() == ["r0", "r1", "r2", "r3", "r4"] and (seen.known_at <= T("2013-01-01 09:00")).all()
    assert labelled(log, "2013-01-01T10:00:00+01:00").equals(seen)
    assert labelled(log, T("2014-01-01"), since=T("2013-01-03")).request_id.tolist() == ["r48", "r49"]
    assert labelled(log, T("2014-01-01"), since=T("2013-01-02 23:00"), until=T("2013-01-03 01:00")).request_id.tolist() == ["r47", "r48"]
    with PredictionLog(log) as book: assert labelled(book, T("2013-01-01 09:00")).equals(seen)
    empty = labelled(log, T("2012-01-01"))
    assert len(empty) == 0 and (empty["at"] < T("2014-01-01")).dtype == bool and list(empty) == list(seen)


def test_outcomes_survive_a_writer_next_door(tmp_path):
    path = tmp_path / "log.db"
    with PredictionLog(path) as book:
        with sqlite3.connect(path) as other: other.execute("SELECT count(*) FROM predictions")
        assert record_outcome("r1", 1, T("2013-01-02"), log=path) and book.append([Prediction("r1", T("2013-01-01"), "late", 1, None, None, .5, [1.])])
    assert len(labelled(path, T("2014-01-01"))) == 1   # the outcome was there before the prediction


def test_ids_of_whole_numbers_are_the_same_with_and_without_a_point(log):
    with PredictionLog(log) as book: book.append([Prediction("7", START, "late", 1, None, None, .5, [])])
    assert record_outcomes(pd.DataFrame({"request_id": [7.], "label": [True], "known_at": [T("2013-01-02")]}), log=log) == 1
    assert record_outcome(7, 1, T("2013-01-02"), log=log) is False and labelled(log, T("2014-01-01")).request_id.tolist() == ["7"]


@pytest.mark.parametrize(("change", "words"), [
    ({"label": [np.nan]}, "label=nan"), ({"label": [np.inf]}, "label=inf"), ({"label": [None]}, "label=None"), ({"label": ["late"]}, "label=late"), ({"known_at": [pd.NaT]}, "known_at is missing"),
    ({"known_at": [pd.Timestamp("2013-01-01")]}, "time zone"), ({"known_at": ["yesterday"]}, "ISO 8601"), ({"request_id": [None]}, "request_id"), ({"request_id": ["a\0"]}, "NUL")])
def test_bad_outcomes_are_named_and_nothing_is_recorded(tmp_path, change, words):
    log, good = tmp_path / "log.db", {"request_id": ["r1"], "label": [1.], "known_at": [T("2013-01-02")]}
    PredictionLog(log).append([Prediction("r1", START, "late", 1, None, None, .5, [])])
    with pytest.raises(ValueError, match=words): record_outcomes(pd.DataFrame(good | change), log=log)
    with pytest.raises(ValueError, match="columns"): record_outcomes(pd.DataFrame(good).drop(columns=next(iter(change))), log=log)
    assert len(labelled(log, T("2014-01-01"))) == 0


def test_a_missing_or_damaged_log_is_named(tmp_path):
    for read in (lambda: labelled(tmp_path / "none.db", T("2013-01-01")), lambda: logged_predictions(str(tmp_path / "none.db"))):
        with pytest.raises(FileNotFoundError, match="none.db"): read()
    assert not (tmp_path / "none.db").exists()
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database at all" * 100)
    for attempt in (lambda: labelled(damaged, T("2013-01-01")), lambda: record_outcome("a", 1, T("2013-01-01"), log=damaged)):
        with pytest.raises(ValueError, match="damaged.db is no prediction log"): attempt()


def test_the_default_log_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSCALE_HOME", str(tmp_path / "home"))
    assert record_outcome("a", 1, T("2013-01-01")) and (tmp_path / "home" / "state" / "predictions.db").exists()
    assert len(labelled(None, T("2014-01-01"))) == 0 and record_actions(actions(1)) == 1 and record_training("late", 1, at=START) is True


# ---- what was done, and what it makes of the outcomes

def test_an_action_is_recorded_once_and_contradicted_never(log):
    assert record_actions(actions(20), log=log) == 20 and record_actions(actions(30), log=log) == 10 and record_actions(actions(30, at=T("2013-03-01")), log=log) == 0
    for change in ({"action": "crew"}, {"propensity": .6}):
        with pytest.raises(ValueError, match="'r0' is known as none, 0.5"): record_actions(actions(40, **change), log=log)
    assert record_actions(actions(40), log=log) == 10


@pytest.mark.parametrize(("change", "words"), [({"propensity": 1.01}, "propensity=1.01"), ({"propensity": -.1}, "propensity=-0.1"),
                                               ({"propensity": 0.}, "above 0 where action is 'none'"), ({"propensity": np.nan}, "propensity=nan"),
                                               ({"action": ""}, "action=''"), ({"action": None}, "action=None"), ({"at": pd.NaT}, "at is missing"), ({"at": "2013-01-01"}, "time zone")])
def test_bad_actions_are_named_and_nothing_is_recorded(tmp_path, change, words):
    wrong = actions(3)
    for name, value in change.items(): wrong[name] = [*wrong[name][:2].astype(object), value]
    with pytest.raises(ValueError, match=words): record_actions(wrong, log=tmp_path / "log.db")
    assert record_actions(actions(3), log=tmp_path / "log.db") == 3
    assert record_actions(actions(4, 3, action="crew", propensity=0.), log=tmp_path / "log.db") == 1   # whoever always acts


def test_weights_are_0_where_somebody_acted_and_else_one_over_the_propensity(log):
    record_outcomes(outcomes(5), log=log)
    at = [START, START, START, T("2013-01-02 20:00")]
    record_actions(actions(4).assign(at=at, action=["none", "crew", "gate", "crew"], propensity=[.1, .1, 0, .5]), log=log)
    assert labelled(log, T("2013-01-02 20:00")).weight.tolist() == [10, 0, 0, 0, 1]
    assert labelled(log, T("2013-01-02 19:59")).weight.tolist() == [10, 0, 0, 1, 1]   # not yet done


def test_mature_is_what_the_age_says_and_not_what_is_known(log):
    record_outcomes(outcomes(50), log=log)
    seen = labelled(log, START + MATURE)
    assert seen.mature.tolist() == [True] + [False] * (len(seen) - 1) and len(seen) == 32
    assert not labelled(log, START + MATURE - pd.Timedelta("1us")).mature.any() and labelled(log, T("2013-01-05")).mature.all()


@pytest.fixture(scope="module")
def june(tmp_path_factory):
    "A month of flights whose desk acts, in a log: the flights, with the truth, and the log."
    flights = load_flights().dropna(subset="late")
    flights = flights[flights.sched_dep.dt.month == 6]
    score = flights.groupby(["carrier", flights.sched_dep.dt.hour]).late.transform("mean")
    desk, log = OperationsDesk(threshold=.3), tmp_path_factory.mktemp("june") / "log.db"
    plan, made = desk.decide(flights.flight_id, score), flights.sched_dep - pd.Timedelta(hours=2)
    with PredictionLog(log) as book: book.append(Prediction(str(i), at, "late", 1, None, None, p, []) for i, at, p in zip(flights.flight_id, made, score, strict=True))
    record_actions(pd.DataFrame({"request_id": flights.flight_id.to_numpy(), "at": made.array, "action": np.where(plan.acted, "crew", "none"), "propensity": plan.propensity_left_alone}), log=log)
    record_outcomes(pd.DataFrame({"request_id": flights.flight_id, "label": desk.outcome(flights.flight_id, flights.late, plan.acted), "known_at": flights.label_time}), log=log)
    return flights, log


def test_weighted_outcomes_tell_of_a_world_left_alone_and_plain_ones_do_not(june):
    flights, log = june
    seen, truth = labelled(log, T("2013-08-01")), flights.late.mean()
    assert len(seen) == len(flights) and abs(np.average(seen.label, weights=seen.weight) - truth) < .015
    assert seen.label.mean() < truth - .03 and seen.label[seen.weight > 0].mean() < truth - .03
    flagged = seen.prediction >= .3
    true_flagged = flights.late.to_numpy()[flights.flight_id.astype(str).isin(seen.request_id[flagged])].mean()
    assert abs(np.average(seen.label[flagged], weights=seen.weight[flagged]) - true_flagged) < .05 and seen.label[flagged].mean() < true_flagged - .1


def test_mature_labels_are_not_censored_and_those_known_early_are(june):
    flights, log = june
    early = mature = true = n = n_early = n_true = 0
    made = flights.sched_dep - pd.Timedelta(hours=2)
    for at in pd.date_range(T("2013-06-05"), T("2013-06-28"), freq="25h"):
        rows = labelled(log, at, since=at - pd.Timedelta(hours=6))
        early, n_early = early + (rows.label * rows.weight).sum(), n_early + rows.weight.sum()
        rows = labelled(log, at + MATURE, since=at - pd.Timedelta(hours=6), until=at)
        there = (made >= at - pd.Timedelta(hours=6)) & (made < at)
        assert rows.mature.all() and len(rows) == there.sum()
        true, n_true = true + flights.late[there].sum(), n_true + there.sum()
        mature, n = mature + (rows.label * rows.weight).sum(), n + rows.weight.sum()
    assert abs(mature / n - true / n_true) < .03 and early / n_early < .6 * true / n_true


# ---- what was trained, and what was sent

def test_a_training_is_recorded_once(log):
    train = lambda **change: record_training(**{"model": "late", "version": 1, "at": T("2013-02-01"), "since": START, "log": log} | change)
    assert train() is True and train() is False and train(version=2) is True and train(model="other") is True
    for change in ({"at": T("2013-02-02")}, {"since": None}, {"until": T("2013-01-20")}):
        with pytest.raises(ValueError, match="version=1: late 1 is known as trained at 2013-02-01"): train(**change)
    for change in ({"version": 1.5}, {"version": -1}, {"at": "2013-02-01"}, {"since": "yesterday"}):
        with pytest.raises(ValueError): train(**{"version": 9} | change)


def test_features_come_back_by_name_also_when_models_differ(log):
    with PredictionLog(log) as book:
        book.describe("digest", ["a"])
        book.describe("another", ["b", "a"])
        book.append([Prediction("x", T("2013-02-01"), "late", 2, "another", "canary", .5, [None, 3.]), Prediction("y", T("2013-02-02"), "late", 2, "unknown", "canary", .5, [4.])])
    sent = logged_predictions(log)
    assert list(sent) == ["request_id", "at", "entity", "model", "version", "alias", "prediction", "a", "b", "feature_0"] and sent.a.tolist()[:51] == [*map(float, range(50)), 3.]
    assert sent.b.isna().all() and sent.feature_0.iloc[-1] == 4 and sent.alias.tolist()[-2:] == ["canary"] * 2
    assert logged_predictions(log, since=T("2013-02-01"), until=T("2013-02-02")).request_id.tolist() == ["x"] and logged_predictions(log, since=T("2014-01-01")).empty


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    "Ten days of flights, with features that a live system computed event by event, in a log: the flights, the facts, and what the log holds."
    flights, weather = load_flights(), load_weather()
    flights = flights[flights.sched_dep < T("2013-01-11")].reset_index(drop=True)
    weather = weather[weather.event_timestamp < T("2013-01-12")].reset_index(drop=True)
    names, log = [c for c in FEATURES if c not in SCHEDULE], tmp_path_factory.mktemp("sent") / "log.db"
    live, made = replay(flights, weather)[names], (flights.sched_dep - pd.Timedelta(hours=2)).dt.as_unit("us")
    with PredictionLog(log) as book:
        book.describe("digest", names)
        book.append(Prediction(str(i), at, "late", 1, "digest", "production", .5, x, tail) for i, at, x, tail in zip(flights.flight_id, made, live.to_numpy().tolist(), flights.tailnum, strict=True))
    return flights, flight_facts(flights, weather), logged_predictions(log)


def recomputed(flights, facts, sent, at):
    "The features of the logged predictions by their definition, at these moments."
    asked = flights.set_index(flights.flight_id.astype(str)).loc[sent.request_id].reset_index(drop=True)
    at = at.dt.as_unit("us").reset_index(drop=True)
    return pd.DataFrame(features_of_facts(facts, asked.assign(event_timestamp=at), at)).assign(request_id=sent.request_id)


def test_the_features_of_the_log_are_those_of_their_definition_at_its_exact_times(sent):
    flights, facts, sent = sent
    report = skew_report(sent, recomputed(flights, facts, sent, sent["at"]), by="request_id", time="at", tolerance=1e-6)
    assert len(report) == len(FEATURES) - len(SCHEDULE) and report.rows.unique() == [len(flights)] and (report.differ == 0).all(), report[report.differ > 0]


def test_times_to_the_hour_would_show_a_skew_that_is_not_there(sent):
    flights, facts, sent = sent
    floored = skew_report(sent, recomputed(flights, facts, sent, sent["at"].dt.floor("h")), by="request_id", time="at", tolerance=1e-6)
    assert (floored.differ > .05).sum() > 5 and floored.differ.max() > .5


def test_many_predictions_are_found_by_their_index(tmp_path):
    n, log = 50_000, tmp_path / "log.db"
    at = [f"2013-{m:02}-{d:02}T{h:02}:00:00.{i:06}+00:00" for m in range(1, 13) for d in range(1, 29) for h in range(24) for i in range(7)][:n]
    with PredictionLog(log) as book, book.transaction() as db:
        db.executemany("INSERT INTO predictions VALUES (?, ?, ?, 'late', 1, 'digest', 'production', .5, '[1.0, 2.0]')", [(f"flight-{i}", t, f"N{i % 999}") for i, t in enumerate(at)])
        db.executemany("INSERT INTO outcomes VALUES (?, ?, ?)", [(f"flight-{i}", i % 2, t) for i, t in enumerate(at)])
        joined = "predictions p LEFT JOIN actions a ON a.request_id = p.request_id LEFT JOIN outcomes o ON o.request_id = p.request_id"
        plan = db.execute(f"EXPLAIN QUERY PLAN SELECT 1 FROM {joined} WHERE p.at >= ? AND p.at < ?", ["2013-02", "2013-03"])
    assert all("SEARCH" in row[-1] for row in plan), plan   # by index, all three
    seen = labelled(log, T("2014-01-01"))
    assert len(seen) == n and (seen.weight == 1).all() and len(labelled(log, T("2014-01-01"), since=T("2013-06-01"), until=T("2013-06-02"))) == 24 * 7
