"Experiments: intervals hold what they promise, error rates are those stated, numbers agree with other roads, nonsense is refused by name."
import copy
import html
import itertools
import json
import math
import pickle
import sys
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from mlscale import planning
from mlscale.experiments import (
    ABTestAnalyzer,
    adjust_pvalues,
    assign,
    beta_binomial,
    bucket,
    cluster_test,
    compare_variants,
    cuped,
    design_effect,
    diff_proportions_ci,
    exact_coverage,
    exact_size,
    minimum_detectable_effect,
    minimum_detectable_effect_means,
    pooled_z_test,
    power_means,
    power_proportions,
    ratio_metric_test,
    ratio_proportions_ci,
    sample_size_means,
    sample_size_proportions,
    srm_test,
    welch_from_moments,
    welch_test,
)

CRIT = stats.norm.isf(.025)
METHODS = ("miettinen-nurminen", "mee", "newcombe", "agresti-caffo", "wald")


def bounds(n, p): return stats.binom.ppf(.0005, n, p), stats.binom.ppf(.9995, n, p)


def tables(nc, nt): return np.arange(nc + 1)[:, None], nc, np.arange(nt + 1), nt


@st.composite
def a_table(draw, largest=10**6):
    nc, nt = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    return draw(st.integers(0, nc)), nc, draw(st.integers(0, nt)), nt


# ---- the test and the intervals, by other roads

def restricted(xc, nc, xt, nt, delta):
    "The likeliest pair of rates with a given difference, by a bounded search."
    low, high = max(0, -delta), min(1, 1 - delta)
    loss = lambda p: -(special.xlogy(xc, p) + special.xlogy(nc - xc, 1 - p) + special.xlogy(xt, p + delta) + special.xlogy(nt - xt, max(1 - p - delta, 0)))
    inner = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    p = min((low, inner, high), key=loss)
    return p, min(max(p + delta, 0), 1)


