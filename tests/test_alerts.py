"An alert has a life: it must last before it fires, is taken on by somebody, ends when it is surely over, and each change is said once."
import dataclasses
import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlscale.alerts import Alerts, Rule
from mlscale.drift_monitor import Finding

NIGHT = pd.Timestamp("2013-09-02 08:00", tz="UTC")
at = lambda minute: NIGHT + pd.Timedelta(minutes=minute)


def found(minute, alarm=True, name="age", value=None):
    return Finding(name, (20 if alarm else 5) if value is None else value, 15, "min", at(minute), alarm, f"minute {minute}")


def again(alerts, **more): return Alerts.from_dict(json.loads(json.dumps(alerts.to_dict(), allow_nan=False)), **more)


def test_a_trouble_fires_when_it_has_lasted_and_a_shorter_one_leaves_nothing():
    alerts = Alerts({"age": Rule("critical", hold=2, hold_for="30min", runbook="replay")})
    states = [alerts.update(found(m)).state for m in (0, 10, 20, 30)]
    assert states == ["pending"] * 3 + ["firing"] and alerts.pending == []
    [alert] = alerts.open
    assert (alert.at, alert.fired_at, alert.seen, alert.severity, alert.runbook) == (at(0), at(30), 4, "critical", "replay")
    short = Alerts({"age": Rule(hold=3)})
    assert [short.update(found(m, m < 20)) is None for m in (0, 10, 20)] == [False, False, True]
    assert short.history == short.pending == [] and short.update(found(30)).seen == 1 and repr(short).endswith("pending: age)")


def test_it_is_over_when_it_has_been_well_for_long_enough():
    alerts = Alerts({"age": Rule(clear=3)})
    for minute, alarm in ((0, True), (10, False), (20, False), (30, True), (40, False), (50, False)): alerts.update(found(minute, alarm))
    [alert] = alerts.open
    assert (alert.seen, alert.well, alert.seen_at) == (2, 2, at(30))   # one alert, not two
    ended = alerts.update(found(60, False))
    assert ended.state == "resolved" and ended.resolved_at == at(60) and alerts.open == [] and alerts.update(found(70, False)) is None


def test_somebody_takes_it_on_and_what_becomes_worse_must_be_taken_on_again():
    alerts = Alerts()
    alerts.update(found(0))
    taken = alerts.acknowledge("age", by="Ann", at=at(5), note="asked the airline")
    assert (taken.state, taken.acknowledged_by, taken.note, taken.acknowledged_at) == ("acknowledged", "Ann", "asked the airline", at(5)) and "taken on by Ann" in str(taken)
    assert alerts.update(found(10)).state == "acknowledged" and alerts.open == [alerts.history[0]]
    worse = alerts.update(found(20), severity="critical")
    assert (worse.state, worse.acknowledged_by, worse.note) == ("firing", "", "") and alerts.update(found(30, False)).state == "resolved"
    for wrong in (dict(name="age"), dict(name="other"), dict(by=""), dict(by=None)):
        with pytest.raises(ValueError): alerts.acknowledge(**{"name": "age", "by": "Ann", "at": at(40)} | wrong)
    alerts.update(found(50))
    for when in (at(40), "soon", None, pd.Timestamp("2013-09-03")):
        with pytest.raises(ValueError, match="at="): alerts.acknowledge("age", by="Ann", at=when)
    assert alerts.open[0].state == "firing"


def test_an_open_cause_explains_what_fires_after_it():
    alerts = Alerts({"scores": Rule(causes=("age", "volume"))})
    alerts.update(found(0, name="scores"))
    assert alerts.update(found(5, False, "scores")).cause == ""
    alerts.update(found(10))
    assert alerts.update(found(10, name="scores")).cause == "age" and "see age" in str(alerts.open[1])
    alerts.update(found(20, False))
    assert alerts.update(found(20, name="scores")).cause == "age"   # it remembers
    alerts.update(found(30, False, "scores"))
    assert alerts.update(found(40, name="scores")).cause == ""


