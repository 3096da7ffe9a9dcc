"Drift: the stated number of false alarms is kept, drift is seen, counts merge, a restart loses nothing."
import json
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlscale.bins import listed, plot_distances
from mlscale.drift import ChangeAlarm, DriftMonitor, Finding, Reference, bin_counts, distances, ks_distance, ks_test, psi, quantile_edges, resampled_distances
from mlscale.drift_reference import unseen_rows, unseen_share

M = 40   # rows a day

def world(days, rng, columns=3):
    "Rows whose days share a mean: a day is one witness. Independent days, no drift."
    x = rng.standard_normal((days, 1, columns)) + rng.standard_normal((days, M, columns))
    return pd.DataFrame(x.reshape(-1, columns), columns=list("abc")[:columns]), np.repeat(np.arange(days), M)

def test_false_alarms_are_as_many_as_stated():
    rng, worlds, alpha = np.random.default_rng(0), 300, .1
    naive = calibrated = 0
    for seed in range(worlds):
        (X, days), (week, _) = world(80, rng), world(7, rng)
        monitor = DriftMonitor(Reference.fit(X, days=days), false_alarms_per_year=52*alpha, n_resamples=500, seed=seed)
        calibrated += monitor.update(week).drift_detected
        naive += min(stats.ks_2samp(X[c], week[c], method="asymp").pvalue for c in X) < alpha/3
    low, high = stats.binom.interval(.999, worlds, alpha)
    assert low <= calibrated <= high
    assert naive > 3*high   # the test can fail: the obvious method does

EDGES = quantile_edges(np.random.default_rng(0).standard_normal(20_000)*np.sqrt(2))

def days_alike(phi, days, rng, m=20):
    "One column, m rows a day around the day's mean, which resembles the next day's by phi; nothing ever drifts."
    mu = np.empty(days)
    mu[0] = rng.standard_normal()
    for t in range(1, days): mu[t] = phi*mu[t - 1] + np.sqrt(1 - phi**2)*rng.standard_normal()
    return mu[:, None] + rng.standard_normal((days, m))

def checked(rows, reference_days, window_days, **settings):
    "Whether the last days of a world ring against its first ones."
    bins = np.searchsorted(EDGES, rows[:reference_days]) + 1
    counts = (bins[:, :, None] == np.arange(len(EDGES) + 2)).sum(1)[:, None]
    monitor = DriftMonitor(Reference(("x0",), (tuple(EDGES),), (False,), counts, True), n_resamples=300, **settings)
    return monitor.update(rows[-window_days:].ravel()).drift_detected

def test_blocks_of_days_keep_the_promise_where_days_resemble_the_next_and_single_days_break_it():
    rng, worlds, alpha = np.random.default_rng(10), 200, .1
    alarms = np.zeros(2)
    for seed in range(worlds):
        rows = days_alike(.6, 350 + 30 + 7, rng)
        alarms += [checked(rows, 350, 7, false_alarms_per_year=52*alpha, block_days=b, seed=seed) for b in (1, 14)]
    low, high = stats.binom.interval(.999, worlds, alpha)
    single, blocks = alarms
    assert low <= blocks <= high < 1.5*high < single

def test_the_luck_of_the_reference_counts_and_a_month_against_two_rings_as_often_as_stated():
    "Were the window compared with a reference that has no luck of its own, it would ring nearly twice as often."
    rng, worlds, alpha = np.random.default_rng(11), 800, .1
    alarms = sum(checked(days_alike(0, 90, rng), 60, 30, false_alarms_per_year=12*alpha, checks_per_year=12, seed=seed) for seed in range(worlds))
    low, high = stats.binom.interval(.999, worlds, alpha)
    assert low <= alarms <= high

def test_rows_taken_as_independent_keep_the_promise_where_they_are():
    rng, alarms, worlds, alpha = np.random.default_rng(1), 0, 200, .1
    reference = Reference.fit(rng.standard_normal((20_000, 3)))
    for n in rng.choice([200, 500, 1000], worlds):
        alarms += DriftMonitor(reference, false_alarms_per_year=5.2).update(rng.standard_normal((n, 3))).drift_detected
    low, high = stats.binom.interval(.999, worlds, alpha)
    assert low <= alarms <= high