@settings(max_examples=60, deadline=None)
@given(a_table(largest=300))
def test_at_the_score_limits_the_score_statistic_is_critical(table):
    xc, nc, xt, nt = table
    for method, factor in (("mee", 1), ("miettinen-nurminen", (nc + nt)/(nc + nt - 1))):
        for limit in diff_proportions_ci(*table, method=method):
            if abs(limit) > 1 - 1e-9: continue
            p, q = restricted(*table, limit)
            se = math.sqrt(factor*(p*(1 - p)/nc + q*(1 - q)/nt))
            assert abs(xt/nt - xc/nc - limit) == pytest.approx(CRIT*se, rel=1e-3, abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(a_table())
@example((1, 1268, 0, 2540))
@example((0, 1, 15, 15))
def test_intervals_are_ordered_hold_the_estimate_and_turn_round_with_the_arms(table):
    xc, nc, xt, nt = table
    d = xt/nt - xc/nc
    for method in METHODS:
        low, high = diff_proportions_ci(*table, method=method)
        wide = diff_proportions_ci(*table, method=method, level=.99)
        assert wide[0] <= low + 1e-12 and high - 1e-12 <= wide[1]
        if method != "agresti-caffo": assert low - 1e-12 <= d <= high + 1e-12
        if method in ("miettinen-nurminen", "mee", "newcombe"): assert -1 <= low <= high <= 1
        turned, mirrored = diff_proportions_ci(xt, nt, xc, nc, method=method), diff_proportions_ci(nc - xc, nc, nt - xt, nt, method=method)
        assert turned == pytest.approx((-high, -low), rel=1e-9, abs=1e-13) and mirrored == pytest.approx((-high, -low), rel=1e-9, abs=1e-13)
    for method in ("koopman", "miettinen-nurminen"):
        low, high = ratio_proportions_ci(*table, method=method)
        turned = ratio_proportions_ci(xt, nt, xc, nc, method=method)
        assert 0 <= low <= high
        if xc: assert low*(1 - 1e-9) <= xt/nt/(xc/nc) <= high*(1 + 1e-9)
        for a, b in ((turned[0], high), (turned[1], low)): assert (b == math.inf if a == 0 else b == 0 if a == math.inf else a*b == pytest.approx(1, rel=1e-9))


def test_limits_grow_with_the_level_on_tables_of_every_kind():
    "Rare events, huge and tiny arms, none and all converted: where a root is missed, a longer interval ends inside a shorter one."
    rng, n = np.random.default_rng(20), 40_000
    nc, nt = (np.floor(10**rng.uniform(0, rng.choice([1, 2, 4, 7], n))) for _ in range(2))
    few, kind = rng.integers(0, 4, (2, n)), rng.integers(0, 4, (2, n))
    xc, xt = (np.choose(k, [np.minimum(f, m), m - np.minimum(f, m), np.round(m*rng.random(n)), np.round(m*rng.random(n))]) for f, k, m in ((few[0], kind[0], nc), (few[1], kind[1], nt)))
    for interval, methods in ((diff_proportions_ci, ("miettinen-nurminen", "mee", "newcombe")), (ratio_proportions_ci, ("koopman", "miettinen-nurminen"))):
        for method in methods:
            limits = np.array([interval(xc, nc, xt, nt, method=method, level=level) for level in (.5, .9, .95, .98, .99, .999, .999999)])
            assert not np.isnan(limits).any()
            with np.errstate(invalid="ignore"): steps = np.diff(limits, axis=0)
            steps[np.isnan(steps)] = 0   # infinite limits
            assert (steps[:, 0] <= 1e-12).all() and (steps[:, 1] >= -1e-12).all()
    none = (xc == 0) & (xt == 0)   # then the lower limit of Mee is -c/(n + c), Wilson's
    assert none.sum() > 500 and np.allclose(diff_proportions_ci(xc, nc, xt, nt, method="mee")[0][none], -(CRIT**2/(nc + CRIT**2))[none], rtol=1e-6)


def test_koopman_limits_solve_koopmans_equation():
    rng = np.random.default_rng(0)
    nc, nt = rng.integers(5, 500, (2, 300))
    xc, xt = rng.integers(1, nc), rng.integers(1, nt)
    for limit in ratio_proportions_ci(xc, nc, xt, nt):
        # the restricted rate of the control: the smaller root of Koopman's quadratic
        a, b, c = limit*(nc + nt), -(limit*(nt + xc) + xt + nc), xc + xt
        p = (-b - np.sqrt(b*b - 4*a*c))/(2*a)
        q = limit*p
        chi2 = (xc - nc*p)**2/(nc*p*(1 - p)) + (xt - nt*q)**2/(nt*q*(1 - q))
        assert np.allclose(chi2, CRIT**2, rtol=1e-8)


@pytest.mark.parametrize("most", [14, pytest.param(40, marks=pytest.mark.slow)])
def test_mee_and_koopman_are_the_pooled_z_and_miettinen_nurminen_differs_in_the_known_gap(most):
    gap = 0
    for nc, nt in itertools.product(range(1, most + 1), repeat=2):
        grid = tables(nc, nt)
        z = abs(pooled_z_test(*grid)[0])
        for method, ratio, limit in (("mee", "koopman", CRIT), ("miettinen-nurminen", "miettinen-nurminen", CRIT*math.sqrt((nc + nt)/(nc + nt - 1)))):
            low, high = diff_proportions_ci(*grid, method=method)
            assert (((low > 0) | (high < 0)) == (z > limit)).all()
            low, high = ratio_proportions_ci(*grid, method=ratio)
            assert (((low > 1) | (high < 1)) == (z > limit)).all()
        gap += ((z > CRIT) & (z <= limit)).sum()
    assert gap > 0


def test_vectors_are_the_same_as_one_by_one():
    rng = np.random.default_rng(1)
    nc, nt = rng.integers(1, 3000, (2, 300))
    xc, xt = rng.binomial(nc, rng.random(300)**3), rng.binomial(nt, rng.random(300)**3)
    for method in METHODS:
        low, high = diff_proportions_ci(xc, nc, xt, nt, method=method)
        assert np.allclose([diff_proportions_ci(*t, method=method) for t in zip(xc, nc, xt, nt, strict=True)], np.stack([low, high], 1), atol=1e-12)
    assert diff_proportions_ci([[1, 2]], 10, [[3], [4]], 10)[0].shape == (2, 2)
    assert all(isinstance(x, float) for x in (*diff_proportions_ci(1, 10, 2, 10), *ratio_proportions_ci(1, 10, 2, 10), *pooled_z_test(1, 10, 2, 10)))


def test_limits_keep_their_digits_for_huge_arms_and_rare_events():
    low, high = diff_proportions_ci(1, 10**6, 12, 10**6)
    poisson = diff_proportions_ci(1, 10**12, 12, 10**12)   # a million times the units: the same events
    assert np.allclose(np.array(poisson)*1e6, (low, high), rtol=1e-4)
    assert np.allclose(diff_proportions_ci(10**6, 10**7, 10**6 + 4000, 10**7), .0004 + np.array([-1, 1])*CRIT*math.sqrt(2*.1002*.8998/10**7), rtol=1e-3)


def test_rates_next_to_one_keep_the_digits_of_rates_next_to_zero():
    rng = np.random.default_rng(26)
    for n in (10**6, 10**12, 10**15):
        nc, nt = (rng.integers(n//2, n, 200) for _ in range(2))
        few, more = rng.integers(0, 30, (2, 200))
        assert np.allclose(pooled_z_test(nc - few, nc, nt - more, nt)[0], -pooled_z_test(few, nc, more, nt)[0], rtol=1e-12)
        for method in METHODS:
            low, high = diff_proportions_ci(few, nc, more, nt, method=method)
            mirrored = diff_proportions_ci(nc - few, nc, nt - more, nt, method=method)
            assert (abs(np.array(mirrored) + (high, low)) <= 1e-12*(high - low)).all()
    assert pooled_z_test(10**15, 10**15, 10**15 - 3, 10**15)[0] == pytest.approx(-math.sqrt(3), rel=1e-12)
    assert ABTestAnalyzer().analyze(10**15, 10**15, 10**15 - 3, 10**15).lift == pytest.approx(-3e-15, rel=1e-12)
    for table in ((5, 20, 12, 30), (1, 400, 399, 400)):      # and Newcombe's limits are those of the two Wilson intervals
        wilson = [stats.binomtest(x, n).proportion_ci(method="wilson") for x, n in (table[:2], table[2:])]
        p, q = table[0]/table[1], table[2]/table[3]
        limits = q - p - math.hypot(q - wilson[1].low, wilson[0].high - p), q - p + math.hypot(wilson[1].high - q, p - wilson[0].low)
        assert diff_proportions_ci(*table, method="newcombe") == pytest.approx(limits, abs=1e-12)


@pytest.mark.parametrize("z", [0., .5, 3., 40., 1e4])
def test_p_values_keep_their_digits(z):
    n = 10**8
    xt = round(n/2 + z*math.sqrt(n/8))
    got, p, log10_p = pooled_z_test(n - xt, n, xt, n)
    assert p == pytest.approx(2*stats.norm.sf(abs(got))) and log10_p == pytest.approx((math.log(2) + stats.norm.logsf(abs(got)))/math.log(10), abs=1e-12)
    assert log10_p <= 0 and np.isfinite(log10_p)


# ---- what an interval promises

@pytest.mark.parametrize("n", [10, 30])
def test_coverage_of_miettinen_nurminen_is_at_least_nominal_on_average_and_dips_as_known(n):
    p = np.linspace(.02, .98, 13)
    held = np.array([[exact_coverage(n, n, a, b) for a in p] for b in p])
    assert .95 <= held.mean() < .97 and held.min() > .91
    wald = np.array([[exact_coverage(n, n, a, b, method="wald") for a in p] for b in p])
    assert wald.mean() < .94 and wald.min() < .75   # the check can fail: Wald's interval does
    assert min(exact_coverage(n, n, a, 1 - b) for a in (.001, .005) for b in (.001, .005, .01, .02)) == pytest.approx({10: .86, 30: .925}[n], abs=.002)   # one rate near 0, the other near 1


DESIGNS = (10, 10), (30, 30), (20, 180), (100, 100)
GRID = {    # exact coverage of a nominal .95 over the plane of rates, mean and least, for each design
    "miettinen-nurminen": ((.9596, .933), (.951, .934), (.9551, .944), (.9503, .941)),
    "mee": ((.9519, .929), (.9484, .934), (.9545, .944), (.9499, .941)),
    "newcombe": ((.9521, .902), (.9515, .902), (.9523, .943), (.9519, .945)),
    "agresti-caffo": ((.9588, .931), (.9536, .937), (.9582, .936), (.9512, .941))}


@pytest.mark.parametrize("n", [10, 30, 100])
def test_the_dips_of_miettinen_nurminen_in_the_corner_do_not_go_away_with_the_units(n):
    "One rate a/n, the other 1 - b/n: nearly Poisson, so that only a and b count."
    deepest = {10: (.13923, .03292, .8410), 30: (.059232, .115923, .8391), 100: (.034615, .14146, .8385)}[n]
    assert exact_coverage(n, n, deepest[0]/n, 1 - deepest[1]/n) == pytest.approx(deepest[2], abs=1e-4)
    assert .838 < min(exact_coverage(n, n, a/n, 1 - b/n) for a in np.linspace(.01, .31, 11) for b in np.linspace(.01, .31, 11)) < .86


@pytest.mark.parametrize("method", GRID)
@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_coverage_on_a_grid(method, design):
    nc, nt = design
    p = np.linspace(.03, .97, 32 if max(nc, nt) < 100 else 12)
    held = np.array([[exact_coverage(nc, nt, a, b, method=method) for a in p] for b in p])
    mean, least = GRID[method][DESIGNS.index(design)]
    assert held.mean() == pytest.approx(mean, abs=5e-4) and held.min() == pytest.approx(least, abs=1e-3)


def test_coverage_and_size_by_simulation():
    rng, worlds = np.random.default_rng(2), 40_000
    xc, xt = rng.binomial(25, .1, worlds), rng.binomial(40, .3, worlds)
    low, high = diff_proportions_ci(xc, 25, xt, 40, method="newcombe")
    inside = bounds(worlds, exact_coverage(25, 40, .1, .3, method="newcombe"))
    assert inside[0] <= ((low <= .3 - .1) & (.3 - .1 <= high)).sum() <= inside[1]
    x, y = rng.binomial(25, .2, worlds), rng.binomial(40, .2, worlds)
    inside = bounds(worlds, exact_size(25, 40, .2))
    assert inside[0] <= (pooled_z_test(x, 25, y, 40)[1] < .05).sum() <= inside[1]


def test_the_relative_interval_holds_its_promise():
    xc, nc, xt, nt = tables(80, 80)
    low, high = ratio_proportions_ci(xc, nc, xt, nt)
    held = []
    for a, b in itertools.product((.1, .3, .6), repeat=2):
        weight = stats.binom.pmf(xc, nc, a)*stats.binom.pmf(xt, nt, b)
        held.append(weight[(low <= b/a) & (b/a <= high)].sum())
    assert np.mean(held) > .945 and min(held) > .93


# ---- the analyzer

def test_the_result_is_a_dict_of_plain_values_that_explains_itself():
    result = ABTestAnalyzer().analyze(500, 10_000, 570, 10_000)
    assert isinstance(result, dict) and json.loads(json.dumps(result))["p_value"] == result.p_value
    assert result.lift == pytest.approx(.007) and result.lift_pct == pytest.approx(14) and result.significant is True
    assert result["ci"] == result["ci_95"] == diff_proportions_ci(500, 10_000, 570, 10_000)
    assert result["lift_pct_ci"] == pytest.approx(tuple(100*(r - 1) for r in ratio_proportions_ci(500, 10_000, 570, 10_000, method="miettinen-nurminen")))
    assert "570" not in repr(result) and "5.7 %" in repr(result) and "significant" in repr(result)
    with pytest.raises(AttributeError, match="there are lift"): result.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="lift: .*not changed"): result.lift = 0
    assert type(result.copy()) is type(result) and result.copy() == result and result.copy().explain() == result.explain()
    assert pickle.loads(pickle.dumps(result)) == copy.deepcopy(result) == result
    assert "nan" not in repr(ABTestAnalyzer().analyze(0, 50, 0, 60)) and "nobody converted" in repr(ABTestAnalyzer().analyze(0, 50, 0, 60))
    assert "lift_pct_ci" in dir(result)


@pytest.mark.parametrize(("table", "says", "says_not"), [
    ((500, 10_000, 570, 10_000), ["luck alone", "higher"], ["probability", "proves", "no effect"]),
    ((570, 10_000, 500, 10_000), ["luck alone", "lower"], ["proves"]),
    ((50, 100, 56, 100), ["neither", "nor that it does not"], ["no effect", "luck alone"]),
    ((0, 50, 0, 60), ["0 % converted", "neither"], ["nan", "luck alone"])])
def test_the_sentence_is_one_and_claims_no_more_than_the_data(table, says, says_not):
    sentence = ABTestAnalyzer().analyze(*table).explain()
    assert sentence.count(". ") == 0 and sentence.endswith(".") and all(w in sentence for w in says) and not any(w in sentence for w in says_not)


def test_the_sentence_shows_the_digits_that_tell_the_arms_apart():
    for table, says in (((1_000_000, 10_000_000, 1_004_000, 10_000_000), "10.04 % converted in the treatment and 10 % in the control"),
                        ((9_999_990, 10_000_000, 9_999_999, 10_000_000), "99.99999 % converted in the treatment and 99.9999 % in the control"),
                        ((9996, 10_000, 5, 10), "99.96 % in the control"), ((100_000, 10_000_000, 5_000_000, 10_000_000), "from +48.968 to +49.032 percentage points")):
        assert says in ABTestAnalyzer().analyze(*table).explain()
    assert "10.04 %" in repr(ABTestAnalyzer().analyze(1_000_000, 10_000_000, 1_004_000, 10_000_000))
    assert "999999.9 in the treatment and 1000000.1 in the control" in welch_test([1e6, 1e6 + .1, 1e6 + .2], [1e6 - .2, 1e6 - .1, 1e6]).explain()
    tenths = welch_from_moments(.19494, .1, 14, .257, .1, 17)
    assert "0.2570 in the treatment and 0.1949 in the control" in tenths.explain() and repr(tenths).startswith("control 0.19494, treatment 0.25700")
    rng = np.random.default_rng(22)
    for _ in range(300):      # arms that differ clearly never read the same
        n = [int(10**v) for v in rng.uniform(2, 9, 2)]
        r = ABTestAnalyzer().analyze(int(n[0]*rng.random()), n[0], int(n[1]*rng.random()), n[1])
        shown = [w for w in r.explain().split("percentage")[0].split() if w[0].isdigit()]
        assert not r.significant or shown[0] != shown[1]
        assert "e+" not in r.explain() and "e-" not in r.explain()


# ---- where so few are expected in an arm that the normal approximation fails

CLAIM = "luck alone is an unlikely explanation"
FEW = [((0, 100, 1, 5), .05, .0476, True), ((3, 20_000, 1, 100), .05, .0198, True), ((12, 19_800, 1, 200), .05, .1225, False), ((1, 200, 12, 19_800), .05, .1225, False),
       ((19_788, 19_800, 199, 200), .05, .1225, False), ((0, 100, 1, 5), .01, .0476, False), ((25, 19_800, 3, 200), .001, .0027, False)]


@pytest.mark.parametrize(("table", "alpha", "exact", "claims"), FEW)
def test_where_few_are_expected_the_sentence_claims_only_what_fishers_test_finds_too(table, alpha, exact, claims):
    r = ABTestAnalyzer(alpha).analyze(*table)
    assert r.significant and r.p_exact == pytest.approx(exact, abs=1e-4) and (CLAIM in r.explain()) == claims
    assert f"Fisher's exact test was asked too: p = {exact:.2g}" in r.explain() and ("more units are needed" in r.explain()) == (not claims)
    assert "Fisher" in repr(r) and r.explain().count(". ") == 0


def test_fishers_p_is_scipys_and_is_there_for_arms_of_any_size():
    rng, asked = np.random.default_rng(24), 0
    for _ in range(500):
        nc, nt = (int(10**v) for v in rng.uniform(0, 4.5, 2))
        p = abs(rng.integers(0, 2) - 10**rng.uniform(-4, -.01))
        table = int(rng.binomial(nc, p)), nc, int(rng.binomial(nt, p)), nt
        exact = ABTestAnalyzer().analyze(*table).p_exact
        expected = min(nc, nt)*min(table[0] + table[2], nc + nt - table[0] - table[2])/(nc + nt)
        assert (exact is None) == (expected >= 5)
        if exact is not None: assert exact == pytest.approx(stats.fisher_exact([[table[0], nc - table[0]], [table[2], nt - table[2]]]).pvalue, rel=1e-9)
        asked += exact is not None
    assert 100 < asked < 400
    assert ABTestAnalyzer().analyze(3, 10**15, 4, 10**13).p_exact == pytest.approx(stats.binom.sf(3, 7, 1/101), rel=1e-6)   # seven events among endless units
    assert ABTestAnalyzer().analyze(0, 10**12, 10**5, 10**5).p_exact == 0 and CLAIM in ABTestAnalyzer().analyze(0, 10**12, 10**5, 10**5).explain()
    assert ABTestAnalyzer(1e-6).analyze(200, 20_000, 20, 200).p_exact < 1e-6 and ABTestAnalyzer().analyze(2000, 20_000, 40, 200).p_exact is None


@pytest.mark.parametrize("alpha", [.05, .001])
def test_among_equal_rates_and_unequal_arms_the_claim_is_made_as_seldom_as_promised(alpha):
    nc, nt, analyzer = 19_800, 200, ABTestAnalyzer(alpha)
    for expected in (.13, .5, 2, 6, 14):
        xc, xt = (np.flatnonzero(stats.binom.pmf(np.arange(n + 1), n, expected/nt) > 1e-9) for n in (nc, nt))
        chance = np.outer(stats.binom.pmf(xc, nc, expected/nt), stats.binom.pmf(xt, nt, expected/nt))
        significant = pooled_z_test(xc[:, None], nc, xt, nt)[1] < alpha
        some = [(i, j) for i, j in np.argwhere(significant & (chance > 1e-7)) if CLAIM in analyzer.analyze(xc[i], nc, xt[j], nt).explain()]
        claimed = sum(chance[i, j] for i, j in some)
        assert claimed < 1.1*alpha
        if expected == .13: assert chance[significant].sum() > {.05: 2, .001: 10}[alpha]*alpha and claimed < .5*alpha   # what the approximation says alone


def test_variants_with_few_expected_are_claimed_as_seldom_as_promised_and_the_table_says_why():
    rng, worlds = np.random.default_rng(25), 400
    x = np.column_stack([rng.binomial(20_000, .001, worlds), rng.binomial(200, .001, (worlds, 10)).reshape(worlds, 10)])
    got = [compare_variants(row, [20_000] + [200]*10) for row in x]
    assert sum((g.verdict == "a difference").any() for g in got) <= stats.binom.ppf(.9995, worlds, .05) < sum(g.significant.any() for g in got)
    for g in got:
        assert (g.verdict.eq("no clear difference") == ~g.significant).all() and g.p_exact[g.verdict == "too few to tell"].notna().all()
    one = compare_variants([20, 1, 3, 4], [20_000, 200, 200, 200])
    assert list(one.verdict) == ["no clear difference", "a difference", "a difference"] and one.p_exact[2] == pytest.approx(stats.fisher_exact([[20, 19_980], [3, 197]]).pvalue)
    assert compare_variants([200, 205, 260, 198], [2000]*4).p_exact.isna().all()


def test_levels_that_promise_nothing_are_named():
    for sentence in (ABTestAnalyzer(.9).analyze(50, 100, 51, 100).explain(), srm_test([50, 51], alpha=.99).explain()):
        assert "by the level chosen" in sentence and "unlikely" not in sentence and "hardly" not in sentence
    assert "luck alone is an unlikely" in ABTestAnalyzer(.1).analyze(50, 100, 65, 100).explain()


def test_intervals_without_width_or_beyond_the_rates_are_told_as_they_are():
    for table in ((0, 50, 0, 60), (0, 50, 60, 60)):
        sentence = ABTestAnalyzer(method="wald").analyze(*table).explain()
        assert "no width" in sentence and "neither" not in sentence and "unlikely" not in sentence
    assert "+110 percentage points" in ABTestAnalyzer(method="agresti-caffo").analyze(0, 2, 2, 2).explain()


def test_adjusted_averages_are_called_so():
    rng = np.random.default_rng(23)
    x, arm = rng.normal(size=40), np.arange(40) % 2
    c = cuped(x + rng.normal(size=40), x, arm)
    assert c.explain().startswith("The adjusted average")
    assert all(f"{name} {value:.4g}" in repr(c) for name, value in (("theta", c.theta), ("rho", c.rho))) and f"{c.variance_ratio:.4g} of the variance" in repr(c)
    assert welch_test(x[:20], x[20:]).explain().startswith("The average")
    ratio = ratio_metric_test(x + 9, np.ones(40), arm).explain()
    assert ratio.startswith("The ratio was") and "changes the ratio nor" in ratio and cluster_test(x, arm, np.arange(40)).explain().startswith("The average")


def test_splits_with_few_expected_are_judged_by_exact_counting():
    for counts, weights, exact in (([1000, 500], (999, 1), 0), ([300] + [0]*39, None, 0), ([1991, 9], (999, 1), stats.binomtest(9, 2000, .001).pvalue), ([0, 12], None, 2/2**12),
                                   ([2, 300, 300], (1, 150, 150), 3*stats.binomtest(2, 602, 1/301).pvalue), ([1994, 6], (999, 1), stats.binomtest(6, 2000, .001).pvalue)):
        split = srm_test(counts, weights)
        assert split.p_exact == pytest.approx(min(exact, 1), rel=1e-9, abs=1e-300)
        assert ("find out who is missing" in split.explain()) == (exact < .001) and "exact counting decides" in split.explain()
    assert srm_test([1994, 6], (999, 1), alpha=.01).mismatch and "luck may do that more often" in srm_test([1994, 6], (999, 1), alpha=.01).explain()
    assert srm_test([20, 20]).p_exact is None and srm_test([10**12, 40], (10**12, 1.01)).p_exact < 1e-40
    found = [k for k in range(30) if "find out" in srm_test([2000 - k, k], (999, 1)).explain()]
    assert stats.binom.pmf(found, 2000, .001).sum() < .001
    calm = srm_test([5000, 5322]).explain()
    assert "not enough to raise the alarm at 0.001" in calm and "no reason" not in calm and not srm_test([5000, 5322]).mismatch
    assert "mismatch at 0.001" in srm_test([1000, 500], (999, 1)).plot().get_title() and "no alarm" in srm_test([1994, 6], (999, 1), alpha=.01).plot().get_title()


def test_splits_say_what_was_expected_and_when_luck_is_underrated():
    assert "2.5 and 2.5 were expected" in srm_test([0, 5]).explain() and "5,100 and 5,100" in srm_test([5000, 5200]).explain()
    n, x = 2000, np.arange(2001)
    alarm = np.array([srm_test([n - k, k], (999, 1)).mismatch if k < 30 else True for k in x])
    assert stats.binom.pmf(x, n, .001) @ alarm > .004      # at a nominal .001
    assert "so few were expected" in srm_test([1991, 9], (999, 1)).explain() and "so few" not in srm_test([1800, 200], (95, 5)).explain()


def test_a_close_call_is_called_one():
    grid = [(a, nc, b, nt) for nc, nt in ((5, 9), (12, 12), (13, 20)) for a in range(nc + 1) for b in range(nt + 1)]
    calls = [r for r in (ABTestAnalyzer().analyze(*t) for t in grid) if r.significant and r.ci[0] <= 0 <= r.ci[1]]
    assert calls and all("close call" in r.explain() for r in calls)
    assert not [r for r in (ABTestAnalyzer(method="mee").analyze(*t) for t in grid) if r.significant == (r.ci[0] <= 0 <= r.ci[1])]


def test_zero_conversions_and_full_conversions_are_answers():
    none, some, full = (ABTestAnalyzer().analyze(*t) for t in ((0, 50, 0, 60), (0, 100, 5, 100), (50, 50, 60, 60)))
    assert none.p_value == full.p_value == 1 and none.z == 0 and math.isnan(none.lift_pct) and none.ci[0] < 0 < none.ci[1]
    assert some.lift_pct == math.inf and some.lift_pct_ci[0] > 0 and some.lift_pct_ci[1] == math.inf
    for r in (none, some, full): assert "\n" in repr(r) and r.explain()


def test_results_plot():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    rng = np.random.default_rng(0)
    results = (ABTestAnalyzer().analyze(50, 100, 56, 100), welch_test(rng.random(30), rng.random(30)))
    ABTestAnalyzer(.5, method="agresti-caffo").analyze(0, 3, 3, 3).plot()      # the estimate lies outside
    ax = srm_test([5000, 5200, 5100]).plot()
    assert "found" in ax.get_ylabel() and "p = 0.14" in ax.get_title() and srm_test([5, 6]).plot(ax=ax) is ax
    for result in results:
        ax = result.plot()
        assert "interval" in ax.get_xlabel() and ax.get_title()
        assert result.plot(ax=ax) is ax
    for result, title in ((ABTestAnalyzer().analyze(12, 19_800, 1, 200), "too few to tell, p = 0.015, Fisher's p = 0.12"),
                          (ABTestAnalyzer(.5).analyze(50, 100, 55, 100), "a difference by the level chosen"),
                          (ABTestAnalyzer().analyze(500, 10_000, 570, 10_000), "a difference, p = 0.028")):
        assert result.plot().get_title().startswith(title)
    assert ABTestAnalyzer().analyze(1, 9, 5, 9).plot().get_title().startswith("a close call")
    plt.close("all")


# ---- sizes and power

@pytest.mark.parametrize(("baseline", "mde", "alpha", "power", "ratio"), [(.1, .1, .05, .8, 1), (.02, -.3, .01, .9, 1), (.5, .04, .05, .95, 3), (.85, .05, .1, .8, .25)])
def test_size_power_and_detectable_effect_are_inverses(baseline, mde, alpha, power, ratio):
    nc, nt = sample_size_proportions(baseline, mde, alpha=alpha, power=power, ratio=ratio)
    other = baseline*(1 + mde)
    assert power_proportions(baseline, other, nc, nt, alpha=alpha) >= power - 1e-9
    assert power_proportions(baseline, other, nc*.98, nt*.98, alpha=alpha) < power
    back = minimum_detectable_effect(baseline, nc, alpha=alpha, power=power, ratio=ratio, direction="increase" if mde > 0 else "decrease")
    assert back == pytest.approx(mde, rel=1e-3) and abs(back) <= abs(mde)*(1 + 1e-9)


def test_power_is_that_of_the_test():
    for n, pc, pt in ((150, .1, .2), (60, .3, .55), (300, .5, .6)):
        xc, nc, xt, nt = tables(n, n)
        rejects = pooled_z_test(xc, nc, xt, nt)[1] < .05
        exact = (stats.binom.pmf(xc, n, pc)*rejects*stats.binom.pmf(xt, n, pt)).sum()
        assert power_proportions(pc, pt, n) == pytest.approx(exact, abs=.015)
    assert power_proportions(.2, .2, 1000) == pytest.approx(.05)


def test_power_and_size_of_means_by_simulation_and_by_definition():
    rng, worlds, n = np.random.default_rng(3), 4000, 17
    t = stats.ttest_ind(rng.normal(1, 1, (worlds, n)), rng.normal(0, 1, (worlds, n)), axis=1)
    low, high = bounds(worlds, power_means(1, 1, n))
    assert low <= (t.pvalue < .05).sum() <= high
    for nc, nt in ((17, 17), (200, 20), (20, 400)):   # Welch's test on equal spreads, with arms of unequal size too
        difference = rng.normal(.6, math.sqrt(1/nc + 1/nt), worlds := 20_000)
        vc, vt = (rng.chisquare(n - 1, worlds)/(n - 1)/n for n in (nc, nt))
        p = 2*special.stdtr((vc + vt)**2/(vc**2/(nc - 1) + vt**2/(nt - 1)), -abs(difference)/np.sqrt(vc + vt))
        assert power_means(1, .6, nc, nt) == pytest.approx((p < .05).mean(), abs=.012)
    assert sample_size_means(1, 1) == 17 and sample_size_means(1, 1, ratio=.1) > 100   # by the pooled t it would be 89
    assert sample_size_means(1, 20) == 2 and sample_size_means(1, 1e-3) > 10**7 and power_means(1, 0, 30) == pytest.approx(.05)
    for sd, delta, power, ratio in ((1, 1, .8, 1), (1, -.3, .9, 1), (10, 25, .8, 1), (1, .5, .8, 4), (1, .5, .8, .2), (1, .05, .5, 1), (1, .2, .06, 1)):
        n = sample_size_means(sd, delta, power=power, ratio=ratio)
        assert power_means(sd, delta, n, n*ratio) >= power and (n == 2 or n*ratio <= 2*ratio + 2 or power_means(sd, delta, n - 1, max((n - 1)*ratio, 2)) < power)


def test_the_difference_that_can_be_found_and_the_units_that_find_it_are_inverses():
    for sd, delta, power, ratio in ((1, 1, .8, 1), (10, .5, .8, 1), (1, .3, .9, 4), (2, .5, .95, .2), (1, 1e-3, .8, 1)):
        n = sample_size_means(sd, delta, power=power, ratio=ratio)
        found = minimum_detectable_effect_means(sd, n, power=power, ratio=ratio)
        assert found <= delta < minimum_detectable_effect_means(sd, n - 1, power=power, ratio=ratio) and power_means(sd, found, n, n*ratio) == pytest.approx(power, rel=1e-6)
    assert minimum_detectable_effect_means(1, 2) > 5 and minimum_detectable_effect_means(1e-100, 100) == pytest.approx(1e-100*minimum_detectable_effect_means(1, 100), rel=1e-9)


def test_the_analyzer_plans_for_arms_of_unequal_size():
    analyzer = ABTestAnalyzer(mde=.1)
    assert analyzer.required_sample_size(.1) == sample_size_proportions(.1, .1)[0] and analyzer.required_sample_size(.1, ratio=9) == sample_size_proportions(.1, .1, ratio=9)[0]


# ---- averages

def test_welch_keeps_its_error_rate_with_unequal_spreads_and_agrees_with_scipy():
    rng, worlds = np.random.default_rng(4), 2000
    found = sum(welch_test(rng.normal(0, 1, 40), rng.normal(0, 3, 12)).significant for _ in range(worlds))
    low, high = bounds(worlds, .05)
    assert low <= found <= high
    a, b = rng.normal(0, 1, 40), rng.normal(.3, 3, 12)
    ours, theirs = welch_test(a, b, alpha=.1), stats.ttest_ind(b, a, equal_var=False)
    assert (ours.statistic, ours.df, ours.p_value, *ours.ci) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue, *theirs.confidence_interval(.9)))
    moments = welch_from_moments(a.mean(), a.std(ddof=1), 40, b.mean(), b.std(ddof=1), 12, alpha=.1)
    assert (moments.p_value, *moments.ci) == pytest.approx((ours.p_value, *ours.ci)) and "interval" in repr(ours)


