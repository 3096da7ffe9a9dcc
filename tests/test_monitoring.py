"Monitoring: no silence about missing data, no alarm about nothing, one alert a trouble."
import dataclasses
import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlscale.drift import thresholds
from mlscale.monitoring import Alerts, Finding, ModelMetrics, ModelMonitor, PerformanceMonitor, ks_test, usual_effects

T = lambda text: pd.Timestamp(text, tz="UTC")
rng_of = np.random.default_rng


# ---- the distance

@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.lists(st.integers(-3, 3), min_size=1, max_size=40))
def test_the_distance_is_scipys_also_with_ties(a, b):
    a, b = np.array(a, float), np.array(b, float)
    d, p = ks_test(a, b)
    assert np.isclose(d, stats.ks_2samp(a, b, method="asymp").statistic) and 0 <= p <= 1
    assert np.isclose(ks_test(b, a)[0], d)


def test_the_p_value_is_scipys_for_large_samples():
    rng = rng_of(0)
    for shift in (0, .05, .1):
        a, b = rng.normal(size=5000), rng.normal(shift, 1, 3000)
        assert np.isclose(ks_test(a, b)[1], stats.ks_2samp(a, b, method="asymp").pvalue, rtol=.05, atol=1e-6)


@given(st.floats(0, 1))
def test_missing_values_move_the_distance_by_at_least_their_share(share):
    a = np.linspace(0, 1, 200)
    b = np.where(np.arange(200) < share * 200, np.nan, a)
    d, _ = ks_test(a, b)
    assert np.isclose(d, np.isnan(b).mean())
    assert ks_test(b, b)[0] == 0 and ks_test(np.where(np.isnan(b), np.inf, b), b)[0] == 0


# ---- the checks

def test_false_alarms_are_few_on_independent_rows_of_many_columns():
    rng = rng_of(1)
    monitor = ModelMonitor(rng.normal(size=(5000, 20)), min_effect=0)
    alarms = sum(monitor.check_data_drift(rng.normal(size=(400, 20))) for _ in range(200))
    naive = sum(min(ks_test(monitor.reference[c], x)[1] for c, x in zip(monitor.reference, rng.normal(size=(20, 400)), strict=True)) < .01 for _ in range(200))
    assert alarms <= stats.binom.ppf(.999, 200, .01) < naive


def test_an_effect_must_be_significant_and_large_enough():
    rng = rng_of(2)
    reference = rng.normal(size=50_000)
    small = rng.normal(.08, 1, 50_000)
    d, p = ks_test(reference, small)
    assert p < 1e-10 and d < .1
    assert ModelMonitor(reference).check_data_drift(small) is False and ModelMonitor(reference, min_effect=.01).check_data_drift(small) is True
    assert ModelMonitor(reference).check_data_drift([3.]) is False   # far, but one row is no evidence


def test_min_effect_by_column():
    rng = rng_of(3)
    X = pd.DataFrame(rng.normal(size=(2000, 2)), columns=["a", "b"])
    assert ModelMonitor(X, min_effect={"a": .1, "b": .9}).check_data_drift(X.assign(b=X.b + 1)) is False
    assert ModelMonitor(X, min_effect={"a": .1, "b": .9}).check_data_drift(X.assign(a=X.a + 1)) is True
    with pytest.raises(ValueError, match="'b'"): ModelMonitor(X, min_effect={"a": .1})


def test_days_that_share_a_mean_ring_naively_and_not_after_calibration():
    rng = rng_of(4)
    day = lambda: pd.DataFrame(rng.normal(size=2) + rng.normal(size=(200, 2)), columns=["a", "b"])
    reference = [day() for _ in range(60)]
    monitor = ModelMonitor(pd.concat(reference), min_effect=usual_effects(reference, alarms=.1))
    live = [day() for _ in range(150)]
    calibrated = sum(monitor.check_data_drift(d) for d in live)
    assert calibrated <= .2 * 150 and sum(ModelMonitor(pd.concat(reference)).check_data_drift(d) for d in live) > .8 * 150
    assert monitor.check_data_drift(day() + 5)