def test_drift_is_seen_and_named():
    rng = np.random.default_rng(2)
    X, days = world(80, rng)
    week, _ = world(7, rng)
    monitor = DriftMonitor(Reference.fit(X, days=days), false_alarms_per_year=1)
    assert not monitor.update(week).drift_detected
    report = monitor.reset().update(week.assign(b=week.b + 3)).report()
    assert monitor.drift_detected and list(report.index[report.drifted]) == ["b"] and report.index[0] == "b"

def test_missing_and_infinite_values_are_counted_never_poison_and_ring():
    rng = np.random.default_rng(3)
    X, days = world(80, rng)
    week, _ = world(7, rng)
    monitor = DriftMonitor(Reference.fit(X, days=days), false_alarms_per_year=1)
    few, many = week.copy(), week.copy()
    few.loc[:1, "a"] = [np.nan, np.inf]
    many.loc[rng.random(len(week)) < .7, "a"] = np.nan
    assert not monitor.update(few).drift_detected
    assert monitor.report().missing["a"] == 2/len(week) and np.isfinite(monitor.report().drop(columns="drifted").to_numpy()).all()
    assert monitor.reset().update(many).report().drifted["a"]

def test_categories_and_constants():
    rng = np.random.default_rng(4)
    X = pd.DataFrame({"carrier": rng.choice(["AA", "UA"], 4000), "flat": 7.})
    monitor = DriftMonitor(Reference.fit(X, days=np.repeat(np.arange(100), 40)), false_alarms_per_year=1)
    week = X.iloc[:280]
    assert not monitor.update(week).drift_detected
    new = monitor.reset().update(week.assign(carrier=np.where(np.arange(280) < 84, "ZZ", week.carrier))).report()
    assert new.drifted["carrier"] and not new.drifted["flat"]
    assert monitor.reset().update(week.assign(flat=6.999)).report().drifted["flat"]
    assert monitor.reset().update(week.assign(carrier=None)).report().drifted["carrier"]

def test_streaming_and_merging_equal_one_pass_and_survive_json():
    rng = np.random.default_rng(5)
    X, days = world(40, rng)
    week, _ = world(7, rng)
    make = lambda: DriftMonitor(Reference.fit(X, days=days), false_alarms_per_year=2)
    whole = make().update(week).report()
    a, b = make(), make().update(week[100:])
    for i in range(100): a.update(week[i:i + 1])
    a = DriftMonitor.from_dict(json.loads(json.dumps(a.to_dict())))
    assert a.merge(b).report().equals(whole)
    stored = json.dumps(a.to_dict())
    assert json.dumps(DriftMonitor.from_dict(json.loads(stored)).to_dict()) == stored
    for bad in (json.loads(stored) | {"format": 99}, json.loads(stored) | {"kind": "x"}, []):
        with pytest.raises(ValueError, match="format|to_dict"): DriftMonitor.from_dict(bad)
    with pytest.raises(ValueError, match="same reference"): a.merge(DriftMonitor(Reference.fit(X + 1, days=days), false_alarms_per_year=2))

@pytest.mark.parametrize("x", [np.arange(1000.), np.random.default_rng(6).normal(size=999), np.repeat([1., 2., 10.], [5, 10, 300])])
def test_binned_distance_is_the_ks_statistic_up_to_a_bin(x):
    y = np.random.default_rng(7).permutation(x)[:200]*1.1
    e = quantile_edges(x, 20)
    d = distances(bin_counts(y, e)[None], bin_counts(x, e)[None], np.array([False]))[0]
    assert 0 <= stats.ks_2samp(x, y).statistic - d <= 1/20 + 1e-9
    assert bin_counts(np.append(y, [np.nan, np.inf]), e).sum() == len(y) + 2