def test_cuped_is_unbiased_saves_one_minus_rho_squared_and_keeps_its_error_rate():
    rng, worlds, n, effect = np.random.default_rng(5), 1500, 200, .4
    estimates, saved = [], []
    for _ in range(worlds):
        x, treated = rng.gamma(2, size=n), rng.random(n) < .5
        y = 2*x + rng.normal(0, 1, n) + effect*treated
        c = cuped(y, x, treated)
        estimates.append((c.difference, c.se, c.ci[0] <= effect <= c.ci[1]))
        saved.append((c.se/welch_test(y[~treated], y[treated]).se)**2)
    difference, se, held = np.array(estimates).T
    assert abs(difference.mean() - effect) < 3.3*difference.std()/math.sqrt(worlds)
    assert abs(difference.std()/se.mean() - 1) < .07
    low, high = bounds(worlds, .95)
    assert low <= held.sum() <= high
    assert np.mean(saved) == pytest.approx(1/9, rel=.15)   # var(2 x) = 8, var(noise) = 1


def test_what_cuped_says_is_left_is_left_if_the_treatment_does_nothing():
    rng = np.random.default_rng(27)
    x, arm = rng.normal(size=20_000), np.arange(20_000) % 2
    y = x + rng.normal(size=20_000)
    left = lambda y: (cuped(y, x, arm).se/welch_test(y[arm == 0], y[arm == 1]).se)**2
    assert cuped(y, x, arm).variance_ratio == pytest.approx(left(y), abs=.01)
    strong = y + 3*math.sqrt(2)*arm      # spread that the treatment made
    assert cuped(strong, x, arm).variance_ratio > left(strong) + .2 and "if the treatment does nothing" in repr(cuped(strong, x, arm))