def test_a_missing_feed_is_drift_and_an_empty_or_unknown_batch_is_an_error_not_an_answer():
    rng = rng_of(5)
    X = pd.DataFrame(rng.normal(size=(1000, 2)), columns=["a", "b"])
    monitor = ModelMonitor(X, reference_predictions=X.a)
    report = monitor.report(X.assign(b=np.nan))
    assert report.drifted.to_dict() == {"b": True, "a": False} and report.missing["b"] == 1 and report.was_missing["b"] == 0
    assert monitor.check_data_drift(X.assign(b=np.inf)) and monitor.check_data_drift(X.assign(b=None))
    for nothing in ([], X[:0], X * np.nan, np.full(5, np.inf), [None, None], pd.DataFrame()):
        with pytest.raises(ValueError): monitor.check_data_drift(nothing)
    for nothing in ([], [np.nan], [None]):
        with pytest.raises(ValueError, match="predictions"): monitor.check_prediction_distribution(nothing)
        with pytest.raises(ValueError, match="latencies_ms"): monitor.check_latency(nothing)


def test_a_reference_with_missing_values_expects_them():
    rng = rng_of(6)
    holes = lambda n: np.where(rng.random(n) < .4, np.nan, rng.normal(size=n))
    monitor = ModelMonitor(holes(3000))
    assert not monitor.check_data_drift(holes(1000)) and monitor.check_data_drift(rng.normal(size=1000))


@pytest.mark.parametrize("batch", [[1, 2, 3] * 100, np.array([1, 2, 3] * 100, np.int8), np.array([1, 2, 3] * 100, np.float32), pd.Series([1, 2, 3] * 100, dtype="Int64"),
                                   [1, None, 2, 3] * 100, np.array([True, False] * 150)])
def test_numbers_of_all_kinds_are_accepted(batch):
    monitor = ModelMonitor(np.tile([1, 2, 3], 500), reference_predictions=np.tile([1, 2, 3], 500))
    assert type(monitor.check_data_drift(batch)) is bool and type(monitor.check_prediction_distribution(batch)) is bool
    assert type(monitor.check_latency(np.array([1, 2], np.int64))) is bool


def test_predictions_have_their_own_reference_and_their_shape_counts():
    rng = rng_of(7)
    usual = rng.beta(2, 5, 5000)
    monitor = ModelMonitor(rng.normal(100, 1, 1000), reference_predictions=usual)
    assert monitor.check_prediction_distribution(rng.beta(2, 5, 1000)) is False
    lumps = rng.choice([0, 4 * usual.mean()], 1000, p=[.75, .25])
    assert abs(lumps.mean() - usual.mean()) < usual.std() and monitor.check_prediction_distribution(lumps) is True
    assert monitor.check_prediction_distribution(np.full(2, .999)) is True   # three standard deviations need no many rows
    with pytest.raises(ValueError, match="reference_predictions"): ModelMonitor(usual).check_prediction_distribution(usual)
    constant = ModelMonitor(usual, reference_predictions=np.full(100, .5))
    assert constant.check_prediction_distribution(np.full(50, .5)) is False and constant.check_prediction_distribution(np.full(50, .51)) is True


def test_the_99th_percentile_of_the_latency():
    monitor = ModelMonitor([0, 1])
    assert not monitor.check_latency([10] * 99 + [9000]) and monitor.check_latency([10] * 98 + [9000] * 2)
    assert monitor.check_latency([10] * 98 + [np.inf] * 2) and not monitor.check_latency([10, np.nan])
    assert not monitor.check_latency([200]) and monitor.check_latency([200], threshold=199.9)
    for bad in (0, -1, np.nan):
        with pytest.raises(ValueError, match="threshold"): monitor.check_latency([1], threshold=bad)
    with pytest.raises(ValueError, match="negative"): monitor.check_latency([5, -1])