def test_there_is_one_distance_whether_read_at_bins_or_at_values():
    rng = np.random.default_rng(12)
    x, y = rng.integers(0, 12, 500)*1., rng.integers(0, 15, 300)*1.
    e = np.arange(0., 15)   # each value has a bin of its own, so that both read all there is to read
    counts = [bin_counts(z, e) for z in (y, x)]
    d = distances(counts[0][None], counts[1][None], np.array([False]))[0]
    assert d == pytest.approx(ks_test(x, y)[0]) == pytest.approx(ks_distance(*(np.cumsum(c)/c.sum() for c in counts))) == pytest.approx(stats.ks_2samp(x, y).statistic)

def test_a_finding_names_the_worst_column_and_three_that_drifted():
    rng = np.random.default_rng(13)
    X, days = world(80, rng, columns=3)
    X = X.assign(d=X.a*2, e=X.b*2)
    monitor = DriftMonitor(Reference.fit(X, days=days), false_alarms_per_year=1)
    quiet = monitor.update(X[:7*M]).finding("2013-09-02T00:00-04:00")
    assert not quiet and quiet.alarm is False and quiet.at == pd.Timestamp("2013-09-02 04:00", tz="UTC") and quiet.name == "drift" and quiet.unit == "distance"
    moved = X[:7*M].assign(**{c: X[c][:7*M] + s for c, s in zip("abcde", (2, 4, 0, 5, 9), strict=True)})
    report, found = monitor.reset().update(moved).report(), monitor.finding("2013-09-09T00:00Z", name="features")
    worst = report.iloc[0]
    assert found and found.name == "features" and (found.value, found.threshold) == (worst.distance, worst.threshold) and found.value > found.threshold
    assert report.drifted.sum() == 4 and found.evidence.startswith(f"4 of 5 columns drifted; furthest: {report.index[0]} (")
    assert re.findall(r"(\w) \(D", found.evidence) == list(report.index[:3]) and str(found).startswith("features, 2013-09-09: ")
    assert found == Finding(found.name, found.value, found.threshold, "distance", found.at, True, found.evidence)

def test_a_window_of_few_rows_has_no_finding_for_it_cannot_say_that_all_is_well():
    X, days = world(40, np.random.default_rng(14))
    monitor = DriftMonitor(Reference.fit(X, days=days), false_alarms_per_year=1)
    for rows in (X[:0], X[:20] + 100):
        with pytest.raises(ValueError, match="min_rows=140"): monitor.update(rows).finding("2013-09-02T00:00Z")

def test_states_of_format_1_are_read():
    X, days = world(40, np.random.default_rng(15))
    for reference in (Reference.fit(X, days=days), Reference.fit(X)):
        new = DriftMonitor(reference, false_alarms_per_year=2, n_resamples=200).update(X[:300]).to_dict()
        old = json.loads(json.dumps(new)) | {"format": 1}
        old["reference"]["by_day"], old["reference"]["format"] = old["reference"].pop("has_days"), 1
        assert old["reference"]["by_day"] is (reference is not None and len(reference.counts) > 1)
        assert DriftMonitor.from_dict(old).to_dict() == new
        assert DriftMonitor.from_dict(old).report().equals(DriftMonitor.from_dict(new).report())

def test_psi_by_hand():
    f, g = np.array([10.5, 30.5])/41, np.array([20.5, 20.5])/41
    assert np.isclose(psi(np.array([10, 30, 0]), np.array([20, 20, 0])), ((f - g)*np.log(f/g)).sum())
    assert np.isfinite(psi(np.array([0, 10]), np.array([10, 0])))

def test_small_windows_are_not_judged():
    rng = np.random.default_rng(8)
    X, days = world(40, rng)
    monitor = DriftMonitor(Reference.fit(X, days=days), false_alarms_per_year=1)
    assert not monitor.drift_detected and monitor.rows == 0
    assert not monitor.update(X[:20] + 100).drift_detected and monitor.update(pd.concat([X[:20] + 100]*20)).drift_detected