def test_cuped_with_a_covariate_that_explains_nothing_changes_nothing_and_with_a_perfect_one_leaves_nothing():
    rng = np.random.default_rng(6)
    y, treated = rng.normal(size=2000), rng.random(2000) < .5
    plain, adjusted = welch_test(y[~treated], y[treated]), cuped(y, rng.normal(size=2000), treated)
    assert adjusted.se == pytest.approx(plain.se, rel=.01) and adjusted.variance_ratio > .99
    assert cuped(3*y + 1e-3*rng.normal(size=2000), y, treated).variance_ratio < 1e-5


def test_a_ratio_of_sums_keeps_its_error_rate_where_the_naive_one_does_not():
    rng, worlds = np.random.default_rng(7), 1500
    found = naive = 0
    for _ in range(worlds):
        views = rng.poisson(8, 300) + 1.
        clicks = rng.binomial(views.astype(int), rng.beta(1, 3, 300)).astype(float)   # each person has a rate of their own
        treated = rng.random(300) < .5
        found += ratio_metric_test(clicks, views, treated).significant
        naive += pooled_z_test(*(int(v) for arm in (~treated, treated) for v in (clicks[arm].sum(), views[arm].sum())))[1] < .05
    low, high = bounds(worlds, .05)
    assert low <= found <= high + 8   # 300 units by the normal distribution: a little more than .05
    assert naive > 2*high