def test_metrics_of_a_batch():
    m = ModelMetrics.measure(pd.DataFrame({"a": [1, np.nan], "b": [np.inf, 2]}), [.2, .4, None], list(range(1, 101)))
    assert m == ModelMetrics(prediction_mean=pytest.approx(.3), prediction_std=pytest.approx(.1), null_rate=.5, latency_p99=99)


@pytest.mark.parametrize("bad", ["x", ["a", "b"], np.zeros((2, 2, 2)), [[1], [1, 2]], pd.DataFrame({"a": pd.to_datetime(["2013-01-01"])}), pd.DataFrame([[1, 2]], columns=["a", "a"])])
def test_what_is_no_table_of_numbers_is_named(bad):
    with pytest.raises(ValueError, match="reference_distribution"): ModelMonitor(bad)
    with pytest.raises(ValueError, match="batch"): ModelMonitor([1, 2]).check_data_drift(bad)


def test_other_columns_and_settings_are_named():
    monitor = ModelMonitor(pd.DataFrame({"a": [1, 2], "b": [1, 2]}))
    with pytest.raises(ValueError, match="missing are 'b'"):
        monitor.check_data_drift(pd.DataFrame({"a": [1], "c": ["text"]}))
    assert monitor.check_data_drift(pd.DataFrame({"a": [1, 2], "b": [1, 2], "c": ["more", "text"]})) is False
    for more in (dict(alpha=0), dict(alpha=1), dict(alpha=np.nan), dict(min_effect=-1), dict(min_effect=np.nan), dict(min_prediction_effect=np.nan)):
        with pytest.raises(ValueError, match=next(iter(more))): ModelMonitor([1, 2], **more)
    with pytest.raises(ValueError, match="20 or more"): usual_effects([pd.DataFrame({"a": [1.]})] * 19)
    with pytest.raises(ValueError, match="alarms"): usual_effects([pd.DataFrame({"a": [1.]})] * 19, alarms=0)
    with pytest.raises(ValueError, match="columns"): usual_effects([pd.DataFrame({"a": [1.]})] * 19 + [pd.DataFrame({"b": [1.]})])


# ---- findings and alerts

def found(value, at="2013-01-01", name="loss", evidence=""):
    return Finding(name, value, .5, "nats", T(at), value > .5, evidence)


def test_a_finding_holds_numbers_and_a_moment_and_is_true_where_it_is_an_alarm():
    x = Finding("loss", np.float32(.75), 1, "nats", pd.Timestamp("2013-01-01 12:00", tz="America/New_York"), np.bool_(True), "why")
    assert (type(x.value), type(x.threshold), type(x.alarm)) == (float, float, bool) and x.at == T("2013-01-01 17:00") and str(x.at.tz) == "UTC"
    assert x and not found(.1) and str(x) == "loss, 2013-01-01: 0.75 nats, allowed 1; why"
    assert Finding("latency", np.inf, 200, "ms", T("2013-01-01"), True).value == np.inf
    with pytest.raises(AttributeError): x.value = 0
    for change in (dict(value=np.nan), dict(value=None), dict(value=pd.NA), dict(threshold=np.nan), dict(value="0.7")):
        with pytest.raises(ValueError, match="no number"): dataclasses.replace(x, **change)
    for at in (pd.Timestamp("2013-01-01"), None, pd.NaT, "soon"):
        with pytest.raises(ValueError, match="zone"): dataclasses.replace(x, at=at)
    for text in ("name", "unit", "evidence"):
        with pytest.raises(TypeError, match=text): dataclasses.replace(x, **{text: None})