def test_bad_input_is_named():
    X, days = world(40, np.random.default_rng(9))
    reference = Reference.fit(X, days=days)
    for kwargs, name in [(dict(false_alarms_per_year=0), "false_alarms_per_year"), (dict(false_alarms_per_year=60), "false_alarms_per_year"),
                         (dict(false_alarms_per_year=1, checks_per_year=1000), "checks_per_year"),
                         (dict(false_alarms_per_year=.01), "n_resamples"), (dict(false_alarms_per_year=1, block_days=99), "block_days"),
                         (dict(false_alarms_per_year=1, checks_per_year=12), "reference")]:
        with pytest.raises(ValueError, match=name): DriftMonitor(reference, **kwargs)
    with pytest.raises(ValueError, match="'c'"): reference.count(X[["a", "b"]])
    with pytest.raises(TypeError, match="'a'"): reference.count(X.assign(a="x"))
    with pytest.raises(ValueError, match="days"): Reference.fit(X, days=days[:5])
    with pytest.raises(ValueError, match="0 rows"): Reference.fit(X[:0])
    with pytest.raises(ValueError, match="times"): Reference.fit(pd.DataFrame({"t": pd.date_range("2013", periods=3)}))
    with pytest.raises(TypeError, match="array of numbers"): Reference.fit("x")

def test_the_core_needs_nothing_heavy_beyond_pandas():
    code = "import sys, pandas; before = set(sys.modules); import mlscale.drift; print([m for m in ('sklearn', 'matplotlib', 'pyarrow', 'polars') if m in set(sys.modules) - before])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

def test_what_was_learned_and_what_was_found_can_be_looked_at():
    rng = np.random.default_rng(0)
    usual = pd.DataFrame(rng.normal(size=(400, 30)), columns=[f"<b>{k}" for k in range(30)]).assign(carrier=["AA", "UA"]*200, empty=np.nan)
    reference = Reference.fit(usual)
    assert repr(reference) == "Reference(400 rows, rows independent, columns: <b>0, <b>1, <b>2, <b>3, <b>4, <b>5 and 26 more)"
    shown = reference._repr_html_()
    assert "&lt;b&gt;29" in shown and "<b>" not in shown and "AA, UA" in shown and "nothing known" in shown and "100.0%" in shown
    monitor = DriftMonitor(reference, false_alarms_per_year=1, n_resamples=500)
    assert "<table" not in monitor._repr_html_()   # of an empty window there is nothing to show
    ax = monitor.plot()
    assert ax.get_title() == "0 rows, below 30: not judged"
    moved = usual.assign(**{"<b>7": usual["<b>7"] + 1})
    assert (rows := monitor.update(moved)._repr_html_()) and "&lt;b&gt;7" in rows and "True" in rows and "<b>" not in rows
    report, ax = monitor.report(), monitor.plot()
    assert report.index[report.drifted].tolist() == ["<b>7"] == [tick.get_text() for tick in ax.get_yticklabels()][:1]
    assert ax.get_title() == "1 of 32 columns drifted" and len(ax.patches) == 20 and ax.get_xlabel().startswith("the first 20 of 32 columns")
    assert [bar.get_width() for bar in ax.patches] == report.distance[:20].tolist() and ax.lines[0].get_xdata().tolist() == report.threshold[:20].tolist()
    first, second = ax.patches[0].get_facecolor(), ax.patches[1].get_facecolor()
    assert first != second == ax.patches[2].get_facecolor()
    assert max(map(len, report.rename(index=str.strip).to_string().splitlines())) <= 80   # a terminal shows all of it
    assert repr(monitor.finding("2013-09-02T00:00Z")).startswith("Finding(alarm: drift, 2013-09-02: ")
    plt.close("all")

def test_a_column_that_may_not_ring_is_drawn_after_those_that_do():
    report = pd.DataFrame({"distance": [.9, .2, .1], "allowed": [7., .1, .2], "drifted": [False, True, False]}, ["far", "rings", "near"])
    ax = plot_distances(report, "allowed", most=2)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["rings", "far"] and ax.get_xlim()[1] < 1.1
    assert listed(report.index) == "far, rings, near" and listed(report.index, 1) == "far and 2 more" and listed([]) == ""
    plt.close("all")


# ---- what a reader of the code found

def temperatures(days, rows=200, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"temp": rng.normal(60, 15, days*rows)}), np.repeat(np.arange(days), rows)