def test_a_ratio_with_constant_denominators_is_a_mean():
    rng = np.random.default_rng(8)
    y, treated = rng.normal(size=100), rng.random(100) < .4
    ratio, mean = ratio_metric_test(y, np.full(100, 2.), treated, distribution="t"), welch_test(y[~treated]/2, y[treated]/2)
    assert (ratio.difference, ratio.se, ratio.df, ratio.p_value) == pytest.approx((mean.difference, mean.se, mean.df, mean.p_value))


# ---- the unit

@pytest.mark.parametrize("days", [10, 60])
def test_counting_clusters_repairs_what_counting_rows_breaks(days):
    rng, worlds = np.random.default_rng(days), 1000
    found = naive = 0
    for _ in range(worlds):
        size = rng.integers(20, 60, days)
        day, mood = np.repeat(np.arange(days), size), rng.normal(0, 1, days)
        y, chosen = mood[day] + rng.normal(0, 1, len(day)), rng.permutation(days) < days//2
        found += cluster_test(y, chosen[day], day).significant
        naive += welch_test(y[~chosen[day]], y[chosen[day]]).significant
    assert found <= bounds(worlds, .05)[1] and found >= bounds(worlds, .05)[0]*(.5 if days == 10 else 1)   # with few clusters a little cautious
    assert naive > .5*worlds


def test_the_design_effect_is_the_textbooks():
    rng = np.random.default_rng(9)
    m, rho, clusters = 30, .2, 4000
    y = (np.sqrt(rho)*rng.normal(size=(clusters, 1)) + np.sqrt(1 - rho)*rng.normal(size=(clusters, m))).ravel()
    assert design_effect(y, np.repeat(np.arange(clusters), m)) == pytest.approx(1 + (m - 1)*rho, rel=.1)
    assert design_effect(y, np.arange(len(y))) == pytest.approx(1, rel=1e-3)


# ---- the split

def test_assignment_is_the_same_everywhere_and_forever():
    # a change of these would reassign every running experiment
    assert [assign(f"unit-{i}", "an experiment") for i in range(16)] == [0, 0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1]
    assert bucket("unit-0", "an experiment") == pytest.approx(0.1554640660513562, abs=1e-15)
    assert assign(7, "x") == assign("7", "x") == assign(np.int64(7), "x") and assign([7, 8], "x").tolist() == [assign(7, "x"), assign(8, "x")]
    assert bucket("ab", "c") != bucket("b", "ca") and bucket("é", "ü") < 1
    for units in (["a\0", "b"], [2**63, 1], ["a", 1], ("a", "b")): assert bucket(units, "x").tolist() == [bucket(u, "x") for u in units]
    assert (bucket(pd.Series(["a", "b"]), "x") == bucket(np.array(["a", "b"]), "x")).all() and bucket([], "x").shape == (0,)


def test_assignment_is_uniform_and_independent_between_experiments():
    ids = np.arange(10_000)
    base = assign(ids, "base")
    p = []
    for k in range(100):
        u = bucket(ids, f"experiment {k}")
        p.append((stats.chisquare(np.bincount((u*100).astype(int), minlength=100)).pvalue,
                  stats.chi2_contingency(np.histogram2d(base, u < .5, bins=2)[0], correction=False).pvalue,
                  stats.chi2_contingency(np.histogram2d(ids % 2, u < .5, bins=2)[0], correction=False).pvalue,
                  stats.spearmanr(u[:-1], u[1:]).pvalue))
    for column in np.array(p).T: assert stats.kstest(column, "uniform").pvalue > 1e-4
    assert stats.chisquare(np.bincount((bucket(np.arange(100_000), "one")*100).astype(int), minlength=100)).pvalue > 1e-3


def test_weights_are_kept_and_raising_the_last_share_moves_units_only_into_it():
    ids = np.arange(50_000)
    arms = assign(ids, "weights", (.2, .3, .5))
    assert not srm_test(np.bincount(arms), (.2, .3, .5)).mismatch and (assign(ids, "weights", (2, 3, 5)) == arms).all()
    assert (assign(ids, "weights", (2e307, 3e307, 5e307)) == arms).all() and srm_test([5, 6], (1e308, 1e308)).expected == (5.5, 5.5)
    ramp = assign(ids, "ramp", (.9, .1)), assign(ids, "ramp", (.5, .5))
    assert (ramp[1][ramp[0] == 1] == 1).all()