def test_each_change_is_said_once_and_with_an_id_of_its_own():
    said = []
    alerts = Alerts({"age": Rule(hold=2, clear=2)}, said.append)
    for minute in range(0, 60, 10): alerts.update(found(minute))
    alerts.acknowledge("age", by="Ann", at=at(55))
    alerts.update(found(60), severity="critical")
    for minute in (70, 80): alerts.update(found(minute, False))
    assert [(a.state, a.severity) for a in said] == [("firing", "warning"), ("acknowledged", "warning"), ("firing", "critical"), ("resolved", "critical")]
    assert len({a.id for a in said}) == 4


def test_what_could_not_be_said_changes_nothing_and_is_tried_again():
    said, full = [], [True]
    def notify(alert):
        if full[0]: raise OSError("the disk is full")
        said.append(alert.id)
    alerts = Alerts({"age": Rule(hold=2)}, notify)
    alerts.update(found(0))
    with pytest.raises(OSError): alerts.update(found(10))
    assert alerts.history == [] and alerts.pending[0].seen == 1
    full[0] = False
    assert alerts.update(found(20)).state == "firing" and len(said) == 1


steps = st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.sampled_from(["info", "critical"]), st.sampled_from(["", "restart", "take on"])), max_size=30)


@settings(max_examples=80, deadline=None)
@given(steps, st.integers(1, 3), st.integers(1, 3))
def test_a_restart_at_any_moment_changes_nothing_and_says_nothing_twice(steps, hold, clear):
    rules, said, heard = {"a": Rule(hold=hold, clear=clear, causes=("b",), runbook="look")}, [], []
    kept, restarted = Alerts(rules, said.append), Alerts(rules, heard.append)
    for i, (name, alarm, severity, more) in enumerate(steps):
        if more == "restart": restarted = again(restarted, notify=heard.append)
        assert kept.update(found(i, alarm, name), severity=severity) == restarted.update(found(i, alarm, name), severity=severity)
        if more == "take on" and name in [a.name for a in kept.open]:
            for alerts in (kept, restarted): alerts.acknowledge(name, by="Ann", at=at(i))
    assert kept.to_dict() == restarted.to_dict() and kept.pending == restarted.pending and said == heard
    mine = [alarm for name, alarm, *_ in steps if name == "a"]
    fired, run, well, is_open = 0, 0, 0, False   # by another road: a machine of two counters
    for alarm in mine:
        run, well = (run + 1, 0) if alarm else (0, well + 1)
        if not is_open and run >= hold: fired, is_open = fired + 1, True
        elif is_open and well >= clear: is_open = False
    assert (sum(a.name == "a" for a in kept.history), any(a.name == "a" for a in kept.open)) == (fired, is_open)


FORMAT_1 = {"kind": "Alerts", "format": 1, "history": [
    {"name": "loss", "at": "2013-01-01T00:00:00+00:00", "value": .9, "threshold": .5, "unit": "nats", "severity": "critical", "evidence": "why", "seen": 2,
     "seen_at": "2013-01-02T00:00:00+00:00", "resolved_at": "2013-01-03T00:00:00+00:00"},
    {"name": "latency", "at": "2013-01-04T00:00:00+00:00", "value": "inf", "threshold": .5, "unit": "nats", "severity": "warning", "evidence": "why", "seen": 1,
     "seen_at": "2013-01-04T00:00:00+00:00", "resolved_at": None}]}


def test_what_the_first_format_wrote_is_read_and_goes_on():
    alerts = Alerts.from_dict(FORMAT_1)
    assert [(a.name, a.state, a.fired_at) for a in alerts.history] == [("loss", "resolved", pd.Timestamp("2013-01-01", tz="UTC")), ("latency", "firing", pd.Timestamp("2013-01-04", tz="UTC"))]
    assert again(alerts).to_dict() == alerts.to_dict() and alerts.to_dict()["format"] == 2
    assert alerts.update(Finding("latency", 1, .5, "nats", "2013-01-05T00:00Z", False)).state == "resolved"