@pytest.mark.parametrize("filling", [9.96921e36, 1e20, -1e17])
def test_one_filling_in_the_reference_blinds_no_column(filling):
    X, days = temperatures(60)
    X.loc[7, "temp"] = filling
    week, _ = temperatures(7, seed=1)
    monitor = DriftMonitor(Reference.fit(X, days=days), false_alarms_per_year=1)
    assert not monitor.update(week).drift_detected and monitor.reset().update((week - 32)/1.8).drift_detected
    assert ks_test(X.temp, (week.temp - 32)/1.8)[0] > .5

def rings_after(reference, days):
    alarm = ChangeAlarm(reference, false_alarms_per_year=2)
    for n, day in enumerate(days, 1000):
        if alarm.update(day).end_day(n): return n - 999

def test_a_day_cut_short_in_the_reference_does_not_deafen():
    X, days = temperatures(61, 1000)
    keep = (days > 0) | (np.arange(len(days)) < 1)   # of the first day one row is left
    live = [temperatures(1, 1000, seed=s)[0] + 3 for s in range(5, 35)]
    assert rings_after(Reference.fit(X[keep], days=days[keep]), live) <= rings_after(Reference.fit(X[days > 0], days=days[days > 0]), live) + 1

def test_recent_days_and_windows_must_fit_the_reference():
    X, days = temperatures(60)
    reference = Reference.fit(X, days=days)
    with pytest.raises(ValueError, match="recent_days=55: at most 52"): ChangeAlarm(reference, false_alarms_per_year=2, recent_days=55)
    alarm = ChangeAlarm(reference, false_alarms_per_year=2, recent_days=52)
    assert alarm.update(X[:200]).end_day(60) == ()

def test_references_merged_in_any_order_have_one_digest_and_their_monitors_merge():
    rng = np.random.default_rng(3)
    X, days = pd.DataFrame({"c": rng.choice([f"c{i}" for i in range(60)], 6000, p=np.arange(60, 0, -1)/1830)}), np.repeat(np.arange(60), 100)
    empty = Reference.fit(X, days=days).empty()
    half = [empty.update(X[part], days=days[part]) for part in (days % 2 == 0, days % 2 == 1)]
    one, other = half[0].merge(half[1]), half[1].merge(half[0])
    assert one.digest == other.digest
    DriftMonitor(one, false_alarms_per_year=20).merge(DriftMonitor(other, false_alarms_per_year=20))

def test_a_rare_third_category_does_not_hide_the_other_two():
    rng, days = np.random.default_rng(4), np.repeat(np.arange(60), 200)
    X = pd.DataFrame({"carrier": rng.choice(["AA", "UA"], 12_000)})
    reference = Reference.fit(X, days=days).empty().update(X.assign(carrier=X.carrier.where(X.index != 5, "ZZ")), days=days)
    assert rings_after(reference, [pd.DataFrame({"carrier": rng.choice(["AA", "UA"], 200, p=[.97, .03])}) for _ in range(10)]) in (1, 2)

def test_a_change_alarm_that_hears_nothing_does_not_say_that_all_is_well_and_a_day_is_closed_once():
    X, days = temperatures(60)
    alarm, at = ChangeAlarm(Reference.fit(X, days=days), false_alarms_per_year=2), pd.Timestamp("2013-05-01", tz="UTC")
    with pytest.raises(ValueError, match="0 judged"): alarm.finding(at)
    alarm.update(X[:200]).end_day(60)
    assert not alarm.finding(at)
    with pytest.raises(ValueError, match="closed before"): alarm.update(X[:200]).end_day(60)
    alarm = ChangeAlarm.from_dict(json.loads(json.dumps(alarm.to_dict())))
    alarm.counts[:] = 0
    alarm.end_day(61)
    with pytest.raises(ValueError, match="1 days in a row"): alarm.finding(at)

def test_days_as_floats_keep_their_order_and_days_of_two_kinds_are_refused():
    X, _ = temperatures(12, 10)
    reference = Reference.fit(X, days=np.repeat(np.arange(12.), 10))
    assert reference.labels == tuple(range(12))
    with pytest.raises(ValueError, match="days are numbers"): reference.update(X[:10], days=["2013-01-01"]*10)

