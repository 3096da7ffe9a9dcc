"The year replayed in memory: decisions depend on nothing that was not known, are the same each time, and each protection is worth something."
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlscale import lifecycle, policy
from mlscale.data import MATURE, OperationsDesk, load_flights
from mlscale.evaluation import daily_differences
from mlscale.features import load_features
from mlscale.policy import surely_worse, train
from mlscale.replay import Decision, replay
from mlscale.system import START, WEEK, Rules
from mlscale.training import fit_model
from mlscale.world import World, without_horizon

BAD = pd.Timestamp("2013-05-06", tz="UTC")


@pytest.fixture(scope="module")
def features(): return load_features().set_index("flight_id").sort_values("event_timestamp", kind="stable")


@pytest.fixture(scope="module")
def world(): return World(load_flights().set_index("flight_id"), OperationsDesk())


@pytest.fixture(scope="module")
def leaky(features): return without_horizon(features, pd.Timestamp("2013-09-02", tz="UTC"))


def fit(X, y, weights):
    some = np.random.default_rng(0).permutation(len(X))[:8000]
    model = fit_model(X.iloc[some], y[some], sample_weight=weights[some], kind="logistic")
    return lambda rows: model.predict_proba(rows)[:, 1]


def rate(X, y, weights): return lambda rows: np.full(len(rows), np.average(y, weights=weights))


@pytest.fixture(scope="module")
def years(world, features, leaky):
    "Six weeks from April with the bad release in May, checked in each way."
    return {check: replay(world, features, Rules(retrain="never", check=check), fit=fit, bad_release=BAD, leaky=leaky, until=BAD + 4 * WEEK)
            for check in ("none", "canary", "shadow")}


def test_lifecycle_a_bad_release_passes_the_gate_and_is_stopped_by_daily_looks_before_it_serves_everybody(years):
    for year in years.values():
        trial = next(d for d in year.decisions if d.kind in ("trial", "release"))
        assert trial.at == BAD and trial.evidence["high"] < 0   # by every number at hand it was better
    for check in ("canary", "shadow"):
        stop, = [d for d in years[check].decisions if d.kind == "stop"]
        assert stop.evidence["difference"] > 0 and stop.at - BAD < 2 * WEEK
    assert 0 < years["canary"].weeks.exposed.sum() < .3 * years["canary"].weeks.flights[years["canary"].weeks.week >= BAD].sum()
    assert years["shadow"].weeks.exposed.sum() == 0


def test_lifecycle_without_point_in_time_features_every_model_promises_what_it_cannot_keep(world, features, leaky, years):
    whole = replay(world, features, Rules(retrain="never"), fit=fit, leaky=leaky, until=BAD + 4 * WEEK)
    assert whole.log_loss > years["none"].log_loss   # from the first day, not from the bad release on


def test_lifecycle_turning_the_check_off_makes_the_ledger_worse(years):
    for check in ("canary", "shadow"):
        assert years[check].log_loss < years["none"].log_loss and years[check].saved > years["none"].saved


def test_lifecycle_decisions_are_deterministic_also_in_another_process(years, features):
    code = ("import sys; sys.path.insert(0, 'tests'); import pandas as pd; from test_replay import *; from mlscale.world import without_horizon\n"
            "f = load_features().set_index('flight_id').sort_values('event_timestamp', kind='stable')\n"
            "w = World(load_flights().set_index('flight_id'), OperationsDesk())\n"
            "print(replay(w, f, Rules(retrain='never'), fit=fit, bad_release=BAD, leaky=without_horizon(f, pd.Timestamp('2013-09-02', tz='UTC')), until=BAD + 4*WEEK).digest)")
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}, timeout=300)
    assert other.stdout.split() == [years["canary"].digest], other.stderr[-2000:]
    assert len({year.digest for year in years.values()}) == 3   # the digest can differ