def test_what_no_register_of_this_format_wrote_is_refused():
    alerts = Alerts({"age": Rule(), "slow": Rule(hold=2)})
    alerts.update(found(0))
    alerts.acknowledge("age", by="Ann", at=at(1))
    alerts.update(found(0, name="slow"))
    state = json.loads(json.dumps(alerts.to_dict()))
    [fired], [waiting] = state["history"], state["pending"]
    one = lambda **change: state | {"history": [fired | change]}
    for bad in (one(fired_at=None), one(fired_at="2013-09-02T07:00:00+00:00"), one(acknowledged_at="2013-09-02T07:59:00+00:00"), one(well=-1), one(note=5), one(more=1), one(cause=None),
                state | {"pending": None}, state | {"pending": [fired]}, state | {"pending": [waiting, waiting]}, state | {"history": [waiting]}, state | {"rules": [1]},
                state | {"rules": {"age": {"hold": 0}}}, state | {"rules": {"age": {"unknown": 0}}}, {k: x for k, x in state.items() if k != "pending"}):
        with pytest.raises(ValueError, match="d: "): Alerts.from_dict(bad)
    assert Alerts.from_dict(state, rules={}).rules == {} and Alerts.from_dict(state).rules == alerts.rules


def test_rules_that_make_no_sense_are_refused():
    for wrong in (dict(severity="fatal"), dict(hold=0), dict(clear=1.5), dict(hold_for="-1min"), dict(hold_for="long"), dict(hold_for=None)):
        with pytest.raises(ValueError, match=next(iter(wrong))): Rule(**wrong)
    with pytest.raises(TypeError, match="causes"): Rule(causes="age")
    assert dataclasses.replace(Rule(), causes=["a"]).causes == ("a",)


def test_who_takes_it_on_by_a_clock_that_is_ahead_of_the_data_survives_a_restart():
    told = []
    alerts = Alerts(notify=lambda alert: told.append(alert.id))
    alerts.update(found(0))
    alerts.acknowledge("age", by="Ann", at=at(40))
    alerts.acknowledge("age", by="Bob", at=at(41))
    assert alerts.update(found(30, False)).state == "resolved"
    assert Alerts.from_dict(json.loads(json.dumps(alerts.to_dict()))).history == alerts.history
    assert len(set(told)) == len(told) == 4


def test_two_troubles_of_one_name_at_one_moment_are_told_apart_and_stay_so_after_a_restart():
    said = []
    alerts = Alerts(notify=said.append)
    for alarm in (True, False, True, False):
        alerts.update(found(0, alarm))
        alerts = again(alerts, notify=said.append)
    alerts.update(found(10))
    assert [a.state for a in said] == ["firing", "resolved"] * 2 + ["firing"] and len({a.id for a in said}) == 5 and [a.again for a in alerts.history] == [0, 1, 0]
    assert "again" not in alerts.to_dict()["history"][0] and alerts.history[0].id == f"age/{NIGHT.isoformat()}/warning/resolved"


@pytest.mark.parametrize(("rule", "of_finding", "given", "becomes"), [
    (None, "", None, "warning"), (None, "critical", None, "critical"), ("info", "critical", None, "info"), ("info", "critical", "warning", "warning")])
def test_how_bad_it_is_says_the_caller_else_the_rule_else_the_finding(rule, of_finding, given, becomes):
    alerts = again(Alerts({"age": Rule(rule, hold=1)}))
    assert alerts.update(dataclasses.replace(found(0), severity=of_finding), severity=given).severity == becomes
    with pytest.raises(ValueError, match="severity"): alerts.update(dataclasses.replace(found(1), severity="dreadful", name="other"))