def test_one_trouble_is_one_alert_and_it_ends():
    rng = rng_of(8)
    monitor, moved = ModelMonitor(rng.normal(size=1000)), rng.normal(2, 1, 500)
    for day in range(1, 4): monitor.check_data_drift(moved, at=T(f"2013-01-0{day}"))
    [alert] = monitor.alerts
    assert (alert.name, alert.at, alert.seen, alert.seen_at, alert.resolved_at) == ("data_drift", T("2013-01-01"), 3, T("2013-01-03"), None)
    assert alert.value > alert.threshold == .1 and alert.unit == "distance" and "x0" in alert.evidence
    assert not monitor.check_data_drift(rng.normal(size=500), at=T("2013-01-04")) and monitor.alerts == []
    monitor.check_data_drift(moved, at=T("2013-01-05"))
    assert [a.resolved_at for a in monitor.record.history] == [T("2013-01-04"), None] and len(monitor.alerts) == 1


def test_alerts_escalate_and_never_calm_down_by_themselves():
    alerts = Alerts()
    for severity in ("info", "critical", "warning"): alerts.update(found(1), severity=severity)
    alerts.update(found(1, "2013-01-02", "other"))
    assert [(a.name, a.severity, a.seen) for a in alerts.open] == [("loss", "critical", 3), ("other", "warning", 1)]
    with pytest.raises(AttributeError): alerts.open[0].seen = 9
    with pytest.raises(ValueError, match="severity"): alerts.update(found(1), severity="fatal")
    ended = alerts.update(found(.1, "2013-01-03"))
    assert ended.severity == "critical" and ended.resolved_at == T("2013-01-03") and [a.name for a in alerts.open] == ["other"] and "loss" in str(ended)
    assert alerts.update(found(1, "2013-01-04"), severity="info").severity == "info"   # another trouble of that name


def test_an_alert_follows_its_newest_alarm_and_keeps_the_time_of_its_first():
    alerts = Alerts()
    assert alerts.update(found(.1)) is None and alerts.history == []
    opened = alerts.update(found(.7, "2013-01-02", evidence="first"))
    assert opened.seen == 1 and opened.at == opened.seen_at == T("2013-01-02")
    later = dataclasses.replace(found(.9, "2013-01-09", evidence="second"), threshold=.6)
    added = alerts.update(later)
    assert (added.value, added.threshold, added.evidence, added.at, added.seen_at, added.seen) == (.9, .6, "second", T("2013-01-02"), T("2013-01-09"), 2)
    ended = alerts.update(found(.2, "2013-01-16"))
    assert ended == dataclasses.replace(added, resolved_at=T("2013-01-16"))   # it remembers what was wrong
    assert alerts.history == [ended] and alerts.update(found(.2, "2013-01-17")) is None


def test_a_finding_from_before_the_last_is_refused_and_changes_nothing():
    alerts = Alerts()
    alerts.update(found(.7, "2013-01-02"))
    alerts.update(found(.7, "2013-01-09"))
    for value in (.7, .2):
        with pytest.raises(ValueError, match="at=2013-01-08.*order of time"): alerts.update(found(value, "2013-01-08"))
    assert alerts.open[0].seen == 2 and alerts.update(found(.7, "2013-01-01", "other")).seen == 1   # each name has its own past
    alerts.update(found(.2, "2013-01-10"))
    with pytest.raises(ValueError, match="order of time"): alerts.update(found(.7, "2013-01-09"))
    assert len(alerts.history) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([.1, .7, .9, np.inf]), st.sampled_from(["info", "warning", "critical"]), st.booleans()), max_size=25))
def test_a_register_that_restarts_at_any_moment_goes_on_as_if_it_had_not(steps):
    kept, restarted = Alerts(), Alerts()
    for i, (name, value, severity, restart) in enumerate(steps):
        if restart: restarted = Alerts.from_dict(json.loads(json.dumps(restarted.to_dict(), allow_nan=False)))
        finding = found(value, f"2013-01-{1 + i:02}", name, f"step {i}")
        assert kept.update(finding, severity=severity) == restarted.update(finding, severity=severity)
    assert kept.history == restarted.history and kept.open == restarted.open and kept.to_dict() == restarted.to_dict()
    for name in "abc":   # by another road: what an alert counts are the alarms between two that were none
        values = [value > .5 for n, value, *_ in steps if n == name]
        runs = [len(list(group)) for alarm, group in itertools.groupby(values) if alarm]
        assert [a.seen for a in kept.history if a.name == name] == runs