def test_lifecycle_no_label_teaches_before_it_is_known_and_none_that_the_desk_changed(world, features):
    asked = []

    def spying(X, y, weights):
        asked.append((X.index, y, weights))
        return rate(X, y, weights)
    moments = [START, pd.Timestamp("2013-02-01", tz="UTC"), pd.Timestamp("2013-03-01", tz="UTC")]
    year = replay(world, features, Rules(retrain="monthly", gate=False, check="none"), fit=spying, until=START + 10 * WEEK)
    moments += [d.at for d in year.decisions if d.kind == "train"]
    assert len(asked) == len(moments) > 4
    for now, (ids, labels, weights) in zip(moments, asked):
        rows = features.loc[ids]
        assert (rows.label_time <= now).all() and (rows.event_timestamp <= now - MATURE).all()
        assert np.array_equal(rows.late.to_numpy(), labels) and (weights > 0).all()   # nobody acted on them


def test_lifecycle_without_a_random_share_the_model_learns_what_the_desk_did(world, features):
    taught = {}
    for honest in (True, False):
        def spying(X, y, weights, honest=honest):
            taught[honest] = (features.late.loc[X.index].to_numpy() != y).mean(), np.average(y, weights=weights)
            return lambda rows: np.where(np.arange(len(rows)) % 2, .9, .1)   # every second flight is wanted
        replay(world, features, Rules(retrain="eight weeks", left_alone=honest, gate=False, check="none"), fit=spying, until=START + 9 * WEEK)
    assert taught[True][0] == 0 and taught[False][0] > .01
    assert taught[False][1] < taught[True][1]   # the naive one believes that flights are less often late


def test_lifecycle_labels_that_come_a_week_late_are_missed_and_silence_is_an_alert(world, features):
    late = features.assign(label_time=features.label_time + WEEK)
    slow = World(world.flights.assign(label_time=world.flights.label_time + WEEK), world.desk)
    alerts = [[d for d in replay(w, f, Rules(retrain="never"), fit=fit, until=START + 5 * WEEK).decisions if d.kind == "alert"]
              for w, f in ((world, features), (slow, late))]
    assert [set(found[0].evidence) for found in alerts] == [{"loss", "allowed"}, {"labels"}]
    assert alerts[1][0].at == START + WEEK and alerts[1][0].evidence["labels"] < 30


def test_good_releases_are_stopped_as_often_as_stated_and_an_ordinary_interval_stops_far_more():
    rng, trials, alpha = np.random.default_rng(0), 2000, .05
    days = rng.standard_normal((trials, 28))
    stopped = sum(any(surely_worse(d[14:14 + k], d[:14], alpha=alpha) for k in range(1, 15)) for d in days)
    z = days[:, 14:].cumsum(1) / np.sqrt(np.arange(1, 15)) / days[:, :14].std(1, ddof=1)[:, None]
    ordinary = (z > stats.norm.isf(alpha)).any(1).sum()
    assert stopped <= stats.binom.ppf(.999, trials, alpha)
    assert ordinary > 2 * stats.binom.ppf(.999, trials, alpha)   # the bound can be broken


def test_a_much_worse_release_is_stopped_within_days():
    rng = np.random.default_rng(1)
    first = []
    for _ in range(200):
        before, now = rng.standard_normal(14), 4 + rng.standard_normal(14)
        first.append(next((k for k in range(1, 15) if surely_worse(now[:k], before)), 99))
    assert np.mean(first) < 4


def test_daily_differences_are_weighted_means_by_day():
    rng = np.random.default_rng(2)
    p, q, y, w, day = rng.uniform(.1, .9, 500), rng.uniform(.1, .9, 500), rng.integers(0, 2, 500), rng.uniform(1, 10, 500), rng.integers(0, 9, 500)
    d = -np.where(y == 1, np.log(p), np.log1p(-p)) + np.where(y == 1, np.log(q), np.log1p(-q))
    brute = [np.average(d[day == k], weights=w[day == k]) for k in range(9)]
    assert np.allclose(daily_differences(p, q, y, w, day), brute)