def test_states_that_nobody_wrote_are_refused():
    X, days = temperatures(60)
    reference = Reference.fit(X, days=days)
    alarm, monitor = ChangeAlarm(reference, false_alarms_per_year=2).to_dict(), DriftMonitor(reference, false_alarms_per_year=2).to_dict()
    for change in ({"age": alarm["age"][:-1]}, {"counts": [[-1]*len(alarm["counts"][0])]*len(alarm["counts"])}, {"judged": "3"}, {"values": [[0.]]}, {"labels": [1]}):
        with pytest.raises(ValueError): ChangeAlarm.from_dict({**alarm, **change})
    for counts in ([[1]], [[-5]*len(monitor["counts"][0])]):
        with pytest.raises(ValueError, match="counts"): DriftMonitor.from_dict({**monitor, "counts": counts})

def test_a_monitor_says_what_its_promise_assumes_of_days():
    X, days = temperatures(60)
    by_day, by_row = Reference.fit(X, days=days), Reference.fit(X)
    assert "52 checks if days are independent, Reference(" in repr(DriftMonitor(by_day, false_alarms_per_year=2))
    assert "52 checks if days are independent in blocks of 3 days, Reference(" in repr(DriftMonitor(by_day, false_alarms_per_year=20, block_days=3))
    assert "52 checks, Reference(" in repr(DriftMonitor(by_row, false_alarms_per_year=2)) and "rows independent" in repr(by_row)

def test_one_row_a_day_is_few_and_no_error_of_an_argument_that_nobody_gave():
    X, days = temperatures(60, 1)
    ChangeAlarm(Reference.fit(X, days=days), false_alarms_per_year=2)


@pytest.mark.parametrize("n", [100, 6000, 50_000])
@pytest.mark.parametrize("edges", [0, 1, 40, 150])
def test_counting_many_rows_edge_by_edge_is_searching_each_row(n, edges):
    rng = np.random.default_rng(n + edges)
    x, e = np.round(rng.standard_normal(n), 2), np.sort(np.round(rng.standard_normal(edges), 2))   # many values lie on an edge
    x[::7], x[1::50], x[2::50] = np.nan, np.inf, -np.inf
    known = x[np.isfinite(x)]
    assert bin_counts(x, e).tolist() == [n - len(known), *np.bincount(np.searchsorted(e, known), minlength=edges + 1)]

def unseen_world(rng, categories, share_of, rows, columns=1):
    names = np.array([f"c{k}" for k in range(categories)])
    p = share_of(np.arange(1, categories + 1.))
    return pd.DataFrame(names[rng.choice(categories, (rows, columns), p=p/p.sum())], columns=[f"x{k}" for k in range(columns)])

@pytest.mark.parametrize("categories", [21, 100, 1000])
@pytest.mark.parametrize("share", [.05, .5])
def test_without_days_unseen_categories_ring_though_rare_ones_share_their_bin(categories, share):
    rng = np.random.default_rng(30)
    usual = pd.DataFrame({"x0": np.resize([f"c{k}" for k in range(categories)], 20_000)})   # all alike
    week = usual.sample(4000, random_state=1, ignore_index=True)
    monitor = DriftMonitor(Reference.fit(usual.assign(other=1.)), false_alarms_per_year=1, n_resamples=600)
    assert not monitor.update(week.assign(other=1.)).drift_detected
    where = ~week.x0.isin(monitor.reference.cuts[0]) & (rng.random(4000) < share)   # as rare as those that they replace
    changed = week.assign(other=1., x0=week.x0.where(~where, "Z" + week.x0))
    report, finding = monitor.reset().update(changed).report(), monitor.finding("2013-09-02T00:00Z")
    assert report.index[report.drifted].tolist() == ["x0"] == report.index[:1].tolist() and report.unseen.x0 == where.mean()
    assert finding and finding.value > finding.threshold and f"unseen {where.mean():.0%}" in finding.evidence
    if report.distance.x0 <= report.threshold.x0:
        assert finding.unit == "of the rows unseen" and finding.value == where.mean() and "unseen categories in x0, expected " in finding.evidence

