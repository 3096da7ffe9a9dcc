"Recalibration learns only from what was known and mends what can be mended; a score's worth follows its costs; slices are named only beyond luck."
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from mlscale.data import MATURE
from mlscale.decisions import savings, savings_by_threshold, sensitivity, slices
from mlscale.evaluation import evaluate, log_losses
from mlscale.recalibration import Recalibration, brier_parts, fit_recalibration, recalibrated_weekly, reliability
from mlscale.simulators import OperationsDesk

RNG = np.random.default_rng(0)
P = RNG.uniform(.05, .95, 20_000)
Y = (RNG.random(20_000) < P).astype(float)
DAYS = np.repeat(np.arange(100), 200)


# ---- recalibration

@pytest.mark.parametrize(("shift", "slope"), [(0., 1.), (1., 1.), (-.7, .5), (.3, 2.)])
def test_a_step_undoes_what_was_done_to_the_probabilities(shift, slope):
    bent = expit((logit(P) - shift)/slope)
    found = fit_recalibration(Y, bent)
    assert np.isclose(found.shift, shift, atol=.1) and np.isclose(found.slope, slope, rtol=.06)
    assert log_losses(Y, found.apply(bent)).mean() <= log_losses(Y, P).mean() + 1e-6   # the least there is, on these rows
    alone = fit_recalibration(Y, expit(logit(P) - 1), slope=False)
    assert alone.slope == 1 and np.isclose(alone.shift, 1, atol=.05)


def test_a_step_survives_certainty_and_says_what_it_cannot_learn_from():
    assert np.isfinite(Recalibration(.5, .5).apply([0, 1, .5])).all() and (np.diff(Recalibration(-1., .3).apply([0, .2, .7, 1])) > 0).all()
    for y, p, words in (([1, 1], [.2, .3], "both present"), ([0, 2], [.2, .3], "y: labels"), ([0, 1], [.2, 30], "p: probabilities"), ([0, 1], [.2], "shapes")):
        with pytest.raises(ValueError, match=words): fit_recalibration(y, p)


def test_a_weekly_step_uses_mature_labels_only():
    predicted = pd.Series(pd.date_range("2013-07-01", periods=2000, freq="h", tz="UTC"))
    start, (y, p) = predicted[1200], (Y[:2000], P[:2000])
    ours = recalibrated_weekly(y, p, predicted, start=start, weeks=2, slope=True)
    assert (ours[:1200] == p[:1200]).all() and (ours[1200:] != p[1200:]).all()
    later = y.copy()
    later[(predicted >= start - MATURE).to_numpy()] = 1 - later[(predicted >= start - MATURE).to_numpy()]
    week = slice(1200, 1200 + 24*7)
    assert (recalibrated_weekly(later, p, predicted, start=start, weeks=2, slope=True)[week] == ours[week]).all()
    seen = (predicted >= start - MATURE - pd.Timedelta(weeks=2)) & (predicted < start - MATURE)
    assert np.allclose(fit_recalibration(y[seen], p[seen]).apply(p[week]), ours[week])
    assert (recalibrated_weekly(np.zeros(2000), p, predicted, start=start) == p).all()   # one class: nothing to learn


def test_the_parts_of_the_brier_score_add_up_and_each_means_what_it_says():
    right, bent, told = brier_parts(Y, P), brier_parts(Y, expit(logit(P) + 1)), brier_parts(Y, np.full(len(Y), Y.mean()))
    for parts, p in ((right, P), (bent, expit(logit(P) + 1))): assert np.isclose(parts.brier, evaluate(Y, p).brier)
    assert right.reliability < .001 < .02 < bent.reliability and np.isclose(right.resolution, bent.resolution)
    assert np.isclose(told.resolution, 0) and np.isclose(told.reliability, 0) and np.isclose(told.uncertainty, Y.mean()*(1 - Y.mean()))
    assert brier_parts(Y, (P > .5).astype(float)).within == pytest.approx(0, abs=1e-12)   # two values, two groups


