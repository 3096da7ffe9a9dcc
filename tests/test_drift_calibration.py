"The promise of the change alarm: in worlds where nothing changes, false alarms are within the budget, and a change is seen."
import json

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from mlscale.drift import ChangeAlarm, DaySummaries, DriftMonitor, Reference, bin_scores, critical_values, day_baseline, outer_edges, quantile_edges, score_moments, window_scores

ASKED = 2.
DAILY, WEEKLY = (1, 2, 4, 8, 16, 32), (7, 14, 28)
WHICH = ("gauss", "t3", "binary", "zipf")

def alike(x, phi):
    "Days, the first axis, each resembling the one before by phi."
    for t in range(1, len(x)): x[t] = phi*x[t - 1] + np.sqrt(1 - phi**2)*x[t]
    return x

def numbers(kind, rng, columns, days, rows, rho, phi):
    """Numbers of days of columns: rho of the variance between days, the counts of a day drawn by the probabilities it has.
    Gives values, row variances, shares and locations; the reference's days are the first ones."""
    cdf = special.ndtr if kind == "gauss" else lambda x: special.stdtr(3, x)
    noise = rng.standard_normal if kind == "gauss" else lambda n: rng.standard_t(3, n)
    luck = alike(noise((len(rows), columns)), phi)
    values, variances = [], []
    for day in luck.T:
        seen = np.sqrt(rho)*np.repeat(day[:days], 20) + np.sqrt(1 - rho)*noise(20*days)
        edges = outer_edges(quantile_edges(seen))
        below = cdf((edges - np.sqrt(rho)*day[:, None])/np.sqrt(1 - rho))
        p = np.maximum(np.diff(below, axis=1, prepend=0, append=1), 0)
        counts = rng.multinomial(rows, p/p.sum(1, keepdims=True))
        found, lucky = score_moments(counts, bin_scores(counts[:days].sum(0)))
        values.append(found)
        variances.append(lucky[:days].mean(0))
    places = np.repeat(np.arange(columns)*4, 4)
    return np.hstack(values), np.hstack(variances), np.zeros(4*columns, bool), places

def shares(kind, rng, columns, days, rows, rho, phi):
    "The same for a flag of 10 %, or forty categories after Zipf of which twenty are kept apart and the last is what is new."
    base = np.array([.9, .1]) if kind == "binary" else 1/np.arange(1, 41)/(1/np.arange(1, 41)).sum()
    values = []
    for _ in range(columns):
        p = np.broadcast_to(base, (len(rows), len(base)))
        if rho:
            p = rng.gamma(np.broadcast_to(base*(1/rho - 1), p.shape)) + 1e-12
            p = p/p.sum(1, keepdims=True)
        counts = rng.multinomial(rows, p)
        if kind == "binary": kept = counts[:, 1:]
        else:
            on, order = (counts[:days] > 0).sum(0), np.argsort(-counts[:days].sum(0))
            rest = order[20:]
            new = np.concatenate([counts[:days, rest[on[rest] == 1]].sum(1), counts[days:, rest[on[rest] == 0]].sum(1)])
            kept = np.column_stack([counts[:, order[:20]], new])
        share = kept/rows[:, None]
        values.append(np.where(share[:days].mean(0) > .5, 1 - share, share))
    values = np.hstack(values)
    mean = values[:days].mean(0)
    return values, mean*(1 - mean), np.ones(len(mean), bool), np.arange(len(mean))

def ringing(world, days, windows, every, rows, robust=True):
    "Days, by number: whether it rings; the budget is spread over all of them."
    values, variances, share, location = world
    windows = [w for w in windows if w <= .6*days]
    baseline = day_baseline(values[:days], np.repeat(rows[:days, None], len(share), 1), variances, share, location, robust=robust)
    limit = critical_values(baseline, ASKED*every/365.25, len(share)*len(windows))
    rings = np.zeros((len(values) - days, len(share)), bool)
    for w in windows:
        live = np.repeat(rows[days:, None], len(share), 1)
        rings[w - 1:] |= np.abs(window_scores(values[days:], live, baseline, w)) > limit
    return rings[every - 1::every]