def test_a_state_that_does_not_tell_rare_from_unseen_judges_by_distance_with_the_whole_budget():
    usual = unseen_world(np.random.default_rng(31), 100, np.ones_like, 5000)
    state = DriftMonitor(Reference.fit(usual), false_alarms_per_year=2, n_resamples=400).update(usual[:400]).to_dict()
    before = {k: v for k, v in state.items() if k != "rare"} | {"format": 3, "reference": {**state["reference"], "rare": None}}
    new, old = DriftMonitor.from_dict(state), DriftMonitor.from_dict(before)
    assert (old.report().threshold < new.report().threshold).all() and not old.report().unseen.any()

@pytest.mark.parametrize("categories, share_of, rows, come", [
    (30, np.ones_like, 100, 1000), (100, np.ones_like, 300, 1000), (1000, np.ones_like, 5000, 5000), (1000, lambda k: 1/k, 1000, 1000),
    (300, lambda k: 1/k, 5000, 5000), (100, lambda k: k**-1.5, 5000, 100), (300, lambda k: k**-1.5, 100, 100)])
def test_unseen_rows_are_as_many_as_expected_and_pass_what_is_allowed_as_seldom_as_stated(categories, share_of, rows, come):
    "Uniform categories, each seen several times, are the hard case: those missing carry as much as the others."
    rng, worlds, p = np.random.default_rng(rows + come), 1500, share_of(np.arange(1, categories + 1.))
    p = p/p.sum()
    counts = rng.multinomial(rows, p, worlds)
    came = rng.multinomial(come, p, worlds)
    new = np.where(counts == 0, came, 0).sum(1)
    names, share, variance = np.arange(categories).astype(str), np.empty(worlds), np.empty(worlds)
    for w in range(worlds):
        share[w], variance[w] = ((counts[w] == 1).sum() + 1)/rows, ((counts[w] == 1).sum() + 2*(counts[w] == 2).sum() + 3)/rows**2
    one = Reference.fit(pd.DataFrame({"c": np.repeat(names, counts[0])}))
    assert np.allclose(np.ravel(unseen_share(one)), (share[0], variance[0]))
    for level in (.05, .01):
        assert (new > unseen_rows(share, variance, come).isf(level)).sum() <= stats.binom.isf(.001, worlds, level)
    assert new.mean() < come*share.mean() < new.mean() + 1.2*come/rows + 3*new.std()/np.sqrt(worlds)

@pytest.mark.parametrize("categories, share_of, rows, come", [
    (100, np.ones_like, 300, 600), (300, lambda k: 1/k, 2000, 300), (100, np.ones_like, 2000, 1000), (300, lambda k: 1/k, 500, 1000)])
def test_without_days_columns_of_many_categories_keep_the_promise(categories, share_of, rows, come):
    rng, worlds, alpha, rang = np.random.default_rng(32), 80, .1, 0
    for seed in range(worlds):
        monitor = DriftMonitor(Reference.fit(unseen_world(rng, categories, share_of, rows, 3)), false_alarms_per_year=52*alpha, n_resamples=200, seed=seed)
        rang += monitor.update(unseen_world(rng, categories, share_of, come, 3)).drift_detected
    assert rang <= stats.binom.isf(.001, worlds, alpha)

def test_a_window_of_rare_categories_is_the_same_in_parts_after_a_restart_and_in_other_spellings():
    rng = np.random.default_rng(35)
    usual, window = (pd.DataFrame({"code": rng.integers(0, 200, n).astype(float).astype(str), "x": 1.}) for n in (4000, 900))
    reference = Reference.fit(usual)
    make = lambda: DriftMonitor(reference, false_alarms_per_year=2, n_resamples=200)
    whole, parts, other = make().update(window), make().update(window[:300]), make()
    other.update(window[300:].assign(code=window.code[300:].astype(float).astype(int).astype("category")))   # 17 is "17.0"
    parts = DriftMonitor.from_dict(json.loads(json.dumps(parts.to_dict()))).merge(other)
    assert parts.report().equals(whole.report()) and sum(whole.rare[0].values()) > 700
    assert not sum(whole.reset().rare[0].values())
    state = parts.to_dict()
    for rare in ([{}, {}], state["rare"][:1], [{"0": 1}, {}], [{"256": sum(state["rare"][0].values())}, {}]):
        with pytest.raises(ValueError, match="rare"): DriftMonitor.from_dict({**state, "rare": rare})