def test_what_no_register_wrote_is_refused():
    alerts = Alerts()
    for name in ("loss", "latency"): alerts.update(found(.7, "2013-01-02", name))
    alerts.update(found(.1, "2013-01-05"))
    alerts.update(found(.7, "2013-01-09"))
    state = json.loads(json.dumps(alerts.to_dict()))
    assert Alerts.from_dict(state).history == alerts.history
    first, second, third = state["history"]
    one = lambda **change: state | {"history": [first | change]}
    for bad in (None, [], {}, state | {"kind": "Reference"}, state | {"format": 3}, state | {"format": None}, {k: state[k] for k in ("kind", "format")}, state | {"history": {}},
                state | {"history": [5]}, state | {"history": [{}]}, one(severity="dreadful"), one(seen=0), one(seen=1.5), one(seen="2"), one(value=None), one(value="nan"), one(value="much"),
                one(threshold="nan"), one(name=None), one(unit=5), one(at="2013-01-02"), one(at=None), one(at="2013-01-03T00:00:00+00:00"), one(seen_at="2013-01-01T00:00:00+00:00"),
                one(resolved_at="2013-01-01T00:00:00+00:00"), one(resolved_at="never"), state | {"history": [second, second]}, state | {"history": [third, first]},
                state | {"history": [first | {"resolved_at": "2013-01-10T00:00:00+00:00"}, third]}):
        with pytest.raises(ValueError, match="d: "): Alerts.from_dict(bad)


def test_several_monitors_share_one_register_and_a_check_changes_nothing_until_it_is_recorded():
    rng = rng_of(12)
    X = pd.DataFrame(rng.normal(size=(2000, 2)), columns=["a", "b"])
    alerts = Alerts()
    monitor, other = ModelMonitor(X, reference_predictions=X.a, alerts=alerts), ModelMonitor(X, alerts=alerts)
    at = T("2013-01-01")
    findings = [monitor.data_drift(X + 1, at=at), monitor.prediction_drift(X.a + 1, at=at), monitor.latency([900.] * 10, at=at)]
    assert [(f.name, f.unit, f.alarm, f.at) for f in findings] == [("data_drift", "distance", True, at), ("prediction_drift", "distance", True, at), ("latency", "ms", True, at)]
    assert alerts.history == [] and findings[2].value == 900 and findings[2].threshold == 200
    assert other.check_latency([900.] * 10, at=at) and monitor.check_prediction_distribution(X.a + 1, at=at) and monitor.check_data_drift(X + 1, at=at)
    assert monitor.record is alerts and monitor.alerts == other.alerts == alerts.open and [a.name for a in alerts.open] == ["latency", "prediction_drift", "data_drift"]
    assert not monitor.check_latency([9.], at=T("2013-01-02")) and len(other.alerts) == 2


def test_the_present_is_used_only_where_no_time_is_given():
    monitor, before = ModelMonitor([0., 1.], reference_predictions=[0., 1.]), pd.Timestamp.now("UTC")
    for check, rows in ((monitor.data_drift, [0., 1.]), (monitor.prediction_drift, [0., 1.]), (monitor.latency, [5.])):
        assert before <= check(rows).at <= pd.Timestamp.now("UTC") and check(rows, at=T("2013-05-01")).at == T("2013-05-01")
    monitor.check_latency([900.], at=T("2013-05-01"))
    monitor.check_latency([900.], at=T("2013-05-02"))
    assert (monitor.alerts[0].at, monitor.alerts[0].seen_at) == (T("2013-05-01"), T("2013-05-02"))