def episodes(kind, *, days, columns=1, rho=0., phi=0., batch=1., years=12, per_day=200, robust=True, seed=0):
    "Alarm episodes and their 99 % upper limit a year, daily and weekly."
    rng, found = np.random.default_rng(seed), np.zeros(2)
    make = numbers if kind in ("gauss", "t3") else shares
    for _ in range(years):
        rows = np.repeat([per_day, int(per_day*batch)], [days, 365])
        world = make(kind, rng, columns, days, rows, rho, phi)
        for k, (windows, every) in enumerate(((DAILY, 1), (WEEKLY, 7))):
            rings = ringing(world, days, windows, every, rows, robust).any(1)
            found[k] += (np.diff(rings.astype(int), prepend=0) > 0).sum()
    return found/years, stats.chi2.isf(.01, 2*found + 2)/2/years

FEW = [("gauss", dict(days=30, rho=.5, phi=.5)), ("gauss", dict(days=60, columns=10, rho=.2, batch=.5)), ("gauss", dict(days=120, columns=10, phi=.5, rho=.5)),
       ("t3", dict(days=60, rho=.2)), ("t3", dict(days=120, columns=10, rho=.5, batch=3)), ("t3", dict(days=365, rho=.5)), ("gauss", dict(days=365, columns=10)),
       ("binary", dict(days=30, columns=10, rho=.5, batch=.5)), ("binary", dict(days=60, rho=.2)), ("binary", dict(days=120, columns=10, batch=3)),
       ("zipf", dict(days=30, rho=.2)), ("zipf", dict(days=60, columns=5, rho=.5, batch=.5)), ("zipf", dict(days=120, columns=5))]

@pytest.mark.parametrize("kind, world", FEW)
def test_false_alarms_a_year_are_within_the_budget(kind, world):
    assert (episodes(kind, **world)[1] < ASKED).all()

@pytest.mark.slow
@pytest.mark.parametrize("kind", WHICH)
@pytest.mark.parametrize("days", [30, 60, 120, 365])
@pytest.mark.parametrize("rho", [0, .2, .5])
@pytest.mark.parametrize("columns, years", [(1, 40), (10, 20), (50, 8)])
def test_false_alarms_a_year_are_within_the_budget_in_every_world(kind, days, rho, columns, years):
    for batch in (.5, 1, 3):
        for phi in ((0, .5) if kind == "gauss" else (0,)):
            world = dict(days=days, rho=rho, columns=columns, batch=batch, phi=phi)
            _, limit = episodes(kind, years=years, seed=days, **world)
            if (limit >= ASKED).any(): _, limit = episodes(kind, years=8*years, seed=1000 + days, **world)   # too few years to tell: so many new ones
            assert (limit < ASKED).all(), (batch, phi, limit)

def test_the_count_of_false_alarms_can_fail():
    "Days that resemble the next, taken as independent."
    found, _ = episodes("gauss", days=60, columns=10, rho=.5, phi=.5, robust=False, years=4)
    assert found[0] > 2*ASKED

def rows_of(rng, days, n=60, columns=3, rho=.2):
    x = np.sqrt(rho)*rng.standard_normal((days, 1, columns)) + np.sqrt(1 - rho)*rng.standard_normal((days, n, columns))
    return pd.DataFrame(x.reshape(-1, columns), columns=list("abcdef")[:columns]), np.repeat(np.arange(days), n)

def run(alarm, table, day, at=None, change=None):
    "The alarms by day; from `at` on the rows are changed."
    out = {}
    for d in np.unique(day):
        rows = table[day == d]
        out[d] = alarm.update(change(rows) if at is not None and d >= at else rows).end_day(d)
    return out

def test_what_streams_day_by_day_rings_as_all_windows_at_once():
    rng = np.random.default_rng(1)
    (usual, days), (table, day) = rows_of(rng, 60), rows_of(rng, 40)
    table.loc[day >= 20, "b"] += .8
    reference = Reference.fit(usual, days=days)
    alarm, summaries = ChangeAlarm(reference, false_alarms_per_year=ASKED), DaySummaries(reference)
    values, rows = summaries.of(np.stack([reference.count(table[day == d]) for d in range(40)]))
    past, behind = summaries.of_reference()
    baseline = day_baseline(past, behind, summaries.row_variance, [s.is_share for s in summaries.statistics], summaries.location)
    limit = critical_values(baseline, ASKED/365.25, len(limit_of := summaries.statistics)*len(DAILY))
    rings = np.zeros((40, len(limit_of)), bool)
    for w in DAILY: rings[w - 1:] |= np.abs(window_scores(values, rows, baseline, w)) > limit
    first = int(np.flatnonzero(rings.any(1))[0])
    streamed = run(alarm, table, day)
    assert first >= 20 and not any(streamed[d] for d in range(first)) and streamed[first]
    assert streamed[first][0].feature == "b" and streamed[first][0].kind == "location"