def test_a_window_of_an_older_state_that_did_not_count_rare_categories_is_judged_by_the_frequent_ones():
    usual = unseen_world(np.random.default_rng(36), 100, np.ones_like, 5000)
    monitor = DriftMonitor(Reference.fit(usual), false_alarms_per_year=2, n_resamples=400).update(usual[:400])
    old = DriftMonitor.from_dict({k: v for k, v in monitor.to_dict().items() if k != "rare"} | {"format": 4})
    assert old.rare is None and old.update(usual[400:800]).merge(monitor).rare is None and not old.drift_detected
    assert old.reset().update(usual[:400]).report().equals(monitor.report())

def test_a_column_whose_days_have_nothing_in_common_cannot_ring_and_the_monitor_says_so():
    rng, days = np.random.default_rng(37), np.repeat(np.arange(20), 50)
    usual = pd.DataFrame({"run": days.astype(str), "x": rng.standard_normal(len(days))})   # another code on each day
    monitor = DriftMonitor(Reference.fit(usual, days=days), false_alarms_per_year=2, n_resamples=500)
    assert "cannot ring" not in repr(monitor)   # nothing is known yet
    monitor.update(usual[:350].assign(run="never seen"))
    assert monitor.thresholds[0] >= 1 > monitor.thresholds[1] and not monitor.report().drifted.run and monitor.report().distance.run == 1
    assert repr(monitor).endswith("; cannot ring: run)")

def names_by_day(rng, days, rows=150, categories=3000):
    return unseen_world(rng, categories, lambda k: 1/k, days*rows), np.repeat(np.arange(days), rows)

def test_by_day_what_is_new_in_every_week_rings_in_none_and_what_is_new_beyond_that_does():
    rang, rng = 0, np.random.default_rng(33)
    for seed in range(4):
        usual, days = names_by_day(rng, 60)
        monitor = DriftMonitor(Reference.fit(usual, days=days), false_alarms_per_year=1, seed=seed)
        for _ in range(5):
            week, _ = names_by_day(rng, 7)
            report = monitor.reset().update(week).report()
            rang += report.drifted.x0
            assert report.unseen.x0 > .01
        assert monitor.reset().update(week.where(np.arange(len(week))[:, None] % 5 > 0, "?")).drift_detected
    assert rang <= 2

def test_a_window_is_drawn_from_fresh_days_and_the_reference_from_its_own():
    counts = np.tile([[0, 8, 2, 0]], (30, 1, 1))   # two of ten rows a day are of that day only
    fresh = np.tile([[0, 8, 0, 2]], (30, 1, 1))
    drawn = resampled_distances(counts, np.array([True]), 7, n=50, fresh=fresh)
    assert np.allclose(drawn, .2) and np.allclose(resampled_distances(counts, np.array([True]), 7, n=50), 0)

def test_thresholds_of_older_states_that_took_nothing_for_new_are_calibrated_anew():
    usual, days = names_by_day(np.random.default_rng(34), 40)
    monitor = DriftMonitor(Reference.fit(usual, days=days), false_alarms_per_year=2, n_resamples=200)
    week = usual[:7*150]
    limit, state = monitor.update(week).thresholds, monitor.to_dict()
    old = {**state, "format": 3, "thresholds": {n: [.001] for n in state["thresholds"]}}
    assert len(state["thresholds"]) == 1 and DriftMonitor.from_dict(old).thresholds == limit
    assert DriftMonitor.from_dict({**old, "format": state["format"]}).thresholds == [.001]

@pytest.mark.filterwarnings("error")
def test_a_column_that_rings_and_then_goes_missing_makes_no_warning():
    X, days = temperatures(60)
    alarm = ChangeAlarm(Reference.fit(X, days=days), false_alarms_per_year=2)
    for day in range(60, 84): alarm.update(X[:200] + (40 if day < 68 else np.nan)).end_day(day)
    assert [c.kind for c in alarm.changes] == ["missing"]