def test_a_finding_shows_the_number_that_rang():
    rng = rng_of(13)
    usual = rng.beta(2, 5, 5000)
    monitor = ModelMonitor(usual, reference_predictions=usual)
    few_far = np.concatenate([usual[:960], np.full(40, 100.)])   # the shape is nearly the same, the mean is not
    finding = monitor.prediction_drift(few_far, at=T("2013-01-01"))
    assert finding and finding.unit == "shift of the mean" and finding.value > finding.threshold == pytest.approx(3*usual.std(), rel=1e-5)
    assert finding.value == pytest.approx(abs(few_far.mean() - usual.mean()))
    X = pd.DataFrame(rng.normal(size=(2000, 5)), columns=list("abcde"))
    drift = ModelMonitor(X, min_effect={"a": .9, "b": .1, "c": .1, "d": .1, "e": .1}).data_drift(X + [.8, .5, .6, 3, .4], at=T("2013-01-01"))
    assert drift.value > .8 and drift.threshold == .1 and drift.evidence.startswith("4 of 5 columns drifted; furthest: d (D 0.") and drift.evidence.count("(D") == 3 and "a (" not in drift.evidence


def test_a_monitor_that_restarts_answers_the_same():
    rng = rng_of(14)
    X = pd.DataFrame(rng.normal(size=(500, 2)), columns=["a", "b"]).mask(rng.random((500, 2)) < .1)
    monitor = ModelMonitor(X, reference_predictions=[.1, None, .3, np.inf] * 50, alpha=.02, min_effect={"a": .2, "b": .3}, min_prediction_effect=.15)
    stored = json.dumps(monitor.to_dict(), allow_nan=False)
    alerts = Alerts()
    again = ModelMonitor.from_dict(json.loads(stored), alerts=alerts)
    assert json.dumps(again.to_dict()) == stored and again.record is alerts
    batch = X + .2
    assert again.report(batch).equals(monitor.report(batch))
    assert again.prediction_drift([.1, .2], at=T("2013-01-01")) == monitor.prediction_drift([.1, .2], at=T("2013-01-01"))
    for bad in ({}, [], monitor.to_dict() | {"format": 2}, monitor.to_dict() | {"kind": "x"}):
        with pytest.raises(ValueError, match="to_dict"): ModelMonitor.from_dict(bad)


def test_a_report_is_the_test_column_by_column_and_the_reference_is_not_sorted_again(monkeypatch):
    rng = rng_of(15)
    X = pd.DataFrame(rng.normal(size=(60_000, 8))).add_prefix("x").mask(rng.random((60_000, 8)) < .05)
    batch = X[:3000] + rng.normal(0, .1, 8)
    monitor, lengths, sort = ModelMonitor(X), [], np.sort
    with monkeypatch.context() as m:
        m.setattr(np, "sort", lambda x, *more, **settings: (lengths.append(len(x)), sort(x, *more, **settings))[1])
        report = monitor.report(batch)
    assert 0 < max(lengths) <= len(batch)
    assert all((report.distance[c], report.p[c]) == ks_test(X[c], batch[c]) for c in X)


def test_usual_effects_leave_each_batch_out():
    rng = rng_of(16)
    batches = [pd.DataFrame({"a": rng.normal(rng.normal(), 1, n)}) for n in rng.integers(30, 200, 20)]
    rest = [pd.concat(batches[:i] + batches[i + 1:]).a for i in range(20)]
    strays = np.array([[ks_test(others, b.a)[0]] for others, b in zip(rest, batches, strict=True)])
    assert usual_effects(batches, alarms=.1)["a"] == pytest.approx(thresholds(strays, .1)[0], rel=1e-9)


# ---- the loss

def test_the_threshold_rings_as_often_as_asked_for():
    rng, worlds, alpha = rng_of(9), 12_000, .1
    rings = 0
    for _ in range(worlds):
        weeks = np.exp(rng.normal(-.7, .1, 5))
        rings += PerformanceMonitor(weeks[:4], false_alarms_per_year=52 * alpha).update(weeks[4])
    low, high = stats.binom.interval(.999, worlds, alpha)
    assert low <= rings <= high