def test_srm_rings_as_often_as_it_says_and_rings_when_units_are_lost():
    rng, worlds = np.random.default_rng(10), 4000
    counts = rng.multinomial(5000, (.2, .3, .5), worlds)
    low, high = bounds(worlds, .05)
    assert low <= sum(srm_test(c, (.2, .3, .5), alpha=.05).mismatch for c in counts) <= high
    assert srm_test([50_000, 50_000*.97//1]).mismatch and not srm_test([50_000, 50_100]).mismatch


@pytest.mark.parametrize(("x", "df"), [(3., 1), (700., 1), (1290., 2), (1400., 3), (5000., 1), (1e5, 7), (1500., 51)])
def test_the_tail_of_chi_squared_keeps_its_digits(x, df):
    # recurrence in the degrees of freedom: Q(a + 1, y) = Q(a, y) + y^a exp(-y)/Gamma(a + 1), from the normal tail or exp(-y)
    y, odd = x/2, df % 2
    terms = [math.log(2) + stats.norm.logsf(math.sqrt(x)) if odd else -y]
    terms += [(k + odd/2)*math.log(y) - y - math.lgamma(k + odd/2 + 1) for k in (range((df - 1)//2) if odd else range(1, df//2))]
    assert planning._log_chi2_tail(x, df) == pytest.approx(special.logsumexp(terms), rel=1e-12)


# ---- many questions

def closed_testing(p, alpha):
    "Holm, Hommel by definition: a hypothesis is rejected if every intersection that holds it is, by Bonferroni or by Simes."
    m = len(p)
    rejected = {"holm": np.ones(m, bool), "hommel": np.ones(m, bool)}
    for r in range(1, m + 1):
        for subset in itertools.combinations(range(m), r):
            s = np.sort(p[list(subset)])
            for method, test in (("holm", s[0]*r <= alpha), ("hommel", (s*r/np.arange(1, r + 1)).min() <= alpha)):
                if not test: rejected[method][list(subset)] = False
    return rejected


def test_holm_and_hommel_are_their_closed_tests():
    rng = np.random.default_rng(11)
    for _ in range(60):
        p = rng.random(6)**3
        for method, rejected in closed_testing(p, .05).items(): assert ((adjust_pvalues(p, method) <= .05) == rejected).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_p_values_keep_the_order_and_never_shrink(p):
    adjusted = {m: adjust_pvalues(p, m) for m in ("bonferroni", "holm", "hochberg", "hommel", "bh", "by")}
    for a in adjusted.values(): assert (a >= np.array(p) - 1e-15).all() and (a <= 1).all() and (np.diff(a[np.argsort(p, kind="stable")]) >= -1e-15).all()
    for small, large in (("hommel", "hochberg"), ("hochberg", "holm"), ("holm", "bonferroni"), ("bh", "by"), ("bh", "hommel")): assert (adjusted[small] <= adjusted[large] + 1e-12).all()


def test_families_keep_their_error_rates():
    rng, worlds = np.random.default_rng(12), 3000
    null = rng.random((worlds, 8))
    low, high = bounds(worlds, .05)
    for method in ("holm", "hochberg", "hommel", "bh"): assert low*.9 <= sum((adjust_pvalues(p, method) < .05).any() for p in null) <= high
    assert (null < .05).any(axis=1).sum() > 5*high
    mixed = np.concatenate([null[:1500, :4], stats.norm.sf(rng.normal(3, 1, (1500, 4)))], axis=1)
    false = [(a[:4] < .05).sum()/max((a < .05).sum(), 1) for a in (adjust_pvalues(p, "bh") for p in mixed)]
    assert .5*.05/2 < np.mean(false) < .05/2*1.3   # half of the hypotheses are true: FDR = alpha/2


def test_variants_are_compared_with_the_control():
    got = compare_variants([200, 205, 260, 198], [2000]*4)
    assert list(got.significant) == [False, True, False] and list(got.index) == [1, 2, 3]
    assert (got.low[2], got.high[2]) == pytest.approx(diff_proportions_ci(200, 2000, 260, 2000, level=1 - .05/3))
    rng = np.random.default_rng(13)
    x = rng.binomial(500, .2, (800, 6))
    held = sum((t.low <= 0).all() and (t.high >= 0).all() for t in (compare_variants(row, [500]*6) for row in x))
    assert held >= stats.binom.ppf(.0005, 800, .95)


# ---- Bayes

def exact_beta(xc, nc, xt, nt):
    "P(treatment better) and expected loss for flat priors, in whole numbers."
    def above(a, b, c, d):   # P(Beta(a, b) > Beta(c, d)), whole numbers
        beta = lambda x, y: Fraction(math.factorial(x - 1)*math.factorial(y - 1), math.factorial(x + y - 1))
        return sum(beta(c + i, d + b)/(beta(1 + i, b)*(b + i)*beta(c, d)) for i in range(a))
    C, T = (xc + 1, nc - xc + 1), (xt + 1, nt - xt + 1)
    better = above(*T, *C)
    loss = Fraction(C[0], sum(C))*above(C[0] + 1, C[1], *T) - Fraction(T[0], sum(T))*above(*C, T[0] + 1, T[1])
    return float(better), float(loss)


@pytest.mark.parametrize("table", [(3, 10, 9, 10), (0, 5, 0, 7), (5, 5, 0, 6), (120, 400, 150, 410), (2, 300, 1, 50), (0, 100, 100, 100)])
def test_the_bayesian_answer_is_the_exact_sum(table):
    assert beta_binomial(*table) == pytest.approx(exact_beta(*table), rel=1e-9)


def test_the_bayesian_answer_with_other_priors_and_sizes():
    rng = np.random.default_rng(14)
    for table, prior in (((3, 20, 6, 25), (.5, .5)), ((0, 4, 1, 4), (.2, 7.5)), ((500, 10_000, 2, 20), (1, 1))):
        c, t = (rng.beta(prior[0] + x, prior[1] + n - x, 400_000) for x, n in (table[:2], table[2:]))
        better, loss = beta_binomial(*table, prior=prior)
        assert better == pytest.approx((t > c).mean(), abs=.004) and loss == pytest.approx(np.maximum(c - t, 0).mean(), rel=.03)
        assert beta_binomial(*table[2:], *table[:2], prior=prior)[0] == pytest.approx(1 - better, abs=1e-9)
    n = 20_000_000
    z = pooled_z_test(1_000_000, n, 1_003_000, n)[0]
    assert beta_binomial(1_000_000, n, 1_003_000, n)[0] == pytest.approx(stats.norm.cdf(z), abs=1e-6)


def test_the_bayesian_answer_at_its_extremes():
    for x, n, prior in ((10, 10, .01), (0, 10, .001), (0, 10, 1e-6), (10, 10, 1e-8), (10**9, 10**10, 1.), (0, 10**10, .5)):
        better, loss = beta_binomial(x, n, x, n, prior=(prior, prior))
        assert better == pytest.approx(.5, abs=1e-6) and 0 < loss < .01
    for x, n, prior in ((10**9, 10**9, (1e-8, 1e-8)), (0, 10**9, (1e-8, 1e-8)), (10**10, 10**10, (1e-6, 1e-6)), (0, 1, (1e-8, 5e9)), (5, 5, (1e8, 1.26e-9))):
        better, loss = beta_binomial(x, n, x, n, prior=prior)
        a, b = prior[0] + x, prior[1] + (n - x)      # one of them tiny: the two rates are hardly ever both far from their end, so the loss is the mean distance
        assert better == pytest.approx(.5, abs=1e-12) and loss == pytest.approx(min(a, b)/(a + b), rel=1e-5)
        assert beta_binomial(n - x, n, n - x, n, prior=prior[::-1]) == pytest.approx((better, loss), rel=1e-9)
    assert beta_binomial(1, 1, 0, 1, prior=(1e-8, 5e9))[0] == pytest.approx(1e-8*math.log(2), rel=1e-6)   # an exponential against a spike at 0 with a tail of 1/rate
    for a in (1e-8, 1e-4, .01, .3):          # the treatment's posterior is Beta(a, 1): its distribution function is a power
        for xc, nc in ((0, 5), (3, 7), (1, 4000)):
            exact = -np.expm1(special.betaln(2*a + xc, nc - xc + 1e-9) - special.betaln(a + xc, nc - xc + 1e-9))
            assert beta_binomial(xc, nc, 0, 1, prior=(a, 1.1e-9))[0] == pytest.approx(exact, rel=1e-6, abs=1e-8)
    rng = np.random.default_rng(16)
    for _ in range(60):
        n = (10 ** rng.uniform(0, 8, 2)).astype(int)
        x, prior = rng.binomial(n, rng.beta(.2, .2)), tuple(10 ** rng.uniform(-4, 3, 2))
        one, other = beta_binomial(x[0], n[0], x[1], n[1], prior=prior), beta_binomial(x[1], n[1], x[0], n[0], prior=prior)
        assert one[0] + other[0] == pytest.approx(1, abs=1e-8)
        mean = (prior[0] + x)/(sum(prior) + n)      # loss of the treatment minus that of the control: the difference of the posterior means
        assert one[1] - other[1] == pytest.approx(mean[0] - mean[1], rel=1e-6, abs=1e-9)


def test_the_bayesian_answer_is_consistent_in_its_whole_range():
    "The arms exchanged, the outcome mirrored, and the difference of the posterior means, on counts at the ends and priors far out."
    rng = np.random.default_rng(18)
    for i in range(120):
        n = [int(10**v) for v in rng.uniform(0, 10, 2)]
        if i % 3 == 0: n[1] = n[0]
        x = [int((few := rng.integers(0, 4), m - few, m*rng.random())[k]) if m > 5 else m for k, m in zip(rng.integers(0, 3, 2), n, strict=True)]
        prior = tuple(10**(rng.uniform(-8.9, 9.9, 2) if i % 2 else rng.uniform(-8.9, 0, 2)))
        one, other = beta_binomial(x[0], n[0], x[1], n[1], prior=prior), beta_binomial(x[1], n[1], x[0], n[0], prior=prior)
        mirrored = beta_binomial(n[0] - x[0], n[0], n[1] - x[1], n[1], prior=prior[::-1])
        mean = [(Fraction(prior[0]) + k)/(Fraction(prior[0]) + Fraction(prior[1]) + m) for k, m in zip(x, n, strict=True)]
        assert one[0] + other[0] == pytest.approx(1, abs=1e-7) == one[0] + mirrored[0], (x, n, prior)
        assert one[1] - other[1] == pytest.approx(float(mean[0] - mean[1]), rel=1e-6, abs=1e-7*max(one[1], other[1])), (x, n, prior)


def test_arms_that_are_constant_but_for_rounding_have_no_spread():
    rng = np.random.default_rng(0)
    for k in range(60):
        day = np.repeat(np.arange(groups := rng.integers(5, 40)), rng.integers(1, 400, groups))
        y = np.full(len(day), .7) if k % 2 else np.where(day % 2, .1, 1/3)   # in each arm
        with pytest.raises(ValueError, match="constant"): cluster_test(y, day % 2, day)
    with pytest.raises(ValueError, match="constant"): welch_test([.1]*3, [.3]*3)
    with pytest.raises(ValueError, match="constant"): welch_test([1/3]*1001, [.7]*1003)
    with pytest.raises(ValueError, match="y: the same"): design_effect([.1]*6, [0, 0, 1, 1, 2, 2])
    x = np.linspace(.1, .7, 20)
    with pytest.raises(ValueError, match="constant"): cuped(3*x + .1, x, np.arange(20) % 2)
    with pytest.raises(ValueError, match="constant"): ratio_metric_test(.3*x, x, np.arange(20) % 2)
    assert welch_test([.1]*3, [.3, .3, .3000001]).se > 0
    small = np.random.default_rng(17).normal(size=(2, 30))*1e-9           # small, but no rounding
    assert welch_test(*small).p_value == pytest.approx(stats.ttest_ind(*small, equal_var=False).pvalue)


def test_plain_values_come_back_from_numpy_ones():
    r = ABTestAnalyzer(np.float64(.05), np.float32(.1)).analyze(np.int64(50), np.int64(1000), np.int64(70), np.int64(1000))
    assert all(type(v) in (float, int, bool, str, tuple) for v in r.values()) and json.loads(json.dumps(r))["significant"] is r.significant


def test_small_levels_say_so_and_smaller_ones_are_refused():
    r = ABTestAnalyzer(1e-6).analyze(50, 1000, 70, 1000)
    assert "99.9999 % interval" in r.explain() and "99.9999 %" in repr(r) and "100 %" not in r.explain()
    assert "95 % interval" in ABTestAnalyzer().analyze(50, 1000, 70, 1000).explain() and "99.99 % interval" in ABTestAnalyzer(1e-4).analyze(50, 1000, 70, 1000).explain()
    for refused in (lambda: ABTestAnalyzer(1e-17), lambda: welch_test([1, 2], [2, 4], alpha=1e-13), lambda: srm_test([5, 6], alpha=1e-300)):
        with pytest.raises(ValueError, match="alpha"): refused()


def test_effects_without_end_are_found_for_certain():
    for sd, delta, n in ((1, 1e10, 5), (1e-308, 1, 10), (5e-324, 1, 10), (1, 1e300, 2)): assert power_means(sd, delta, n) == 1
    assert sample_size_means(1, 1e10) == sample_size_means(5e-324, 1) == 2
    for nc, nt in ((2, 2), (2, 2000), (5, 5), (1e6, 1e6)):      # and the power grows with the effect, past where the noncentral t ends
        for alpha in (2e-12, .05):
            power = np.array([power_means(1, delta, nc, nt, alpha=alpha) for delta in 10.**np.arange(-6, 14, .5)])
            assert (np.diff(power) >= -1e-9).all() and power[0] == pytest.approx(alpha, rel=.01, abs=1e-10) and .98 < power[-1] <= 1
    n = sample_size_means(1, .05, alpha=.1, power=.5)
    assert power_means(1, .05, n, alpha=.1) >= .5 > power_means(1, .05, n - 1, alpha=.1)   # where rejections in the wrong direction count


def test_plans_at_their_extremes():
    n = sample_size_proportions(.5, 1e-5)[0]
    assert sample_size_proportions(.5, 1e-6)[0] == pytest.approx(100*n, rel=1e-5) and sample_size_proportions(.5, 1e-7)[0] == pytest.approx(10_000*n, rel=1e-5)
    for refused, match in ((lambda: sample_size_proportions(.1, 1e-20), "relative_mde=1e-20.*more than can be counted"),
                           (lambda: sample_size_proportions(1e-320, .02), "relative_mde"), (lambda: sample_size_proportions(.1, .1, ratio=1e14), "relative_mde"),
                           (lambda: sample_size_means(1, 1e-9), "delta=1e-09"),
                           (lambda: sample_size_means(1e200, 1e-200), "delta")):
        with pytest.raises(ValueError, match=match): refused()
    for baseline in (1e-6, .1, .999):
        for direction in ("increase", "decrease"):
            for units in (2**52, 10**9):
                effect = minimum_detectable_effect(baseline, units, direction=direction)
                assert (effect > 0) == (direction == "increase") and sample_size_proportions(baseline, effect)[0] == pytest.approx(units, rel=1e-6)


def test_the_size_of_the_metric_does_not_matter_and_what_overflows_is_refused():
    rng = np.random.default_rng(19)
    a, b, arm, day = rng.normal(size=12), rng.normal(size=12), np.arange(24) % 2, np.arange(24) // 2 * 2 + np.arange(24) % 2
    y, x = np.r_[a, b], rng.random(24) + 1
    tests = (lambda k: welch_test(k*a, k*b), lambda k: cuped(k*y, k*x, arm), lambda k: ratio_metric_test(k*y, x, arm), lambda k: cluster_test(k*y, arm, day))
    for test in tests:
        base = test(1.)
        for k in (1e-90, 1e90, 1e139):
            got = test(k)
            assert (got.statistic, got.df, got.p_value) == pytest.approx((base.statistic, base.df, base.p_value)) and not got.significant
        for k in (1e160, 1e300):
            with pytest.raises(ValueError, match="(control|y|numerator): .*other units"): test(k)
    assert not welch_test([1e-90, 2e-90, 3e-90], [3e-90, 1e-90, 2e-90]).significant and not welch_from_moments(0, 1e100, 10, 0, 1e100, 10).significant
    for refused, match in ((lambda: welch_test([1e170, -1e170, 3e170], [1., 2, 3]), "control: .*1e.170"), (lambda: design_effect(1e200*y, day), "y: .*other units"),
                           (lambda: welch_from_moments(0, 1e200, 10, 0, 1, 10), "sd_control"), (lambda: welch_from_moments(1e308, 1, 10, -1e308, 1, 10), "mean_control"),
                           (lambda: ratio_metric_test(1e130*y, 1e-200*x, arm), "other units")):
        with pytest.raises(ValueError, match=match): refused()


def test_covariates_that_vary_by_little_beside_their_size_are_used():
    rng = np.random.default_rng(20)
    y, x, arm = rng.normal(size=20), np.arange(20.), np.arange(20) % 2
    for far in (0, 1e8, 1e12): assert cuped(y, far + x, arm).p_value == pytest.approx(cuped(y, x, arm).p_value, rel=1e-9)
    for seed in range(100, 400):
        z = np.random.default_rng(seed).normal(size=20)
        c = cuped(3*z + 1e-9*y, z, arm)
        assert -1 <= c.rho <= 1 and 0 <= c.variance_ratio <= 1


def test_cupeds_bias_is_minus_the_effect_over_the_units():
    rng, n, effect, worlds = np.random.default_rng(21), 20, 5., 4000
    bias = []
    for _ in range(worlds):
        x, treated = rng.normal(size=n), rng.permutation(n) < n//2
        bias.append(cuped(x + rng.normal(size=n) + effect*treated, x, treated).difference - effect)
    assert np.mean(bias) == pytest.approx(-effect/n, abs=4*np.std(bias)/math.sqrt(worlds)) and np.mean(bias) < -.15


# ---- what is refused, by name

BAD_NUMBERS = [None, math.nan, math.inf, True, "1", [1], -1]
NUMBERS = {"alpha": lambda v: sample_size_proportions(.1, .1, alpha=v), "power": lambda v: sample_size_proportions(.1, .1, power=v), "ratio": lambda v: sample_size_means(1, 1, ratio=v),
           "baseline": lambda v: minimum_detectable_effect(v, 1000), "n": lambda v: minimum_detectable_effect(.1, v), "sd": lambda v: sample_size_means(v, 1),
           "level": lambda v: diff_proportions_ci(1, 10, 2, 10, level=v), "p_control": lambda v: power_proportions(v, .2, 100), "p_treatment": lambda v: exact_coverage(5, 5, .1, v),
           "n_control": lambda v: exact_size(v, 5, .1), "n_treatment": lambda v: power_means(1, 1, 10, v) if v is not None else power_means(1, 1, 10, 0),
           "prior": lambda v: beta_binomial(1, 10, 2, 10, prior=(v, 1)), "sd_control": lambda v: welch_from_moments(0, v, 10, 0, 1, 10), "p": lambda v: exact_size(5, 5, v)}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=repr)
def test_numbers_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name): NUMBERS[name](value)


@pytest.mark.parametrize("function", [pooled_z_test, diff_proportions_ci, ratio_proportions_ci, beta_binomial], ids=lambda f: f.__name__)
@pytest.mark.parametrize("value", [*BAD_NUMBERS[:5], -1, 1.5, [], [1, None], 10**17], ids=repr)
def test_counts_that_cannot_be_are_refused_by_name(function, value):
    for place, name in enumerate(("x_control", "n_control", "x_treatment", "n_treatment")):
        table = [1, 10, 1, 10]
        table[place] = value
        with pytest.raises(ValueError, match=name): function(*table)
    for table, name in (((11, 10, 1, 10), "x_control"), ((1, 10, 1, 0), "n_treatment"), (([1, 2], 10, [1, 2, 3], 10), "shape")):
        with pytest.raises(ValueError, match=name): function(*table)


@pytest.mark.parametrize(("attempt", "match"), [
    (lambda: ABTestAnalyzer().analyze(5, 0, 5, 100), "control_total=0"), (lambda: ABTestAnalyzer().analyze(5, 100, 101, 100), "treatment_conversions=101"),
    (lambda: ABTestAnalyzer().analyze([5], 100, 10, 100), "single counts"), (lambda: ABTestAnalyzer(mde=0), "mde=0"), (lambda: ABTestAnalyzer(mde=-1), "mde"),
    (lambda: ABTestAnalyzer(method="exact"), "method"), (lambda: ABTestAnalyzer(alpha=0), "alpha"), (lambda: ABTestAnalyzer().required_sample_size(1), "baseline_rate"),
    (lambda: ABTestAnalyzer(mde=.2).required_sample_size(.9), "^mde=0.2: with baseline_rate=0.9 .*1.08"), (lambda: ABTestAnalyzer(mde=1e-20).required_sample_size(.9), "^mde=1e-20"),
    (lambda: ABTestAnalyzer().required_sample_size(10), r"baseline_rate=10: .*\(a share: 10 % is 0.1\)"), (lambda: sample_size_means(1, 1, power=80), r"power=80: .*\(a share: 80 % is 0.8\)"),
    (lambda: minimum_detectable_effect_means(1, 1), "^n=1"), (lambda: minimum_detectable_effect_means(1, 10, ratio=.1), "ratio=0.1.*1 units"), (lambda: minimum_detectable_effect_means(0, 10), "sd"),
    (lambda: welch_from_moments(0, 1, 10.5, 0, 1, 10), "n_control=10.5.*whole"), (lambda: srm_test({"A": 5000, "B": 5200}), r"counts=.*list\(d.values\(\)\)"),
    (lambda: srm_test(5000, 5200), "counts=5000: in one list"),
    (lambda: assign(pd.DataFrame({"u": [1, 2]}), "x"), r"unit: shape \(2, 1\).*frame\['unit'\]"), (lambda: bucket(np.array([[1, 2]]), "x"), r"unit: shape \(1, 2\).*ravel"),
    (lambda: assign("a\ud800", "x"), "unit=.*surrogate"), (lambda: assign(["a", "é\udfff"], "x"), "unit=.*surrogate"), (lambda: assign("a", "\ud800"), "experiment=.*surrogate"),
    (lambda: adjust_pvalues([1.0000000000000002]), "p=1.0000000000000002"), (lambda: adjust_pvalues([[.1, .2]]), r"p: shape \(1, 2\).*ravel.*reshape"),
    (lambda: cuped([1, 2, 3, 4], [1, 2, 3, 5], ["A", "A", "B", "B"]), r"treated: <U1 values.*variant == 'B'"),
    (lambda: cuped([1, 2, 3, 4], [1, 2, 3, 5], np.array([True, None, False, True], object)), "treated: object values"),
    (lambda: cuped([1, 2, 3, 4], [1, 2, 3, 5], np.array([[1], [1, 2], [0], [0]], object)), "treated"),
    (lambda: cluster_test([1, 2, 3, 4], [0, 1, 0, 1], np.array([0, 0, 1, 1])), "cluster: 0 has rows"), (lambda: ABTestAnalyzer().required_sample_size(.1, power=.01), "power"),
    (lambda: sample_size_proportions(.1, 0), "relative_mde=0"), (lambda: sample_size_proportions(.1, math.nan), "relative_mde"), (lambda: sample_size_means(1, 0), "delta=0"),
    (lambda: minimum_detectable_effect(.5, 3), "too few"), (lambda: minimum_detectable_effect(.5, 300, direction="up"), "direction"),
    (lambda: diff_proportions_ci(1, 10, 2, 10, method="score"), "method"), (lambda: ratio_proportions_ci(1, 10, 2, 10, method=None), "method"),
    (lambda: exact_coverage(10_000, 10_000, .1, .1), "too many"), (lambda: exact_size(2.5, 5, .1), "whole"), (lambda: exact_coverage(5, 5, .1, 1.1), "p_treatment"),
    (lambda: welch_test([1, 2, math.nan], [1, 2]), "control: .*1 of 3.*leave units out"), (lambda: welch_test([1, 2], [1]), "treatment"), (lambda: welch_test([1, 1], [1, 1]), "constant"),
    (lambda: welch_test(["a", "b"], [1, 2]), "control"), (lambda: welch_test([True, False], [1, 2]), "control"), (lambda: welch_test([[1, 2]], [1, 2]), r"control: shape \(1, 2\)"),
    (lambda: cuped([1, 2, 3, 4], [1, 2, 3], [0, 0, 1, 1]), "covariate"), (lambda: cuped([1, 2, 3, 4], [5, 5, 5, 5], [0, 0, 1, 1]), "covariate"),
    (lambda: cuped([1, 2, 3, 4], [1, 2, 3, 5], [0, 0, 1, 2]), "treated"), (lambda: cuped([1, 2, 3, 4], [1, 2, 3, 5], [0, 0, 0, 1]), "at least 2"),
    (lambda: cuped([1, 2, 3, 4], [1, 2, 3, 5], [0, 1]), "treated"), (lambda: cuped([1, 2, 3, 4], [1, None, 3, 5], [0, 0, 1, 1]), "covariate"),
    (lambda: cuped([1, 2, 3, 4], [1, 2, 3, 5], ["a", "a", "b", "b"]), "treated"), (lambda: cuped([1, 2, 3, 4], [1, 2, 3, 5], [0, 0, math.nan, 1]), "treated"),
    (lambda: ratio_metric_test([1, 2, 3, 4], [1, 0, -1, 1], [0, 0, 1, 1]), "denominator"), (lambda: ratio_metric_test([1, 2, 3, 4], [1, 1, 0, 0], [0, 0, 1, 1]), "treatment"),
    (lambda: ratio_metric_test([1, 2, 3, 4], [1, 1, 1], [0, 0, 1, 1]), "denominator"), (lambda: ratio_metric_test([1, 2, 3, 4], [1, 1, 2, 1], [0, 0, 1, 1], distribution="z"), "distribution"),
    (lambda: cluster_test([1, 2, 3, 4], [0, 1, 0, 1], [1, 1, 2, 2]), "both arms"), (lambda: cluster_test([1, 2, 3, 4], [0, 0, 1, 1], [1, 1, 2, None]), "cluster"),
    (lambda: cluster_test([1, 2, 3, 4], [0, 0, 1, 1], [1, 1, 2]), "cluster"), (lambda: design_effect([1, 2, 3, 4], [1, 1, 1, 1]), "only one"), (lambda: design_effect([2, 2, 2, 2], [1, 1, 2, 2]), "y"),
    (lambda: srm_test([5]), "counts"), (lambda: srm_test([0, 0]), "counts"), (lambda: srm_test([5, -1]), "counts"), (lambda: srm_test([5, 6], [1]), "weights"),
    (lambda: srm_test([5, 6], [1, 0]), "weights"),
    (lambda: srm_test([5, 6], [1, 1, 1]), "weights"), (lambda: srm_test([5, 6], [1, math.nan]), "weights"), (lambda: srm_test([5, 6], alpha=1), "alpha"), (lambda: srm_test(None), "counts"),
    (lambda: assign("", "x"), "unit"), (lambda: assign(None, "x"), "unit"), (lambda: assign(1.5, "x"), "unit"), (lambda: assign(True, "x"), "unit"), (lambda: assign("u", ""), "experiment"),
    (lambda: assign("u", None), "experiment"), (lambda: assign(["u", ""], "x"), "unit"), (lambda: assign("u", "x", (1,)), "weights"), (lambda: assign("u", "x", (.5, -.5)), "weights"),
    (lambda: assign("u", "x", "ab"), "weights"), (lambda: bucket("u", "x", method="md5"), "method"), (lambda: bucket([1., 2.], "x"), "unit"),
    (lambda: adjust_pvalues([]), "p"), (lambda: adjust_pvalues([.1, 1.2]), "p=1.2"), (lambda: adjust_pvalues([.1, math.nan]), "p"),
    (lambda: adjust_pvalues([.1], "fdr"), "method"), (lambda: adjust_pvalues([.1], None), "method"),
    (lambda: compare_variants([1], [10]), "at least one variant"), (lambda: compare_variants([1, 2], [10]), "totals"), (lambda: compare_variants([1, 20], [10, 10]), "conversions=20"),
    *[(lambda u=u: bucket(u, "x"), "unit") for u in (["a", math.nan], ["a", True], ["a", 1.5], [True, 2], ["a", None], np.ma.array([1, 2], mask=[0, 1]), pd.to_datetime(["2013-01-01"]))],
    (lambda: cluster_test([1, 2, 3, 4., 5, 7], [0, 0, 1, 1, 1, 1], ["a", "b", "c", math.nan, math.nan, "d"]), "cluster: 2 missing"),
    (lambda: cluster_test([1, 2, 3, 4.], [0, 0, 1, 1], None), "cluster"), (lambda: design_effect([1, 2, 3, 4.], None), "cluster"),
    (lambda: cluster_test([1, 2, 3, 4.], [0, 0, 1, 1], "abcd"), "cluster"),
    (lambda: cluster_test([1, 2, 3, 4.], [0, 0, 1, 1], [[1], [1], [2], [3]]), "cluster"),
    (lambda: cluster_test([1, 2, 3, 4.], [0, 0, 1, 1], [(1, 0), (1, 0), (2, 0), (3, 0)]), "cluster: only one in the control"),
    (lambda: welch_test(np.ma.array([1., 2, 3], mask=[0, 0, 1]), [1, 2.]), "control: a masked array, 1 values are masked"), (lambda: srm_test(np.ma.array([5, 6], mask=[0, 1])), "counts"),
    (lambda: cluster_test([1, 2, 3, 4.], [0, 0, 1, 1], np.ma.array([1, 2, 3, 4], mask=[0, 0, 0, 1])), "cluster"),
    *[(lambda f=f: f(10**400), name) for f, name in ((lambda v: ABTestAnalyzer(mde=v), "mde"), (lambda v: sample_size_means(v, 1), "sd"), (lambda v: sample_size_means(1, -v), "delta"),
      (lambda v: sample_size_means(1, 1, ratio=v), "ratio"), (lambda v: welch_from_moments(v, 1, 9, 0, 1, 9), "mean_control"), (lambda v: sample_size_proportions(.1, v), "relative_mde"))],
    (lambda: sample_size_proportions(.1, 5e-324), "relative_mde"), (lambda: sample_size_means(1, 5e-324), "delta"), (lambda: sample_size_means(1, 1, ratio=1e-300), "ratio"),
    (lambda: diff_proportions_ci([[1], [1, 2]], 10, 2, 10), "x_control"), (lambda: ABTestAnalyzer().analyze([[1], [1, 2]], 10, 2, 10), "control_conversions"),
    (lambda: srm_test([[1], [1, 2]]), "counts"),
    (lambda: adjust_pvalues([[.1], [.1, .2]]), "p="), (lambda: bucket([["a"], ["b", "c"]], "x"), "unit"), (lambda: adjust_pvalues([.1, math.nan]), "gave no p-value"),
    (lambda: exact_coverage(10, 10, .1, .1, method=lambda *a: 1), "method"), (lambda: exact_coverage(10, 10, .1, .1, method=lambda *a: ("low", "high")), "method"),
    (lambda: srm_test([5, 6], (1e308, 1e-308)), "weights"), (lambda: exact_size(5, 5, .1, alpha=1e-12), "alpha"),
    (lambda: beta_binomial([1, 2], 10, 2, 10), "single"), (lambda: beta_binomial(1, 10, 2, 10, prior=1), "prior"), (lambda: beta_binomial(1, 10, 2, 10, prior=(1, 1, 1)), "prior")])
def test_what_cannot_be_is_refused_with_a_value_error_that_names_it(attempt, match):
    with pytest.raises(ValueError, match=match): attempt()


def test_counts_and_arms_of_unusual_types_are_taken_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pooled_z_test(np.float16(5), np.float16(100), np.float16(9), np.float16(100)) == pooled_z_test(5, 100, 9, 100)
    arm, y = [True, False]*3, np.arange(6)**2
    for arms in (np.array(arm, object), pd.Series(arm, dtype=object), pd.array(arm, dtype="boolean")): assert cuped(y, y[::-1], arms) == cuped(y, y[::-1], arm)


def test_frames_and_series_are_taken_as_they_come():
    rng = np.random.default_rng(15)
    frame = pd.DataFrame({"y": rng.normal(size=60), "x": rng.normal(size=60), "arm": rng.random(60) < .5, "day": pd.date_range("2013-01-01", periods=60)}, index=range(100, 160))
    assert cuped(frame.y, frame.x, frame.arm).p_value == cuped(frame.y.tolist(), frame.x.to_numpy(), frame.arm.astype(int)).p_value
    assert cluster_test(frame.y, frame.arm, frame.day).p_value == pytest.approx(welch_test(frame.y[~frame.arm], frame.y[frame.arm]).p_value)
    pairs = list(zip(frame.day.dt.month, frame.day.dt.day, strict=True))
    assert cluster_test(frame.y, frame.arm, pairs).p_value == cluster_test(frame.y, frame.arm, frame.day).p_value
    assert srm_test(frame.arm.value_counts()).p_value <= 1 and diff_proportions_ci(pd.Series([1, 2]), 10, pd.Series([3, 4]), 10)[0].shape == (2,)


def test_a_notebook_shows_the_sentence_and_the_arms():
    result, split, effect = ABTestAnalyzer().analyze(100, 1000, 130, 1000), srm_test([821_588, 815_482]), welch_test([1, 2, 3], [4, 5, 6])
    for shown, facts in ((result, ["1,000", "130", "13 %"]), (split, ["821,588", "818,535"]), (effect, ["average", "0.733", "5.267"])):
        page = shown._repr_html_()
        assert html.escape(shown.explain()) in page and all(f">{fact}<" in page for fact in facts)
    assert ">ratio<" in ratio_metric_test([1, 0, 2, 1], [4, 5, 6, 7], [0, 0, 1, 1])._repr_html_()
    assert ">0 %<" in ABTestAnalyzer(method="wald").analyze(0, 3, 0, 3)._repr_html_()   # an interval without width


def test_a_figure_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)   # Python's own way to say: not there
    for shown in (ABTestAnalyzer().analyze(100, 1000, 130, 1000), srm_test([5, 9]), welch_test([1, 2, 3], [4, 5, 6])):
        with pytest.raises(ImportError, match=r"pip install 'mlscale\[plot\]'"): shown.plot()