KINDS = {"location": lambda r: r.assign(a=r.a + 2), "spread": lambda r: r.assign(a=r.a.mean() + 3*(r.a - r.a.mean())),
         "missing": lambda r: r.assign(a=r.a.where(np.arange(len(r)) % 2 > 0)), "new category": lambda r: r.assign(c="?"),
         "share": lambda r: r.assign(c=np.where(np.arange(len(r)) % 2 > 0, "x", r.c))}

@pytest.mark.parametrize("kind", KINDS)
def test_an_alarm_says_what_changed_since_when_and_clears_when_the_cause_is_gone(kind):
    rng = np.random.default_rng(2)
    usual, days = rows_of(rng, 60, rho=.02)
    table, day = rows_of(rng, 80, rho=.02)
    for t in (usual, table): t["c"] = rng.choice(["x", "y", "z"], len(t), p=[.2, .4, .4])
    alarm = ChangeAlarm(Reference.fit(usual, days=days), false_alarms_per_year=ASKED)
    rang = {}
    for d in range(80):
        rows = table[day == d]
        rang[d] = alarm.update(KINDS[kind](rows) if 20 <= d < 50 else rows).end_day(d)
    column = "c" if kind in ("share", "new category") else "a"
    assert not any(rang[d] for d in range(20)) and not any(rang[d] for d in range(60, 80))
    begun = next(d for d in range(20, 50) if rang[d])
    assert begun <= 28 and any(c.kind == kind and c.feature == column and abs(int(c.onset) - 20) <= 2 for d in range(20, 50) for c in rang[d])
    assert {c.feature for d in range(80) for c in rang[d]} == {column} and all(rang[d] for d in range(begun, 50))

def test_a_restart_in_the_middle_of_a_day_loses_nothing_and_two_machines_are_one():
    rng = np.random.default_rng(3)
    (usual, days), (table, day) = rows_of(rng, 60), rows_of(rng, 30)
    reference = Reference.fit(usual, days=days)
    for recent in (None, 40):
        whole, other = (ChangeAlarm(reference, false_alarms_per_year=ASKED, recent_days=recent) for _ in range(2))
        move = lambda r: r.assign(b=r.b + 3)
        expected = run(whole, table, day, 10, move)
        for d in range(30):
            rows = table[day == d] if d < 10 else move(table[day == d])
            helper = ChangeAlarm.from_dict(json.loads(json.dumps(other.to_dict())))
            helper.update(rows[::2])
            other.update(rows[1::2])
            other = ChangeAlarm.from_dict(json.loads(json.dumps(other.to_dict()))).merge(helper)
            assert other.end_day(d) == expected[d]
        assert other.to_dict() == whole.to_dict() and any(expected.values())

def test_references_of_parts_merge_to_that_of_one_pass():
    rng = np.random.default_rng(4)
    table, day = rows_of(rng, 40)
    table["c"] = np.array([f"c{k}" for k in range(200)])[np.minimum(rng.zipf(1.5, len(table)), 200) - 1]
    fitted = Reference.fit(table, days=day)
    where = rng.integers(0, 3, len(table))
    parts = [fitted.empty().update(table[where == k], days=day[where == k]) for k in range(3)]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert merged.to_dict() == fitted.to_dict() == Reference.from_dict(json.loads(json.dumps(fitted.to_dict()))).to_dict()
    with pytest.raises(ValueError, match="same bins"): fitted.merge(Reference.fit(table.assign(a=1.), days=day))