def test_a_damaged_model_rings_and_a_restart_changes_nothing():
    monitor = PerformanceMonitor([.45, .5, .47, .52, .43, .46])
    assert monitor.update(.5) is False and monitor.update([.4, .6]) is False and monitor.update(np.float32(.7)) is True
    assert monitor.losses == pytest.approx([.5, .5, .7])
    again = PerformanceMonitor.from_dict(json.loads(json.dumps(monitor.to_dict())))
    assert again.to_dict() == monitor.to_dict() and again.threshold == monitor.threshold
    assert PerformanceMonitor([.45, .5, .47, .52], false_alarms_per_year=10).threshold < PerformanceMonitor([.45, .5, .47, .52]).threshold


def test_bad_losses_are_named():
    for bad in ([], [.5] * 3, [.5] * 8, [.5, .4, .6, np.nan], [.5, .4, .6, np.inf], [.5, .4, .6, 0], [[.5, .4], [.6, .7]]):
        with pytest.raises(ValueError, match="baseline_losses"): PerformanceMonitor(bad)
    for bad in (0, 52, np.nan):
        with pytest.raises(ValueError, match="false_alarms_per_year"): PerformanceMonitor([.5, .4, .6, .7], false_alarms_per_year=bad)
    monitor = PerformanceMonitor([.5, .4, .6, .7])
    for bad in (np.nan, [], [.5, np.nan], [-1], np.inf):
        with pytest.raises(ValueError, match="week_losses"): monitor.update(bad)
    assert monitor.losses == []
    for bad in ({}, [], monitor.to_dict() | {"format": 2}, monitor.to_dict() | {"kind": "x"}):
        with pytest.raises(ValueError, match="to_dict"): PerformanceMonitor.from_dict(bad)
    for weights in ([], [1], [1, 1, 1], [1, np.nan], [1, -1], [0, 0], [[1, 1]], ["a", "b"]):
        with pytest.raises(ValueError, match="weight"): monitor.update([.5, .6], weights=weights)
    with pytest.raises(ValueError, match="update first"): monitor.finding(T("2013-01-01"))
    assert monitor.losses == []


def test_the_flights_left_alone_stand_for_all_by_their_weight():
    rng, n = rng_of(10), 100_000
    score = rng.beta(2, 6, n)
    losses = -np.log(np.where(rng.random(n) < score, score, 1 - score))
    alone = np.where(score > .4, .1, 1.)
    left = rng.random(n) < alone
    monitor = PerformanceMonitor([.5, .4, .6, .7])
    monitor.update(losses[left], weights=1/alone[left])
    monitor.update(losses[left])
    error = 4*np.std(losses[left]/alone[left])/np.sqrt(left.sum())
    assert abs(monitor.losses[0] - losses.mean()) < error < abs(monitor.losses[1] - losses.mean())
    assert PerformanceMonitor([.5, .4, .6, .7]).update([9, .5], weights=[0, 1]) is False


def test_the_finding_of_the_newest_week():
    monitor, alerts = PerformanceMonitor([.45, .5, .47, .52]), Alerts()
    for week, loss in enumerate((.5, .9, .95, .5)):
        rings = monitor.update(loss)
        finding = monitor.finding(T(f"2013-01-0{week + 1}"), name="the loss is too high")
        assert (finding.value, finding.threshold, finding.unit, finding.alarm, finding.at) == (loss, monitor.threshold, "nats", rings, T(f"2013-01-0{week + 1}"))
        alerts.update(finding, severity="critical")
    [alert] = alerts.history
    assert (alert.name, alert.value, alert.unit, alert.seen) == ("the loss is too high", .95, "nats", 2) and "0.450 to 0.520" in alert.evidence
    assert monitor.finding(T("2013-01-09")).name == "loss"