@pytest.mark.parametrize("bad, said", [
    ({"retrain": "sometimes"}, "retrain"), ({"check": "hope"}, "check"), ({"share": 0}, "share"), ({"share": 1}, "share"), ({"alpha": .6}, "alpha"),
])
def test_rules_that_do_not_exist_are_named(bad, said):
    with pytest.raises(ValueError, match=said): Rules(**bad)


def test_bad_input_is_named(world, features):
    for arguments, said in [({"until": START}, "until"), ({"bad_release": BAD}, "leaky")]:
        with pytest.raises(ValueError, match=said): replay(world, features, fit=rate, **arguments)
    with pytest.raises(ValueError, match="order"): replay(world, features.iloc[::-1], fit=rate, until=START + WEEK)
    with pytest.raises(ValueError, match="held_out"): surely_worse(np.ones(3), np.ones(2))


def test_a_decision_is_plain_data_and_small_noise_of_machines_does_not_change_it():
    one, two = (Decision(BAD, "stop", 2, {"difference": np.float64(.1234567 + e), "days": np.int64(3)}) for e in (0, 1e-12))
    assert one.plain() == two.plain() == {"at": "2013-05-06", "kind": "stop", "version": 2, "evidence": {"difference": .12346, "days": 3}}


def test_lifecycle_a_bad_release_on_a_day_that_is_no_monday_of_the_year_is_refused(world, features, leaky):
    for wrong in (BAD + pd.Timedelta(days=1), START, pd.Timestamp("2013-05-06"), BAD + 8 * WEEK):
        with pytest.raises((ValueError, TypeError), match="bad_release|tz"): replay(world, features, fit=rate, bad_release=wrong, leaky=leaky, until=BAD + 4 * WEEK)


def test_lifecycle_after_a_bad_release_an_honest_challenger_can_take_over(world, features, leaky):
    year = replay(world, features, Rules(retrain="monthly", check="none"), fit=fit, bad_release=BAD, leaky=leaky, until=BAD + 14 * WEEK)
    released = [d.at for d in year.decisions if d.kind == "release"]
    assert released[0] == BAD and released[1] < BAD + 5 * WEEK   # the next month's: both are judged on the true rows
    assert all(d.evidence["high"] < 0 for d in year.decisions if d.kind == "release")


def test_lifecycle_a_canary_too_small_to_be_judged_is_refused_not_a_crash(world, features, leaky):
    year = replay(world, features, Rules(retrain="never", share=.00001), fit=fit, bad_release=BAD, leaky=leaky, until=BAD + 3 * WEEK)
    assert year.count("refuse") == 1


@pytest.mark.parametrize("check, days, kind", [("canary", 0, "stop"), ("canary", 4, "stop"), ("canary", 5, "release"), ("shadow, canary", 4, "stop"), ("shadow, canary", 5, "release")])
def test_lifecycle_a_release_goes_live_only_if_enough_days_of_its_trial_became_known(world, features, leaky, check, days, kind):
    after = world.flights.sched_dep >= BAD + days * pd.Timedelta(days=1) + pd.Timedelta("2h")   # two hours after the prediction
    silent = World(world.flights.assign(label_time=world.flights.label_time + after * 8 * WEEK), world.desk)
    rules = Rules(retrain="never", check=check, alpha=1e-11)   # who is never surely worse is stopped by nothing else
    year = replay(silent, features, rules, fit=fit, bad_release=BAD, leaky=leaky, until=BAD + 3 * WEEK)
    end, = [d for d in year.decisions if d.kind in ("stop", "release")]
    assert (end.kind, end.at, end.evidence["days"]) == (kind, BAD + 2 * WEEK, days)


def test_lifecycle_a_release_for_everybody_of_which_nothing_became_known_stays(world, features, leaky):
    after = world.flights.sched_dep >= BAD
    silent = World(world.flights.assign(label_time=world.flights.label_time + after * 8 * WEEK), world.desk)
    year = replay(silent, features, Rules(retrain="never", check="week"), fit=fit, bad_release=BAD, leaky=leaky, until=BAD + 3 * WEEK)
    assert year.count("release") == 1 and year.count("rollback") == 0   # as in service