@pytest.mark.parametrize("share", [.05, .3, .98])
def test_what_was_never_seen_rings_where_rare_categories_are_many(share):
    rng = np.random.default_rng(5)
    make = lambda n: pd.DataFrame({"c": np.array([f"c{k}" for k in range(60)])[rng.integers(0, 60, n)]})
    usual, days = make(60*400), np.repeat(np.arange(60), 400)
    alarm, monitor = ChangeAlarm(Reference.fit(usual, days=days), false_alarms_per_year=ASKED), DriftMonitor(Reference.fit(usual, days=days), false_alarms_per_year=1)
    new = lambda rows: rows.assign(c=np.where(np.arange(len(rows)) < share*len(rows), "N/A", rows.c))
    assert not monitor.update(make(2800)).drift_detected and monitor.reset().update(new(make(2800))).drift_detected
    for d in range(10): assert not alarm.update(make(400)).end_day(d)
    rang = [any(c.kind == "new category" for c in alarm.update(new(make(400))).end_day(d)) for d in range(10, 16)]
    assert any(rang)

def test_what_cannot_be_promised_is_refused_by_name():
    rng = np.random.default_rng(6)
    few, days = rows_of(rng, 29)
    reference = Reference.fit(few, days=days)
    with pytest.raises(ValueError, match="29 days"): ChangeAlarm(reference, false_alarms_per_year=2)
    with pytest.raises(ValueError, match="no days"): ChangeAlarm(Reference.fit(few), false_alarms_per_year=2)
    with pytest.raises(ValueError, match="false_alarms_per_year"): ChangeAlarm(reference, false_alarms_per_year=0)
    assert "rows independent" in repr(ChangeAlarm(Reference.fit(few), false_alarms_per_year=2, cluster=None))
    usual, days = rows_of(rng, 120)
    means = alike(rng.standard_normal(120), .7)
    resembling = Reference.fit(usual.assign(a=usual.a + means[days]), days=days)
    with pytest.raises(ValueError, match="'a' resemble the next"): ChangeAlarm(resembling, false_alarms_per_year=2, robust=False)
    assert "may resemble the next" in repr(ChangeAlarm(resembling, false_alarms_per_year=2))
    for checks, blocks in ((365, 1), (52, 7)):
        with pytest.raises(ValueError, match="ChangeAlarm"): DriftMonitor(resembling, false_alarms_per_year=2, checks_per_year=checks, block_days=blocks, n_resamples=1000)

def test_days_of_too_few_rows_are_counted_not_judged():
    usual, days = rows_of(np.random.default_rng(7), 40)
    alarm = ChangeAlarm(Reference.fit(usual, days=days), false_alarms_per_year=2)
    assert alarm.update(usual[:10] + 100).end_day("a bad day") == () and (alarm.judged, alarm.skipped) == (0, 1)

@pytest.mark.parametrize("kind, reference, rows", [("binary", 100, 100), ("binary", 400, 300), ("zipf", 100, 300), ("zipf", 400, 100)])
def test_small_references_without_days_keep_the_promise(kind, reference, rows):
    rng, worlds, alpha, rang = np.random.default_rng(8), 60, 18/365, np.zeros(2)
    p = 1/np.arange(1, 41)/(1/np.arange(1, 41)).sum()
    make = (lambda n: pd.DataFrame((rng.random((n, 5)) < .1)*1.)) if kind == "binary" else (lambda n: pd.DataFrame(rng.choice(40, (n, 5), p=p)).astype("category"))
    for seed in range(worlds):
        usual, live = Reference.fit(make(reference)), make(rows)
        rang += [DriftMonitor(usual, false_alarms_per_year=18, checks_per_year=365, n_resamples=200, seed=seed).update(live).drift_detected,
                 ChangeAlarm(usual, false_alarms_per_year=18, cluster=None).update(live).end_day(0) != ()]
    assert (rang <= stats.binom.isf(.001, worlds, alpha)).all()

def test_windows_of_fewer_rows_ring_as_often_as_stated():
    rng, worlds, alpha, rang = np.random.default_rng(9), 80, .1, 0
    for seed in range(worlds):
        usual, days = rows_of(rng, 60, n=40, rho=0.)
        week, _ = rows_of(rng, 7, n=22, rho=0.)
        monitor = DriftMonitor(Reference.fit(usual, days=days), false_alarms_per_year=52*alpha, n_resamples=200, seed=seed)
        rang += monitor.update(week).drift_detected
    assert rang <= stats.binom.isf(.001, worlds, alpha)