def test_a_register_can_be_looked_at():
    alerts, day = Alerts(), pd.Timestamp("2013-01-01", tz="UTC")
    assert repr(alerts) == "Alerts(0 so far; open: none)" and alerts.plot().get_title() == "0 alerts, 0 still open (arrow)"
    for name, at, alarm, severity in (("loss", 0, True, "warning"), ("<b>lag", 1, True, "info"), ("loss", 2, False, "info"), ("loss", 5, True, "critical"), ("loss", 8, True, "info")):
        alerts.update(Finding(name, 9. if alarm else 1., 5, "ms", day + pd.Timedelta(days=at), alarm), severity=severity)
    assert repr(alerts) == "Alerts(3 so far; open: info <b>lag, critical loss)" and repr(alerts.open[1]).startswith("Alert(critical loss: open since 2013-01-06")
    assert (shown := alerts._repr_html_()).count("<tr") == 4 and "&lt;b&gt;lag" in shown and "<b>" not in shown and "2013-01-03 00:00" in shown
    ax = alerts.plot()
    assert ax.get_title() == "3 alerts, 2 still open (arrow)" and [tick.get_text() for tick in ax.get_yticklabels()] == ["loss", "<b>lag"]
    spans = [[(x - day.to_datetime64())/pd.Timedelta(days=1) for x in pd.DatetimeIndex(line.get_xdata()).tz_localize(None)] for line in ax.lines[:3]]
    assert spans == [[0, 2], [1, 8], [5, 8]] and [line.get_ydata()[0] for line in ax.lines[:3]] == [0, 1, 0]
    assert [line.get_marker() for line in ax.lines[:3]] == ["", ">", ">"] and len({line.get_color() for line in ax.lines[:3]}) == 3
    plt.close("all")


def test_a_model_monitor_and_its_figures_can_be_looked_at():
    usual = pd.DataFrame({"a": np.arange(200.), "<b>": np.where(np.arange(200) < 50, np.nan, 1)})
    monitor = ModelMonitor(usual, reference_predictions=np.linspace(.1, .3, 90))
    assert repr(monitor) == "ModelMonitor(200 rows and 90 predictions when all was well, columns: a, <b>; open: none)"
    monitor.check_data_drift(batch := usual.assign(a=usual.a + 100), at=pd.Timestamp("2013-01-01", tz="UTC"))
    assert repr(monitor).endswith("open: warning data_drift)") and "no reference predictions" in repr(ModelMonitor(usual))
    shown = monitor._repr_html_()
    assert "<li>warning data_drift: open since 2013-01-01" in shown and "199.0" in shown and "0.25" in shown and "&lt;b&gt;" in shown and "<b>" not in shown
    ax, report = monitor.plot(batch), monitor.report(batch)
    assert ax.get_title() == "1 of 2 columns drifted" and [bar.get_width() for bar in ax.patches] == report.distance.tolist() == [.5, 0]
    assert max(map(len, report.to_string().splitlines())) <= 80
    assert repr(ModelMetrics(1/3, .1, .125, 90.)) == "ModelMetrics(prediction_mean=0.3333, prediction_std=0.1, null_rate=0.125, latency_p99=90)"
    plt.close("all")


def test_the_weeks_of_a_performance_monitor_can_be_looked_at():
    monitor = PerformanceMonitor([.44, .46, .45, .47])
    assert repr(monitor) == "PerformanceMonitor(threshold 0.509 from 4 reference weeks; 0 weeks seen, 0 above)"
    assert monitor.plot().get_title() == "0 of 0 weeks are above the threshold"
    for week in (.48, .7, .5): monitor.update(week)
    assert repr(monitor).endswith("3 weeks seen, the newest with 0.500, 1 above)")
    before, watched, above, threshold = monitor.plot().lines
    assert before.get_xdata().tolist() == [-3, -2, -1, 0] and watched.get_ydata().tolist() == [.48, .7, .5]
    assert above.get_xdata().tolist() == [2] and threshold.get_ydata()[0] == monitor.threshold
    plt.close("all")