# ---- the loop in memory against the one in service

KINDS = {"retrain": "train", "promote": "release"}   # the same decision under the other's name


def full_trees(X, y, weights):
    "A model as the served loop trains it."
    rows = pd.DataFrame({"flight_id": X.index, "label": y, "known_at": START, "weight": weights})
    run, _ = train(rows, X, at=START)
    return lambda asked: run.model.predict_proba(asked)[:, 1]


def served_and_replayed(folder, monkeypatch, features, leaky, rules, weeks, bad_release):
    "The same weeks with a server, a registry and a log, and in memory."
    monkeypatch.setattr(policy, "load_features", features.reset_index)
    monkeypatch.setattr(lifecycle, "without_horizon", lambda *_: leaky)
    system = policy.launch(folder, rules=rules, say=lambda line: None)
    lifecycle.run_weeks(system, pd.date_range(START, periods=weeks, freq=WEEK), None, bad_release=bad_release)
    year = replay(system.world, features, rules, fit=full_trees, leaky=leaky, bad_release=bad_release, until=START + weeks * WEEK)
    return system, year


def decided(system):
    "What the served loop decided about its models and its loss, as the loop in memory puts it."
    rows, on_trial = [], set()
    for event in system.events[1:]:   # the first one is the launch
        kind, version = event["kind"], event["version"]
        if kind in ("resolved", "keep") or kind == "alert" and not event["text"].startswith("loss"): continue
        if kind == "trial" and version in on_trial: continue   # after its week in the shadow
        if kind == "trial": on_trial.add(version)
        if kind == "rollback": version = event["evidence"]["instead_of"]
        rows.append((event["at"], KINDS.get(kind, kind), version))
    return rows


def hold_against_each_other(system, year):
    assert decided(system) == [(d.at, d.kind, None if d.kind == "alert" else d.version) for d in year.decisions]
    gates = [d.evidence for d in year.decisions if {"low", "flights"} <= {*d.evidence}]
    assert np.allclose([[g["difference"], g["low"], g["high"]] for g in gates], [[g["difference"], g["low"], g["high"]] for g in system.gates], atol=1e-5)
    stops = [np.mean([*e["evidence"]["days"].values()]) for e in system.events if e["kind"] == "stop"]
    assert np.allclose(stops, [d.evidence["difference"] for d in year.decisions if d.kind == "stop"], atol=1e-5)
    weeks = pd.DataFrame(system.weeks)
    assert weeks.acted.tolist() == year.weeks.acted.tolist()
    assert (weeks.cost_if_nobody_acts - weeks.cost).tolist() == year.weeks.saved.tolist()


def test_lifecycle_the_loop_in_memory_decides_as_the_one_in_service_does_flight_for_flight(tmp_path, monkeypatch, features):
    few, bad_release = features.iloc[::8], START + 5 * WEEK
    leaky = without_horizon(features, bad_release).loc[few.index]
    system, year = served_and_replayed(tmp_path / "state", monkeypatch, few, leaky, Rules(), 7, bad_release)
    hold_against_each_other(system, year)
    assert [d.kind for d in year.decisions] == ["alert", "train", "refuse", "train", "trial", "stop"]   # there is something to compare
    other = replay(system.world, few, Rules(check="shadow"), fit=full_trees, leaky=leaky, bad_release=bad_release, until=START + 7 * WEEK)
    with pytest.raises(AssertionError): hold_against_each_other(system, other)   # the comparison can fail


@pytest.mark.slow
@pytest.mark.parametrize("rules", [Rules(), Rules(retrain="monthly", check="shadow, canary", share=.1), Rules(retrain="estimated harm", check="week", gate=False)], ids=str)
def test_lifecycle_the_whole_year_in_memory_decides_as_the_one_in_service_does(tmp_path, monkeypatch, features, leaky, rules):
    bad_release = pd.Timestamp("2013-09-02", tz="UTC")
    hold_against_each_other(*served_and_replayed(tmp_path / "state", monkeypatch, features, leaky, rules, 39, bad_release))