def test_reliability_holds_the_truth_in_most_groups_and_counts_days():
    table = reliability(Y, P, days=DAYS)
    assert len(table) == 10 and table.n.sum() == len(Y) and ((table.low <= table.predicted) & (table.predicted <= table.high)).sum() >= 8
    assert np.allclose(table.observed, (table.low + table.high)/2)
    luck = np.random.default_rng(1).normal(0, 2, 100)[DAYS]
    shaken = reliability((RNG.random(len(P)) < expit(logit(P) + luck)).astype(float), P, days=DAYS)
    assert (shaken.high - shaken.low).mean() > 1.5*(table.high - table.low).mean()


# ---- decisions

def test_savings_by_hand_and_against_the_desks_own_bill():
    desk = OperationsDesk(effect=.5, cost_action=100, cost_late=1000)
    assert desk.break_even == .2 and savings([1, 0, 1, 0], [.2, .3, .1, .1], desk).tolist() == [400., -100., 0., 0.]
    assert savings([1, 0], [.4, .4], desk, threshold=.5).tolist() == [0, 0]
    ids, acted = np.arange(len(Y)), P >= desk.break_even
    bill = desk.cost(np.zeros(len(Y), bool), Y) - desk.cost(acted, desk.outcome(ids, Y, acted))
    assert np.isclose(savings(Y, P, desk).sum(), bill, rtol=.03)
    with pytest.raises(ValueError, match="threshold"): savings([1, 0], [.4, .4], desk, threshold=40)


def test_the_curve_peaks_where_acting_breaks_even_and_wrong_costs_are_regretted():
    desk = OperationsDesk()
    curve = savings_by_threshold(Y, P, desk, days=DAYS, thresholds=np.linspace(.1, .9, 17))
    assert abs(curve.saved.idxmax() - desk.break_even) <= .1 and (curve.low < curve.saved).all() and curve.acted.is_monotonic_decreasing
    assert np.isclose(curve.saved.iloc[0], savings(Y, P, desk, threshold=.1).mean())
    wrong = sensitivity(Y, P, desk, factors=[.5, 1, 2])
    assert wrong.regret[1.] == 0 and (wrong.regret[[.5, 2.]] > 5).all() and np.allclose(wrong.known - wrong.saved, wrong.regret)
    with pytest.raises(ValueError, match="factors"): sensitivity(Y, P, desk, factors=[0])


def test_slices_without_a_fault_are_not_named_and_one_with_a_fault_is():
    rng, named = np.random.default_rng(0), 0
    parts = pd.DataFrame({"route": rng.integers(0, 30, 4000), "hour": rng.integers(0, 20, 4000)})
    days = np.repeat(np.arange(80), 50)
    for _ in range(20): named += slices(rng.normal(size=4000), parts, days=days, min_rows=50).named.any()
    assert named <= 4   # 5 % of twenty are one; without room for fifty slices nearly all
    x = rng.normal(size=4000) - 1.5*(parts.route == 7)
    table = slices(x, parts, days=days, min_rows=50)
    assert table.query("named").value.tolist() == [7] and table.loc[0, "by"] == "route" and table.loc[0, "mean"] < -1 and len(table) == 50
    assert len(slices(x, parts, days=days, min_rows=10**6)) == 0


def test_a_slice_of_one_month_is_judged_on_its_own_days_and_bad_words_are_named():
    days = np.repeat(np.arange(60), 10)
    parts = pd.DataFrame({"month": np.where(days < 30, "June", "July")})
    x = np.random.default_rng(0).normal(size=600)
    alone = slices(x[days < 30], parts[days < 30], days=days[days < 30], min_rows=100, level=.975).iloc[0]
    june = slices(x, parts, days=days, min_rows=100).set_index("value").loc["June"]   # two slices: each at half of .05
    assert np.allclose([june.low, june["mean"], june.high], [alone.low, alone["mean"], alone.high])
    for change, words in (({"parts": parts[:5]}, "parts"), ({"min_rows": 0}, "min_rows"), ({"level": 95}, "level")):
        with pytest.raises(ValueError, match=words): slices(**{"x": x, "parts": parts, "days": days, **change})
