"Monitoring: no silence about missing data, no alarm about nothing, one alert a trouble."
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlscale.monitoring import Alerts, ModelMetrics, ModelMonitor, PerformanceMonitor, ks_test, usual_effects

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
    naive = sum(min(ks_test(monitor.reference[c].to_numpy(), x)[1] for c, x in zip(monitor.reference, rng.normal(size=(20, 400)), strict=True)) < .01 for _ in range(200))
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
    assert report.drifted.to_dict() == {"b": True, "a": False} and report.missing["b"] == 1 and report.missing_reference["b"] == 0
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


# ---- alerts

def test_one_trouble_is_one_alert_and_it_ends():
    rng = rng_of(8)
    monitor, moved = ModelMonitor(rng.normal(size=1000)), rng.normal(2, 1, 500)
    for day in range(1, 4): monitor.check_data_drift(moved, at=T(f"2013-01-0{day}"))
    [alert] = monitor.alerts
    assert (alert.name, alert.at, alert.seen, alert.resolved_at) == ("data_drift", T("2013-01-01"), 3, None) and alert.value > alert.threshold == .1
    assert not monitor.check_data_drift(rng.normal(size=500), at=T("2013-01-04")) and monitor.alerts == []
    monitor.check_data_drift(moved, at=T("2013-01-05"))
    assert [a.resolved_at for a in monitor.record.history] == [T("2013-01-04"), None] and len(monitor.alerts) == 1


def test_alerts_escalate_and_never_calm_down_by_themselves():
    alerts = Alerts()
    for severity in ("info", "critical", "warning"): alerts.raise_("loss", at=T("2013-01-01"), value=np.float64(1), threshold=0, severity=severity)
    alerts.raise_("other", at=T("2013-01-02"), value=1, threshold=0)
    assert [(a.name, a.severity, a.seen) for a in alerts.open] == [("loss", "critical", 3), ("other", "warning", 1)]
    with pytest.raises(AttributeError): alerts.open[0].seen = 9
    with pytest.raises(ValueError, match="severity"): alerts.raise_("x", at=T("2013-01-01"), value=1, threshold=0, severity="fatal")
    with pytest.raises(ValueError, match="at="): alerts.resolve("other", at=T("2013-01-01"))
    assert alerts.resolve("nothing", at=T("2013-01-01")) is None and alerts.resolve("loss", at=T("2013-01-03")).resolved_at == T("2013-01-03")
    assert [a.name for a in alerts.open] == ["other"] and "loss" in str(alerts.history[0])


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
